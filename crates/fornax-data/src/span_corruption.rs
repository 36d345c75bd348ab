//! Span corruption (Raffel et al., 2020): runs of tokens are hidden behind sentinels, and the target says what stood there.

use std::ops::Range;

use crate::DataError;
use crate::random::{below, keyed};

/// What a key decides.
const HIDDEN: u64 = 0;
const SHOWN: u64 = 1;
const ROLL: u64 = 2;

pub(crate) const NOISE_DENSITY: &str = "objective.noise_density";
pub(crate) const MEAN_SPAN_LENGTH: &str = "objective.mean_span_length";

/// More hidden than this leaves nothing to learn from, and blocks grow beyond all bounds.
const MOST_HIDDEN: f64 = 0.9;

/// How much of a block is hidden, and in spans of which length.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NoiseSpans {
    noise_density: f64,
    mean_span_length: f64,
}

/// A block of text and what span corruption makes of it, in tokens. The same for every block of a length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CorruptedLengths {
    /// Tokens of text.
    pub block: usize,
    /// Tokens that the encoder reads: those that are shown, a sentinel for each span, and the token that ends a text.
    pub source: usize,
    /// Tokens to be written: a sentinel before each hidden span, the span, and the token that ends a text.
    pub target: usize,
}

impl NoiseSpans {
    /// Hides the share `noise_density` of tokens in spans of `mean_span_length` tokens on average.
    ///
    /// # Errors
    ///
    /// [`DataError::ConfigValue`] with the key under `objective`, if the share is not above 0 or above 0.9, or spans are shorter than a
    /// token or more than the tokens that are shown.
    pub fn new(noise_density: f64, mean_span_length: f64) -> Result<Self, DataError> {
        let refuse =
            |key, value: f64, expected| Err(DataError::ConfigValue { key, value: value.to_string(), expected });
        // Not the other way round: NaN is in no range.
        if !(noise_density > 0.0 && noise_density <= MOST_HIDDEN) {
            return refuse(NOISE_DENSITY, noise_density, format!("a share above 0 and up to {MOST_HIDDEN}"));
        }
        // A span has a token, and a token that is shown before it. Room for what decimal fractions round.
        let shortest = (noise_density / (1.0 - noise_density) - 1e-9).max(1.0);
        if !(mean_span_length >= shortest && mean_span_length.is_finite()) {
            let rounded_up = (shortest * 100.0).ceil() / 100.0;
            let expected = format!("at least {rounded_up} at a noise density of {noise_density}");
            return refuse(MEAN_SPAN_LENGTH, mean_span_length, expected);
        }
        Ok(Self { noise_density, mean_span_length })
    }

    /// How many tokens of a block are hidden and in how many spans: rounded half to even as in the reference (`random_spans_noise_mask`
    /// of T5's `preprocessors.py`), at least one token and one span, and at least one token shown before each span. A block of less
    /// than two tokens has none.
    pub fn counts(self, block: usize) -> (usize, usize) {
        if block < 2 {
            return (0, 0);
        }
        let hidden = (block as f64 * self.noise_density).round_ties_even() as usize;
        let hidden = hidden.clamp(1, block - 1);
        let spans = (hidden as f64 / self.mean_span_length).round_ties_even() as usize;
        (hidden, spans.clamp(1, hidden.min(block - hidden)))
    }

    /// What becomes of a block of `block` tokens.
    pub fn lengths(self, block: usize) -> CorruptedLengths {
        let (hidden, spans) = self.counts(block);
        CorruptedLengths { block, source: block - hidden + spans + 1, target: hidden + spans + 1 }
    }

    /// The longest block that makes a source of at most `source_len` tokens, as the reference's `random_spans_helper` finds it;
    /// nothing if two tokens are too many.
    ///
    /// The source has `source_len` tokens exactly, as long as there are fewer spans than shown tokens; nothing is padded then. At a
    /// density of one half the block is shorter by one token where that makes the target no longer than the source, which keeps its
    /// length.
    pub fn longest_block(self, source_len: usize) -> Option<CorruptedLengths> {
        let fits = |lengths: &CorruptedLengths| lengths.source <= source_len;
        let longest = (2..).map(|block| self.lengths(block)).take_while(fits).last()?;
        let shorter = self.lengths(longest.block - 1);
        let even = self.noise_density == 0.5 && longest.target > longest.source && shorter.source == longest.source;
        Some(if even { shorter } else { longest })
    }

