use std::path::Path;

use burn::tensor::{Device, Int, Tensor, TensorData};
use fornax_data::{SpecialToken, Tokenizer, tokenizer::EncodedText};
use fornax_models::{BertConfig, hf::LoadReport};
use fornax_ops::AttentionMask;

use crate::{PipelineError, Text};

/// Texts as an encoder reads them, filled up to the longest.
pub(crate) struct Batch {
    pub(crate) encoded: Vec<EncodedText>,
    /// Positions a row.
    pub(crate) seq_len: usize,
    pad: i32,
    /// Whether the model tells the texts of a pair apart.
    has_types: bool,
}

impl Batch {
    /// Encodes texts, with special tokens, for a model of these sizes.
    pub(crate) fn encode(tokenizer: &Tokenizer, sizes: &BertConfig, texts: &[Text<'_>]) -> Result<Self, PipelineError> {
        let encode = |&(text, pair): &Text<'_>| tokenizer.encode_with_special(text, pair, sizes.max_positions);
        let encoded = texts.iter().map(encode).collect::<Result<Vec<_>, _>>()?;
        let seq_len = encoded.iter().map(|text| text.ids.len()).max().unwrap_or(0);
        Ok(Self { encoded, seq_len, pad: tokenizer.filler_id() as i32, has_types: sizes.reads_token_types() })
    }

    /// Texts of which the end is missing.
    pub(crate) fn cut(&self) -> usize {
        self.encoded.iter().filter(|text| text.truncated).count()
    }

    /// `[batch, seq]`
    pub(crate) fn input_ids(&self, device: &Device) -> Tensor<2, Int> {
        self.rows(|text| &text.ids, self.pad, device)
    }

    /// `[batch, seq]`; none where all are 0, or the model reads none.
    pub(crate) fn token_type_ids(&self, device: &Device) -> Option<Tensor<2, Int>> {
        let differ = self.has_types && self.encoded.iter().any(|text| text.type_ids.iter().any(|&id| id != 0));
        differ.then(|| self.rows(|text| &text.type_ids, 0, device))
    }

    /// Over the padding.
    pub(crate) fn mask(&self, device: &Device) -> AttentionMask {
        let lengths: Vec<i32> = self.encoded.iter().map(|text| text.ids.len() as i32).collect();
        let rows = lengths.len();
        AttentionMask::KeyLengths(Tensor::from_data(TensorData::new(lengths, [rows]), device))
    }

    fn rows(&self, ids: fn(&EncodedText) -> &Vec<u32>, filler: i32, device: &Device) -> Tensor<2, Int> {
        let mut values = Vec::with_capacity(self.encoded.len() * self.seq_len);
        for (row, text) in self.encoded.iter().enumerate() {
            values.extend(ids(text).iter().map(|&id| id as i32));
            values.resize((row + 1) * self.seq_len, filler);
        }
        Tensor::from_data(TensorData::new(values, [self.encoded.len(), self.seq_len]), device)
    }
}

/// Refuses a checkpoint whose head is not in its file: numbers drawn at random give no answers.
pub(crate) fn check_head(report: &LoadReport, folder: &Path, task: &'static str) -> Result<(), PipelineError> {
    match report.initialised.is_empty() {
        true => Ok(()),
        false => Err(PipelineError::NoHead { folder: folder.to_owned(), task, tensors: report.initialised.clone() }),
    }
}

/// Whether tokenizer and model belong together.
pub(crate) fn check(tokenizer: &Tokenizer, sizes: &BertConfig) -> Result<(), PipelineError> {
    let pad = tokenizer.special_id(SpecialToken::Pad).ok();
    sizes.check_tokenizer(tokenizer.vocab_size(), pad).map_err(|source| PipelineError::Tokenizer { source })
}

/// Says how many of the texts that were read were cut.
pub(crate) fn warn_of_cuts(cut: usize, texts: usize, max_positions: usize) {
    if cut > 0 {
        tracing::warn!("{cut} of {texts} texts were cut to the {max_positions} tokens that the model reads");
    }
}
