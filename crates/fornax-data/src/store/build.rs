use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use sha2::{Digest, Sha256};

use super::manifest::{DOCUMENTS, FORMAT_VERSION, MANIFEST, Manifest, TOKENS, TokenType};
use crate::{DataError, Document, Source, Tokenizer, chunks, files, progress};

/// Tokenises `source` into `folder`, which must exist. Documents are encoded in parallel and written in order; the manifest comes last.
pub(super) fn build(
    source: &dyn Source,
    tokenizer: &Tokenizer,
    separator: Option<u32>,
    fingerprint: String,
    folder: &Path,
) -> Result<Manifest, DataError> {
    let started = Instant::now();
    let token_type = TokenType::for_vocab_size(tokenizer.vocab_size());
    let mut tokens = HashedFile::create(folder.join(TOKENS))?;
    let mut documents = HashedFile::create(folder.join(DOCUMENTS))?;
    let (mut count, mut text_bytes) = (0u64, 0u64);
    documents.write(&count.to_le_bytes())?;

    let bar = progress::bar(source.len() as u64, "tokenising", "documents");
    chunks::for_each_chunk(source, &bar, |chunk| {
        for (document, ids) in chunk.iter().zip(encode(tokenizer, chunk)?) {
            text_bytes += document.text.len() as u64;
            let separator = separator.filter(|_| !ids.is_empty());
            for id in ids.into_iter().chain(separator) {
                match token_type {
                    // The vocabulary's size made sure that an id fits.
                    TokenType::U16 => tokens.write(&(id as u16).to_le_bytes())?,
                    TokenType::U32 => tokens.write(&id.to_le_bytes())?,
                }
                count += 1;
            }
            documents.write(&count.to_le_bytes())?;
        }
        bar.set_message(format!("{} tokens", indicatif::HumanCount(count)));
        Ok(())
    })?;
    bar.finish_and_clear();
    if count == 0 {
        return Err(DataError::EmptyCorpus { paths: source.describe(), reason: "there is no token in it".into() });
    }
    let manifest = Manifest {
        format_version: FORMAT_VERSION,
        token_type,
        tokens: count,
        documents: source.len() as u64,
        text_bytes,
        separator,
        vocab_size: tokenizer.vocab_size(),
        tokenizer: tokenizer.hash().to_owned(),
        source: source.describe(),
        fingerprint,
        tokens_sha256: tokens.finish()?,
        documents_sha256: documents.finish()?,
    };
    let path = folder.join(MANIFEST);
    let json = serde_json::to_vec_pretty(&manifest).map_err(|error| DataError::io(&path)(error.into()))?;
    files::write_atomic(&path, &json)?;
    tracing::info!("tokenised {}: {count} tokens in {:.1} s", manifest.source, started.elapsed().as_secs_f64());
    Ok(manifest)
}

/// The ids of each document, long documents cut into pieces that are encoded in parallel too.
fn encode(tokenizer: &Tokenizer, documents: &[Document]) -> Result<Vec<Vec<u32>>, DataError> {
    let (owners, pieces): (Vec<usize>, Vec<&str>) = documents
        .iter()
        .enumerate()
        .flat_map(|(owner, document)| tokenizer.pieces(&document.text).into_iter().map(move |piece| (owner, piece)))
        .unzip();
    let mut ids = vec![Vec::new(); documents.len()];
    for (owner, encoded) in owners.into_iter().zip(tokenizer.encode_each(&pieces)) {
        ids[owner].extend(encoded.map_err(|error| error.in_document(&documents[owner].name))?);
    }
    Ok(ids)
}

/// A file whose hash is known when it is written.
struct HashedFile {
    path: PathBuf,
    file: File,
    buffer: Vec<u8>,
    hasher: Sha256,
}

impl HashedFile {
    const BUFFER: usize = 1 << 16;

    fn create(path: PathBuf) -> Result<Self, DataError> {
        let file = File::create(&path).map_err(DataError::io(&path))?;
        Ok(Self { path, file, buffer: Vec::new(), hasher: Sha256::new() })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), DataError> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= Self::BUFFER { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), DataError> {
        self.hasher.update(&self.buffer);
        self.file.write_all(&self.buffer).map_err(DataError::io(&self.path))?;
        self.buffer.clear();
        Ok(())
    }

    /// Syncs the file and returns its sha256 in hexadecimal.
    fn finish(mut self) -> Result<String, DataError> {
        self.flush()?;
        self.file.sync_all().map_err(DataError::io(&self.path))?;
        Ok(format!("{:x}", self.hasher.finalize()))
    }
}
