use std::path::Path;
use std::sync::Arc;

use fornax_data::{
    DataError, Document, Fill, SpecialToken, Tokenizer, TokenizerConfig,
    dataset::cache_folder,
    pairs::{TextPair, TextPairs},
    source::Texts,
};

use crate::Config;

/// The tokenizer of what is read, in the folder of a run or a model whose languages have one each. That of what is written, and the
/// one of a joint vocabulary, is `tokenizer.json`.
pub const SOURCE_TOKENIZER: &str = "source_tokenizer.json";

/// The tokenizers of both languages: two, or the same one twice.
#[derive(Clone, Debug)]
pub struct Tokenizers {
    /// Of what is read.
    pub source: Arc<Tokenizer>,
    /// Of what is written.
    pub target: Arc<Tokenizer>,
    /// What rows are filled up with, and what the decoder reads first.
    pub fill: Fill,
    /// The token that ends a target.
    pub end: u32,
}

impl Tokenizers {
    /// Loads them, or trains them on `train`: a joint one on both sides of it.
    ///
    /// # Errors
    ///
    /// A tokenizer that can't be loaded or trained, and one without a token that ends a text.
    pub(crate) fn prepare(config: &Config, train: &TextPairs) -> Result<Self, DataError> {
        let cache = cache_folder().join("tokenizers");
        let lowercase = config.data.lowercase;
        let prepare = |config: &TokenizerConfig, side: &str, texts: fn(&TextPair) -> Vec<&String>| {
            let documents = train.pairs().iter().enumerate().flat_map(|(number, pair)| {
                let document = move |text: &String| {
                    let text = if lowercase { text.to_lowercase() } else { text.clone() };
                    Document { name: format!("pair {number}"), text }
                };
                texts(pair).into_iter().map(document)
            });
            let texts = Texts::new(format!("the {side} of {}", train.name()), documents.collect());
            Tokenizer::prepare(config, &texts, &cache).map(Arc::new)
        };
        let (source, target) = match &config.source_tokenizer {
            Some(source) => (
                prepare(source, "sources", |pair| vec![&pair.source])?,
                prepare(&config.tokenizer, "targets", |pair| vec![&pair.target])?,
            ),
            None => {
                let joint = prepare(&config.tokenizer, "texts", |pair| vec![&pair.source, &pair.target])?;
                (Arc::clone(&joint), joint)
            }
        };
        let end = target.end_of_text_id().ok_or(DataError::NoSeparator)?;
        let special = |token| target.special_id(token).ok();
        // Nothing attends to filling, so any token will do that both vocabularies have.
        let pad = special(SpecialToken::Pad).unwrap_or(end);
        let pad = if (pad as usize) < source.vocab_size() { pad } else { 0 };
        // T5 starts with its padding, fairseq with the end.
        let start = special(SpecialToken::Cls).or(special(SpecialToken::Pad)).unwrap_or(end);
        let fill = Fill { pad_id: pad as i32, start_id: start as i32 };
        Ok(Self { source, target, fill, end })
    }

    /// Whether one vocabulary serves both languages.
    pub fn are_joint(&self) -> bool {
        Arc::ptr_eq(&self.source, &self.target)
    }

    /// The token that the decoder reads first.
    pub fn start(&self) -> u32 {
        self.fill.start_id as u32
    }

    /// Identifies them.
    pub(crate) fn hash(&self) -> String {
        match self.are_joint() {
            true => self.target.hash().to_owned(),
            false => format!("{} {}", self.source.hash(), self.target.hash()),
        }
    }

    /// Writes `source_tokenizer.json` into a folder, where the source has a tokenizer of its own.
    pub(crate) fn save_source(&self, folder: &Path) -> Result<(), DataError> {
        if self.are_joint() { Ok(()) } else { self.source.save(&folder.join(SOURCE_TOKENIZER)) }
    }
}
