use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use fornax_metrics::TextMetric;
use serde::{Deserialize, Serialize};

use super::template::Template;
use crate::DataError;
use crate::labelled::TableFormat;

/// One of `[[tasks]]`: where its rows are and how a row becomes a source and a target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskConfig {
    /// Its name in logs and metrics.
    pub name: String,
    /// A folder of `datasets/`, as `sst2` or `multi30k`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// Files to learn from, instead of `data`: tables, or parallel files whose extensions are their columns (`train.de`, `train.en`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<PathBuf>,
    /// Files to evaluate on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub valid_files: Vec<PathBuf>,
    /// Files to evaluate on at the end; where they have no targets, they are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub test_files: Vec<PathBuf>,
    /// `tsv`, `csv`, `jsonl` or `parquet`. Default: what the names of the files say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<TableFormat>,
    /// What stands before every source, as it is: `"translate German to English: "`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    /// What is read, with columns in braces: `"sst2 sentence: {sentence}"`; of parallel files the columns are the extensions.
    pub source: String,
    /// The column that is to be written, or whose label's word is.
    pub target: String,
    /// From each label, as it stands in the files, to the word that is written for it. Default: the column's text is written.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub words: BTreeMap<String, String>,
    /// What an output is measured by.
    pub metric: TextMetric,
    /// Its share of the mixture in proportion to the others', with `mixture.by = "weights"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
}

/// The table `[mixture]`: how often each task is drawn (T5, arXiv 1910.10683, section 3.5.2).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MixtureConfig {
    /// The rule.
    pub by: Mixing,
    /// With `temperature`: the shares of `proportional` to the power of 1 / temperature, so 1 is proportional and more is nearer to equal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// With `proportional` and `temperature`: a task counts as having so many examples at most. All of them are drawn from.
    pub size_limit: u64,
}

impl Default for MixtureConfig {
    fn default() -> Self {
        // The limit with the best average in T5's comparison: 2^19.
        Self { by: Mixing::Proportional, temperature: None, size_limit: 524_288 }
    }
}

/// How tasks are mixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mixing {
    /// In proportion to their numbers of examples.
    Proportional,
    /// Each as often as the others.
    Equal,
    /// Between the two, by a temperature.
    Temperature,
    /// In proportion to the `weight` of each task.
    Weights,
}

impl TaskConfig {
    /// What stands before the one text that a source is made of; `None` where a source is made of more, or something comes behind it.
    pub fn text_prefix(&self) -> Option<String> {
        let template = Template::parse(&self.source).ok()?;
        template.prefix().map(|prefix| self.prefix.clone() + prefix)
    }

    /// An error about one of its keys.
    pub(super) fn wrong(&self, key: &'static str, value: impl Into<String>, expected: &str) -> DataError {
        DataError::TaskValue { task: self.name.clone(), key, value: value.into(), expected: expected.into() }
    }

    /// Checks all keys but those of files and columns, which need the files; the template of the sources, with the prefix.
    pub(super) fn template(&self) -> Result<Template, DataError> {
        let own = [
            ("files", !self.files.is_empty()),
            ("valid_files", !self.valid_files.is_empty()),
            ("test_files", !self.test_files.is_empty()),
            ("format", self.format.is_some()),
        ];
        if self.name.trim().is_empty() {
            return Err(self.wrong("name", "empty", "a name, which metrics are logged under"));
        }
        match (&self.data, own.iter().find(|(_, set)| *set)) {
            (Some(data), Some((key, _))) => {
                return Err(self.wrong(key, "set", &format!("either own files or tasks.data = \"{data}\"")));
            }
            (None, _) if self.files.is_empty() => {
                return Err(self.wrong("data", "not set", "a folder of datasets/, or tasks.files"));
            }
            _ => {}
        }
        if let Some(weight) = self.weight.filter(|weight| !(weight.is_finite() && *weight > 0.0)) {
            return Err(self.wrong("weight", weight.to_string(), "a number above 0"));
        }
        let mut seen = BTreeMap::new();
        for (label, word) in &self.words {
            if word.trim().is_empty() || word.trim() != word {
                return Err(self.wrong("words", format!("{word:?} for `{label}`"), "a word without spaces around it"));
            }
            if let Some(other) = seen.insert(word, label) {
                let value = format!("{word:?} for both `{other}` and `{label}`");
                return Err(self.wrong("words", value, "a word of its own for each label"));
            }
        }
        Template::parse(&self.source).map_err(|expected| self.wrong("source", format!("{:?}", self.source), expected))
    }
}

impl MixtureConfig {
    /// Checks what can be checked before any file is read.
    ///
    /// # Errors
    /// A temperature or weights that are missing, make no sense, or play no part.
    pub fn check(&self, tasks: &[TaskConfig]) -> Result<(), DataError> {
        let tasks: Vec<&TaskConfig> = tasks.iter().collect();
        self.shares(&tasks, &vec![1; tasks.len()]).map(|_| ())
    }

    /// The share of each task, in their order; they add up to 1. `sizes` are the numbers of their examples, none 0.
    ///
    /// # Errors
    /// A temperature or weights that are missing, make no sense, or play no part.
    pub(super) fn shares(&self, tasks: &[&TaskConfig], sizes: &[u64]) -> Result<Vec<f64>, DataError> {
        let value =
            |key, value: String, expected: &str| Err(DataError::ConfigValue { key, value, expected: expected.into() });
        if self.size_limit == 0 {
            return value("mixture.size_limit", "0".into(), "at least 1");
        }
        match (self.by, self.temperature) {
            (Mixing::Temperature, None) => {
                return value(
                    "mixture.temperature",
                    "not set".into(),
                    "a number from 1 on, as mixture.by = \"temperature\" needs it",
                );
            }
            (Mixing::Temperature, Some(given)) if !(given.is_finite() && given >= 1.0) => {
                return value("mixture.temperature", given.to_string(), "a number from 1 on");
            }
            (Mixing::Proportional | Mixing::Equal | Mixing::Weights, Some(_)) => {
                let second = format!("mixture.by = \"{}\"", self.by);
                let reason = "a temperature goes with mixture.by = \"temperature\"";
                return Err(DataError::ConfigConflict { first: "mixture.temperature", second, reason });
            }
            _ => {}
        }
        let limited = sizes.iter().map(|&size| size.min(self.size_limit) as f64);
        let rates: Vec<f64> = match self.by {
            Mixing::Proportional => limited.collect(),
            Mixing::Equal => vec![1.0; sizes.len()],
            Mixing::Temperature => limited.map(|size| size.powf(1.0 / self.temperature.unwrap_or(1.0))).collect(),
            Mixing::Weights => {
                let weight = |task: &&TaskConfig| {
                    let missing =
                        || task.wrong("weight", "not set", "a number above 0, as mixture.by = \"weights\" needs it");
                    task.weight.ok_or_else(missing)
                };
                tasks.iter().map(weight).collect::<Result<_, _>>()?
            }
        };
        if self.by != Mixing::Weights
            && let Some(task) = tasks.iter().find(|task| task.weight.is_some())
        {
            return Err(task.wrong("weight", "set", "mixture.by = \"weights\" beside it, or no weight"));
        }
        let sum: f64 = rates.iter().sum();
        Ok(rates.into_iter().map(|rate| rate / sum).collect())
    }
}

impl fmt::Display for Mixing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Proportional => "proportional",
            Self::Equal => "equal",
            Self::Temperature => "temperature",
            Self::Weights => "weights",
        })
    }
}
