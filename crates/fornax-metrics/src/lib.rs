//! Scores of generated texts against references. Knows texts and numbers, no tokens and no tensors.
//!
//! A metric is fed pair by pair and finished once; between the two it holds counts alone, so that a set of any size fits.
//! Numbers equal those of the tools that papers report: sacrebleu (BLEU, chrF), rouge_score (ROUGE) and SQuAD's script.

mod answers;
mod bleu;
mod chrf;
mod error;
mod ngrams;
mod rouge;
mod scores;
mod text;

pub use answers::{ExactMatch, Normalization, TokenF1};
pub use bleu::{Bleu, BleuOptions, BleuScore, BleuTokenizer, Smoothing};
pub use chrf::{Chrf, ChrfOptions};
pub use error::MetricError;
pub use rouge::{Rouge, RougeScores, Score};
pub use scores::{TextMetric, TextScores};

#[cfg(test)]
mod tests;
