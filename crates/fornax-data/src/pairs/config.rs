use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::batches::PairBatches;
use super::encode::{PairEncoder, PairSet};
use super::find::{rows_of_data_set, rows_of_files};
use super::text_pairs::{TextPair, TextPairs};
use crate::dataset::{Places, SourceKeys};
use crate::source::{TableFormat, TextRows, WantedColumns, hash_parts, no_valid_files, refuse_shared_paths};
use crate::{DataError, Fill, Split, StepSize, Tokenizer};

/// The table `[data]` of a recipe that learns pairs of texts, as translation does: a data set, parallel files, or tables.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PairConfig {
    /// A folder of `datasets/` with pairs in it, as `multi30k`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// A folder that holds the files of the data set `name`: the only place they are then taken from. Default: `$FORNAX_DATA`, the
    /// cache, or a download.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folder: Option<PathBuf>,
    /// The column that is read; of a data set or files in several languages the language, as `de` for `train.de` and `train.de.gz`.
    pub source: String,
    /// The column or language that is to be written.
    pub target: String,
    /// Files or folders to learn from, instead of `name`: tables with the columns `source` and `target`, or parallel files with these
    /// extensions, which belong together by their names. Relative to the working folder.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<PathBuf>,
    /// Files to evaluate on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub valid_files: Vec<PathBuf>,
    /// Files to evaluate on at the end.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub test_files: Vec<PathBuf>,
    /// `tsv`, `csv`, `jsonl` or `parquet`. Default: what the names of the files say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<TableFormat>,
    /// Parallel files of any names to learn from, instead of `name` and `files`.
    #[serde(skip_serializing_if = "ParallelFiles::is_empty")]
    pub train: ParallelFiles,
    /// Parallel files to evaluate on.
    #[serde(skip_serializing_if = "ParallelFiles::is_empty")]
    pub valid: ParallelFiles,
    /// Parallel files to evaluate on at the end.
    #[serde(skip_serializing_if = "ParallelFiles::is_empty")]
    pub test: ParallelFiles,
    /// Whether the model reads and writes in lower case. References stay as they are: `bleu` ignores case, `sacrebleu` and `chrf` don't.
    pub lowercase: bool,
    /// Tokens of a source at most, its end included; what is longer is cut on the right.
    pub max_source_len: usize,
    /// Tokens of a target at most, its end included.
    pub max_target_len: usize,
    /// Positions of a batch on its longer side at most, filling counted, instead of `train.micro_batch_size` pairs: fairseq's
    /// `--max-tokens`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_batch: Option<usize>,
    /// Whether a batch takes pairs of about the same length, which spares padding.
    pub group_by_length: bool,
}

/// Files of which line i of one belongs to line i of the other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ParallelFiles {
    /// Files of sources.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub source: Vec<PathBuf>,
    /// Files of targets: each belongs to the source of its name but for the extension, or if the names say nothing, of its place.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub target: Vec<PathBuf>,
}

impl ParallelFiles {
    fn is_empty(&self) -> bool {
        self.source.is_empty() && self.target.is_empty()
    }
}

impl Default for PairConfig {
    fn default() -> Self {
        Self {
            name: None,
            folder: None,
            source: "source".into(),
            target: "target".into(),
            files: Vec::new(),
            valid_files: Vec::new(),
            test_files: Vec::new(),
            format: None,
            train: ParallelFiles::default(),
            valid: ParallelFiles::default(),
            test: ParallelFiles::default(),
            lowercase: false,
            // Several times the length of a sentence: what is cut is the exception. Hugging Face's translation examples take 128 too.
            max_source_len: 128,
            max_target_len: 128,
            tokens_per_batch: None,
            // On Multi30k half of the positions of a batch are padding without it.
            group_by_length: true,
        }
    }
}

/// All sets of pairs.
#[derive(Clone, Debug)]
pub struct PairSplits {
    /// What is learned from.
    pub train: TextPairs,
    /// What is measured during training.
    pub valid: TextPairs,
    /// What is measured at the end, where there is such a set.
    pub test: Option<TextPairs>,
}

