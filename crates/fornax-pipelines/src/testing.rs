//! A tiny model and tokenizers of a few words.

use fornax_data::Tokenizer;
use fornax_models::BertConfig;
use serde_json::json;

const WORDS: [&str; 11] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "a", "cat", "dog", "sat", "on"];

/// One token a word.
pub(crate) fn tokenizer() -> Tokenizer {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("vocab.txt"), WORDS.join("\n")).unwrap();
    Tokenizer::open(folder.path()).unwrap()
}

/// One token a word, as `tokenizer.json`: padding, the end, and these; the first of them stands for unknown words.
pub(crate) fn word_tokenizer(words: &[String]) -> String {
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
               "special": true})
    };
    let names = ["<pad>".to_owned(), "</s>".to_owned()].into_iter().chain(words.iter().cloned());
    let vocab: serde_json::Map<_, _> = names.zip(0..).map(|(word, id)| (word, id.into())).collect();
    json!({
        "version": "1.0",
        "added_tokens": [special(0, "<pad>"), special(1, "</s>")],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": words[0]},
    })
    .to_string()
}

/// A model for [`tokenizer`].
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
