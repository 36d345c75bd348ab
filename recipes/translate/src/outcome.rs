//! What is measured: the valid set on the way, and at the end the test set and its translations.

use std::fs;

use anyhow::Context as _;
use fornax_data::{
    BatchSource,
    pairs::{PairBatches, TextPairs},
};
use fornax_models::Transformer;
use fornax_train::{Checkpoints, Learner, Metrics, Run, TrainError, average_last, evaluate};

use crate::{
    Config, Data, NextTargetToken, export,
    translation::{Translator, score, write_table},
};

/// The folder of a run that holds the translations of the test set.
pub(crate) const PREDICTIONS: &str = "predictions";

/// The folder of a run that holds the mean of its last checkpoints.
const AVERAGED: &str = "averaged";

/// Loss, perplexity and accuracy over the valid set, or as much of it as `eval.max_batches` allows; with `generate.valid_examples`
/// the scores of its first translations besides.
pub(crate) fn evaluate_valid(
    learner: &Learner<Transformer>,
    config: &Config,
    data: &Data,
    run: &Run<Transformer>,
) -> anyhow::Result<Metrics> {
    let mut metrics = measure(learner, config, &data.valid, run)?;
    if config.generate.valid_examples > 0 {
        let count = config.generate.valid_examples;
        let translations = translate(learner, config, data, &data.valid, count, 1, run)?;
        metrics.values.extend(score(&translations, &data.splits.valid)?);
    }
    Ok(metrics)
}

/// Measures the model that is kept, or the mean of the last checkpoints, on the test set where there is one: its loss, and the scores
/// of its translations, which `predictions/` then has. Gives some translations to show, without a test set of the valid set.
pub(crate) fn write(
    learner: &mut Learner<Transformer>,
    config: &Config,
    data: &Data,
    run: &mut Run<Transformer>,
) -> anyhow::Result<String> {
    average(learner, config, data, run)?;
    let shown = config.generate.examples;
    let (Some(test), Some(texts)) = (&data.test, &data.splits.test) else {
        let translations = translate(learner, config, data, &data.valid, shown, 1, run)?;
        return Ok(examples(&translations, &data.splits.valid, shown));
    };
    let mut metrics = measure(learner, config, test, run)?;
    let folder = run.dir().join(PREDICTIONS);
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let mut translations = translate(learner, config, data, test, usize::MAX, 1, run)?;
    write_table(&folder.join("test.tsv"), &translations, texts)?;
    metrics.values.extend(score(&translations, texts)?);
    let beams = config.generate.num_beams;
    if beams > 1 {
        translations = translate(learner, config, data, test, usize::MAX, beams, run)?;
        write_table(&folder.join(format!("test-beam{beams}.tsv")), &translations, texts)?;
        let scores = score(&translations, texts)?;
        metrics.values.extend(scores.into_iter().map(|(name, value)| (format!("{name}_beam{beams}"), value)));
    }
    run.log_test(&metrics);
    Ok(examples(&translations, texts, shown))
}

/// Gives the learner the mean of the run's last checkpoints, where `test.average_last` asks for it, and exports that.
fn average(
    learner: &mut Learner<Transformer>,
    config: &Config,
    data: &Data,
    run: &Run<Transformer>,
) -> anyhow::Result<()> {
    let wanted = config.test.average_last;
    if wanted == 0 {
        return Ok(());
    }
    let there = Checkpoints::of_run(run.dir()).steps()?.len();
    if there < wanted {
        // A short run is a trial, and what it has learned should not be lost for this.
        tracing::warn!("test.average_last = {wanted}, but the run has {there} checkpoints: these are averaged");
    }
    learner.load_parameters(average_last(run.dir(), wanted.min(there))?)?;
    export(&learner.valid(), &data.tokenizers, config.data.lowercase, &run.dir().join(AVERAGED))
}

fn measure(
    learner: &Learner<Transformer>,
    config: &Config,
    set: &PairBatches,
    run: &Run<Transformer>,
) -> Result<Metrics, TrainError> {
    let batches = set.steps_per_epoch();
    let (bar, task) = (run.eval_progress(batches), NextTargetToken::new(&config.objective));
    let progress = |done| bar.set_position(done);
    let metrics = evaluate(&learner.valid(), set.first(batches), &task, learner.precision(), progress)?;
    bar.finish_and_clear();
    Ok(metrics)
}

/// Translates the first `count` pairs of a set.
fn translate(
    learner: &Learner<Transformer>,
    config: &Config,
    data: &Data,
    batches: &PairBatches,
    count: usize,
    num_beams: usize,
    run: &Run<Transformer>,
) -> anyhow::Result<Vec<String>> {
    let bar = run.eval_progress(batches.set().len().min(count) as u64);
    let translator = Translator { model: &learner.valid(), tokenizers: &data.tokenizers, config: &config.generate };
    let translations = translator.translate(batches.set(), count, num_beams, |done| bar.set_position(done))?;
    bar.finish_and_clear();
    Ok(translations)
}

/// The first translations between source and reference, for people.
fn examples(translations: &[String], texts: &TextPairs, count: usize) -> String {
    let pairs = texts.pairs().iter().zip(translations).take(count);
    let example = |(pair, translation): (&fornax_data::pairs::TextPair, &String)| {
        format!("\nsource       {}\nreference    {}\ntranslation  {translation}\n", pair.source, pair.target)
    };
    pairs.map(example).collect()
}