impl PairSplits {
    /// A hash of all sets, in hexadecimal; equal fingerprints mean equal pairs in each.
    pub fn fingerprint(&self) -> String {
        let test = self.test.as_ref().map_or("none", TextPairs::fingerprint);
        hash_parts([self.train.fingerprint(), self.valid.fingerprint(), test])
    }
}

impl PairConfig {
    /// As [`DataConfig::SOURCE_KEYS`](crate::DataConfig::SOURCE_KEYS).
    pub const SOURCE_KEYS: SourceKeys = &[
        ("files", &["name", "folder", "train", "valid", "test"]),
        ("train", &["name", "folder", "files", "valid_files", "test_files", "format"]),
        ("name", &["folder", "files", "valid_files", "test_files", "format", "train", "valid", "test"]),
    ];

    /// Opens all sets, with the places that the environment names. Downloads what is not here.
    ///
    /// # Errors
    /// Keys that exclude each other, or anything that keeps a file from being read.
    pub fn open(&self) -> Result<PairSplits, DataError> {
        self.open_in(Places::from_environment())
    }

    /// As [`open`](Self::open), with these places.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_in(&self, places: Places) -> Result<PairSplits, DataError> {
        let places = places.in_folder(self.folder.as_ref());
        self.check()?;
        let (train, valid) = (self.needed_rows(Split::Train, &places)?, self.needed_rows(Split::Valid, &places)?);
        let keys =
            if self.train.is_empty() { ["data.files", "data.valid_files"] } else { ["data.train", "data.valid"] };
        refuse_shared_paths(train.paths(), valid.paths(), keys)?;
        let test = self.rows(Split::Test, &places)?;
        let splits = PairSplits {
            train: self.read(Split::Train, &train)?,
            valid: self.read(Split::Valid, &valid)?,
            test: test.map(|rows| self.read(Split::Test, &rows)).transpose()?,
        };
        for scored in [Some(&splits.valid), splits.test.as_ref()].into_iter().flatten() {
            scored.warn_of_shared(&splits.train);
        }
        Ok(splits)
    }

    /// Opens only what a model is scored on, with the places that the environment names: valid, and test where there is one; what is
    /// trained on need not be here.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_scored(&self) -> Result<Vec<TextPairs>, DataError> {
        self.open_scored_in(Places::from_environment())
    }

    /// As [`open_scored`](Self::open_scored), with these places.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_scored_in(&self, places: Places) -> Result<Vec<TextPairs>, DataError> {
        let places = places.in_folder(self.folder.as_ref());
        self.check()?;
        let mut sets = vec![self.read(Split::Valid, &self.needed_rows(Split::Valid, &places)?)?];
        if let Some(test) = self.rows(Split::Test, &places)? {
            sets.push(self.read(Split::Test, &test)?);
        }
        Ok(sets)
    }

    /// What makes token ids of the pairs, as long as the config allows.
    pub fn encoder<'a>(&self, source: &'a Tokenizer, target: &'a Tokenizer, fill: Fill) -> PairEncoder<'a> {
        let Self { lowercase, max_source_len, max_target_len, .. } = *self;
        PairEncoder { source, target, lowercase, max_source_len, max_target_len, fill }
    }

    /// The batches of training as `tokens_per_batch` and `group_by_length` say; with the former, `size` has only to say how many of
    /// them a step takes.
    ///
    /// # Errors
    ///
    /// If a size is 0 or there is no pair.
    pub fn training_batches(&self, set: Arc<PairSet>, seed: u64, size: StepSize) -> Result<PairBatches, DataError> {
        match self.tokens_per_batch {
            Some(tokens) => PairBatches::by_tokens(set, seed, tokens, size.gradient_accumulation),
            None => PairBatches::training(set, seed, size, self.group_by_length),
        }
    }

    /// Refuses keys that exclude each other or do nothing together; looks at no file.
    ///
    /// # Errors
    /// The first such pair, and the reason.
    pub fn check(&self) -> Result<(), DataError> {
        let conflict =
            |first, second: &str, reason| Err(DataError::ConfigConflict { first, second: second.to_owned(), reason });
        let files = [
            ("data.files", !self.files.is_empty()),
            ("data.valid_files", !self.valid_files.is_empty()),
            ("data.test_files", !self.test_files.is_empty()),
            ("data.format", self.format.is_some()),
        ];
        let parallel = [
            ("data.train", !self.train.is_empty()),
            ("data.valid", !self.valid.is_empty()),
            ("data.test", !self.test.is_empty()),
        ];
        let first_set = |keys: &[(&'static str, bool)]| keys.iter().find(|(_, set)| *set).map(|(key, _)| *key);
        if self.source == self.target {
            let (value, source) = (self.target.clone(), &self.source);
            let expected = format!("another column or language than data.source = \"{source}\"");
            return Err(DataError::ConfigValue { key: "data.target", value, expected });
        }
        if self.tokens_per_batch.is_some() && !self.group_by_length {
            let reason = "batches of so many tokens are always of pairs of about the same length";
            return conflict("data.tokens_per_batch", "data.group_by_length = false", reason);
        }
        if let Some(name) = &self.name {
            return match first_set(&files).or(first_set(&parallel)) {
                Some(key) => conflict(key, &format!("data.name = \"{name}\""), "a named data set has its own files"),
                None => Ok(()),
            };
        }
        if let Some(folder) = &self.folder {
            return Err(DataError::ConfigValue {
                key: "data.folder",
                value: folder.display().to_string(),
                expected: "data.name beside it, for the folder belongs to a data set".into(),
            });
        }
        if let (Some(first), Some(second)) = (first_set(&files), first_set(&parallel)) {
            return conflict(first, second, "either names the files");
        }
        Ok(())
    }

    fn needed_rows(&self, split: Split, places: &Places) -> Result<TextRows, DataError> {
        self.rows(split, places)?.ok_or_else(|| {
            let value = |key, expected: &str| DataError::ConfigValue {
                key,
                value: "not set".into(),
                expected: expected.into(),
            };
            match (&self.name, split) {
                (Some(name), _) => DataError::UnknownSplit { name: name.clone(), split },
                (None, Split::Train) => {
                    value("data.name", "a data set with pairs, as \"multi30k\", or data.files, or data.train")
                }
                _ if self.train.is_empty() => no_valid_files(),
                _ => value("data.valid", "the files to evaluate on, which data.train needs beside it"),
            }
        })
    }

    /// The files of a split, where there are some.
    fn rows(&self, split: Split, places: &Places) -> Result<Option<TextRows>, DataError> {
        if let Some(name) = &self.name {
            let columns = [self.source.clone(), self.target.clone()];
            return rows_of_data_set(name, split, &columns, places);
        }
        let (files, parallel, keys) = match split {
            Split::Train => (&self.files, &self.train, ["data.files", "data.train"]),
            Split::Valid => (&self.valid_files, &self.valid, ["data.valid_files", "data.valid"]),
            Split::Test => (&self.test_files, &self.test, ["data.test_files", "data.test"]),
        };
        let wrong =
            |key| move |value: String, expected: &str| DataError::ConfigValue { key, value, expected: expected.into() };
        if !files.is_empty() {
            let columns = [self.source.clone(), self.target.clone()];
            return rows_of_files(files, self.format, &columns, wrong(keys[0])).map(Some);
        }
        if parallel.is_empty() {
            return Ok(None);
        }
        let columns = [(self.source.clone(), parallel.source.clone()), (self.target.clone(), parallel.target.clone())];
        TextRows::parallel(columns.into())?.map(Some).ok_or_else(|| {
            let value = format!("{} source and {} target files", parallel.source.len(), parallel.target.len());
            wrong(keys[1])(value, "one target file for each source file")
        })
    }

    fn read(&self, split: Split, rows: &TextRows) -> Result<TextPairs, DataError> {
        let columns = [self.source.clone(), self.target.clone()];
        let read = rows.read(WantedColumns { required: &columns, optional: None })?;
        let made_of = format!("{columns:?}");
        let names = [self.source.as_str(), self.target.as_str()];
        let pairs = TextPairs::from_rows(split.to_string(), split, rows, read, names, &made_of, |row| {
            Ok(TextPair { source: row.texts[0].clone(), target: row.texts[1].clone() })
        })?;
        tracing::info!("{}", pairs.describe());
        Ok(pairs)
    }
}
