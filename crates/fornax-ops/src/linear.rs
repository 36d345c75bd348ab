use burn::tensor::{FloatDType, Tensor, module};

use crate::Context;

/// `x · weight + bias`, the product in [`Context::precision`], the result in `f32`.
///
/// # Shapes
///
/// - `x`: `[..., input_size]`
/// - `weight`: `[input_size, output_size]`
/// - `bias`: `[output_size]`
/// - result: `[..., output_size]`
///
/// # Panics
///
/// When the last size of `x` isn't the first size of `weight`.
pub fn linear<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    context: &Context,
) -> Tensor<D> {
    assert_eq!(x.dims()[D - 1], weight.dims()[0], "linear: last size of the input against first size of the weight");
    let dtype = context.precision().dtype();
    let (x, weight) = (x.cast(dtype), weight.cast(dtype));
    let bias = bias.map(|bias| bias.cast(dtype));
    // A product of mixed types is silently wrong on some backends, so nothing uncast may get here.
    assert_eq!(x.dtype(), weight.dtype(), "linear: element types of input and weight");
    module::linear(x, weight, bias).cast(FloatDType::F32)
}

/// The product of two batches of matrices in [`Context::precision`], the result in `f32`.
///
/// # Shapes
///
/// `[..., m, k]` and `[..., k, n]` give `[..., m, n]`; leading sizes broadcast.
///
/// # Panics
///
/// When the shapes don't fit.
pub fn matmul<const D: usize>(lhs: Tensor<D>, rhs: Tensor<D>, context: &Context) -> Tensor<D> {
    let dtype = context.precision().dtype();
    let (lhs, rhs) = (lhs.cast(dtype), rhs.cast(dtype));
    assert_eq!(lhs.dtype(), rhs.dtype(), "matmul: element types of both sides");
    lhs.matmul(rhs).cast(FloatDType::F32)
}
