//! Masked-language modelling: a BERT learns to tell the tokens that were hidden from it, and with sentence pairs whether two spans
//! belong together.
//!
//! This file is the whole recipe, to be read from top to bottom. Change the objective in [`MaskedLm::loss`], the order of work in
//! [`run`], and the architecture in `fornax-models/src/bert`.

mod bench;
mod config;
mod data;
mod dry_run;
mod example;
mod model;
mod start;

use std::{ffi::OsString, io::Write, path::Path, process::ExitCode, sync::Arc};

use anyhow::Context as _;
use burn::tensor::{Device, Int, Tensor, TensorData};
use clap::Parser;
use fornax_backend::OpenDevice;
use fornax_cli::{Ending, RunArgs, main_with};
use fornax_data::{BatchSource, DataError, IGNORE_TARGET, MaskedBatch, SpecialToken, Split, Tokenizer};
use fornax_models::{BertConfig, BertForMaskedLm, BertForPreTraining};
use fornax_ops::{AttentionMask, Context, CrossEntropy, cross_entropy_sum};
use fornax_train::{
    BatchSize, Learner, LearnerSettings, Metrics, Options, Run, RunInfo, Sums, Task, Term, TrainError,
    check_run_folder, evaluate,
};
use indicatif::ProgressBar;

pub use config::{Config, ExampleConfig, ModelConfig, ObjectiveConfig};
pub use data::Data;
pub use model::Pretraining;

/// The name of the recipe, in run folders and summaries.
pub const NAME: &str = "bert-mlm";

/// The config of a run that names none.
pub const DEFAULT_CONFIG: &str = include_str!("../configs/default.toml");

/// The positions of a micro-batch at which a token is predicted are filled up to a multiple of this, so that a GPU meets few shapes.
const POSITIONS: usize = 64;

/// Pretrain a BERT on text.
#[derive(Parser, Clone, Debug)]
#[command(name = "bert-mlm", version)]
pub struct Args {
    #[command(flatten)]
    run: RunArgs,
}

/// Masked-language modelling, and with sentence pairs their classification: the sum of both mean cross-entropies, as in BERT.
#[derive(Clone, Copy, Debug)]
pub struct MaskedLm {
    gather: bool,
    pairs: bool,
}

impl MaskedLm {
    /// The task that `[objective]` describes.
    pub fn new(objective: &ObjectiveConfig) -> Self {
        Self { gather: objective.gather, pairs: objective.sentence_pairs.is_some() }
    }
}

impl<M: Pretraining> Task<M> for MaskedLm {
    type Batch = MaskedBatch;

    fn size(&self, batch: &MaskedBatch) -> BatchSize {
        let mut counts = vec![("masked_lm", batch.target_count())];
        if self.pairs {
            counts.push(("next_sentence", batch.batch));
        }
        BatchSize { counts, tokens: batch.token_count() }
    }

    fn describe(&self, batch: &MaskedBatch) -> String {
        let numbers: Vec<String> = batch.examples.iter().map(ToString::to_string).collect();
        format!("sequences {}", numbers.join(", "))
    }

    fn loss(&self, model: &M, batch: &MaskedBatch, context: &Context) -> Sums {
        let device = model.encoder().token_embedding.weight.device();
        let (positions, targets) = self.positions(batch);
        let inputs = model::Inputs {
            input_ids: rows(&batch.input_ids, batch, &device),
            token_type_ids: self.pairs.then(|| rows(&batch.token_type_ids, batch, &device)),
            mask: AttentionMask::KeyLengths(numbers(batch.lengths.clone(), &device)),
            positions: numbers(positions, &device),
        };
        let (tokens, sentences) = model.predict(inputs, context);
        let ignore = i64::from(IGNORE_TARGET);
        let CrossEntropy { sum, correct, .. } =
            tokens.cross_entropy_sum(numbers(targets, &device), ignore, 0.0, context);
        let mut terms = vec![Term { name: "masked_lm", sum, weight: 1.0 }];
        let mut metrics = vec![("correct", correct)];
        if let (Some(sentences), Some(labels)) = (sentences, &batch.sentence_labels) {
            let CrossEntropy { sum, correct, .. } =
                cross_entropy_sum(sentences, numbers(labels.clone(), &device), ignore);
            terms.push(Term { name: "next_sentence", sum, weight: 1.0 });
            metrics.push(("next_sentence_correct", correct));
        }
        Sums { terms, metrics, predictions: None }
    }
}

