//! What a run says of the model that it keeps: its metrics, a confusion matrix, and predictions for the test sets.

use fornax_data::{
    BatchSource,
    labelled::{LabelKind, LabelledBatches, LabelledSet},
};
use fornax_models::BertForSequenceClassification;
use fornax_train::{Learner, Metrics, Run, Scores, TrainError, write_atomic};

use crate::{Data, evaluate_set, predictions};

/// Measures the model that is kept, on test sets too if they have labels, and writes what belongs to it beside the run's metrics:
/// `confusion.txt` and the predictions. Gives the confusion matrix of classes.
pub(crate) fn write(
    learner: &Learner<BertForSequenceClassification>,
    data: &Data,
    run: &mut Run<BertForSequenceClassification>,
) -> anyhow::Result<Option<String>> {
    let (_, scores) = evaluate_valid(learner, data, run)?;
    let table = confusion(&data.splits.valid, &scores, &data.splits.kind);
    if let Some(table) = &table {
        write_atomic(&run.dir().join("confusion.txt"), format!("{table}\n").as_bytes())?;
    }
    let labelled = |(_, set): &(_, &LabelledSet)| set.is_labelled();
    let sets: Vec<_> = data.test.iter().zip(&data.splits.test).filter(labelled).collect();
    if !sets.is_empty() {
        let (metrics, _) = evaluate(&sets, "test", learner, data, run)?;
        run.log_test(&metrics);
    }
    predictions::write(&learner.valid(), data, learner.precision(), run)?;
    Ok(table)
}

/// The confusion matrix of each set, with the set's name above it where there are several; none for numbers.
fn confusion(sets: &[LabelledSet], scores: &[Scores], kind: &LabelKind) -> Option<String> {
    let tables: Vec<String> = sets
        .iter()
        .zip(scores)
        .filter_map(|(set, scores)| match (scores, kind) {
            (Scores::Classes(confusion), LabelKind::Classes(names)) if sets.len() > 1 => {
                Some(format!("{}\n{}", set.name(), confusion.table(names)))
            }
            (Scores::Classes(confusion), LabelKind::Classes(names)) => Some(confusion.table(names)),
            _ => None,
        })
        .collect();
    (!tables.is_empty()).then(|| tables.join("\n\n"))
}

/// Loss and metrics over each valid set, those of a second one under names that end in that of the set (`accuracy_mismatched`), and
/// the scores of each.
pub(crate) fn evaluate_valid(
    learner: &Learner<BertForSequenceClassification>,
    data: &Data,
    run: &Run<BertForSequenceClassification>,
) -> Result<(Metrics, Vec<Scores>), TrainError> {
    let sets: Vec<_> = data.valid.iter().zip(&data.splits.valid).collect();
    evaluate(&sets, "valid", learner, data, run)
}

/// `split` begins the name of every set.
fn evaluate(
    sets: &[(&LabelledBatches, &LabelledSet)],
    split: &str,
    learner: &Learner<BertForSequenceClassification>,
    data: &Data,
    run: &Run<BertForSequenceClassification>,
) -> Result<(Metrics, Vec<Scores>), TrainError> {
    let bar = run.eval_progress(sets.iter().map(|(batches, _)| batches.steps_per_epoch()).sum());
    let (model, mut done, mut all_scores) = (learner.valid(), 0, Vec::with_capacity(sets.len()));
    let mut all: Option<Metrics> = None;
    for &(batches, set) in sets {
        let progress = |batches| bar.set_position(done + batches);
        let (metrics, scores) = evaluate_set(&model, batches, &data.splits.kind, learner.precision(), progress)?;
        done += batches.steps_per_epoch();
        all_scores.push(scores);
        match &mut all {
            None => all = Some(metrics),
            Some(first) => {
                let suffix = set.name().trim_start_matches(split);
                let renamed = metrics.values.into_iter().map(|(name, value)| (format!("{name}{suffix}"), value));
                first.values.extend(renamed);
            }
        }
    }
    bar.finish_and_clear();
    let metrics = all.ok_or(TrainError::EmptyEvaluation { batches: 0 })?;
    Ok((metrics, all_scores))
}
