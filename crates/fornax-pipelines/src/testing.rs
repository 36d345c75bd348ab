//! A tiny model and a tokenizer of a few words.

use fornax_data::Tokenizer;
use fornax_models::BertConfig;

const WORDS: [&str; 11] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "a", "cat", "dog", "sat", "on"];

/// One token a word.
pub(crate) fn tokenizer() -> Tokenizer {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("vocab.txt"), WORDS.join("\n")).unwrap();
    Tokenizer::open(folder.path()).unwrap()
}

/// A model for it.
pub(crate) fn sizes() -> BertConfig {
    BertConfig {
        vocab_size: WORDS.len(),
        max_positions: 16,
        hidden_size: 24,
        num_layers: 2,
        num_heads: 3,
        intermediate_size: 32,
        ..BertConfig::default()
    }
}
