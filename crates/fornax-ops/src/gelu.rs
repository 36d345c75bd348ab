use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

use burn::tensor::{Tensor, activation};

/// The Gaussian error linear unit `x Φ(x)`, exact (Hendrycks and Gimpel 2016).
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    activation::gelu(x)
}

/// The tanh approximation of [`gelu`], as GPT-2 uses it: `x/2 (1 + tanh(√(2/π) (x + 0.044715 x³)))`.
///
/// Computed as `x σ(2u)`, which is the same function by `1 + tanh(u) = 2 σ(2u)`: one transcendental pass fewer to
/// differentiate, since the sigmoid has a backward of its own.
pub fn gelu_tanh<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    const LINEAR: f64 = 2.0 * FRAC_2_SQRT_PI * FRAC_1_SQRT_2;
    const CUBIC: f64 = 0.044715 * LINEAR;
    let slope = (x.clone() * x.clone()).mul_scalar(CUBIC).add_scalar(LINEAR);
    x.clone() * activation::sigmoid(x * slope)
}
