use std::{
    io::{IsTerminal, Read, Write},
    ops::ControlFlow,
    path::PathBuf,
};

use anyhow::{Context, bail};
use fornax_backend::{DeviceSpec, Precision};
use fornax_cli::{UsageContext, model_folder};
use fornax_data::{TextStream, Tokenizer};
use fornax_models::{
    generate::{SamplingOptions, generate},
    hf,
};

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// A Hugging Face folder, or a run folder, of which the best model is taken
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// The text to continue; repeatable; without one, standard input
    #[arg(long, value_name = "TEXT")]
    prompt: Vec<String>,
    /// The most tokens to add
    #[arg(long, default_value_t = 100)]
    max_new_tokens: usize,
    /// Divides the logits; 0 always takes the likeliest token
    #[arg(long, default_value_t = 0.8)]
    temperature: f64,
    /// Draw among the K likeliest tokens only
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Draw among the likeliest tokens whose probabilities reach P together
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    top_p: f64,
    /// Above 1, tokens that were there already become less likely
    #[arg(long, value_name = "R", default_value_t = 1.0)]
    repetition_penalty: f64,
    /// A token, as the tokenizer writes it or as text, that ends the text; repeatable; the tokenizer's end-of-text token always
    /// does
    #[arg(long, value_name = "TOKEN")]
    stop: Vec<String>,
    /// The seed of the draws
    #[arg(long, default_value_t = 0)]
    seed: u64,
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

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let folder = model_folder(&args.model);
    let tokenizer = Tokenizer::open(&folder)?;
    let options = sampling_options(args, &tokenizer)?;
    let texts = prompts(args)?;
    let prompts: Result<Vec<Vec<u32>>, _> = texts.iter().map(|text| tokenizer.encode_prompt(text)).collect();
    let prompts = prompts.context("--prompt").usage()?;
    let device = fornax_backend::open(&args.device)?;
    device.check_precision(args.precision)?;
    tracing::info!("device {}: {} ({})", device.spec, device.name, device.reason);
    let (model, _) = hf::load_gpt2(&folder, &device.device)?;
    let mut rows = Rows::new(&tokenizer, &texts, &prompts);
    let mut failure = None;
    // A reader that is gone, as `head` is when it has enough, is such an error too.
    generate(&model, &prompts, &options, &mut |row, token| match rows.push(row, token) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            failure = Some(error);
            ControlFlow::Break(())
        }
    })?;
    failure.map_or(Ok(()), Err)?;
    rows.finish()
}

fn sampling_options(args: &Args, tokenizer: &Tokenizer) -> anyhow::Result<SamplingOptions> {
    let mut stop_tokens: Vec<u32> = tokenizer.end_of_text_id().into_iter().collect();
    for token in &args.stop {
        let id = stop_token(tokenizer, token);
        let missing = || format!("--stop {token:?}: the tokenizer has no such token, and the text is not exactly one");
        stop_tokens.push(id.with_context(missing).usage()?);
    }
    Ok(SamplingOptions {
        max_new_tokens: args.max_new_tokens,
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        repetition_penalty: args.repetition_penalty,
        stop_tokens,
        seed: args.seed,
        precision: args.precision,
    })
}

/// The token of this name, else the one that makes up this text: byte-level tokenizers call a space `Ġ`.
fn stop_token(tokenizer: &Tokenizer, token: &str) -> Option<u32> {
    tokenizer.token_to_id(token).or_else(|| match *tokenizer.encode(token).ok()? {
        [id] => Some(id),
        _ => None,
    })
}

fn prompts(args: &Args) -> anyhow::Result<Vec<String>> {
    if !args.prompt.is_empty() {
        return Ok(args.prompt.clone());
    }
    let mut stdin = std::io::stdin();
    if stdin.is_terminal() {
        bail_usage("give a --prompt, or pipe one into standard input")?;
    }
    let mut text = String::new();
    stdin.read_to_string(&mut text).context("standard input")?;
    Ok(vec![text])
}

fn bail_usage(message: &'static str) -> anyhow::Result<()> {
    let refuse = || -> anyhow::Result<()> { bail!(message) };
    refuse().usage()
}

/// Texts on their way to stdout, in the order of the prompts: the first that isn't done streams, later ones wait.
struct Rows<'a> {
    rows: Vec<Row<'a>>,
    several: bool,
    /// The row that streams.
    current: usize,
    out: std::io::StdoutLock<'static>,
}

struct Row<'a> {
    stream: TextStream<'a>,
    waiting: String,
}

impl<'a> Rows<'a> {
    fn new(tokenizer: &'a Tokenizer, texts: &[String], prompts: &[Vec<u32>]) -> Self {
        let row =
            |(text, ids): (&String, &Vec<u32>)| Row { stream: tokenizer.text_stream(ids, true), waiting: text.clone() };
        let rows: Vec<_> = texts.iter().zip(prompts).map(row).collect();
        Self { several: rows.len() > 1, rows, current: 0, out: std::io::stdout().lock() }
    }

    fn push(&mut self, row: usize, token: u32) -> anyhow::Result<()> {
        let piece = self.rows[row].stream.push(token)?;
        self.rows[row].waiting.push_str(&piece);
        if row == self.current { self.show() } else { Ok(()) }
    }

    /// Prints what the current row has.
    fn show(&mut self) -> anyhow::Result<()> {
        let text = std::mem::take(&mut self.rows[self.current].waiting);
        self.out.write_all(text.as_bytes())?;
        Ok(self.out.flush()?)
    }

    fn finish(mut self) -> anyhow::Result<()> {
        let count = self.rows.len();
        for (index, row) in std::mem::take(&mut self.rows).into_iter().enumerate() {
            let end = row.stream.finish()?;
            writeln!(self.out, "{}{end}", row.waiting)?;
            if self.several && index + 1 < count {
                writeln!(self.out, "---")?;
            }
        }
        Ok(())
    }
}
