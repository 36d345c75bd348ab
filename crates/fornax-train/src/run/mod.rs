//! A run: its folder, its cadences, its console, and what happens to it when something goes wrong.

mod average;
mod config;
mod finish;
mod open;
mod save;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use burn::module::Module;
use indicatif::ProgressBar;

pub(crate) use config::CHANGEABLE;
pub use config::open_config;
pub use open::check_run_folder;

use self::save::Writing;
use crate::{
    BoxError, CheckpointConfig, Checkpoints, Evaluation, Learner, Metrics, RunInfo, State, StepStats, Summary,
    TrainConfig, TrainError, TrainLine, console::Console, metrics::MetricsFile, signals::Interrupt,
};

/// How a recipe writes its model into an empty folder.
type Export<M> = Box<dyn Fn(&M, &Path) -> Result<(), BoxError>>;

/// A training run, which owns everything on disk and on the console.
///
/// ```text
/// let mut run = Run::open(options, config, info, &mut learner)?.export_with(save);
/// while let Some(step) = run.next_step() {
///     let stats = learner.train_step(step, &batches(step)?, &task)?;
///     run.log_train(&stats, &mut learner)?;
///     if run.eval_due() { run.log_eval(&evaluate(&learner.valid(), ...)?)?; }
///     if run.save_due() { run.save(&learner)?; }
/// }
/// run.finish(&mut learner)
/// ```
///
/// A run that is dropped before [`finish`](Self::finish), because an error of the recipe went past it, leaves a summary
/// that says so.
pub struct Run<M> {
    /// Keeps other processes out of the folder.
    _lock: File,
    dir: PathBuf,
    info: RunInfo,
    train: TrainConfig,
    saving: CheckpointConfig,
    max_steps: u64,
    parameters: u64,
    checkpoints: Checkpoints,
    metrics: MetricsFile,
    console: Console,
    interrupt: Interrupt,
    clock: Clock,
    state: State,
    export: Option<Export<M>>,
    /// The checkpoint that is being written while training goes on.
    writing: Option<Writing>,
    /// The newest checkpoint that is complete or was loaded.
    last_checkpoint: Option<PathBuf>,
    /// The step of the newest checkpoint, complete or being written.
    last_saved: Option<u64>,
    /// The step whose model this process has put into `best/`.
    best_exported: Option<u64>,
    /// Whether the learner holds the best model, not the last one.
    keeps_best: bool,
    settled: bool,
    /// Whether the summary has been written.
    closed: bool,
    test: BTreeMap<String, f64>,
    /// What the recipe has measured of the model that is kept on the valid set.
    kept: Option<BTreeMap<String, f64>>,
    /// Whether a signal came before the recipe could measure the model that is kept.
    unmeasured: bool,
    /// The summary of a run that had already ended when it was opened.
    finished: Option<Summary>,
}

impl<M: Module> Run<M> {
    /// Hands in how the model is written to `best/` and `last/`: into a folder that replaces the old one when it is
    /// complete.
    #[must_use]
    pub fn export_with<E: Into<BoxError>>(mut self, export: impl Fn(&M, &Path) -> Result<(), E> + 'static) -> Self {
        self.export = Some(Box::new(move |model, dir| export(model, dir).map_err(Into::into)));
        self
    }

    /// The run folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The number of steps that the run ends after.
    pub fn max_steps(&self) -> u64 {
        self.max_steps
    }

    /// Completed steps.
    pub fn completed_steps(&self) -> u64 {
        self.state.step
    }

    /// Whether the run had already ended when it was opened; [`next_step`](Self::next_step) gives no step then and
    /// [`finish`](Self::finish) the old summary.
    pub fn is_finished(&self) -> bool {
        self.finished.is_some()
    }

    /// Whether a signal ends the run before its last step.
    pub fn is_interrupted(&self) -> bool {
        self.summary().interrupted
    }

    /// The next step, counted from 0; `None` when the run is at its end, is to stop early or was interrupted.
    pub fn next_step(&mut self) -> Option<u64> {
        let ended = self.finished.is_some() || self.state.step >= self.max_steps || self.stopped_early();
        if ended || self.interrupt.requested() {
            return None;
        }
        self.clock.begin_step();
        Some(self.state.step)
    }

