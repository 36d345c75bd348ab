use std::fmt;

use serde::{Deserialize, Serialize};

use super::example::LabelKind;
use super::read::Spelling;
use crate::Split;
use crate::source::Column;

/// A task of GLUE (Wang et al., 2018), by the name that Hugging Face's `datasets` gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GlueTask {
    /// Corpus of Linguistic Acceptability: is a sentence grammatical?
    Cola,
    /// Stanford Sentiment Treebank: does a sentence of a film review praise?
    Sst2,
    /// Microsoft Research Paraphrase Corpus: do two sentences mean the same?
    Mrpc,
    /// Semantic Textual Similarity Benchmark: how close are two sentences, from 0 to 5?
    Stsb,
    /// Quora Question Pairs: do two questions ask the same?
    Qqp,
    /// Multi-Genre Natural Language Inference: does the first sentence entail the second, contradict it, or neither?
    Mnli,
    /// Question Natural Language Inference: does the sentence answer the question?
    Qnli,
    /// Recognizing Textual Entailment: does the first text entail the second?
    Rte,
    /// Winograd Natural Language Inference: is the pronoun read rightly?
    Wnli,
}

/// What is known of a task: all that differs between one task and another stands in this table.
#[derive(Debug)]
pub struct TaskInfo {
    /// The task.
    pub task: GlueTask,
    /// Its name in configs, and of the folder of `$FORNAX_DATA` and the cache.
    pub name: &'static str,
    /// Its name in the paper, and of the folder in the official archive.
    pub title: &'static str,
    /// Its labels.
    pub labels: TaskLabels,
    /// The metric that chooses the best model: the one that BERT's Table 1 (Devlin et al., 2019) reports.
    pub best: &'static str,
    /// Train, valid and test, in this order; MNLI has two of the latter.
    pub sets: &'static [TaskSet],
    /// Whether the official train file has rows that lack columns. They are left out, as the reference readers do.
    pub incomplete_rows: bool,
    /// Where the official files can be had.
    pub source: &'static str,
}

/// The labels of a task.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TaskLabels {
    /// Names of the classes, which are numbers in the files and in a submission.
    Digits(&'static [&'static str]),
    /// Names of the classes, as they stand in the files and in a submission.
    Words(&'static [&'static str]),
    /// A number of this range.
    Score(f32, f32),
}

/// One set of a task: a file.
#[derive(Debug)]
pub struct TaskSet {
    /// `train`, `valid`, `test`, `valid_mismatched`, `test_mismatched`.
    pub name: &'static str,
    /// Which part it is.
    pub split: Split,
    /// Its file in the official archive.
    pub file: &'static str,
    /// Its columns.
    pub columns: Columns<'static>,
    /// Its examples.
    pub rows: usize,
    /// The file of a submission, for a test set.
    pub submission: Option<&'static str>,
    /// Another form in which the set is given.
    pub(super) other: Option<OtherFile>,
}

/// A set as rows of a larger file: MRPC as Microsoft gives it, from which GLUE's `train.tsv` and `dev.tsv` are made.
#[derive(Clone, Copy, Debug)]
pub(super) struct OtherFile {
    pub(super) file: &'static str,
    /// Whether it has the rows that [`MRPC_VALID_IDS`] lists (`true`), the others (`false`), or all.
    pub(super) listed: Option<bool>,
}

/// Names of the file that has the two ids of each row of MRPC's valid set.
pub(super) const MRPC_VALID_IDS: [&str; 2] = ["mrpc_dev_ids.tsv", "dev_ids.tsv"];

/// The columns that an example is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Columns<'a> {
    /// The number of columns, if the file has no header line.
    pub headerless: Option<usize>,
    /// The text.
    pub text: Column<'a>,
    /// The second text of a pair.
    pub pair: Option<Column<'a>>,
    /// The label.
    pub label: Column<'a>,
}

impl GlueTask {
    /// All tasks, in the order of GLUE's own table.
    pub const ALL: [Self; 9] =
        [Self::Cola, Self::Sst2, Self::Mrpc, Self::Stsb, Self::Qqp, Self::Mnli, Self::Qnli, Self::Rte, Self::Wnli];

    /// What is known of it.
    pub fn info(self) -> &'static TaskInfo {
        &TASKS[self as usize]
    }
}

impl fmt::Display for GlueTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.info().name)
    }
}

impl TaskInfo {
    /// What its labels may be.
    pub fn label_kind(&self) -> LabelKind {
        match self.labels {
            TaskLabels::Digits(names) | TaskLabels::Words(names) => {
                LabelKind::Classes(names.iter().map(ToString::to_string).collect())
            }
            TaskLabels::Score(..) => LabelKind::Score,
        }
    }

