use burn::{
    backend::Dispatch,
    tensor::{FloatDType, Tensor},
};

use crate::{
    fused::{Fused, Maybe, is_fused},
    host::norm::Centre,
};

/// Layer normalisation over the last axis, `(x - mean) / √(variance + eps) · gamma + beta` (Ba et al. 2016); the variance
/// is the biased one. Statistics are computed in `f32` whatever the input's type.
///
/// # Shapes
///
/// - `x`: `[..., size]`; `gamma`, `beta`: `[size]`; result as `x`, in `f32`
///
/// # Panics
///
/// When the last size of `x` isn't the size of `gamma` or `beta`.
pub fn layer_norm<const D: usize>(x: Tensor<D>, gamma: Tensor<1>, beta: Option<Tensor<1>>, eps: f64) -> Tensor<D> {
    assert_eq!(x.dims()[D - 1..], gamma.dims(), "layer_norm: last size of the input against gamma");
    let x = x.cast(FloatDType::F32);
    if is_fused(&x.device()) {
        return fused(x, gamma, beta, Centre::Mean, eps);
    }
    layer_norm_reference(x, gamma, beta, eps)
}

/// [`layer_norm`] in tensor operations.
pub fn layer_norm_reference<const D: usize>(
    x: Tensor<D>,
    gamma: Tensor<1>,
    beta: Option<Tensor<1>>,
    eps: f64,
) -> Tensor<D> {
    let mean = x.clone().mean_dim(D - 1);
    let scaled = scale_to_unit(x - mean, eps) * gamma.unsqueeze();
    match beta {
        Some(beta) => scaled + beta.unsqueeze(),
        None => scaled,
    }
}

/// Root-mean-square normalisation over the last axis, `x / √(mean(x²) + eps) · gamma` (Zhang and Sennrich 2019), in `f32`.
///
/// # Shapes
///
/// - `x`: `[..., size]`; `gamma`: `[size]`; result as `x`, in `f32`
///
/// # Panics
///
/// When the last size of `x` isn't the size of `gamma`.
pub fn rms_norm<const D: usize>(x: Tensor<D>, gamma: Tensor<1>, eps: f64) -> Tensor<D> {
    assert_eq!(x.dims()[D - 1..], gamma.dims(), "rms_norm: last size of the input against gamma");
    let x = x.cast(FloatDType::F32);
    if is_fused(&x.device()) {
        return fused(x, gamma, None, Centre::Zero, eps);
    }
    rms_norm_reference(x, gamma, eps)
}

/// [`rms_norm`] in tensor operations.
pub fn rms_norm_reference<const D: usize>(x: Tensor<D>, gamma: Tensor<1>, eps: f64) -> Tensor<D> {
    scale_to_unit(x, eps) * gamma.unsqueeze()
}

fn fused<const D: usize>(
    x: Tensor<D>,
    gamma: Tensor<1>,
    beta: Option<Tensor<1>>,
    centre: Centre,
    eps: f64,
) -> Tensor<D> {
    let (x, gamma) = (x.into_dispatch(), gamma.into_dispatch());
    Tensor::from_dispatch(Dispatch::fused_norm(x, gamma, Maybe::new(beta), centre, eps as f32))
}

fn scale_to_unit<const D: usize>(x: Tensor<D>, eps: f64) -> Tensor<D> {
    let mean_square = (x.clone() * x.clone()).mean_dim(D - 1);
    x * mean_square.add_scalar(eps).sqrt().recip()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;

    const EPS: f64 = 1e-3;
    const SHAPE: [usize; 3] = [2, 3, 5];

    /// `x`, gamma and beta; without centring, the RMS form.
    fn reference([x, gamma, beta]: &[Vec<f64>; 3], centred: bool) -> Vec<f64> {
        let size = gamma.len();
        let row = |row: &[f64]| {
            let mean = if centred { row.iter().sum::<f64>() / size as f64 } else { 0.0 };
            let square = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / size as f64;
            let scaled = |i: usize| (row[i] - mean) / (square + EPS).sqrt() * gamma[i] + beta[i];
            (0..size).map(scaled).collect::<Vec<_>>()
        };
        x.chunks(size).flat_map(row).collect()
    }

    fn check(centred: bool, with_beta: bool) {
        let beta = if with_beta { numbers(5, 3) } else { vec![0.0; 5] };
        let inputs = [numbers(30, 1).iter().map(|x| 100.0 + x).collect(), numbers(5, 2), beta];
        let (x, gamma, beta) = (leaf(&inputs[0], SHAPE), leaf(&inputs[1], [5]), leaf(&inputs[2], [5]));
        let output = match centred {
            true => layer_norm(x.clone(), gamma.clone(), with_beta.then(|| beta.clone()), EPS),
            false => rms_norm(x.clone(), gamma.clone(), EPS),
        };
        // The input is far from 0, so f32 keeps a few digits less of what is left after centring.
        let near = |what: &str, got: Vec<f64>, expected: Vec<f64>| {
            let largest = expected.iter().fold(0.0f64, |m, x| m.max(x.abs()));
            for (a, b) in got.iter().zip(&expected) {
                assert!((a - b).abs() <= 2e-4 * largest + 1e-6, "{what}: {a} against {b}");
            }
        };
        near("output", values(output.clone()), reference(&inputs, centred));
        let grads = weighted(output, 8).backward();
        let expected = |i: usize| {
            differences(&inputs[i], |at| {
                let mut inputs = inputs.clone();
                inputs[i] = at.to_vec();
                weighted_f64(&reference(&inputs, centred), 8)
            })
        };
        near("x", values(x.grad(&grads).unwrap()), expected(0));
        near("gamma", values(gamma.grad(&grads).unwrap()), expected(1));
        if with_beta {
            near("beta", values(beta.grad(&grads).unwrap()), expected(2));
        }
    }

    #[test]
    fn layer_norm_equals_the_definition() {
        check(true, true);
        check(true, false);
    }

    #[test]
    fn rms_norm_equals_the_definition() {
        check(false, false);
    }

    #[test]
    fn a_constant_row_is_no_division_by_zero() {
        let x = tensor(&[4.0; 5], [1, 5], &autodiff_device());
        let gamma = tensor(&[1.0; 5], [5], &autodiff_device());
        assert_eq!(values(layer_norm(x, gamma, None, 1e-5)), [0.0; 5]);
    }
}
