use std::{
    io::{BufRead, IsTerminal, Write},
    path::PathBuf,
};

use anyhow::{Context, anyhow, bail};
use clap::{ValueEnum, builder::RangedU64ValueParser};
use fornax_backend::{DeviceSpec, Precision};
use fornax_cli::{UsageContext, model_folder};
use fornax_models::{Pooling, hf};
use fornax_pipelines::{BATCH_SIZE, FeatureExtraction, FillMask, Text, TextClassification};
use serde::Serialize;
use serde_json::{Value, json};

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// A Hugging Face folder, or a run folder, of which the best model is taken
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// What to do; by default what the model's head is for
    #[arg(long)]
    task: Option<Task>,
    /// Texts; without one and without --file, the lines of standard input
    #[arg(value_name = "TEXT", conflicts_with = "file")]
    texts: Vec<String>,
    /// A file with a text on each line
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// A line is a pair of texts with a tab between them, such as premise and hypothesis
    #[arg(long)]
    pairs: bool,
    /// How many classes, or guesses for a mask, to print [default: 1 class, 5 guesses]
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u64).range(1..))]
    top_k: Option<u64>,
    /// What stands for a text in feature extraction: the mean over its tokens, or the first token [default: mean]
    #[arg(long, value_enum)]
    pooling: Option<PoolingName>,
    /// Texts that are computed at once
    #[arg(long, default_value_t = BATCH_SIZE, value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
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

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Task {
    /// The class of a text or a pair
    TextClassification,
    /// What a mask token stands for
    FillMask,
    /// A vector for a text
    FeatureExtraction,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum PoolingName {
    Mean,
    Cls,
}

/// Texts between two writes: memory stays small, and whoever reads the output need not wait for the end.
const CHUNK: usize = 1024;

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let folder = model_folder(&args.model);
    let task = match args.task {
        Some(task) => task,
        None => task_of(&hf::open_bert_head(&folder)?),
    };
    check_flags(args, task)?;
    let device = fornax_backend::open(&args.device)?;
    device.check_precision(args.precision)?;
    tracing::info!("device {}: {} ({})", device.spec, device.name, device.reason);
    let (precision, batch_size) = (args.precision, args.batch_size);
    let top_k = |default: usize| args.top_k.map_or(default, |k| usize::try_from(k).unwrap_or(usize::MAX));
    match task {
        Task::TextClassification => {
            let pipeline = TextClassification::open(&folder, &device.device)?.with(precision, batch_size);
            let top_k = top_k(1);
            each_chunk(args, |texts| {
                let answers = pipeline.run(texts)?.into_iter().map(|mut scores| {
                    scores.truncate(top_k);
                    match &scores[..] {
                        [only] if top_k == 1 => json!({"label": only.label, "score": only.score}),
                        _ => json!({"scores": scores}),
                    }
                });
                Ok(answers.collect())
            })
        }
        Task::FillMask => {
            let pipeline = FillMask::open(&folder, &device.device)?.with(precision, batch_size);
            let top_k = top_k(5);
            each_chunk(args, |texts| {
                let texts: Vec<&str> = texts.iter().map(|(text, _)| *text).collect();
                Ok(pipeline.run(&texts, top_k).usage()?.into_iter().map(|masks| json!({"masks": masks})).collect())
            })
        }
        Task::FeatureExtraction => {
            let pooling = match args.pooling {
                None | Some(PoolingName::Mean) => Pooling::Mean,
                Some(PoolingName::Cls) => Pooling::Cls,
            };
            let pipeline = FeatureExtraction::open(&folder, pooling, &device.device)?.with(precision, batch_size);
            each_chunk(args, |texts| {
                Ok(pipeline.run(texts)?.into_iter().map(|vector| json!({"embedding": vector})).collect())
            })
        }
    }
}

fn task_of(head: &hf::HeadKind) -> Task {
    match head {
        hf::HeadKind::SequenceClassification => Task::TextClassification,
        hf::HeadKind::MaskedLm => Task::FillMask,
        hf::HeadKind::None => Task::FeatureExtraction,
    }
}

/// Refuses the flags that do nothing in a task.
fn check_flags(args: &Args, task: Task) -> anyhow::Result<()> {
    let vectors = task == Task::FeatureExtraction;
    let flags = [
        ("--pairs", args.pairs, task != Task::FillMask),
        ("--top-k", args.top_k.is_some(), !vectors),
        ("--pooling", args.pooling.is_some(), vectors),
    ];
    match flags.into_iter().find(|(_, given, used)| *given && !used) {
        None => Ok(()),
        Some((flag, ..)) => {
            let task = task.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
            Err(anyhow!("{flag} does nothing in {task}: leave it out, or choose another --task")).usage()
        }
    }
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
fn each_chunk(args: &Args, mut answer: impl FnMut(&[Text<'_>]) -> anyhow::Result<Vec<Value>>) -> anyhow::Result<()> {
    let mut inputs = inputs(args)?;
    let mut out = std::io::stdout().lock();
    loop {
        let (mut chunk, mut refused) = (Vec::with_capacity(CHUNK), None);
        for input in inputs.by_ref().take(CHUNK) {
            match input {
                Ok(input) => chunk.push(input),
                Err(error) => {
                    refused = Some(error);
                    break;
                }
            }
        }
        if !chunk.is_empty() {
            print_answers(&chunk, &mut answer, &mut out)?;
            out.flush()?;
        }
        match refused {
            Some(error) => return Err(error).usage(),
            None if chunk.is_empty() => return Ok(()),
            None => {}
        }
    }
}

/// Where a text without an answer is among others, halves them until those before it are printed and its place is known.
fn print_answers(
    inputs: &[Input],
    answer: &mut impl FnMut(&[Text<'_>]) -> anyhow::Result<Vec<Value>>,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let texts: Vec<Text<'_>> = inputs.iter().map(|input| (input.text.as_str(), input.pair.as_deref())).collect();
    match (answer(&texts), inputs) {
        (Ok(answers), _) => {
            for (&(text, text_pair), answer) in texts.iter().zip(answers) {
                writeln!(out, "{}", serde_json::to_string(&Line { text, text_pair, answer })?)?;
            }
            Ok(())
        }
        (Err(error), [only]) => Err(error.context(only.place.clone())),
        (Err(_), inputs) => {
            let (first, second) = inputs.split_at(inputs.len() / 2);
            print_answers(first, answer, out)?;
            print_answers(second, answer, out)
        }
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
            let file = std::fs::File::open(path).with_context(|| name.clone()).usage()?;
            (name, Box::new(std::io::BufReader::new(file)))
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
