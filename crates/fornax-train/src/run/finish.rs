//! How a run ends: at its last step, early, by a signal, or with an error.

use std::collections::BTreeMap;

use burn::module::Module;

use super::{Run, open::AVERAGED};
use crate::{
    Best, Checkpoint, FORMAT_VERSION, Learner, Metrics, Summary, TrainError, console, files, memory::peak_memory_bytes,
};

impl<M> Run<M> {
    /// Writes the summary of a run that `error` ends, and gives the error back with the last good checkpoint in it.
    pub(super) fn fail(&mut self, error: TrainError) -> TrainError {
        // It may become the last good checkpoint.
        if let Err(error) = self.end_write() {
            tracing::error!("{}", error.chain());
        }
        let error = error.with_checkpoint(self.last_checkpoint.as_deref());
        self.close_with(error.chain());
        error
    }

    fn close_with(&mut self, error: String) {
        if self.closed {
            return;
        }
        self.closed = true;
        self.console.finish();
        let summary = Summary { error: Some(error), ..self.summary() };
        if let Err(error) = summary.write(&self.dir) {
            tracing::error!("{}", error.chain());
        }
    }

    /// The run so far.
    pub(super) fn summary(&self) -> Summary {
        let state = &self.state;
        let ended = state.step >= self.max_steps || self.stopped_early();
        let kept = if self.keeps_best { &state.best } else { &state.valid };
        let metric = &self.train.metric_for_best;
        Summary {
            format_version: FORMAT_VERSION,
            recipe: self.info.recipe.clone(),
            device: self.info.device.clone(),
            precision: self.info.precision.clone(),
            parameters: self.parameters,
            steps: state.step,
            epochs: self.info.steps_per_epoch.map(|steps| state.step as f64 / steps.max(1) as f64),
            tokens: state.tokens,
            seconds: thousandths(self.clock.elapsed().as_secs_f64()),
            tokens_per_second: thousandths(state.tokens as f64 / state.train_seconds.max(f64::MIN_POSITIVE)),
            peak_memory_bytes: peak_memory_bytes(),
            interrupted: self.unmeasured || !ended && self.interrupt.requested(),
            stopped_early: state.step < self.max_steps && self.stopped_early(),
            error: None,
            train: state.train_loss.map(|loss| ("loss".to_owned(), loss)).into_iter().collect(),
            valid: match &self.kept {
                Some(metrics) => metrics.clone(),
                None => kept.as_ref().map_or_else(BTreeMap::new, |evaluation| evaluation.metrics.clone()),
            },
            test: self.test.clone(),
            best: state.best.as_ref().and_then(|best| {
                let value = *best.metrics.get(metric)?;
                Some(Best { step: best.step, metric: metric.clone(), value })
            }),
        }
    }

    /// Whether early stopping has run out of patience.
    pub(super) fn stopped_early(&self) -> bool {
        let patience = self.train.early_stopping_patience;
        patience.is_some_and(|patience| self.state.evaluations_without_improvement >= patience)
    }
}

impl<M: Module> Run<M> {
    /// Ends training: saves the last step, exports `last/` and `best/`, and gives `learner` the model that the run
    /// keeps, the best one with `train.load_best_at_end`. A recipe calls this itself only when it has to measure
    /// that model before [`finish`](Self::finish). After a signal only the checkpoint is written.
    ///
    /// From here on a signal ends the process at once. Until `finish` the summary says that the run was interrupted, and resumed it
    /// settles and is measured again. A signal during the last step interrupts it here.
    ///
    /// # Errors
    ///
    /// As [`save`](Self::save).
    pub fn settle(&mut self, learner: &mut Learner<M>) -> Result<(), TrainError> {
        self.settle_once(learner)?;
        // Whoever settles has something to measure, which may take long.
        self.unmeasured = self.finished.is_none() && self.interrupt.requested();
        Ok(())
    }

    fn settle_once(&mut self, learner: &mut Learner<M>) -> Result<(), TrainError> {
        if std::mem::replace(&mut self.settled, true) {
            return Ok(());
        }
        self.try_settle(learner).map_err(|error| self.fail(error))
    }

    fn try_settle(&mut self, learner: &mut Learner<M>) -> Result<(), TrainError> {
        if self.finished.is_none() {
            if self.state.step > 0 {
                self.try_save(learner)?;
                self.end_write()?;
            }
            if self.summary().interrupted {
                return Ok(());
            }
            self.export(learner, "last")?;
        }
        self.settle_best(learner)?;
        if self.finished.is_none() {
            Summary { interrupted: true, ..self.summary() }.write(&self.dir)?;
            self.interrupt.leave_from_now_on();
        }
        Ok(())
    }

