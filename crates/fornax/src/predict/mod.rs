mod inputs;
mod text2text;

use std::{convert::Infallible, fmt, path::PathBuf, str::FromStr};

use anyhow::{anyhow, bail};
use clap::{ValueEnum, builder::RangedU64ValueParser};
use fornax_backend::{DeviceSpec, Precision};
use fornax_cli::{UsageContext, model_folder};
use fornax_models::{Pooling, hf::HeadKind};
use fornax_pipelines::{BATCH_SIZE, FeatureExtraction, FillMask, Limits, ModelKind, Text2Text, TextClassification};
use serde_json::json;

use inputs::each_part;
use text2text::DrawArgs;
pub(crate) use text2text::SearchArgs;

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// A Hugging Face folder, or a run folder, of which the averaged, else the best model is taken
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// What to do: text-classification, fill-mask, feature-extraction, text2text-generation, translation, summarization, or one that
    /// config.json has settings for, as translation_en_to_de or a task of t5-text2text; by default what the model is for
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
    /// How many classes, or guesses for a mask, to print [default: 1 class, 5 guesses]; with --temperature, draw among the K likeliest
    /// tokens
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u64).range(1..))]
    top_k: Option<u64>,
    /// What stands for a text in feature extraction: the mean over its tokens, or the first token [default: mean]
    #[arg(long, value_enum)]
    pooling: Option<PoolingName>,
    #[command(flatten)]
    search: SearchArgs,
    #[command(flatten)]
    draws: DrawArgs,
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

#[derive(Clone, Debug, PartialEq, Eq)]
enum Task {
    /// The class of a text or a pair
    TextClassification,
    /// What a mask token stands for
    FillMask,
    /// A vector for a text
    FeatureExtraction,
    /// A text for a text, by its name in `transformers`.
    Text2Text(String),
}

const TEXT2TEXT: &str = "text2text-generation";
const TRANSLATION: &str = "translation";
const SUMMARIZATION: &str = "summarization";

/// How the names begin under which `config.json` has settings for two languages, as `translation_en_to_de`.
const TRANSLATION_OF: &str = "translation_";

impl FromStr for Task {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        let encoders = [Self::TextClassification, Self::FillMask, Self::FeatureExtraction];
        let known = encoders.into_iter().find(|task| task.to_string() == text);
        Ok(known.unwrap_or_else(|| Self::Text2Text(text.to_owned())))
    }
}

/// Refuses the name of a task that only an encoder-decoder may have settings for.
fn check_task(task: &Task, kind: &ModelKind) -> anyhow::Result<()> {
    let Task::Text2Text(name) = task else { return Ok(()) };
    let general = [TEXT2TEXT, TRANSLATION, SUMMARIZATION];
    if *kind == ModelKind::Text2Text || general.contains(&name.as_str()) {
        return Ok(());
    }
    bail!("--task {name}: there is text-classification, fill-mask, feature-extraction, {}", general.join(", "))
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TextClassification => "text-classification",
            Self::FillMask => "fill-mask",
            Self::FeatureExtraction => "feature-extraction",
            Self::Text2Text(name) => name,
        })
    }
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum PoolingName {
    Mean,
    Cls,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let folder = model_folder(&args.model);
    let kind = ModelKind::open(&folder)?;
    let task = args.task.clone().unwrap_or_else(|| task_of(&kind));
    check_task(&task, &kind).usage()?;
    check_flags(args, &task)?;
    let device = fornax_backend::open(&args.device)?;
    tracing::info!("device {}: {} ({})", device.spec, device.name, device.reason);
    let (precision, batch_size) = (args.precision, args.batch_size);
    let top_k = |default: usize| args.top_k.map_or(default, |k| usize::try_from(k).unwrap_or(usize::MAX));
    if !matches!(task, Task::Text2Text(_)) {
        device.check_precision(precision)?;
    }
    match task {
        Task::TextClassification => {
            let pipeline = TextClassification::open(&folder, &device.device)?.with(precision, batch_size);
            let top_k = top_k(1);
            each_part(args, |part| {
                let answers = pipeline.run(&part.texts)?.into_iter().map(|mut scores| {
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
            each_part(args, |part| {
                let texts: Vec<&str> = part.texts.iter().map(|(text, _)| *text).collect();
                Ok(pipeline.run(&texts, top_k).usage()?.into_iter().map(|masks| json!({"masks": masks})).collect())
            })
        }
        Task::FeatureExtraction => {
            let pooling = match args.pooling {
                None | Some(PoolingName::Mean) => Pooling::Mean,
                Some(PoolingName::Cls) => Pooling::Cls,
            };
            let pipeline = FeatureExtraction::open(&folder, pooling, &device.device)?.with(precision, batch_size);
            each_part(args, |part| {
                Ok(pipeline.run(&part.texts)?.into_iter().map(|vector| json!({"embedding": vector})).collect())
            })
        }
        Task::Text2Text(name) => {
            let pipeline = Text2Text::open(&folder, &device.device)?.with(precision, batch_size);
            // First, because a model's own reason says more.
            pipeline.check_precision().usage()?;
            device.check_precision(precision)?;
            let options = text2text::options(args, &pipeline, &name).usage()?;
            let mut limits = Limits::default();
            let answered = each_part(args, |part| text2text::answers(&pipeline, &options, part, &mut limits));
            limits.warn("", &options);
            answered
        }
    }
}

fn task_of(kind: &ModelKind) -> Task {
    match kind {
        ModelKind::Encoder(HeadKind::SequenceClassification) => Task::TextClassification,
        ModelKind::Encoder(HeadKind::MaskedLm) => Task::FillMask,
        ModelKind::Encoder(HeadKind::None) => Task::FeatureExtraction,
        ModelKind::Text2Text => Task::Text2Text(TEXT2TEXT.to_owned()),
    }
}

/// Refuses the flags that do nothing in a task.
fn check_flags(args: &Args, task: &Task) -> anyhow::Result<()> {
    let (vectors, writes) = (*task == Task::FeatureExtraction, matches!(task, Task::Text2Text(_)));
    let DrawArgs { temperature, top_p, seed, num_return, max_source_len } = &args.draws;
    let flags = [
        ("--pairs", args.pairs, *task != Task::FillMask && !writes),
        ("--top-k", args.top_k.is_some(), !vectors),
        ("--pooling", args.pooling.is_some(), vectors),
        (args.search.given().unwrap_or_default(), args.search.given().is_some(), writes),
        ("--temperature", temperature.is_some(), writes),
        ("--top-p", top_p.is_some(), writes),
        ("--seed", seed.is_some(), writes),
        ("--num-return", num_return.is_some(), writes),
        ("--max-source-len", max_source_len.is_some(), writes),
    ];
    match flags.into_iter().find(|(_, given, used)| *given && !used) {
        None => Ok(()),
        Some((flag, ..)) => {
            Err(anyhow!("{flag} does nothing in {task}: leave it out, or choose another --task")).usage()
        }
    }
}
