//! Fine-tuning on GLUE, or on tables of one's own: an encoder learns to tell the class of a text or a pair of texts, or to give it a
//! number.
//!
//! This file is the whole recipe, to be read from top to bottom. Change the objective in `task.rs`, the order of work in [`run`], and
//! the architecture in `fornax-models/src/bert`.

mod bench;
mod config;
mod data;
mod dry_run;
mod evaluate;
mod outcome;
mod predictions;
mod seeds;
mod start;
mod task;

use std::{ffi::OsString, io::Write, path::Path, process::ExitCode, sync::Arc};

use anyhow::Context as _;
use clap::Parser;
use fornax_backend::OpenDevice;
use fornax_cli::{Ending, RunArgs, UsageContext, main_with, model_folder};
use fornax_data::{BatchSource, DataError, SpecialToken, Split, Tokenizer};
use fornax_models::{BertForSequenceClassification, hf};
use fornax_train::{Learner, LearnerSettings, Options, Run, RunInfo, Summary, check_run_folder};

pub use config::{Config, ModelConfig};
pub use data::Data;
pub use evaluate::evaluate_set;
pub use task::Classify;

/// The name of the recipe, in run folders and summaries.
pub const NAME: &str = "glue";

/// The config of a run that names none.
pub const DEFAULT_CONFIG: &str = include_str!("../configs/default.toml");

/// Fine-tune an encoder on GLUE, or on your own labelled text.
#[derive(Parser, Clone, Debug)]
#[command(name = "glue", version)]
pub struct Args {
    #[command(flatten)]
    run: RunArgs,
    /// Train once for each of these seeds, into RUN_DIR/seed-N, and print mean and spread
    #[arg(long, value_name = "N,N,...", value_delimiter = ',', conflicts_with_all = ["seed", "dry_run", "bench"])]
    seeds: Vec<u64>,
}

/// Trains as `config` says, or does what `options` ask for instead. The summary is that of a run that was made.
///
/// # Errors
///
/// Whatever ends a run early.
pub fn run(config: &Config, options: &Options) -> anyhow::Result<(Ending, Option<Summary>)> {
    config.validate()?;
    if !options.dry_run && options.bench.is_none() {
        check_run_folder(options)?;
    }
    let (mut config, opening) = start::resolve(config, options)?;
    let device = fornax_backend::open(&options.device.parse()?)?;
    device.check_precision(options.precision)?;
    tracing::info!("device {}: {} ({})", device.spec, device.name, device.reason);
    let data = Data::open(&opening, options.overfit)?;
    config.choose_metric(data.splits.best(), evaluate::new_scores(&data.splits.kind).kinds())?;
    let config = &config;
    let mut learner = learner(config, options, &device, &data)?;
    if options.dry_run {
        return Ok((dry_run::run(config, &data, learner)?, None));
    }
    if let Some(steps) = options.bench {
        return Ok((bench::run(steps, config, &device, &data, learner)?, None));
    }

    let info = run_info(options, &device, &data)?;
    let tokenizer = Arc::clone(&data.tokenizer);
    let of_model = config.model.clone();
    let mut run = Run::open(options, config, info, &mut learner)?
        .export_with(move |model, folder| export(model, &of_model, &tokenizer, folder));
    let mut batches = data.loader(run.completed_steps()..run.max_steps())?;
    while let Some(step) = run.next_step() {
        let (_, micro_batches) = batches.next().context("the loader ended before the run")??;
        let stats = learner.train_step(step, &micro_batches, &Classify)?;
        run.log_train(&stats, &mut learner)?;
        if run.eval_due() {
            run.log_eval(&outcome::evaluate_valid(&learner, &data, &run)?.0)?;
        }
        if run.save_due() {
            run.save(&learner)?;
        }
    }
    drop(batches);
    let (folder, new) = (run.dir().to_owned(), !run.is_finished());
    run.settle(&mut learner)?;
    // Before the run counts as finished, so that one that dies on the way does this again when it is resumed.
    let table = match new && !run.is_interrupted() {
        true => outcome::write(&learner, &data, &mut run)?,
        false => None,
    };
    let summary = run.finish(&mut learner)?;
    if let Some(table) = table {
        writeln!(std::io::stdout(), "\n{table}")?;
    }
    if new && !summary.interrupted && !data.test.is_empty() {
        tracing::info!("predictions: {}", folder.join(predictions::FOLDER).display());
    }
    let ending = if summary.interrupted { Ending::Interrupted } else { Ending::Done };
    Ok((ending, Some(summary)))
}

