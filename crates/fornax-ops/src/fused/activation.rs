use burn::backend::{TensorMetadata, tensor::FloatTensor};

use super::{Kernels, operation::Operation};
use crate::host::elementwise::{gated, gated_slopes, gelu, gelu_tanh, relu, silu, slopes, values};

/// A function of one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Curve {
    Gelu,
    GeluTanh,
    Silu,
    Relu,
}

/// A kernel, compiled for the function of each [`Curve`], which is its last argument.
macro_rules! with_curve {
    ($curve:expr, $kernel:ident($($argument:expr),*)) => {
        match $curve {
            Curve::Gelu => $kernel($($argument,)* gelu),
            Curve::GeluTanh => $kernel($($argument,)* gelu_tanh),
            Curve::Silu => $kernel($($argument,)* silu),
            Curve::Relu => $kernel($($argument,)* relu),
        }
    };
}

/// A [`Curve`], element by element.
#[derive(Clone, Debug)]
pub(super) struct Activation(pub(super) Curve);

impl<B: Kernels> Operation<B, 1> for Activation {
    type Saved = FloatTensor<B>;

    #[allow(clippy::expect_used)]
    fn forward(&self, [x]: [Option<FloatTensor<B>>; 1]) -> (FloatTensor<B>, Self::Saved) {
        let x = B::contiguous(x.expect("an input"));
        let output = B::create(x.shape(), |out| with_curve!(self.0, values(B::slice(&x), out)));
        (output, x)
    }

    fn backward(&self, x: Self::Saved, gradient: FloatTensor<B>, _: [bool; 1]) -> [Option<FloatTensor<B>>; 1] {
        let gradient = B::contiguous(gradient);
        let fill = |out: &mut [f32]| with_curve!(self.0, slopes(B::slice(&x), B::slice(&gradient), out));
        [Some(B::create(x.shape(), fill))]
    }
}

/// A [`Curve`] of the first input times the second one, element by element.
#[derive(Clone, Debug)]
pub(super) struct Gated(pub(super) Curve);

impl<B: Kernels> Operation<B, 2> for Gated {
    /// Gate and up.
    type Saved = [FloatTensor<B>; 2];

    #[allow(clippy::expect_used)]
    fn forward(&self, [gate, up]: [Option<FloatTensor<B>>; 2]) -> (FloatTensor<B>, Self::Saved) {
        let (gate, up) = gate.zip(up).expect("gate and up");
        let (gate, up) = (B::contiguous(gate), B::contiguous(up));
        let fill = |out: &mut [f32]| with_curve!(self.0, gated(B::slice(&gate), B::slice(&up), out));
        (B::create(gate.shape(), fill), [gate, up])
    }

    fn backward(
        &self,
        [gate, up]: Self::Saved,
        gradient: FloatTensor<B>,
        [of_gate, of_up]: [bool; 2],
    ) -> [Option<FloatTensor<B>>; 2] {
        let gradient = B::contiguous(gradient);
        let mut up_gradient = None;
        let gate_gradient = B::create(gate.shape(), |of_gate| {
            up_gradient = Some(B::create(up.shape(), |of_up| {
                let (gate, up, gradient) = (B::slice(&gate), B::slice(&up), B::slice(&gradient));
                with_curve!(self.0, gated_slopes(gate, up, gradient, [of_gate, of_up]));
            }));
        });
        [Some(gate_gradient).filter(|_| of_gate), up_gradient.filter(|_| of_up)]
    }
}
