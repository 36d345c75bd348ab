mod answers;
mod model;
mod settings;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use fornax_backend::Precision;
use fornax_data::{DataError, Tokenizer};
use fornax_models::{
    ModelError,
    generate::{Hypothesis, Seq2SeqOptions},
    hf::ConfigFile,
};
use serde::Serialize;

use crate::{BATCH_SIZE, PipelineError};
pub use answers::{AnswerRow, Answers};
pub(crate) use model::MODEL_TYPES;
pub use model::Text2TextModel;
use settings::Settings;
pub use settings::save_generation_config;

/// Writes a text to a text, as Hugging Face's `text2text-generation`, `translation` and `summarization`.
#[derive(Debug)]
pub struct Text2Text {
    model: Text2TextModel,
    source: Arc<Tokenizer>,
    /// Where targets have a vocabulary of their own.
    target: Option<Arc<Tokenizer>>,
    lowercase: bool,
    /// Tokens of a source at most, unless told otherwise.
    source_len: usize,
    settings: Settings,
    precision: Precision,
    batch_size: usize,
}

/// What is read of a text, and how its targets are chosen; to begin with as [`Text2Text::options`] gives it.
#[derive(Clone, Debug, PartialEq)]
pub struct Text2TextOptions {
    /// Put before each text, as `translate English to German: `.
    pub prefix: String,
    /// Tokens of a source at most, prefix and end included; what is longer is cut on the right, and the log says how many were.
    pub max_source_len: usize,
    /// The search or the draws. Its `precision` is that of the pipeline, whatever stands here.
    pub decoding: Seq2SeqOptions,
}

/// A text that was written.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GeneratedText {
    /// Without special tokens and white space around it.
    #[serde(rename = "generated_text")]
    pub text: String,
    /// As of a [`Hypothesis`]: the logarithm of its probability by its length; at most 0.
    pub score: f64,
    /// Whether the model ended it; what reaches the longest that may be written stops in the middle.
    #[serde(skip)]
    pub ended: bool,
}

/// What was written to some texts.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// For each text, in their order: the best hypotheses of beam search first, or draws.
    pub texts: Vec<Vec<GeneratedText>>,
    /// What limits did to them.
    pub limits: Limits,
}

/// What limits did to texts and answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// How many texts there were.
    pub texts: usize,
    /// Those that were too long to be read whole.
    pub cut: usize,
    /// Those whose best answer stops in the middle.
    pub unended: usize,
}

impl Limits {
    /// Those of more texts besides.
    pub fn add(&mut self, more: Self) {
        self.texts += more.texts;
        self.cut += more.cut;
        self.unended += more.unended;
    }

    /// Says in the log how many texts were cut, and how many answers stop in the middle; `place` comes first.
    pub fn warn(&self, place: &str, options: &Text2TextOptions) {
        let (Self { texts, cut, unended }, max_source_len) = (self, options.max_source_len);
        if *cut > 0 {
            tracing::warn!("{place}{cut} of {texts} texts were cut to max_source_len = {max_source_len} tokens");
        }
        if *unended > 0 {
            let Seq2SeqOptions { max_new_tokens: most, max_new_tokens_per_source_token: more, .. } = options.decoding;
            let more = if more > 0.0 { format!(" and {more} more for each token read") } else { String::new() };
            tracing::warn!(
                "{place}{unended} of {texts} answers stop in the middle: they have max_new_tokens = {most}{more}, or fill the model"
            );
        }
    }
}

