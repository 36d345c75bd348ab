use std::sync::Arc;

use fornax_data::{
    BatchSource, DataError, Loader, LoaderOptions, MaskedBatch, MaskedBatches, MaskedBlocks, Masking, SentencePairs,
    StepSize, StoreOptions, Tail, TokenStore, Tokenizer, dataset::cache_folder,
};

use crate::Config;

/// Text made ready for training: the tokenizer, and the batches of both splits.
pub struct Data {
    /// What the model reads with.
    pub tokenizer: Arc<Tokenizer>,
    /// The batches of each step.
    pub train: Arc<MaskedBatches>,
    /// The batches of an evaluation, one a step, with masks that stay.
    pub valid: MaskedBatches,
    /// How many batches of `valid` an evaluation takes.
    pub valid_batches: u64,
    /// Identifies text and tokens of both splits.
    pub hash: String,
}

impl Data {
    /// Finds the text, loads or trains the tokenizer, and encodes what has not been encoded before.
    ///
    /// `overfit` trains on the first so many steps over and over.
    ///
    /// # Errors
    ///
    /// Keys that don't go together, a tokenizer without a mask token, files that can't be had or read, and texts shorter than a
    /// sequence.
    pub fn open(config: &Config, overfit: Option<usize>) -> Result<Self, DataError> {
        config.objective.masking.validate()?;
        let cache = cache_folder();
        let splits = config.data.open()?;
        let tokenizer = Tokenizer::prepare(&config.tokenizer, splits.train.as_ref(), &cache.join("tokenizers"))?;
        let masking = Masking::new(config.objective.masking, &tokenizer, config.train.seed)?;
        let store = |source| {
            TokenStore::build_or_open(source, &tokenizer, &cache.join("tokens"), &StoreOptions::default()).map(Arc::new)
        };
        let (train, valid) = (store(splits.train.as_ref())?, store(splits.valid.as_ref())?);
        let hash = format!("{} {}", train.manifest().tokens_sha256, valid.manifest().tokens_sha256);

        let (seq_len, seed) = (config.objective.seq_len, config.train.seed);
        let size = StepSize {
            micro_batch_size: config.train.micro_batch_size,
            gradient_accumulation: config.train.gradient_accumulation,
        };
        let rows = config.eval.rows(&config.train);
        let (batches, valid) = match config.objective.sentence_pairs {
            None => {
                let blocks = |store, tail| MaskedBlocks::new(store, masking.clone(), seq_len, tail);
                (
                    MaskedBatches::shuffled(blocks(train, Tail::Drop)?, seed, size)?,
                    MaskedBatches::sequential(blocks(valid, Tail::Pad)?, rows)?,
                )
            }
            Some(kind) => {
                let pairs = |store| SentencePairs::new(store, kind, masking.clone(), seq_len);
                (MaskedBatches::shuffled(pairs(train)?, seed, size)?, MaskedBatches::sequential(pairs(valid)?, rows)?)
            }
        };
        let train = match overfit {
            Some(steps) => batches.first_steps(steps as u64),
            None => batches,
        };
        let all = valid.steps_per_epoch();
        let valid_batches = config.eval.max_micro_batches(&config.train).map_or(all, |most| all.min(most as u64));
        Ok(Self { tokenizer: Arc::new(tokenizer), train: Arc::new(train), valid, valid_batches, hash })
    }

    /// The batches of the steps in `steps`, made ahead of their use.
    pub fn loader(&self, steps: std::ops::Range<u64>) -> Result<Loader<MaskedBatch>, DataError> {
        Loader::start(Arc::clone(&self.train), steps, LoaderOptions::default())
    }

    /// The batches of an evaluation.
    pub fn valid_batches(&self) -> impl Iterator<Item = Result<MaskedBatch, DataError>> + '_ {
        self.valid.first(self.valid_batches)
    }
}
