use std::{
    fs::File,
    io::{BufRead, BufReader, IsTerminal, Write},
    path::Path,
};

use anyhow::{Context, bail};
use fornax_cli::UsageContext;
use fornax_pipelines::Text;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::Value;

use super::Args;

/// Batches between two writes: memory stays small, and whoever reads the output need not wait for the end.
const BATCHES: usize = 8;

/// Some of the texts.
pub(super) struct Part<'a> {
    pub(super) texts: Vec<Text<'a>>,
    /// How many came before them.
    pub(super) first: usize,
    /// Of all texts.
    pub(super) bar: &'a ProgressBar,
}

/// An answer as it is printed.
#[derive(Serialize)]
struct Line<'a> {
    text: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    text_pair: Option<&'a str>,
    #[serde(flatten)]
    answer: Value,
}

/// Calls `answer` with some texts at a time and prints an object for each, the text in front. What comes before a text that has no
/// answer is printed.
pub(super) fn each_part(
    args: &Args,
    mut answer: impl FnMut(&Part<'_>) -> anyhow::Result<Vec<Value>>,
) -> anyhow::Result<()> {
    let mut inputs = inputs(args)?;
    let bar = progress_bar(args.file.as_deref());
    let size = args.batch_size.saturating_mul(BATCHES);
    let mut done = 0;
    loop {
        let (mut chunk, mut refused) = (Vec::new(), None);
        for input in inputs.by_ref().take(size) {
            match input {
                Ok(input) => chunk.push(input),
                Err(error) => {
                    refused = Some(error);
                    break;
                }
            }
        }
        if !chunk.is_empty() {
            print_answers(&chunk, done, &bar, &mut answer)?;
            done += chunk.len();
            bar.set_position(done as u64);
        }
        match refused {
            Some(error) => return Err(error).usage(),
            None if chunk.is_empty() => break,
            None => {}
        }
    }
    bar.finish_and_clear();
    Ok(())
}

/// Where a text without an answer is among others, halves them until those before it are printed and its place is known.
fn print_answers(
    inputs: &[Input],
    first: usize,
    bar: &ProgressBar,
    answer: &mut impl FnMut(&Part<'_>) -> anyhow::Result<Vec<Value>>,
) -> anyhow::Result<()> {
    let texts: Vec<Text<'_>> = inputs.iter().map(|input| (input.text.as_str(), input.pair.as_deref())).collect();
    let part = Part { texts, first, bar };
    match (answer(&part), inputs) {
        (Ok(answers), _) => bar.suspend(|| print(&part.texts, answers)),
        (Err(error), [only]) => {
            bar.finish_and_clear();
            Err(error.context(only.place.clone()))
        }
        (Err(_), inputs) => {
            let (before, after) = inputs.split_at(inputs.len() / 2);
            print_answers(before, first, bar, answer)?;
            print_answers(after, first + before.len(), bar, answer)
        }
    }
}

fn print(texts: &[Text<'_>], answers: Vec<Value>) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for (&(text, text_pair), answer) in texts.iter().zip(answers) {
        writeln!(out, "{}", serde_json::to_string(&Line { text, text_pair, answer })?)?;
    }
    Ok(out.flush()?)
}

/// A bar over the lines of a file, on stderr and only on a terminal; nothing for texts whose number nobody knows.
fn progress_bar(file: Option<&Path>) -> ProgressBar {
    let lines = file.filter(|path| path.is_file() && std::io::stderr().is_terminal()).and_then(count_lines);
    let Some(lines) = lines else { return ProgressBar::hidden() };
    let bar = ProgressBar::new(lines);
    match ProgressStyle::with_template("{bar:24} {human_pos}/{human_len} texts [{elapsed}<{eta}]") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Nothing where the file can't be read; who reads it for its texts says so.
fn count_lines(path: &Path) -> Option<u64> {
    let mut reader = BufReader::new(File::open(path).ok()?);
    let (mut lines, mut ended) = (0, true);
    loop {
        let bytes = reader.fill_buf().ok()?;
        let Some(last) = bytes.last() else { return Some(lines + u64::from(!ended)) };
        ended = *last == b'\n';
        lines += bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
        let len = bytes.len();
        reader.consume(len);
    }
}

/// A text or a pair, and where it stands.
struct Input {
    text: String,
    pair: Option<String>,
    place: String,
}

impl Input {
    fn new(line: String, pairs: bool, place: String) -> anyhow::Result<Self> {
        if !pairs {
            return Ok(Self { text: line, pair: None, place });
        }
        match line.split_once('\t') {
            Some((text, pair)) if !pair.contains('\t') => {
                Ok(Self { text: text.to_owned(), pair: Some(pair.to_owned()), place })
            }
            Some(_) => bail!("{place}: --pairs: {line:?} has more than one tab"),
            None => bail!("{place}: --pairs: {line:?} has no tab between two texts"),
        }
    }
}

/// The texts in the order in which they were given.
fn inputs(args: &Args) -> anyhow::Result<Box<dyn Iterator<Item = anyhow::Result<Input>>>> {
    let pairs = args.pairs;
    if !args.texts.is_empty() {
        let numbered = args.texts.clone().into_iter().enumerate();
        let input = move |(number, line)| Input::new(line, pairs, format!("text {}", number + 1));
        return Ok(Box::new(numbered.map(input)));
    }
    let (name, reader): (String, Box<dyn BufRead>) = match &args.file {
        Some(path) => {
            let name = path.display().to_string();
            let file = File::open(path).with_context(|| name.clone()).usage()?;
            (name, Box::new(BufReader::new(file)))
        }
        None if std::io::stdin().is_terminal() => {
            let refuse = || bail!("give a TEXT or a --file, or pipe lines into standard input");
            return refuse().usage();
        }
        None => ("standard input".to_owned(), Box::new(std::io::stdin().lock())),
    };
    let input = move |(number, line): (usize, std::io::Result<String>)| {
        let place = format!("{name}:{}", number + 1);
        Input::new(line.with_context(|| place.clone())?, pairs, place)
    };
    Ok(Box::new(reader.lines().enumerate().map(input)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_as_they_are_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for text in ["", "a", "a\n", "a\nb", "\n\n", "a\r\nb\r\n"] {
            std::fs::write(file.path(), text).unwrap();
            assert_eq!(count_lines(file.path()), Some(text.lines().count() as u64), "{text:?}");
        }
        assert_eq!(count_lines(Path::new("nowhere")), None);
    }
}
