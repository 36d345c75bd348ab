use std::sync::Arc;

use fornax_metrics::TextMetric;

use super::config::TaskConfig;
use super::template::Template;
use crate::dataset::Places;
use crate::pairs::{PairBatches, PairEncoder, PairSet, TextPair, TextPairs, rows_of_data_set, rows_of_files};
use crate::source::{TextRow, TextRows, WantedColumns, refuse_shared_paths};
use crate::{DataError, Split};

/// A task with its texts in memory.
#[derive(Clone, Debug)]
pub struct TextTask {
    config: TaskConfig,
    /// What is learned from.
    pub train: TextPairs,
    /// What is measured during training.
    pub valid: Option<TextPairs>,
    /// What is measured at the end; `None` where there is no such set or its targets are secret.
    pub test: Option<TextPairs>,
}

/// All tasks, in the order of the config.
#[derive(Clone, Debug)]
pub struct TextTasks {
    tasks: Vec<TextTask>,
}

/// What one task is measured on.
#[derive(Clone, Debug)]
pub struct ScoredTask {
    /// The task.
    pub name: String,
    /// What its outputs are measured by.
    pub metric: TextMetric,
    /// Sources and references.
    pub texts: TextPairs,
    /// The same pairs as token ids.
    pub set: Arc<PairSet>,
}

impl ScoredTask {
    /// Its batches ([`PairBatches::evaluation`]); [`TextPairs::reference`] has the reference of each example.
    ///
    /// # Errors
    ///
    /// If `batch_size` is 0.
    pub fn batches(&self, batch_size: usize, max_batches: Option<usize>) -> Result<PairBatches, DataError> {
        PairBatches::evaluation(self.set.clone(), batch_size, max_batches)
    }
}

impl TextTasks {
    /// Opens the files of all tasks, with these places. Downloads what is not here.
    ///
    /// # Errors
    /// No task, two of the same name, keys that exclude each other, a data set, column or file that is not there, a label without
    /// a word.
    pub fn open(configs: &[TaskConfig], places: &Places) -> Result<Self, DataError> {
        check(configs)?;
        let tasks = configs.iter().map(|config| TextTask::open(config, places)).collect::<Result<_, _>>()?;
        Ok(Self { tasks })
    }

    /// Opens only what a model is scored on, each task's valid and test set with its metric; what is trained on need not be here.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_scored(configs: &[TaskConfig], places: &Places) -> Result<Vec<(TextMetric, TextPairs)>, DataError> {
        check(configs)?;
        let mut scored = Vec::new();
        for config in configs {
            let reading = Reading { config, template: config.template()? };
            for split in [Split::Valid, Split::Test] {
                let Some(rows) = reading.rows(split, places)? else { continue };
                scored.extend(reading.read(split, &rows)?.map(|texts| (config.metric, texts)));
            }
        }
        Ok(scored)
    }

    /// All tasks.
    pub fn tasks(&self) -> &[TextTask] {
        &self.tasks
    }

    /// Each task's set of a split by itself, encoded, where it has one.
    ///
    /// # Errors
    /// As [`PairEncoder::encode`].
    pub fn scored(&self, split: Split, encoder: &PairEncoder<'_>) -> Result<Vec<ScoredTask>, DataError> {
        let scored = |task: &TextTask| {
            let texts = task.texts(split)?.clone();
            Some(encoder.encode(&texts).map(|set| ScoredTask {
                name: task.name().to_owned(),
                metric: task.metric(),
                texts,
                set: Arc::new(set),
            }))
        };
        self.tasks.iter().filter_map(scored).collect()
    }
}

/// Refuses no task, a task whose keys make no sense, and two of the same name.
fn check(configs: &[TaskConfig]) -> Result<(), DataError> {
    if configs.is_empty() {
        let expected = "at least one table [[tasks]]".into();
        return Err(DataError::ConfigValue { key: "tasks", value: "empty".into(), expected });
    }
    for (at, task) in configs.iter().enumerate() {
        task.template()?;
        if configs[..at].iter().any(|other| other.name == task.name) {
            return Err(task.wrong("name", format!("`{}` twice", task.name), "a name of its own for each task"));
        }
    }
    Ok(())
}

/// The task of this name.
///
/// # Errors
/// There is none; the error has all names.
pub fn task_named<'a>(tasks: &'a [TaskConfig], name: &str) -> Result<&'a TaskConfig, DataError> {
    tasks.iter().find(|task| task.name == name).ok_or_else(|| DataError::UnknownTask {
        name: name.into(),
        known: tasks.iter().map(|task| task.name.clone()).collect(),
    })
}

impl TextTask {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// What its outputs are measured by.
    pub fn metric(&self) -> TextMetric {
        self.config.metric
    }

