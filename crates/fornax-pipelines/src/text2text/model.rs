use std::path::Path;

use burn::tensor::Device;
use fornax_backend::Precision;
use fornax_data::Tokenizer;
use fornax_models::{
    ModelError, T5, Transformer,
    generate::{Hypothesis, Seq2SeqLm, Seq2SeqOptions, generate_seq2seq_numbered},
    hf::{self, ConfigFile},
};

use crate::{PipelineError, batch};

/// The values of `model_type` that [`Text2Text`](super::Text2Text) opens.
pub(crate) const MODEL_TYPES: [&str; 2] = [T5_TYPE, "fornax-transformer"];
const T5_TYPE: &str = "t5";

/// The longest source that the published T5 were pretrained with (Raffel et al. 2020).
const T5_SOURCE_LEN: usize = 512;

/// An encoder-decoder with the tokens that its targets begin and end with.
#[derive(Debug)]
pub enum Text2TextModel {
    /// Its configuration has them.
    T5(Box<T5>),
    /// They belong to the tokenizer of the targets.
    Transformer {
        /// The model.
        model: Box<Transformer>,
        /// What the decoder reads first.
        start_token: u32,
        /// What ends a target.
        end_token: u32,
    },
}

/// Calls a function of any [`Seq2SeqLm`].
macro_rules! of_any {
    ($model:expr, $it:ident => $value:expr) => {
        match $model {
            Text2TextModel::T5(model) => {
                let $it: &T5 = model;
                $value
            }
            Text2TextModel::Transformer { model, .. } => {
                let $it: &Transformer = model;
                $value
            }
        }
    };
}

impl Text2TextModel {
    pub(super) fn open(folder: &Path, file: &ConfigFile, device: &Device) -> Result<Self, PipelineError> {
        if file.get("model_type", String::new())? == T5_TYPE {
            let (model, report) = hf::load_t5(folder, device)?;
            batch::check_head(&report, folder, "text2text-generation")?;
            return Ok(Self::T5(Box::new(model)));
        }
        let (model, report) = hf::load_transformer(folder, device)?;
        batch::check_head(&report, folder, "text2text-generation")?;
        let token = |key| {
            let missing =
                || file.refuse(key, &"is not set: targets need a token that they begin with and one that ends them");
            file.get(key, None)?.ok_or_else(missing)
        };
        let (start_token, end_token) = (token("decoder_start_token_id")?, token("eos_token_id")?);
        Ok(Self::Transformer { model: Box::new(model), start_token, end_token })
    }

    pub(super) fn start_token(&self) -> u32 {
        match self {
            Self::T5(model) => model.config().start_token,
            Self::Transformer { start_token, .. } => *start_token,
        }
    }

    pub(super) fn end_token(&self) -> u32 {
        match self {
            Self::T5(model) => model.config().end_token,
            Self::Transformer { end_token, .. } => *end_token,
        }
    }

    /// Of the targets.
    pub(super) fn vocab_size(&self) -> usize {
        of_any!(self, model => model.vocab_size())
    }

    pub(super) fn max_source_positions(&self) -> Option<usize> {
        of_any!(self, model => model.max_source_positions())
    }

    /// The tokens of a source where nothing else is said.
    pub(super) fn source_len(&self) -> usize {
        self.max_source_positions().unwrap_or(T5_SOURCE_LEN)
    }

    pub(super) fn check_precision(&self, precision: Precision) -> Result<(), ModelError> {
        match self {
            Self::T5(_) => T5::check_precision(precision),
            Self::Transformer { .. } => Ok(()),
        }
    }

    /// Whether the model knows all tokens.
    pub(super) fn check_tokenizers(&self, source: &Tokenizer, target: &Tokenizer) -> Result<(), PipelineError> {
        let (source_key, target_key) = match self {
            Self::T5(_) => ("vocab_size", "vocab_size"),
            Self::Transformer { .. } => ("source_vocab_size", "target_vocab_size"),
        };
        let sides = of_any!(self, model => [
            (source_key, model.source_vocab_size(), source),
            (target_key, model.vocab_size(), target),
        ]);
        for (key, vocab_size, tokenizer) in sides {
            let tokens = tokenizer.vocab_size();
            if vocab_size < tokens {
                let reason = format!("the tokenizer has {tokens} tokens");
                let source = ModelError::Config { key, value: vocab_size.to_string(), reason };
                return Err(PipelineError::Tokenizer { source });
            }
        }
        Ok(())
    }

    pub(super) fn generate(
        &self,
        sources: &[Vec<u32>],
        numbers: &[usize],
        options: &Seq2SeqOptions,
    ) -> Result<Vec<Vec<Hypothesis>>, ModelError> {
        of_any!(self, model => generate_seq2seq_numbered(model, sources, numbers, options))
    }
}
