use std::{io::Write, path::PathBuf};

use fornax_cli::load;
use fornax_data::{
    Split,
    dataset::{self, Local, Places},
};

#[derive(clap::Subcommand, Debug)]
pub(crate) enum Command {
    /// List the data sets and what is here of them
    List,
    /// Make the files of a data set available: find them, or download and verify them
    Get {
        /// Its name in `datasets/`
        name: String,
    },
    /// Print the batches that a config trains on: ids, pieces, masks and targets side by side
    Inspect(Inspect),
}

#[derive(clap::Args, Debug)]
pub(crate) struct Inspect {
    /// Config file in TOML; without one, the recipe's default
    config: Option<PathBuf>,
    /// Whose config it is
    #[arg(long, value_enum, default_value_t = Recipe::GptLm)]
    recipe: Recipe,
    /// Override one config key; repeatable
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// The step whose batch is shown
    #[arg(long, default_value_t = 0)]
    step: u64,
    /// Rows of the batch to show
    #[arg(long, default_value_t = 1)]
    rows: usize,
    /// Show the batches of an evaluation instead
    #[arg(long)]
    valid: bool,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum Recipe {
    GptLm,
    BertMlm,
    Glue,
    #[value(name = t5_text2text::NAME)]
    T5Text2text,
    Translate,
}

pub(crate) fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::List => list(),
        Command::Get { name } => get(&name),
        Command::Inspect(args) => show(&args),
    }
}

fn list() -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for listing in dataset::list(&Places::from_environment())? {
        let descriptor = &listing.descriptor;
        writeln!(out, "{}\n    {}\n    licence: {}", listing.name, descriptor.description, descriptor.licence)?;
        if listing.name == dataset::EMBEDDED {
            writeln!(out, "    needs no download")?;
        }
        for (file, local) in descriptor.entries().zip(&listing.files) {
            let (name, (url, bytes)) = (file.name(), file.download());
            match local {
                Local::Here(path) => writeln!(out, "    {name}: {}", path.display())?,
                Local::Differs(path) => writeln!(out, "    {name}: {} has another size", path.display())?,
                Local::Absent => writeln!(out, "    {name}: not here; {bytes} bytes from {url}")?,
            }
        }
    }
    Ok(())
}

fn get(name: &str) -> anyhow::Result<()> {
    for path in dataset::get(name, &Places::from_environment())? {
        writeln!(std::io::stdout(), "{}", path.display())?;
    }
    Ok(())
}

fn show(args: &Inspect) -> anyhow::Result<()> {
    let split = if args.valid { Split::Valid } else { Split::Train };
    let mut out = std::io::stdout().lock();
    let (path, overrides) = (args.config.as_deref(), &args.overrides);
    match args.recipe {
        Recipe::GptLm => {
            let config = load(path, gpt_lm::DEFAULT_CONFIG, overrides)?.config;
            gpt_lm::inspect(&config, split, args.step, args.rows, &mut out)
        }
        Recipe::BertMlm => {
            let config = load(path, bert_mlm::DEFAULT_CONFIG, overrides)?.config;
            bert_mlm::inspect(&config, split, args.step, args.rows, &mut out)
        }
        Recipe::Glue => {
            let config = load(path, glue::DEFAULT_CONFIG, overrides)?.config;
            glue::inspect(&config, split, args.step, args.rows, &mut out)
        }
        Recipe::T5Text2text => {
            let config = load(path, t5_text2text::DEFAULT_CONFIG, overrides)?.config;
            t5_text2text::inspect(&config, split, args.step, args.rows, &mut out)
        }
        Recipe::Translate => {
            let config = load(path, translate::DEFAULT_CONFIG, overrides)?.config;
            translate::inspect(&config, split, args.step, args.rows, &mut out)
        }
    }
}
