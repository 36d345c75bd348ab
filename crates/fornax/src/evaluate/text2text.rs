use std::{io::Write, path::Path};

use anyhow::{Context, bail};
use fornax_cli::{UsageContext, load};
use fornax_data::pairs::{PairConfig, ParallelFiles, TextPairs};
use fornax_metrics::{TextMetric, TextScores};
use fornax_models::hf::write_beside;
use fornax_pipelines::{Text2Text, Text2TextOptions};
use serde::Deserialize;

use super::{Args, Line, data_of_run, key, progress_bar};

/// What is measured unless told otherwise: what papers on translation report.
const METRICS: [TextMetric; 2] = [TextMetric::Sacrebleu, TextMetric::Chrf];

/// The keys of `[data]` that say where pairs are: one that is given takes the place of all of a run's.
const PLACE_KEYS: [&str; 7] = ["name", "folder", "valid_files", "test_files", "format", "valid", "test"];

/// The keys that say how pairs are read.
const READ_KEYS: [&str; 4] = ["source", "target", "lowercase", "max_source_len"];

/// The part of a config that is read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    data: PairConfig,
}

/// Writes a text to the source of each pair and compares it with the target.
pub(super) fn run(args: &Args, folder: &Path) -> anyhow::Result<()> {
    check_flags(args).usage()?;
    let device = fornax_backend::open(&args.device)?;
    device.check_precision(args.precision)?;
    tracing::info!("device {}: {} ({})", device.spec, device.name, device.reason);
    let pipeline = Text2Text::open(folder, &device.device)?.with(args.precision, args.batch_size);
    let mut options = pipeline.options(None)?;
    args.search.apply(&mut options).usage()?;
    options.decoding.num_return = 1;
    let data = load::<Config>(None, &built_in(args, &pipeline, &options, folder)?, &args.overrides)?.config.data;
    check_pairs(&data).usage()?;
    options.max_source_len = data.max_source_len;
    pipeline.check(&options).usage()?;
    let metrics = args.metric.as_deref().unwrap_or(&METRICS);
    let (mut out, mut table) = (std::io::stdout().lock(), "set\tsource\treference\tprediction\n".to_owned());
    for set in data.open_scored()? {
        let predictions = predict(&pipeline, &options, &set)?;
        let mut scores = TextScores::new(metrics)?;
        for (pair, prediction) in set.pairs().iter().zip(&predictions) {
            scores.add(prediction, &[&pair.target])?;
            let row = [set.name(), &pair.source, &pair.target, prediction].map(cell);
            table += &(row.join("\t") + "\n");
        }
        let line = Line { set: set.name(), examples: predictions.len() as u64, metrics: scores.finish()? };
        writeln!(out, "{}", serde_json::to_string(&line)?)?;
    }
    if let Some(path) = &args.predictions {
        // With its folder, which a name alone is without.
        let path = std::path::absolute(path).with_context(|| path.display().to_string())?;
        write_beside(&path, |file| file.write_all(table.as_bytes()))?;
    }
    Ok(())
}

/// The text for each pair of a set, in their order.
fn predict(pipeline: &Text2Text, options: &Text2TextOptions, set: &TextPairs) -> anyhow::Result<Vec<String>> {
    let sources: Vec<&str> = set.pairs().iter().map(|pair| pair.source.as_str()).collect();
    let bar = progress_bar(sources.len() as u64, "texts", set.name());
    let found = pipeline.run_part(&sources, 0, options, |texts| bar.inc(texts as u64));
    bar.finish_and_clear();
    let best = |texts: Vec<fornax_pipelines::GeneratedText>| texts.into_iter().next().map(|best| best.text);
    Ok(found.with_context(|| set.name().to_owned())?.into_iter().map(|texts| best(texts).unwrap_or_default()).collect())
}

/// Refuses flags that would change nothing, and a table that nobody could write.
fn check_flags(args: &Args) -> anyhow::Result<()> {
    if args.task.is_some() {
        bail!("--task is for classifiers: name the pairs with --set data.name=NAME or --set 'data.valid_files=[FILE]'");
    }
    let of_training = |text: &&String| {
        ["max_target_len", "tokens_per_batch", "group_by_length", "files", "train"].contains(&data_key(text))
    };
    if let Some(other) = args.overrides.iter().find(of_training) {
        bail!("--set {other}: this key is of training; --max-new-tokens limits what is written");
    }
    let folder = args.predictions.as_deref().and_then(Path::parent).filter(|folder| !folder.as_os_str().is_empty());
    match folder.filter(|folder| !folder.is_dir()) {
        Some(folder) => bail!("--predictions: there is no folder {}", folder.display()),
        None => Ok(()),
    }
}

/// Refuses data of which nothing is named.
fn check_pairs(data: &PairConfig) -> anyhow::Result<()> {
    if data.name.is_none() && data.valid_files.is_empty() && data.valid == ParallelFiles::default() {
        bail!(
            "there are no pairs to score: name a data set with --set data.name=NAME, tables with --set 'data.valid_files=[FILE]', or \
             parallel files with --set 'data.valid={{source=[FILE],target=[FILE]}}'"
        );
    }
    Ok(())
}

/// The beginning of a config: what the run that left the model read, as long and in the case that the model reads.
fn built_in(args: &Args, pipeline: &Text2Text, options: &Text2TextOptions, folder: &Path) -> anyhow::Result<String> {
    let mut data = toml::Table::new();
    data.insert("lowercase".into(), pipeline.lowercase().into());
    data.insert("max_source_len".into(), i64::try_from(options.max_source_len)?.into());
    let given = args.overrides.iter().any(|text| PLACE_KEYS.contains(&data_key(text)));
    let kept = |key: &str| READ_KEYS.contains(&key) || !given && PLACE_KEYS.contains(&key);
    data.extend(data_of_run(folder)?.into_iter().filter(|(key, _)| kept(key)));
    let config = toml::Table::from_iter([("data".to_owned(), toml::Value::Table(data))]);
    Ok(toml::to_string(&config)?)
}

/// The key within `[data]` of a `KEY=VALUE`.
fn data_key(text: &str) -> &str {
    key(text).trim_start_matches("data.").split('.').next().unwrap_or_default()
}

/// A text without what would end a cell.
fn cell(text: &str) -> String {
    text.replace(['\t', '\n', '\r'], " ")
}
