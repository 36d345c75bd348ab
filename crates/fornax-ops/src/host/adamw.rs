//! Optimizer steps in one pass over memory.

use super::{PIECE, collect, each, math::sum, vectorised};

/// The factors of one update of AdamW: `m <- keep₀ m + add₀ g`, `v <- keep₁ v + add₁ g²`, `p <- decay p - rate m / (√v + eps)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Factors {
    /// What stays of the first and of the second moment.
    pub keep: [f32; 2],
    /// What the gradient and its square are multiplied with.
    pub add: [f32; 2],
    /// What stays of the value.
    pub decay: f32,
    /// How far the value goes.
    pub rate: f32,
    /// What is added to the root of the second moment.
    pub eps: f32,
}

/// Moves `value` and both moments in place.
pub(crate) fn step(value: &mut [f32], first: &mut [f32], second: &mut [f32], gradient: &[f32], factors: &Factors) {
    let Factors { keep, add, decay, rate, eps } = *factors;
    let run = |(((value, first), second), gradient): (((&mut [f32], &mut [f32]), &mut [f32]), &[f32])| {
        vectorised(
            #[inline(always)]
            || {
                let moments = first.iter_mut().zip(second.iter_mut());
                for ((value, (first, second)), gradient) in value.iter_mut().zip(moments).zip(gradient) {
                    *first = keep[0].mul_add(*first, add[0] * gradient);
                    *second = keep[1].mul_add(*second, add[1] * gradient * gradient);
                    *value = decay.mul_add(*value, -rate * (*first / (second.sqrt() + eps)));
                }
            },
        );
    };
    let moments = first.chunks_mut(PIECE).zip(second.chunks_mut(PIECE));
    let pieces = value.chunks_mut(PIECE).zip(moments).map(|(value, (first, second))| ((value, first), second));
    each(pieces.zip(gradient.chunks(PIECE)), run);
}

/// The sum of all elements' squares.
pub(crate) fn sum_of_squares(x: &[f32]) -> f64 {
    let run = |x: &[f32]| {
        let total = vectorised(
            #[inline(always)]
            || sum(x.len(), |i| x[i] * x[i]),
        );
        f64::from(total)
    };
    collect(x.chunks(PIECE), run).into_iter().sum()
}
