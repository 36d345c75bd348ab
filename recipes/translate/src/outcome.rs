//! What is measured: the valid set on the way, and at the end the test set and its translations.

use std::{fs, sync::Arc};

use anyhow::Context as _;
use fornax_data::{
    BatchSource,
    pairs::{PairBatches, TextPairs},
};
use fornax_metrics::TextMetric;
use fornax_models::Transformer;
use fornax_pipelines::{Answers, Text2Text, Text2TextModel, Text2TextOptions};
use fornax_train::{Learner, Metrics, Run, TrainError, evaluate, write_atomic};

use crate::{Config, Data, NextTargetToken};

/// The folder of a run that holds the translations of the test set.
pub(crate) const PREDICTIONS: &str = "predictions";

/// What translations are measured by.
const SCORES: [TextMetric; 3] = [TextMetric::Bleu, TextMetric::Sacrebleu, TextMetric::Chrf];

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
        let answers = translate(learner, config, data, &data.splits.valid, config.generate.valid_examples, 1, run)?;
        metrics.values.extend(answers.scores(&SCORES)?);
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
        let answers = translate(learner, config, data, &data.splits.valid, shown, 1, run)?;
        return Ok(examples(&answers, shown));
    };
    let mut metrics = measure(learner, config, test, run)?;
    let folder = run.dir().join(PREDICTIONS);
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let mut answers = translate(learner, config, data, texts, usize::MAX, 1, run)?;
    answers.limits().warn("test: ", &decoding(config, data, 1));
    write_atomic(&folder.join("test.tsv"), answers.table().as_bytes())?;
    metrics.values.extend(answers.scores(&SCORES)?);
    let beams = config.generate.num_beams;
    if beams > 1 {
        answers = translate(learner, config, data, texts, usize::MAX, beams, run)?;
        answers.limits().warn(&format!("test, {beams} beams: "), &decoding(config, data, beams));
        write_atomic(&folder.join(format!("test-beam{beams}.tsv")), answers.table().as_bytes())?;
        let scores = answers.scores(&SCORES)?;
        metrics.values.extend(scores.into_iter().map(|(name, value)| (format!("{name}_beam{beams}"), value)));
    }
    run.log_test(&metrics);
    Ok(examples(&answers, shown))
}

/// Gives the learner the mean of the run's last checkpoints, where `test.average_last` asks for it, exports and evaluates that.
fn average(
    learner: &mut Learner<Transformer>,
    config: &Config,
    data: &Data,
    run: &mut Run<Transformer>,
) -> anyhow::Result<()> {
    let wanted = config.test.average_last;
    if wanted == 0 {
        return Ok(());
    }
    learner.load_parameters(run.average_last(wanted)?)?;
    run.export_averaged(learner)?;
    run.log_kept(&evaluate_valid(learner, config, data, run)?);
    Ok(())
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

/// Translates the first `count` pairs of a set with so many beams; 1 is greedy.
fn translate<'a>(
    learner: &Learner<Transformer>,
    config: &Config,
    data: &Data,
    texts: &'a TextPairs,
    count: usize,
    beams: usize,
    run: &Run<Transformer>,
) -> anyhow::Result<Answers<'a>> {
    let tokenizers = &data.tokenizers;
    let (start_token, end_token) = (tokenizers.start(), tokenizers.end);
    let model = Text2TextModel::Transformer { model: Box::new(learner.valid()), start_token, end_token };
    let target = (!tokenizers.are_joint()).then(|| Arc::clone(&tokenizers.target));
    let translator = Text2Text::new(model, Arc::clone(&tokenizers.source), target)?
        .with(learner.precision(), config.generate.batch_size)
        .with_lowercase(config.data.lowercase);
    let bar = run.eval_progress(texts.pairs().len().min(count) as u64);
    let answers = translator.answer(texts, count, &decoding(config, data, beams), |texts| bar.inc(texts as u64))?;
    bar.finish_and_clear();
    Ok(answers)
}

fn decoding(config: &Config, data: &Data, beams: usize) -> Text2TextOptions {
    let decoding = config.generate.options(beams, data.tokenizers.start(), data.tokenizers.end);
    Text2TextOptions { prefix: String::new(), max_source_len: config.data.max_source_len, decoding }
}

/// The first translations between source and reference, for people.
fn examples(answers: &Answers<'_>, count: usize) -> String {
    let example = |row: fornax_pipelines::AnswerRow<'_>| {
        format!("\nsource       {}\nreference    {}\ntranslation  {}\n", row.source, row.reference, row.answer)
    };
    answers.rows().take(count).map(example).collect()
}
