use std::sync::Arc;

use fornax_data::{
    BatchSource, BlockBatches, Blocks, DataError, Loader, LoaderOptions, StepSize, StoreOptions, Tail, TokenBatch,
    TokenStore, Tokenizer, dataset::cache_folder,
};

use crate::{Config, config::Sampling};

/// Text made ready for training: the tokenizer, and the batches of both splits.
pub struct Data {
    /// What the model reads and writes with.
    pub tokenizer: Arc<Tokenizer>,
    /// The batches of each step.
    pub train: Arc<BlockBatches>,
    /// The batches of an evaluation, one a step.
    pub valid: BlockBatches,
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
    /// Keys that don't go together, files that can't be had or read, and texts shorter than a block.
    pub fn open(config: &Config, overfit: Option<usize>) -> Result<Self, DataError> {
        let cache = cache_folder();
        let splits = config.data.open()?;
        let tokenizer = Tokenizer::prepare(&config.tokenizer, splits.train.as_ref(), &cache.join("tokenizers"))?;
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
        let batches = match config.objective.sampling {
            Sampling::Contiguous => {
                BlockBatches::shuffled(Blocks::contiguous(train, seq_len, Tail::Drop)?, seed, size)?
            }
            Sampling::RandomOffsets => BlockBatches::drawn(Blocks::at_every_offset(train, seq_len)?, seed, size)?,
        };
        let train = match overfit {
            Some(steps) => batches.first_steps(steps as u64),
            None => batches,
        };
        let rows = config.eval.rows(&config.train);
        let valid = BlockBatches::sequential(Blocks::contiguous(valid, seq_len, Tail::Pad)?, rows)?;
        let all = valid.steps_per_epoch();
        let valid_batches = config.eval.max_micro_batches(&config.train).map_or(all, |most| all.min(most as u64));
        Ok(Self { tokenizer: Arc::new(tokenizer), train: Arc::new(train), valid, valid_batches, hash })
    }

    /// The batches of the steps in `steps`, made ahead of their use.
    pub fn loader(&self, steps: std::ops::Range<u64>) -> Result<Loader<TokenBatch>, DataError> {
        Loader::start(Arc::clone(&self.train), steps, LoaderOptions::default())
    }

    /// The batches of an evaluation.
    pub fn valid_batches(&self) -> impl Iterator<Item = Result<TokenBatch, DataError>> + '_ {
        self.valid.first(self.valid_batches)
    }

    /// The mean length in bytes of a target of the valid split, by which bits per byte are reckoned.
    pub fn bytes_per_target(&self) -> f64 {
        let manifest = self.valid.blocks().store().manifest();
        manifest.text_bytes as f64 / (manifest.tokens.max(2) - 1) as f64
    }
}
