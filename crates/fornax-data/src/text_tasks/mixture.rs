use std::sync::Arc;

use super::config::MixtureConfig;
use super::plan::MixturePlan;
use super::task::TextTasks;
use crate::loader::BatchSource;
use crate::pairs::{PairBatches, PairEncoder, PairSet};
use crate::{DataError, Seq2SeqBatch, StepSize};

/// The batches of training on several tasks, drawn by [`MixturePlan`].
pub struct TaskMixture {
    batches: PairBatches,
    shares: Vec<f64>,
    /// The number of the first example behind each task.
    ends: Vec<u64>,
}

impl TaskMixture {
    /// Encodes what the tasks learn from, one behind the other, and mixes it; says in the log how often each task is drawn.
    /// `group_by_length`: examples of about the same length together.
    ///
    /// # Errors
    ///
    /// A mixture that makes no sense, a size of 0, or as [`PairEncoder::encode`].
    pub fn training(
        tasks: &TextTasks,
        encoder: &PairEncoder<'_>,
        mixture: &MixtureConfig,
        seed: u64,
        size: StepSize,
        group_by_length: bool,
    ) -> Result<Self, DataError> {
        let configs: Vec<_> = tasks.tasks().iter().map(|task| task.config()).collect();
        let sizes: Vec<u64> = tasks.tasks().iter().map(|task| task.train.pairs().len() as u64).collect();
        let shares = mixture.shares(&configs, &sizes)?;
        let mut set = PairSet::empty(encoder.fill);
        let mut ends = Vec::with_capacity(sizes.len());
        for task in tasks.tasks() {
            set.append(&encoder.encode(&task.train)?);
            ends.push(set.len() as u64);
        }
        for ((task, size), share) in tasks.tasks().iter().zip(&sizes).zip(&shares) {
            let percent = 100.0 * share;
            tracing::info!("task {}: {size} examples, {percent:.2} % of what is drawn", task.name());
        }
        let lengths = set.lengths();
        let plan = match group_by_length {
            true => MixturePlan::new(seed, &shares, sizes, lengths, size)?,
            false => MixturePlan::shuffled(seed, &shares, sizes, lengths, size)?,
        };
        Ok(Self { batches: PairBatches::new(Arc::new(set), plan), shares, ends })
    }

    /// The first `steps` steps over and over ([`FirstSteps`](crate::FirstSteps)).
    #[must_use]
    pub fn first_steps(self, steps: u64) -> Self {
        Self { batches: self.batches.first_steps(steps), ..self }
    }

    /// The share of each task, in their order; they add up to 1.
    pub fn shares(&self) -> &[f64] {
        &self.shares
    }

    /// The place of the task that an example of a batch belongs to, in the order of the tasks.
    pub fn task_of(&self, example: u64) -> usize {
        self.ends.partition_point(|&end| end <= example)
    }

    /// All examples of all tasks, one task behind the other.
    pub fn set(&self) -> &Arc<PairSet> {
        self.batches.set()
    }
}

impl BatchSource for TaskMixture {
    type Batch = Seq2SeqBatch;

    /// Steps that draw as many examples as all tasks have.
    fn steps_per_epoch(&self) -> u64 {
        self.batches.steps_per_epoch()
    }

    fn micro_batches(&self, step: u64) -> Result<Vec<Seq2SeqBatch>, DataError> {
        self.batches.micro_batches(step)
    }
}
