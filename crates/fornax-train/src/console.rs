//! What a person sees of a run: a bar on a terminal, plain lines elsewhere; always on stderr.

use std::{
    collections::BTreeMap,
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::metrics::TrainLine;

/// The display of a running training.
#[derive(Debug)]
pub(crate) struct Console {
    max_steps: u64,
    /// `None` off a terminal.
    bar: Option<ProgressBar>,
    /// Everything on the terminal that moves.
    bars: MultiProgress,
    started: Instant,
    first_step: u64,
}

impl Console {
    /// A display that begins after `step` of `max_steps` steps.
    pub(crate) fn new(step: u64, max_steps: u64) -> Self {
        let bars = MultiProgress::new();
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(max_steps).with_position(step);
            bars.add(bar.with_style(style("{bar:24} {pos}/{len}  {msg}")))
        });
        Self { max_steps, bar, bars, started: Instant::now(), first_step: step }
    }

    /// Moves the bar.
    pub(crate) fn step(&self, completed: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(completed);
        }
    }

    /// Shows a train line.
    pub(crate) fn train(&self, line: &TrainLine) {
        let text = format!("{}  eta {}", train_text(line), duration_text(self.remaining(line.step)));
        match &self.bar {
            Some(bar) => {
                bar.set_position(line.step);
                bar.set_message(text);
            }
            None => say(&format!("step {}/{}  {text}", line.step, self.max_steps)),
        }
    }

    /// Shows an evaluation.
    pub(crate) fn valid(&self, step: u64, metrics: &BTreeMap<String, f64>, is_best: bool) {
        let best = if is_best { "  (best)" } else { "" };
        self.message(&format!("step {step}/{}  valid  {}{best}", self.max_steps, metrics_text(metrics)));
    }

    /// A bar over the batches of an evaluation, below that of the training; nothing off a terminal.
    pub(crate) fn evaluation(&self, batches: u64) -> ProgressBar {
        if self.bar.is_none() {
            return ProgressBar::hidden();
        }
        self.bars.add(ProgressBar::new(batches).with_style(style("{bar:24} {pos}/{len}  evaluating")))
    }

    /// Prints a line, above the bars where there are any.
    pub(crate) fn message(&self, text: &str) {
        match &self.bar {
            Some(_) => self.bars.suspend(|| say(text)),
            None => say(text),
        }
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }

    /// The time left at the pace of this session, evaluation and saving included.
    fn remaining(&self, step: u64) -> Duration {
        let done = step.saturating_sub(self.first_step).max(1);
        let left = self.max_steps.saturating_sub(step);
        self.started.elapsed().mul_f64(left as f64 / done as f64)
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Prints a line; a log file on a full disk or a closed pipe ends no training.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn train_text(line: &TrainLine) -> String {
    let nll = line.nll.map_or_else(String::new, |nll| format!("nll {nll:.4}  "));
    format!(
        "loss {:.4}  {nll}lr {:.2e}  grad_norm {:.2}  {} tok/s",
        line.loss,
        line.lr,
        line.grad_norm,
        thousands(line.tokens_per_second)
    )
}

/// The loss first, as everywhere.
pub(crate) fn metrics_text(metrics: &BTreeMap<String, f64>) -> String {
    let loss = metrics.get_key_value("loss");
    let others = metrics.iter().filter(|(name, _)| *name != "loss");
    let texts: Vec<_> = loss.into_iter().chain(others).map(|(name, value)| format!("{name} {value:.4}")).collect();
    texts.join("  ")
}

fn thousands(value: f64) -> String {
    let digits = format!("{:.0}", value.max(0.0));
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// At most two units: `45s`, `1m20s`, `3h05m`, `2d04h`.
pub(crate) fn duration_text(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{:02}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_train_line_reads_as_documented() {
        let line = TrainLine {
            step: 100,
            loss: 2.451_26,
            nll: None,
            lr: 1e-3,
            grad_norm: 0.812,
            loss_scale: None,
            tokens: 6400,
            tokens_per_second: 12_345.4,
            step_ms: 5.0,
            data_ms: 0.1,
        };
        assert_eq!(train_text(&line), "loss 2.4513  lr 1.00e-3  grad_norm 0.81  12,345 tok/s");
        let smoothed = TrainLine { nll: Some(2.25), ..line };
        assert!(train_text(&smoothed).starts_with("loss 2.4513  nll 2.2500  lr 1.00e-3  "));
    }

    #[test]
    fn numbers_and_times_read_well() {
        assert_eq!([0.0, 999.4, 1e3, 1_234_567.0].map(thousands), ["0", "999", "1,000", "1,234,567"]);
        let texts = [0, 59, 80, 3_600, 11_100, 187_200].map(|s| duration_text(Duration::from_secs(s)));
        assert_eq!(texts, ["0s", "59s", "1m20s", "1h00m", "3h05m", "2d04h"]);
        let metrics = [("accuracy".to_owned(), 0.5), ("loss".to_owned(), 1.25)].into();
        assert_eq!(metrics_text(&metrics), "loss 1.2500  accuracy 0.5000");
    }
}
