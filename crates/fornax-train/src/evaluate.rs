use std::{collections::BTreeMap, f64::consts::LN_2};

use fornax_backend::Precision;
use fornax_ops::Context;

use crate::{BoxError, Sums, Task, Totals, TrainError, accumulator::Accumulator};

/// Micro-batches between two reads of the device: few enough reads to cost nothing, and a bound on the work that a
/// device queues up and on the rounding of sums in `f32`.
const READ_EVERY: u64 = 32;

/// The result of an evaluation.
#[derive(Clone, Debug, PartialEq)]
pub struct Metrics {
    /// By name: `loss` (the mean per target), `perplexity`, `accuracy` where the task counts `correct`, each term
    /// where the loss has several, and the task's own.
    pub values: BTreeMap<String, f64>,
    /// The targets of the first term.
    pub targets: u64,
    /// Tokens read.
    pub tokens: u64,
}

impl Metrics {
    fn new(totals: &Totals) -> Self {
        let mut values = totals.means();
        if let Some(term) = totals.terms.first() {
            values.insert("perplexity".to_owned(), term.mean().exp());
        }
        Self { values, targets: totals.targets(), tokens: totals.tokens }
    }

    /// The value of a metric.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.values.get(name).copied()
    }

    /// Adds `bits_per_byte`, which compares models with different tokenizers: the loss in bits over the length of a
    /// target in bytes. `bytes_per_target` is that of the evaluated text: its bytes over its targets.
    #[must_use]
    pub fn with_bits_per_byte(mut self, bytes_per_target: f64) -> Self {
        if let Some(loss) = self.get("loss") {
            self.values.insert("bits_per_byte".to_owned(), loss / LN_2 / bytes_per_target);
        }
        self
    }
}

/// Evaluates `model`, a [`Learner::valid`](crate::Learner::valid), on all of `batches`.
///
/// Sums stay on the device, logits are not kept. `progress` is told the number of micro-batches done, after each.
///
/// # Errors
///
/// [`TrainError::Batch`] when `batches` fails, [`TrainError::EmptyEvaluation`] when it yields no target.
pub fn evaluate<M, T, E>(
    model: &M,
    batches: impl IntoIterator<Item = Result<T::Batch, E>>,
    task: &T,
    precision: Precision,
    progress: impl FnMut(u64),
) -> Result<Metrics, TrainError>
where
    T: Task<M>,
    E: Into<BoxError>,
{
    evaluate_batches(model, batches, task, precision, progress, |_, _| ())
}

/// As [`evaluate`], and calls `fold` with each batch and the task's predictions for it, a number for each example. They are read
/// from the device batch by batch.
///
/// # Errors
///
/// As [`evaluate`].
pub fn evaluate_examples<M, T, E>(
    model: &M,
    batches: impl IntoIterator<Item = Result<T::Batch, E>>,
    task: &T,
    precision: Precision,
    progress: impl FnMut(u64),
    mut fold: impl FnMut(&T::Batch, &[f32]),
) -> Result<Metrics, TrainError>
where
    T: Task<M>,
    E: Into<BoxError>,
{
    evaluate_batches(model, batches, task, precision, progress, |batch, sums| {
        if let Some(predictions) = &sums.predictions {
            let predictions: Vec<f32> = predictions.clone().into_data().iter::<f32>().collect();
            fold(batch, &predictions);
        }
    })
}