    /// Hides tokens: the spans, in order. Hidden and shown tokens are each cut into as many pieces as there are spans, every way of
    /// cutting being as likely, and alternate, beginning with shown ones. So a block ends with a hidden span, and a single span is its
    /// end, as in T5's reference (without `random_roll`).
    pub(crate) fn draw(self, block: usize, key: u64) -> Vec<Range<usize>> {
        let (hidden, spans) = self.counts(block);
        let shown = segments(block - hidden, spans, keyed(&[key, SHOWN]));
        let hidden = segments(hidden, spans, keyed(&[key, HIDDEN]));
        let mut end = 0;
        let place = |(shown, hidden)| {
            let start = end + shown;
            end = start + hidden;
            start..end
        };
        shown.into_iter().zip(hidden).map(place).collect()
    }

    /// As [`draw`](Self::draw), then moved on around the block, as with the reference's `random_roll`: by any number of tokens that
    /// leaves each span in one piece, all as likely. So a single span is anywhere, and spans are as many and as long as without.
    pub(crate) fn draw_rolled(self, block: usize, key: u64) -> Vec<Range<usize>> {
        let mut spans = self.draw(block, key);
        let hidden: usize = spans.iter().map(Range::len).sum();
        // The new beginning: in front of a shown token or of a whole span.
        let mut begin = below(keyed(&[key, ROLL]), (block - hidden + spans.len()) as u64) as usize;
        let (mut first, mut shown_from) = (0, 0);
        for span in &spans {
            let shown = span.start - shown_from;
            if begin <= shown {
                break;
            }
            begin -= shown + 1;
            first += 1;
            shown_from = span.end;
        }
        let moved = block - (shown_from + begin);
        for span in &mut spans {
            let start = (span.start + moved) % block;
            *span = start..start + span.len();
        }
        spans.rotate_left(first);
        spans
    }
}

/// The lengths of `parts` parts of at least one item each, all choices as likely: each gap between items is a border with the
/// probability that is left to it (selection sampling; Knuth, volume 2, algorithm 3.4.2 S).
fn segments(items: usize, parts: usize, key: u64) -> Vec<usize> {
    let mut lengths = Vec::with_capacity(parts);
    let mut start = 0;
    for gap in 1..items {
        let borders = parts - 1 - lengths.len();
        if below(keyed(&[key, gap as u64]), (items - gap) as u64) < borders as u64 {
            lengths.push(gap - start);
            start = gap;
        }
    }
    if parts > 0 {
        lengths.push(items - start);
    }
    lengths
}

/// The source and the target of a block without the token that ends them: the `n`-th hidden span gives way to `sentinels[n]`, and
/// follows it in the target.
///
/// # Errors
///
/// [`DataError::TooFewSentinels`] if there are more spans than sentinels.
pub(crate) fn corrupt(
    tokens: &[i32],
    spans: &[Range<usize>],
    sentinels: &[i32],
) -> Result<(Vec<i32>, Vec<i32>), DataError> {
    check_sentinels(tokens.len(), spans.len(), sentinels.len())?;
    let (mut source, mut target) = (Vec::with_capacity(tokens.len()), Vec::new());
    let mut shown_from = 0;
    for (span, &sentinel) in spans.iter().zip(sentinels) {
        source.extend_from_slice(&tokens[shown_from..span.start]);
        source.push(sentinel);
        target.push(sentinel);
        target.extend_from_slice(&tokens[span.clone()]);
        shown_from = span.end;
    }
    source.extend_from_slice(&tokens[shown_from..]);
    Ok((source, target))
}

/// Refuses blocks with more spans than there are sentinels to name them.
pub(crate) fn check_sentinels(block: usize, needed: usize, sentinels: usize) -> Result<(), DataError> {
    if needed > sentinels {
        return Err(DataError::TooFewSentinels { block, needed, sentinels });
    }
    Ok(())
}

/// The text of which span corruption made `source` and `target`, both without the token that ends them: each sentinel of the source
/// gives way to what follows it in the target. A span that the target lacks, as may happen to what a model wrote, is empty.
///
/// Exact unless the text itself has the very sentinel that comes next.
pub fn restore(source: &[i32], target: &[i32], sentinels: &[i32]) -> Vec<i32> {
    let mut text = Vec::with_capacity(source.len() + target.len());
    let (mut next, mut rest) = (0, target);
    for &token in source {
        if sentinels.get(next) != Some(&token) {
            text.push(token);
            continue;
        }
        next += 1;
        if let Some(at) = rest.iter().position(|&it| it == token) {
            let span = &rest[at + 1..];
            let following = sentinels.get(next).and_then(|sentinel| span.iter().position(|it| it == sentinel));
            let (span, after) = span.split_at(following.unwrap_or(span.len()));
            text.extend_from_slice(span);
            rest = after;
        }
    }
    text
}

#[cfg(test)]
mod tests;
