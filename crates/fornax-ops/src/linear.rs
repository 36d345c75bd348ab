use burn::{
    backend::Dispatch,
    tensor::{FloatDType, Tensor, module},
};

use crate::{
    Context,
    fused::{HostFused, Maybe, rounds},
};

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
    if let Some(bf16) = rounds(context.precision(), &x.device()) {
        let (x, weight, bias) = (x.into_dispatch(), weight.into_dispatch(), Maybe::new(bias));
        return Tensor::from_dispatch(Dispatch::fused_linear(x, weight, bias, bf16));
    }
    reference(x, weight, bias, context.precision().dtype())
}

/// [`linear`] in tensor operations.
pub fn reference<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    dtype: FloatDType,
) -> Tensor<D> {
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

#[cfg(test)]
mod tests {
    use burn::tensor::DType;
    use fornax_backend::Precision;

    use super::*;
    use crate::testing::*;

    /// `x`, weight `[3, 4]` and bias.
    fn reference([x, weight, bias]: &[Vec<f64>; 3]) -> Vec<f64> {
        let row = |row: &[f64]| {
            let out = |o: usize| (0..3).map(|i| row[i] * weight[i * 4 + o]).sum::<f64>() + bias[o];
            (0..4).map(out).collect::<Vec<_>>()
        };
        x.chunks(3).flat_map(row).collect()
    }

    #[test]
    fn equals_the_definition() {
        for with_bias in [true, false] {
            let bias = if with_bias { numbers(4, 3) } else { vec![0.0; 4] };
            let inputs = [numbers(2 * 5 * 3, 1), numbers(12, 2), bias];
            let (x, weight, bias) = (leaf(&inputs[0], [2, 5, 3]), leaf(&inputs[1], [3, 4]), leaf(&inputs[2], [4]));
            let output = linear(x.clone(), weight.clone(), with_bias.then(|| bias.clone()), &evaluation());
            assert_eq!(output.dims(), [2, 5, 4]);
            assert_close("output", &values(output.clone()), &reference(&inputs));
            let grads = weighted(output, 5).backward();
            let expected = |i: usize| {
                differences(&inputs[i], |at| {
                    let mut inputs = inputs.clone();
                    inputs[i] = at.to_vec();
                    weighted_f64(&reference(&inputs), 5)
                })
            };
            assert_close("x", &values(x.grad(&grads).unwrap()), &expected(0));
            assert_close("weight", &values(weight.grad(&grads).unwrap()), &expected(1));
            if with_bias {
                assert_close("bias", &values(bias.grad(&grads).unwrap()), &expected(2));
            }
        }
    }

    #[test]
    fn parameters_and_gradients_stay_f32_in_lower_precision() {
        if !Precision::Bf16.is_supported(&fornax_backend::test_device()) {
            return;
        }
        let input = || leaf(&numbers(24, 1), [8, 3]);
        let (x, weight) = (input(), leaf(&numbers(12, 2), [3, 4]));
        let output = linear(x, weight.clone(), None, &Context::evaluation(Precision::Bf16));
        let exact = linear(input(), weight.clone(), None, &evaluation());
        let (rounded, exact) = (values(output.clone()), values(exact));
        assert_eq!(output.dtype(), DType::F32);
        assert_eq!(weight.grad(&output.sum().backward()).unwrap().dtype(), DType::F32);
        assert_ne!(rounded, exact);
        assert!(rounded.iter().zip(&exact).all(|(a, b)| (a - b).abs() < 0.05));
    }

    #[test]
    #[should_panic(expected = "last size of the input")]
    fn a_wrong_shape_is_refused() {
        let _ = linear(leaf(&[0.0; 4], [2, 2]), leaf(&[0.0; 12], [3, 4]), None, &evaluation());
    }
}
