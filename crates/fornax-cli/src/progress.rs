use indicatif::{ProgressBar, ProgressStyle};

/// A bar on stderr over `steps` steps of something long; nothing where stderr is no terminal.
pub fn progress(what: &'static str, steps: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} eta {eta}");
    ProgressBar::new(steps).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())).with_prefix(what)
}
