//! chrF (Popović, 2015) and chrF++ (Popović, 2017) as sacrebleu computes them.

use std::hash::Hash;

use crate::error::{MetricError, check_texts, count_text};
use crate::{ngrams, text};

const METRIC: &str = "chrF";

/// Settings of [`Chrf`]; the defaults are sacrebleu's chrF2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChrfOptions {
    /// The longest n-grams of characters, white space left out.
    pub char_order: usize,
    /// The longest n-grams of words; 0 for none.
    pub word_order: usize,
    /// How many times recall weighs as much as precision.
    pub beta: u32,
    /// Compares in lower case.
    pub lowercase: bool,
}

impl Default for ChrfOptions {
    fn default() -> Self {
        Self { char_order: 6, word_order: 0, beta: 2, lowercase: false }
    }
}

impl ChrfOptions {
    /// chrF++, which compares single words and pairs of words too.
    pub fn plus_plus() -> Self {
        Self { word_order: 2, ..Self::default() }
    }
}

/// Corpus chrF: counts over all texts, one score.
#[derive(Clone, Debug)]
pub struct Chrf {
    options: ChrfOptions,
    texts: u64,
    /// One for each order, those of characters first.
    counts: Vec<Counts>,
}

/// The n-grams of one order.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    hypothesis: u64,
    reference: u64,
    common: u64,
}

/// A text as it is compared.
struct Parts {
    characters: Vec<char>,
    words: Vec<String>,
}

impl Chrf {
    /// # Errors
    ///
    /// If there is no order to compare.
    pub fn new(options: ChrfOptions) -> Result<Self, MetricError> {
        let orders = options.char_order.saturating_add(options.word_order);
        if orders == 0 {
            return Err(MetricError::Option {
                metric: METRIC,
                option: "char_order",
                value: "0 without words".into(),
                expected: "1 or more; 6 is usual",
            });
        }
        Ok(Self { options, texts: 0, counts: vec![Counts::default(); orders] })
    }

    /// Counts a text in; of several references the one with the best score.
    ///
    /// # Errors
    ///
    /// If there are no references.
    pub fn add(&mut self, hypothesis: &str, references: &[impl AsRef<str>]) -> Result<(), MetricError> {
        count_text(METRIC, &mut self.texts, references)?;
        let hypothesis = self.parts(hypothesis);
        let mut best: Option<(f64, Vec<Counts>)> = None;
        for reference in references {
            let counts = self.compare(&hypothesis, &self.parts(reference.as_ref()));
            let score = self.score(&counts);
            // Of equally good ones the first.
            if best.as_ref().is_none_or(|(so_far, _)| score > *so_far) {
                best = Some((score, counts));
            }
        }
        for (sum, counts) in self.counts.iter_mut().zip(best.into_iter().flat_map(|(_, counts)| counts)) {
            sum.hypothesis += counts.hypothesis;
            sum.reference += counts.reference;
            sum.common += counts.common;
        }
        Ok(())
    }

    /// The score of all texts, from 0 to 100.
    ///
    /// # Errors
    ///
    /// If there was none.
    pub fn finish(self) -> Result<f64, MetricError> {
        check_texts(METRIC, self.texts)?;
        Ok(self.score(&self.counts))
    }

    fn parts(&self, text: &str) -> Parts {
        let text = if self.options.lowercase { text.to_lowercase() } else { text.to_owned() };
        Parts {
            characters: text.chars().filter(|c| !text::is_space(*c)).collect(),
            words: text::words(&text).flat_map(without_punctuation).map(str::to_owned).collect(),
        }
    }

    fn compare(&self, hypothesis: &Parts, reference: &Parts) -> Vec<Counts> {
        let characters =
            (1..=self.options.char_order).map(|order| compare(&hypothesis.characters, &reference.characters, order));
        let words = (1..=self.options.word_order).map(|order| compare(&hypothesis.words, &reference.words, order));
        characters.chain(words).collect()
    }

    /// The F score of precision and recall, each averaged over the orders that both sides have.
    fn score(&self, counts: &[Counts]) -> f64 {
        let shared: Vec<&Counts> = counts.iter().filter(|it| it.hypothesis > 0 && it.reference > 0).collect();
        let mean = |share: fn(&Counts) -> f64| shared.iter().map(|it| share(it)).sum::<f64>() / shared.len() as f64;
        let precision = mean(|it| it.common as f64 / it.hypothesis as f64);
        let recall = mean(|it| it.common as f64 / it.reference as f64);
        let factor = f64::from(self.options.beta).powi(2);
        // Also where nothing is shared, and both are no number.
        if precision + recall > 0.0 {
            100.0 * (1.0 + factor) * precision * recall / (factor * precision + recall)
        } else {
            0.0
        }
    }
}

fn compare<T: Eq + Hash>(hypothesis: &[T], reference: &[T], order: usize) -> Counts {
    let total = ngrams::total(reference.len(), order);
    Counts {
        // Without n-grams to compare them with, those of the hypothesis don't count.
        hypothesis: if total == 0 { 0 } else { ngrams::total(hypothesis.len(), order) },
        reference: total,
        common: ngrams::common(&ngrams::counts(hypothesis, order), &ngrams::counts(reference, order)),
    }
}

/// Takes a punctuation mark off a word: off its end, or if there is none, off its beginning.
fn without_punctuation(word: &str) -> Vec<&str> {
    let mut characters = word.char_indices();
    let (Some((_, first)), Some((last_at, last))) = (characters.next(), characters.next_back()) else {
        return vec![word];
    };
    let at = if text::is_punctuation(last) {
        last_at
    } else if text::is_punctuation(first) {
        first.len_utf8()
    } else {
        return vec![word];
    };
    let (before, after) = word.split_at(at);
    vec![before, after]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_punctuation_mark_comes_off_a_word() {
        let cut = |word| without_punctuation(word).join(" ");
        assert_eq!(
            ["(hi)", "(hi", "hi...", "!", "é!", "it's"].map(cut),
            ["(hi )", "( hi", "hi.. .", "!", "é !", "it's"]
        );
    }
}
