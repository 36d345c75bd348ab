use std::sync::Arc;

use crate::blocks::Tail;
use crate::denoising::Denoising;
use crate::loader::BatchSource;
use crate::plan::BatchPlan;
use crate::store::TokenStore;
use crate::{DataError, Fill, FirstSteps, Seq2SeqBatch, SequentialPlan, ShuffledPlan, StepSize};

/// Nothing shorter has both something to read and something to write.
const SHORTEST: u64 = 2;

/// Blocks of a token store, each made a source and a target.
///
/// Blocks begin [`Denoising::block_len`] tokens apart, so that every token is in a block (with [`Tail::Drop`]: but those of an unfinished
/// last one), and in one exactly unless denoisers are mixed: of those, the ones that need more text to fill the encoder read on into
/// the blocks that follow. Documents follow one another without regard to block borders, separated as the store was built.
#[derive(Clone, Debug)]
pub struct DenoisingBlocks {
    store: Arc<TokenStore>,
    denoising: Denoising,
    fill: Fill,
    len: u64,
}

impl DenoisingBlocks {
    /// Blocks of at least [`Denoising::block_len`] tokens. With [`Tail::Pad`] what fills no whole block becomes a last, shorter one, unless it
    /// is a single token.
    ///
    /// # Errors
    ///
    /// If the store has fewer tokens than one block.
    pub fn new(store: Arc<TokenStore>, denoising: Denoising, fill: Fill, tail: Tail) -> Result<Self, DataError> {
        let block = denoising.block_len() as u64;
        let (full, rest) = (store.len() / block, store.len() % block);
        let (len, needed) = match tail {
            Tail::Drop => (full, block),
            Tail::Pad => (full + u64::from(rest >= SHORTEST), SHORTEST),
        };
        if len == 0 {
            return Err(DataError::CorpusTooShort {
                corpus: store.manifest().source.clone(),
                tokens: store.len(),
                needed,
                seq_len: denoising.seq_len(),
            });
        }
        Ok(Self { store, denoising, fill, len })
    }

    /// How many blocks there are.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Never: a store without a block is refused.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How blocks become examples.
    pub fn denoising(&self) -> &Denoising {
        &self.denoising
    }

    /// The text of block `example`, as long as its denoiser in `epoch` takes and the store reaches.
    ///
    /// # Panics
    ///
    /// If the number is not below [`len`](Self::len).
    pub fn text(&self, example: u64, epoch: Option<u64>) -> Vec<i32> {
        assert!(example < self.len, "block {example} of {}", self.len);
        let start = example * self.denoising.block_len() as u64;
        let block = self.denoising.block_len_of(epoch, example) as u64;
        let mut tokens = vec![0; (self.store.len() - start).min(block) as usize];
        self.store.read(start, &mut tokens);
        tokens
    }

    /// The blocks numbered `examples` as one batch, with the noise of `epoch`, or without an epoch with a noise that is always the same.
    ///
    /// # Errors
    ///
    /// As [`Denoising::apply`].
    ///
    /// # Panics
    ///
    /// If a number is not below [`len`](Self::len).
    pub fn batch(&self, examples: &[u64], epoch: Option<u64>) -> Result<Seq2SeqBatch, DataError> {
        let pair = |&example: &u64| self.denoising.apply(&self.text(example, epoch), epoch, example);
        let pairs = examples.iter().map(pair).collect::<Result<Vec<_>, _>>()?;
        Ok(Seq2SeqBatch::collate(&pairs, examples.to_vec(), self.fill))
    }
}

/// Blocks in the order of a plan: the batches of an encoder-decoder's pretraining.
pub struct DenoisingBatches {
    blocks: DenoisingBlocks,
    plan: Box<dyn BatchPlan>,
    fixed_noise: bool,
}

impl DenoisingBatches {
    /// Any plan over the numbers `0..blocks.len()`; the noise is that of the plan's epoch.
    pub fn new(blocks: DenoisingBlocks, plan: impl BatchPlan + 'static) -> Self {
        Self { blocks, plan: Box::new(plan), fixed_noise: false }
    }

    /// For training: every block once an epoch, in a new order and with new noise each epoch ([`ShuffledPlan`]).
    ///
    /// # Errors
    ///
    /// If a size is 0 or a step takes more blocks than there are.
    pub fn shuffled(blocks: DenoisingBlocks, seed: u64, size: StepSize) -> Result<Self, DataError> {
        let plan = ShuffledPlan::new(seed, blocks.len(), size)?;
        Ok(Self::new(blocks, plan))
    }

    /// For evaluation: every block once, in order, with the same noise each time, one micro-batch a step ([`SequentialPlan`]).
    ///
    /// # Errors
    ///
    /// If `batch_size` is 0.
    pub fn sequential(blocks: DenoisingBlocks, batch_size: usize) -> Result<Self, DataError> {
        let plan = SequentialPlan::new(blocks.len(), batch_size)?;
        Ok(Self::new(blocks, plan).with_fixed_noise())
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

    /// The blocks.
    pub fn blocks(&self) -> &DenoisingBlocks {
        &self.blocks
    }
}

impl BatchSource for DenoisingBatches {
    type Batch = Seq2SeqBatch;

    fn steps_per_epoch(&self) -> u64 {
        self.plan.steps_per_epoch()
    }

    fn micro_batches(&self, step: u64) -> Result<Vec<Seq2SeqBatch>, DataError> {
        let planned = self.plan.step(step);
        let epoch = (!self.fixed_noise).then_some(planned.epoch);
        planned.micro_batches.iter().map(|examples| self.blocks.batch(examples, epoch)).collect()
    }
}

#[cfg(test)]
mod tests;
