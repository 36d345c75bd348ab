use std::collections::BTreeMap;

use fornax_data::pairs::{TextPair, TextPairs};
use fornax_metrics::{MetricError, TextMetric, TextScores};

use super::{GeneratedText, Limits, Text2Text, Text2TextOptions};
use crate::PipelineError;

/// What a model wrote to the sources of a set of pairs, beside what was to be written.
#[derive(Debug)]
pub struct Answers<'a> {
    pairs: &'a [TextPair],
    /// One for each pair.
    texts: Vec<String>,
    limits: Limits,
}

/// A source, its reference and its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerRow<'a> {
    /// What was read.
    pub source: &'a str,
    /// What was to be written.
    pub reference: &'a str,
    /// What was written.
    pub answer: &'a str,
}

impl Text2Text {
    /// The best answer to each of the first `count` sources of a set. `progress` hears after each batch how many texts it had.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn answer<'a>(
        &self,
        set: &'a TextPairs,
        count: usize,
        options: &Text2TextOptions,
        progress: impl FnMut(usize),
    ) -> Result<Answers<'a>, PipelineError> {
        let pairs = &set.pairs()[..set.pairs().len().min(count)];
        let sources: Vec<&str> = pairs.iter().map(|pair| pair.source.as_str()).collect();
        let written = self.run_part(&sources, 0, options, progress)?;
        // A search without a hypothesis has nothing to say.
        let best = |found: Vec<GeneratedText>| found.into_iter().next().map(|best| best.text).unwrap_or_default();
        let texts = written.texts.into_iter().map(best).collect();
        Ok(Answers { pairs, texts, limits: written.limits })
    }
}

impl Answers<'_> {
    /// In the order of the set.
    pub fn rows(&self) -> impl Iterator<Item = AnswerRow<'_>> {
        let rows = self.pairs.iter().zip(&self.texts);
        rows.map(|(TextPair { source, target }, answer)| AnswerRow { source, reference: target, answer })
    }

    /// The number of answers.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// The metrics of all answers, under the names that [`TextMetric::names`] has.
    ///
    /// # Errors
    ///
    /// If there is no answer.
    pub fn scores(&self, metrics: &[TextMetric]) -> Result<BTreeMap<String, f64>, MetricError> {
        let mut scores = TextScores::new(metrics)?;
        for row in self.rows() {
            scores.add(row.answer, &[row.reference])?;
        }
        scores.finish()
    }

    /// A table (tsv) with the columns `source`, `reference` and `prediction`; tabs and line breaks within a text become spaces.
    pub fn table(&self) -> String {
        let head = "source\treference\tprediction\n".to_owned();
        self.rows().fold(head, |table, row| table + &row.cells() + "\n")
    }

    /// What limits did to sources and answers.
    pub fn limits(&self) -> Limits {
        self.limits
    }
}

impl AnswerRow<'_> {
    /// As cells of a tab-separated table.
    pub fn cells(&self) -> String {
        [self.source, self.reference, self.answer].map(|text| text.replace(['\t', '\n', '\r'], " ")).join("\t")
    }
}
