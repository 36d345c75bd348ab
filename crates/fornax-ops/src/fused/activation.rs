use burn::backend::{TensorMetadata, tensor::FloatTensor};

use super::{Kernels, operation::Operation};
use crate::host::elementwise::{gelu, gelu_slope, gelu_tanh, gelu_tanh_slope, map, map2};

/// A function of one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Curve {
    Gelu,
    GeluTanh,
    Relu,
}

/// A [`Curve`], element by element.
#[derive(Clone, Debug)]
pub(super) struct Activation(pub(super) Curve);

impl<B: Kernels> Operation<B, 1> for Activation {
    type Saved = FloatTensor<B>;

    #[allow(clippy::expect_used)]
    fn forward(&self, [x]: [Option<FloatTensor<B>>; 1]) -> (FloatTensor<B>, Self::Saved) {
        let x = B::contiguous(x.expect("an input"));
        let output = B::create(x.shape(), |out| match self.0 {
            Curve::Gelu => map(B::slice(&x), out, gelu),
            Curve::GeluTanh => map(B::slice(&x), out, gelu_tanh),
            // A NaN stays one.
            Curve::Relu => map(B::slice(&x), out, |x| if x < 0.0 { 0.0 } else { x }),
        });
        (output, x)
    }

    fn backward(&self, x: Self::Saved, gradient: FloatTensor<B>, _: [bool; 1]) -> [Option<FloatTensor<B>>; 1] {
        let gradient = B::contiguous(gradient);
        [Some(B::create(x.shape(), |out| {
            let (x, gradient) = (B::slice(&x), B::slice(&gradient));
            match self.0 {
                Curve::Gelu => map2(
                    x,
                    gradient,
                    out,
                    #[inline(always)]
                    |x, gradient| gradient * gelu_slope(x),
                ),
                Curve::GeluTanh => map2(
                    x,
                    gradient,
                    out,
                    #[inline(always)]
                    |x, gradient| gradient * gelu_tanh_slope(x),
                ),
                Curve::Relu => map2(x, gradient, out, |x, gradient| if x > 0.0 { gradient } else { 0.0 }),
            }
        }))]
    }
}
