use std::cmp::Reverse;
use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::DataError;
use crate::masked_batch::{MaskedBatch, MaskedExamples};
use crate::masking::Masking;
use crate::random::{below, keyed};
use crate::store::TokenStore;

/// `[CLS]` before the first sentence, `[SEP]` after each.
const AROUND: usize = 3;
/// With at least this many tokens for the sentences, no way to cut a document leaves a chunk with a single token.
const SHORTEST_BODY: usize = 3;
/// A chunk has two sentences.
const SHORTEST_DOCUMENT: u64 = 2;

/// Keeps the hashes of pairs apart from those of sampling and of masking.
const PAIRS: u64 = 0x7061_6972;
/// What a hash of an example decides.
const CUT: u64 = 0;
const FOLLOWS: u64 = 1;
const DOCUMENT: u64 = 2;
const OFFSET: u64 = 3;

/// What a model has to tell about two sentences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PairKind {
    /// Whether the second follows the first or comes from another document (BERT).
    NextSentence,
    /// Whether two sentences that follow one another are in their order or swapped (ALBERT; Lan et al., 2020).
    SentenceOrder,
}

/// Pairs of sentences for masked language modelling with next sentence prediction: `[CLS] A [SEP] B [SEP]`.
///
/// Each document is cut into as few chunks of at most `seq_len - 3` tokens as can be, of equal length up to one token, and a chunk is
/// an example: every token of a document of two tokens or more is in one chunk exactly. Shorter documents are skipped, not merged with
/// their neighbours, since a pair that crosses the border of two documents would not follow.
///
/// A chunk is cut in two before a random token, moved on to the next that begins a word if there is one in the chunk (BERT's
/// "sentences" are spans of text too); a span of another document begins in the same way. Half of the examples, on average, are labelled
/// 0: B follows A. The others are labelled 1: for [`PairKind::SentenceOrder`], A and B are swapped; for [`PairKind::NextSentence`], B is
/// a random span of another document, which is drawn from all that are as long as the chunk's second part, so that lengths give nothing
/// away; only where no other is so long, B is the longest other document as a whole. Cut, label and span are functions of
/// (seed, epoch, example), with the seed of the masking.
#[derive(Clone, Debug)]
pub struct SentencePairs {
    store: Arc<TokenStore>,
    kind: PairKind,
    masking: Masking,
    seq_len: usize,
    /// For each document the number of its first chunk, and at the end the number of all chunks. Eight bytes a document.
    first_chunks: Vec<u64>,
    /// The documents with chunks, longest first, if other documents are drawn. Eight bytes a document.
    by_length: Vec<u64>,
}

/// The tokens of an example in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pair {
    first: Range<u64>,
    second: Range<u64>,
    label: i32,
}

impl SentencePairs {
    /// Pairs out of the documents of `store`, whose offsets it goes through once.
    ///
    /// # Errors
    ///
    /// If `seq_len` is below 6, or there are too few documents of two tokens or more: one, or two for [`PairKind::NextSentence`].
    pub fn new(store: Arc<TokenStore>, kind: PairKind, masking: Masking, seq_len: usize) -> Result<Self, DataError> {
        if seq_len < AROUND + SHORTEST_BODY {
            return Err(DataError::ConfigValue {
                key: "objective.seq_len",
                value: seq_len.to_string(),
                expected: format!("at least {} for sentence pairs", AROUND + SHORTEST_BODY),
            });
        }
        let body = (seq_len - AROUND) as u64;
        let count = store.document_count();
        let mut pairs = Self { store, kind, masking, seq_len, first_chunks: vec![0], by_length: Vec::new() };
        let (mut chunks, mut usable) = (0, 0);
        for document in 0..count {
            let length = pairs.document_len(document);
            if length >= SHORTEST_DOCUMENT {
                chunks += length.div_ceil(body);
                usable += 1;
            }
            pairs.first_chunks.push(chunks);
        }
        let needed = match kind {
            PairKind::NextSentence => 2,
            PairKind::SentenceOrder => 1,
        };
        if usable < needed {
            let corpus = pairs.store.manifest().source.clone();
            return Err(DataError::TooFewDocuments { corpus, documents: usable, shortest: SHORTEST_DOCUMENT, needed });
        }
        if kind == PairKind::NextSentence {
            let mut order: Vec<u64> = (0..count).filter(|&it| pairs.document_len(it) >= SHORTEST_DOCUMENT).collect();
            order.sort_by_key(|&document| Reverse(pairs.document_len(document)));
            pairs.by_length = order;
        }
        Ok(pairs)
    }

