use std::sync::Arc;

use crate::batch::{IGNORE_TARGET, TokenBatch};
use crate::loader::BatchSource;
use crate::plan::BatchPlan;
use crate::store::TokenStore;
use crate::{DataError, DrawnPlan, FirstSteps, SequentialPlan, ShuffledPlan, StepSize};

/// What happens to the end of a text that fills no whole block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// It is left out: every block is full. For training.
    Drop,
    /// It becomes a last block, filled up with positions whose target is [`IGNORE_TARGET`]. For evaluation over a whole split.
    Pad,
}

/// Sequences of `seq_len` tokens out of a token store, each with the same tokens shifted by one as targets.
///
/// Documents follow one another without regard to block borders, separated as the store was built.
#[derive(Clone, Debug)]
pub struct Blocks {
    store: Arc<TokenStore>,
    seq_len: usize,
    /// The distance between the starts of two neighbouring blocks.
    stride: u64,
    len: u64,
}

impl Blocks {
    /// Blocks side by side: block `i` reads tokens `i * seq_len ..= (i + 1) * seq_len`, so that every token but the text's first is
    /// predicted in one block exactly (with [`Tail::Drop`]: but those of an unfinished last block).
    ///
    /// # Errors
    ///
    /// If the store has fewer tokens than one block (and the token after it), or `seq_len` is 0.
    pub fn contiguous(store: Arc<TokenStore>, seq_len: usize, tail: Tail) -> Result<Self, DataError> {
        let needed = match tail {
            Tail::Drop => seq_len as u64 + 1,
            Tail::Pad => 2,
        };
        let targets = check(&store, seq_len, needed)?;
        let len = match tail {
            Tail::Drop => targets / seq_len as u64,
            Tail::Pad => targets.div_ceil(seq_len as u64),
        };
        Ok(Self { stride: seq_len as u64, len, seq_len, store })
    }

    /// A block at every offset, to draw from at random as nanoGPT does: block `i` reads tokens `i ..= i + seq_len`.
    ///
    /// # Errors
    ///
    /// If the store has fewer tokens than one block (and the token after it), or `seq_len` is 0.
    pub fn at_every_offset(store: Arc<TokenStore>, seq_len: usize) -> Result<Self, DataError> {
        let targets = check(&store, seq_len, seq_len as u64 + 1)?;
        Ok(Self { stride: 1, len: targets + 1 - seq_len as u64, seq_len, store })
    }

    /// How many blocks there are.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Never: a store without a block is refused.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Tokens a block.
    pub fn seq_len(&self) -> usize {
        self.seq_len
    }

    /// The store that the blocks read.
    pub fn store(&self) -> &Arc<TokenStore> {
        &self.store
    }

    /// Blocks that read every token once: as many as lie side by side in the text.
    pub fn epoch_len(&self) -> u64 {
        (self.len * self.stride).div_ceil(self.seq_len as u64)
    }

    /// The blocks numbered `examples` as one batch.
    ///
    /// # Panics
    ///
    /// If a number is not below [`len`](Self::len).
    pub fn batch(&self, examples: &[u64]) -> TokenBatch {
        let mut input_ids = vec![0; examples.len() * self.seq_len];
        let mut targets = vec![IGNORE_TARGET; examples.len() * self.seq_len];
        let mut tokens = vec![0; self.seq_len + 1];
        for (row, &example) in examples.iter().enumerate() {
            assert!(example < self.len, "block {example} of {}", self.len);
            let start = example * self.stride;
            let present = (self.store.len() - start).min(tokens.len() as u64) as usize;
            self.store.read(start, &mut tokens[..present]);
            let first = row * self.seq_len;
            input_ids[first..first + present - 1].copy_from_slice(&tokens[..present - 1]);
            targets[first..first + present - 1].copy_from_slice(&tokens[1..present]);
        }
        TokenBatch { input_ids, targets, batch: examples.len(), seq_len: self.seq_len, examples: examples.to_vec() }
    }
}

/// Checks the sizes and returns how many tokens have one before them.
fn check(store: &TokenStore, seq_len: usize, needed: u64) -> Result<u64, DataError> {
    if seq_len == 0 {
        return Err(DataError::ConfigValue {
            key: "objective.seq_len",
            value: "0".into(),
            expected: "at least 1".into(),
        });
    }
    if store.len() < needed {
        return Err(DataError::CorpusTooShort {
            corpus: store.manifest().source.clone(),
            tokens: store.len(),
            needed,
            seq_len,
        });
    }
    Ok(store.len() - 1)
}

/// Blocks in the order of a plan: the batches of language modelling.
pub struct BlockBatches {
    blocks: Blocks,
    plan: Box<dyn BatchPlan>,
}

impl BlockBatches {
    /// Any plan over the numbers `0..blocks.len()`.
    pub fn new(blocks: Blocks, plan: impl BatchPlan + 'static) -> Self {
        Self { blocks, plan: Box::new(plan) }
    }

    /// For training: every block once an epoch, in a new order each epoch ([`ShuffledPlan`]).
    ///
    /// # Errors
    ///
    /// If a size is 0 or a step takes more blocks than there are.
    pub fn shuffled(blocks: Blocks, seed: u64, size: StepSize) -> Result<Self, DataError> {
        let plan = ShuffledPlan::new(seed, blocks.len(), size)?;
        Ok(Self::new(blocks, plan))
    }

