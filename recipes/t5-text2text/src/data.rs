use std::sync::Arc;

use fornax_data::{
    BatchSource, DataError, Denoising, DenoisingBatches, DenoisingBlocks, DenoisingConfig, Document, Fill, Loader,
    LoaderOptions, Seq2SeqBatch, Split, StepSize, StoreOptions, Tail, TokenStore, Tokenizer,
    dataset::{Places, cache_folder},
    pairs::{PairBatches, PairEncoder, PairSet},
    source::Texts,
    text_tasks::{ScoredTask, TaskConfig, TaskMixture, TextTask, TextTasks},
};

use crate::{Config, config::Training};

/// Text or tasks made ready for training.
pub struct Data {
    /// What the model reads and writes with.
    pub tokenizer: Arc<Tokenizer>,
    /// The batches of each step.
    pub train: Arc<Batches>,
    /// What an evaluation measures: the valid text, or the valid set of each task.
    pub valid: Vec<EvalSet>,
    /// The test sets of those tasks that have a labelled one.
    pub test: Vec<EvalSet>,
    /// Identifies texts and tokens.
    pub hash: String,
}

/// Batches of sources and targets, from text or from tasks.
pub enum Batches {
    /// Text, parts of which are hidden.
    Text(DenoisingBatches),
    /// Tasks, mixed.
    Tasks(TaskMixture),
    /// A set of one task.
    Set(PairBatches),
}

/// What is evaluated together.
pub struct EvalSet {
    /// Its batches, one a step.
    pub batches: Batches,
    /// How many of them an evaluation takes.
    pub steps: u64,
    /// The task, whose answers are scored; none for text.
    pub task: Option<ScoredTask>,
    /// Rows of a batch.
    pub rows: usize,
}

/// Tokens of a source and of a target.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Lengths {
    pub(crate) source: usize,
    pub(crate) target: usize,
}

impl Data {
    /// Finds the texts, loads or trains the tokenizer, and encodes what has not been encoded before.
    ///
    /// `overfit` trains on the first so many steps over and over.
    ///
    /// # Errors
    ///
    /// Keys that don't go together, a tokenizer without a token that ends a text or with too few sentinels, files that can't be had or
    /// read, texts shorter than a block, and tasks without a valid set.
    pub fn open(config: &Config, overfit: Option<usize>) -> Result<Self, DataError> {
        let data = match config.training()? {
            Training::Pretraining(objective) => Self::open_text(config, objective)?,
            Training::Tasks(tasks) => Self::open_tasks(config, tasks)?,
        };
        let (tokenizer, train, valid, test, hash) = data;
        let train = Arc::new(match overfit {
            Some(steps) => train.first_steps(steps as u64),
            None => train,
        });
        Ok(Self { tokenizer: Arc::new(tokenizer), train, valid, test, hash })
    }

    fn open_text(config: &Config, objective: &DenoisingConfig) -> Result<Opened, DataError> {
        let cache = cache_folder();
        let splits = config.data.text().open()?;
        let tokenizer = Tokenizer::prepare(&config.tokenizer, splits.train.as_ref(), &cache.join("tokenizers"))?;
        let sentinels = (0..).map_while(|number| tokenizer.sentinel(number)).map(|id| id as i32).collect();
        let denoising = Denoising::new(objective, &tokenizer, sentinels, config.train.seed)?;
        let store = |source| {
            TokenStore::build_or_open(source, &tokenizer, &cache.join("tokens"), &StoreOptions::default()).map(Arc::new)
        };
        let (train, valid) = (store(splits.train.as_ref())?, store(splits.valid.as_ref())?);
        let hash = format!("{} {}", train.manifest().tokens_sha256, valid.manifest().tokens_sha256);
        let fill = fill(config, &tokenizer)?;
        let blocks = |store, tail| DenoisingBlocks::new(store, denoising.clone(), fill, tail);
        let train = DenoisingBatches::shuffled(blocks(train, Tail::Drop)?, config.train.seed, step_size(config))?;
        let valid = DenoisingBatches::sequential(blocks(valid, Tail::Pad)?, config.eval.rows(&config.train))?;
        let all = valid.steps_per_epoch();
        let steps = config.eval.max_micro_batches(&config.train).map_or(all, |most| all.min(most as u64));
        let valid = EvalSet { batches: Batches::Text(valid), steps, task: None, rows: config.eval.rows(&config.train) };
        Ok((tokenizer, Batches::Text(train), vec![valid], Vec::new(), hash))
    }