impl Text2Text {
    /// A model in a Hugging Face folder of a T5, or a run's `best` or `last` with a T5 or a Transformer, on `device`.
    ///
    /// A folder with a `source_tokenizer.json` reads by it and writes by `tokenizer.json`; else there is one tokenizer for both. What
    /// was trained in lower case says so with `"fornax_lowercase": true` in `config.json`.
    ///
    /// # Errors
    ///
    /// When the folder has no such model or no tokenizer that goes with it, or settings of generation without a meaning.
    pub fn open(folder: &Path, device: &Device) -> Result<Self, PipelineError> {
        let file = ConfigFile::open(folder, &MODEL_TYPES)?;
        let model = Text2TextModel::open(folder, &file, device)?;
        let own = folder.join("source_tokenizer.json");
        let target = Tokenizer::open(folder)?;
        let (source, target) = match own.is_file() {
            true => (Tokenizer::open(&own)?, Some(target)),
            false => (target, None),
        };
        let pipeline = Self::new(model, source, target.map(Arc::new))?;
        let most = pipeline.model.max_source_positions();
        let source_len = match settings::model_max_length(folder)? {
            Some(len) => most.map_or(len, |most| most.min(len)),
            None => pipeline.source_len,
        };
        let lowercase = file.get("fornax_lowercase", false)?;
        Ok(Self { lowercase, source_len, settings: Settings::open(folder)?, ..pipeline })
    }

    /// A model that is at hand. `target`: the tokenizer of the targets, where it is not that of the sources.
    ///
    /// # Errors
    ///
    /// When a tokenizer has more tokens than the model knows, or none that ends a text.
    pub fn new(
        model: Text2TextModel,
        source: impl Into<Arc<Tokenizer>>,
        target: Option<Arc<Tokenizer>>,
    ) -> Result<Self, PipelineError> {
        let source = source.into();
        model.check_tokenizers(&source, target.as_ref().unwrap_or(&source))?;
        source.end_of_text_id().ok_or(DataError::NoSeparator)?;
        Ok(Self {
            source_len: model.source_len(),
            model,
            source,
            target,
            lowercase: false,
            settings: Settings::default(),
            precision: Precision::F32,
            batch_size: BATCH_SIZE,
        })
    }

    /// The same with another compute type and number of texts at once.
    #[must_use]
    pub fn with(self, precision: Precision, batch_size: usize) -> Self {
        Self { precision, batch_size: batch_size.max(1), ..self }
    }

    /// The same for a model of lower-cased texts, or not: what it reads is then lower-cased first, the prefix apart.
    #[must_use]
    pub fn with_lowercase(self, lowercase: bool) -> Self {
        Self { lowercase, ..self }
    }

    /// Whether the model can be computed in the precision that was asked for.
    ///
    /// # Errors
    ///
    /// When its numbers leave the range of the type.
    pub fn check_precision(&self) -> Result<(), PipelineError> {
        Ok(self.model.check_precision(self.precision)?)
    }

    /// The tasks that `task_specific_params` of `config.json` has settings for, such as `translation_en_to_de`.
    pub fn tasks(&self) -> impl Iterator<Item = &str> {
        self.settings.tasks()
    }

    /// What the folder says of generation, as Hugging Face reads it: `generation_config.json`, or without it `config.json`, and over it
    /// the settings of a task. Where they say nothing, greedy, up to 100 tokens. A text has at most the `model_max_length` of
    /// `tokenizer_config.json`; without it a T5 reads 512 tokens, as it was pretrained, a Transformer as many as it has positions.
    ///
    /// # Errors
    ///
    /// [`PipelineError::UnknownTask`] when the folder has no settings for `task`.
    pub fn options(&self, task: Option<&str>) -> Result<Text2TextOptions, PipelineError> {
        let mut options = Text2TextOptions {
            prefix: String::new(),
            max_source_len: self.source_len,
            decoding: Seq2SeqOptions::greedy(self.model.start_token(), vec![self.model.end_token()], 100),
        };
        self.settings.of(task)?.apply(&mut options);
        Ok(options)
    }

