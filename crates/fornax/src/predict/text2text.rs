use anyhow::{anyhow, bail};
use fornax_pipelines::{Limits, Text2Text, Text2TextOptions};
use serde_json::{Value, json};

use super::{Args, inputs::Part};

/// How an encoder-decoder writes the best text.
#[derive(clap::Args, Debug)]
pub(crate) struct SearchArgs {
    /// Put before each text that an encoder-decoder reads, as 'translate English to German: ' [default: as config.json says]
    #[arg(long, value_name = "TEXT")]
    pub(crate) prefix: Option<String>,
    /// The most tokens of a text that is written [default: as the model's files say, else 100]
    #[arg(long, value_name = "N")]
    max_new_tokens: Option<usize>,
    /// Search among so many beams; 1 takes the likeliest token each time [default: as the model's files say, else 1]
    #[arg(long, value_name = "N")]
    num_beams: Option<usize>,
    /// Divides a beam's log-probability by its length to this power: more favours long texts [default: as the model's files say,
    /// else 1]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    length_penalty: Option<f64>,
}

impl SearchArgs {
    /// A flag that is given.
    pub(crate) fn given(&self) -> Option<&'static str> {
        let flags = [
            ("--prefix", self.prefix.is_some()),
            ("--max-new-tokens", self.max_new_tokens.is_some()),
            ("--num-beams", self.num_beams.is_some()),
            ("--length-penalty", self.length_penalty.is_some()),
        ];
        flags.into_iter().find(|(_, given)| *given).map(|(flag, _)| flag)
    }

    /// Lays the flags over what the model's files say.
    ///
    /// # Errors
    ///
    /// Where a flag then does nothing.
    pub(crate) fn apply(&self, options: &mut Text2TextOptions) -> anyhow::Result<()> {
        if let Some(prefix) = &self.prefix {
            options.prefix.clone_from(prefix);
        }
        let decoding = &mut options.decoding;
        decoding.max_new_tokens = self.max_new_tokens.unwrap_or(decoding.max_new_tokens);
        if let Some(most) = self.max_new_tokens {
            // What the files ask for gives way to what the user does.
            decoding.min_new_tokens = decoding.min_new_tokens.min(most);
            decoding.max_new_tokens_per_source_token = 0.0;
        }
        decoding.num_beams = self.num_beams.unwrap_or(decoding.num_beams);
        decoding.length_penalty = self.length_penalty.unwrap_or(decoding.length_penalty);
        if self.length_penalty.is_some() && decoding.num_beams == 1 {
            bail!("--length-penalty does nothing without --num-beams above 1");
        }
        Ok(())
    }
}

/// What is drawn, and how much is printed.
#[derive(clap::Args, Debug)]
pub(super) struct DrawArgs {
    /// Draw each token, with logits divided by T; 0 takes the likeliest
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub(super) temperature: Option<f64>,
    /// Draw among the likeliest tokens whose probabilities reach P together
    #[arg(long, value_name = "P")]
    pub(super) top_p: Option<f64>,
    /// The seed of the draws
    #[arg(long, value_name = "N")]
    pub(super) seed: Option<u64>,
    /// Texts to write for each text: the best beams, or draws
    #[arg(long, value_name = "N")]
    pub(super) num_return: Option<usize>,
    /// The most tokens of a text that an encoder-decoder reads [default: its positions; of a T5 512]
    #[arg(long, value_name = "N")]
    pub(super) max_source_len: Option<usize>,
}

/// What the model's files say for a task, with the flags over it.
pub(super) fn options(args: &Args, pipeline: &Text2Text, task: &str) -> anyhow::Result<Text2TextOptions> {
    let draws = &args.draws;
    let settings = settings(args, pipeline, task)?;
    let mut options = pipeline.options(settings.as_deref())?;
    let known: Vec<&str> = pipeline.tasks().collect();
    if settings.is_none() && !known.is_empty() && options.prefix.is_empty() && args.search.prefix.is_none() {
        tracing::warn!(
            "texts are read as they are; the model knows tasks by their prefixes: --task {}",
            known.join(", --task ")
        );
    }
    let decoding = &mut options.decoding;
    if let Some(temperature) = draws.temperature {
        decoding.temperature = temperature;
        // Beams that the files ask for are no draws.
        decoding.num_beams = if temperature > 0.0 { 1 } else { decoding.num_beams };
    }
    decoding.top_k = args.top_k.map(|k| usize::try_from(k).unwrap_or(usize::MAX)).or(decoding.top_k);
    decoding.top_p = draws.top_p.unwrap_or(decoding.top_p);
    decoding.seed = draws.seed.unwrap_or(decoding.seed);
    decoding.num_return = draws.num_return.unwrap_or(decoding.num_return);
    let shaped =
        [("--top-k", args.top_k.is_some()), ("--top-p", draws.top_p.is_some()), ("--seed", draws.seed.is_some())];
    if let Some((flag, _)) = shaped.into_iter().find(|(_, given)| *given && decoding.temperature == 0.0) {
        bail!("{flag} does nothing without a --temperature above 0");
    }
    args.search.apply(&mut options)?;
    options.max_source_len = draws.max_source_len.unwrap_or(options.max_source_len);
    pipeline.check(&options)?;
    Ok(options)
}

/// Which of the tasks of `config.json` is meant: that of the name; for `translation` the only one there is.
fn settings(args: &Args, pipeline: &Text2Text, task: &str) -> anyhow::Result<Option<String>> {
    let named = |name: &str| pipeline.tasks().any(|known| known == name);
    let translations: Vec<&str> = pipeline.tasks().filter(|name| name.starts_with(super::TRANSLATION_OF)).collect();
    match (task, &translations[..]) {
        (super::TEXT2TEXT, _) => Ok(None),
        (super::TRANSLATION, [only]) if !named(task) => Ok(Some((*only).to_owned())),
        (super::TRANSLATION, [_, ..]) if !named(task) && args.search.prefix.is_none() => {
            Err(anyhow!("--task translation: the model knows {}; name one of them", translations.join(", ")))
        }
        (super::TRANSLATION | super::SUMMARIZATION, _) if !named(task) => Ok(None),
        (task, _) => Ok(Some(task.to_owned())),
    }
}

pub(super) fn answers(
    pipeline: &Text2Text,
    options: &Text2TextOptions,
    part: &Part<'_>,
    limits: &mut Limits,
) -> anyhow::Result<Vec<Value>> {
    let texts: Vec<&str> = part.texts.iter().map(|(text, _)| *text).collect();
    let written = pipeline.run_part(&texts, part.first, options, |texts| part.bar.inc(texts as u64))?;
    limits.add(written.limits);
    let answers = written.texts.into_iter().map(|texts| match &texts[..] {
        [only] if options.decoding.num_return == 1 => json!(only),
        _ => json!({"generated_texts": texts}),
    });
    Ok(answers.collect())
}
