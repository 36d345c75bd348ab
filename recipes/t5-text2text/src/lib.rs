//! T5: everything is text in and text out. An encoder-decoder is pretrained by writing what was hidden of a text, or learns tasks whose
//! sources and answers are texts, several at once if need be.
//!
//! This file is the whole recipe, to be read from top to bottom. Change the objective in `task.rs`, what is read and written in
//! `data.rs`, the order of work in [`run`], and the architecture in `fornax-models/src/t5`.

mod bench;
mod config;
mod data;
mod dry_run;
mod example;
mod outcome;
mod start;
mod tables;
mod task;

use std::{ffi::OsString, io::Write, path::Path, process::ExitCode, sync::Arc};

use anyhow::Context as _;
use clap::Parser;
use fornax_backend::OpenDevice;
use fornax_cli::{Ending, RunArgs, UsageContext, main_with};
use fornax_data::{BatchSource, DataError, Split, Tokenizer};
use fornax_models::{T5, generate::Seq2SeqOptions, hf};
use fornax_pipelines::save_generation_config;
use fornax_train::{Learner, LearnerSettings, Options, Run, RunInfo, check_run_folder};
use outcome::Writer;
use serde_json::{Map, Value, json};

pub use config::{Config, ExampleConfig, GenerateConfig, Training};
pub use data::{Batches, Data, EvalSet};
pub use tables::{DataTable, ModelConfig};
pub use task::TextToText;

/// The name of the recipe, in run folders and summaries.
pub const NAME: &str = "t5-text2text";

/// The config of a run that names none.
pub const DEFAULT_CONFIG: &str = include_str!("../configs/default.toml");

/// Pretrain a T5 on text, or train it on tasks from text to text.
#[derive(Parser, Clone, Debug)]
#[command(name = "t5-text2text", version)]
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
    T5::check_precision(options.precision).usage()?;
    if !options.dry_run && options.bench.is_none() {
        check_run_folder(options)?;
    }
    let (config, opening) = start::resolve(config, options)?;
    let config = &config;
    let device = fornax_backend::open(&options.device.parse()?)?;
    device.check_precision(options.precision)?;
    tracing::info!("device {}: {} ({})", device.spec, device.name, device.reason);
    let data = Data::open(&opening, options.overfit)?;
    let mut learner = learner(config, options, &device, &data)?;
    let sizes = learner.model().config();
    let answering = config.generate.answering(sizes.start_token, sizes.end_token, data.longest_answer(config));
    let writer = Writer { data: &data, max_source_len: config.data.max_source_len, answering };
    example::check(config, &data)?;
    if options.dry_run {
        return dry_run::run(config, &data, learner);
    }
    if let Some(steps) = options.bench {
        return bench::run(steps, &device, &data, learner);
    }

    let info = run_info(options, &device, &data)?;
    let export = Export {
        tokenizer: Arc::clone(&data.tokenizer),
        longest_source: data.longest_source(config),
        decoding: writer.answering.last.clone(),
        prefixes: prefixes(config),
    };
    let mut run =
        Run::open(options, config, info, &mut learner)?.export_with(move |model, folder| export.write(model, folder));
    let mut batches = data.loader(run.completed_steps()..run.max_steps())?;
    while let Some(step) = run.next_step() {
        let (_, micro_batches) = batches.next().context("the loader ended before the run")??;
        let stats = learner.train_step(step, &micro_batches, &TextToText)?;
        run.log_train(&stats, &mut learner)?;
        if run.eval_due() {
            run.log_eval(&writer.measure(&data.valid, &learner, &run)?.0)?;
        }
        if run.save_due() {
            run.save(&learner)?;
        }
    }
    drop(batches);
    let (folder, new) = (run.dir().to_owned(), !run.is_finished());
    run.settle(&mut learner)?;
    // Before the run counts as finished, so that one that dies on the way does this again when it is resumed.
    let answers = match new && !run.is_interrupted() {
        true => writer.write(&learner, &mut run)?,
        false => Vec::new(),
    };
    let summary = run.finish(&mut learner)?;
    if summary.interrupted {
        return Ok(Ending::Interrupted);
    }
    if new {
        example::print(&config.example, &writer, &learner, &answers)?;
        if !answers.is_empty() {
            tracing::info!("predictions: {}", folder.join(outcome::FOLDER).display());
        }
    }
    Ok(Ending::Done)
}

