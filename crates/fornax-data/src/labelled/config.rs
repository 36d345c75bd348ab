use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::TableFormat;
use super::example::{LabelKind, LabelledSet};
use super::find::TaskFiles;
use super::read::{ExampleTable, Spelling};
use super::tasks::{Columns, GlueTask, TaskInfo, TaskSet};
use crate::dataset::{Places, SourceKeys};
use crate::source::{
    Column, Format, FoundFile, agreed, file_sha256, find_files, hash_parts, list_paths, no_valid_files,
    refuse_listed_twice, refuse_shared,
};
use crate::{DataError, Split};

/// The table `[data]` of a recipe that learns labels: a GLUE task, or the user's own tables.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LabelledConfig {
    /// `cola`, `sst2`, `mrpc`, `stsb`, `qqp`, `mnli`, `qnli`, `rte` or `wnli`, with the official files or those of the Hugging Face
    /// hub.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<GlueTask>,
    /// A folder that holds the files of the task. Default: the first of `$FORNAX_DATA` and the cache that has them.
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

/// The sets of a task that a model is scored on.
#[derive(Clone, Debug)]
pub struct ScoredSets {
    /// What the labels may be.
    pub kind: LabelKind,
    /// The valid sets, then those test sets whose labels are not secret.
    pub sets: Vec<LabelledSet>,
}

impl LabelledConfig {
    /// As [`DataConfig::SOURCE_KEYS`](crate::DataConfig::SOURCE_KEYS).
    pub const SOURCE_KEYS: SourceKeys = &[
        ("files", &["task", "folder"]),
        (
            "task",
            &[
                "folder",
                "files",
                "valid_files",
                "test_files",
                "format",
                "text_column",
                "text_pair_column",
                "label_column",
                "labels",
                "regression",
            ],
        ),
    ];

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
        let (mut train, mut valid, mut test) = (None, Vec::new(), Vec::new());
        for (split, set) in self.sets(places, Purpose::Training)? {
            match split {
                Split::Train => train = Some(set),
                Split::Valid => valid.push(set),
                Split::Test => test.push(set),
            }
        }
        let name = || self.task.map_or("data.files", |task| task.info().name);
        let train = train.ok_or_else(|| DataError::UnknownSplit { name: name().into(), split: Split::Train })?;
        Ok(LabelledSplits { task: self.task, kind: self.kind(), train, valid, test })
    }

    /// Opens only what a model is scored on, with the places that the environment names; what is trained on need not be here.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_scored(&self) -> Result<ScoredSets, DataError> {
        self.open_scored_in(Places::from_environment())
    }

    /// As [`open_scored`](Self::open_scored), with these places.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_scored_in(&self, places: Places) -> Result<ScoredSets, DataError> {
        self.check_for(Purpose::Scoring)?;
        let found = self.sets(places, Purpose::Scoring)?.into_iter().map(|(_, set)| set);
        Ok(ScoredSets { kind: self.kind(), sets: found.filter(LabelledSet::is_labelled).collect() })
    }

    fn sets(&self, places: Places, purpose: Purpose) -> Result<Vec<(Split, LabelledSet)>, DataError> {
        let sets = match self.task {
            Some(task) => task_sets(task, &places.in_folder(self.folder.as_ref()), purpose)?,
            None => self.own_sets(purpose)?,
        };
        for (_, set) in &sets {
            tracing::info!("{}", set.describe());
        }
        Ok(sets)
    }

    fn kind(&self) -> LabelKind {
        match self.task {
            Some(task) => task.info().label_kind(),
            None if self.regression => LabelKind::Score,
            None => LabelKind::Classes(self.labels.clone()),
        }
    }

    /// Refuses keys that exclude each other or do nothing together; looks at no file.
    ///
    /// # Errors
    /// The first such pair, and the reason.
    pub fn check(&self) -> Result<(), DataError> {
        self.check_for(Purpose::Training)
    }

    fn check_for(&self, purpose: Purpose) -> Result<(), DataError> {
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
        let (needed, own) = match purpose {
            Purpose::Training => (&self.files, "data.files"),
            Purpose::Scoring => (&self.valid_files, "data.valid_files"),
        };
        if self.files.is_empty() && needed.is_empty() {
            let tasks = GlueTask::ALL.map(|task| task.info().name).join(", ");
            return value("data.task", "not set", &format!("one of {tasks}, or {own}"));
        }
        if self.valid_files.is_empty() {
            return Err(no_valid_files());
        }
        refuse_listed_twice(&self.files, &self.valid_files)?;
        if self.folder.is_some() {
            return conflict("data.folder", own, "the folder belongs to a GLUE task");
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

    fn own_sets(&self, purpose: Purpose) -> Result<Vec<(Split, LabelledSet)>, DataError> {
        let listed = self.own_files(purpose);
        let format = self.format_of(&listed)?;
        let kind = self.kind();
        let text = self.text_column.as_deref().unwrap_or("text");
        let columns = Columns {
            headerless: None,
            text: Column::Name(text),
            pair: self.text_pair_column.as_deref().map(Column::Name),
            label: Column::Name(self.label_column.as_deref().unwrap_or("label")),
        };
        let mut found = Vec::with_capacity(listed.len());
        for (split, paths) in listed {
            found.push((split, find_files(paths, Format::Text, &format.extensions())?));
        }
        if let [(Split::Train, train), (Split::Valid, valid), ..] = &found[..] {
            refuse_shared(train, valid)?;
        }
        let open = |(split, files): (Split, Vec<FoundFile>)| {
            let secret = split == Split::Test;
            let table = ExampleTable {
                format,
                columns,
                labels: &kind,
                secret,
                incomplete_rows: false,
                task: None,
                spelling: Spelling::Any,
                hub: None,
                only: None,
            };
            let paths: Vec<PathBuf> = files.into_iter().map(|file| file.path).collect();
            Ok((split, read_set(&split.to_string(), &table, &paths)?))
        };
        found.into_iter().map(open).collect()
    }

    /// The lists of own files that there are, in this order.
    fn own_files(&self, purpose: Purpose) -> Vec<(Split, &[PathBuf])> {
        let lists = [(Split::Train, &self.files), (Split::Valid, &self.valid_files), (Split::Test, &self.test_files)];
        let wanted = |split| purpose == Purpose::Training || split != Split::Train;
        let lists = lists.into_iter().map(|(split, files)| (split, files.as_slice()));
        lists.filter(|(split, files)| wanted(*split) && !files.is_empty()).collect()
    }

    /// The format that is given, else the one that all names agree on.
    fn format_of(&self, lists: &[(Split, &[PathBuf])]) -> Result<TableFormat, DataError> {
        if let Some(format) = self.format {
            return Ok(format);
        }
        let wrong = |value: String| DataError::ConfigValue {
            key: if matches!(lists, [(Split::Train, _), ..]) { "data.files" } else { "data.valid_files" },
            value,
            expected: "tsv, csv, jsonl or parquet files, all of one format, or data.format".into(),
        };
        let formats: Vec<TableFormat> = lists
            .iter()
            .flat_map(|(_, files)| *files)
            .map(|path| {
                TableFormat::of(path).ok_or_else(|| wrong(format!("{}, judging by its name no table", path.display())))
            })
            .collect::<Result<_, _>>()?;
        agreed(formats).ok_or_else(|| wrong("a mix of formats, judging by the names".into()))
    }
}

/// What sets are opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// All of them, and train and valid must be here.
    Training,
    /// Valid, which must be here, and test.
    Scoring,
}

