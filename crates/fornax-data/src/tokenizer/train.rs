use std::collections::{BTreeSet, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use ahash::AHashMap;
use compact_str::CompactString;
use rayon::prelude::*;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::byte_level::ByteLevel as ByteLevelProcessor;
use tokenizers::{
    AddedToken, NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
};

use super::subwords::{BERT_SPECIALS, bert_pipeline, byte_level_pipeline};
use super::{END_OF_TEXT, Tokenizer, TokenizerConfig, TokenizerKind, sentinels, table, unigram};
use crate::loader::panic_message;
use crate::{DataError, Source, chunks, progress};

/// Words of a corpus and how often they come, sorted by word.
pub(super) type WordCounts = Vec<(String, u64)>;

/// A pair that comes only once is noise; Hugging Face's own training recipes use the same bound.
const MIN_FREQUENCY: u64 = 2;

/// WordPiece keeps this many different characters, the most frequent, as BERT's training script does.
const WORDPIECE_ALPHABET: usize = 1000;

impl Tokenizer {
    /// Trains a tokenizer on all documents of `source`. The same texts give the same bytes of `tokenizer.json`, on any machine.
    ///
    /// # Errors
    ///
    /// If there is no text, a document can't be read, or `vocab_size` is smaller than the alphabet.
    pub fn train(config: &TokenizerConfig, source: &dyn Source) -> Result<Self, DataError> {
        let failed =
            |reason: String| DataError::TokenizerTraining { kind: config.kind, corpus: source.describe(), reason };
        let end_of_text = config.end_of_text.unwrap_or(config.kind == TokenizerKind::ByteBpe);
        let added: Vec<String> =
            config.extra_tokens.iter().cloned().chain(sentinels::names(config.sentinels)).collect();
        let size = VocabSize { whole: config.vocab_size, added: added.len() };
        tracing::info!("training a {} tokenizer on {}", config.kind, source.describe());
        let pipeline = match config.kind {
            TokenizerKind::Byte => table::bytes(end_of_text),
            TokenizerKind::Char => {
                let characters = collect_characters(source)?;
                if characters.is_empty() {
                    return Err(no_text(source));
                }
                table::characters(&characters, end_of_text)
            }
            kind => {
                let untrained = match kind {
                    TokenizerKind::ByteBpe => byte_level_pipeline(BPE::default()),
                    TokenizerKind::Wordpiece => {
                        bert_pipeline(WordPiece::default(), true).map_err(|e| failed(e.to_string()))?
                    }
                    _ => unigram::pipeline().map_err(|e| failed(e.to_string()))?,
                };
                let words = count_words(&untrained, source)?;
                if words.is_empty() {
                    return Err(no_text(source));
                }
                let spinner = progress::spinner(&format!("training {kind}, {} different words", words.len()));
                let trained = catch_unwind(AssertUnwindSafe(|| match kind {
                    TokenizerKind::ByteBpe => byte_bpe(&words, size, end_of_text),
                    TokenizerKind::Wordpiece => wordpiece(&words, size),
                    _ => unigram::train(words, size, &added, untrained),
                }));
                spinner.finish_and_clear();
                // The trainers of `tokenizers` assert what a strange corpus can break.
                trained.map_err(|payload| failed(panic_message(payload.as_ref())))?
            }
        };
        let with_added = pipeline.and_then(|mut pipeline| {
            pipeline.add_special_tokens(added.into_iter().map(|name| AddedToken::from(name, true)))?;
            Ok(pipeline)
        });
        let pipeline = with_added.map_err(|error| match error.downcast::<DataError>() {
            Ok(error) => *error,
            Err(error) => failed(error.to_string()),
        })?;
        Self::new(pipeline, Path::new("tokenizer.json"))
    }
}

/// The size of a vocabulary to train.
#[derive(Clone, Copy)]
pub(super) struct VocabSize {
    /// All tokens.
    pub(super) whole: usize,
    /// Those behind what is trained.
    pub(super) added: usize,
}

impl VocabSize {
    /// The tokens that are left for a trainer. Refuses a size that has no room for the `minimum` of alphabet and special tokens.
    pub(super) fn trained(self, minimum: usize) -> Result<usize, DataError> {
        let left = self.whole.checked_sub(self.added).filter(|left| *left >= minimum);
        left.ok_or_else(|| DataError::ConfigValue {
            key: "tokenizer.vocab_size",
            value: self.whole.to_string(),
            expected: format!(
                "at least {}, for the alphabet of the text and the special tokens",
                minimum.saturating_add(self.added)
            ),
        })
    }
}

fn no_text(source: &dyn Source) -> DataError {
    DataError::EmptyCorpus { paths: source.describe(), reason: "there is nothing to train a tokenizer on".into() }
}

fn collect_characters(source: &dyn Source) -> Result<BTreeSet<char>, DataError> {
    let bar = progress::bar(source.len() as u64, "collecting characters", "documents");
    let mut all = BTreeSet::new();
    chunks::for_each_chunk(source, &bar, |documents| {
        let found: Vec<BTreeSet<char>> = documents.par_iter().map(|document| document.text.chars().collect()).collect();
        all.extend(found.into_iter().flatten());
        Ok(())
    })?;
    bar.finish_and_clear();
    Ok(all)
}

/// Counts the words that the pipeline's normalizer and pre-tokenizer make of the documents.
fn count_words(pipeline: &tokenizers::Tokenizer, source: &dyn Source) -> Result<WordCounts, DataError> {
    let bar = progress::bar(source.len() as u64, "counting words", "documents");
    let mut total: HashMap<String, u64> = HashMap::new();
    chunks::for_each_chunk(source, &bar, |documents| {
        let pieces: Vec<_> = documents
            .iter()
            .flat_map(|it| chunks::pieces(&it.text).into_iter().map(|piece| (&it.name, piece)))
            .collect();
        let counted = pieces
            .into_par_iter()
            .map(|(name, piece)| {
                words_of(pipeline, piece)
                    .map_err(|error| DataError::Encode { document: name.clone(), reason: error.to_string() })
            })
            .try_reduce(HashMap::new, |a, b| Ok(merge(a, b)))?;
        total = merge(std::mem::take(&mut total), counted);
        Ok(())
    })?;
    bar.finish_and_clear();
    let mut words: WordCounts = total.into_iter().collect();
    words.sort_unstable();
    Ok(words)
}

fn words_of(pipeline: &tokenizers::Tokenizer, text: &str) -> tokenizers::Result<HashMap<String, u64>> {
    let mut text = NormalizedString::from(text);
    if let Some(normalizer) = pipeline.get_normalizer() {
        normalizer.normalize(&mut text)?;
    }
    let mut words = PreTokenizedString::from(text);
    if let Some(pre_tokenizer) = pipeline.get_pre_tokenizer() {
        pre_tokenizer.pre_tokenize(&mut words)?;
    }
    let mut counts = HashMap::new();
    for (word, ..) in words.get_splits(OffsetReferential::Original, OffsetType::None) {
        match counts.get_mut(word) {
            Some(count) => *count += 1,
            None => {
                counts.insert(word.to_owned(), 1);
            }
        }
    }
    Ok(counts)
}

fn merge(a: HashMap<String, u64>, b: HashMap<String, u64>) -> HashMap<String, u64> {
    let (mut large, small) = if a.len() < b.len() { (b, a) } else { (a, b) };
    for (word, count) in small {
        *large.entry(word).or_default() += count;
    }
    large
}

fn byte_bpe(words: &WordCounts, size: VocabSize, end_of_text: bool) -> tokenizers::Result<tokenizers::Tokenizer> {
    let specials: Vec<String> = end_of_text.then(|| END_OF_TEXT.to_owned()).into_iter().collect();
    let alphabet = ByteLevel::alphabet().into_iter().collect();
    let trainer = BpeTrainer::builder().initial_alphabet(alphabet);
    let model = merges(words, size, 256, specials.clone(), trainer.build())?;
    let mut pipeline = byte_level_pipeline(model);
    pipeline.with_post_processor(Some(ByteLevelProcessor::new(true, false, true)));
    pipeline.add_special_tokens(specials.into_iter().map(|token| AddedToken::from(token, true)))?;
    Ok(pipeline)
}

fn wordpiece(words: &WordCounts, size: VocabSize) -> tokenizers::Result<tokenizers::Tokenizer> {
    let mut frequency: HashMap<char, u64> = HashMap::new();
    for (word, count) in words {
        for character in word.chars() {
            *frequency.entry(character).or_default() += count;
        }
    }
    let mut ranked: Vec<(char, u64)> = frequency.into_iter().collect();
    ranked.sort_unstable_by_key(|&(character, count)| (std::cmp::Reverse(count), character));
    let kept: BTreeSet<char> = ranked.into_iter().take(WORDPIECE_ALPHABET).map(|(character, _)| character).collect();
    // A word with any other character is [UNK] whatever the vocabulary.
    let words: WordCounts = words.iter().filter(|(word, _)| word.chars().all(|c| kept.contains(&c))).cloned().collect();

    // The trainer would number the continuing characters in the order of a hash map that is new in each process, and ties between
    // merges go by number: given in order as special tokens, their numbers are settled before it looks at a word.
    let first = kept.iter().map(char::to_string);
    let inner: BTreeSet<char> = words.iter().flat_map(|(word, _)| word.chars().skip(1)).collect();
    let continuing = inner.iter().map(|character| format!("##{character}"));
    let specials: Vec<String> = BERT_SPECIALS.map(str::to_owned).into_iter().chain(first).chain(continuing).collect();
    let trainer = BpeTrainer::builder().continuing_subword_prefix("##".into()).build();
    let model = merges(&words, size, 0, specials, trainer)?;
    bert_pipeline(WordPiece::from_bpe(&model), true)
}

/// Runs the BPE trainer. `alphabet` is the number of tokens that it starts with besides `specials`.
fn merges(
    words: &WordCounts,
    size: VocabSize,
    alphabet: usize,
    specials: Vec<String>,
    mut trainer: BpeTrainer,
) -> tokenizers::Result<BPE> {
    trainer.vocab_size = size.trained(alphabet + specials.len())?;
    trainer.min_frequency = MIN_FREQUENCY;
    trainer.special_tokens = specials.into_iter().map(|token| AddedToken::from(token, true)).collect();
    // Its own bars print empty lines to stdout.
    trainer.show_progress = false;
    let words: AHashMap<CompactString, u64> =
        words.iter().map(|(word, count)| (CompactString::from(word.as_str()), *count)).collect();
    let mut model = BPE::default();
    trainer.do_train(&words, &mut model)?;
    Ok(model)
}
