use std::fmt::Write;
use std::path::{Path, PathBuf};

use super::example::{Label, LabelKind};
use super::tasks::{TaskInfo, TaskLabels, TaskSet};
use crate::{DataError, files};

/// Writes the predictions for a test set as <https://gluebenchmark.com> takes them: a line `index<TAB>prediction`, then the index of
/// each example and its label, in words for MNLI, QNLI and RTE, as a number of three decimals within 0 and 5 for STS-B, else in
/// digits.
///
/// `predictions` are pairs of an example's [`index`](super::LabelledExample::index) and its label, in any order. The file, which
/// bears the name that GLUE asks for (`SST-2.tsv`, `MNLI-m.tsv`, ...), is written into `folder`, beside and renamed; its path is
/// returned.
///
/// # Errors
///
/// If `set` is no test set, there is not one prediction for each of its examples, a label is none of the task's, or the file can't be
/// written.
pub fn write_submission(
    folder: &Path,
    task: &TaskInfo,
    set: &TaskSet,
    predictions: &[(u64, Label)],
) -> Result<PathBuf, DataError> {
    let Some(name) = set.submission else {
        let reason = format!("{} of {} is no test set", set.name, task.title);
        return Err(DataError::Submission { path: folder.into(), reason });
    };
    let path = folder.join(name);
    let wrong = |reason: String| DataError::Submission { path: path.clone(), reason };
    let mut sorted = predictions.to_vec();
    sorted.sort_by_key(|(index, _)| *index);
    if let Some((expected, found)) = (0..).zip(&sorted).find(|(expected, (index, _))| expected != index) {
        let what = if found.0 < expected { "has two predictions" } else { "has none" };
        return Err(wrong(format!("example {} {what}", expected.min(found.0))));
    }
    if sorted.len() != set.rows {
        let reason =
            format!("there are {} predictions, {} of {} has {} examples", sorted.len(), set.name, task.title, set.rows);
        return Err(wrong(reason));
    }
    let mut text = "index\tprediction\n".to_owned();
    for (index, label) in sorted {
        let spelled = spell(task.labels, label).ok_or_else(|| {
            wrong(format!("the prediction for example {index} is {label:?}, which is no label of {}", task.title))
        })?;
        // Writing to a String can't fail.
        let _ = writeln!(text, "{index}\t{spelled}");
    }
    files::write_atomic(&path, text.as_bytes())?;
    Ok(path)
}

/// Writes the predictions for own tables: a line `index<TAB>prediction`, then the [`index`](super::LabelledExample::index) of each
/// example and the name of its class, or its number. Beside and renamed.
///
/// # Errors
///
/// If a label is none of `kind`, or the file can't be written.
pub fn write_predictions(path: &Path, kind: &LabelKind, predictions: &[(u64, Label)]) -> Result<(), DataError> {
    let mut sorted = predictions.to_vec();
    sorted.sort_by_key(|(index, _)| *index);
    let mut text = "index\tprediction\n".to_owned();
    for (index, label) in sorted {
        let spelled = match (kind, label) {
            (LabelKind::Classes(names), Label::Class(class)) => names.get(class).cloned(),
            (LabelKind::Score, Label::Score(score)) => Some(score.to_string()),
            _ => None,
        };
        let spelled = spelled.ok_or_else(|| {
            let reason = format!("the prediction for example {index} is {label:?}, which is no label of the set");
            DataError::Submission { path: path.into(), reason }
        })?;
        // Writing to a String can't fail.
        let _ = writeln!(text, "{index}\t{spelled}");
    }
    files::write_atomic(path, text.as_bytes())
}