impl Purpose {
    /// Whether there is no doing without a split.
    pub(super) fn needs(self, split: Split) -> bool {
        match self {
            Self::Training => split != Split::Test,
            Self::Scoring => split == Split::Valid,
        }
    }
}

fn task_sets(task: GlueTask, places: &Places, purpose: Purpose) -> Result<Vec<(Split, LabelledSet)>, DataError> {
    let (info, files) = (task.info(), TaskFiles::find(task, places, purpose)?);
    let wanted = info.sets.iter().filter(|set| purpose == Purpose::Training || set.split != Split::Train);
    let mut sets = Vec::new();
    for set in wanted {
        match read_task_set(info, set, &files)? {
            Some(found) => sets.push((set.split, found)),
            None => tracing::info!("{} of {} is not in {}", set.name, info.title, files.folder.display()),
        }
    }
    Ok(sets)
}

/// `None`: its file is not here.
fn read_task_set(info: &TaskInfo, set: &TaskSet, files: &TaskFiles) -> Result<Option<LabelledSet>, DataError> {
    let Some(found) = files.of(set)? else {
        return Ok(None);
    };
    let (kind, listed) = (info.label_kind(), files.listed()?);
    let table = ExampleTable {
        format: found.format,
        columns: found.columns,
        labels: &kind,
        secret: set.split == Split::Test,
        incomplete_rows: info.incomplete_rows && files.hub.is_none(),
        task: Some(info.title),
        spelling: if files.hub.is_some() { Spelling::Any } else { info.spelling() },
        hub: files.hub.as_ref(),
        only: found.listed.map(|listed_rows| (&listed, listed_rows)),
    };
    let read = read_set(set.name, &table, &found.paths)?;
    if read.examples().len() != set.rows {
        let (paths, rows) = (list_paths(&found.paths), read.examples().len());
        tracing::warn!("{paths}: has {rows} examples, the official {} of {} has {}", set.name, info.title, set.rows);
    }
    Ok(Some(read))
}

fn read_set(name: &str, table: &ExampleTable<'_>, paths: &[PathBuf]) -> Result<LabelledSet, DataError> {
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
    parts.extend(table.hub.map(|hub| format!("{hub:?}")));
    let fingerprint = hash_parts(parts.iter().map(String::as_str));
    Ok(LabelledSet::new(name.to_owned(), table.labels.clone(), examples, fingerprint, list_paths(paths)))
}
