use burn::tensor::{Bool, Tensor};

use super::{AdafactorConfig, Kept, Update, root_mean_square, size_of, spread};

/// Keeps the mean of squared gradients from zero.
const SQUARE_EPSILON: f64 = 1e-30;

/// Adafactor (Shazeer and Stern 2018, algorithms 4 and 5) with the semantics of Hugging Face's `Adafactor`, in `f32`. For a
/// parameter of two and more dimensions, `rows` and `columns` being means over the last and the last but one:
///
/// ```text
/// keep <- 1 - t^decay_rate
/// r <- keep r + (1 - keep) rows(g^2 + 1e-30)
/// c <- keep c + (1 - keep) columns(g^2 + 1e-30)
/// u <- g / sqrt(r c / columns(r))
/// u <- u / max(1, RMS(u) / clip_threshold)
/// s <- lr max(1e-3, RMS(p)), or lr alone without scale_parameter
/// m <- beta1 m + (1 - beta1) s u, or s u alone without beta1
/// p <- p (1 - s weight_decay) - m
/// ```
///
/// A vector keeps its whole second moment in the place of `r c / columns(r)`.
///
/// Without `beta1` nothing of the parameter's size is kept. Each parameter costs about 16 passes over its elements, and three
/// temporaries of its own size.
#[derive(Debug)]
pub(super) struct Adafactor {
    config: AdafactorConfig,
}

/// The factors of one update, shape `[1]` on the device.
///
/// In a skipped update what is kept is multiplied by 1 and 0 is added to it. The direction is filled with 0 besides: before the
/// first update that is not skipped it would be 0/0.
pub(super) struct Step {
    scale: Tensor<1>,
    keep_second: Tensor<1>,
    add_second: Tensor<1>,
    /// For `beta1`.
    first: Option<[Tensor<1>; 2]>,
    rate: Tensor<1>,
    weight_decay: f64,
    clip_threshold: f64,
    scale_parameter: bool,
    skip: Tensor<1, Bool>,
}

impl Adafactor {
    pub(super) fn new(config: AdafactorConfig) -> Self {
        Self { config }
    }

    pub(super) fn slots(&self, shape: &[usize]) -> Vec<(&'static str, Vec<usize>)> {
        let without = |dimension: usize| {
            let mut shape = shape.to_vec();
            shape[dimension] = 1;
            shape
        };
        let mut slots = match shape.len() {
            0 | 1 => vec![("second_moment", shape.to_vec())],
            rank => vec![("second_moment_rows", without(rank - 1)), ("second_moment_columns", without(rank - 2))],
        };
        if self.config.beta1.is_some() {
            slots.push(("first_moment", shape.to_vec()));
        }
        slots
    }

    pub(super) fn begin(&self, steps: u64, weight_decay: f64, update: &Update) -> Step {
        let AdafactorConfig { beta1, clip_threshold, decay_rate, scale_parameter } = self.config;
        let constant = |value: f64, skipped: f64| update.scale.full_like(value).mask_fill(update.skip.clone(), skipped);
        let add = (steps as f64).powf(decay_rate);
        Step {
            scale: update.scale.clone(),
            keep_second: constant(1.0 - add, 1.0),
            add_second: constant(add, 0.0),
            first: beta1.map(|beta1| [constant(beta1, 1.0), constant(1.0 - beta1, 0.0)]),
            rate: constant(update.lr, 0.0),
            weight_decay,
            clip_threshold,
            scale_parameter,
            skip: update.skip.clone(),
        }
    }
}

impl Step {
    pub(super) fn apply<const D: usize>(
        &self,
        value: Tensor<D>,
        gradient: Tensor<D>,
        kept: Kept<D>,
        decay: bool,
    ) -> (Tensor<D>, Kept<D>) {
        let skip = || self.skip.clone().reshape([1; D]);
        let gradient = gradient.mul(spread(&self.scale)).mask_fill(skip(), 0.0);
        let mut kept = kept.into_iter();
        let (direction, mut keep) = self.direction(gradient, &mut kept);
        let excess = root_mean_square(direction.clone()).div_scalar(self.clip_threshold).clamp_min(1.0);
        let rate = if self.scale_parameter { self.rate.clone() * size_of(&value) } else { self.rate.clone() };
        let mut step = direction.mul(spread(&(rate.clone() / excess))).mask_fill(skip(), 0.0);
        if let Some([keep_first, add_first]) = &self.first {
            let first = kept.next().unwrap_or_else(|| value.zeros_like());
            let first = first.mul(spread(keep_first)).add(step.mul(spread(add_first)));
            step = first.clone().mask_fill(skip(), 0.0);
            keep.push(first);
        }
        let value = if decay {
            let keep_value = rate.mul_scalar(-self.weight_decay).add_scalar(1.0);
            value.mul(spread(&keep_value))
        } else {
            value
        };
        (value.sub(step), keep)
    }

    /// The gradient over the root of the second moment, and what is kept of that.
    fn direction<const D: usize>(
        &self,
        gradient: Tensor<D>,
        kept: &mut impl Iterator<Item = Tensor<D>>,
    ) -> (Tensor<D>, Kept<D>) {
        let squares = gradient.clone().square().add_scalar(SQUARE_EPSILON);
        let mut next = |now: Tensor<D>| {
            let add = now.mul(spread(&self.add_second));
            match kept.next() {
                Some(moment) => moment.mul(spread(&self.keep_second)).add(add),
                None => add,
            }
        };
        if D == 1 {
            let second = next(squares);
            return (gradient.div(second.clone().sqrt()), vec![second]);
        }
        let rows = next(squares.clone().mean_dim(D - 1));
        let columns = next(squares.mean_dim(D - 2));
        // Two roots, because the product of two means of squares would leave the range of `f32`.
        let share = rows.clone().div(rows.clone().mean_dim(D - 2)).sqrt();
        (gradient.div(share).div(columns.clone().sqrt()), vec![rows, columns])
    }
}
