//! The mean of the last checkpoints of a run.

use burn::module::Module;

use super::Run;
use crate::{Checkpoint, NamedTensors, TrainError, average_checkpoints};

impl<M: Module> Run<M> {
    /// [`average_checkpoints`] of the `count` newest among that of the last step and those that `checkpoint.save_every` asked for;
    /// to be called behind [`settle`](Self::settle). One that an interruption or a new best model left in between does not count, so
    /// the mean is that of a run without them. `checkpoint.keep_last` has to keep `count`.
    ///
    /// Where a run has fewer, those are averaged, with a warning. A damaged one is left out, with a warning, and no older one
    /// takes its place.
    ///
    /// # Errors
    ///
    /// [`TrainError::NothingToAverage`] when none is asked for or none was written, [`TrainError::NoUsableCheckpoint`] when all are
    /// damaged, and what [`average_checkpoints`] fails with.
    pub fn average_last(&mut self, count: usize) -> Result<NamedTensors, TrainError> {
        self.try_average_last(count).map_err(|error| self.fail(error))
    }

    fn try_average_last(&self, count: usize) -> Result<NamedTensors, TrainError> {
        let last = self.state.step;
        let mut steps = self.checkpoints.steps()?;
        steps.retain(|&step| step == last || (step < last && self.is_due_to_save(step)));
        let (mut found, mut skipped) = (Vec::new(), Vec::new());
        for path in steps.iter().rev().take(count).map(|&step| self.checkpoints.path(step)) {
            match Checkpoint::open(&path) {
                Ok(checkpoint) => found.push(checkpoint),
                Err(error) => skipped.push((path, error)),
            }
        }
        if found.is_empty() && !skipped.is_empty() {
            return Err(TrainError::no_usable_checkpoint(&self.dir, &skipped));
        }
        for (path, error) in &skipped {
            tracing::warn!("the checkpoint `{}` is left out of the average: {}", path.display(), error.chain());
        }
        if (1..count).contains(&found.len()) {
            // A short run is a trial, and what a long one has learned should not be lost for a file.
            let found = found.len();
            tracing::warn!("{found} of the last {count} checkpoints are averaged, the others are missing or damaged");
        }
        average_checkpoints(&found)
    }
}
