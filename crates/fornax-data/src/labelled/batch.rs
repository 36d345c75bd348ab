use std::sync::Arc;

use super::buckets::{BucketPlan, LengthPlan};
use super::encode::EncodedSet;
use crate::loader::BatchSource;
use crate::plan::BatchPlan;
use crate::{DataError, FirstSteps, StepSize};

/// Labelled examples side by side, on the host, row by row; each row is filled up to the longest.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelledBatch {
    /// Token ids, `[batch, seq_len]`.
    pub input_ids: Vec<i32>,
    /// Token types, `[batch, seq_len]`; 0 where a row is filled up.
    pub token_type_ids: Vec<i32>,
    /// The tokens of each row, `[batch]`; what follows them in the row is filling.
    pub lengths: Vec<i32>,
    /// The label of each row, `[batch]`.
    pub labels: Labels,
    /// Rows.
    pub batch: usize,
    /// Positions a row: the length of the longest.
    pub seq_len: usize,
    /// The example number of each row.
    pub examples: Vec<u64>,
}

/// Labels of several examples.
#[derive(Clone, Debug, PartialEq)]
pub enum Labels {
    /// Numbers of classes; [`IGNORE_TARGET`](crate::IGNORE_TARGET) where the label is secret.
    Classes(Vec<i32>),
    /// Numbers; NaN where the label is secret.
    Scores(Vec<f32>),
}

impl Labels {
    /// Those of these examples, in this order.
    pub(super) fn select(&self, examples: &[u64]) -> Self {
        match self {
            Self::Classes(all) => Self::Classes(examples.iter().map(|&at| all[at as usize]).collect()),
            Self::Scores(all) => Self::Scores(examples.iter().map(|&at| all[at as usize]).collect()),
        }
    }
}

impl LabelledBatch {
    /// Tokens of the texts, filling left out.
    pub fn token_count(&self) -> usize {
        self.lengths.iter().map(|&length| length as usize).sum()
    }
}

/// The batches of a labelled set in the order of a plan.
pub struct LabelledBatches {
    set: Arc<EncodedSet>,
    plan: Box<dyn BatchPlan>,
}

impl LabelledBatches {
    /// Any plan over the numbers `0..set.len()`.
    pub fn new(set: Arc<EncodedSet>, plan: impl BatchPlan + 'static) -> Self {
        Self { set, plan: Box::new(plan) }
    }

    /// For training: every example once an epoch, in a new order each epoch; `group_by_length`: examples of about the same length
    /// together ([`BucketPlan`]).
    ///
    /// # Errors
    ///
    /// If a size is 0 or there is no example.
    pub fn training(set: Arc<EncodedSet>, seed: u64, size: StepSize, group_by_length: bool) -> Result<Self, DataError> {
        let plan = match group_by_length {
            true => BucketPlan::new(seed, set.lengths(), size)?,
            false => BucketPlan::shuffled(seed, set.lengths(), size)?,
        };
        Ok(Self::new(set, plan))
    }

    /// For evaluation: every example once, short ones first, one micro-batch a step ([`LengthPlan`]). With `max_batches` they are
    /// so many batches' worth of examples from the beginning of the set, whatever their length.
    ///
    /// # Errors
    ///
    /// If `batch_size` is 0.
    pub fn evaluation(set: Arc<EncodedSet>, batch_size: usize, max_batches: Option<usize>) -> Result<Self, DataError> {
        let lengths = set.lengths();
        let examples = max_batches.map_or(lengths.len(), |most| lengths.len().min(most.saturating_mul(batch_size)));
        let plan = LengthPlan::new(&lengths[..examples], batch_size)?;
        Ok(Self::new(set, plan))
    }

    /// The first `steps` steps over and over ([`FirstSteps`]).
    #[must_use]
    pub fn first_steps(self, steps: u64) -> Self {
        Self { set: self.set, plan: Box::new(FirstSteps::new(self.plan, steps)) }
    }

    /// The set.
    pub fn set(&self) -> &Arc<EncodedSet> {
        &self.set
    }
}

impl BatchSource for LabelledBatches {
    type Batch = LabelledBatch;

    fn steps_per_epoch(&self) -> u64 {
        self.plan.steps_per_epoch()
    }

    fn micro_batches(&self, step: u64) -> Result<Vec<LabelledBatch>, DataError> {
        Ok(self.plan.step(step).micro_batches.iter().map(|examples| self.set.batch(examples)).collect())
    }
}
