use anyhow::Context as _;
use fornax_cli::UsageContext;
use fornax_data::{
    DataConfig, DataError, DenoisingConfig, TokenizerConfig,
    text_tasks::{MixtureConfig, TaskConfig},
};
use fornax_models::generate::{EarlyStopping, Seq2SeqOptions};
use fornax_train::{CheckpointConfig, EvalConfig, OptimizerConfig, ScheduleConfig, TrainConfig, TrainError};
use serde::{Deserialize, Serialize};

use crate::tables::{DataTable, ModelConfig, TokenizerTable, unigram_with_sentinels};

/// What every evaluation measures, and so what `train.metric_for_best` may name.
const METRICS: [&str; 3] = ["loss", "perplexity", "token_accuracy"];

/// The config of this recipe. `[objective]` or `[[tasks]]` has to be there, and says what is trained; every other table may be left
/// out.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Sizes, or a checkpoint to start from.
    pub model: ModelConfig,
    /// A tokenizer to load or to train: Unigram with 100 sentinels unless it says otherwise.
    #[serde(with = "TokenizerTable")]
    pub tokenizer: TokenizerConfig,
    /// The text of pretraining, or how long the texts of tasks may be.
    pub data: DataTable,
    /// Pretraining: what is hidden in a text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub objective: Option<DenoisingConfig>,
    /// Tasks to learn, instead of pretraining.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<TaskConfig>,
    /// How often each task is drawn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mixture: Option<MixtureConfig>,
    /// Length, batch size, seed and cadences.
    pub train: TrainConfig,
    /// The optimizer.
    pub optimizer: OptimizerConfig,
    /// The learning rate over time.
    pub schedule: ScheduleConfig,
    /// How evaluations run.
    pub eval: EvalConfig,
    /// How often the run is saved.
    pub checkpoint: CheckpointConfig,
    /// How answers are written at the end.
    pub generate: GenerateConfig,
    /// What is shown at the end.
    pub example: ExampleConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            model: ModelConfig::default(),
            tokenizer: unigram_with_sentinels(),
            data: DataTable::default(),
            objective: None,
            tasks: Vec::new(),
            mixture: None,
            train: TrainConfig::default(),
            optimizer: OptimizerConfig::default(),
            schedule: ScheduleConfig::default(),
            eval: EvalConfig::default(),
            checkpoint: CheckpointConfig::default(),
            generate: GenerateConfig::default(),
            example: ExampleConfig::default(),
        }
    }
}

/// What is trained.
#[derive(Clone, Copy, Debug)]
pub enum Training<'a> {
    /// Denoising of text.
    Pretraining(&'a DenoisingConfig),
    /// Tasks of text to text.
    Tasks(&'a [TaskConfig]),
}

impl Config {
    /// Checks every key that can be checked without data.
    ///
    /// # Errors
    ///
    /// The first key that can't be used.
    pub fn validate(&self) -> anyhow::Result<()> {
        match self.training()? {
            Training::Pretraining(objective) => objective.validate()?,
            Training::Tasks(tasks) => {
                tasks.iter().try_for_each(check_name)?;
                self.mixture.clone().unwrap_or_default().check(tasks)?;
            }
        }
        self.train.validate()?;
        let (metric, known) = (&self.train.metric_for_best, self.metrics());
        if !known.contains(metric) {
            return Err(TrainError::UnknownMetric { metric: metric.clone(), known: known.join(", ") }.into());
        }
        self.optimizer.validate()?;
        self.schedule.validate(self.optimizer.lr)?;
        self.eval.validate()?;
        self.checkpoint.validate()?;
        // Start and end are tokens of every vocabulary.
        self.generate.answering(0, 0, usize::MAX).last.validate(usize::MAX).context("[generate]").usage()
    }

    /// Which of pretraining and tasks the config describes.
    ///
    /// # Errors
    ///
    /// Both, neither, or a table that belongs to the other one.
    pub fn training(&self) -> Result<Training<'_>, DataError> {
        let conflict = |first, second: &str, reason| DataError::ConfigConflict { first, second: second.into(), reason };
        match (&self.objective, &self.tasks[..]) {
            (None, []) => {
                let expected = "a table [objective], to pretrain on text, or [[tasks]], to learn tasks".into();
                Err(DataError::ConfigValue { key: "objective", value: "not set".into(), expected })
            }
            (Some(_), []) if self.mixture.is_some() => {
                Err(conflict("mixture", "objective", "tasks are mixed, of which there is none in [[tasks]]"))
            }
            (Some(objective), []) => Ok(Training::Pretraining(objective)),
            (Some(_), _) => Err(conflict(
                "tasks",
                "objective",
                "a run pretrains on text or learns tasks; for both, one after the other, give the second run model.from",
            )),
            (None, _) if self.data.text() != DataConfig::default() => Err(conflict(
                "tasks",
                "data",
                "a text is for pretraining; each task has its own tasks.data or tasks.files, and of [data] only max_source_len, \
                 max_target_len and group_by_length",
            )),
            (None, tasks) => Ok(Training::Tasks(tasks)),
        }
    }

    /// The names of all metrics of an evaluation.
    fn metrics(&self) -> Vec<String> {
        let of_task = |task: &TaskConfig| {
            let names = task.metric.names().iter();
            names.flat_map(|name| metric_names(&task.name, name, self.tasks.len())).collect::<Vec<_>>()
        };
        METRICS.map(str::to_owned).into_iter().chain(self.tasks.iter().flat_map(of_task)).collect()
    }
}