    fn open_tasks(config: &Config, configs: &[TaskConfig]) -> Result<Opened, DataError> {
        let tasks = TextTasks::open(configs, &Places::from_environment())?;
        if let Some(task) = tasks.tasks().iter().find(|task| task.valid.is_none()) {
            return Err(no_valid_set(task));
        }
        let tokenizer = Tokenizer::prepare(&config.tokenizer, &texts(&tasks), &cache_folder().join("tokenizers"))?;
        let encoder = PairEncoder {
            source: &tokenizer,
            target: &tokenizer,
            lowercase: false,
            max_source_len: config.data.max_source_len,
            max_target_len: config.data.max_target_len,
            fill: fill(config, &tokenizer)?,
        };
        let mixture = config.mixture.clone().unwrap_or_default();
        let (seed, group) = (config.train.seed, config.data.group_by_length);
        let train = TaskMixture::training(&tasks, &encoder, &mixture, seed, step_size(config), group)?;
        let sets = |split, most| -> Result<Vec<EvalSet>, DataError> {
            let scored = tasks.scored(split, &encoder)?;
            scored.into_iter().map(|task| EvalSet::of(task, config.eval.rows(&config.train), most)).collect()
        };
        // A test set is answered whole.
        let (valid, test) =
            (sets(Split::Valid, config.eval.max_micro_batches(&config.train))?, sets(Split::Test, None)?);
        let read = tasks.tasks().iter().flat_map(|task| [Some(&task.train), task.valid.as_ref(), task.test.as_ref()]);
        let hash = read.flatten().map(|texts| texts.fingerprint()).collect::<Vec<_>>().join(" ");
        Ok((tokenizer, Batches::Tasks(train), valid, test, hash))
    }

    /// The batches of the steps in `steps`, made ahead of their use.
    pub fn loader(&self, steps: std::ops::Range<u64>) -> Result<Loader<Seq2SeqBatch>, DataError> {
        Loader::start(Arc::clone(&self.train), steps, LoaderOptions::default())
    }

    /// How text is hidden; none for tasks.
    pub(crate) fn denoising(&self) -> Option<&Denoising> {
        match &*self.train {
            Batches::Text(batches) => Some(batches.blocks().denoising()),
            _ => None,
        }
    }

    /// The most tokens that a source has.
    pub(crate) fn longest_source(&self, config: &Config) -> usize {
        self.denoising().map_or(config.data.max_source_len, Denoising::seq_len)
    }

    /// The most tokens that a target has.
    pub(crate) fn longest_answer(&self, config: &Config) -> usize {
        self.denoising().map_or(config.data.max_target_len, Denoising::target_len)
    }

    /// The longest source and the longest target that is trained on.
    pub(crate) fn longest(&self) -> Lengths {
        let most = |lengths: &mut dyn Iterator<Item = u32>| lengths.max().unwrap_or(0) as usize;
        self.train.lengths(|set| {
            let lengths = set.lengths();
            Lengths {
                source: most(&mut lengths.iter().map(|(source, _)| *source)),
                target: most(&mut lengths.iter().map(|(_, target)| *target)),
            }
        })
    }

    /// The mean lengths of sources and targets, rounded up.
    pub(crate) fn mean_lengths(&self) -> Lengths {
        self.train.lengths(|set| {
            let ((sources, targets), pairs) = (set.tokens(), set.len().max(1));
            Lengths { source: sources.div_ceil(pairs), target: targets.div_ceil(pairs) }
        })
    }
}

