use crate::batch::IGNORE_TARGET;
use crate::loader::BatchSource;
use crate::masking::Masking;
use crate::plan::BatchPlan;
use crate::{DataError, FirstSteps, SequentialPlan, ShuffledPlan, StepSize};

/// A batch of masked language modelling on the host, row by row; with sentence labels also one of next sentence prediction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaskedBatch {
    /// Token ids after masking, filled up with the padding token, `[batch, seq_len]`.
    pub input_ids: Vec<i32>,
    /// 1 from the second sentence on up to the row's length, 0 elsewhere, `[batch, seq_len]`.
    pub token_type_ids: Vec<i32>,
    /// Tokens before the padding, `[batch]`.
    pub lengths: Vec<i32>,
    /// For each position the id to predict, or [`IGNORE_TARGET`]; `[batch, seq_len]`.
    pub targets: Vec<i32>,
    /// Where rows are sentence pairs: 0 if the second sentence follows the first, 1 if not, as in Hugging Face; `[batch]`.
    pub sentence_labels: Option<Vec<i32>>,
    /// Rows.
    pub batch: usize,
    /// Positions a row.
    pub seq_len: usize,
    /// The example number of each row, for messages.
    pub examples: Vec<u64>,
}

impl MaskedBatch {
    /// A batch without rows.
    pub(crate) fn empty(seq_len: usize) -> Self {
        Self {
            input_ids: Vec::new(),
            token_type_ids: Vec::new(),
            lengths: Vec::new(),
            targets: Vec::new(),
            sentence_labels: None,
            batch: 0,
            seq_len,
            examples: Vec::new(),
        }
    }

    /// Adds a row of at most `seq_len` tokens, of which those from `second` on are the second sentence: masked and filled up.
    pub(crate) fn push(
        &mut self,
        mut ids: Vec<i32>,
        second: usize,
        masking: &Masking,
        epoch: Option<u64>,
        example: u64,
    ) {
        // Masked before padding, so that a row's mask doesn't depend on the room behind it.
        let mut targets = masking.apply(&mut ids, epoch, example);
        self.lengths.push(ids.len() as i32);
        let mut types = vec![0; second];
        types.resize(ids.len(), 1);
        types.resize(self.seq_len, 0);
        ids.resize(self.seq_len, masking.pad_id());
        targets.resize(self.seq_len, IGNORE_TARGET);
        self.input_ids.extend(ids);
        self.token_type_ids.extend(types);
        self.targets.extend(targets);
        self.examples.push(example);
        self.batch += 1;
    }

    /// Tokens to predict: the denominator of the masked-token loss.
    pub fn target_count(&self) -> usize {
        self.targets.iter().filter(|&&target| target != IGNORE_TARGET).count()
    }

    /// Tokens that run through the model, padding left out.
    pub fn token_count(&self) -> usize {
        self.lengths.iter().map(|&length| length as usize).sum()
    }

    /// Where the tokens to predict stand, as positions in `[batch * seq_len]` in ascending order, and their targets: what a model
    /// needs to compute logits for them alone.
    pub fn masked_positions(&self) -> (Vec<i32>, Vec<i32>) {
        let counted = self.targets.iter().enumerate().filter(|(_, target)| **target != IGNORE_TARGET);
        counted.map(|(position, &target)| (position as i32, target)).unzip()
    }
}

/// Examples of masked language modelling by their numbers.
pub trait MaskedExamples: Send + Sync {
    /// How many there are.
    fn example_count(&self) -> u64;

    /// The examples numbered `examples` as one batch, with the noise of `epoch`, or without an epoch with a noise that is always the
    /// same.
    ///
    /// # Panics
    ///
    /// If a number is not below [`example_count`](Self::example_count).
    fn batch(&self, examples: &[u64], epoch: Option<u64>) -> MaskedBatch;
}

/// Masked examples in the order of a plan: the batches of BERT's pretraining.
pub struct MaskedBatches {
    examples: Box<dyn MaskedExamples>,
    plan: Box<dyn BatchPlan>,
    fixed_noise: bool,
}

impl MaskedBatches {
    /// Any plan over the numbers `0..examples.example_count()`; the noise is that of the plan's epoch.
    pub fn new(examples: impl MaskedExamples + 'static, plan: impl BatchPlan + 'static) -> Self {
        Self { examples: Box::new(examples), plan: Box::new(plan), fixed_noise: false }
    }

    /// For training: every example once an epoch, in a new order and with new noise each epoch ([`ShuffledPlan`]).
    ///
    /// # Errors
    ///
    /// If a size is 0 or a step takes more examples than there are.
    pub fn shuffled(examples: impl MaskedExamples + 'static, seed: u64, size: StepSize) -> Result<Self, DataError> {
        let plan = ShuffledPlan::new(seed, examples.example_count(), size)?;
        Ok(Self::new(examples, plan))
    }

    /// For evaluation: every example once, in order, with the same noise each time, one micro-batch a step ([`SequentialPlan`]).
    ///
    /// # Errors
    ///
    /// If `batch_size` is 0.
    pub fn sequential(examples: impl MaskedExamples + 'static, batch_size: usize) -> Result<Self, DataError> {
        let plan = SequentialPlan::new(examples.example_count(), batch_size)?;
        Ok(Self::new(examples, plan).with_fixed_noise())
    }

    /// The same noise in all epochs.
    #[must_use]
    pub fn with_fixed_noise(self) -> Self {
        Self { fixed_noise: true, ..self }
    }

    /// The first `steps` steps over and over, noise included ([`FirstSteps`]).
    #[must_use]
    pub fn first_steps(self, steps: u64) -> Self {
        Self { plan: Box::new(FirstSteps::new(self.plan, steps)), ..self }
    }
}

impl BatchSource for MaskedBatches {
    type Batch = MaskedBatch;

    fn steps_per_epoch(&self) -> u64 {
        self.plan.steps_per_epoch()
    }

    fn micro_batches(&self, step: u64) -> Result<Vec<MaskedBatch>, DataError> {
        let planned = self.plan.step(step);
        let epoch = (!self.fixed_noise).then_some(planned.epoch);
        Ok(planned.micro_batches.iter().map(|examples| self.examples.batch(examples, epoch)).collect())
    }
}
