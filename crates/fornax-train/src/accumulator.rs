use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::{BatchSize, Sums, TrainError, exact};

/// Sums over micro-batches on the host: what a window of the log or an evaluation amounts to.
///
/// The sums are `f32` values as the device holds them. A checkpoint keeps those of the window that it falls into, so
/// that a resumed run logs the very numbers of an uninterrupted one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Totals {
    /// Optimizer steps, or 0 for an evaluation.
    pub steps: u64,
    /// Tokens read.
    pub tokens: u64,
    /// The terms of the loss, in the task's order.
    pub terms: Vec<TermTotal>,
    /// The sums of the task's metrics, in its order.
    #[serde(with = "exact::named")]
    pub metrics: Vec<(String, f64)>,
}

/// One term of [`Totals`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TermTotal {
    /// Its name.
    pub name: String,
    /// Its share in the loss.
    pub weight: f64,
    /// The sum over all targets.
    #[serde(with = "exact::number")]
    pub sum: f64,
    /// The number of targets.
    pub count: u64,
}

impl TermTotal {
    /// The mean over the targets; NaN without any.
    pub fn mean(&self) -> f64 {
        self.sum / self.count as f64
    }
}

impl Totals {
    /// The targets of the first term, which most metrics are divided by.
    pub fn targets(&self) -> u64 {
        self.terms.first().map_or(0, |term| term.count)
    }

    /// The weighted sum of the means of all terms that have targets.
    pub fn loss(&self) -> f64 {
        self.terms.iter().filter(|term| term.count > 0).map(|term| term.weight * term.mean()).sum()
    }

    /// The means by name: `loss`, each term where there are several, and the metrics as [`Sums::metrics`] says.
    pub fn means(&self) -> BTreeMap<String, f64> {
        let mut means = BTreeMap::from([("loss".to_owned(), self.loss())]);
        if self.terms.len() > 1 {
            means.extend(self.terms.iter().map(|term| (term.name.clone(), term.mean())));
        }
        means.extend(self.metrics.iter().map(|(name, sum)| self.metric(name, *sum)));
        means
    }

    /// The name and the mean of a metric.
    fn metric(&self, name: &str, sum: f64) -> (String, f64) {
        let first = self.targets();
        let (name, targets) = match name.strip_suffix("correct") {
            Some("") => ("accuracy".to_owned(), first),
            Some(term) => {
                let own = self.terms.iter().find(|own| term.strip_suffix('_') == Some(&own.name));
                (format!("{term}accuracy"), own.map_or(first, |own| own.count))
            }
            None => (name.to_owned(), first),
        };
        (name, sum / targets as f64)
    }

    /// Adds `other`, whose terms and metrics are the same.
    pub(crate) fn add(&mut self, other: Self) {
        self.steps += other.steps;
        self.tokens += other.tokens;
        if self.terms.is_empty() {
            (self.terms, self.metrics) = (other.terms, other.metrics);
            return;
        }
        for (term, more) in self.terms.iter_mut().zip(other.terms) {
            term.sum += more.sum;
            term.count += more.count;
        }
        for ((_, sum), (_, more)) in self.metrics.iter_mut().zip(other.metrics) {
            *sum += more;
        }
    }
}

/// [`Totals`] whose sums are still on the device.
#[derive(Debug, Default)]
pub(crate) struct Accumulator {
    /// Names, weights and counts; the sums in it are stale.
    totals: Totals,
    /// The sums of terms, then of metrics.
    sums: Vec<Tensor<1>>,
}

impl Accumulator {
    /// Continues from sums that a checkpoint kept.
    pub(crate) fn restored(totals: Totals, device: &Device) -> Self {
        let sums = totals.terms.iter().map(|term| term.sum).chain(totals.metrics.iter().map(|metric| metric.1));
        let sums = sums.map(|sum| Tensor::from_floats([sum as f32], device)).collect();
        Self { totals, sums }
    }