    /// Where a document's tokens lie, its separator left out.
    fn document(&self, document: u64) -> Range<u64> {
        let range = self.store.document(document);
        let separators = u64::from(self.store.manifest().separator.is_some() && !range.is_empty());
        range.start..range.end - separators
    }

    fn document_len(&self, document: u64) -> u64 {
        let range = self.document(document);
        range.end - range.start
    }

    /// The document of a chunk and where the chunk lies.
    fn chunk(&self, example: u64) -> (u64, Range<u64>) {
        assert!(example < self.example_count(), "chunk {example} of {}", self.example_count());
        // Skipped documents have the number of the next one's first chunk: the last of equal numbers is the chunk's.
        let document = self.first_chunks.partition_point(|&first| first <= example) - 1;
        let number = example - self.first_chunks[document];
        let chunks = self.first_chunks[document + 1] - self.first_chunks[document];
        let text = self.document(document as u64);
        let (length, longer) = ((text.end - text.start) / chunks, (text.end - text.start) % chunks);
        let start = |number: u64| text.start + number * length + number.min(longer);
        (document as u64, start(number)..start(number + 1))
    }

    fn pair(&self, example: u64, epoch: Option<u64>) -> Pair {
        let key = keyed(&[self.masking.seed(), PAIRS, epoch.unwrap_or(u64::MAX), example]);
        let (document, chunk) = self.chunk(example);
        let cut = chunk.start + 1 + below(keyed(&[key, CUT]), chunk.end - chunk.start - 1);
        let cut = self.word_start(cut, chunk.end);
        let (first, second) = (chunk.start..cut, cut..chunk.end);
        if below(keyed(&[key, FOLLOWS]), 2) == 0 {
            return Pair { first, second, label: 0 };
        }
        match self.kind {
            PairKind::SentenceOrder => Pair { first: second, second: first, label: 1 },
            PairKind::NextSentence => {
                let second = self.elsewhere(key, document, second.end - second.start);
                Pair { first, second, label: 1 }
            }
        }
    }

    /// A span of `wanted` tokens in another document than `own`, which has at least as many.
    fn elsewhere(&self, key: u64, own: u64, wanted: u64) -> Range<u64> {
        let long_enough = self.by_length.partition_point(|&document| self.document_len(document) >= wanted);
        let other = if long_enough > 1 {
            // All of them but the last; the last stands in for `own`, so that each of the others is as likely.
            let drawn = self.by_length[below(keyed(&[key, DOCUMENT]), long_enough as u64 - 1) as usize];
            if drawn == own { self.by_length[long_enough - 1] } else { drawn }
        } else {
            // `own` is the longest; there is a second one.
            self.by_length[1]
        };
        let text = self.document(other);
        let length = wanted.min(text.end - text.start);
        let last = text.end - length;
        let start = self.word_start(text.start + below(keyed(&[key, OFFSET]), last - text.start + 1), last + 1);
        start..start + length
    }

    /// The first place from `at` on and before `end` whose token begins a word; `at` if there is none.
    fn word_start(&self, at: u64, end: u64) -> u64 {
        let mut id = [0];
        let begins = |place: &u64| {
            self.store.read(*place, &mut id);
            !self.masking.continues_word(id[0])
        };
        (at..end).find(begins).unwrap_or(at)
    }
}

impl MaskedExamples for SentencePairs {
    fn example_count(&self) -> u64 {
        self.first_chunks.last().copied().unwrap_or(0)
    }

    fn batch(&self, examples: &[u64], epoch: Option<u64>) -> MaskedBatch {
        let mut batch = MaskedBatch::empty(self.seq_len);
        let mut labels = Vec::with_capacity(examples.len());
        for &example in examples {
            let Pair { first, second, label } = self.pair(example, epoch);
            let (a, b) = ((first.end - first.start) as usize, (second.end - second.start) as usize);
            let mut ids = vec![self.masking.sep_id(); a + b + AROUND];
            ids[0] = self.masking.cls_id();
            self.store.read(first.start, &mut ids[1..1 + a]);
            self.store.read(second.start, &mut ids[2 + a..2 + a + b]);
            batch.push(ids, 2 + a, &self.masking, epoch, example);
            labels.push(label);
        }
        batch.sentence_labels = Some(labels);
        batch
    }
}

#[cfg(test)]
mod tests;