impl MaskedLm {
    /// The positions at which logits are computed, and their targets.
    fn positions(&self, batch: &MaskedBatch) -> (Vec<i32>, Vec<i32>) {
        if !self.gather {
            return ((0..batch.targets.len() as i32).collect(), batch.targets.clone());
        }
        let (mut positions, mut targets) = batch.masked_positions();
        let len = positions.len().max(1).next_multiple_of(POSITIONS);
        positions.resize(len, 0);
        targets.resize(len, IGNORE_TARGET);
        (positions, targets)
    }
}

fn rows(ids: &[i32], batch: &MaskedBatch, device: &Device) -> Tensor<2, Int> {
    Tensor::from_data(TensorData::new(ids.to_vec(), [batch.batch, batch.seq_len]), device)
}

fn numbers(values: Vec<i32>, device: &Device) -> Tensor<1, Int> {
    let len = values.len();
    Tensor::from_data(TensorData::new(values, [len]), device)
}

/// Trains as `config` says, or does what `options` ask for instead.
pub fn run(config: &Config, options: &Options) -> anyhow::Result<Ending> {
    match config.objective.sentence_pairs {
        None => train::<BertForMaskedLm>(config, options),
        Some(_) => train::<BertForPreTraining>(config, options),
    }
}

fn train<M: Pretraining + 'static>(config: &Config, options: &Options) -> anyhow::Result<Ending> {
    config.validate()?;
    if !options.dry_run && options.bench.is_none() {
        check_run_folder(options)?;
    }
    let (config, opening) = start::resolve(config, options)?;
    let (config, task) = (&config, MaskedLm::new(&config.objective));
    let device = fornax_backend::open(&options.device.parse()?)?;
    device.check_precision(options.precision)?;
    tracing::info!("device {}: {} ({})", device.spec, device.name, device.reason);
    let data = Data::open(&opening, options.overfit)?;
    let mut learner = learner::<M>(config, options, &device, &data)?;
    example::check(&config.example, &data.tokenizer, learner.model().encoder().config().max_positions)?;
    if options.dry_run {
        return dry_run::run(config, &data, learner);
    }
    if let Some(steps) = options.bench {
        return bench::run(steps, config, &device, &data, learner);
    }

    let info = run_info(options, &device, &data)?;
    let tokenizer = Arc::clone(&data.tokenizer);
    let mut run = Run::open(options, config, info, &mut learner)?
        .export_with(move |model, folder| export(model, &tokenizer, folder));
    let mut batches = data.loader(run.completed_steps()..run.max_steps())?;
    while let Some(step) = run.next_step() {
        let (_, micro_batches) = batches.next().context("the loader ended before the run")??;
        let stats = learner.train_step(step, &micro_batches, &task)?;
        run.log_train(&stats, &mut learner)?;
        if run.eval_due() {
            run.log_eval(&evaluate_valid(&learner, &task, &data, &run.eval_progress(data.valid_batches))?)?;
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
        example::print(&config.example, learner.valid(), &data.tokenizer, &folder)?;
    }
    Ok(Ending::Done)
}

/// Loss, accuracy and pseudo-perplexity over the valid split, or over as much of it as `eval.max_batches` allows.
fn evaluate_valid<M: Pretraining>(
    learner: &Learner<M>,
    task: &MaskedLm,
    data: &Data,
    bar: &ProgressBar,
) -> Result<Metrics, TrainError> {
    let batches = data.valid_batches();
    let metrics = evaluate(&learner.valid(), batches, task, learner.precision(), |done| bar.set_position(done))?;
    bar.finish_and_clear();
    Ok(metrics)
}

/// A model, new or from a checkpoint, with its optimizer.
fn learner<M: Pretraining>(
    config: &Config,
    options: &Options,
    device: &OpenDevice,
    data: &Data,
) -> anyhow::Result<Learner<M>> {
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

/// Floating-point operations of a training step for each token: the encoder's, and those of the head where tokens are predicted.
fn training_flops_per_token(config: &Config, sizes: &BertConfig) -> f64 {
    let head = 6 * sizes.hidden_size * (sizes.hidden_size + sizes.vocab_size);
    sizes.training_flops_per_token(config.objective.seq_len) + config.predicted_share() * head as f64
}

/// Writes the batches of one step of `split`, `rows` rows of each, as tables for people: ids, pieces, what was put, and targets.
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
        write!(out, "{}", fornax_data::inspect::render_masked(batch, &data.tokenizer, rows))?;
    }
    Ok(())
}

/// A folder that `transformers`, `fornax predict` and `model.from` read.
fn export<M: Pretraining>(model: &M, tokenizer: &Tokenizer, folder: &Path) -> anyhow::Result<()> {
    model.save(folder, tokenizer.special_id(SpecialToken::Pad).ok())?;
    tokenizer.save_pretrained(folder, model.encoder().config().max_positions)?;
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

/// The program `bert-mlm`, with its arguments.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    main_with(args, |args: Args| execute(&args))
}
