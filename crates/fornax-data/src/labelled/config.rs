use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::TableFormat;
use super::example::{LabelKind, LabelledSet};
use super::find::TaskFiles;
use super::read::Table;
use super::tasks::{Column, Columns, GlueTask, TaskInfo, TaskSet};
use crate::dataset::Places;
use crate::source::{Format, FoundFile, file_sha256, find_files, hash_parts, list_paths, refuse_shared};
use crate::{DataError, Split};

/// The table `[data]` of a recipe that learns labels: a GLUE task, or the user's own tables.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LabelledConfig {
    /// `cola`, `sst2`, `mrpc`, `stsb`, `qqp`, `mnli`, `qnli`, `rte` or `wnli`, with the official files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<GlueTask>,
    /// A folder that holds the files of the task, looked into before `$FORNAX_DATA` and the cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folder: Option<PathBuf>,
    /// The user's own tables to learn from, instead of `task`. Relative to the working folder.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<PathBuf>,
    /// Tables to evaluate on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub valid_files: Vec<PathBuf>,
    /// Tables to predict at the end; their labels may be missing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub test_files: Vec<PathBuf>,
    /// `tsv`, `csv`, `jsonl` or `parquet`. Default: what the names of the files say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<TableFormat>,
    /// The column or JSON key that holds the text. Default: `text`, the name that most public data sets use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_column: Option<String>,
    /// The column that holds the second text, for pairs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_pair_column: Option<String>,
    /// The column that holds the label. Default: `label`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_column: Option<String>,
    /// The classes in the order of their numbers, by the names that stand in the files; where the files have numbers from 0 on, any
    /// names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// Whether the label is a number instead of a class.
    pub regression: bool,
    /// Tokens of an example at most, special tokens included; what is longer is cut on the right, the longer text of a pair first.
    pub max_len: usize,
    /// Whether a batch takes examples of about the same length, which spares padding.
    pub group_by_length: bool,
}

impl Default for LabelledConfig {
    fn default() -> Self {
        Self {
            task: None,
            folder: None,
            files: Vec::new(),
            valid_files: Vec::new(),
            test_files: Vec::new(),
            format: None,
            text_column: None,
            text_pair_column: None,
            label_column: None,
            labels: Vec::new(),
            regression: false,
            // BERT's own scripts and Hugging Face's `run_glue.py` take 128 for GLUE.
            max_len: 128,
            // On SST-2 two thirds of the positions are padding without it.
            group_by_length: true,
        }
    }
}

/// All sets of a task.
#[derive(Clone, Debug)]
pub struct LabelledSplits {
    /// The GLUE task; `None` for own files.
    pub task: Option<GlueTask>,
    /// What the labels may be.
    pub kind: LabelKind,
    /// What is learned from.
    pub train: LabelledSet,
    /// What is measured during training: one set, for MNLI two.
    pub valid: Vec<LabelledSet>,
    /// What is predicted at the end; none where there is no file.
    pub test: Vec<LabelledSet>,
}

impl LabelledSplits {
    /// The metric of the first valid set that chooses the best model; more is better.
    pub fn best(&self) -> &'static str {
        match (self.task, &self.kind) {
            (Some(task), _) => task.info().best,
            (None, LabelKind::Score) => "spearman",
            (None, LabelKind::Classes(_)) => "accuracy",
        }
    }
}

impl LabelledConfig {
    /// Opens all sets, with the places that the environment names. Downloads what is not here.
    ///
    /// # Errors
    /// Keys that exclude each other, or anything that keeps a file from being read.
    pub fn open(&self) -> Result<LabelledSplits, DataError> {
        self.open_in(Places::from_environment())
    }

