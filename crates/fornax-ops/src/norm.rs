use burn::tensor::{FloatDType, Tensor};

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
    scale_to_unit(x.cast(FloatDType::F32), eps) * gamma.unsqueeze()
}

fn scale_to_unit<const D: usize>(x: Tensor<D>, eps: f64) -> Tensor<D> {
    let mean_square = (x.clone() * x.clone()).mean_dim(D - 1);
    x * mean_square.add_scalar(eps).sqrt().recip()
}
