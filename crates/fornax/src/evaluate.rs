use std::{
    collections::BTreeMap,
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use clap::builder::RangedU64ValueParser;
use fornax_backend::{DeviceSpec, Precision};
use fornax_cli::{UsageContext, load, model_folder};
use fornax_data::{
    BatchSource, SpecialToken, Tokenizer,
    labelled::{EncodedSet, LabelKind, LabelledBatches},
};
use fornax_models::hf::{self, LoadClassifier};
use fornax_train::Scores;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// A Hugging Face folder with a classifier, or a run folder of glue, of which the best model is taken
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// A task of GLUE: cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte or wnli; short for --set data.task=NAME
    #[arg(long, value_name = "NAME")]
    task: Option<String>,
    /// A key of [data] in glue's config, such as data.valid_files for your own tables; repeatable. data.max_len is by default that of the run
    /// that left the model
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
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

/// Scores the valid sets of the data, and those test sets that have labels: a line of JSON for each.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    check_overrides(args).usage()?;
    let mut overrides = args.overrides.clone();
    overrides.extend(args.task.as_ref().map(|task| format!("data.task={task}")));
    let folder = model_folder(&args.model);
    let data = load::<glue::Config>(None, &max_len_of_run(&folder)?, &overrides)?.config.data;
    let scored = data.open_scored()?;
    let tokenizer = Tokenizer::open(&folder)?;
    let device = fornax_backend::open(&args.device)?;
    device.check_precision(args.precision)?;
    tracing::info!("device {}: {} ({})", device.spec, device.name, device.reason);
    let (model, report) =
        hf::load_bert_for_sequence_classification(&folder, &LoadClassifier::default(), &device.device)?;
    anyhow::ensure!(
        report.initialised.is_empty(),
        "{}: the checkpoint has no trained classifier: {} missing",
        folder.display(),
        report.initialised.join(", ")
    );
    let sizes = model.bert.config();
    sizes
        .check_tokenizer(tokenizer.vocab_size(), tokenizer.special_id(SpecialToken::Pad).ok())
        .with_context(|| format!("{}: model and tokenizer do not belong together", folder.display()))?;
    check_labels(&model.classifier().labels, &scored.kind).usage()?;
    let given = overrides.iter().any(|text| key(text) == "data.max_len");
    if given && data.max_len > sizes.max_positions {
        let refuse = || bail!("data.max_len = {}: the model reads at most {}", data.max_len, sizes.max_positions);
        refuse().usage()?;
    }
    let mut out = std::io::stdout().lock();
    for set in &scored.sets {
        let encoded = EncodedSet::build(set, &tokenizer, data.max_len.min(sizes.max_positions))?;
        let batches = LabelledBatches::evaluation(encoded.into(), args.batch_size, None)?;
        let bar = progress_bar(batches.steps_per_epoch(), set.name());
        let progress = |done| bar.set_position(done);
        let (metrics, scores) = glue::evaluate_set(&model, &batches, &scored.kind, args.precision, progress)?;
        bar.finish_and_clear();
        let line = Line { set: set.name(), examples: scores.count(), metrics: metrics.values };
        writeln!(out, "{}", serde_json::to_string(&line)?)?;
        if let (Scores::Classes(confusion), LabelKind::Classes(names)) = (&scores, &scored.kind) {
            tracing::info!("{}\n{}", set.name(), confusion.table(names));
        }
    }
    Ok(())
}

/// What is printed of a set.
#[derive(Serialize)]
struct Line<'a> {
    set: &'a str,
    examples: u64,
    #[serde(flatten)]
    metrics: BTreeMap<String, f64>,
}

/// The key of a `KEY=VALUE`.
fn key(text: &str) -> &str {
    text.split_once('=').map_or(text, |(key, _)| key).trim()
}

/// Refuses overrides that would change nothing.
fn check_overrides(args: &Args) -> anyhow::Result<()> {
    if let Some(other) = args.overrides.iter().find(|text| !key(text).starts_with("data.")) {
        bail!("--set {other}: only keys of [data] matter in an evaluation");
    }
    if args.task.is_some() && args.overrides.iter().any(|text| key(text) == "data.task") {
        bail!("--task and --set data.task name the task twice");
    }
    Ok(())
}