fn evaluate_batches<M, T, E>(
    model: &M,
    batches: impl IntoIterator<Item = Result<T::Batch, E>>,
    task: &T,
    precision: Precision,
    mut progress: impl FnMut(u64),
    mut observe: impl FnMut(&T::Batch, &Sums),
) -> Result<Metrics, TrainError>
where
    T: Task<M>,
    E: Into<BoxError>,
{
    let context = Context::evaluation(precision);
    let (mut totals, mut window) = (Totals::default(), Accumulator::default());
    let mut done = 0;
    for batch in batches {
        let batch = batch.map_err(|error| TrainError::Batch { source: error.into() })?;
        let sums = task.loss(model, &batch, &context);
        observe(&batch, &sums);
        window.add(sums, &task.size(&batch))?;
        done += 1;
        if done % READ_EVERY == 0 {
            totals.add(std::mem::take(&mut window).read(Vec::new()).0);
        }
        progress(done);
    }
    totals.add(window.read(Vec::new()).0);
    if totals.targets() == 0 {
        return Err(TrainError::EmptyEvaluation { batches: done });
    }
    Ok(Metrics::new(&totals))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::testing::{Regression, Row, Tiny, assert_close, rows};

    fn evaluated(batches: Vec<Vec<Row>>) -> Result<(Metrics, Vec<u64>), TrainError> {
        let mut seen = Vec::new();
        let batches = batches.into_iter().map(Ok::<_, Infallible>);
        let model = Tiny::new(&fornax_backend::test_device());
        evaluate(&model, batches, &Regression, Precision::F32, |done| seen.push(done)).map(|metrics| (metrics, seen))
    }

    #[test]
    fn metrics_do_not_depend_on_how_examples_are_batched() {
        let all: Vec<Row> = (0..60).flat_map(rows).collect();
        let (whole, _) = evaluated(vec![all.clone()]).unwrap();
        let (single, seen) = evaluated(all.iter().map(|row| vec![*row]).collect()).unwrap();
        assert_eq!((whole.targets, whole.tokens), (180, 360));
        assert_eq!((single.targets, single.tokens), (180, 360));
        assert_eq!(seen, (1..=180).collect::<Vec<_>>());
        let (whole, single) = (whole.with_bits_per_byte(4.0), single.with_bits_per_byte(4.0));
        for name in ["loss", "accuracy", "bits_per_byte"] {
            assert_close(&[single.get(name).unwrap()], &[whole.get(name).unwrap()], 1e-6);
        }
    }

    #[test]
    fn predictions_come_with_their_batch() {
        let model = Tiny::new(&fornax_backend::test_device());
        let batches: Vec<Vec<Row>> = vec![rows(0), rows(1)[..2].to_vec()];
        let mut seen: Vec<(usize, Vec<f64>)> = Vec::new();
        let given = batches.into_iter().map(Ok::<_, Infallible>);
        let metrics = evaluate_examples(
            &model,
            given,
            &Regression,
            Precision::F32,
            |_| (),
            |batch, predictions| {
                seen.push((batch.len(), predictions.iter().map(|&x| f64::from(x)).collect()));
            },
        );
        assert_eq!(seen.iter().map(|(rows, found)| (*rows, found.len())).collect::<Vec<_>>(), [(3, 3), (2, 2)]);
        // The rows' errors, as below.
        assert_close(&seen[0].1, &[2.703_125, 3.615_781_25, 4.035_781_25], 1e-5);
        let sum: f64 = seen.iter().flat_map(|(_, found)| found).sum();
        assert_close(&[metrics.unwrap().get("loss").unwrap()], &[sum / 5.0], 1e-6);
    }

    #[test]
    fn derived_metrics_follow_from_the_loss() {
        // The rows' errors are 2.70, 3.62 and 4.04; their mean is the first loss of PyTorch in the learner's tests.
        let (metrics, _) = evaluated(vec![rows(0)]).unwrap();
        let metrics = metrics.with_bits_per_byte(2.0);
        let get = |name| metrics.get(name).unwrap();
        assert_close(&[get("loss")], &[3.4515625], 1e-6);
        assert_close(&[get("accuracy")], &[2.0 / 3.0], 1e-6);
        assert_close(&[get("perplexity")], &[31.549_652], 1e-5);
        assert_close(&[get("bits_per_byte")], &[2.489_776], 1e-5);
    }

    #[test]
    fn a_split_without_targets_and_a_failing_loader_are_errors() {
        assert!(matches!(evaluated(vec![]), Err(TrainError::EmptyEvaluation { batches: 0 })));
        let batches = [Ok(rows(0)), Err("worker 3 died")];
        let model = Tiny::new(&fornax_backend::test_device());
        let error = evaluate(&model, batches, &Regression, Precision::F32, |_| {}).unwrap_err();
        assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "worker 3 died");
    }
}
