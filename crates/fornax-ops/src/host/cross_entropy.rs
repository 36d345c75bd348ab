//! Cross-entropy of rows of logits.

use super::{
    collect, each,
    math::{exp, maximum, sum},
    vectorised,
};

/// Rows of a piece.
const ROWS: usize = 16;

/// Sums over the targets that count.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Sums {
    /// With smoothing.
    pub(crate) loss: f64,
    /// Without.
    pub(crate) negative_log_likelihood: f64,
    /// How many targets count.
    pub(crate) count: f64,
    /// How many have the largest logit.
    pub(crate) correct: f64,
}

impl std::ops::Add for Sums {
    type Output = Self;

    fn add(self, more: Self) -> Self {
        Self {
            loss: self.loss + more.loss,
            negative_log_likelihood: self.negative_log_likelihood + more.negative_log_likelihood,
            count: self.count + more.count,
            correct: self.correct + more.correct,
        }
    }
}

/// The sums over all rows, of which `None` has no target, and `ln Σ exp` of each row that has one.
pub(crate) fn forward(
    logits: &[f32],
    classes: usize,
    targets: &[Option<usize>],
    smoothing: f32,
    log_sums: &mut [f32],
) -> Sums {
    let run = |((logits, targets), log_sums): ((&[f32], &[Option<usize>]), &mut [f32])| {
        let mut sums = Sums::default();
        vectorised(
            #[inline(always)]
            || {
                for ((row, target), log_sum) in logits.chunks_exact(classes).zip(targets).zip(log_sums.iter_mut()) {
                    let Some(target) = *target else {
                        *log_sum = 0.0;
                        continue;
                    };
                    let top = maximum(row);
                    let total = sum(classes, |i| exp(row[i] - top));
                    *log_sum = top + total.ln();
                    let own = total.ln() - (row[target] - top);
                    let mut loss = own;
                    if smoothing > 0.0 {
                        let mean = sum(classes, |i| row[i] - top) / classes as f32;
                        loss += smoothing * ((row[target] - top) - mean);
                    }
                    let first = row.iter().position(|logit| *logit == top);
                    sums = sums
                        + Sums {
                            loss: f64::from(loss),
                            negative_log_likelihood: f64::from(own),
                            count: 1.0,
                            correct: if first == Some(target) { 1.0 } else { 0.0 },
                        };
                }
            },
        );
        sums
    };
    let pieces = logits.chunks(ROWS * classes).zip(targets.chunks(ROWS)).zip(log_sums.chunks_mut(ROWS));
    collect(pieces, run).into_iter().fold(Sums::default(), |sum, more| sum + more)
}

/// The gradient of the loss, times `scale`, in the memory of the logits: `softmax - (1 - s) [target] - s / classes`, and zeros where there
/// is no target.
pub(crate) fn backward(
    logits: &mut [f32],
    classes: usize,
    targets: &[Option<usize>],
    smoothing: f32,
    log_sums: &[f32],
    scale: f32,
) {
    let spread = smoothing / classes as f32;
    let run = |((logits, targets), log_sums): ((&mut [f32], &[Option<usize>]), &[f32])| {
        vectorised(
            #[inline(always)]
            || {
                for ((row, target), log_sum) in logits.chunks_exact_mut(classes).zip(targets).zip(log_sums) {
                    let Some(target) = *target else {
                        row.fill(0.0);
                        continue;
                    };
                    row.iter_mut().for_each(|logit| *logit = (exp(*logit - log_sum) - spread) * scale);
                    row[target] -= (1.0 - smoothing) * scale;
                }
            },
        );
    };
    each(logits.chunks_mut(ROWS * classes).zip(targets.chunks(ROWS)).zip(log_sums.chunks(ROWS)), run);
}
