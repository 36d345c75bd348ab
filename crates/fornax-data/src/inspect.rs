//! Batches for people to look at.

use std::fmt::Write;

use crate::batch::{IGNORE_TARGET, TokenBatch};
use crate::labelled::{LabelKind, LabelledBatch, Labels};
use crate::masked_batch::MaskedBatch;
use crate::seq2seq_batch::Seq2SeqBatch;
use crate::tokenizer::{SpecialToken, Tokenizer};

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
        write_table(&mut text, tokenizer, input_ids, targets, "mask", |position| {
            u8::from(targets[position] != IGNORE_TARGET).to_string()
        });
    }
    text
}

/// Writes the first `rows` rows of a batch of masked language modelling as a table: position, id, piece, token type, what was put
/// there (the mask token, a random token, or the token that was there, kept), and the target with its piece. A row's first line
/// has its sentence label, if there is one; of its padding only the length is shown.
pub fn render_masked(batch: &MaskedBatch, tokenizer: &Tokenizer, rows: usize) -> String {
    let mask = tokenizer.special_id(SpecialToken::Mask).ok().map(|id| id as i32);
    let mut text = String::new();
    for row in 0..batch.batch.min(rows) {
        let length = batch.lengths[row] as usize;
        let range = row * batch.seq_len..row * batch.seq_len + length;
        let (input_ids, targets) = (&batch.input_ids[range.clone()], &batch.targets[range.clone()]);
        let types = &batch.token_type_ids[range];
        let counted = targets.iter().filter(|&&target| target != IGNORE_TARGET).count();
        let label = match batch.sentence_labels.as_ref().map(|labels| labels[row]) {
            Some(0) => ", sentence label 0 (B follows A)",
            Some(_) => ", sentence label 1 (B does not follow A)",
            None => "",
        };
        let _ = writeln!(
            text,
            "row {row}, example {}: {length} tokens, {} of padding, {counted} targets{label}",
            batch.examples[row],
            batch.seq_len - length
        );
        write_table(&mut text, tokenizer, input_ids, targets, "type  put   ", |position| {
            let put = match targets[position] {
                IGNORE_TARGET => "",
                _ if Some(input_ids[position]) == mask => "mask",
                target if target == input_ids[position] => "kept",
                _ => "random",
            };
            format!("{:>4}  {put:<6}", types[position])
        });
    }
    text
}

/// Writes the first `rows` rows of a labelled batch as tables: position, id, piece and token type; the label stands in the head line.
pub fn render_labelled(batch: &LabelledBatch, tokenizer: &Tokenizer, kind: &LabelKind, rows: usize) -> String {
    let mut text = String::new();
    for row in 0..batch.batch.min(rows) {
        let (start, length) = (row * batch.seq_len, batch.lengths[row] as usize);
        let label = match (&batch.labels, kind) {
            (Labels::Classes(classes), LabelKind::Classes(names)) => {
                usize::try_from(classes[row]).ok().and_then(|class| names.get(class).cloned())
            }
            (Labels::Scores(scores), _) if !scores[row].is_nan() => Some(scores[row].to_string()),
            _ => None,
        };
        let label = label.map_or_else(|| "no label".to_owned(), |label| format!("label {label}"));
        let filling = batch.seq_len - length;
        // Writing to a String can't fail.
        let _ = writeln!(
            text,
            "row {row}, example {}: {length} tokens and {filling} of padding, {label}",
            batch.examples[row]
        );
        let pieces: Vec<String> =
            batch.input_ids[start..start + length].iter().map(|&id| piece(tokenizer, id)).collect();
        let width = pieces.iter().map(|piece| piece.chars().count()).max().unwrap_or(0).max("piece".len());
        let _ = writeln!(text, "{:>5} {:>7}  {:<width$}  type", "pos", "id", "piece");
        for (position, piece) in pieces.iter().enumerate() {
            let (id, type_id) = (batch.input_ids[start + position], batch.token_type_ids[start + position]);
            let _ = writeln!(text, "{position:>5} {id:>7}  {piece:<width$}  {type_id:>4}");
        }
    }
    text
}

