//! A text as tokens on the disk, memory-mapped: made once, used by every run with the same text, tokenizer and settings.

mod build;
mod manifest;

use std::fs::{File, TryLockError};
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use sha2::{Digest, Sha256};

pub use manifest::{Manifest, TokenType};

use crate::{DataError, Source, Tokenizer};
use manifest::{DOCUMENTS, FORMAT_VERSION, TOKENS};

/// What a store depends on besides the text and the tokenizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreOptions {
    /// Whether the tokenizer's end-of-text token, where it has one, follows each document (as in GPT-2). Otherwise documents follow
    /// one another directly.
    pub separate_documents: bool,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { separate_documents: true }
    }
}

/// The tokens of a source: a folder with `tokens.bin`, `documents.bin` (offsets) and `manifest.json`.
#[derive(Debug)]
pub struct TokenStore {
    folder: PathBuf,
    manifest: Manifest,
    tokens: Mmap,
    documents: Mmap,
}

impl TokenStore {
    /// Opens the store of `source` in `cache_dir`, or makes it: with a progress bar, in parallel, beside and renamed.
    ///
    /// The folder's name is a hash of the source's fingerprint, the tokenizer's hash and the options, so that a change of any of them
    /// makes another store; older ones stay until someone deletes them. Two processes that want one store take turns. A store that is
    /// damaged is made again, with a warning.
    ///
    /// # Errors
    ///
    /// If the source has no token, a text can't be read or encoded, the disk is full, or the store was written by a newer version.
    pub fn build_or_open(
        source: &dyn Source,
        tokenizer: &Tokenizer,
        cache_dir: &Path,
        options: &StoreOptions,
    ) -> Result<Self, DataError> {
        let separator = tokenizer.end_of_text_id().filter(|_| options.separate_documents);
        let fingerprint = source.fingerprint()?;
        let key = format!("{FORMAT_VERSION}\n{fingerprint}\n{}\n{separator:?}", tokenizer.hash());
        let name = format!("{:.16x}", Sha256::digest(key));
        let folder = cache_dir.join(&name);
        std::fs::create_dir_all(cache_dir).map_err(DataError::io(cache_dir))?;
        let _lock = lock(&cache_dir.join(format!("{name}.lock")))?;
        if folder.exists() {
            match Self::open(&folder) {
                Err(error @ DataError::CorruptStore { .. }) => tracing::warn!("{error}; making it again"),
                opened => return opened,
            }
        }
        // Nobody else works in it while we hold the lock: what is there was left by a process that was killed.
        let partial = cache_dir.join(format!("{name}.partial"));
        remove(&partial)?;
        std::fs::create_dir(&partial).map_err(DataError::io(&partial))?;
        if let Err(error) = build::build(source, tokenizer, separator, fingerprint, &partial) {
            let _ = std::fs::remove_dir_all(&partial);
            return Err(error);
        }
        remove(&folder)?;
        std::fs::rename(&partial, &folder).map_err(DataError::io(&folder))?;
        Self::open(&folder)
    }

    /// Opens a store by its folder. Checks sizes and hashes, which reads the whole store once (about a second for a gigabyte).
    ///
    /// # Errors
    ///
    /// [`DataError::CorruptStore`] if a file is missing, truncated or changed; [`DataError::NewerFormat`].
    pub fn open(folder: &Path) -> Result<Self, DataError> {
        let manifest = Manifest::verify(folder)?;
        let (tokens, documents) = (map(&folder.join(TOKENS))?, map(&folder.join(DOCUMENTS))?);
        Ok(Self { folder: folder.into(), manifest, tokens, documents })
    }

    /// Where the store lies.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What the store holds and what it was made from.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Tokens, separators included.
    pub fn len(&self) -> u64 {
        self.manifest.tokens
    }

    /// Never: a source without tokens is refused.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Documents.
    pub fn document_count(&self) -> u64 {
        self.manifest.documents
    }

    /// Where document `index` lies among the tokens, its separator included.
    ///
    /// # Panics
    ///
    /// If `index` is not below [`document_count`](Self::document_count).
    pub fn document(&self, index: u64) -> Range<u64> {
        let at = |index: u64| {
            let first = index as usize * 8;
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&self.documents[first..first + 8]);
            u64::from_le_bytes(bytes)
        };
        at(index)..at(index + 1)
    }

    /// Copies the tokens from `start` on into `out`.
    ///
    /// # Panics
    ///
    /// If they end before `out` is full.
    pub fn read(&self, start: u64, out: &mut [i32]) {
        let width = self.manifest.token_type.width();
        let first = start as usize * width;
        let bytes = &self.tokens[first..first + out.len() * width];
        match self.manifest.token_type {
            TokenType::U16 => {
                for (out, bytes) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                    *out = i32::from(u16::from_le_bytes([bytes[0], bytes[1]]));
                }
            }
            TokenType::U32 => {
                for (out, bytes) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                    *out = i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
                }
            }
        }
    }
}

/// Waits until no other process (or thread) makes this store. The lock ends when the file is closed, however the process ends.
fn lock(path: &Path) -> Result<File, DataError> {
    let file = File::options().create(true).truncate(false).write(true).open(path).map_err(DataError::io(path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            tracing::info!("waiting for another process that is making {}", path.with_extension("").display());
            file.lock().map_err(DataError::io(path))?;
        }
        Err(TryLockError::Error(error)) => return Err(DataError::io(path)(error)),
    }
    Ok(file)
}

fn remove(folder: &Path) -> Result<(), DataError> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(DataError::io(folder)(error)),
        _ => Ok(()),
    }
}

#[allow(unsafe_code)]
fn map(path: &Path) -> Result<Mmap, DataError> {
    let file = File::open(path).map_err(DataError::io(path))?;
    // SAFETY: a store's files are never written after the rename that made them visible; a damaged store is replaced as a folder,
    // which leaves the mapped files alone. Whoever else truncates one under a running process ends that process.
    unsafe { Mmap::map(&file) }.map_err(DataError::io(path))
}

#[cfg(test)]
pub(crate) mod tests;
