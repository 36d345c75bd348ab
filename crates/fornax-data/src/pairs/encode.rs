use std::borrow::Cow;

use rayon::prelude::*;

use super::text_pairs::{TextPair, TextPairs};
use crate::{DataError, Fill, Seq2SeqBatch, Tokenizer, progress};

/// Pairs that one thread takes at a time.
const CHUNK: usize = 512;

/// Makes token ids of pairs. Sources and targets may have tokenizers of their own.
#[derive(Clone, Copy, Debug)]
pub struct PairEncoder<'a> {
    /// Of the sources.
    pub source: &'a Tokenizer,
    /// Of the targets.
    pub target: &'a Tokenizer,
    /// Whether both sides are lower-cased first.
    pub lowercase: bool,
    /// Tokens of a source at most, its end included.
    pub max_source_len: usize,
    /// Tokens of a target at most, its end included.
    pub max_target_len: usize,
    /// The tokens of a batch that are no text of it.
    pub fill: Fill,
}

/// Pairs as token ids, in memory: four bytes a token.
#[derive(Clone, Debug)]
pub struct PairSet {
    sources: TokenRows,
    targets: TokenRows,
    truncated: Truncated,
    fill: Fill,
}

/// How many texts were cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Truncated {
    /// Sources longer than `max_source_len`.
    pub sources: usize,
    /// Targets longer than `max_target_len`.
    pub targets: usize,
}

/// Lists of ids, one behind the other.
#[derive(Clone, Debug)]
struct TokenRows {
    ids: Vec<u32>,
    /// Where each row begins, and where the last one ends.
    offsets: Vec<usize>,
}

/// One side of a pair.
struct Side {
    ids: Vec<u32>,
    truncated: bool,
}

impl PairEncoder<'_> {
    /// Tokenises all pairs, in parallel: each text's tokens, then the one that ends a text. What is too long is cut on the right
    /// before its end; the log says how many were.
    ///
    /// # Errors
    ///
    /// A length below 2, a tokenizer without a token that ends a text, or a text that can't be tokenised.
    pub fn encode(&self, texts: &TextPairs) -> Result<PairSet, DataError> {
        for (key, value) in [("data.max_source_len", self.max_source_len), ("data.max_target_len", self.max_target_len)]
        {
            if value < 2 {
                let expected = "at least 2: a token and the end".into();
                return Err(DataError::ConfigValue { key, value: value.to_string(), expected });
            }
        }
        let end = |tokenizer: &Tokenizer| tokenizer.end_of_text_id().ok_or(DataError::NoSeparator);
        let (source_end, target_end) = (end(self.source)?, end(self.target)?);
        let pairs = texts.pairs();
        let bar = progress::bar(pairs.len() as u64, &format!("tokenising {}", texts.name()), "pairs");
        let encode = |(number, pair): (usize, &TextPair)| {
            let named = |error: DataError| error.in_document(&format!("{}, pair {number}", texts.name()));
            let source =
                side(self.source, &self.cased(&pair.source), self.max_source_len, source_end).map_err(named)?;
            let target =
                side(self.target, &self.cased(&pair.target), self.max_target_len, target_end).map_err(named)?;
            Ok((source, target))
        };
        let chunks: Vec<Result<Vec<(Side, Side)>, DataError>> = pairs
            .par_chunks(CHUNK)
            .enumerate()
            .map(|(chunk, pairs)| {
                let encoded = (chunk * CHUNK..).zip(pairs).map(encode).collect();
                bar.inc(pairs.len() as u64);
                encoded
            })
            .collect();
        bar.finish_and_clear();
        let mut set = PairSet::empty(self.fill);
        // The error is that of the first pair, not of the first thread.
        for chunk in chunks {
            for (source, target) in chunk? {
                set.truncated.sources += usize::from(source.truncated);
                set.truncated.targets += usize::from(target.truncated);
                set.sources.push(&source.ids);
                set.targets.push(&target.ids);
            }
        }
        self.log(texts, &set);
        Ok(set)
    }

    fn cased<'t>(&self, text: &'t str) -> Cow<'t, str> {
        if self.lowercase { text.to_lowercase().into() } else { text.into() }
    }

    fn log(&self, texts: &TextPairs, set: &PairSet) {
        let Truncated { sources, targets } = set.truncated;
        for (cut, side, most) in [(sources, "source", self.max_source_len), (targets, "target", self.max_target_len)] {
            if cut > 0 {
                let (name, all) = (texts.name(), set.len());
                tracing::warn!("{name}: {cut} of {all} {side}s were cut to data.max_{side}_len = {most} tokens");
            }
        }
    }
}

