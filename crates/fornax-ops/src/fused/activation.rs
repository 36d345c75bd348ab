use burn::backend::{TensorMetadata, tensor::FloatTensor};

use super::{Kernels, memory::HostMemory, operation::Operation};
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

/// What computes it in types that the kernels of the host don't know.
pub(crate) trait ActivationKernel: HostMemory {
    /// `curve(x)`; `None` leaves it to the host.
    fn curve(_x: &FloatTensor<Self>, _curve: Curve) -> Option<FloatTensor<Self>> {
        None
    }

    /// The gradient of `x`; `None` where [`curve`](Self::curve) gives none.
    fn curve_backward(
        _x: &FloatTensor<Self>,
        _gradient: &FloatTensor<Self>,
        _curve: Curve,
    ) -> Option<FloatTensor<Self>> {
        None
    }
}

#[cfg(feature = "flex")]
impl ActivationKernel for burn::backend::Flex {}

impl<B: Kernels> Operation<B, 1> for Activation {
    type Saved = FloatTensor<B>;

    #[allow(clippy::expect_used)]
    fn forward(&self, [x]: [Option<FloatTensor<B>>; 1]) -> (FloatTensor<B>, Self::Saved) {
        let x = B::contiguous(x.expect("an input"));
        if let Some(output) = B::curve(&x, self.0) {
            return (output, x);
        }
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
        if let Some(gradient) = B::curve_backward(&x, &gradient, self.0) {
            return [Some(gradient)];
        }
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

/// In 16 bits, by ATen.
#[cfg(feature = "libtorch")]
mod on_libtorch {
    use burn::backend::{LibTorch, libtorch::TchTensor};
    use tch::Kind;

    use super::*;

    /// As ATen names the two forms of GELU.
    fn approximation(curve: Curve) -> &'static str {
        if curve == Curve::GeluTanh { "tanh" } else { "none" }
    }

    impl ActivationKernel for LibTorch {
        fn curve(x: &TchTensor, curve: Curve) -> Option<TchTensor> {
            let narrow = x.tensor.kind() != Kind::Float;
            narrow.then(|| {
                TchTensor::new(match curve {
                    Curve::Gelu | Curve::GeluTanh => x.tensor.gelu(approximation(curve)),
                    Curve::Relu => x.tensor.relu(),
                })
            })
        }

        fn curve_backward(x: &TchTensor, gradient: &TchTensor, curve: Curve) -> Option<TchTensor> {
            let kind = x.tensor.kind();
            (kind != Kind::Float).then(|| {
                let gradient = gradient.tensor.to_kind(kind);
                TchTensor::new(match curve {
                    Curve::Gelu | Curve::GeluTanh => gradient.gelu_backward(&x.tensor, approximation(curve)),
                    Curve::Relu => gradient.threshold_backward(&x.tensor, 0.0),
                })
            })
        }
    }
}
