//! ROUGE (Lin, 2004) as Google's `rouge_score` computes it, without stemming.

use std::collections::{BTreeSet, HashMap};

use crate::error::{MetricError, check_texts, count_text};
use crate::ngrams;

const METRIC: &str = "ROUGE";

/// Precision, recall and their harmonic mean, each from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Score {
    /// The share of the hypothesis that the reference has.
    pub precision: f64,
    /// The share of the reference that the hypothesis has.
    pub recall: f64,
    /// Their harmonic mean; 0 if both are 0. It is what most papers report.
    pub f: f64,
}

/// The scores of one text, or their means over texts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RougeScores {
    /// Single words.
    pub rouge1: Score,
    /// Pairs of words.
    pub rouge2: Score,
    /// The longest common subsequence of words.
    pub rouge_l: Score,
    /// The longest common subsequences of lines, for summaries with a sentence on each.
    pub rouge_lsum: Score,
}

/// Mean ROUGE over texts. Words are runs of `a` to `z` and `0` to `9` in lower case: other scripts have none, and score 0.
#[derive(Clone, Debug, Default)]
pub struct Rouge {
    texts: u64,
    sums: RougeScores,
}

impl Rouge {
    /// Nothing scored yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Scores a text and counts it in. Of several references each of the four scores takes the one with the best F.
    ///
    /// # Errors
    ///
    /// If there are no references.
    pub fn add(&mut self, hypothesis: &str, references: &[impl AsRef<str>]) -> Result<RougeScores, MetricError> {
        count_text(METRIC, &mut self.texts, references)?;
        let scores = references.iter().map(|reference| score(hypothesis, reference.as_ref()));
        let best = scores.reduce(|so_far, next| so_far.with(next, Score::best)).unwrap_or_default();
        self.sums = self.sums.with(best, Score::plus);
        Ok(best)
    }

    /// The means over all texts.
    ///
    /// # Errors
    ///
    /// If there was none.
    pub fn finish(self) -> Result<RougeScores, MetricError> {
        check_texts(METRIC, self.texts)?;
        let texts = self.texts as f64;
        let mean =
            |sum: Score, _| Score { precision: sum.precision / texts, recall: sum.recall / texts, f: sum.f / texts };
        Ok(self.sums.with(self.sums, mean))
    }
}

impl RougeScores {
    fn with(self, other: Self, combine: impl Fn(Score, Score) -> Score) -> Self {
        Self {
            rouge1: combine(self.rouge1, other.rouge1),
            rouge2: combine(self.rouge2, other.rouge2),
            rouge_l: combine(self.rouge_l, other.rouge_l),
            rouge_lsum: combine(self.rouge_lsum, other.rouge_lsum),
        }
    }
}

impl Score {
    /// Of `common` things among those of the hypothesis and those of the reference.
    pub(crate) fn of(common: u64, hypothesis: u64, reference: u64) -> Self {
        let share = |whole: u64| common as f64 / whole.max(1) as f64;
        let (precision, recall) = (share(hypothesis), share(reference));
        let f = if common > 0 { 2.0 * precision * recall / (precision + recall) } else { 0.0 };
        Self { precision, recall, f }
    }

    fn best(self, other: Self) -> Self {
        if other.f > self.f { other } else { self }
    }

    fn plus(self, other: Self) -> Self {
        Self { precision: self.precision + other.precision, recall: self.recall + other.recall, f: self.f + other.f }
    }
}

fn score(hypothesis: &str, reference: &str) -> RougeScores {
    let (hypothesis_words, reference_words) = (words(hypothesis), words(reference));
    let of_order = |order| {
        let (a, b) = (ngrams::counts(&hypothesis_words, order), ngrams::counts(&reference_words, order));
        let totals = [&hypothesis_words, &reference_words].map(|words| ngrams::total(words.len(), order));
        Score::of(ngrams::common(&a, &b), totals[0], totals[1])
    };
    let longest = subsequence(&reference_words, &hypothesis_words).len() as u64;
    RougeScores {
        rouge1: of_order(1),
        rouge2: of_order(2),
        rouge_l: Score::of(longest, hypothesis_words.len() as u64, reference_words.len() as u64),
        rouge_lsum: by_lines(&lines(hypothesis), &lines(reference)),
    }
}

fn words(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    let words = lower.split(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit());
    words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn lines(text: &str) -> Vec<Vec<String>> {
    text.split('\n').map(words).collect()
}

/// For each line of the reference the union of its longest common subsequences with the lines of the hypothesis; a word counts at
/// most as often as it comes in both texts, as in ROUGE 1.5.5.
fn by_lines(hypothesis: &[Vec<String>], reference: &[Vec<String>]) -> Score {
    let mut left: [HashMap<&str, u64>; 2] = Default::default();
    for (left, lines) in left.iter_mut().zip([hypothesis, reference]) {
        for word in lines.iter().flatten() {
            *left.entry(word).or_default() += 1;
        }
    }
    let totals = left.each_ref().map(|counts| counts.values().sum::<u64>());
    let mut common = 0;
    for line in reference {
        let union: BTreeSet<usize> = hypothesis.iter().flat_map(|other| subsequence(line, other)).collect();
        for at in union {
            let word = line[at].as_str();
            if left.iter().all(|counts| counts.get(word).is_some_and(|count| *count > 0)) {
                left.iter_mut().filter_map(|counts| counts.get_mut(word)).for_each(|count| *count -= 1);
                common += 1;
            }
        }
    }
    Score::of(common, totals[0], totals[1])
}

/// A longest common subsequence, as places in `reference` from the last to the first. Where there are several, it is the one that
/// `rouge_score` finds, on which the union over lines depends. Memory is the product of the lengths.
fn subsequence(reference: &[String], hypothesis: &[String]) -> Vec<usize> {
    let width = hypothesis.len() + 1;
    // Row i, column j: the length for the first i words of the reference and j of the hypothesis.
    let mut lengths = vec![0u32; (reference.len() + 1) * width];
    for (i, word) in reference.iter().enumerate() {
        for (j, other) in hypothesis.iter().enumerate() {
            let (above, below) = (i * width + j, (i + 1) * width + j);
            lengths[below + 1] = match word == other {
                true => lengths[above] + 1,
                false => lengths[above + 1].max(lengths[below]),
            };
        }
    }
    let (mut i, mut j) = (reference.len(), hypothesis.len());
    let mut places = Vec::new();
    while i > 0 && j > 0 {
        if reference[i - 1] == hypothesis[j - 1] {
            places.push(i - 1);
            (i, j) = (i - 1, j - 1);
        } else if lengths[i * width + j - 1] > lengths[(i - 1) * width + j] {
            j -= 1;
        } else {
            i -= 1;
        }
    }
    places
}
