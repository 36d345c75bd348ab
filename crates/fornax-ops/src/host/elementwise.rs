//! Functions applied element by element.

use super::{PIECE, each, math, vectorised};
use crate::{RandomKey, philox};

/// Blocks of noise that belong to one piece.
const GROUPS: usize = PIECE / philox::GROUP;

/// `out[i] = f(x[i])`.
fn map(x: &[f32], out: &mut [f32], f: impl Fn(f32) -> f32 + Sync) {
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
fn map2(x: &[f32], y: &[f32], out: &mut [f32], f: impl Fn(f32, f32) -> f32 + Sync) {
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

/// `out[i] = f(x[i])`.
pub(crate) fn values(x: &[f32], out: &mut [f32], f: impl Fn(f32) -> Point + Sync) {
    map(
        x,
        out,
        #[inline(always)]
        |x| f(x).value,
    );
}

/// `out[i] = gradient[i] · f'(x[i])`, the gradient of [`values`].
pub(crate) fn slopes(x: &[f32], gradient: &[f32], out: &mut [f32], f: impl Fn(f32) -> Point + Sync) {
    map2(
        x,
        gradient,
        out,
        #[inline(always)]
        |x, gradient| gradient * f(x).slope,
    );
}

/// `out[i] = f(gate[i]) · up[i]`.
pub(crate) fn gated(gate: &[f32], up: &[f32], out: &mut [f32], f: impl Fn(f32) -> Point + Sync) {
    map2(
        gate,
        up,
        out,
        #[inline(always)]
        |gate, up| f(gate).value * up,
    );
}

/// The gradients of both inputs of [`gated`], from one evaluation of `f`.
pub(crate) fn gated_slopes(
    gate: &[f32],
    up: &[f32],
    gradient: &[f32],
    [gate_gradient, up_gradient]: [&mut [f32]; 2],
    f: impl Fn(f32) -> Point + Sync,
) {
    let run = |((inputs, gradient), (of_gate, of_up)): (((&[f32], &[f32]), &[f32]), (&mut [f32], &mut [f32]))| {
        let (gate, up) = inputs;
        vectorised(
            #[inline(always)]
            || {
                let inputs = gate.iter().zip(up).zip(gradient);
                for (((gate, up), gradient), (of_gate, of_up)) in inputs.zip(of_gate.iter_mut().zip(&mut *of_up)) {
                    let Point { value, slope } = f(*gate);
                    *of_gate = gradient * up * slope;
                    *of_up = gradient * value;
                }
            },
        );
    };
    let inputs = gate.chunks(PIECE).zip(up.chunks(PIECE)).zip(gradient.chunks(PIECE));
    each(inputs.zip(gate_gradient.chunks_mut(PIECE).zip(up_gradient.chunks_mut(PIECE))), run);
}

/// A function of one number at a point. Once inlined, the half that a loop doesn't read costs nothing.
#[derive(Clone, Copy)]
pub(crate) struct Point {
    value: f32,
    /// The derivative.
    slope: f32,
}

/// `x Φ(x)`.
#[inline(always)]
pub(crate) fn gelu(x: f32) -> Point {
    let (share, density) = math::normal(x);
    Point { value: x * share, slope: x.mul_add(density, share) }
}

/// `2 √(2/π)`, and the same times 0.044715: `x σ(2u)` is the tanh approximation of [`gelu`].
const LINEAR: f32 = 1.595_769;
const CUBIC: f32 = 0.071_354_814;

/// The tanh approximation of [`gelu`].
#[inline(always)]
pub(crate) fn gelu_tanh(x: f32) -> Point {
    let gate = math::sigmoid(x * (x * x).mul_add(CUBIC, LINEAR));
    let inner = (x * x).mul_add(3.0 * CUBIC, LINEAR);
    Point { value: x * gate, slope: (x * inner * (1.0 - gate)).mul_add(gate, gate) }
}

/// `x σ(x)`.
#[inline(always)]
pub(crate) fn silu(x: f32) -> Point {
    let gate = math::sigmoid(x);
    Point { value: x * gate, slope: (x * (1.0 - gate)).mul_add(gate, gate) }
}

/// `max(x, 0)`; a NaN stays one.
#[inline(always)]
pub(crate) fn relu(x: f32) -> Point {
    Point { value: if x < 0.0 { 0.0 } else { x }, slope: if x > 0.0 { 1.0 } else { 0.0 } }
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
