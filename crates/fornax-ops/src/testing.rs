//! What the tests of this crate share: random input, tensors with gradients, and comparison with an independent form in
//! `f64` by central differences.

use burn::tensor::{Device, Tensor, TensorData};
use fornax_backend::{Precision, test_device};

use crate::{Context, RandomKey, philox};

/// Central differences of an `f64` function with this step are good to about 1e-9.
const STEP: f64 = 1e-5;

pub(crate) fn autodiff_device() -> Device {
    test_device().autodiff()
}

pub(crate) fn evaluation() -> Context {
    Context::evaluation(Precision::F32)
}

pub(crate) fn training(seed: u64) -> Context {
    Context::training(Precision::F32, RandomKey::new(seed))
}

/// `len` numbers in `[-1.5, 1.5)`, a function of the seed.
pub(crate) fn numbers(len: usize, seed: u64) -> Vec<f64> {
    let key = RandomKey::new(seed);
    let mut out = Vec::with_capacity(len + philox::GROUP);
    let mut index = 0;
    while out.len() < len {
        // Exact in `f32`, so both sides start from the same numbers.
        out.extend(philox::group(key, index).map(|bits| f64::from(bits >> 12) / 2f64.powi(20) * 3.0 - 1.5));
        index += 1;
    }
    out.truncate(len);
    out.iter().map(|&x| f64::from(x as f32)).collect()
}

pub(crate) fn tensor<const D: usize>(values: &[f64], shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape).convert::<f32>(), device)
}

/// A leaf of the graph, on the device with gradients.
pub(crate) fn leaf<const D: usize>(values: &[f64], shape: [usize; D]) -> Tensor<D> {
    tensor(values, shape, &autodiff_device()).require_grad()
}

pub(crate) fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().convert::<f64>().iter::<f64>().collect()
}

/// `Σ weights · output`: a scalar whose gradient reaches every output with another weight.
pub(crate) fn weighted<const D: usize>(output: Tensor<D>, seed: u64) -> Tensor<1> {
    let shape = output.dims();
    let weights = numbers(shape.iter().product(), seed);
    let device = output.device();
    (output * tensor(&weights, shape, &device)).sum()
}

/// The same in `f64`.
pub(crate) fn weighted_f64(output: &[f64], seed: u64) -> f64 {
    output.iter().zip(numbers(output.len(), seed)).map(|(x, w)| x * w).sum()
}

/// The gradient of `function` at `at` by central differences.
pub(crate) fn differences(at: &[f64], function: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let mut point = at.to_vec();
    (0..at.len())
        .map(|i| {
            point[i] = at[i] + STEP;
            let above = function(&point);
            point[i] = at[i] - STEP;
            let below = function(&point);
            point[i] = at[i];
            (above - below) / (2.0 * STEP)
        })
        .collect()
}

/// Differences are at most `1e-5` of the largest expected value (1e-3 on GPUs), plus `1e-6`.
pub(crate) fn assert_close(what: &str, got: &[f64], expected: &[f64]) {
    assert_eq!(got.len(), expected.len(), "{what}: length");
    let largest = expected.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    let relative = if test_device() == Device::flex() { 1e-5 } else { 1e-3 };
    for (i, (a, b)) in got.iter().zip(expected).enumerate() {
        assert!((a - b).abs() <= relative * largest + 1e-6, "{what}[{i}]: {a} against {b} (largest {largest})");
    }
}
