use fornax_backend::Precision;
use fornax_data::{
    BatchSource,
    labelled::{LabelKind, LabelledBatch, LabelledBatches, Labels},
};
use fornax_models::BertForSequenceClassification;
use fornax_train::{Metrics, Scores, TrainError, evaluate_examples};

use crate::Classify;

/// Loss and the metrics that fit the labels, over a set, and what they were made from.
///
/// # Errors
///
/// As [`evaluate_examples`].
pub fn evaluate_set(
    model: &BertForSequenceClassification,
    set: &LabelledBatches,
    kind: &LabelKind,
    precision: Precision,
    progress: impl FnMut(u64),
) -> Result<(Metrics, Scores), TrainError> {
    let mut scores = new_scores(kind);
    let fold = |batch: &LabelledBatch, predictions: &[f32]| match &batch.labels {
        Labels::Scores(labels) => scores.add(predictions, labels),
        Labels::Classes(classes) => {
            let labels: Vec<f32> = classes.iter().map(|&class| class as f32).collect();
            scores.add(predictions, &labels);
        }
    };
    let mut metrics = evaluate_examples(model, set.first(set.steps_per_epoch()), &Classify, precision, progress, fold)?;
    metrics.values.remove("perplexity");
    metrics.values.extend(scores.values(scores.kinds()));
    Ok((metrics, scores))
}

/// Nothing seen yet.
pub(crate) fn new_scores(kind: &LabelKind) -> Scores {
    match kind {
        LabelKind::Classes(names) => Scores::classes(names.len()),
        LabelKind::Score => Scores::regression(),
    }
}