/// Writes the first `rows` rows of a batch of sources and targets as a table, the encoder's side on the left, the decoder's on the
/// right: position, id and piece of the source; id and piece that the decoder reads, and those that it has to write next. Of the
/// padding only the length is shown.
pub fn render_seq2seq(batch: &Seq2SeqBatch, tokenizer: &Tokenizer, rows: usize) -> String {
    render_translation(batch, tokenizer, tokenizer, rows)
}

/// As [`render_seq2seq`], where sources and targets have a tokenizer each.
pub fn render_translation(batch: &Seq2SeqBatch, source: &Tokenizer, target: &Tokenizer, rows: usize) -> String {
    let (source_tokenizer, target_tokenizer) = (source, target);
    let mut text = String::new();
    for row in 0..batch.batch.min(rows) {
        let source = &batch.input_ids[row * batch.source_len..][..batch.lengths[row] as usize];
        let side = row * batch.target_len..(row + 1) * batch.target_len;
        let pairs = batch.decoder_input_ids[side.clone()].iter().zip(&batch.targets[side]);
        let (reads, writes): (Vec<i32>, Vec<i32>) = pairs.filter(|(_, target)| **target != IGNORE_TARGET).unzip();
        let _ = writeln!(
            text,
            "row {row}, example {}: {} tokens of source, {} of padding; {} targets, {} of padding",
            batch.examples[row],
            source.len(),
            batch.source_len - source.len(),
            writes.len(),
            batch.target_len - writes.len()
        );
        let [source, reads, writes] = [
            column(source_tokenizer, source, "source"),
            column(target_tokenizer, &reads, "decoder reads"),
            column(target_tokenizer, &writes, "writes"),
        ];
        for line in 0..source.len().max(writes.len()) {
            let position = if line == 0 { "pos".to_owned() } else { (line - 1).to_string() };
            // A column is as wide as its first cell.
            let cell =
                |column: &[String]| column.get(line).cloned().unwrap_or_else(|| " ".repeat(column[0].chars().count()));
            let arrow = if line < writes.len() { "->" } else { "" };
            let line = format!("{position:>5} {} | {} {arrow} {}", cell(&source), cell(&reads), cell(&writes));
            let _ = writeln!(text, "{}", line.trim_end());
        }
    }
    text
}

/// A heading, and below it each id with its piece; all as wide as the widest.
fn column(tokenizer: &Tokenizer, ids: &[i32], heading: &str) -> Vec<String> {
    let mut cells = vec![format!("{:>7}  {heading}", "id")];
    cells.extend(ids.iter().map(|&id| format!("{id:>7}  {}", piece(tokenizer, id))));
    let width = cells.iter().map(|cell| cell.chars().count()).max().unwrap_or(0);
    cells.into_iter().map(|cell| format!("{cell:<width$}")).collect()
}

/// Writes the table of one row, with a column (or several) of its own between the piece and the target: its heading, and what stands
/// there for each position.
fn write_table(
    text: &mut String,
    tokenizer: &Tokenizer,
    input_ids: &[i32],
    targets: &[i32],
    heading: &str,
    cell: impl Fn(usize) -> String,
) {
    let pieces: Vec<String> = input_ids.iter().map(|&id| piece(tokenizer, id)).collect();
    let width = pieces.iter().map(|piece| piece.chars().count()).max().unwrap_or(0).max("piece".len());
    let column = heading.len();
    let _ = writeln!(text, "{:>5} {:>7}  {:<width$}  {heading}  {:>7}  piece", "pos", "id", "piece", "target");
    for (position, (id, target)) in input_ids.iter().zip(targets).enumerate() {
        let target_piece = if *target == IGNORE_TARGET { String::new() } else { piece(tokenizer, *target) };
        let cell = cell(position);
        let line = format!(
            "{position:>5} {id:>7}  {:<width$}  {cell:>column$}  {target:>7}  {target_piece}",
            pieces[position]
        );
        let _ = writeln!(text, "{}", line.trim_end());
    }
}

