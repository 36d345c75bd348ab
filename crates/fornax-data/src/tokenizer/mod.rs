//! From text to token ids and back, as a Hugging Face `tokenizer.json` in every case.

mod cache;
mod config;
mod load;
mod pieces;
mod sentencepiece;
mod sentinels;
mod special;
mod subwords;
mod table;
mod text_stream;
mod train;
mod unigram;

use std::fmt;
use std::path::Path;

use rayon::prelude::*;
use sha2::{Digest, Sha256};
use tokenizers::models::ModelWrapper;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;

pub use config::{TokenizerConfig, TokenizerKind};
pub use pieces::SpecialToken;
pub use special::EncodedText;
pub use text_stream::TextStream;

use crate::{DataError, chunks, files};
use table::Table;

/// The token between documents, by GPT-2's name.
pub(crate) const END_OF_TEXT: &str = "<|endoftext|>";

/// Names under which tokenizers keep the token that ends a text, in the order in which they are looked for.
const END_OF_TEXT_NAMES: [&str; 6] = [END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "[SEP]"];

/// A tokenizer: a `tokenizers` pipeline without padding, truncation and BPE dropout, whatever its file says, so that a text always
/// has the same tokens. Cheap to share behind a reference, costly to clone.
#[derive(Clone)]
pub struct Tokenizer {
    pipeline: tokenizers::Tokenizer,
    /// A direct way to the same ids for characters and bytes, for which the pipeline takes a hundred bytes of memory per character.
    table: Option<Table>,
    vocab_size: usize,
    end_of_text: Option<u32>,
    sentinels: Vec<u32>,
    hash: String,
    /// Tokens that are looked for in the text before anything else.
    added: Vec<String>,
}

impl Tokenizer {
    /// Takes a pipeline. `origin` is where it comes from, for messages.
    pub(crate) fn new(mut pipeline: tokenizers::Tokenizer, origin: &Path) -> Result<Self, DataError> {
        let invalid =
            |error: tokenizers::Error| DataError::InvalidTokenizer { path: origin.into(), reason: error.to_string() };
        pipeline.with_padding(None);
        pipeline.with_truncation(None).map_err(invalid)?;
        if let ModelWrapper::BPE(model) = pipeline.get_model()
            && model.dropout.is_some()
        {
            let mut model = model.clone();
            model.dropout = None;
            pipeline.with_model(model);
        }
        let vocabulary = pipeline.get_vocab(true);
        let Some(largest) = vocabulary.values().max() else {
            return Err(DataError::InvalidTokenizer { path: origin.into(), reason: "the vocabulary is empty".into() });
        };
        let hash = format!("{:x}", Sha256::digest(pipeline.to_string(false).map_err(invalid)?));
        let mut added: Vec<String> = pipeline.get_added_vocabulary().get_vocab().keys().cloned().collect();
        added.sort_unstable();
        Ok(Self {
            table: Table::of(&pipeline),
            vocab_size: *largest as usize + 1,
            end_of_text: END_OF_TEXT_NAMES.iter().find_map(|name| vocabulary.get(*name).copied()),
            sentinels: sentinels::find(|name| vocabulary.get(name).copied()),
            hash,
            added,
            pipeline,
        })
    }

    /// The number of rows that a model's embedding needs: the largest id and one.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The sha256 of the canonical `tokenizer.json`, in hexadecimal. Equal hashes mean equal tokens.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// The token that ends a document (`<|endoftext|>`, `</s>`, `[SEP]`, ...), if there is one.
    pub fn end_of_text_id(&self) -> Option<u32> {
        self.end_of_text
    }