/// A model, new or from a checkpoint, with its optimizer.
fn learner(config: &Config, options: &Options, device: &OpenDevice, data: &Data) -> anyhow::Result<Learner<T5>> {
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

/// Writes the batches of one step of `split`, `rows` rows of each, as tables for people: ids and pieces of source and target. Behind
/// the last batch of an evaluation comes the first again; the step that is named is the one that is shown.
///
/// # Errors
///
/// A config that can't be used, data that can't be had, and what `out` fails with.
pub fn inspect(config: &Config, split: Split, step: u64, rows: usize, out: &mut impl Write) -> anyhow::Result<()> {
    config.validate()?;
    let (_, opening) = start::resolve(config, &Options::default())?;
    let data = Data::open(&opening, None)?;
    let named =
        |set: &EvalSet| set.task.as_ref().map_or_else(|| split.to_string(), |task| task.texts.name().to_owned());
    let of_sets = |sets: &[EvalSet]| -> Result<Vec<_>, DataError> {
        sets.iter()
            .map(|set| {
                // A training goes on into the next epoch, an evaluation has but one.
                let step = step % set.batches.steps_per_epoch();
                Ok((named(set), step, set.batches.micro_batches(step)?))
            })
            .collect()
    };
    let shown = match split {
        Split::Train => vec![(split.to_string(), step, data.train.micro_batches(step)?)],
        Split::Valid => of_sets(&data.valid)?,
        Split::Test => of_sets(&data.test)?,
    };
    anyhow::ensure!(!shown.is_empty(), "there is no {split} set");
    for (name, step, batches) in shown {
        for (index, batch) in batches.iter().enumerate() {
            writeln!(out, "{name}, step {step}, micro-batch {index}: {} rows", batch.batch)?;
            write!(out, "{}", fornax_data::inspect::render_seq2seq(batch, &data.tokenizer, rows))?;
        }
    }
    Ok(())
}

/// What makes a folder that `transformers`, `model.from` and `fornax predict` read.
struct Export {
    tokenizer: Arc<Tokenizer>,
    longest_source: usize,
    decoding: Seq2SeqOptions,
    prefixes: Map<String, Value>,
}

impl Export {
    fn write(&self, model: &T5, folder: &Path) -> anyhow::Result<()> {
        hf::save_t5_with(model, folder, self.prefixes.clone())?;
        save_generation_config(&self.decoding, model.config().pad_token, folder)?;
        Ok(self.tokenizer.save_pretrained(folder, self.longest_source)?)
    }
}

/// The keys of `config.json` by which `transformers` puts a task's prefix before a text. Of a single task the model needs no name. Of a
/// task that makes its sources of several columns the text is a whole source, without a prefix.
fn prefixes(config: &Config) -> Map<String, Value> {
    let prefixes: Vec<_> =
        config.tasks.iter().map(|task| (&task.name, task.text_prefix().unwrap_or_default())).collect();
    let mut keys = Map::new();
    if let ([_], [(_, prefix)]) = (&config.tasks[..], &prefixes[..]) {
        keys.insert("prefix".into(), json!(prefix));
    }
    let of_tasks: Map<_, _> =
        prefixes.iter().map(|(name, prefix)| ((*name).clone(), json!({"prefix": prefix}))).collect();
    if !of_tasks.is_empty() {
        keys.insert("task_specific_params".into(), of_tasks.into());
    }
    keys
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

/// The program `t5-text2text`, with its arguments.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    main_with(args, |args: Args| execute(&args))
}