/// Tokenizer, batches of training, sets of valid and of test, and a hash of all texts.
type Opened = (Tokenizer, Batches, Vec<EvalSet>, Vec<EvalSet>, String);

fn step_size(config: &Config) -> StepSize {
    let train = &config.train;
    StepSize { micro_batch_size: train.micro_batch_size, gradient_accumulation: train.gradient_accumulation }
}

fn fill(config: &Config, tokenizer: &Tokenizer) -> Result<Fill, DataError> {
    let sizes = config.model.t5_for(tokenizer)?;
    Ok(Fill { pad_id: sizes.pad_token as i32, start_id: sizes.start_token as i32 })
}

fn no_valid_set(task: &TextTask) -> DataError {
    DataError::TaskValue {
        task: task.name().to_owned(),
        key: "valid_files",
        value: "not set".into(),
        expected: "files to evaluate on, or in tasks.data a data set with a valid split".into(),
    }
}

/// What is read and written, for a tokenizer to learn from.
fn texts(tasks: &TextTasks) -> Texts {
    let documents = tasks.tasks().iter().flat_map(|task| {
        task.train.pairs().iter().enumerate().flat_map(|(number, pair)| {
            let name = format!("{}, pair {number}", task.train.name());
            [&pair.source, &pair.target].map(|text| Document { name: name.clone(), text: text.clone() })
        })
    });
    let names: Vec<&str> = tasks.tasks().iter().map(TextTask::name).collect();
    Texts::new(format!("the texts of {}", names.join(", ")), documents.collect())
}

impl EvalSet {
    fn of(task: ScoredTask, rows: usize, most: Option<usize>) -> Result<Self, DataError> {
        let batches = task.batches(rows, most)?;
        Ok(Self { steps: batches.steps_per_epoch(), batches: Batches::Set(batches), task: Some(task), rows })
    }

    /// How many pairs an evaluation takes, from the beginning of the set.
    pub(crate) fn pairs(&self) -> usize {
        let all = self.task.as_ref().map_or(0, |task| task.texts.pairs().len());
        all.min(self.rows.saturating_mul(self.steps as usize))
    }

    /// The batches of an evaluation.
    pub fn iter(&self) -> impl Iterator<Item = Result<Seq2SeqBatch, DataError>> + '_ {
        self.batches.first(self.steps)
    }
}

impl Batches {
    fn first_steps(self, steps: u64) -> Self {
        match self {
            Self::Text(batches) => Self::Text(batches.first_steps(steps)),
            Self::Tasks(batches) => Self::Tasks(batches.first_steps(steps)),
            Self::Set(batches) => Self::Set(batches.first_steps(steps)),
        }
    }

    /// Those of text, which are fixed, or those that `of_set` finds.
    fn lengths(&self, of_set: impl FnOnce(&PairSet) -> Lengths) -> Lengths {
        match self {
            Self::Text(batches) => {
                let denoising = batches.blocks().denoising();
                Lengths { source: denoising.seq_len(), target: denoising.target_len() }
            }
            Self::Tasks(batches) => of_set(batches.set()),
            Self::Set(batches) => of_set(batches.set()),
        }
    }
}

impl BatchSource for Batches {
    type Batch = Seq2SeqBatch;

    fn steps_per_epoch(&self) -> u64 {
        match self {
            Self::Text(batches) => batches.steps_per_epoch(),
            Self::Tasks(batches) => batches.steps_per_epoch(),
            Self::Set(batches) => batches.steps_per_epoch(),
        }
    }

    fn micro_batches(&self, step: u64) -> Result<Vec<Seq2SeqBatch>, DataError> {
        match self {
            Self::Text(batches) => batches.micro_batches(step),
            Self::Tasks(batches) => batches.micro_batches(step),
            Self::Set(batches) => batches.micro_batches(step),
        }
    }
}
