//! Batches for people to look at.

use std::fmt::Write;

use crate::batch::{IGNORE_TARGET, TokenBatch};
use crate::tokenizer::Tokenizer;

/// Writes the first `rows` rows of a batch as a table: position, id, piece, whether the position counts in the loss, and its target
/// with its piece, side by side. For people who want to see what a model is really fed.
pub fn render(batch: &TokenBatch, tokenizer: &Tokenizer, rows: usize) -> String {
    let mut text = String::new();
    for row in 0..batch.batch.min(rows) {
        let range = row * batch.seq_len..(row + 1) * batch.seq_len;
        let (input_ids, targets) = (&batch.input_ids[range.clone()], &batch.targets[range]);
        let counted = targets.iter().filter(|&&target| target != IGNORE_TARGET).count();
        // Writing to a String can't fail.
        let _ = writeln!(
            text,
            "row {row}, example {}: {} positions, {counted} targets",
            batch.examples[row], batch.seq_len
        );
        let pieces: Vec<String> = input_ids.iter().map(|&id| piece(tokenizer, id)).collect();
        let width = pieces.iter().map(|piece| piece.chars().count()).max().unwrap_or(0).max("piece".len());
        let _ = writeln!(text, "{:>5} {:>7}  {:<width$}  mask  {:>7}  piece", "pos", "id", "piece", "target");
        for (position, (id, target)) in input_ids.iter().zip(targets).enumerate() {
            let counts = *target != IGNORE_TARGET;
            let (mask, target_piece) = if counts { (1, piece(tokenizer, *target)) } else { (0, String::new()) };
            let line =
                format!("{position:>5} {id:>7}  {:<width$}  {mask:>4}  {target:>7}  {target_piece}", pieces[position]);
            let _ = writeln!(text, "{}", line.trim_end());
        }
    }
    text
}

/// The text of a token in quotes; its name in the vocabulary where it is no text by itself (a part of a character).
fn piece(tokenizer: &Tokenizer, id: i32) -> String {
    let id = id as u32;
    match tokenizer.decode(&[id], false) {
        Ok(text) if !text.is_empty() && !text.contains(char::REPLACEMENT_CHARACTER) => format!("{text:?}"),
        _ => tokenizer.id_to_token(id).unwrap_or_else(|| "(not in the vocabulary)".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::{Blocks, Tail};
    use crate::store::tests::memory;
    use crate::store::{StoreOptions, TokenStore};
    use crate::tokenizer::{TokenizerConfig, TokenizerKind};

    #[test]
    fn a_batch_reads_side_by_side() {
        let source = memory(&["To be,\nor not"]);
        let config = TokenizerConfig { kind: TokenizerKind::Byte, end_of_text: Some(true), ..Default::default() };
        let tokenizer = Tokenizer::train(&config, &source).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let store = TokenStore::build_or_open(&source, &tokenizer, dir.path(), &StoreOptions::default()).unwrap();
        let blocks = Blocks::contiguous(store.into(), 8, Tail::Pad).unwrap();
        insta::assert_snapshot!(render(&blocks.batch(&[0, 1]), &tokenizer, 2));
    }
}