/// The beginning of a config, with the `data.max_len` of the run that left the model in `folder`; nothing where no run did.
fn max_len_of_run(folder: &Path) -> anyhow::Result<String> {
    let run = folder.parent().filter(|_| folder.ends_with("best") || folder.ends_with("last"));
    let Some(path) = run.map(|run| run.join("config.toml")) else { return Ok(String::new()) };
    let text = match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(String::new()),
        text => text.with_context(|| path.display().to_string())?,
    };
    let config: toml::Table = toml::from_str(&text).with_context(|| path.display().to_string())?;
    let max_len = config.get("data").and_then(|data| data.get("max_len")?.as_integer());
    Ok(max_len.map_or_else(String::new, |max_len| format!("[data]\nmax_len = {max_len}\n")))
}

/// A bar over the batches of a set, on stderr and only on a terminal.
fn progress_bar(batches: u64, set: &str) -> ProgressBar {
    let bar = ProgressBar::new(batches).with_prefix(set.to_owned());
    match ProgressStyle::with_template("{bar:24} {pos}/{len}  evaluating {prefix} [{elapsed}<{eta}]") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Whether the model's outputs are the labels of the data, in the same order. Names that were never given fit any.
fn check_labels(model: &[String], kind: &LabelKind) -> anyhow::Result<()> {
    let names = match kind {
        LabelKind::Score if model.len() == 1 => return Ok(()),
        LabelKind::Score => bail!("the model tells {} classes apart, the data has numbers", model.len()),
        LabelKind::Classes(names) => names,
    };
    let numbered = model.iter().enumerate().all(|(number, label)| *label == format!("LABEL_{number}"));
    let same = model.len() == names.len() && model.iter().zip(names).all(|(a, b)| a.eq_ignore_ascii_case(b));
    if same || numbered && model.len() == names.len() && model.len() > 1 {
        return Ok(());
    }
    bail!("the model's labels are {}, those of the data {}", model.join(", "), names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_says_how_long_its_texts_were() {
        let run = tempfile::tempdir().unwrap();
        let of = |name: &str| max_len_of_run(&run.path().join(name)).map_err(|error| format!("{error:#}"));
        assert_eq!(of("best"), Ok(String::new()), "no run left it");
        let config = run.path().join("config.toml");
        std::fs::write(&config, "format_version = 1\n[data]\ntask = 'sst2'\nmax_len = 64\n").unwrap();
        assert_eq!(of("best"), Ok("[data]\nmax_len = 64\n".into()));
        assert_eq!(of("last"), of("best"));
        assert_eq!(of("model"), Ok(String::new()), "a folder that only lies beside a config");
        std::fs::write(&config, "[data]\nfiles = []\n").unwrap();
        assert_eq!(of("best"), Ok(String::new()), "a recipe without the key");
        std::fs::write(&config, "[data\n").unwrap();
        assert!(of("best").unwrap_err().starts_with(&config.display().to_string()));
    }

    #[test]
    fn labels_must_be_those_of_the_data() {
        let strings = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let classes = LabelKind::Classes(strings(&["bad", "good"]));
        let check = |model: &[&str], kind| check_labels(&strings(model), kind).map_err(|error| error.to_string());
        assert_eq!(check(&["Bad", "Good"], &classes), Ok(()));
        assert_eq!(check(&["LABEL_0", "LABEL_1"], &classes), Ok(()));
        assert_eq!(
            check(&["good", "bad"], &classes),
            Err("the model's labels are good, bad, those of the data bad, good".into())
        );
        assert!(check(&["LABEL_0"], &classes).is_err() && check(&["bad", "good", "so"], &classes).is_err());
        assert_eq!(check(&["LABEL_0"], &LabelKind::Score), Ok(()));
        assert!(check(&["bad", "good"], &LabelKind::Score).unwrap_err().contains("2 classes"));
    }
}