/// Under which names a metric of a task stands, one of so many: with the task's name before it, and alone where there is but one.
pub(crate) fn metric_names(task: &str, metric: &str, tasks: usize) -> Vec<String> {
    let alone = (tasks == 1).then(|| metric.to_owned());
    alone.into_iter().chain([format!("{task}_{metric}")]).collect()
}

/// Refuses a task whose name is no name of a file.
fn check_name(task: &TaskConfig) -> Result<(), DataError> {
    let plain = |c: char| c.is_alphanumeric() || "-_".contains(c);
    match task.name.chars().all(plain) {
        true => Ok(()),
        false => Err(DataError::TaskValue {
            task: task.name.clone(),
            key: "name",
            value: format!("{:?}", task.name),
            expected: "letters, digits, - and _: it names metrics and files".into(),
        }),
    }
}

/// `[generate]`: how answers are written. Evaluations on the way are greedy; at the end come beams besides, if there are to be some.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GenerateConfig {
    /// The most tokens of an answer, its end included; `data.max_target_len` by default, in pretraining the longest target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_new_tokens: Option<usize>,
    /// Beams of a second answer to each set at the end, after the greedy one; 1: there is none.
    pub num_beams: usize,
    /// More than 0 favours long answers, less than 0 short ones; 0 counts probability alone.
    pub length_penalty: f64,
    /// When beam search is content: `heuristic`, `first_finished` or `never`.
    pub early_stopping: EarlyStopping,
    /// No run of so many tokens stands twice in an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_repeat_ngram_size: Option<usize>,
}

impl Default for GenerateConfig {
    fn default() -> Self {
        let options = Seq2SeqOptions::default();
        Self {
            max_new_tokens: None,
            num_beams: options.num_beams,
            length_penalty: options.length_penalty,
            early_stopping: options.early_stopping,
            no_repeat_ngram_size: None,
        }
    }
}

/// How answers are written.
#[derive(Clone, Debug)]
pub(crate) struct Answering {
    /// During training, and first of all at the end.
    pub(crate) greedy: Seq2SeqOptions,
    /// At the end: with beams where the table says so.
    pub(crate) last: Seq2SeqOptions,
}

impl GenerateConfig {
    /// How a model answers whose targets begin with `start` and end with `end`: with at most `longest` tokens unless the table says
    /// otherwise.
    pub(crate) fn answering(&self, start: u32, end: u32, longest: usize) -> Answering {
        let greedy = Seq2SeqOptions::greedy(start, vec![end], self.max_new_tokens.unwrap_or(longest));
        let greedy = Seq2SeqOptions { no_repeat_ngram_size: self.no_repeat_ngram_size, ..greedy };
        let last = Seq2SeqOptions {
            num_beams: self.num_beams,
            length_penalty: self.length_penalty,
            early_stopping: self.early_stopping,
            ..greedy.clone()
        };
        Answering { greedy, last }
    }
}

/// `[example]`: what is shown when the model is trained.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExampleConfig {
    /// A text that the model completes: with sentinels (`<extra_id_0>`, `<extra_id_1>`, ...) where span corruption is to fill it in; of
    /// tasks a source, prefix included. Empty: none.
    pub text: String,
    /// How many answers of each task's valid set are shown.
    pub answers: usize,
}

impl Default for ExampleConfig {
    fn default() -> Self {
        // Enough to see whether there is sense in them.
        Self { text: String::new(), answers: 3 }
    }
}
