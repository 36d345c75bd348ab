//! Translation: the Transformer of 2017 (Vaswani et al., "Attention is all you need") learns from parallel text to write in one
//! language what it reads in another.
//!
//! This file is the whole recipe, to be read from top to bottom. Change the objective in `task.rs`, the order of work in [`run`], and
//! the architecture in `fornax-models/src/transformer`.

mod bench;
mod config;
mod data;
mod dry_run;
mod outcome;
mod start;
mod task;
mod tokenizers;

use std::{ffi::OsString, io::Write, path::Path, process::ExitCode};

use anyhow::Context as _;
use clap::Parser;
use fornax_backend::OpenDevice;
use fornax_cli::{Ending, RunArgs, main_with};
use fornax_data::{BatchSource, DataError, Split};
use fornax_models::{
    Transformer, TransformerConfig,
    hf::{self, TransformerText},
};
use fornax_pipelines::save_generation_config;
use fornax_train::{Learner, LearnerSettings, Options, Run, RunInfo, check_run_folder};

pub use config::{Config, GenerateConfig, ModelConfig, ObjectiveConfig, TestConfig};
pub use data::Data;
pub use task::NextTargetToken;
pub use tokenizers::{SOURCE_TOKENIZER, Tokenizers};

/// The name of the recipe, in run folders and summaries.
pub const NAME: &str = "translate";

/// The config of a run that names none.
pub const DEFAULT_CONFIG: &str = include_str!("../configs/default.toml");

/// Train the Transformer of 2017 on parallel text.
#[derive(Parser, Clone, Debug)]
#[command(name = "translate", version)]
pub struct Args {
    #[command(flatten)]
    run: RunArgs,
}

/// Trains as `config` says, or does what `options` ask for instead.
///
/// # Errors
///
/// Whatever ends a run early.
pub fn run(config: &Config, options: &Options) -> anyhow::Result<Ending> {
    config.validate()?;
    if !options.dry_run && options.bench.is_none() {
        check_run_folder(options)?;
    }
    let (config, opening) = start::resolve(config, options)?;
    let (config, task) = (&config, NextTargetToken::new(&config.objective));
    let device = fornax_backend::open(&options.device.parse()?)?;
    device.check_precision(options.precision)?;
    tracing::info!("device {}: {} ({})", device.spec, device.name, device.reason);
    let data = Data::open(&opening, options.overfit)?;
    let mut learner = learner(config, options, &device, &data)?;
    if options.dry_run {
        return dry_run::run(config, &data, learner);
    }
    if let Some(steps) = options.bench {
        return bench::run(steps, config, &device, &data, learner);
    }

    let info = run_info(options, &device, &data)?;
    let (tokenizers, exported) = (data.tokenizers.clone(), config.clone());
    let mut run = Run::open(options, config, info, &mut learner)?
        .export_with(move |model, folder| export(model, &tokenizers, &exported, folder));
    let new = !run.is_finished();
    if new {
        data.tokenizers.save_source(run.dir())?;
    }
    let mut batches = data.loader(run.completed_steps()..run.max_steps())?;
    while let Some(step) = run.next_step() {
        let (_, micro_batches) = batches.next().context("the loader ended before the run")??;
        let stats = learner.train_step(step, &micro_batches, &task)?;
        run.log_train(&stats, &mut learner)?;
        if run.eval_due() {
            run.log_eval(&outcome::evaluate_valid(&learner, config, &data, &run)?)?;
        }
        if run.save_due() {
            run.save(&learner)?;
        }
    }
    drop(batches);
    let folder = run.dir().to_owned();
    run.settle(&mut learner)?;
    // Before the run counts as finished, so that one that dies on the way does this again when it is resumed.
    let examples = match new && !run.is_interrupted() {
        true => outcome::write(&mut learner, config, &data, &mut run)?,
        false => String::new(),
    };
    let summary = run.finish(&mut learner)?;
    write!(std::io::stdout(), "{examples}")?;
    if new && !summary.interrupted && data.test.is_some() {
        tracing::info!("translations: {}", folder.join(outcome::PREDICTIONS).display());
    }
    Ok(if summary.interrupted { Ending::Interrupted } else { Ending::Done })
}

