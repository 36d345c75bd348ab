use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Bleu, BleuOptions, Chrf, ChrfOptions, ExactMatch, MetricError, Normalization, Rouge, TokenF1};

/// What texts are measured by, each against its reference. In a config: `exact_match`, `bleu`, `sacrebleu`, `chrf`, `rouge` or `f1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TextMetric {
    /// The share of texts that are their reference, letter by letter: accuracy, where a word stands for a label.
    ExactMatch,
    /// BLEU in lower case, of the words that sacrebleu's `13a` cuts: `sacrebleu --lowercase`.
    Bleu,
    /// BLEU as sacrebleu reports it unless told otherwise.
    Sacrebleu,
    /// chrF2 as sacrebleu reports it.
    Chrf,
    /// The F-scores of ROUGE-1, ROUGE-2 and ROUGE-L, as `rouge1`, `rouge2` and `rougeL`.
    Rouge,
    /// The F-score of words that text and reference share, as SQuAD's.
    F1,
}

impl TextMetric {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::ExactMatch, Self::Bleu, Self::Sacrebleu, Self::Chrf, Self::Rouge, Self::F1];

    /// The names under which it stands in a run's metrics.
    pub fn names(self) -> &'static [&'static str] {
        match self {
            Self::ExactMatch => &["exact_match"],
            Self::Bleu => &["bleu"],
            Self::Sacrebleu => &["sacrebleu"],
            Self::Chrf => &["chrf"],
            Self::Rouge => &["rouge1", "rouge2", "rougeL"],
            Self::F1 => &["f1"],
        }
    }
}

impl fmt::Display for TextMetric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rouge => "rouge",
            one => one.names()[0],
        })
    }
}

/// Several metrics of the same texts. BLEU and chrF go from 0 to 100, all others from 0 to 1.
#[derive(Clone, Debug)]
pub struct TextScores {
    counts: Vec<Counts>,
}

#[derive(Clone, Debug)]
enum Counts {
    ExactMatch(ExactMatch),
    Bleu(TextMetric, Bleu),
    Chrf(Chrf),
    Rouge(Rouge),
    F1(TokenF1),
}

impl TextScores {
    /// Nothing scored yet.
    ///
    /// # Errors
    ///
    /// None for these metrics: their options are in order.
    pub fn new(metrics: &[TextMetric]) -> Result<Self, MetricError> {
        let counts = metrics.iter().map(|&metric| {
            Ok(match metric {
                TextMetric::ExactMatch => Counts::ExactMatch(ExactMatch::new(Normalization::None)),
                TextMetric::Bleu => {
                    Counts::Bleu(metric, Bleu::new(BleuOptions { lowercase: true, ..BleuOptions::default() })?)
                }
                TextMetric::Sacrebleu => Counts::Bleu(metric, Bleu::new(BleuOptions::default())?),
                TextMetric::Chrf => Counts::Chrf(Chrf::new(ChrfOptions::default())?),
                TextMetric::Rouge => Counts::Rouge(Rouge::new()),
                TextMetric::F1 => Counts::F1(TokenF1::new()),
            })
        });
        Ok(Self { counts: counts.collect::<Result<_, MetricError>>()? })
    }

    /// Counts a text in.
    ///
    /// # Errors
    ///
    /// If there are no references.
    pub fn add(&mut self, hypothesis: &str, references: &[impl AsRef<str>]) -> Result<(), MetricError> {
        for counts in &mut self.counts {
            match counts {
                Counts::ExactMatch(counts) => drop(counts.add(hypothesis, references)?),
                Counts::Bleu(_, counts) => counts.add(hypothesis, references)?,
                Counts::Chrf(counts) => counts.add(hypothesis, references)?,
                Counts::Rouge(counts) => drop(counts.add(hypothesis, references)?),
                Counts::F1(counts) => drop(counts.add(hypothesis, references)?),
            }
        }
        Ok(())
    }

    /// Each metric by its name, as [`TextMetric::names`] has them.
    ///
    /// # Errors
    ///
    /// If there was no text.
    pub fn finish(self) -> Result<BTreeMap<String, f64>, MetricError> {
        let mut values = BTreeMap::new();
        let mut put = |metric: TextMetric, numbers: &[f64]| {
            values.extend(metric.names().iter().map(|&name| name.to_owned()).zip(numbers.iter().copied()));
        };
        for counts in self.counts {
            match counts {
                Counts::ExactMatch(counts) => put(TextMetric::ExactMatch, &[counts.finish()?]),
                Counts::Bleu(metric, counts) => put(metric, &[counts.finish()?.score]),
                Counts::Chrf(counts) => put(TextMetric::Chrf, &[counts.finish()?]),
                Counts::Rouge(counts) => {
                    let scores = counts.finish()?;
                    put(TextMetric::Rouge, &[scores.rouge1.f, scores.rouge2.f, scores.rouge_l.f]);
                }
                Counts::F1(counts) => put(TextMetric::F1, &[counts.finish()?]),
            }
        }
        Ok(values)
    }
}
