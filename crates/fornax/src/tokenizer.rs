use std::{
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::ensure;
use clap::ValueEnum;
use fornax_data::{DataConfig, Part, Tokenizer, TokenizerConfig, TokenizerKind};

#[derive(clap::Subcommand, Debug)]
pub(crate) enum Command {
    /// Train a tokenizer on text files or on the training part of a data set
    Train(Train),
}

#[derive(clap::Args, Debug)]
pub(crate) struct Train {
    /// Text files and folders
    files: Vec<PathBuf>,
    /// A data set of `datasets/` instead of files
    #[arg(long, conflicts_with = "files")]
    data: Option<String>,
    /// What of the data set `rust-crates`
    #[arg(long, requires = "data", value_enum)]
    part: Option<PartName>,
    /// The column or key that holds the text, in tsv, csv and jsonl files
    #[arg(long)]
    text_column: Option<String>,
    /// What to train
    #[arg(long, value_enum, default_value_t = Kind::ByteBpe)]
    kind: Kind,
    /// Tokens, special ones included
    #[arg(long, default_value_t = TokenizerConfig::default().vocab_size)]
    vocab_size: usize,
    /// Where to write it
    #[arg(long, short, default_value = "tokenizer.json")]
    output: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    ByteBpe,
    Wordpiece,
    Unigram,
    Char,
    Byte,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PartName {
    Code,
    Prose,
}

pub(crate) fn run(command: Command) -> anyhow::Result<()> {
    let Command::Train(args) = command;
    let kind = match args.kind {
        Kind::ByteBpe => TokenizerKind::ByteBpe,
        Kind::Wordpiece => TokenizerKind::Wordpiece,
        Kind::Unigram => TokenizerKind::Unigram,
        Kind::Char => TokenizerKind::Char,
        Kind::Byte => TokenizerKind::Byte,
    };
    let part = args.part.map(|part| match part {
        PartName::Code => Part::Code,
        PartName::Prose => Part::Prose,
    });
    check_output(&args.output)?;
    let files = Some(args.files).filter(|files| !files.is_empty());
    let data = DataConfig { name: args.data, part, files, text_column: args.text_column, ..DataConfig::default() };
    let source = data.open_for_tokenizer()?;
    let config = TokenizerConfig { kind, vocab_size: args.vocab_size, ..TokenizerConfig::default() };
    let tokenizer = Tokenizer::train(&config, source.as_ref())?;
    tokenizer.save(&args.output)?;
    let (tokens, path) = (tokenizer.vocab_size(), args.output.display());
    writeln!(std::io::stdout(), "{path}: {kind}, {tokens} tokens, trained on {}", source.describe())?;
    Ok(())
}

/// Refuses what can't be written to, before the minutes that training takes.
fn check_output(path: &Path) -> anyhow::Result<()> {
    let shown = path.display();
    ensure!(!path.is_dir(), "--output {shown}: this is a folder; hint: name a file in it");
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        ensure!(folder.is_dir(), "--output {shown}: there is no folder `{}`; hint: make it first", folder.display());
    }
    Ok(())
}
