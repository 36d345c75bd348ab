mod classifier;
mod text2text;

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use clap::builder::RangedU64ValueParser;
use fornax_backend::{DeviceSpec, Precision};
use fornax_cli::{UsageContext, model_folder};
use fornax_metrics::TextMetric;
use fornax_pipelines::ModelKind;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::predict::SearchArgs;

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// A Hugging Face folder with a classifier or an encoder-decoder, or a run folder, of which the averaged, else the best model is taken
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Of a classifier: a task of GLUE: cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte or wnli; short for --set data.task=NAME. Of an
    /// encoder-decoder: one of the tasks that its run learned; all of them by default
    #[arg(long, value_name = "NAME")]
    task: Option<String>,
    /// A key of [data], such as data.valid_files for your own tables; repeatable. Of a classifier as in glue's config, of an
    /// encoder-decoder as in translate's. What isn't given is as in the run that left the model: the lengths, and for an encoder-decoder
    /// the data too
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Of an encoder-decoder: what its texts are measured by, of exact_match, bleu, sacrebleu, chrf, rouge and f1, with commas between them
    /// [default: of tasks their own, of pairs sacrebleu,chrf]
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = metric)]
    metric: Option<Vec<TextMetric>>,
    /// Of an encoder-decoder: a table (tsv) to write, with the set, source, reference and prediction of each pair
    #[arg(long, value_name = "FILE")]
    predictions: Option<PathBuf>,
    #[command(flatten)]
    search: SearchArgs,
    /// Texts that are computed at once
    #[arg(long, default_value_t = 64, value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    batch_size: usize,
    /// Which device computes.
    #[arg(
        long,
        value_name = "NAME",
        default_value_t,
        help = "auto, flex, wgpu[:i], vulkan[:i], metal[:i], libtorch, libtorch-cuda[:i], cuda[:i] or rocm[:i]"
    )]
    device: DeviceSpec,
    /// Compute type of matrix products and attention: f32, bf16 or f16
    #[arg(long, value_name = "P", default_value_t)]
    precision: Precision,
}

/// What is printed of a set.
#[derive(Serialize)]
struct Line<'a> {
    set: &'a str,
    examples: u64,
    #[serde(flatten)]
    metrics: BTreeMap<String, f64>,
}

/// Scores the valid sets of the data, and those test sets that have answers: a line of JSON for each.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    check_overrides(args).usage()?;
    let folder = model_folder(&args.model);
    match ModelKind::open(&folder)? {
        ModelKind::Encoder(_) => classifier::run(args, &folder),
        ModelKind::Text2Text => text2text::run(args, &folder),
    }
}

fn metric(text: &str) -> Result<TextMetric, String> {
    let known = || TextMetric::ALL.map(|metric| metric.to_string()).join(", ");
    TextMetric::ALL.into_iter().find(|metric| metric.to_string() == text).ok_or_else(|| format!("there is {}", known()))
}

/// The key of a `KEY=VALUE`.
fn key(text: &str) -> &str {
    text.split_once('=').map_or(text, |(key, _)| key).trim()
}

/// Refuses overrides that would change nothing.
fn check_overrides(args: &Args) -> anyhow::Result<()> {
    match args.overrides.iter().find(|text| !key(text).starts_with("data.")) {
        Some(other) => bail!("--set {other}: only keys of [data] matter in an evaluation"),
        None => Ok(()),
    }
}

/// The config of the run that left the model in `folder`; empty where no run did.
fn config_of_run(folder: &Path) -> anyhow::Result<toml::Table> {
    let left = ["averaged", "best", "last"].iter().any(|name| folder.ends_with(name));
    let run = folder.parent().filter(|_| left);
    let Some(path) = run.map(|run| run.join("config.toml")) else { return Ok(toml::Table::new()) };
    let text = match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(toml::Table::new()),
        text => text.with_context(|| path.display().to_string())?,
    };
    toml::from_str(&text).with_context(|| path.display().to_string())
}

/// The table `[data]` of a run's config.
fn data_of(config: &toml::Table) -> toml::Table {
    config.get("data").and_then(toml::Value::as_table).cloned().unwrap_or_default()
}

/// A bar over what a set has, on stderr and only on a terminal.
fn progress_bar(len: u64, unit: &str, set: &str) -> ProgressBar {
    let bar = ProgressBar::new(len).with_prefix(set.to_owned());
    let template = format!("{{bar:24}} {{pos}}/{{len}} {unit}  evaluating {{prefix}} [{{elapsed}}<{{eta}}]");
    match ProgressStyle::with_template(&template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
