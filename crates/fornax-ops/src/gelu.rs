use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

use burn::{
    backend::Dispatch,
    tensor::{Tensor, activation},
};

use crate::{
    fused::{Curve, HostFused, is_on_host},
    slope::{constant, with_slope},
};

/// The Gaussian error linear unit `x Φ(x)`, exact (Hendrycks and Gimpel 2016).
///
/// Its derivative `Φ(x) + x φ(x)` is our own: Burn's is that of the tanh approximation on all backends but two, which is off by up to
/// 9e-4.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    curve(x, Curve::Gelu, gelu_reference)
}

/// `max(x, 0)`.
pub fn relu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    curve(x, Curve::Relu, activation::relu)
}

/// The sigmoid linear unit `x σ(x)` (Hendrycks and Gimpel 2016; Elfwing et al. 2017), also called swish.
pub fn silu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    curve(x, Curve::Silu, silu_reference)
}

/// The fused form of a function, where there is one.
fn curve<const D: usize>(x: Tensor<D>, curve: Curve, reference: fn(Tensor<D>) -> Tensor<D>) -> Tensor<D> {
    if is_on_host(&x.device()) {
        return Tensor::from_dispatch(Dispatch::fused_activation(x.into_dispatch(), curve));
    }
    reference(x)
}

/// [`gelu`] in tensor operations.
pub fn gelu_reference<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if !x.is_tracked() {
        return activation::gelu(x);
    }
    let at = constant(&x);
    let share = at.clone().mul_scalar(FRAC_1_SQRT_2).erf().add_scalar(1.0).mul_scalar(0.5);
    let value = at.clone() * share.clone();
    with_slope(x, value, || {
        let density = at.clone().square().mul_scalar(-0.5).exp().mul_scalar(0.5 * FRAC_2_SQRT_PI * FRAC_1_SQRT_2);
        at * density + share
    })
}

/// The tanh approximation of [`gelu`], as GPT-2 uses it: `x/2 (1 + tanh(√(2/π) (x + 0.044715 x³)))`.
///
/// Computed as `x σ(2u)`, which is the same function by `1 + tanh(u) = 2 σ(2u)`, with its derivative in closed form.
pub fn gelu_tanh<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    curve(x, Curve::GeluTanh, gelu_tanh_reference)
}

/// [`gelu_tanh`] in tensor operations.
pub fn gelu_tanh_reference<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    const LINEAR: f64 = 2.0 * FRAC_2_SQRT_PI * FRAC_1_SQRT_2;
    const CUBIC: f64 = 0.044715 * LINEAR;
    let at = constant(&x);
    let square = at.clone() * at.clone();
    let gate = activation::sigmoid(square.clone().mul_scalar(CUBIC).add_scalar(LINEAR) * at.clone());
    let value = at * gate.clone();
    with_slope(x, value.clone(), || {
        let inner = square.mul_scalar(3.0 * CUBIC).add_scalar(LINEAR);
        let rest = gate.clone().neg().add_scalar(1.0);
        inner * rest * value + gate
    })
}

/// [`silu`] in tensor operations.
pub fn silu_reference<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let at = constant(&x);
    let gate = activation::sigmoid(at.clone());
    let value = at * gate.clone();
    with_slope(x, value.clone(), || {
        let rest = gate.clone().neg().add_scalar(1.0);
        rest * value + gate
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use std::f64::consts::{FRAC_2_PI, PI};

    use super::*;
    use crate::testing::*;

    /// `x Φ(x)`, with Φ by Simpson's rule over its density.
    pub(crate) fn exact(x: f64) -> f64 {
        let density = |t: f64| (-t * t / 2.0).exp() / (2.0 * PI).sqrt();
        let steps = 2000;
        let h = x / f64::from(steps);
        let weight = |i: i32| if i == 0 || i == steps { 1.0 } else { f64::from(2 + 2 * (i % 2)) };
        let integral: f64 = (0..=steps).map(|i| weight(i) * density(f64::from(i) * h)).sum::<f64>() * h / 3.0;
        x * (0.5 + integral)
    }

    pub(crate) fn tanh_form(x: f64) -> f64 {
        x / 2.0 * (1.0 + (FRAC_2_PI.sqrt() * (x + 0.044715 * x.powi(3))).tanh())
    }

    pub(crate) fn sigmoid_form(x: f64) -> f64 {
        x / (1.0 + (-x).exp())
    }

    fn check(function: fn(Tensor<2>) -> Tensor<2>, reference: fn(f64) -> f64) {
        let x: Vec<f64> = (0..33).map(|i| f64::from(i - 16) * 0.25).collect();
        let all = |x: &[f64]| x.iter().map(|&x| reference(x)).collect::<Vec<_>>();
        let input = leaf(&x, [3, 11]);
        let output = function(input.clone());
        assert_close("output", &values(output.clone()), &all(&x));
        let grads = weighted(output, 2).backward();
        let expected = differences(&x, |x| weighted_f64(&all(x), 2));
        assert_close("gradient", &values(input.grad(&grads).unwrap()), &expected);
    }

    #[test]
    fn all_equal_their_definitions() {
        check(gelu, exact);
        check(gelu_tanh, tanh_form);
        check(silu, sigmoid_form);
    }

    #[test]
    fn large_inputs_are_safe() {
        let near = |found: Vec<f64>, wanted: [f64; 2]| {
            assert!(found.iter().zip(wanted).all(|(found, wanted)| (found - wanted).abs() < 1e-20), "{found:?}");
        };
        for function in [gelu_tanh, silu] {
            let x = leaf(&[-1e4, 1e4], [1, 2]);
            let output = function(x.clone());
            near(values(output.clone()), [0.0, 1e4]);
            near(values(x.grad(&output.sum().backward()).unwrap()), [0.0, 1.0]);
        }
    }
}