    /// The id of a token by its name in the vocabulary.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.pipeline.token_to_id(token)
    }

    /// The name of a token in the vocabulary.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.pipeline.id_to_token(id)
    }

    /// The ids of a text. Special tokens are recognised where the text spells them out; none is put around it.
    ///
    /// # Errors
    ///
    /// If the text has a character that the vocabulary lacks and the tokenizer has no token for unknown ones.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, DataError> {
        match &self.table {
            Some(table) if !self.has_added_token(text) => table.encode(text).map_err(unknown_character),
            _ => {
                let encoding =
                    self.pipeline.encode_fast(text, false).map_err(|error| self.encode_error(text, error))?;
                Ok(encoding.get_ids().to_vec())
            }
        }
    }

    /// The ids of a text that a model is to continue, which needs at least one: where [`encode`](Self::encode) gives none, because
    /// the text is empty or the tokenizer drops all of it, the token that ends a document, behind which a new one begins. Empty
    /// only if the tokenizer has no such token either.
    ///
    /// # Errors
    ///
    /// As [`encode`](Self::encode).
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>, DataError> {
        let ids = self.encode(text)?;
        Ok(if ids.is_empty() { self.end_of_text.into_iter().collect() } else { ids })
    }

    /// The ids of each text, in parallel.
    ///
    /// # Errors
    ///
    /// As [`encode`](Self::encode), for the first text that has one.
    pub fn encode_batch(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>, DataError> {
        // Collected in two steps, the error is that of the first text, not of the first thread.
        self.encode_each(texts).into_iter().collect()
    }

    /// As [`encode_batch`](Self::encode_batch), each text with its own result.
    pub(crate) fn encode_each(&self, texts: &[&str]) -> Vec<Result<Vec<u32>, DataError>> {
        texts.par_iter().map(|text| self.encode(text)).collect()
    }

    /// The text of ids. Ids outside of the vocabulary are left out, and with `skip_special` the special tokens too. Bytes that are no
    /// UTF-8 become U+FFFD.
    ///
    /// # Errors
    ///
    /// If the tokenizer's decoder refuses a token.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, DataError> {
        let decoded = self.pipeline.decode(ids, skip_special);
        decoded.map_err(|error| DataError::Decode { reason: error.to_string() })
    }

    /// Decodes token by token, for text that appears while it is generated. `prompt` is what the text continues: it is not shown
    /// again, but decides for instance whether a space comes first.
    pub fn text_stream(&self, prompt: &[u32], skip_special: bool) -> TextStream<'_> {
        TextStream::new(self, prompt, skip_special)
    }

    /// Writes `tokenizer.json` at `path`, beside and renamed.
    ///
    /// # Errors
    ///
    /// If the file can't be written.
    pub fn save(&self, path: &Path) -> Result<(), DataError> {
        files::write_atomic(path, self.to_json()?.as_bytes())
    }

    /// Writes `tokenizer.json` and the `tokenizer_config.json` by which `transformers` reads it, special tokens by their part
    /// included, into a folder of a model for sequences of `max_positions` tokens.
    ///
    /// # Errors
    ///
    /// If a file can't be written.
    pub fn save_pretrained(&self, folder: &Path, max_positions: usize) -> Result<(), DataError> {
        self.save(&folder.join("tokenizer.json"))?;
        let mut config = self.pretrained_config();
        config.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
        config.insert("model_max_length".into(), max_positions.into());
        config.insert("clean_up_tokenization_spaces".into(), false.into());
        let json = serde_json::Value::Object(config);
        files::write_atomic(&folder.join("tokenizer_config.json"), format!("{json:#}\n").as_bytes())
    }

    /// The text of `tokenizer.json`.
    ///
    /// # Errors
    ///
    /// If a part of the tokenizer has no text form.
    pub fn to_json(&self) -> Result<String, DataError> {
        self.pipeline
            .to_string(true)
            .map_err(|error| DataError::Encode { document: "tokenizer.json: ".into(), reason: error.to_string() })
    }

    /// Cuts a text so that the ids of the pieces, one after another, are the ids of the text: one piece where that is not certain.
    pub(crate) fn pieces<'a>(&self, text: &'a str) -> Vec<&'a str> {
        // GPT-2's pre-tokenizer: the only one besides the tables whose words are known to end where `chunks::pieces` cuts.
        let byte_level = matches!(self.pipeline.get_pre_tokenizer(),
            Some(PreTokenizerWrapper::ByteLevel(byte_level)) if byte_level.use_regex && !byte_level.add_prefix_space);
        let cuttable = self.table.is_some() || (byte_level && self.pipeline.get_normalizer().is_none());
        if cuttable && !self.has_added_token(text) { chunks::pieces(text) } else { vec![text] }
    }

    fn has_added_token(&self, text: &str) -> bool {
        self.added.iter().any(|token| text.contains(token.as_str()))
    }

    fn encode_error(&self, text: &str, error: tokenizers::Error) -> DataError {
        let rest = self.added.iter().fold(text.to_owned(), |rest, token| rest.replace(token.as_str(), ""));
        match &self.table {
            Some(table) if let Err(character) = table.encode(&rest) => unknown_character(character),
            _ => DataError::Encode { document: String::new(), reason: error.to_string() },
        }
    }
}

fn unknown_character(character: char) -> DataError {
    DataError::UnknownCharacter { character, document: String::new() }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size)
            .field("hash", &self.hash)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) use pieces::tests as pieces_tests;
#[cfg(test)]
mod tests;
