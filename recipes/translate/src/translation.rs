use std::collections::BTreeMap;
use std::path::Path;

use fornax_data::pairs::{PairSet, TextPairs};
use fornax_metrics::{MetricError, TextMetric, TextScores};
use fornax_models::{Transformer, generate::generate_seq2seq};
use fornax_train::write_atomic;

use crate::{GenerateConfig, Tokenizers};

/// Translates with one model.
pub(crate) struct Translator<'a> {
    pub(crate) model: &'a Transformer,
    pub(crate) tokenizers: &'a Tokenizers,
    pub(crate) config: &'a GenerateConfig,
}

impl Translator<'_> {
    /// Translates the first `count` pairs of a set with so many beams (1: greedily). The translations come in the order of the set;
    /// `progress` is told how many were made, after each batch.
    pub(crate) fn translate(
        &self,
        set: &PairSet,
        count: usize,
        num_beams: usize,
        mut progress: impl FnMut(u64),
    ) -> anyhow::Result<Vec<String>> {
        let options = self.config.options(num_beams, self.tokenizers.start(), self.tokenizers.end);
        let lengths = set.lengths();
        let mut order: Vec<u64> = (0..set.len().min(count) as u64).collect();
        // Sources of about the same length together: little is padding, and targets end at about the same step.
        order.sort_by_key(|&pair| lengths[pair as usize].0);
        let mut translations = vec![String::new(); order.len()];
        let mut done = 0;
        for pairs in order.chunks(self.config.batch_size) {
            for (&pair, found) in pairs.iter().zip(generate_seq2seq(self.model, &sources(set, pairs), &options)?) {
                // A search without a hypothesis has nothing to say.
                let tokens = found.first().map_or(&[][..], |best| &best.tokens);
                let text = self.tokenizers.target.decode(tokens, true)?;
                translations[pair as usize] = text.trim().to_owned();
            }
            done += pairs.len() as u64;
            progress(done);
        }
        Ok(translations)
    }
}

/// The tokens of the sources of these pairs.
fn sources(set: &PairSet, pairs: &[u64]) -> Vec<Vec<u32>> {
    let batch = set.batch(pairs);
    let rows = batch.input_ids.chunks(batch.source_len).zip(&batch.lengths);
    rows.map(|(row, &length)| row[..length as usize].iter().map(|&id| id as u32).collect()).collect()
}

/// `bleu` (in lower case), `sacrebleu` and `chrf` of translations of the first pairs of `texts`.
pub(crate) fn score(translations: &[String], texts: &TextPairs) -> Result<BTreeMap<String, f64>, MetricError> {
    let mut scores = TextScores::new(&[TextMetric::Bleu, TextMetric::Sacrebleu, TextMetric::Chrf])?;
    for (translation, pair) in translations.iter().zip(texts.pairs()) {
        scores.add(translation, &[&pair.target])?;
    }
    scores.finish()
}

/// Writes a table with the columns `source`, `reference` and `prediction`, a line for each pair in the order of its file; tabs and
/// line breaks within a text become spaces.
pub(crate) fn write_table(path: &Path, translations: &[String], texts: &TextPairs) -> anyhow::Result<()> {
    let cell = |text: &str| text.replace(['\t', '\n', '\r'], " ");
    let mut table = "source\treference\tprediction\n".to_owned();
    for (translation, pair) in translations.iter().zip(texts.pairs()) {
        let cells = [&pair.source, &pair.target, translation].map(|text| cell(text));
        table.push_str(&cells.join("\t"));
        table.push('\n');
    }
    Ok(write_atomic(path, table.as_bytes())?)
}
