use std::sync::Arc;

use super::encode::PairSet;
use super::token_plan::TokenPlan;
use crate::labelled::{BucketPlan, LengthPlan};
use crate::loader::BatchSource;
use crate::plan::BatchPlan;
use crate::{DataError, FirstSteps, Seq2SeqBatch, StepSize};

/// The batches of a set of pairs in the order of a plan.
pub struct PairBatches {
    set: Arc<PairSet>,
    plan: Box<dyn BatchPlan>,
}

impl PairBatches {
    /// Any plan over the numbers `0..set.len()`.
    pub fn new(set: Arc<PairSet>, plan: impl BatchPlan + 'static) -> Self {
        Self { set, plan: Box::new(plan) }
    }

    /// For training: so many pairs a batch, every pair once an epoch, in a new order each epoch; `group_by_length`: pairs of about the
    /// same length together ([`BucketPlan`]).
    ///
    /// # Errors
    ///
    /// If a size is 0 or there is no pair.
    pub fn training(set: Arc<PairSet>, seed: u64, size: StepSize, group_by_length: bool) -> Result<Self, DataError> {
        let plan = match group_by_length {
            true => BucketPlan::new(seed, longer_sides(&set), size)?,
            false => BucketPlan::shuffled(seed, longer_sides(&set), size)?,
        };
        Ok(Self::new(set, plan))
    }

    /// For training: as many pairs a batch as have room in `tokens_per_batch` positions on either side, every pair once an epoch
    /// ([`TokenPlan`]).
    ///
    /// # Errors
    ///
    /// If a size is 0 or there is no pair.
    pub fn by_tokens(
        set: Arc<PairSet>,
        seed: u64,
        tokens_per_batch: usize,
        gradient_accumulation: usize,
    ) -> Result<Self, DataError> {
        let plan = TokenPlan::new(seed, set.lengths(), tokens_per_batch, gradient_accumulation)?;
        match plan.longer() {
            0 => {}
            longer => tracing::warn!(
                "{longer} pairs are longer than data.tokens_per_batch = {tokens_per_batch}; each is a batch of its own"
            ),
        }
        Ok(Self::new(set, plan))
    }

    /// For evaluation and generation: every pair once, short ones first, one micro-batch a step ([`LengthPlan`]). With `max_batches`
    /// they are so many batches' worth of pairs from the beginning of the set, whatever their length.
    ///
    /// [`Seq2SeqBatch::examples`] has the place of each row in the set, by which outputs go back into its order.
    ///
    /// # Errors
    ///
    /// If `batch_size` is 0.
    pub fn evaluation(set: Arc<PairSet>, batch_size: usize, max_batches: Option<usize>) -> Result<Self, DataError> {
        let lengths = longer_sides(&set);
        let pairs = max_batches.map_or(lengths.len(), |most| lengths.len().min(most.saturating_mul(batch_size)));
        let plan = LengthPlan::new(&lengths[..pairs], batch_size)?;
        Ok(Self::new(set, plan))
    }

    /// The first `steps` steps over and over ([`FirstSteps`]).
    #[must_use]
    pub fn first_steps(self, steps: u64) -> Self {
        Self { set: self.set, plan: Box::new(FirstSteps::new(self.plan, steps)) }
    }

    /// The set.
    pub fn set(&self) -> &Arc<PairSet> {
        &self.set
    }
}

/// The length of the longer side of each pair.
fn longer_sides(set: &PairSet) -> Vec<u32> {
    set.lengths().into_iter().map(|(source, target)| source.max(target)).collect()
}

impl BatchSource for PairBatches {
    type Batch = Seq2SeqBatch;

    fn steps_per_epoch(&self) -> u64 {
        self.plan.steps_per_epoch()
    }

    fn micro_batches(&self, step: u64) -> Result<Vec<Seq2SeqBatch>, DataError> {
        Ok(self.plan.step(step).micro_batches.iter().map(|examples| self.set.batch(examples)).collect())
    }
}
