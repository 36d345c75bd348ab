//! Training of Unigram tokenizers (Kudo, 2018) so that it gives the same result each time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};

use tokenizers::AddedToken;
use tokenizers::models::unigram::{Unigram, UnigramTrainer};
use tokenizers::normalizers::{NFKC, Nmt, Sequence};
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::whitespace::WhitespaceSplit;
use tokenizers::processors::template::TemplateProcessing;

use super::train::{VocabSize, WordCounts};
use crate::CAUGHT;
use crate::loader::panic_message;

/// T5's special tokens, in the order of their ids.
const SPECIALS: [&str; 3] = ["<pad>", "</s>", "<unk>"];
const UNKNOWN: &str = "<unk>";
/// A piece of the trainer while it trains.
const TRAINERS_UNKNOWN: &str = "<UNK>";
/// The trainer gives characters that its model lacks the lowest score plus a multiple of this.
const PENALTY_STEP: f64 = 0.0001;
/// How many orders of the words are tried.
const ROTATIONS: usize = 8;

/// SentencePiece's sign for a space.
pub(super) const SPACE: char = '▁';

/// Words without the white space around them, each begun by the sign for a space, and what makes text of them again.
pub(super) fn words() -> (PreTokenizers, Metaspace) {
    let metaspace = Metaspace::new(SPACE, PrependScheme::Always, true);
    (PreTokenizers::new(vec![WhitespaceSplit.into(), metaspace.clone().into()]), metaspace)
}

/// SentencePiece's conventions: compatibility forms folded, words begun by U+2581.
pub(super) fn pipeline() -> tokenizers::Result<tokenizers::Tokenizer> {
    let (words, metaspace) = words();
    let template = TemplateProcessing::builder()
        .try_single("$A </s>")?
        .try_pair("$A </s> $B </s>")?
        .special_tokens(vec![("</s>", 1)])
        .build()?;
    let mut pipeline = tokenizers::Tokenizer::new(Unigram::default());
    pipeline.with_normalizer(Some(Sequence::new(vec![Nmt.into(), NFKC.into()])))?;
    pipeline.with_pre_tokenizer(Some(words)).with_decoder(Some(metaspace)).with_post_processor(Some(template));
    Ok(pipeline)
}

/// Trains on sorted `words` and puts the model into `pipeline`, with the tokens `added` behind all others.
pub(super) fn train(
    words: WordCounts,
    size: VocabSize,
    added: &[String],
    mut pipeline: tokenizers::Tokenizer,
) -> tokenizers::Result<tokenizers::Tokenizer> {
    let characters: BTreeSet<char> = words.iter().flat_map(|(word, _)| word.chars()).collect();
    let vocab_size = size.trained(characters.len() + SPECIALS.len())?;
    let specials: Vec<AddedToken> = SPECIALS.map(|token| AddedToken::from(token, true)).into();
    let trainer = UnigramTrainer::builder()
        .show_progress(false) // its own bars print empty lines to stdout
        .vocab_size(vocab_size.try_into()?)
        .special_tokens(specials.clone())
        .unk_token(Some(UNKNOWN.into()))
        .build()?;
    pipeline.with_model(in_fixed_order(&run(&trainer, trainable(words))?, added)?);
    pipeline.add_special_tokens(specials)?;
    Ok(pipeline)
}

/// The words without the trainer's own name for what it doesn't know, which has no number for a score: they are cut in it.
fn trainable(words: WordCounts) -> Vec<(String, u32)> {
    let mut cut: BTreeMap<String, u64> = BTreeMap::new();
    for (word, count) in words {
        for part in word.replace(TRAINERS_UNKNOWN, "<UN\0K>").split('\0').filter(|part| !part.is_empty()) {
            *cut.entry(part.to_owned()).or_default() += count;
        }
    }
    cut.into_iter().map(|(word, count)| (word, u32::try_from(count).unwrap_or(u32::MAX))).collect()
}

/// Runs the trainer on the words in their order, or if that fails on the words rotated.
///
/// Its suffix array (`esaxx-rs` 0.1.10 in Rust) overlooks a repetition that reaches up to the last but one symbol of the text or of one
/// of its reductions, and then indexes out of bounds. Another last word is a way around it, and the same one each time.
fn run(trainer: &UnigramTrainer, mut words: Vec<(String, u32)>) -> tokenizers::Result<Unigram> {
    // The trainer adds up floating-point counts in as many parts as there are threads: one thread, one result on every machine.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).thread_name(|_| CAUGHT.into()).build()?;
    let mut failure = String::new();
    for _ in 0..ROTATIONS {
        let mut model = Unigram::default();
        let attempt = || pool.install(|| trainer.do_train(words.clone(), &mut model));
        match catch_unwind(AssertUnwindSafe(attempt)) {
            Ok(result) => return result.map(|_| model),
            Err(payload) => failure = panic_message(payload.as_ref()),
        }
        tracing::debug!("the Unigram trainer failed ({failure}); trying the words in another order");
        let step = words.len().div_ceil(ROTATIONS).min(words.len());
        words.rotate_left(step);
    }
    Err(failure.into())
}

/// Undoes what the trainer leaves to the order of a hash map: which of the characters that its model lacks gets which of the lowest
/// scores, and the order of equal scores. Behind them come the tokens `added`, as the sentinels in the model of
/// T5's own `tokenizer.json`.
fn in_fixed_order(model: &Unigram, added: &[String]) -> tokenizers::Result<Unigram> {
    let (specials, mut pieces): (Vec<_>, Vec<_>) =
        model.iter().cloned().partition(|(token, _)| SPECIALS.contains(&token.as_str()));
    let lowest = pieces.iter().map(|(_, score)| *score).fold(f64::INFINITY, f64::min);
    // The same additions as the trainer's, so that the scores are equal to the last bit.
    let mut penalty = 0.0;
    let penalties: HashMap<u64, f64> = (0..pieces.len())
        .map(|_| {
            let score: f64 = lowest + penalty;
            penalty += PENALTY_STEP;
            (score.to_bits(), score)
        })
        .collect();
    let lacking =
        |(token, score): &(String, f64)| token.chars().count() == 1 && penalties.contains_key(&score.to_bits());
    let mut characters: Vec<String> =
        pieces.iter().filter(|piece| lacking(piece)).map(|(token, _)| token.clone()).collect();
    let mut scores: Vec<f64> = pieces.iter().filter(|piece| lacking(piece)).map(|(_, score)| *score).collect();
    characters.sort_unstable();
    scores.sort_unstable_by(|a, b| b.total_cmp(a));
    pieces.retain(|piece| !lacking(piece));
    pieces.extend(characters.into_iter().zip(scores));
    pieces.sort_unstable_by(|(a, a_score), (b, b_score)| b_score.total_cmp(a_score).then_with(|| a.cmp(b)));
    let unknown = specials.iter().position(|(token, _)| token == UNKNOWN);
    // Their score plays no part: as special tokens they are taken out of a text before the model sees it.
    let added_pieces = added.iter().map(|name| (name.clone(), 0.0));
    pieces.retain(|(piece, _)| !added.contains(piece));
    Unigram::from(specials.into_iter().chain(pieces).chain(added_pieces).collect(), unknown, false)
}