fn spell(labels: TaskLabels, label: Label) -> Option<String> {
    match (labels, label) {
        (TaskLabels::Digits(names), Label::Class(class)) => (class < names.len()).then(|| class.to_string()),
        (TaskLabels::Words(names), Label::Class(class)) => names.get(class).map(ToString::to_string),
        (TaskLabels::Score(low, high), Label::Score(score)) if !score.is_nan() => {
            Some(format!("{:.3}", score.clamp(low, high)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::labelled::GlueTask;

    fn test_set(task: GlueTask, name: &str) -> &'static TaskSet {
        task.info().sets.iter().find(|set| set.name == name).unwrap()
    }

    /// Writes as many predictions as the set has examples, `label(i)` for example i, last one first.
    fn write(task: GlueTask, name: &str, label: impl Fn(u64) -> Label) -> (String, String) {
        let folder = tempfile::tempdir().unwrap();
        let set = test_set(task, name);
        let predictions: Vec<_> = (0..set.rows as u64).rev().map(|index| (index, label(index))).collect();
        let path = write_submission(folder.path(), task.info(), set, &predictions).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), set.rows + 1);
        (path.file_name().unwrap().to_str().unwrap().to_owned(), text)
    }

    #[test]
    fn each_task_has_its_file_and_spelling() {
        for (task, set, file, start) in [
            (GlueTask::Cola, "test", "CoLA.tsv", "0\t0\n1\t1\n2\t0\n"),
            (GlueTask::Sst2, "test", "SST-2.tsv", "0\t0\n1\t1\n2\t0\n"),
            (GlueTask::Mrpc, "test", "MRPC.tsv", "0\t0\n1\t1\n2\t0\n"),
            (GlueTask::Qqp, "test", "QQP.tsv", "0\t0\n1\t1\n2\t0\n"),
            (GlueTask::Mnli, "test", "MNLI-m.tsv", "0\tentailment\n1\tneutral\n2\tentailment\n"),
            (GlueTask::Mnli, "test_mismatched", "MNLI-mm.tsv", "0\tentailment\n1\tneutral\n2\tentailment\n"),
            (GlueTask::Qnli, "test", "QNLI.tsv", "0\tentailment\n1\tnot_entailment\n2\tentailment\n"),
            (GlueTask::Rte, "test", "RTE.tsv", "0\tentailment\n1\tnot_entailment\n2\tentailment\n"),
            (GlueTask::Wnli, "test", "WNLI.tsv", "0\t0\n1\t1\n2\t0\n"),
        ] {
            let (name, text) = write(task, set, |index| Label::Class(index as usize % 2));
            assert_eq!(name, file);
            assert!(text.starts_with(&format!("index\tprediction\n{start}")), "{file}");
        }
    }

    #[test]
    fn scores_have_three_decimals_within_their_range() {
        let values = [-0.2, 5.3, 2.34567, 0.0];
        let (name, text) = write(GlueTask::Stsb, "test", |index| Label::Score(values[index as usize % 4]));
        assert_eq!(name, "STS-B.tsv");
        assert!(text.starts_with("index\tprediction\n0\t0.000\n1\t5.000\n2\t2.346\n3\t0.000\n"), "{}", &text[..60]);
    }

    #[test]
    fn own_tables_get_names_and_numbers_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test.tsv");
        let classes = LabelKind::Classes(vec!["bad".into(), "good".into()]);
        write_predictions(&path, &classes, &[(2, Label::Class(0)), (0, Label::Class(1))]).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "index\tprediction\n0\tgood\n2\tbad\n");
        let error = write_predictions(&path, &classes, &[(0, Label::Class(2))]).unwrap_err().to_string();
        assert!(error.ends_with("the prediction for example 0 is Class(2), which is no label of the set"), "{error}");
        write_predictions(&path, &LabelKind::Score, &[(0, Label::Score(1.25))]).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "index\tprediction\n0\t1.25\n");
    }

    #[test]
    fn what_does_not_fit_is_named_and_nothing_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let error = |task: GlueTask, set: &str, predictions: &[(u64, Label)]| {
            let error = write_submission(folder.path(), task.info(), test_set(task, set), predictions).unwrap_err();
            error.to_string().replace(&format!("{}{}", folder.path().display(), std::path::MAIN_SEPARATOR), "")
        };
        let mut all: Vec<_> = (0..146).map(|index| (index, Label::Class(0))).collect();
        assert_eq!(
            error(GlueTask::Wnli, "test", &all[..2]),
            "can't write WNLI.tsv: there are 2 predictions, test of WNLI has 146 examples"
        );
        assert_eq!(error(GlueTask::Wnli, "test", &all[1..]), "can't write WNLI.tsv: example 0 has none");
        let twice = [(0, Label::Class(0)), (1, Label::Class(0)), (1, Label::Class(0))];
        assert_eq!(error(GlueTask::Wnli, "test", &twice), "can't write WNLI.tsv: example 1 has two predictions");
        all[7].1 = Label::Class(2);
        assert_eq!(
            error(GlueTask::Wnli, "test", &all),
            "can't write WNLI.tsv: the prediction for example 7 is Class(2), which is no label of WNLI"
        );
        assert!(error(GlueTask::Wnli, "valid", &all).ends_with("valid of WNLI is no test set"));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
