use std::{io::Write, path::Path};

use anyhow::{Context, bail};
use fornax_cli::{UsageContext, load};
use fornax_data::{
    dataset::Places,
    pairs::{PairConfig, ParallelFiles, TextPairs},
    text_tasks::{TaskConfig, TextTasks, task_named},
};
use fornax_metrics::TextMetric;
use fornax_models::hf::write_beside;
use fornax_pipelines::{Text2Text, Text2TextOptions};
use serde::Deserialize;

use super::{Args, Line, config_of_run, data_of, key, progress_bar};

/// What is measured of pairs unless told otherwise: what papers on translation report.
const METRICS: [TextMetric; 2] = [TextMetric::Sacrebleu, TextMetric::Chrf];

/// The keys of `[data]` that say where pairs are: one that is given takes the place of all of a run's. `folder` belongs to a name.
const PLACE_KEYS: [&str; 6] = ["name", "valid_files", "test_files", "format", "valid", "test"];

/// The keys of a run's `[data]` that hold for other pairs too.
const READ_KEYS: [&str; 3] = ["source", "target", "max_source_len"];

/// The part of a config that is read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    data: PairConfig,
}

/// A set with what its answers are measured by.
type Scored = (Vec<TextMetric>, TextPairs);

/// Writes a text to the source of each pair and compares it with the target.
pub(super) fn run(args: &Args, folder: &Path) -> anyhow::Result<()> {
    check_flags(args).usage()?;
    let device = fornax_backend::open(&args.device)?;
    tracing::info!("device {}: {} ({})", device.spec, device.name, device.reason);
    let pipeline = Text2Text::open(folder, &device.device)?.with(args.precision, args.batch_size);
    pipeline.check_precision().usage()?;
    device.check_precision(args.precision)?;
    let mut options = pipeline.options(None)?;
    let config = config_of_run(folder)?;
    let sets = match tasks(args, &config, folder)? {
        Some(tasks) => open_tasks(args, &config, &tasks, &mut options)?,
        None => open_pairs(args, &config, &mut options)?,
    };
    args.search.apply(&mut options).usage()?;
    options.decoding.num_return = 1;
    pipeline.check(&options).usage()?;
    // As in the summary of a run.
    let beams = options.decoding.num_beams;
    let suffix = if beams > 1 { format!("_beam{beams}") } else { String::new() };
    let (mut out, mut table) = (std::io::stdout().lock(), "set\tsource\treference\tprediction\n".to_owned());
    for (metrics, set) in &sets {
        let bar = progress_bar(set.pairs().len() as u64, "texts", set.name());
        let answers = pipeline.answer(set, usize::MAX, &options, |texts| bar.inc(texts as u64));
        bar.finish_and_clear();
        let answers = answers.with_context(|| set.name().to_owned())?;
        answers.limits().warn(&format!("{}: ", set.name()), &options);
        let scores = answers.scores(metrics)?.into_iter();
        let metrics = scores.map(|(name, value)| (name + &suffix, value)).collect();
        let line = Line { set: set.name(), examples: answers.len() as u64, metrics };
        writeln!(out, "{}", serde_json::to_string(&line)?)?;
        if let Some(path) = &args.predictions {
            table.extend(answers.rows().map(|row| format!("{}\t{}\n", set.name(), row.cells())));
            // With its folder, which a name alone is without. After each set, for the next one may take long.
            let path = std::path::absolute(path).with_context(|| path.display().to_string())?;
            write_beside(&path, |file| file.write_all(table.as_bytes()))?;
        }
    }
    Ok(())
}