    /// All that it may write, if a word stands for each label; else empty.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        self.config.words.values().map(String::as_str)
    }

    /// What its table in the config says.
    pub fn config(&self) -> &TaskConfig {
        &self.config
    }

    /// Its texts of a split.
    pub fn texts(&self, split: Split) -> Option<&TextPairs> {
        match split {
            Split::Train => Some(&self.train),
            Split::Valid => self.valid.as_ref(),
            Split::Test => self.test.as_ref(),
        }
    }

    fn open(config: &TaskConfig, places: &Places) -> Result<Self, DataError> {
        let reading = Reading { config, template: config.template()? };
        let rows = |split| reading.rows(split, places);
        let train =
            rows(Split::Train)?.ok_or_else(|| config.wrong("data", "without a train split", "another data set"))?;
        let valid = rows(Split::Valid)?;
        if let Some(valid) = &valid {
            refuse_shared_paths(train.paths(), valid.paths(), ["tasks.files", "tasks.valid_files"])?;
        }
        let read = |split, rows: TextRows| reading.read(split, &rows);
        let task = Self {
            config: config.clone(),
            train: read(Split::Train, train)?
                .ok_or_else(|| config.wrong("target", &config.target, "a column with texts"))?,
            valid: valid.map(|rows| read(Split::Valid, rows)).transpose()?.flatten(),
            test: rows(Split::Test)?.map(|rows| read(Split::Test, rows)).transpose()?.flatten(),
        };
        for scored in [&task.valid, &task.test].into_iter().flatten() {
            scored.warn_of_shared(&task.train);
        }
        Ok(task)
    }
}

/// How the rows of a task become pairs.
struct Reading<'a> {
    config: &'a TaskConfig,
    template: Template,
}

impl Reading<'_> {
    fn rows(&self, split: Split, places: &Places) -> Result<Option<TextRows>, DataError> {
        let config = self.config;
        let mut columns = self.template.columns().to_vec();
        columns.push(config.target.clone());
        columns.sort_unstable();
        columns.dedup();
        if let Some(name) = &config.data {
            return rows_of_data_set(name, split, &columns, places);
        }
        let (files, key) = match split {
            Split::Train => (&config.files, "files"),
            Split::Valid => (&config.valid_files, "valid_files"),
            Split::Test => (&config.test_files, "test_files"),
        };
        if files.is_empty() {
            return Ok(None);
        }
        rows_of_files(files, config.format, &columns, |value, expected| config.wrong(key, value, expected)).map(Some)
    }

    /// `None`: a test set whose targets are secret.
    fn read(&self, split: Split, rows: &TextRows) -> Result<Option<TextPairs>, DataError> {
        let config = self.config;
        let mut required = self.template.columns().to_vec();
        let optional = match split {
            Split::Test => Some(config.target.as_str()),
            Split::Train | Split::Valid => {
                required.push(config.target.clone());
                None
            }
        };
        let read = rows.read(WantedColumns { required: &required, optional })?;
        let name = format!("{split} of {}", config.name);
        if split == Split::Test && read.iter().all(|row| self.is_secret(row)) {
            tracing::info!("{name} is left out: it has no `{}`", config.target);
            return Ok(None);
        }
        let made_of = format!("{:?} {:?} {:?} {:?}", config.prefix, config.source, config.target, config.words);
        let sides = [self.template.columns()[0].as_str(), config.target.as_str()];
        let pairs = TextPairs::from_rows(name, split, rows, read, sides, &made_of, |row| {
            let columns = self.template.columns().len();
            let texts = &row.texts[..columns];
            // A template around nothing is no text, and half a pair of sentences is none.
            let source = match texts.iter().any(|text| text.trim().is_empty()) {
                true => String::new(),
                false => format!("{}{}", config.prefix, self.template.fill(texts)),
            };
            let target = row.texts.get(columns).or(row.optional.as_ref()).map_or("", String::as_str);
            Ok(TextPair { source, target: self.word(rows, row, target)? })
        })?;
        tracing::info!("{}", pairs.describe());
        Ok(Some(pairs))
    }

    /// Whether a row of a test set has no target, or the -1 that Hugging Face's copies of GLUE have for it.
    fn is_secret(&self, row: &TextRow) -> bool {
        let target = row.optional.as_deref().map_or("", str::trim);
        target.is_empty() || (target == "-1" && !self.config.words.is_empty() && !self.config.words.contains_key("-1"))
    }

    /// What is to be written for what stands in the target column.
    fn word(&self, rows: &TextRows, row: &TextRow, target: &str) -> Result<String, DataError> {
        let (target, words) = (target.trim(), &self.config.words);
        if words.is_empty() || target.is_empty() {
            return Ok(target.to_owned());
        }
        words.get(target).cloned().ok_or_else(|| DataError::MissingWord {
            path: rows.path(row, &self.config.target).into(),
            line: row.line,
            task: self.config.name.clone(),
            label: target.to_owned(),
            known: words.keys().cloned().collect::<Vec<_>>().join(", "),
        })
    }
}
