//! BLEU (Papineni et al., 2002) as sacrebleu (Post, 2018) computes it.

mod tokenize;

use std::collections::HashMap;
use std::fmt;

use crate::error::{MetricError, check_texts, count_text};
use crate::{ngrams, text};

const METRIC: &str = "BLEU";
/// The longest n-grams that are compared.
const ORDERS: usize = 4;

/// How texts are cut into the words that are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BleuTokenizer {
    /// `13a`: punctuation apart, for languages written in Latin letters; what WMT reports.
    #[default]
    V13a,
    /// `intl`: all of Unicode's punctuation and symbols apart.
    International,
    /// `char`: each character by itself.
    Char,
    /// `none`: what stands between white space, for texts that are tokens already.
    None,
}

/// What stands in for a precision of 0, which would make the whole score 0 (Chen & Cherry, 2014).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Smoothing {
    /// `exp`: halved from one such order to the next, as in `mteval-v13a.pl`.
    #[default]
    Exponential,
    /// `floor`: this many matches (sacrebleu: 0.1).
    Floor(f64),
    /// `add-k`: this many more matches and n-grams from bigrams on (sacrebleu: 1).
    AddK(f64),
    /// `none`.
    None,
}

/// Settings of [`Bleu`]; the defaults are sacrebleu's.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BleuOptions {
    /// The tokenizer.
    pub tokenizer: BleuTokenizer,
    /// The smoothing.
    pub smoothing: Smoothing,
    /// Leaves out the orders of which the hypotheses have no n-gram; meant for single sentences.
    pub effective_order: bool,
    /// Compares in lower case.
    pub lowercase: bool,
}

/// Corpus BLEU: counts over all texts, one score.
#[derive(Clone, Debug)]
pub struct Bleu {
    options: BleuOptions,
    texts: u64,
    matches: [u64; ORDERS],
    totals: [u64; ORDERS],
    hypothesis_length: u64,
    reference_length: u64,
}

/// What [`Bleu`] gives.
#[derive(Clone, Debug, PartialEq)]
pub struct BleuScore {
    /// The score, from 0 to 100.
    pub score: f64,
    /// The share of matching n-grams of one to four words after smoothing, from 0 to 100; all 0 if there is no match at all.
    pub precisions: [f64; ORDERS],
    /// N-grams of the hypotheses that a reference has too.
    pub matches: [u64; ORDERS],
    /// N-grams of the hypotheses.
    pub totals: [u64; ORDERS],
    /// From 0 to 1: what hypotheses lose that are shorter than their references.
    pub brevity_penalty: f64,
    /// Words of the hypotheses.
    pub hypothesis_length: u64,
    /// Words of the references, of several the one that is nearest in length to the hypothesis.
    pub reference_length: u64,
}

impl Bleu {
    /// # Errors
    ///
    /// If the value of the smoothing is negative or no number.
    pub fn new(options: BleuOptions) -> Result<Self, MetricError> {
        match options.smoothing {
            Smoothing::Floor(value) | Smoothing::AddK(value) if !(value.is_finite() && value >= 0.0) => {
                Err(MetricError::Option {
                    metric: METRIC,
                    option: "the value of the smoothing",
                    value: value.to_string(),
                    expected: "a number from 0 on",
                })
            }
            _ => Ok(Self {
                options,
                texts: 0,
                matches: [0; ORDERS],
                totals: [0; ORDERS],
                hypothesis_length: 0,
                reference_length: 0,
            }),
        }
    }

    /// Counts a text in.
    ///
    /// # Errors
    ///
    /// If there are no references.
    pub fn add(&mut self, hypothesis: &str, references: &[impl AsRef<str>]) -> Result<(), MetricError> {
        count_text(METRIC, &mut self.texts, references)?;
        let hypothesis = self.tokens(hypothesis);
        let references: Vec<Vec<String>> = references.iter().map(|text| self.tokens(text.as_ref())).collect();
        let length = hypothesis.len();
        let nearest = references.iter().map(Vec::len).min_by_key(|reference| (reference.abs_diff(length), *reference));
        self.hypothesis_length += length as u64;
        self.reference_length += nearest.unwrap_or_default() as u64;
        for order in 1..=ORDERS {
            let mut allowed: ngrams::Counts<'_, String> = HashMap::new();
            for (ngram, count) in references.iter().flat_map(|reference| ngrams::counts(reference, order)) {
                let most = allowed.entry(ngram).or_default();
                *most = count.max(*most);
            }
            self.matches[order - 1] += ngrams::common(&ngrams::counts(&hypothesis, order), &allowed);
            self.totals[order - 1] += ngrams::total(length, order);
        }
        Ok(())
    }

    /// The score of all texts.
    ///
    /// # Errors
    ///
    /// If there was none.
    pub fn finish(self) -> Result<BleuScore, MetricError> {
        check_texts(METRIC, self.texts)?;
        let (hypothesis, reference) = (self.hypothesis_length as f64, self.reference_length as f64);
        let brevity_penalty = if hypothesis >= reference {
            1.0
        } else if hypothesis > 0.0 {
            (1.0 - reference / hypothesis).exp()
        } else {
            0.0
        };
        let (precisions, orders) = self.precisions();
        // An order with precision 0 has the logarithm minus infinity, and makes the score 0.
        let mean = precisions[..orders].iter().map(|precision| precision.ln()).sum::<f64>() / orders as f64;
        let any = self.matches.iter().any(|count| *count > 0);
        Ok(BleuScore {
            score: if any { brevity_penalty * mean.exp() } else { 0.0 },
            precisions,
            matches: self.matches,
            totals: self.totals,
            brevity_penalty,
            hypothesis_length: self.hypothesis_length,
            reference_length: self.reference_length,
        })
    }

    /// The smoothed precisions, and how many of them count.
    fn precisions(&self) -> ([f64; ORDERS], usize) {
        let (mut precisions, mut orders) = ([0.0; ORDERS], ORDERS);
        if self.matches.iter().all(|count| *count == 0) {
            return (precisions, orders);
        }
        let mut halvings = 1.0;
        for (order, precision) in precisions.iter_mut().enumerate() {
            let added = match self.options.smoothing {
                Smoothing::AddK(value) if order > 0 => value,
                _ => 0.0,
            };
            let (matches, total) = (self.matches[order] as f64 + added, self.totals[order] as f64 + added);
            if total == 0.0 {
                break;
            }
            if self.options.effective_order {
                orders = order + 1;
            }
            let matches = match self.options.smoothing {
                Smoothing::Exponential if matches == 0.0 => {
                    halvings *= 2.0;
                    1.0 / halvings
                }
                Smoothing::Floor(value) if matches == 0.0 => value,
                _ => matches,
            };
            *precision = 100.0 * matches / total;
        }
        (precisions, orders)
    }

    fn tokens(&self, text: &str) -> Vec<String> {
        let lower = if self.options.lowercase { text.to_lowercase() } else { text.to_owned() };
        self.options.tokenizer.tokens(lower.trim_end_matches(text::is_space))
    }
}

impl fmt::Display for BleuScore {
    /// As sacrebleu prints it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let precisions = self.precisions.map(|precision| format!("{precision:.1}")).join("/");
        let (hypothesis, reference) = (self.hypothesis_length, self.reference_length);
        let ratio = if reference == 0 { 0.0 } else { hypothesis as f64 / reference as f64 };
        write!(
            f,
            "BLEU = {:.2} {precisions} (BP = {:.3} ratio = {ratio:.3} hyp_len = {hypothesis} ref_len = {reference})",
            self.score, self.brevity_penalty
        )
    }
}
