//! Functions applied element by element.

use super::{PIECE, each, math, vectorised};
use crate::{RandomKey, philox};

/// Blocks of noise that belong to one piece.
const GROUPS: usize = PIECE / philox::GROUP;

/// `out[i] = f(x[i])`.
pub(crate) fn map(x: &[f32], out: &mut [f32], f: impl Fn(f32) -> f32 + Sync) {
    let run = |(x, out): (&[f32], &mut [f32])| {
        vectorised(
            #[inline(always)]
            || {
                for (out, x) in out.iter_mut().zip(x) {
                    *out = f(*x);
                }
            },
        );
    };
    each(x.chunks(PIECE).zip(out.chunks_mut(PIECE)), run);
}

/// `out[i] = f(x[i], y[i])`.
pub(crate) fn map2(x: &[f32], y: &[f32], out: &mut [f32], f: impl Fn(f32, f32) -> f32 + Sync) {
    let run = |((x, y), out): ((&[f32], &[f32]), &mut [f32])| {
        vectorised(
            #[inline(always)]
            || {
                for ((out, x), y) in out.iter_mut().zip(x).zip(y) {
                    *out = f(*x, *y);
                }
            },
        );
    };
    each(x.chunks(PIECE).zip(y.chunks(PIECE)).zip(out.chunks_mut(PIECE)), run);
}

/// `x Φ(x)`.
#[inline(always)]
pub(crate) fn gelu(x: f32) -> f32 {
    x * math::normal(x).0
}

/// The derivative of [`gelu`].
#[inline(always)]
pub(crate) fn gelu_slope(x: f32) -> f32 {
    let (share, density) = math::normal(x);
    x.mul_add(density, share)
}

/// `2 √(2/π)`, and the same times 0.044715: `x σ(2u)` is the tanh approximation of [`gelu`].
const LINEAR: f32 = 1.595_769;
const CUBIC: f32 = 0.071_354_814;

/// The tanh approximation of [`gelu`].
#[inline(always)]
pub(crate) fn gelu_tanh(x: f32) -> f32 {
    x * math::sigmoid(x * (x * x).mul_add(CUBIC, LINEAR))
}

/// The derivative of [`gelu_tanh`].
#[inline(always)]
pub(crate) fn gelu_tanh_slope(x: f32) -> f32 {
    let gate = math::sigmoid(x * (x * x).mul_add(CUBIC, LINEAR));
    let inner = (x * x).mul_add(3.0 * CUBIC, LINEAR);
    (x * inner * (1.0 - gate)).mul_add(gate, gate)
}

/// What dropout multiplies elements with: 0 or `1 / (1 - probability)`, as a function of key and position.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Noise {
    pub(crate) key: RandomKey,
    /// An element is dropped when its 32 bits, as a fraction of 2³², are below the probability.
    pub(crate) threshold: u32,
    pub(crate) scale: f32,
}

impl Noise {
    /// For a probability between 0 and 1; from 1 on, everything is dropped.
    pub(crate) fn new(probability: f64, key: RandomKey) -> Self {
        let all = probability >= 1.0;
        let scale = if all { 0.0 } else { (1.0 / (1.0 - probability)) as f32 };
        Self { key, threshold: (probability * 2f64.powi(32)) as u32, scale }
    }

    #[inline(always)]
    fn factor(&self, bits: u32) -> f32 {
        if bits < self.threshold { 0.0 } else { self.scale }
    }

    /// The factors of the positions from `first` on.
    #[inline(always)]
    pub(crate) fn fill(&self, first: u64, out: &mut [f32]) {
        let mut at = 0;
        while at < out.len() {
            let position = first + at as u64;
            let (index, offset) = (position / philox::GROUP as u64, (position % philox::GROUP as u64) as usize);
            let bits = philox::group(self.key, index);
            let len = (philox::GROUP - offset).min(out.len() - at);
            for (out, bits) in out[at..at + len].iter_mut().zip(&bits[offset..]) {
                *out = self.factor(*bits);
            }
            at += len;
        }
    }

    /// The factors of the first `len` positions.
    pub(crate) fn factors(&self, len: usize) -> Vec<f32> {
        let mut factors = vec![0.0; len];
        let fill = |(piece, out): (usize, &mut [f32])| {
            vectorised(
                #[inline(always)]
                || self.fill((piece * PIECE) as u64, out),
            );
        };
        each(factors.chunks_mut(PIECE).enumerate(), fill);
        factors
    }

    /// `out[i] = x[i] · factor of i`.
    pub(crate) fn apply(&self, x: &[f32], out: &mut [f32]) {
        let run = |(piece, (x, out)): (usize, (&[f32], &mut [f32]))| {
            vectorised(
                #[inline(always)]
                || {
                    let groups = x.chunks(philox::GROUP).zip(out.chunks_mut(philox::GROUP)).enumerate();
                    for (group, (x, out)) in groups {
                        let bits = philox::group(self.key, (piece * GROUPS + group) as u64);
                        for ((out, x), bits) in out.iter_mut().zip(x).zip(bits) {
                            *out = x * self.factor(bits);
                        }
                    }
                },
            );
        };
        each(x.chunks(PIECE).zip(out.chunks_mut(PIECE)).enumerate(), run);
    }
}
