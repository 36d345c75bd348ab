use std::fmt::Write;

use fornax_data::{DataError, Seq2SeqBatch, Tokenizer, text_tasks::ScoredTask};
use fornax_metrics::{MetricError, TextScores};
use fornax_models::{
    ModelError, T5,
    generate::{Seq2SeqOptions, generate_seq2seq},
};
use indicatif::ProgressBar;

use crate::{config::metric_names, data::EvalSet};

/// What a model writes to the sources of one task's set.
pub(crate) struct Answers<'a> {
    pub(crate) task: &'a ScoredTask,
    /// By the number of the pair in the set, in that order.
    texts: Vec<(u64, String)>,
}

/// Source, reference and answer.
pub(crate) struct Row<'a> {
    pub(crate) source: &'a str,
    pub(crate) reference: &'a str,
    pub(crate) answer: &'a str,
}

/// The best target of each source, without special tokens at its end.
pub(crate) fn write_targets(
    model: &T5,
    sources: &[Vec<u32>],
    options: &Seq2SeqOptions,
) -> Result<Vec<Vec<u32>>, ModelError> {
    let hypotheses = generate_seq2seq(model, sources, options)?;
    Ok(hypotheses.into_iter().map(|found| found.into_iter().next().map_or_else(Vec::new, |best| best.tokens)).collect())
}

/// An answer as text.
pub(crate) fn decode(tokenizer: &Tokenizer, target: &[u32]) -> Result<String, DataError> {
    Ok(tokenizer.decode(target, true)?.trim().to_owned())
}

impl<'a> Answers<'a> {
    /// Answers every source of a set whose task is `task`.
    pub(crate) fn of(
        model: &T5,
        set: &EvalSet,
        task: &'a ScoredTask,
        tokenizer: &Tokenizer,
        options: &Seq2SeqOptions,
        bar: &ProgressBar,
    ) -> anyhow::Result<Self> {
        let mut texts = Vec::new();
        for batch in set.iter() {
            let batch = batch?;
            let targets = write_targets(model, &sources(&batch), options)?;
            for (&example, target) in batch.examples.iter().zip(&targets) {
                texts.push((example, decode(tokenizer, target)?));
            }
            bar.inc(1);
        }
        texts.sort_unstable_by_key(|(example, _)| *example);
        Ok(Self { task, texts })
    }

    /// The task's metrics under all their names, where there are so many tasks.
    pub(crate) fn scores(&self, tasks: usize) -> Result<Vec<(String, f64)>, MetricError> {
        let mut scores = TextScores::new(&[self.task.metric])?;
        for row in self.rows() {
            scores.add(row.answer, &[row.reference])?;
        }
        let names = |(metric, value): (String, f64)| {
            metric_names(&self.task.name, &metric, tasks).into_iter().map(move |name| (name, value))
        };
        Ok(scores.finish()?.into_iter().flat_map(names).collect())
    }

    /// In the order of the set.
    pub(crate) fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.texts.iter().map(|(example, answer)| {
            let pair = &self.task.texts.pairs()[*example as usize];
            Row { source: &pair.source, reference: &pair.target, answer }
        })
    }

    /// A table of all rows, a line each; tabs and line breaks inside a text become spaces.
    pub(crate) fn table(&self) -> String {
        let mut table = "source\treference\tprediction\n".to_owned();
        let cell = |text: &str| text.replace(['\t', '\n', '\r'], " ");
        for Row { source, reference, answer } in self.rows() {
            // Writing to a String can't fail.
            let _ = writeln!(table, "{}\t{}\t{}", cell(source), cell(reference), cell(answer));
        }
        table
    }
}

/// The sources of a batch without their padding.
fn sources(batch: &Seq2SeqBatch) -> Vec<Vec<u32>> {
    let rows = batch.input_ids.chunks(batch.source_len.max(1)).zip(&batch.lengths);
    rows.map(|(row, &length)| row[..length as usize].iter().map(|&id| id as u32).collect()).collect()
}

#[cfg(test)]
mod tests {
    use fornax_data::Fill;

    use super::*;

    #[test]
    fn sources_come_out_of_a_batch_as_they_went_in() {
        let pairs = [(vec![5, 6, 1], vec![7, 1]), (vec![8, 1], vec![9, 9, 1])];
        let batch = Seq2SeqBatch::collate(&pairs, vec![0, 1], Fill { pad_id: 0, start_id: 0 });
        assert_eq!(sources(&batch), [vec![5, 6, 1], vec![8, 1]]);
    }
}
