use std::sync::Arc;

use fornax_data::{
    DataError, Document, Loader, LoaderOptions, StepSize, Tokenizer,
    dataset::cache_folder,
    labelled::{EncodedSet, LabelledBatch, LabelledBatches, LabelledSet, LabelledSplits},
    source::Texts,
};

use crate::Config;

/// Labelled text made ready for training.
pub struct Data {
    /// What the model reads with.
    pub tokenizer: Arc<Tokenizer>,
    /// The task and its texts.
    pub splits: LabelledSplits,
    /// The batches of each step.
    pub train: Arc<LabelledBatches>,
    /// For each valid set its batches, one a step; MNLI has two. `eval.max_batches` of them, from the beginning of the file.
    pub valid: Vec<LabelledBatches>,
    /// For each test set its batches.
    pub test: Vec<LabelledBatches>,
    /// Identifies texts and labels.
    pub hash: String,
}

impl Data {
    /// Finds the tables, loads or trains the tokenizer, and encodes all examples.
    ///
    /// `overfit` trains on the first so many steps over and over.
    ///
    /// # Errors
    ///
    /// Keys that don't go together, files that can't be had or read, and labels that are none of the task's.
    pub fn open(config: &Config, overfit: Option<usize>) -> Result<Self, DataError> {
        let splits = config.data.open()?;
        let texts = texts(&splits.train);
        let tokenizer = Tokenizer::prepare(&config.tokenizer, &texts, &cache_folder().join("tokenizers"))?;
        let encode = |set: &LabelledSet| EncodedSet::build(set, &tokenizer, config.data.max_len).map(Arc::new);
        let size = StepSize {
            micro_batch_size: config.train.micro_batch_size,
            gradient_accumulation: config.train.gradient_accumulation,
        };
        let (seed, group) = (config.train.seed, config.data.group_by_length);
        let batches = LabelledBatches::training(encode(&splits.train)?, seed, size, group)?;
        let train = match overfit {
            Some(steps) => batches.first_steps(steps as u64),
            None => batches,
        };
        let rows = config.eval.rows(&config.train);
        let evaluation = |sets: &[LabelledSet], most| -> Result<Vec<_>, DataError> {
            sets.iter().map(|set| LabelledBatches::evaluation(encode(set)?, rows, most)).collect()
        };
        // A test set is predicted whole.
        let (valid, test) =
            (evaluation(&splits.valid, config.eval.max_micro_batches(&config.train))?, evaluation(&splits.test, None)?);
        let hash = [&splits.train].into_iter().chain(&splits.valid).map(|set| set.fingerprint());
        let hash = hash.collect::<Vec<_>>().join(" ");
        Ok(Self { tokenizer: Arc::new(tokenizer), splits, train: Arc::new(train), valid, test, hash })
    }

    /// The batches of the steps in `steps`, made ahead of their use.
    pub fn loader(&self, steps: std::ops::Range<u64>) -> Result<Loader<LabelledBatch>, DataError> {
        Loader::start(Arc::clone(&self.train), steps, LoaderOptions::default())
    }
}

/// The texts alone, for a tokenizer to learn from.
fn texts(set: &LabelledSet) -> Texts {
    let documents = set.examples().iter().flat_map(|example| {
        let document = |text: &String| Document { name: format!("row {}", example.index), text: text.clone() };
        std::iter::once(&example.text).chain(&example.pair).map(document).collect::<Vec<_>>()
    });
    Texts::new(format!("the texts of {}", set.name()), documents.collect())
}
