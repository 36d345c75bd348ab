//! GPT language modelling: a GPT-2 learns to predict the next token of a text.
//!
//! This file is the whole recipe, to be read from top to bottom. Change the objective in [`NextToken::loss`], the order of
//! work in [`run`], and the architecture in `fornax-models/src/gpt2.rs`.

mod bench;
mod config;
mod data;
mod dry_run;
mod sample;
mod start;

use std::{ffi::OsString, io::Write, path::Path, process::ExitCode, sync::Arc};

use anyhow::Context as _;
use burn::tensor::{Device, Int, Tensor, TensorData};
use clap::Parser;
use fornax_backend::OpenDevice;
use fornax_cli::{Ending, RunArgs, UsageContext, main_with};
use fornax_data::{BatchSource, DataError, IGNORE_TARGET, Split, TokenBatch, Tokenizer};
use fornax_models::{Gpt2, hf};
use fornax_ops::{AttentionMask, Context, CrossEntropy};
use fornax_train::{
    BatchSize, Learner, LearnerSettings, Metrics, Options, Run, RunInfo, Sums, Task, Term, TrainError,
    check_run_folder, evaluate,
};
use indicatif::ProgressBar;

pub use config::{Config, ModelConfig, ObjectiveConfig, SampleConfig, Sampling};
pub use data::Data;

/// The name of the recipe, in run folders and summaries.
pub const NAME: &str = "gpt-lm";

/// The config of a run that names none.
pub const DEFAULT_CONFIG: &str = include_str!("../configs/default.toml");

/// Train a GPT on text.
#[derive(Parser, Clone, Debug)]
#[command(name = "gpt-lm", version)]
pub struct Args {
    #[command(flatten)]
    run: RunArgs,
}

/// Next-token prediction: the mean over all positions of the cross-entropy between prediction and next token.
#[derive(Clone, Copy, Debug)]
pub struct NextToken;

impl Task<Gpt2> for NextToken {
    type Batch = TokenBatch;

    fn size(&self, batch: &TokenBatch) -> BatchSize {
        BatchSize { counts: vec![("loss", batch.target_count())], tokens: batch.token_count() }
    }

    fn describe(&self, batch: &TokenBatch) -> String {
        let numbers: Vec<String> = batch.examples.iter().map(ToString::to_string).collect();
        format!("blocks {}", numbers.join(", "))
    }

    fn loss(&self, model: &Gpt2, batch: &TokenBatch, context: &Context) -> Sums {
        let device = model.token_embedding.weight.device();
        let hidden = model.hidden(to_device(&batch.input_ids, batch, &device), &AttentionMask::None, context);
        let targets = to_device(&batch.targets, batch, &device).flatten::<1>(0, 1);
        let CrossEntropy { sum, correct, .. } =
            model.linear_logits(hidden).cross_entropy_sum(targets, i64::from(IGNORE_TARGET), 0.0, context);
        let terms = vec![Term { name: "loss", sum, weight: 1.0 }];
        Sums { terms, metrics: vec![("correct", correct)], predictions: None }
    }
}

fn to_device(ids: &[i32], batch: &TokenBatch, device: &Device) -> Tensor<2, Int> {
    Tensor::from_data(TensorData::new(ids.to_vec(), [batch.batch, batch.seq_len]), device)
}

