//! Progress bars of long work, on stderr and only on a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// A bar over `len` things called `unit`.
pub(crate) fn bar(len: u64, what: &str, unit: &str) -> ProgressBar {
    let template = format!("{{prefix}} {{wide_bar}} {{human_pos}}/{{human_len}} {unit} {{msg}} [{{elapsed}}<{{eta}}]");
    styled(ProgressBar::new(len), &template, what)
}

/// A spinner for work of unknown length.
pub(crate) fn spinner(what: &str) -> ProgressBar {
    styled(ProgressBar::new_spinner(), "{prefix} {spinner} {msg} [{elapsed}]", what)
}

fn styled(bar: ProgressBar, template: &str, what: &str) -> ProgressBar {
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_prefix(what.to_owned());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