    /// How its official files spell labels.
    pub(super) fn spelling(&self) -> Spelling {
        match self.labels {
            TaskLabels::Digits(_) => Spelling::Digits,
            TaskLabels::Words(_) => Spelling::Words,
            TaskLabels::Score(..) => Spelling::Any,
        }
    }
}

impl TaskSet {
    const fn new(name: &'static str, split: Split, file: &'static str, columns: Columns<'static>, rows: usize) -> Self {
        Self { name, split, file, columns, rows, submission: None, other: None }
    }

    const fn train(columns: Columns<'static>, rows: usize) -> Self {
        Self::new("train", Split::Train, "train.tsv", columns, rows)
    }

    const fn valid(columns: Columns<'static>, rows: usize) -> Self {
        Self::new("valid", Split::Valid, "dev.tsv", columns, rows)
    }

    const fn test(columns: Columns<'static>, rows: usize, submission: &'static str) -> Self {
        Self { submission: Some(submission), ..Self::new("test", Split::Test, "test.tsv", columns, rows) }
    }

    const fn or(self, file: &'static str, listed: Option<bool>) -> Self {
        Self { other: Some(OtherFile { file, listed }), ..self }
    }
}

pub(super) const fn single(text: &'static str, label: &'static str) -> Columns<'static> {
    Columns { headerless: None, text: Column::Name(text), pair: None, label: Column::Name(label) }
}

