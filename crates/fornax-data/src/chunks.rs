//! Walking a source a few megabytes at a time, for work that runs in parallel over texts.

use indicatif::ProgressBar;

use crate::{DataError, Document, Source};

/// Enough text to keep every core busy, little enough that its tokens fit into memory with ease.
const CHUNK_BYTES: usize = 8 << 20;
/// Long texts are cut into pieces of about this size where that changes nothing.
const PIECE_BYTES: usize = 64 << 10;

/// Calls `work` with the documents in order, a few at a time; `bar` counts documents.
pub(crate) fn for_each_chunk(
    source: &dyn Source,
    bar: &ProgressBar,
    mut work: impl FnMut(&[Document]) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let mut chunk = Vec::new();
    let mut bytes = 0;
    for index in 0..source.len() {
        let document = source.get(index)?;
        bytes += document.text.len();
        chunk.push(document);
        if bytes >= CHUNK_BYTES || index + 1 == source.len() {
            work(&chunk)?;
            bar.inc(chunk.len() as u64);
            chunk.clear();
            bytes = 0;
        }
    }
    Ok(())
}

/// Cuts a long text into pieces that begin with a newline after a letter or digit. There, every pre-tokenizer that we train with
/// ends a word, so that the words of the pieces are the words of the text: a newline is no part of the word before it, and what
/// follows does not look back.
pub(crate) fn pieces(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut start = 0;
    for (newline, _) in text.match_indices('\n') {
        let after_word = || text[..newline].chars().next_back().is_some_and(char::is_alphanumeric);
        if newline >= start + PIECE_BYTES && after_word() {
            pieces.push(&text[start..newline]);
            start = newline;
        }
    }
    pieces.push(&text[start..]);
    pieces
}