    /// As [`open`](Self::open), with these places.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_in(&self, places: Places) -> Result<LabelledSplits, DataError> {
        self.check()?;
        let splits = match self.task {
            Some(task) => {
                let folder = self.folder.clone().or(places.folder);
                open_task(task, &Places { folder, ..places })?
            }
            None => self.open_files()?,
        };
        for set in std::iter::once(&splits.train).chain(&splits.valid).chain(&splits.test) {
            tracing::info!("{}", set.describe());
        }
        Ok(splits)
    }

    /// Refuses keys that exclude each other or do nothing together; looks at no file.
    ///
    /// # Errors
    /// The first such pair, and the reason.
    pub fn check(&self) -> Result<(), DataError> {
        let value = |key, value: &str, expected: &str| {
            Err(DataError::ConfigValue { key, value: value.into(), expected: expected.into() })
        };
        let conflict =
            |first, second: &str, reason| Err(DataError::ConfigConflict { first, second: second.into(), reason });
        if let Some(task) = self.task {
            let own = [
                ("data.files", !self.files.is_empty()),
                ("data.valid_files", !self.valid_files.is_empty()),
                ("data.test_files", !self.test_files.is_empty()),
                ("data.format", self.format.is_some()),
                ("data.text_column", self.text_column.is_some()),
                ("data.text_pair_column", self.text_pair_column.is_some()),
                ("data.label_column", self.label_column.is_some()),
                ("data.labels", !self.labels.is_empty()),
                ("data.regression", self.regression),
            ];
            return match own.into_iter().find(|(_, set)| *set) {
                Some((key, _)) => conflict(
                    key,
                    &format!("data.task = \"{task}\""),
                    "a GLUE task brings its own; it goes with data.files",
                ),
                None => Ok(()),
            };
        }
        if self.files.is_empty() {
            let tasks = GlueTask::ALL.map(|task| task.info().name).join(", ");
            return value("data.task", "not set", &format!("one of {tasks}, or data.files"));
        }
        if self.valid_files.is_empty() {
            return value("data.valid_files", "empty", "the files to evaluate on, which data.files needs beside it");
        }
        if let Some(both) = self.files.iter().find(|file| self.valid_files.contains(file)) {
            let expected = "a file that is not in `data.files` too";
            return value("data.valid_files", &both.display().to_string(), expected);
        }
        if self.folder.is_some() {
            return conflict("data.folder", "data.files", "the folder belongs to a GLUE task");
        }
        match (self.regression, self.labels.as_slice()) {
            (true, [_, ..]) => conflict("data.regression", "data.labels", "a label is a number or a class"),
            (false, [] | [_]) => {
                let names = format!("{:?}", self.labels);
                let expected = "at least two classes in the order of their numbers, as [\"negative\", \"positive\"], \
                                or data.regression = true";
                value("data.labels", &names, expected)
            }
            (_, names) => match (1..names.len()).find(|&i| names[..i].contains(&names[i])) {
                Some(again) => value("data.labels", &format!("{names:?}"), &format!("`{}` once", names[again])),
                None => Ok(()),
            },
        }
    }

    fn open_files(&self) -> Result<LabelledSplits, DataError> {
        let format = self.format_of_files()?;
        let kind = if self.regression { LabelKind::Score } else { LabelKind::Classes(self.labels.clone()) };
        let text = self.text_column.as_deref().unwrap_or("text");
        let columns = Columns {
            headerless: None,
            text: Column::Name(text),
            pair: self.text_pair_column.as_deref().map(Column::Name),
            label: Column::Name(self.label_column.as_deref().unwrap_or("label")),
        };
        let find = |paths| find_files(paths, Format::Text, &format.extensions());
        let (train, valid) = (find(&self.files)?, find(&self.valid_files)?);
        refuse_shared(&train, &valid)?;
        let open = |split: Split, found: Vec<FoundFile>| {
            let secret = split == Split::Test;
            let table =
                Table { format, columns, labels: &kind, secret, incomplete_rows: false, task: None, only: None };
            let found: Vec<PathBuf> = found.into_iter().map(|file| file.path).collect();
            read_set(&split.to_string(), &table, &found)
        };
        let (train, valid) = (open(Split::Train, train)?, vec![open(Split::Valid, valid)?]);
        let test =
            if self.test_files.is_empty() { Vec::new() } else { vec![open(Split::Test, find(&self.test_files)?)?] };
        Ok(LabelledSplits { task: None, train, valid, test, kind })
    }

    /// The format that is given, else the one that all names agree on.
    fn format_of_files(&self) -> Result<TableFormat, DataError> {
        if let Some(format) = self.format {
            return Ok(format);
        }
        let wrong = |value: String| DataError::ConfigValue {
            key: "data.files",
            value,
            expected: "tsv, csv, jsonl or parquet files, all of one format, or data.format".into(),
        };
        let files = || self.files.iter().chain(&self.valid_files).chain(&self.test_files);
        let formats: Vec<TableFormat> = files()
            .map(|path| {
                TableFormat::of(path).ok_or_else(|| wrong(format!("{}, judging by its name no table", path.display())))
            })
            .collect::<Result<_, _>>()?;
        match formats.as_slice() {
            [first, rest @ ..] if rest.iter().all(|format| format == first) => Ok(*first),
            _ => Err(wrong("a mix of formats, judging by the names".into())),
        }
    }
}