/// The tasks that the run learned, or the one that is asked for; `None` where it learned none, or other pairs are named.
fn tasks(args: &Args, config: &toml::Table, folder: &Path) -> anyhow::Result<Option<Vec<TaskConfig>>> {
    let learned = match config.get("tasks") {
        Some(tasks) => Vec::<TaskConfig>::deserialize(tasks.clone())
            .with_context(|| format!("the tasks in the config of the run that left {}", folder.display()))?,
        None => Vec::new(),
    };
    if names_pairs(args) || learned.is_empty() {
        return match &args.task {
            Some(task) => {
                let refuse = || {
                    bail!(
                        "--task {task}: there is a choice among the tasks of a run of t5-text2text; name other pairs with --set \
                         data.name=NAME or --set 'data.valid_files=[FILE]'"
                    )
                };
                refuse().usage()
            }
            None => Ok(None),
        };
    }
    match &args.task {
        Some(name) => Ok(Some(vec![task_named(&learned, name).usage()?.clone()])),
        None => Ok(Some(learned)),
    }
}

/// The sets of tasks, whose sources have their prefixes.
fn open_tasks(
    args: &Args,
    config: &toml::Table,
    tasks: &[TaskConfig],
    options: &mut Text2TextOptions,
) -> anyhow::Result<Vec<Scored>> {
    if args.search.prefix.is_some() {
        let refuse = || bail!("--prefix does nothing with the tasks of a run, which have their own");
        refuse().usage()?;
    }
    if let Some(other) = args.overrides.iter().find(|text| data_key(text) != "max_source_len") {
        let refuse = || bail!("--set {other} does nothing with the tasks of a run, which say what is read");
        refuse().usage()?;
    }
    options.prefix.clear();
    options.max_source_len = load_data(args, config, options)?.max_source_len;
    let sets = TextTasks::open_scored(tasks, &Places::from_environment())?;
    let metrics = |own: TextMetric| args.metric.clone().unwrap_or_else(|| vec![own]);
    Ok(sets.into_iter().map(|(own, set)| (metrics(own), set)).collect())
}

fn open_pairs(args: &Args, config: &toml::Table, options: &mut Text2TextOptions) -> anyhow::Result<Vec<Scored>> {
    let data = load_data(args, config, options)?;
    check_pairs(&data).usage()?;
    options.max_source_len = data.max_source_len;
    let metrics = args.metric.clone().unwrap_or_else(|| METRICS.to_vec());
    Ok(data.open_scored()?.into_iter().map(|set| (metrics.clone(), set)).collect())
}

/// What the run that left the model read, as far as it holds, with the flags over it.
fn load_data(args: &Args, config: &toml::Table, options: &Text2TextOptions) -> anyhow::Result<PairConfig> {
    let mut data = toml::Table::new();
    data.insert("max_source_len".into(), i64::try_from(options.max_source_len)?.into());
    let of_run = data_of(config);
    // The table of a run that learned a text or tasks is another one.
    let of_pairs = of_run.contains_key("source");
    let given = names_pairs(args);
    let kept = |key: &str| {
        key == "max_source_len"
            || of_pairs && (READ_KEYS.contains(&key) || !given && (key == "folder" || PLACE_KEYS.contains(&key)))
    };
    data.extend(of_run.into_iter().filter(|(key, _)| kept(key)));
    let config = toml::Table::from_iter([("data".to_owned(), toml::Value::Table(data))]);
    Ok(load::<Config>(None, &toml::to_string(&config)?, &args.overrides)?.config.data)
}

/// Whether the flags say where pairs are.
fn names_pairs(args: &Args) -> bool {
    args.overrides.iter().any(|text| PLACE_KEYS.contains(&data_key(text)))
}

/// Refuses flags that would change nothing, and a table that nobody could write.
fn check_flags(args: &Args) -> anyhow::Result<()> {
    let of_training = |text: &&String| {
        ["max_target_len", "tokens_per_batch", "group_by_length", "files", "train"].contains(&data_key(text))
    };
    if let Some(other) = args.overrides.iter().find(of_training) {
        bail!("--set {other}: this key is of training; --max-new-tokens limits what is written");
    }
    if let Some(other) = args.overrides.iter().find(|text| data_key(text) == "lowercase") {
        bail!(
            "--set {other}: the model itself says in which case it reads; --metric bleu ignores the case of references"
        );
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

/// The key within `[data]` of a `KEY=VALUE`.
fn data_key(text: &str) -> &str {
    key(text).trim_start_matches("data.").split('.').next().unwrap_or_default()
}