    /// Adds one micro-batch; the graph that `sums` hang on is let go.
    ///
    /// # Errors
    ///
    /// When a term has no count in `size`, or the terms or metrics differ from those of the micro-batches before.
    pub(crate) fn add(&mut self, sums: Sums, size: &BatchSize) -> Result<(), TrainError> {
        if self.sums.is_empty() {
            let term = |term: &crate::Term| TermTotal {
                name: term.name.to_owned(),
                weight: term.weight,
                ..TermTotal::default()
            };
            self.totals.terms = sums.terms.iter().map(term).collect();
            self.totals.metrics = sums.metrics.iter().map(|(name, _)| ((*name).to_owned(), 0.0)).collect();
        }
        self.check_names(&sums)?;
        for (total, term) in self.totals.terms.iter_mut().zip(&sums.terms) {
            total.count += count_of(size, term.name)? as u64;
        }
        self.totals.tokens += size.tokens as u64;
        let values = sums.terms.into_iter().map(|term| term.sum).chain(sums.metrics.into_iter().map(|(_, sum)| sum));
        let values = values.map(|value| value.inner().detach());
        if self.sums.is_empty() {
            self.sums = values.collect();
        } else {
            self.sums = std::mem::take(&mut self.sums).into_iter().zip(values).map(|(sum, more)| sum + more).collect();
        }
        Ok(())
    }

    /// Ends an optimizer step.
    pub(crate) fn count_step(&mut self) {
        self.totals.steps += 1;
    }

    /// The optimizer steps so far.
    pub(crate) fn steps(&self) -> u64 {
        self.totals.steps
    }

    /// Reads the sums, and `more` values of shape `[1]` beside them, in one transfer.
    pub(crate) fn read(&self, more: Vec<Tensor<1>>) -> (Totals, Vec<f64>) {
        let mut totals = self.totals.clone();
        let mut values = read_scalars(self.sums.iter().cloned().chain(more).collect()).into_iter();
        for (sum, value) in totals.terms.iter_mut().map(|term| &mut term.sum).zip(values.by_ref()) {
            *sum = value;
        }
        for (sum, value) in totals.metrics.iter_mut().map(|metric| &mut metric.1).zip(values.by_ref()) {
            *sum = value;
        }
        (totals, values.collect())
    }

    fn check_names(&self, sums: &Sums) -> Result<(), TrainError> {
        let known = self.totals.terms.iter().map(|term| &term.name).chain(self.totals.metrics.iter().map(|(n, _)| n));
        let given = sums.terms.iter().map(|term| term.name).chain(sums.metrics.iter().map(|(name, _)| *name));
        if known.clone().eq(given.clone()) {
            return Ok(());
        }
        let list = |names: Vec<&str>| names.join(", ");
        Err(TrainError::SumsChanged { before: list(known.map(String::as_str).collect()), now: list(given.collect()) })
    }
}

/// The number of targets of the term `name`.
pub(crate) fn count_of(size: &BatchSize, name: &str) -> Result<usize, TrainError> {
    size.counts.iter().find(|(counted, _)| *counted == name).map(|(_, count)| *count).ok_or_else(|| {
        TrainError::UncountedTerm {
            term: name.to_owned(),
            counted: size.counts.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", "),
        }
    })
}

/// Reads values of shape `[1]` in one transfer.
pub(crate) fn read_scalars(values: Vec<Tensor<1>>) -> Vec<f64> {
    if values.is_empty() {
        return Vec::new();
    }
    Tensor::cat(values, 0).into_data().iter::<f64>().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_term_has_its_own_accuracy() {
        let term = |name: &str, sum, count| TermTotal { name: name.to_owned(), weight: 1.0, sum, count };
        let metric = |name: &str, sum| (name.to_owned(), sum);
        let totals = Totals {
            steps: 1,
            tokens: 30,
            terms: vec![term("masked_lm", 20.0, 10), term("next_sentence", 3.0, 4)],
            metrics: vec![metric("correct", 5.0), metric("next_sentence_correct", 3.0), metric("length", 40.0)],
        };
        let expected = [
            ("accuracy", 0.5),
            ("length", 4.0),
            ("loss", 2.75),
            ("masked_lm", 2.0),
            ("next_sentence", 0.75),
            ("next_sentence_accuracy", 0.75),
        ];
        assert_eq!(totals.means(), expected.map(|(name, value)| (name.to_owned(), value)).into());
    }
}
