use std::{collections::BTreeMap, f64::consts::LN_2};

use fornax_backend::Precision;
use fornax_ops::Context;

use crate::{BoxError, Task, Totals, TrainError, accumulator::Accumulator};

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
    mut progress: impl FnMut(u64),
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
        window.add(task.loss(model, &batch, &context), &task.size(&batch))?;
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
