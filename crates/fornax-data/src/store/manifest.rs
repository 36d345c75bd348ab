use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::DataError;
use crate::source::file_sha256;

/// The version of the store's files that this code writes, and the newest that it reads.
pub(super) const FORMAT_VERSION: u32 = 1;

/// The names inside a store's folder.
pub(super) const MANIFEST: &str = "manifest.json";
pub(super) const TOKENS: &str = "tokens.bin";
pub(super) const DOCUMENTS: &str = "documents.bin";

/// How wide a token is in `tokens.bin`, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenType {
    /// Two bytes: vocabularies of at most 65,536 tokens.
    U16,
    /// Four bytes.
    U32,
}

impl TokenType {
    /// The narrowest type for a vocabulary.
    pub fn for_vocab_size(vocab_size: usize) -> Self {
        if vocab_size <= usize::from(u16::MAX) + 1 { Self::U16 } else { Self::U32 }
    }

    /// Bytes a token.
    pub fn width(self) -> usize {
        match self {
            Self::U16 => 2,
            Self::U32 => 4,
        }
    }
}

/// `manifest.json`: what the store holds and what it was made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of the layout.
    pub format_version: u32,
    /// The type of a token.
    pub token_type: TokenType,
    /// Tokens in `tokens.bin`, separators included.
    pub tokens: u64,
    /// Documents; `documents.bin` holds one offset more, as little-endian u64.
    pub documents: u64,
    /// UTF-8 bytes of all texts: the denominator of bits per byte.
    pub text_bytes: u64,
    /// The token after each document that has a text, if any.
    pub separator: Option<u32>,
    /// The size of the tokenizer's vocabulary.
    pub vocab_size: usize,
    /// [`Tokenizer::hash`](crate::Tokenizer::hash).
    pub tokenizer: String,
    /// [`Source::describe`](crate::Source::describe), for people.
    pub source: String,
    /// [`Source::fingerprint`](crate::Source::fingerprint).
    pub fingerprint: String,
    /// `tokens.bin`.
    pub tokens_sha256: String,
    /// `documents.bin`.
    pub documents_sha256: String,
}

impl Manifest {
    /// Reads the manifest in `folder` and checks sizes and hashes of the files that it describes. Reads every byte of the store once,
    /// at about a gigabyte a second: little beside training on it, and the only way to notice a flipped bit.
    pub(super) fn verify(folder: &Path) -> Result<Self, DataError> {
        let corrupt = |reason: String| DataError::CorruptStore { folder: folder.into(), reason };
        let path = folder.join(MANIFEST);
        let json = std::fs::read(&path).map_err(|error| corrupt(format!("{MANIFEST} can't be read: {error}")))?;

        /// Read by itself first: a newer manifest may have other keys.
        #[derive(Deserialize)]
        struct Version {
            format_version: u32,
        }
        let version: Version =
            serde_json::from_slice(&json).map_err(|error| corrupt(format!("{MANIFEST} can't be read: {error}")))?;
        if version.format_version > FORMAT_VERSION {
            return Err(DataError::NewerFormat { path, found: version.format_version, supported: FORMAT_VERSION });
        }
        let manifest: Self =
            serde_json::from_slice(&json).map_err(|error| corrupt(format!("{MANIFEST} can't be read: {error}")))?;
        for (name, bytes, sha256) in [
            (TOKENS, manifest.tokens * manifest.token_type.width() as u64, &manifest.tokens_sha256),
            (DOCUMENTS, (manifest.documents + 1) * 8, &manifest.documents_sha256),
        ] {
            let path = folder.join(name);
            let found =
                std::fs::metadata(&path).map_err(|error| corrupt(format!("{name} can't be read: {error}")))?.len();
            if found != bytes {
                return Err(corrupt(format!("{name} has {found} bytes, but {MANIFEST} says {bytes}")));
            }
            if file_sha256(&path)? != *sha256 {
                return Err(corrupt(format!("the sha256 of {name} is not that of {MANIFEST}")));
            }
        }
        Ok(manifest)
    }
}