fn side(tokenizer: &Tokenizer, text: &str, max_len: usize, end: u32) -> Result<Side, DataError> {
    let mut ids = tokenizer.encode(text)?;
    let truncated = ids.len() >= max_len;
    ids.truncate(max_len - 1);
    ids.push(end);
    Ok(Side { ids, truncated })
}

impl PairSet {
    /// A set without pairs.
    pub(crate) fn empty(fill: Fill) -> Self {
        Self { sources: TokenRows::empty(), targets: TokenRows::empty(), truncated: Truncated::default(), fill }
    }

    /// Puts the pairs of another set behind those of this one.
    pub(crate) fn append(&mut self, other: &Self) {
        self.sources.append(&other.sources);
        self.targets.append(&other.targets);
        self.truncated.sources += other.truncated.sources;
        self.truncated.targets += other.truncated.targets;
    }

    /// The number of pairs.
    pub fn len(&self) -> usize {
        self.targets.len()
    }

    /// Whether there is no pair.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The tokens of the source and of the target of each pair, ends included.
    pub fn lengths(&self) -> Vec<(u32, u32)> {
        (0..self.len()).map(|pair| (self.sources.row(pair).len() as u32, self.targets.row(pair).len() as u32)).collect()
    }

    /// The tokens of a source, its end included.
    ///
    /// # Panics
    ///
    /// If there is no such pair.
    pub(crate) fn source(&self, example: u64) -> &[u32] {
        self.sources.row(example as usize)
    }

    /// The tokens of a target, its end included.
    ///
    /// # Panics
    ///
    /// If there is no such pair.
    pub(crate) fn target(&self, example: u64) -> &[u32] {
        self.targets.row(example as usize)
    }

    /// The tokens of all sources and of all targets.
    pub fn tokens(&self) -> (usize, usize) {
        (self.sources.ids.len(), self.targets.ids.len())
    }

    /// How many texts were cut.
    pub fn truncated(&self) -> Truncated {
        self.truncated
    }

    /// These pairs as one batch, each side filled up to its longest.
    ///
    /// # Panics
    ///
    /// If there is no such pair.
    pub fn batch(&self, examples: &[u64]) -> Seq2SeqBatch {
        let signed = |ids: &[u32]| ids.iter().map(|&id| id as i32).collect();
        let pair = |&example: &u64| (signed(self.source(example)), signed(self.target(example)));
        let pairs: Vec<(Vec<i32>, Vec<i32>)> = examples.iter().map(pair).collect();
        Seq2SeqBatch::collate(&pairs, examples.to_vec(), self.fill)
    }
}

impl TokenRows {
    fn empty() -> Self {
        Self { ids: Vec::new(), offsets: vec![0] }
    }

    fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    fn row(&self, number: usize) -> &[u32] {
        &self.ids[self.offsets[number]..self.offsets[number + 1]]
    }

    fn push(&mut self, ids: &[u32]) {
        self.ids.extend(ids);
        self.offsets.push(self.ids.len());
    }

    fn append(&mut self, other: &Self) {
        let start = self.ids.len();
        self.ids.extend(&other.ids);
        self.offsets.extend(other.offsets[1..].iter().map(|offset| start + offset));
    }
}
