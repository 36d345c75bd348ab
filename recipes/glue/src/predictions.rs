use std::fs;

use anyhow::Context as _;
use fornax_backend::Precision;
use fornax_data::{
    BatchSource,
    labelled::{Label, LabelKind, LabelledBatches, write_predictions, write_submission},
};
use fornax_models::BertForSequenceClassification;
use fornax_ops::Context;
use fornax_train::{Run, Task};
use indicatif::ProgressBar;

use crate::{Classify, Data};

/// The folder of a run that holds what was predicted for the test sets.
pub(crate) const FOLDER: &str = "predictions";

/// Predicts every test set and writes the predictions into the run's folder: for a GLUE task as its server takes them.
pub(crate) fn write(
    model: &BertForSequenceClassification,
    data: &Data,
    precision: Precision,
    run: &Run<BertForSequenceClassification>,
) -> anyhow::Result<()> {
    for (batches, set) in data.test.iter().zip(&data.splits.test) {
        let folder = run.dir().join(FOLDER);
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let predictions =
            predict(model, batches, &data.splits.kind, precision, &run.eval_progress(batches.steps_per_epoch()))?;
        let info = data.splits.task.map(|task| task.info());
        let task_set = info.and_then(|info| info.sets.iter().find(|known| known.name == set.name()));
        match (info, task_set) {
            // A part of an official file is no submission.
            (Some(info), Some(known)) if known.rows == set.examples().len() && set.is_numbered() => {
                write_submission(&folder, info, known, &predictions)?;
            }
            _ => {
                let path = folder.join(format!("{}.tsv", set.name()));
                if task_set.is_some() {
                    tracing::warn!("{} does not have the official numbers of examples: no submission", path.display());
                }
                write_predictions(&path, set.kind(), &predictions)?;
            }
        }
    }
    Ok(())
}

/// The class or number of each example.
fn predict(
    model: &BertForSequenceClassification,
    set: &LabelledBatches,
    kind: &LabelKind,
    precision: Precision,
    bar: &ProgressBar,
) -> anyhow::Result<Vec<(u64, Label)>> {
    let context = Context::evaluation(precision);
    let mut predictions = Vec::new();
    for batch in set.first(set.steps_per_epoch()) {
        let batch = batch?;
        let values = Classify.loss(model, &batch, &context).predictions.context("the task predicts nothing")?;
        let indices = batch.examples.iter().map(|&example| set.set().index(example));
        predictions.extend(indices.zip(values.into_data().iter::<f32>()).map(|(index, value)| match kind {
            LabelKind::Classes(_) => (index, Label::Class(value as usize)),
            LabelKind::Score => (index, Label::Score(value)),
        }));
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(predictions)
}