fn open_task(task: GlueTask, places: &Places) -> Result<LabelledSplits, DataError> {
    let (info, files) = (task.info(), TaskFiles::find(task, places)?);
    let (mut train, mut valid, mut test) = (None, Vec::new(), Vec::new());
    for set in info.sets {
        let Some(found) = read_task_set(info, set, &files)? else {
            tracing::info!("{} of {} is not in {}", set.name, info.title, files.folder.display());
            continue;
        };
        match set.split {
            Split::Train => train = Some(found),
            Split::Valid => valid.push(found),
            Split::Test => test.push(found),
        }
    }
    let train = train.ok_or_else(|| DataError::UnknownSplit { name: info.name.into(), split: Split::Train })?;
    Ok(LabelledSplits { task: Some(task), kind: info.label_kind(), train, valid, test })
}

/// `None`: its file is not here.
fn read_task_set(info: &TaskInfo, set: &TaskSet, files: &TaskFiles) -> Result<Option<LabelledSet>, DataError> {
    let Some(file) = files.of(set) else {
        return Ok(None);
    };
    let (kind, listed) = (info.label_kind(), files.listed()?);
    let table = Table {
        format: TableFormat::Tsv,
        columns: set.columns,
        labels: &kind,
        secret: set.split == Split::Test,
        incomplete_rows: info.incomplete_rows,
        task: Some(info.title),
        only: file.listed.map(|listed_rows| (&listed, listed_rows)),
    };
    let found = read_set(set.name, &table, std::slice::from_ref(&file.path))?;
    if found.examples().len() != set.rows {
        let (path, rows) = (file.path.display(), found.examples().len());
        tracing::warn!("{path}: has {rows} examples, the official {} of {} has {}", set.name, info.title, set.rows);
    }
    Ok(Some(found))
}

fn read_set(name: &str, table: &Table<'_>, paths: &[PathBuf]) -> Result<LabelledSet, DataError> {
    let mut examples = Vec::new();
    let mut parts = vec![format!("{:?} {:?} {:?}", table.format, table.columns, table.labels)];
    for path in paths {
        let first = examples.last().map_or(0, |last: &super::LabelledExample| last.index + 1);
        examples.extend(table.read(path, first)?);
        parts.push(file_sha256(path)?);
    }
    parts.push(format!(
        "{:?}",
        table.only.map(|(ids, wanted)| {
            let mut ids: Vec<&String> = ids.iter().collect();
            ids.sort_unstable();
            (ids, wanted)
        })
    ));
    let fingerprint = hash_parts(parts.iter().map(String::as_str));
    Ok(LabelledSet::new(name.to_owned(), table.labels.clone(), examples, fingerprint, list_paths(paths)))
}
