//! What a model is worth: its loss and, of tasks, the scores of its answers; and what a run says of the model that it keeps.

use std::fs;

use anyhow::Context as _;
use fornax_data::Split;
use fornax_models::{T5, generate::Seq2SeqOptions};
use fornax_train::{Learner, Metrics, Run, evaluate, write_atomic};

use crate::{Data, TextToText, answers::Answers, data::EvalSet};

/// The folder of a run that holds the answers.
pub(crate) const FOLDER: &str = "predictions";

/// Loss, accuracy and perplexity over all sets together, and for each set of a task the answers and their scores.
pub(crate) fn measure<'a>(
    sets: &'a [EvalSet],
    options: &Seq2SeqOptions,
    learner: &Learner<T5>,
    data: &Data,
    run: &Run<T5>,
) -> anyhow::Result<(Metrics, Vec<Answers<'a>>)> {
    let scored = || sets.iter().filter_map(|set| Some((set, set.task.as_ref()?)));
    let steps = sets.iter().map(|set| set.steps).sum::<u64>() + scored().map(|(set, _)| set.steps).sum::<u64>();
    let (model, bar) = (learner.valid(), run.eval_progress(steps));
    let batches = sets.iter().flat_map(EvalSet::iter);
    let mut metrics = evaluate(&model, batches, &TextToText, learner.precision(), |done| bar.set_position(done))?;
    let answers: Vec<Answers<'_>> = scored()
        .map(|(set, task)| Answers::of(&model, set, task, &data.tokenizer, options, &bar))
        .collect::<anyhow::Result<_>>()?;
    bar.finish_and_clear();
    for answers in &answers {
        metrics.values.extend(answers.scores(data.valid.len())?);
    }
    Ok((metrics, answers))
}

/// Writes the answers of the model that is kept, to all valid and test sets of tasks, into the run's folder, and measures the test
/// sets. Gives the answers to the valid sets.
pub(crate) fn write<'a>(
    options: &Seq2SeqOptions,
    learner: &Learner<T5>,
    data: &'a Data,
    run: &mut Run<T5>,
) -> anyhow::Result<Vec<Answers<'a>>> {
    if data.denoising().is_some() {
        return Ok(Vec::new());
    }
    let (metrics, valid) = measure(&data.valid, options, learner, data, run)?;
    write_tables(&valid, Split::Valid, run)?;
    if options.num_beams > 1 {
        let scores = metrics.values.iter().map(|(name, value)| format!("{name} {value:.4}"));
        tracing::info!("valid with {} beams: {}", options.num_beams, scores.collect::<Vec<_>>().join(", "));
    }
    if !data.test.is_empty() {
        let (metrics, test) = measure(&data.test, options, learner, data, run)?;
        write_tables(&test, Split::Test, run)?;
        run.log_test(&metrics);
    }
    Ok(valid)
}

fn write_tables(answers: &[Answers<'_>], split: Split, run: &Run<T5>) -> anyhow::Result<()> {
    let folder = run.dir().join(FOLDER);
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    for answers in answers {
        let path = folder.join(format!("{}-{split}.tsv", answers.task.name));
        write_atomic(&path, answers.table().as_bytes())?;
    }
    Ok(())
}
