//! GLUE as the Hugging Face hub has it: `nyu-mll/glue`, as it is downloaded from there or saved by `datasets`.

use std::fs::read_dir;
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

use super::TableFormat;
use super::tasks::{Columns, GlueTask, TaskSet, pair, single};
use crate::DataError;

/// Endings of the files, in the order in which they are looked for; `.json` has one object a line too.
pub(super) const ENDINGS: [(&str, TableFormat); 4] = [
    ("parquet", TableFormat::Parquet),
    ("jsonl", TableFormat::Jsonl),
    ("json", TableFormat::Jsonl),
    ("csv", TableFormat::Csv),
];

/// The column that numbers the examples as GLUE's own files do, which a submission needs.
pub(super) const INDEX: &str = "idx";

/// What the tables of a task have, other than the official ones.
#[derive(Debug)]
pub(super) struct HubTable {
    pub(super) columns: Columns<'static>,
    /// The classes in the order of the numbers that stand for them there; none for scores.
    pub(super) classes: &'static [&'static str],
}

impl HubTable {
    pub(super) const fn of(task: GlueTask) -> Self {
        const SENTENCE: Columns<'static> = single("sentence", "label");
        const SENTENCES: Columns<'static> = pair("sentence1", "sentence2", "label");
        const QUESTIONS: Columns<'static> = pair("question1", "question2", "label");
        const PREMISE: Columns<'static> = pair("premise", "hypothesis", "label");
        const QUESTION: Columns<'static> = pair("question", "sentence", "label");
        let (columns, classes): (_, &[&str]) = match task {
            GlueTask::Cola => (SENTENCE, &["unacceptable", "acceptable"]),
            GlueTask::Sst2 => (SENTENCE, &["negative", "positive"]),
            GlueTask::Mrpc => (SENTENCES, &["not_equivalent", "equivalent"]),
            GlueTask::Stsb => (SENTENCES, &[]),
            GlueTask::Qqp => (QUESTIONS, &["not_duplicate", "duplicate"]),
            GlueTask::Mnli => (PREMISE, &["entailment", "neutral", "contradiction"]),
            GlueTask::Qnli => (QUESTION, &["entailment", "not_entailment"]),
            GlueTask::Rte => (SENTENCES, &["entailment", "not_entailment"]),
            GlueTask::Wnli => (SENTENCES, &["not_entailment", "entailment"]),
        };
        Self { columns, classes }
    }

    /// The name of the class whose number stands in the table, or what else it has for a label; `None` for -1, which stands where the
    /// label is secret.
    pub(super) fn label<'a>(&self, text: &'a str) -> Option<&'a str> {
        if text.parse() == Ok(-1.0_f32) {
            return None;
        }
        let named = text.parse().ok().and_then(|number: usize| self.classes.get(number).copied());
        Some(named.unwrap_or(text))
    }
}

/// What the hub calls a set: `train`, `validation`, `validation_matched`, ...
pub(super) fn stem(set: &TaskSet) -> String {
    set.file.trim_end_matches(".tsv").replace("dev", "validation")
}

/// The files of a set in `folder`, or below it in the folder of the task's name: one, or all shards in order. `None`: there is none.
///
/// # Errors
/// A folder that can't be listed; a shard that lacks.
pub(super) fn find(folder: &Path, task: &str, set: &TaskSet) -> Result<Option<(Vec<PathBuf>, TableFormat)>, DataError> {
    for folder in [folder.to_path_buf(), folder.join(task)].iter().filter(|folder| folder.is_dir()) {
        for (ending, format) in ENDINGS {
            let whole = folder.join(format!("{}.{ending}", stem(set)));
            let paths = if whole.is_file() { vec![whole] } else { shards(folder, &stem(set), ending)? };
            if !paths.is_empty() {
                return Ok(Some((paths, format)));
            }
        }
    }
    Ok(None)
}

/// `STEM-00000-of-00002.ENDING` and so on, in order.
fn shards(folder: &Path, stem: &str, ending: &str) -> Result<Vec<PathBuf>, DataError> {
    let count = |name: &str| {
        let (shard, count) = name.strip_prefix(stem)?.strip_prefix('-')?.strip_suffix(ending)?.split_once("-of-")?;
        shard.parse::<usize>().ok()?;
        count.strip_suffix('.')?.parse::<usize>().ok()
    };
    let mut counts = Vec::new();
    for entry in read_dir(folder).map_err(DataError::io(folder))? {
        counts.extend(count(&entry.map_err(DataError::io(folder))?.file_name().to_string_lossy()));
    }
    let Some(&count) = counts.iter().max() else { return Ok(Vec::new()) };
    let name = |shard| format!("{stem}-{shard:05}-of-{count:05}.{ending}");
    let paths: Vec<PathBuf> = (0..count).map(|shard| folder.join(name(shard))).collect();
    match paths.iter().find(|path| !path.is_file()) {
        Some(lacking) => {
            let reason = format!("of the {count} shards of {stem} this one is not here; download it beside the others");
            Err(DataError::io(lacking)(Error::new(ErrorKind::NotFound, reason)))
        }
        None => Ok(paths),
    }
}

#[cfg(test)]
mod tests;