/// A model, new or from a checkpoint, with its optimizer.
fn learner(
    config: &Config,
    options: &Options,
    device: &OpenDevice,
    data: &Data,
) -> anyhow::Result<Learner<BertForSequenceClassification>> {
    let model = start::init_model(config, options, data, &device.device.clone().autodiff())?;
    let (optimizer, schedule, per_epoch) = (&config.optimizer, &config.schedule, data.train.steps_per_epoch());
    let settings = LearnerSettings::new(&config.train, optimizer, schedule, per_epoch, options.precision)?;
    Ok(Learner::new(model, settings)?)
}

fn run_info(options: &Options, device: &OpenDevice, data: &Data) -> Result<RunInfo, DataError> {
    Ok(RunInfo {
        data_hash: Some(data.hash.clone()),
        tokenizer_hash: Some(data.tokenizer.hash().to_owned()),
        tokenizer: Some(data.tokenizer.to_json()?.into_bytes()),
        steps_per_epoch: Some(data.train.steps_per_epoch()),
        ..RunInfo::new(NAME, device, options.precision)
    })
}

/// Writes the batches of one step of `split`, `rows` rows of each, as tables for people: ids, pieces and labels.
///
/// # Errors
///
/// A config that can't be used, data that can't be had, and what `out` fails with.
pub fn inspect(config: &Config, split: Split, step: u64, rows: usize, out: &mut impl Write) -> anyhow::Result<()> {
    config.validate()?;
    let (_, opening) = start::resolve(config, &Options::default())?;
    let data = Data::open(&opening, None)?;
    let (sets, texts) = match split {
        Split::Train => (std::slice::from_ref(data.train.as_ref()), std::slice::from_ref(&data.splits.train)),
        Split::Valid => (&data.valid[..], &data.splits.valid[..]),
        Split::Test => (&data.test[..], &data.splits.test[..]),
    };
    anyhow::ensure!(!sets.is_empty(), "there is no {split} set");
    for (set, texts) in sets.iter().zip(texts) {
        // A training goes on into the next epoch, an evaluation has but one.
        let step = if split == Split::Train { step } else { step % set.steps_per_epoch() };
        for (index, batch) in set.micro_batches(step)?.iter().enumerate() {
            writeln!(out, "{}, step {step}, micro-batch {index}: {} rows", texts.name(), batch.batch)?;
            let text = fornax_data::inspect::render_labelled(batch, &data.tokenizer, &data.splits.kind, rows);
            write!(out, "{text}")?;
        }
    }
    Ok(())
}

/// A folder that `transformers`, `fornax predict` and `model.from` read: adapters are merged into the weights, and stand by
/// themselves, as PEFT reads them, in `adapter/`.
fn export(
    model: &BertForSequenceClassification,
    config: &ModelConfig,
    tokenizer: &Tokenizer,
    folder: &Path,
) -> anyhow::Result<()> {
    if let Some(lora) = &config.lora {
        let base = config.from.as_deref().map(model_folder);
        hf::save_bert_lora(model, lora, base.as_deref(), &folder.join("adapter"))?;
    }
    let merged = model.clone().merge_lora();
    hf::save_bert_for_sequence_classification(&merged, folder, tokenizer.special_id(SpecialToken::Pad).ok())?;
    tokenizer.save_pretrained(folder, model.bert.config().max_positions)?;
    Ok(())
}

/// Reads the config and runs.
///
/// # Errors
///
/// Whatever ends a run early; `fornax_cli::main_with` prints it and finds the exit code.
pub fn execute(args: &Args) -> anyhow::Result<Ending> {
    match &args.seeds[..] {
        [] => Ok(run(&args.run.load(NAME, DEFAULT_CONFIG)?.config, &args.run.options())?.0),
        seeds => {
            // Before the micro-batch is chosen, which takes a while.
            let folder = seeds::folder(seeds, args.run.run_dir.as_deref()).usage()?;
            let begun = seeds::first_begun(seeds, folder);
            let loaded = args.run.load_of(begun.as_deref(), NAME, DEFAULT_CONFIG)?;
            seeds::run(seeds, folder, &loaded.config, &args.run.options())
        }
    }
}

/// The program `glue`, with its arguments.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    main_with(args, |args: Args| execute(&args))
}
