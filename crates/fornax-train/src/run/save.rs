//! Checkpoints of a run, written while training goes on.

use std::{
    any::Any,
    io,
    path::PathBuf,
    thread::{Builder, JoinHandle},
    time::Instant,
};

use burn::module::Module;

use super::Run;
use crate::{Learner, TrainError, files};

/// A checkpoint that a thread writes.
pub(super) struct Writing {
    pub(super) step: u64,
    /// The best step when it was begun: what retention may not delete before a newer best one is complete.
    pub(super) best: Option<u64>,
    /// Gives the folder of the checkpoint.
    pub(super) thread: JoinHandle<Result<PathBuf, TrainError>>,
}

impl<M: Module> Run<M> {
    /// Whether a checkpoint is due after the step just logged: by cadence, at the end, on a signal, and for a new best,
    /// since the best model can only be kept in a checkpoint.
    pub fn save_due(&self) -> bool {
        let at_end = self.state.step == self.max_steps || self.stopped_early() || self.interrupt.requested();
        self.is_due_to_save(self.state.step) || at_end || self.is_at_best()
    }

    /// Copies model and optimizer to the host, and lets a thread write the checkpoint while training goes on; exports a new best
    /// model. When the checkpoint is complete, what `checkpoint.keep_last` no longer keeps is deleted.
    ///
    /// One checkpoint at a time is written: this waits for the one before, and the end of the run for the last one.
    ///
    /// # Errors
    ///
    /// [`TrainError::NonFinite`]: a model that has met a bad step is never saved. [`TrainError::Export`].
    /// [`TrainError::SaveFailed`] of the checkpoint before, if [`log_train`](Self::log_train) hasn't found it; all earlier ones are
    /// as they were then.
    pub fn save(&mut self, learner: &Learner<M>) -> Result<(), TrainError> {
        let saving = Instant::now();
        self.try_save(learner).map_err(|error| self.fail(error))?;
        tracing::debug!("training stood still for {:.1?} to save step {}", saving.elapsed(), self.state.step);
        Ok(())
    }

    pub(super) fn try_save(&mut self, learner: &Learner<M>) -> Result<(), TrainError> {
        if self.last_saved == Some(self.state.step) {
            return Ok(());
        }
        self.metrics.sync()?;
        self.end_write()?;
        self.state.window = learner.window_totals()?;
        self.state.seconds = self.clock.elapsed().as_secs_f64();
        self.begin_write(learner)?;
        self.last_saved = Some(self.state.step);
        if self.is_at_best() {
            if let Err(error) = self.export(learner, "best") {
                // On a full disk both fail, and the checkpoint is what the run goes on from.
                self.end_write()?;
                return Err(error);
            }
            self.best_exported = Some(self.state.step);
        }
        Ok(())
    }

    fn begin_write(&mut self, learner: &Learner<M>) -> Result<(), TrainError> {
        let (checkpoints, mut state) = (self.checkpoints.clone(), self.state.clone());
        let (model, optimizer) = (learner.export_parameters()?, learner.export_optimizer()?);
        let write = move || {
            let written = checkpoints.write(&mut state, || Ok(model), || Ok(optimizer))?;
            Ok(written.dir().to_owned())
        };
        let path = self.checkpoints.path(self.state.step);
        let thread = Builder::new().name("checkpoint".to_owned()).spawn(write);
        let thread = thread.map_err(files::io_error("start the thread that writes", &path))?;
        let best = self.state.best.as_ref().map(|best| best.step);
        self.writing = Some(Writing { step: self.state.step, best, thread });
        Ok(())
    }

    fn is_at_best(&self) -> bool {
        self.state.best.as_ref().is_some_and(|best| best.step == self.state.step)
    }
}

impl<M> Run<M> {
    /// Waits for the checkpoint that is being written, and deletes what is no longer kept beside it.
    pub(super) fn end_write(&mut self) -> Result<(), TrainError> {
        let Some(Writing { step, best, thread }) = self.writing.take() else { return Ok(()) };
        let written = thread.join().unwrap_or_else(|panic| Err(self.broken(step, panic.as_ref())))?;
        self.last_checkpoint = Some(written);
        self.checkpoints.retain(self.saving.keep_last, step, best, |step| self.is_due_to_save(step))
    }

    /// The error of a thread that ended before the checkpoint of `step` was written.
    fn broken(&self, step: u64, panic: &(dyn Any + Send)) -> TrainError {
        let said = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref().copied());
        let problem = io::Error::other(format!("the thread that writes it panicked: {}", said.unwrap_or("no message")));
        let path = self.checkpoints.path(step);
        let source = Box::new(files::io_error("write", &path)(problem));
        TrainError::SaveFailed { kept: self.checkpoints.kept_beside(&path), path, source }
    }

    /// [`end_write`](Self::end_write) without waiting.
    pub(super) fn end_write_if_done(&mut self) -> Result<(), TrainError> {
        match &self.writing {
            Some(writing) if writing.thread.is_finished() => self.end_write(),
            _ => Ok(()),
        }
    }

    /// Whether `checkpoint.save_every` asks for the checkpoint of `step`.
    pub(super) fn is_due_to_save(&self, step: u64) -> bool {
        self.saving.save_every.is_due(step, self.info.steps_per_epoch)
    }
}