    /// Puts the best model into `best/`, where it isn't there yet, and into `learner`, where it is to be kept.
    fn settle_best(&mut self, learner: &mut Learner<M>) -> Result<(), TrainError> {
        let Some(best) = self.state.best.as_ref().map(|best| best.step) else { return Ok(()) };
        let exported = self.export.is_none() || self.finished.is_some() || self.best_exported == Some(best);
        let load = self.train.load_best_at_end;
        if best == self.state.step {
            self.keeps_best = load;
            return if exported { Ok(()) } else { self.export(learner, "best") };
        }
        if exported && !load {
            return Ok(());
        }
        let checkpoint = match Checkpoint::open(&self.checkpoints.path(best)) {
            Ok(checkpoint) => checkpoint,
            Err(error) => {
                tracing::warn!("the best model, of step {best}, is lost; the last one is kept: {}", error.chain());
                return Ok(());
            }
        };
        let last = if load { None } else { Some(learner.export_parameters()?) };
        learner.load_parameters(checkpoint.model()?)?;
        if !exported {
            self.export(learner, "best")?;
        }
        self.keeps_best = load;
        last.map_or(Ok(()), |last| learner.load_parameters(last))
    }

    /// Writes the mean of the last checkpoints, which the learner holds, into `averaged/`: as [`export_with`](Self::export_with) says,
    /// complete or not at all.
    ///
    /// # Errors
    ///
    /// [`TrainError::Export`].
    pub fn export_averaged(&self, learner: &Learner<M>) -> Result<(), TrainError> {
        self.export(learner, AVERAGED)
    }

    /// Records what the recipe has measured on the valid set of the model that it keeps: the summary's `valid`, in the place of the last
    /// or best evaluation.
    pub fn log_kept(&mut self, metrics: &Metrics) {
        self.console.message(&format!("kept  valid  {}", console::metrics_text(&metrics.values)));
        self.kept = Some(metrics.values.clone());
    }

    /// Records metrics on labelled test data of the model that [`settle`](Self::settle) left in the learner.
    pub fn log_test(&mut self, metrics: &Metrics) {
        self.console.message(&format!("test  {}", console::metrics_text(&metrics.values)));
        self.test.clone_from(&metrics.values);
    }

    /// Ends the run: [`settle`](Self::settle), then the summary, which says whether a signal ended it.
    ///
    /// # Errors
    ///
    /// As [`save`](Self::save); [`TrainError::Io`] when the summary can't be written.
    pub fn finish(mut self, learner: &mut Learner<M>) -> Result<Summary, TrainError> {
        self.settle_once(learner)?;
        if let Some(summary) = self.finished.take() {
            return Ok(summary);
        }
        let summary = self.summary();
        summary.write(&self.dir).map_err(|error| self.fail(error))?;
        self.closed = true;
        self.console.finish();
        self.console.message(&farewell(&summary, &self.dir.display().to_string()));
        Ok(summary)
    }

    /// Writes the model into a folder of the run, which is replaced as a whole.
    pub(super) fn export(&self, learner: &Learner<M>, name: &str) -> Result<(), TrainError> {
        let Some(export) = &self.export else { return Ok(()) };
        let dir = self.dir.join(name);
        let fill = |staged: &std::path::Path| {
            export(&learner.valid(), staged).map_err(|source| TrainError::Export { dir: dir.clone(), source })
        };
        files::write_dir(&dir, fill)
    }
}

fn farewell(summary: &Summary, dir: &str) -> String {
    let time = console::duration_text(std::time::Duration::from_secs_f64(summary.seconds.max(0.0)));
    let ended = match summary {
        Summary { interrupted: true, .. } => "interrupted; continue with --resume --run-dir",
        Summary { stopped_early: true, .. } => "stopped early;",
        _ => "finished;",
    };
    // A run continues on any device, but in its own precision, of which f32 need not be named.
    let precision = match &summary.precision[..] {
        precision if summary.interrupted && precision != "f32" => format!(" --precision {precision}"),
        _ => String::new(),
    };
    format!("step {}: {ended} {dir}{precision} ({time})", summary.steps)
}

/// An error of the recipe passes a run by: the metrics are on disk already, the checkpoint that is being written is completed, and the summary says that it did not end.
impl<M> Drop for Run<M> {
    fn drop(&mut self) {
        if let Err(error) = self.end_write() {
            tracing::error!("{}", error.chain());
        }
        self.close_with(format!("ended by an error after step {}", self.state.step));
    }
}

/// To three decimals: as exact as a time is, and short enough that JSON gives it back bit for bit.
fn thousandths(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}
