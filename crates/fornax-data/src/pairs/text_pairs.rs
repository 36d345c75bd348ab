use std::collections::HashMap;

use burn_dataset::Dataset;

use crate::source::{TextRow, TextRows, hash_parts, list_paths};
use crate::{DataError, Split};

/// A text and what is to be written for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TextPair {
    /// What is read, without white space around it.
    pub source: String,
    /// What is to be written, without white space around it: the reference that an output is compared with.
    pub target: String,
}

/// All pairs of one split, in memory.
#[derive(Clone, Debug)]
pub struct TextPairs {
    name: String,
    pairs: Vec<TextPair>,
    dropped: usize,
    fingerprint: String,
    place: String,
}

impl TextPairs {
    /// Makes a pair of each row with `pair`, of which `made_of` says for the fingerprint what it does.
    ///
    /// What is learned from may have gaps: pairs of which a side is blank are left out, as the scripts of Moses and Hugging Face do,
    /// and the log says how many. What is measured on may not: a line that is missing there moves all that follow away from a file of
    /// references, so the first such row is an error.
    pub(crate) fn from_rows(
        name: String,
        split: Split,
        rows: &TextRows,
        read: Vec<TextRow>,
        [source_column, target_column]: [&str; 2],
        made_of: &str,
        mut pair: impl FnMut(&TextRow) -> Result<TextPair, DataError>,
    ) -> Result<Self, DataError> {
        let mut pairs = Vec::with_capacity(read.len());
        let (mut dropped, mut first_blank) = (0, None);
        for row in read {
            let TextPair { source, target } = pair(&row)?;
            let (source, target) = (trimmed(source), trimmed(target));
            if !source.is_empty() && !target.is_empty() {
                pairs.push(TextPair { source, target });
                continue;
            }
            let (side, column) = if target.is_empty() { ("target", target_column) } else { ("source", source_column) };
            let path = rows.path(&row, column);
            if split != Split::Train {
                let message = format!("the {side} is blank; {name} needs both sides of each pair");
                return Err(DataError::Record { path: path.into(), line: row.line, column: None, message });
            }
            dropped += 1;
            first_blank.get_or_insert_with(|| format!("{}:{}", path.display(), row.line));
        }
        let paths: Vec<_> = rows.paths().map(Into::into).collect();
        let place = list_paths(&paths);
        if pairs.is_empty() {
            let reason = "no pair has a text on both sides".to_owned();
            return Err(DataError::EmptyCorpus { paths: place, reason });
        }
        if let Some(first) = first_blank {
            tracing::warn!("{name}: left out {dropped} pairs with a blank side, first {first}");
        }
        let fingerprint = hash_parts([rows.fingerprint()?.as_str(), made_of]);
        Ok(Self { name, pairs, dropped, fingerprint, place })
    }

    /// `train`, `valid` or `test`; of a task with the task's name before it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All pairs, in the order of the files.
    pub fn pairs(&self) -> &[TextPair] {
        &self.pairs
    }

    /// What is to be written for example `example` of a batch.
    ///
    /// # Panics
    ///
    /// If there is no such pair.
    pub fn reference(&self, example: u64) -> &str {
        &self.pairs[example as usize].target
    }

    /// How many pairs were left out because a side is blank.
    pub fn dropped(&self) -> usize {
        self.dropped
    }

    /// A hash of the files and of how they are read, in hexadecimal; equal fingerprints mean equal pairs.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// How many of these pairs are in another set too.
    pub(crate) fn shared_with(&self, other: &Self) -> usize {
        let mut counts: HashMap<&TextPair, usize> = HashMap::with_capacity(self.pairs.len());
        for pair in &self.pairs {
            *counts.entry(pair).or_default() += 1;
        }
        other.pairs.iter().filter_map(|pair| counts.remove(pair)).sum()
    }

    /// Says in the log if pairs to measure on are learned from too.
    pub(crate) fn warn_of_shared(&self, train: &Self) {
        let (shared, name) = (self.shared_with(train), &self.name);
        if shared > 0 {
            let all = self.pairs.len();
            tracing::warn!(
                "{shared} of the {all} pairs of {name} are in {} too: a score on them says little",
                train.name
            );
        }
    }

    /// One line for logs: what and how much.
    pub fn describe(&self) -> String {
        format!("{} of {}: {} pairs", self.name, self.place, self.pairs.len())
    }
}

impl Dataset<TextPair, DataError> for TextPairs {
    fn get(&self, index: usize) -> Result<TextPair, DataError> {
        Ok(self.pairs[index].clone())
    }

    fn len(&self) -> usize {
        self.pairs.len()
    }
}

fn trimmed(text: String) -> String {
    let inner = text.trim();
    if inner.len() == text.len() { text } else { inner.to_owned() }
}