/// A model, new or from a checkpoint, with its optimizer.
fn learner(
    config: &Config,
    options: &Options,
    device: &OpenDevice,
    data: &Data,
) -> anyhow::Result<Learner<Transformer>> {
    let model = start::init_model(config, options, data, &device.device.clone().autodiff())?;
    let (optimizer, schedule, per_epoch) = (&config.optimizer, &config.schedule, data.train.steps_per_epoch());
    let settings = LearnerSettings::new(&config.train, optimizer, schedule, per_epoch, options.precision)?;
    Ok(Learner::new(model, settings)?)
}

fn run_info(options: &Options, device: &OpenDevice, data: &Data) -> Result<RunInfo, DataError> {
    Ok(RunInfo {
        data_hash: Some(data.hash.clone()),
        tokenizer_hash: Some(data.tokenizers.hash()),
        tokenizer: Some(data.tokenizers.target.to_json()?.into_bytes()),
        steps_per_epoch: Some(data.train.steps_per_epoch()),
        ..RunInfo::new(NAME, device, options.precision)
    })
}

/// Floating-point operations of a training step for each token, in pairs of the mean length.
fn training_flops_per_token(sizes: &TransformerConfig, data: &Data) -> f64 {
    let (source_len, target_len) = data.mean_lengths();
    sizes.training_flops_per_pair(source_len, target_len) / (source_len + target_len) as f64
}

/// Writes the batches of one step of `split`, `rows` rows of each, as tables for people: ids and pieces of both sides.
///
/// # Errors
///
/// A config that can't be used, data that can't be had, and what `out` fails with.
pub fn inspect(config: &Config, split: Split, step: u64, rows: usize, out: &mut impl Write) -> anyhow::Result<()> {
    config.validate()?;
    let (_, opening) = start::resolve(config, &Options::default())?;
    let data = Data::open(&opening, None)?;
    let set = match split {
        Split::Train => data.train.as_ref(),
        Split::Valid => &data.valid,
        Split::Test => data.test.as_ref().context("there is no test set")?,
    };
    // A training goes on into the next epoch, an evaluation has but one.
    let step = if split == Split::Train { step } else { step % set.steps_per_epoch() };
    for (index, batch) in set.micro_batches(step)?.iter().enumerate() {
        writeln!(out, "{split}, step {step}, micro-batch {index}: {} pairs", batch.batch)?;
        let (source, target) = (&data.tokenizers.source, &data.tokenizers.target);
        write!(out, "{}", fornax_data::inspect::render_translation(batch, source, target, rows))?;
    }
    Ok(())
}

/// A folder that `model.from` and `fornax predict` read: the model, how it translates, `tokenizer.json`, and `source_tokenizer.json`
/// where the source has its own.
fn export(model: &Transformer, tokenizers: &Tokenizers, config: &Config, folder: &Path) -> anyhow::Result<()> {
    let (start, end) = (tokenizers.start(), tokenizers.end);
    let text = TransformerText { start_token: Some(start), end_token: Some(end), lowercase: config.data.lowercase };
    hf::save_transformer(model, folder, &text)?;
    let decoding = config.generate.options(config.generate.num_beams, start, end);
    save_generation_config(&decoding, model.config().pad_token, folder)?;
    tokenizers.target.save_pretrained(folder, config.data.max_source_len)?;
    Ok(tokenizers.save_source(folder)?)
}

/// Reads the config and runs.
///
/// # Errors
///
/// Whatever ends a run early; `fornax_cli::main_with` prints it and finds the exit code.
pub fn execute(args: &Args) -> anyhow::Result<Ending> {
    let loaded = args.run.load::<Config>(NAME, DEFAULT_CONFIG)?;
    run(&loaded.config, &args.run.options())
}

/// The program `translate`, with its arguments.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    main_with(args, |args: Args| execute(&args))
}
