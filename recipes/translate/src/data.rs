use std::sync::Arc;

use fornax_data::{
    BatchSource, DataError, Loader, LoaderOptions, Seq2SeqBatch, StepSize,
    pairs::{PairBatches, PairSet, PairSplits, TextPairs},
};

use crate::{Config, Tokenizers};

/// Parallel text made ready for training.
pub struct Data {
    /// What the model reads and writes with.
    pub tokenizers: Tokenizers,
    /// The texts.
    pub splits: PairSplits,
    /// The batches of each step.
    pub train: Arc<PairBatches>,
    /// The batches of an evaluation, one a step: `eval.max_batches` of them, from the beginning of the file.
    pub valid: PairBatches,
    /// All of the test set.
    pub test: Option<PairBatches>,
    /// Identifies the texts.
    pub hash: String,
}

impl Data {
    /// Finds the texts, loads or trains the tokenizers, and encodes all pairs.
    ///
    /// `overfit` trains on the first so many steps over and over.
    ///
    /// # Errors
    ///
    /// Keys that don't go together, files that can't be had or read or are not parallel, and a tokenizer without a token that ends a
    /// text.
    pub fn open(config: &Config, overfit: Option<usize>) -> Result<Self, DataError> {
        let splits = config.data.open()?;
        let tokenizers = Tokenizers::prepare(config, &splits.train)?;
        let encoder = config.data.encoder(&tokenizers.source, &tokenizers.target, tokenizers.fill);
        let encode = |texts: &TextPairs| -> Result<Arc<PairSet>, DataError> { encoder.encode(texts).map(Arc::new) };
        let size = StepSize {
            micro_batch_size: config.train.micro_batch_size,
            gradient_accumulation: config.train.gradient_accumulation,
        };
        let batches = config.data.training_batches(encode(&splits.train)?, config.train.seed, size)?;
        let train = match overfit {
            Some(steps) => batches.first_steps(steps as u64),
            None => batches,
        };
        let rows = config.eval.rows(&config.train);
        let valid =
            PairBatches::evaluation(encode(&splits.valid)?, rows, config.eval.max_micro_batches(&config.train))?;
        let test = match &splits.test {
            Some(texts) => Some(PairBatches::evaluation(encode(texts)?, rows, None)?),
            None => None,
        };
        let hash = splits.fingerprint();
        Ok(Self { tokenizers, splits, train: Arc::new(train), valid, test, hash })
    }

    /// The batches of the steps in `steps`, made ahead of their use.
    pub fn loader(&self, steps: std::ops::Range<u64>) -> Result<Loader<Seq2SeqBatch>, DataError> {
        Loader::start(Arc::clone(&self.train), steps, LoaderOptions::default())
    }

    /// The mean lengths of the sources and of the targets that are trained on, in tokens.
    pub(crate) fn mean_lengths(&self) -> (usize, usize) {
        let set = self.train.set();
        let (sources, targets) = set.tokens();
        (sources.div_ceil(set.len()), targets.div_ceil(set.len()))
    }

    /// The batches of an evaluation.
    pub fn valid_batches(&self) -> impl Iterator<Item = Result<Seq2SeqBatch, DataError>> + '_ {
        self.valid.first(self.valid.steps_per_epoch())
    }
}