/// Trains as `config` says, or does what `options` ask for instead.
pub fn run(config: &Config, options: &Options) -> anyhow::Result<Ending> {
    config.validate()?;
    if !options.dry_run && options.bench.is_none() {
        check_run_folder(options)?;
    }
    let (config, opening) = start::resolve(config, options)?;
    let config = &config;
    let device = fornax_backend::open(&options.device.parse()?)?;
    device.check_precision(options.precision)?;
    tracing::info!("device {}: {} ({})", device.spec, device.name, device.reason);
    let data = Data::open(&opening, options.overfit)?;
    sample::check(&config.sample, &data.tokenizer).usage()?;
    let mut learner = learner(config, options, &device, &data)?;
    if options.dry_run {
        return dry_run::run(config, &data, learner);
    }
    if let Some(steps) = options.bench {
        return bench::run(steps, &device, &data, learner);
    }

    let info = run_info(options, &device, &data)?;
    let tokenizer = Arc::clone(&data.tokenizer);
    let mut run = Run::open(options, config, info, &mut learner)?
        .export_with(move |model, folder| export(model, &tokenizer, folder));
    let mut batches = data.loader(run.completed_steps()..run.max_steps())?;
    while let Some(step) = run.next_step() {
        let (_, micro_batches) = batches.next().context("the loader ended before the run")??;
        let stats = learner.train_step(step, &micro_batches, &NextToken)?;
        run.log_train(&stats, &mut learner)?;
        if run.eval_due() {
            run.log_eval(&evaluate_valid(&learner, &data, &run.eval_progress(data.valid_batches))?)?;
        }
        if run.save_due() {
            run.save(&learner)?;
        }
    }
    drop(batches);
    let (folder, new) = (run.dir().to_owned(), !run.is_finished());
    let summary = run.finish(&mut learner)?;
    if summary.interrupted {
        return Ok(Ending::Interrupted);
    }
    if new {
        sample::print(&config.sample, &learner.valid(), &data.tokenizer, &folder)?;
    }
    Ok(Ending::Done)
}

/// The loss over the valid split, or over as much of it as `eval.max_batches` allows.
fn evaluate_valid(learner: &Learner<Gpt2>, data: &Data, bar: &ProgressBar) -> Result<Metrics, TrainError> {
    let (model, batches) = (learner.valid(), data.valid_batches());
    let metrics = evaluate(&model, batches, &NextToken, learner.precision(), |done| bar.set_position(done))?;
    bar.finish_and_clear();
    Ok(metrics.with_bits_per_byte(data.bytes_per_target()))
}

/// A model, new or from a checkpoint, with its optimizer.
fn learner(config: &Config, options: &Options, device: &OpenDevice, data: &Data) -> anyhow::Result<Learner<Gpt2>> {
    let model = start::init_model(config, options, &data.tokenizer, &device.device.clone().autodiff())?;
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

/// Writes the batches of one step of `split`, `rows` rows of each, as tables for people: ids, pieces, mask and targets. Behind the
/// last batch of an evaluation comes the first again; the step that is named is the one that is shown.
///
/// # Errors
///
/// A config that can't be used, data that can't be had, and what `out` fails with.
pub fn inspect(config: &Config, split: Split, step: u64, rows: usize, out: &mut impl Write) -> anyhow::Result<()> {
    config.validate()?;
    let (_, opening) = start::resolve(config, &Options::default())?;
    let data = Data::open(&opening, None)?;
    let (step, batches) = match split {
        Split::Train => (step, data.train.micro_batches(step)?),
        Split::Valid => {
            let step = step % data.valid.steps_per_epoch();
            (step, data.valid.micro_batches(step)?)
        }
        Split::Test => anyhow::bail!("{NAME} has no test split"),
    };
    for (index, batch) in batches.iter().enumerate() {
        writeln!(out, "{split}, step {step}, micro-batch {index}: {} rows", batch.batch)?;
        write!(out, "{}", fornax_data::inspect::render(batch, &data.tokenizer, rows))?;
    }
    Ok(())
}

/// A folder that `transformers`, `fornax generate` and `model.from` read.
fn export(model: &Gpt2, tokenizer: &Tokenizer, folder: &Path) -> anyhow::Result<()> {
    hf::save_gpt2(model, folder, tokenizer.end_of_text_id())?;
    tokenizer.save_pretrained(folder, model.config().max_positions)?;
    Ok(())
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

/// The program `gpt-lm`, with its arguments.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    main_with(args, |args: Args| execute(&args))
}