pub(super) const fn pair(first: &'static str, second: &'static str, label: &'static str) -> Columns<'static> {
    Columns { pair: Some(Column::Name(second)), ..single(first, label) }
}

/// CoLA: source, label, the author's own mark, sentence.
const COLA: Columns<'static> =
    Columns { headerless: Some(4), text: Column::Number(3), pair: None, label: Column::Number(1) };
const SENTENCE: Columns<'static> = single("sentence", "label");
const SENTENCES: Columns<'static> = pair("sentence1", "sentence2", "label");
const STSB: Columns<'static> = pair("sentence1", "sentence2", "score");
const MRPC: Columns<'static> = pair("#1 String", "#2 String", "Quality");
const QQP: Columns<'static> = pair("question1", "question2", "is_duplicate");
/// MNLI: the train file has a `label1` too, the valid files `label1` to `label5`; their majority is `gold_label`.
const MNLI: Columns<'static> = pair("sentence1", "sentence2", "gold_label");
const QNLI: Columns<'static> = pair("question", "sentence", "label");

const ENTAILMENT: TaskLabels = TaskLabels::Words(&["entailment", "not_entailment"]);

/// In the order of [`GlueTask`]. Files and columns are those of the official archives; names and order of classes are those of
/// Hugging Face's `glue`, so that a model's `id2label` means the same.
static TASKS: [TaskInfo; 9] = [
    TaskInfo {
        task: GlueTask::Cola,
        name: "cola",
        title: "CoLA",
        labels: TaskLabels::Digits(&["unacceptable", "acceptable"]),
        best: "matthews",
        sets: &[TaskSet::train(COLA, 8_551), TaskSet::valid(COLA, 1_043), TaskSet::test(SENTENCE, 1_063, "CoLA.tsv")],
        incomplete_rows: false,
        source: "https://dl.fbaipublicfiles.com/glue/data/CoLA.zip",
    },
    TaskInfo {
        task: GlueTask::Sst2,
        name: "sst2",
        title: "SST-2",
        labels: TaskLabels::Digits(&["negative", "positive"]),
        best: "accuracy",
        sets: &[
            TaskSet::train(SENTENCE, 67_349),
            TaskSet::valid(SENTENCE, 872),
            TaskSet::test(SENTENCE, 1_821, "SST-2.tsv"),
        ],
        incomplete_rows: false,
        source: "https://dl.fbaipublicfiles.com/glue/data/SST-2.zip",
    },
    TaskInfo {
        task: GlueTask::Mrpc,
        name: "mrpc",
        title: "MRPC",
        labels: TaskLabels::Digits(&["not_equivalent", "equivalent"]),
        best: "f1",
        sets: &[
            TaskSet::train(MRPC, 3_668).or("msr_paraphrase_train.txt", Some(false)),
            TaskSet::valid(MRPC, 408).or("msr_paraphrase_train.txt", Some(true)),
            TaskSet::test(MRPC, 1_725, "MRPC.tsv").or("msr_paraphrase_test.txt", None),
        ],
        incomplete_rows: false,
        source: "https://dl.fbaipublicfiles.com/senteval/senteval_data/msr_paraphrase_train.txt (and ..._test.txt) with \
                 https://dl.fbaipublicfiles.com/glue/data/mrpc_dev_ids.tsv",
    },
    TaskInfo {
        task: GlueTask::Stsb,
        name: "stsb",
        title: "STS-B",
        labels: TaskLabels::Score(0.0, 5.0),
        best: "spearman",
        sets: &[TaskSet::train(STSB, 5_749), TaskSet::valid(STSB, 1_500), TaskSet::test(STSB, 1_379, "STS-B.tsv")],
        incomplete_rows: false,
        source: "https://dl.fbaipublicfiles.com/glue/data/STS-B.zip",
    },
    TaskInfo {
        task: GlueTask::Qqp,
        name: "qqp",
        title: "QQP",
        labels: TaskLabels::Digits(&["not_duplicate", "duplicate"]),
        best: "f1",
        sets: &[TaskSet::train(QQP, 363_846), TaskSet::valid(QQP, 40_430), TaskSet::test(QQP, 390_965, "QQP.tsv")],
        incomplete_rows: true,
        source: "https://dl.fbaipublicfiles.com/glue/data/QQP-clean.zip",
    },
    TaskInfo {
        task: GlueTask::Mnli,
        name: "mnli",
        title: "MNLI",
        labels: TaskLabels::Words(&["entailment", "neutral", "contradiction"]),
        best: "accuracy",
        sets: &[
            TaskSet::train(MNLI, 392_702),
            TaskSet::new("valid", Split::Valid, "dev_matched.tsv", MNLI, 9_815),
            TaskSet::new("valid_mismatched", Split::Valid, "dev_mismatched.tsv", MNLI, 9_832),
            TaskSet {
                submission: Some("MNLI-m.tsv"),
                ..TaskSet::new("test", Split::Test, "test_matched.tsv", MNLI, 9_796)
            },
            TaskSet {
                submission: Some("MNLI-mm.tsv"),
                ..TaskSet::new("test_mismatched", Split::Test, "test_mismatched.tsv", MNLI, 9_847)
            },
        ],
        incomplete_rows: false,
        source: "https://dl.fbaipublicfiles.com/glue/data/MNLI.zip",
    },
    TaskInfo {
        task: GlueTask::Qnli,
        name: "qnli",
        title: "QNLI",
        labels: ENTAILMENT,
        best: "accuracy",
        sets: &[TaskSet::train(QNLI, 104_743), TaskSet::valid(QNLI, 5_463), TaskSet::test(QNLI, 5_463, "QNLI.tsv")],
        incomplete_rows: false,
        source: "https://dl.fbaipublicfiles.com/glue/data/QNLIv2.zip",
    },
    TaskInfo {
        task: GlueTask::Rte,
        name: "rte",
        title: "RTE",
        labels: ENTAILMENT,
        best: "accuracy",
        sets: &[
            TaskSet::train(SENTENCES, 2_490),
            TaskSet::valid(SENTENCES, 277),
            TaskSet::test(SENTENCES, 3_000, "RTE.tsv"),
        ],
        incomplete_rows: false,
        source: "https://dl.fbaipublicfiles.com/glue/data/RTE.zip",
    },
    TaskInfo {
        task: GlueTask::Wnli,
        name: "wnli",
        title: "WNLI",
        labels: TaskLabels::Digits(&["not_entailment", "entailment"]),
        best: "accuracy",
        sets: &[
            TaskSet::train(SENTENCES, 635),
            TaskSet::valid(SENTENCES, 71),
            TaskSet::test(SENTENCES, 146, "WNLI.tsv"),
        ],
        incomplete_rows: false,
        source: "https://dl.fbaipublicfiles.com/glue/data/WNLI.zip",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order_and_names_are_those_of_configs() {
        for (task, row) in GlueTask::ALL.into_iter().zip(&TASKS) {
            assert_eq!(task.info().task, task);
            assert_eq!(row.task, task);
            assert_eq!(serde_json::to_value(task).unwrap(), row.name);
        }
    }

    #[test]
    fn every_task_has_train_valid_and_test_in_order_and_tests_have_submissions() {
        for task in GlueTask::ALL {
            let sets = task.info().sets;
            let splits: Vec<Split> = sets.iter().map(|set| set.split).collect();
            let expected = match task {
                GlueTask::Mnli => vec![Split::Train, Split::Valid, Split::Valid, Split::Test, Split::Test],
                _ => vec![Split::Train, Split::Valid, Split::Test],
            };
            assert_eq!(splits, expected, "{task}");
            for set in sets {
                assert_eq!(set.submission.is_some(), set.split == Split::Test, "{task} {}", set.name);
                assert!(set.name.starts_with(&set.split.to_string()));
            }
        }
    }
}
