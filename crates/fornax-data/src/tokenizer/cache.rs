use std::path::Path;

use sha2::{Digest, Sha256};

use super::{Tokenizer, TokenizerConfig};
use crate::{DataError, Source};

/// Changes whenever training starts to give another result for the same text, so that older results are not taken for new ones.
const TRAINING_VERSION: u32 = 2;

impl Tokenizer {
    /// The tokenizer that a config asks for: opened from `config.from`, or trained on `source` and kept in `cache_dir`, where the
    /// next run with the same text and settings finds it. A relative `from` is relative to the current folder.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open) and [`train`](Self::train).
    pub fn prepare(config: &TokenizerConfig, source: &dyn Source, cache_dir: &Path) -> Result<Self, DataError> {
        if let Some(path) = &config.from {
            return Self::open(Path::new(path));
        }
        let key = format!(
            "{TRAINING_VERSION}\n{}\n{}\n{:?}\n{}\n{:?}\n{}",
            config.kind,
            config.vocab_size,
            config.end_of_text,
            config.sentinels,
            config.extra_tokens,
            source.fingerprint()?
        );
        let name = format!("{}-{:.16x}.json", config.kind, Sha256::digest(key));
        let path = cache_dir.join(name);
        if path.is_file() {
            match Self::open(&path) {
                Ok(tokenizer) => return Ok(tokenizer),
                Err(error) => tracing::warn!("{error}; training the tokenizer again"),
            }
        }
        let tokenizer = Self::train(config, source)?;
        std::fs::create_dir_all(cache_dir).map_err(DataError::io(cache_dir))?;
        tokenizer.save(&path)?;
        Ok(tokenizer)
    }
}
