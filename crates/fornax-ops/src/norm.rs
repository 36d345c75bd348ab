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
    if is_fused(&x.device()) {
        return fused(x, None, gamma, beta, Centre::Mean, eps);
    }
    layer_norm_reference(x.cast(FloatDType::F32), gamma, beta, eps)
}

/// `layer_norm(x + residual)` as one operation, which gives both the same gradient: what follows each layer of a block with norms after
/// its layers. On CPUs the sum takes the memory of `x` if nobody else has it.
///
/// A block with norms before its layers needs the sum besides its norm, and a node of Burn's graph has one output: it adds first.
///
/// # Shapes
///
/// - `x`, `residual`: `[..., size]`; `gamma`, `beta`: `[size]`; result as `x`, in `f32`
///
/// # Panics
///
/// When `x` and `residual` differ in shape, or their last size isn't the size of `gamma` or `beta`.
pub fn add_layer_norm<const D: usize>(
    x: Tensor<D>,
    residual: Tensor<D>,
    gamma: Tensor<1>,
    beta: Option<Tensor<1>>,
    eps: f64,
) -> Tensor<D> {
    assert_eq!(x.dims(), residual.dims(), "add_layer_norm: shapes of the input and of what is added");
    assert_eq!(x.dims()[D - 1..], gamma.dims(), "add_layer_norm: last size of the input against gamma");
    if is_fused(&x.device()) {
        return fused(x, Some(residual), gamma, beta, Centre::Mean, eps);
    }
    layer_norm_reference(sum_in_f32(x, residual), gamma, beta, eps)
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
    if is_fused(&x.device()) {
        return fused(x, None, gamma, None, Centre::Zero, eps);
    }
    rms_norm_reference(x.cast(FloatDType::F32), gamma, eps)
}

/// `rms_norm(x + residual)` as one operation; all else as [`add_layer_norm`].
pub fn add_rms_norm<const D: usize>(x: Tensor<D>, residual: Tensor<D>, gamma: Tensor<1>, eps: f64) -> Tensor<D> {
    assert_eq!(x.dims(), residual.dims(), "add_rms_norm: shapes of the input and of what is added");
    assert_eq!(x.dims()[D - 1..], gamma.dims(), "add_rms_norm: last size of the input against gamma");
    if is_fused(&x.device()) {
        return fused(x, Some(residual), gamma, None, Centre::Zero, eps);
    }
    rms_norm_reference(sum_in_f32(x, residual), gamma, eps)
}

/// [`rms_norm`] in tensor operations.
pub fn rms_norm_reference<const D: usize>(x: Tensor<D>, gamma: Tensor<1>, eps: f64) -> Tensor<D> {
    scale_to_unit(x, eps) * gamma.unsqueeze()
}

/// The fused form, of `x` or of its sum with a residual.
fn fused<const D: usize>(
    x: Tensor<D>,
    residual: Option<Tensor<D>>,
    gamma: Tensor<1>,
    beta: Option<Tensor<1>>,
    centre: Centre,
    eps: f64,
) -> Tensor<D> {
    let residual = Maybe::new(residual.map(|residual| residual.cast(FloatDType::F32)));
    let (x, gamma) = (x.cast(FloatDType::F32).into_dispatch(), gamma.into_dispatch());
    Tensor::from_dispatch(Dispatch::fused_norm(x, residual, gamma, Maybe::new(beta), centre, eps as f32))
}

fn sum_in_f32<const D: usize>(x: Tensor<D>, residual: Tensor<D>) -> Tensor<D> {
    x.cast(FloatDType::F32) + residual.cast(FloatDType::F32)
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

    /// `x`, what is added to it, gamma and beta; without centring, the RMS form.
    fn reference([x, residual, gamma, beta]: &[Vec<f64>; 4], centred: bool) -> Vec<f64> {
        let size = gamma.len();
        let row = |row: &[f64]| {
            let mean = if centred { row.iter().sum::<f64>() / size as f64 } else { 0.0 };
            let square = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / size as f64;
            let scaled = |i: usize| (row[i] - mean) / (square + EPS).sqrt() * gamma[i] + beta[i];
            (0..size).map(scaled).collect::<Vec<_>>()
        };
        let sum: Vec<f64> = x.iter().zip(residual).map(|(x, residual)| x + residual).collect();
        sum.chunks(size).flat_map(row).collect()
    }

    #[derive(Clone, Copy, PartialEq)]
    enum Residual {
        None,
        Added,
    }

    fn check(centred: bool, with_beta: bool, added: Residual) {
        let added = added == Residual::Added;
        let residual = if added { numbers(30, 4) } else { vec![0.0; 30] };
        let beta = if with_beta { numbers(5, 3) } else { vec![0.0; 5] };
        let inputs = [numbers(30, 1).iter().map(|x| 100.0 + x).collect(), residual, numbers(5, 2), beta];
        let [x, residual] = [0, 1].map(|i| leaf(&inputs[i], SHAPE));
        let [gamma, beta] = [2, 3].map(|i| leaf(&inputs[i], [5]));
        let output = {
            let (x, residual, gamma) = (x.clone(), residual.clone(), gamma.clone());
            let beta = with_beta.then(|| beta.clone());
            match (centred, added) {
                (true, false) => layer_norm(x, gamma, beta, EPS),
                (true, true) => add_layer_norm(x, residual, gamma, beta, EPS),
                (false, false) => rms_norm(x, gamma, EPS),
                (false, true) => add_rms_norm(x, residual, gamma, EPS),
            }
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
        near("gamma", values(gamma.grad(&grads).unwrap()), expected(2));
        if added {
            near("residual", values(residual.grad(&grads).unwrap()), expected(1));
        }
        if with_beta {
            near("beta", values(beta.grad(&grads).unwrap()), expected(3));
        }
    }

    #[test]
    fn layer_norm_equals_the_definition() {
        for residual in [Residual::None, Residual::Added] {
            check(true, true, residual);
            check(true, false, residual);
        }
    }

    #[test]
    fn rms_norm_equals_the_definition() {
        check(false, false, Residual::None);
        check(false, false, Residual::Added);
    }

    /// The sum is made in memory that its inputs may still need.
    #[test]
    fn the_inputs_of_a_sum_stay_as_they_are() {
        let numbers = numbers(30, 1);
        let gamma = || tensor(&[1.0; 5], [5], &autodiff_device());
        let x = leaf(&numbers, SHAPE);
        let output = add_layer_norm(x.clone(), x.clone(), gamma(), None, EPS);
        assert_eq!(values(x.clone()), numbers);
        let doubled = layer_norm(x.clone() + x.clone(), gamma(), None, EPS);
        assert_eq!(values(output.clone()), values(doubled.clone()));
        let gradient = |output: Tensor<3>| values(x.grad(&weighted(output, 2).backward()).unwrap());
        assert_eq!(gradient(output), gradient(doubled));
    }

    #[test]
    #[should_panic(expected = "shapes of the input and of what is added")]
    fn a_residual_of_another_shape_is_refused() {
        let gamma = tensor(&[1.0; 5], [5], &autodiff_device());
        let _ = add_rms_norm(leaf(&[1.0; 10], [2, 5]), leaf(&[1.0; 5], [1, 5]), gamma, EPS);
    }

    #[test]
    fn a_constant_row_is_no_division_by_zero() {
        let x = tensor(&[4.0; 5], [1, 5], &autodiff_device());
        let gamma = tensor(&[1.0; 5], [5], &autodiff_device());
        assert_eq!(values(layer_norm(x, gamma, None, 1e-5)), [0.0; 5]);
    }
}
