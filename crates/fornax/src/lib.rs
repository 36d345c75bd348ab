//! The Fornax tool: what is neither training nor a library. `fornax train RECIPE` calls the recipes.

mod bench;
mod data;
mod devices;
mod evaluate;
mod generate;
mod predict;
mod tokenizer;

use std::{ffi::OsString, process::ExitCode};

use clap::{Parser, Subcommand};
use fornax_cli::{Ending, main_with};

/// Train transformers on any backend, and use them.
#[derive(Parser, Debug)]
#[command(name = "fornax", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// List the devices that this build and this machine can use, and why not the others
    Devices,
    /// Get, list and look at data sets
    #[command(subcommand)]
    Data(data::Command),
    /// Train tokenizers
    #[command(subcommand)]
    Tokenizer(tokenizer::Command),
    /// Continue prompts with a trained model
    Generate(Box<generate::Args>),
    /// Ask a trained model: classes, masks or vectors of an encoder, texts of an encoder-decoder
    Predict(Box<predict::Args>),
    /// Score a trained classifier on a task of GLUE or labelled text of yours, or an encoder-decoder on pairs of texts
    Evaluate(Box<evaluate::Args>),
    /// Time training and generation on chosen devices and in chosen precisions, beside a peer and earlier figures
    Bench(Box<bench::Args>),
    /// Train a model, as the recipe's own program does
    #[command(subcommand)]
    Train(Recipe),
}

#[derive(Subcommand, Debug)]
enum Recipe {
    /// GPT language modelling
    #[command(name = gpt_lm::NAME)]
    GptLm(gpt_lm::Args),
    /// BERT masked-language modelling
    #[command(name = bert_mlm::NAME)]
    BertMlm(bert_mlm::Args),
    /// Fine-tuning on GLUE, or on labelled text
    #[command(name = glue::NAME)]
    Glue(glue::Args),
    /// T5: pretraining by span corruption, or tasks from text to text
    #[command(name = t5_text2text::NAME)]
    T5Text2text(t5_text2text::Args),
    /// Translation
    #[command(name = translate::NAME)]
    Translate(translate::Args),
}

fn run(command: Command) -> anyhow::Result<Ending> {
    match command {
        Command::Devices => devices::run()?,
        Command::Data(command) => data::run(command)?,
        Command::Tokenizer(command) => tokenizer::run(command)?,
        Command::Generate(args) => generate::run(&args)?,
        Command::Evaluate(args) => evaluate::run(&args)?,
        Command::Predict(args) => predict::run(&args)?,
        Command::Bench(args) => bench::run(&args)?,
        Command::Train(Recipe::GptLm(args)) => return gpt_lm::execute(&args),
        Command::Train(Recipe::BertMlm(args)) => return bert_mlm::execute(&args),
        Command::Train(Recipe::Glue(args)) => return glue::execute(&args),
        Command::Train(Recipe::T5Text2text(args)) => return t5_text2text::execute(&args),
        Command::Train(Recipe::Translate(args)) => return translate::execute(&args),
    }
    Ok(Ending::Done)
}

/// The program `fornax`, with its arguments.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    main_with(args, |args: Args| run(args.command))
}