    /// Refuses options without a meaning for this model.
    ///
    /// # Errors
    ///
    /// Names the option, its value and what it may be; or a precision that the model can't be computed in.
    pub fn check(&self, options: &Text2TextOptions) -> Result<(), PipelineError> {
        self.check_precision()?;
        options.decoding.validate(self.model.vocab_size())?;
        let (len, most) = (options.max_source_len, self.model.max_source_positions());
        if len < 2 || most.is_some_and(|most| len > most) {
            let wanted = match most {
                Some(most) => format!("at least 2, a token and the end, and at most {most}, which the model reads"),
                None => "at least 2: a token and the end".to_owned(),
            };
            let value = len.to_string();
            return Err(ModelError::SamplingOption { option: "max_source_len", value, wanted }.into());
        }
        Ok(())
    }

    /// What the model writes to each text, in their order: the best hypotheses of beam search first, or draws. The log says how many
    /// texts were cut, and how many answers stop in the middle.
    ///
    /// # Errors
    ///
    /// As [`check`](Self::check); when a text has a character that the tokenizer can't read, or the model's numbers are not finite.
    pub fn run(&self, texts: &[&str], options: &Text2TextOptions) -> Result<Vec<Vec<GeneratedText>>, PipelineError> {
        let written = self.run_part(texts, 0, options, |_| {})?;
        written.limits.warn("", options);
        Ok(written.texts)
    }

    /// As [`run`](Self::run), for some of many texts of which `first` come before them: draws follow from a text's place among all.
    /// `progress` hears after each batch how many texts it had. The log hears nothing: see [`Limits::warn`].
    ///
    /// Batches are of texts of about the same length, the longest first: memory is short at once or never.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn run_part(
        &self,
        texts: &[&str],
        first: usize,
        options: &Text2TextOptions,
        mut progress: impl FnMut(usize),
    ) -> Result<Written, PipelineError> {
        self.check(options)?;
        let (sources, cut) = self.encode(texts, options)?;
        let decoding = Seq2SeqOptions { precision: self.precision, ..options.decoding.clone() };
        let mut order: Vec<usize> = (0..sources.len()).collect();
        order.sort_by_key(|&text| std::cmp::Reverse(sources[text].len()));
        let mut answers = vec![Vec::new(); texts.len()];
        for batch in order.chunks(self.batch_size) {
            let own: Vec<Vec<u32>> = batch.iter().map(|&text| sources[text].clone()).collect();
            let numbers: Vec<usize> = batch.iter().map(|&text| first + text).collect();
            let found = self.model.generate(&own, &numbers, &decoding)?;
            for (&text, hypotheses) in batch.iter().zip(found) {
                answers[text] =
                    hypotheses.iter().map(|hypothesis| self.decode(hypothesis)).collect::<Result<_, _>>()?;
            }
            progress(batch.len());
        }
        let unended =
            answers.iter().filter(|texts| texts.first().is_some_and(|best: &GeneratedText| !best.ended)).count();
        Ok(Written { limits: Limits { texts: answers.len(), cut, unended }, texts: answers })
    }

    /// The tokens of each text, then the one that ends it: as sources of training are made. And how many were cut.
    fn encode(&self, texts: &[&str], options: &Text2TextOptions) -> Result<(Vec<Vec<u32>>, usize), PipelineError> {
        let text = |text: &&str| match self.lowercase {
            true => options.prefix.clone() + &text.to_lowercase(),
            false => options.prefix.clone() + text,
        };
        let texts: Vec<String> = texts.iter().map(text).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let mut sources = self.source.encode_batch(&texts)?;
        let end = self.source.end_of_text_id().ok_or(DataError::NoSeparator)?;
        let (most, mut cut) = (options.max_source_len, 0);
        for source in &mut sources {
            cut += usize::from(source.len() >= most);
            source.truncate(most - 1);
            source.push(end);
        }
        Ok((sources, cut))
    }

    fn decode(&self, hypothesis: &Hypothesis) -> Result<GeneratedText, PipelineError> {
        let tokenizer = self.target.as_ref().unwrap_or(&self.source);
        let text = tokenizer.decode(&hypothesis.tokens, true)?.trim().to_owned();
        Ok(GeneratedText { text, score: hypothesis.score, ended: hypothesis.stop.is_some() })
    }
}