    /// For training: blocks drawn with replacement ([`DrawnPlan`]); with [`Blocks::at_every_offset`] this is nanoGPT's sampling.
    ///
    /// # Errors
    ///
    /// If a size is 0.
    pub fn drawn(blocks: Blocks, seed: u64, size: StepSize) -> Result<Self, DataError> {
        let plan = DrawnPlan::new(seed, blocks.len(), blocks.epoch_len(), size)?;
        Ok(Self::new(blocks, plan))
    }

    /// For evaluation: every block once, in order, one micro-batch a step ([`SequentialPlan`]).
    ///
    /// # Errors
    ///
    /// If `batch_size` is 0.
    pub fn sequential(blocks: Blocks, batch_size: usize) -> Result<Self, DataError> {
        let plan = SequentialPlan::new(blocks.len(), batch_size)?;
        Ok(Self::new(blocks, plan))
    }

    /// The first `steps` steps over and over ([`FirstSteps`]).
    #[must_use]
    pub fn first_steps(self, steps: u64) -> Self {
        Self { blocks: self.blocks, plan: Box::new(FirstSteps::new(self.plan, steps)) }
    }

    /// The blocks.
    pub fn blocks(&self) -> &Blocks {
        &self.blocks
    }
}

impl BatchSource for BlockBatches {
    type Batch = TokenBatch;

    fn steps_per_epoch(&self) -> u64 {
        self.plan.steps_per_epoch()
    }

    fn micro_batches(&self, step: u64) -> Result<Vec<TokenBatch>, DataError> {
        Ok(self.plan.step(step).micro_batches.iter().map(|examples| self.blocks.batch(examples)).collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::loader::{Loader, LoaderOptions};
    use crate::store::tests::store_of;

    /// A store whose token at position `i` is `i`.
    fn counting(tokens: u32) -> (tempfile::TempDir, Arc<TokenStore>) {
        store_of(&[(0..tokens).collect()])
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_token_but_the_first_is_predicted_once(tokens in 2u32..300, seq_len in 1usize..40, batch in 1usize..5) {
            let (_dir, store) = counting(tokens);
            let batches = BlockBatches::sequential(Blocks::contiguous(store, seq_len, Tail::Pad).unwrap(), batch).unwrap();
            let mut predicted = Vec::new();
            for step in 0..batches.steps_per_epoch() {
                for batch in batches.micro_batches(step).unwrap() {
                    prop_assert_eq!(batch.input_ids.len(), batch.batch * seq_len);
                    for (input, target) in batch.input_ids.iter().zip(&batch.targets) {
                        if *target != IGNORE_TARGET {
                            prop_assert_eq!(input + 1, *target);
                            predicted.push(*target);
                        }
                    }
                }
            }
            prop_assert_eq!(predicted, (1..tokens as i32).collect::<Vec<_>>());
        }

        #[test]
        fn training_blocks_are_full(tokens in 2u32..300, seq_len in 1usize..40) {
            let (_dir, store) = counting(tokens);
            let Ok(blocks) = Blocks::contiguous(store.clone(), seq_len, Tail::Drop) else {
                prop_assert!((tokens as usize) < seq_len + 1);
                return Ok(());
            };
            let all = blocks.batch(&(0..blocks.len()).collect::<Vec<_>>());
            prop_assert_eq!(all.target_count(), all.token_count());
            prop_assert!(tokens as usize - 1 - all.token_count() < seq_len);

            let sliding = Blocks::at_every_offset(store, seq_len).unwrap();
            let last = sliding.batch(&[sliding.len() - 1]);
            prop_assert_eq!(last.targets.last(), Some(&(tokens as i32 - 1)));
        }
    }

    #[test]
    fn drawn_blocks_differ_by_step_and_seed_and_repeat_exactly() {
        let (_dir, store) = counting(1000);
        let size = StepSize { micro_batch_size: 4, gradient_accumulation: 2 };
        let blocks = Blocks::at_every_offset(store, 16).unwrap();
        let at = |seed, step| BlockBatches::drawn(blocks.clone(), seed, size).unwrap().micro_batches(step).unwrap();
        assert_eq!(at(1, 5), at(1, 5));
        assert_ne!(at(1, 5), at(1, 6));
        assert_ne!(at(1, 5), at(2, 5));
        assert_eq!(BlockBatches::drawn(blocks.clone(), 1, size).unwrap().steps_per_epoch(), 7);
    }

    #[test]
    fn a_loader_that_starts_late_gives_what_a_full_run_gives() {
        let (_dir, store) = counting(500);
        let size = StepSize { micro_batch_size: 3, gradient_accumulation: 2 };
        let blocks = Blocks::contiguous(store, 8, Tail::Drop).unwrap();
        let source = Arc::new(BlockBatches::shuffled(blocks, 9, size).unwrap());
        let run = |steps, workers| {
            let loader = Loader::start(source.clone(), steps, LoaderOptions { workers, ahead: 2 }).unwrap();
            loader.map(Result::unwrap).collect::<Vec<_>>()
        };
        let whole = run(0..25, 1);
        assert_eq!(whole[13..], run(13..25, 3));
    }

    #[test]
    fn a_corpus_shorter_than_a_block_names_both_sizes() {
        let (_dir, store) = counting(12);
        let error = Blocks::contiguous(store.clone(), 64, Tail::Drop).unwrap_err();
        insta::assert_snapshot!(error, @"the corpus (memory: 1 documents, 48 B) has 12 tokens, but one block of seq_len 64 needs 65");
        assert!(Blocks::at_every_offset(store.clone(), 64).is_err());
        assert_eq!(Blocks::contiguous(store, 64, Tail::Pad).unwrap().batch(&[0]).target_count(), 11);
    }
}