    /// Takes note of the step just made, and logs when a log is due: the one time that a step reads the device.
    ///
    /// # Errors
    ///
    /// [`TrainError::NonFinite`] with the last good checkpoint; [`TrainError::Io`] when the line can't be written;
    /// [`TrainError::SaveFailed`] when the checkpoint that was being written could not be.
    ///
    /// # Panics
    ///
    /// When `stats` is not of the step that [`next_step`](Self::next_step) gave.
    pub fn log_train(&mut self, stats: &StepStats, learner: &mut Learner<M>) -> Result<(), TrainError> {
        assert_eq!(stats.step, self.state.step, "a run logs each step once, in order");
        self.state.step += 1;
        self.state.tokens += stats.tokens;
        let step = self.state.step;
        let due = step.is_multiple_of(self.train.log_every) || step == self.max_steps;
        let window = if due { learner.take_window().map_err(|error| self.fail(error))? } else { None };
        self.state.train_seconds += self.clock.end_step(stats);
        self.console.step(step);
        self.end_write_if_done().map_err(|error| self.fail(error))?;
        let Some(window) = window else { return Ok(()) };
        let timing = self.clock.take_window();
        let line = TrainLine {
            step,
            loss: window.loss,
            nll: window.totals.means().remove("nll"),
            lr: window.lr,
            grad_norm: window.grad_norm,
            loss_scale: window.loss_scale,
            tokens: self.state.tokens,
            tokens_per_second: timing.tokens_per_second(),
            step_ms: timing.per_step_ms(timing.seconds),
            data_ms: timing.per_step_ms(timing.data_seconds),
        };
        self.state.train_loss = Some(line.loss);
        self.console.train(&line);
        self.metrics.train(&line).map_err(|error| self.fail(error))
    }

    /// Whether an evaluation is due after the step just logged.
    pub fn eval_due(&self) -> bool {
        let step = self.state.step;
        step == self.max_steps || self.train.eval_every.is_due(step, self.info.steps_per_epoch)
    }

    /// A bar over the batches of an evaluation, to be cleared when that is done.
    pub fn eval_progress(&self, batches: u64) -> ProgressBar {
        self.console.evaluation(batches)
    }

    /// Logs an evaluation and judges by `train.metric_for_best` whether it is the best so far.
    ///
    /// # Errors
    ///
    /// [`TrainError::UnknownMetric`]; [`TrainError::Io`] when the line can't be written.
    pub fn log_eval(&mut self, metrics: &Metrics) -> Result<(), TrainError> {
        let name = &self.train.metric_for_best;
        let Some(value) = metrics.get(name) else {
            let known = metrics.values.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            let error = TrainError::UnknownMetric { metric: name.clone(), known };
            return Err(self.fail(error));
        };
        let best = self.state.best.as_ref().and_then(|best| best.metrics.get(name));
        let is_best = !value.is_nan() && best.is_none_or(|&best| is_better(name, value, best));
        let evaluation = Evaluation { step: self.state.step, metrics: metrics.values.clone() };
        self.console.valid(evaluation.step, &evaluation.metrics, is_best);
        let written = self.metrics.valid(evaluation.step, &evaluation.metrics);
        if is_best {
            self.state.best = Some(evaluation.clone());
            self.state.evaluations_without_improvement = 0;
        } else {
            self.state.evaluations_without_improvement += 1;
        }
        self.state.valid = Some(evaluation);
        written.map_err(|error| self.fail(error))
    }
}

/// The metrics of which more is better.
const SCORES: [&str; 12] = [
    "accuracy",
    "f1",
    "matthews",
    "pearson",
    "spearman",
    "bleu",
    "sacrebleu",
    "chrf",
    "rouge1",
    "rouge2",
    "rougeL",
    "exact_match",
];

/// Scores grow; everything else is a loss, a term of it or made from it, and shrinks. That of a term has its name in front:
/// `next_sentence_accuracy`.
fn is_better(metric: &str, value: f64, than: f64) -> bool {
    let is_score =
        |score: &&str| metric.strip_suffix(*score).is_some_and(|term| term.is_empty() || term.ends_with('_'));
    if SCORES.iter().any(is_score) { value > than } else { value < than }
}

/// Wall time of the run and of its steps.
#[derive(Debug)]
struct Clock {
    session: Instant,
    /// The time of earlier sessions.
    before: Duration,
    step: Option<Instant>,
    window: Timing,
}

/// The steps of this process since the last log.
#[derive(Clone, Copy, Debug, Default)]
struct Timing {
    seconds: f64,
    /// Of those, until the host had the batches.
    data_seconds: f64,
    tokens: u64,
    steps: u64,
}

impl Clock {
    fn starting_at(before: Duration) -> Self {
        Self { session: Instant::now(), before, step: None, window: Timing::default() }
    }

    fn begin_step(&mut self) {
        self.step = Some(Instant::now());
    }

    /// Returns the seconds that the step took.
    fn end_step(&mut self, stats: &StepStats) -> f64 {
        let Some(start) = self.step.take() else { return 0.0 };
        let seconds = start.elapsed().as_secs_f64();
        self.window.seconds += seconds;
        self.window.data_seconds += stats.begun.saturating_duration_since(start).as_secs_f64();
        self.window.tokens += stats.tokens;
        self.window.steps += 1;
        seconds
    }

    fn take_window(&mut self) -> Timing {
        std::mem::take(&mut self.window)
    }

    fn elapsed(&self) -> Duration {
        self.before + self.session.elapsed()
    }
}

impl Timing {
    fn tokens_per_second(self) -> f64 {
        self.tokens as f64 / self.seconds.max(f64::MIN_POSITIVE)
    }

    fn per_step_ms(self, seconds: f64) -> f64 {
        seconds * 1e3 / self.steps.max(1) as f64
    }
}
