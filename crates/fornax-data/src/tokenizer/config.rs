use std::fmt;

use serde::{Deserialize, Serialize};

/// The `[tokenizer]` table: a tokenizer to load, or one to train on the training text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokenizerConfig {
    /// A file (`tokenizer.json`, GPT-2's `vocab.json` or `merges.txt`, BERT's `vocab.txt`, T5's `spiece.model`) or a folder with
    /// one of them, such as a run folder. The other keys play no part then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// What to train.
    pub kind: TokenizerKind,
    /// How many tokens, special ones included; a small text may give fewer. Characters and bytes have the size that they have.
    pub vocab_size: usize,
    /// Whether there is an `<|endoftext|>` token, which then separates documents. By default byte-level BPE has one, and
    /// characters and bytes have none. WordPiece and Unigram have their own special tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_of_text: Option<bool>,
    /// How many sentinels `<extra_id_N> ... <extra_id_0>` stand behind all other tokens; T5 has 100. `vocab_size` counts them in.
    #[serde(skip_serializing_if = "is_zero")]
    pub sentinels: usize,
    /// More special tokens, before the sentinels, such as UL2's modes. `vocab_size` counts them in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extra_tokens: Vec<String>,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl Default for TokenizerConfig {
    fn default() -> Self {
        // 8,192 tokens: on a few megabytes of text the embedding of a small model is still well trained.
        Self {
            from: None,
            kind: TokenizerKind::ByteBpe,
            vocab_size: 8192,
            end_of_text: None,
            sentinels: 0,
            extra_tokens: Vec::new(),
        }
    }
}

/// A kind of tokenizer that can be trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TokenizerKind {
    /// Byte-level byte-pair encoding as in GPT-2: any text round-trips.
    ByteBpe,
    /// WordPiece as in uncased BERT: lower-cased, accents stripped, words with rare characters become `[UNK]`.
    Wordpiece,
    /// Unigram language model as in SentencePiece and T5 (Kudo, 2018), with runs of spaces collapsed.
    Unigram,
    /// One token for each character of the training text, sorted; any other character is an error.
    Char,
    /// One token for each of the 256 byte values, whose id is the byte.
    Byte,
}

impl fmt::Display for TokenizerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ByteBpe => "byte-bpe",
            Self::Wordpiece => "wordpiece",
            Self::Unigram => "unigram",
            Self::Char => "char",
            Self::Byte => "byte",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_reads_as_written() {
        let config: TokenizerConfig = toml::from_str("kind = \"byte-bpe\"\nvocab_size = 300").unwrap();
        assert_eq!(config, TokenizerConfig { vocab_size: 300, ..TokenizerConfig::default() });
        assert_eq!(toml::from_str::<TokenizerConfig>(&toml::to_string(&config).unwrap()).unwrap(), config);
        assert!(toml::from_str::<TokenizerConfig>("vocabulary = 1").is_err());
    }

    #[test]
    fn kinds_print_as_they_parse() {
        use TokenizerKind::*;
        for kind in [ByteBpe, Wordpiece, Unigram, Char, Byte] {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.to_string());
        }
    }
}