/// The text of a token in quotes; its name in the vocabulary where it is no text by itself (a part of a character).
fn piece(tokenizer: &Tokenizer, id: i32) -> String {
    let id = id as u32;
    // SentencePiece's spaces; decoded by itself, a piece would lose the one that it begins with.
    if let Some(name) = tokenizer.id_to_token(id).filter(|name| name.starts_with('▁')) {
        return format!("{:?}", name.replace('▁', " "));
    }
    match tokenizer.decode(&[id], false) {
        Ok(text) if !text.is_empty() && !text.contains(char::REPLACEMENT_CHARACTER) => format!("{text:?}"),
        _ => tokenizer.id_to_token(id).unwrap_or_else(|| "(not in the vocabulary)".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::{Blocks, Tail};
    use crate::denoising::Denoising;
    use crate::denoising::tests::{T5, TEXT};
    use crate::denoising_blocks::DenoisingBlocks;
    use crate::masked_batch::MaskedExamples;
    use crate::masked_blocks::MaskedBlocks;
    use crate::masking::{Masking, MaskingConfig};
    use crate::sentence_pairs::{PairKind, SentencePairs};
    use crate::seq2seq_batch::Fill;
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

    /// Documents, their WordPiece tokenizer, and a masking that shows words as a whole and every kind of replacement.
    fn masked_text() -> (tempfile::TempDir, std::sync::Arc<TokenStore>, Tokenizer, Masking) {
        let source =
            memory(&["The lowest of the low came lower and lower.", "Newer news is never the newest news, they say."]);
        let config = TokenizerConfig { kind: TokenizerKind::Wordpiece, vocab_size: 60, ..TokenizerConfig::default() };
        let tokenizer = Tokenizer::train(&config, &source).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let store = TokenStore::build_or_open(&source, &tokenizer, dir.path(), &StoreOptions::default()).unwrap();
        let config = MaskingConfig { rate: 0.3, mask_share: 0.5, random_share: 0.25, whole_words: true };
        let masking = Masking::new(config, &tokenizer, 1).unwrap();
        (dir, store.into(), tokenizer, masking)
    }

    #[test]
    fn a_masked_batch_shows_what_was_put() {
        let (_dir, store, tokenizer, masking) = masked_text();
        let blocks = MaskedBlocks::new(store, masking, 24, Tail::Pad).unwrap();
        let last = blocks.example_count() - 1;
        insta::assert_snapshot!(render_masked(&blocks.batch(&[0, last], Some(0)), &tokenizer, 2));
    }

    /// Two blocks of a text, their noise that of `config`.
    fn denoised(config: &str) -> String {
        let (tokenizer, sentinels) = &*T5;
        let dir = tempfile::tempdir().unwrap();
        let store =
            TokenStore::build_or_open(&memory(&[TEXT]), tokenizer, dir.path(), &StoreOptions::default()).unwrap();
        let denoising = Denoising::new(&toml::from_str(config).unwrap(), tokenizer, sentinels.clone(), 3).unwrap();
        let blocks =
            DenoisingBlocks::new(store.into(), denoising, Fill { pad_id: 0, start_id: 0 }, Tail::Drop).unwrap();
        render_seq2seq(&blocks.batch(&[0, 1], Some(0)).unwrap(), tokenizer, 2)
    }

    #[test]
    fn span_corruption_shows_what_was_hidden() {
        insta::assert_snapshot!(denoised("seq_len = 20\nnoise_density = 0.3"));
    }

    #[test]
    fn prefix_language_modelling_shows_where_it_was_split() {
        insta::assert_snapshot!(denoised("kind = \"prefix_lm\"\nseq_len = 16"));
    }

    #[test]
    fn a_mixture_shows_its_modes() {
        insta::assert_snapshot!(denoised("kind = \"ul2\"\nseq_len = 24"));
    }

    #[test]
    fn sentence_pairs_show_their_labels() {
        let (_dir, store, tokenizer, masking) = masked_text();
        let pairs = SentencePairs::new(store, PairKind::NextSentence, masking, 24).unwrap();
        let all: Vec<u64> = (0..pairs.example_count()).collect();
        let batch = pairs.batch(&all, Some(0));
        let labels = batch.sentence_labels.as_ref().unwrap();
        assert!(labels[..2].contains(&0) && labels[..2].contains(&1), "choose a seed that shows both: {labels:?}");
        insta::assert_snapshot!(render_masked(&batch, &tokenizer, 2));
    }
}
