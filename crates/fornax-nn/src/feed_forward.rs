use burn::{
    module::Module,
    tensor::{Device, Tensor, activation},
};
use fornax_ops::{Context, geglu, geglu_tanh, gelu, gelu_tanh, reglu, relu, silu, swiglu};
use serde::{Deserialize, Serialize};

use crate::Linear;

/// A nonlinearity, such as that of a [`FeedForward`]. In a config: `gelu`, `gelu_tanh`, `silu`, `relu` or `tanh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// The exact GELU.
    Gelu,
    /// Its tanh approximation.
    GeluTanh,
    /// `x σ(x)`, also called swish.
    Silu,
    /// `max(x, 0)`
    Relu,
    /// The hyperbolic tangent.
    Tanh,
}

impl Activation {
    /// The function itself, element by element.
    pub fn apply<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Gelu => gelu(x),
            Self::GeluTanh => gelu_tanh(x),
            Self::Silu => silu(x),
            Self::Relu => relu(x),
            Self::Tanh => activation::tanh(x),
        }
    }

    /// `self(gate) · up`, the gated linear unit of this function (Shazeer 2020). Both have the same shape.
    pub fn gate<const D: usize>(self, gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Gelu => geglu(gate, up),
            Self::GeluTanh => geglu_tanh(gate, up),
            Self::Silu => swiglu(gate, up),
            Self::Relu => reglu(gate, up),
            Self::Tanh => activation::tanh(gate) * up,
        }
    }
}

/// The position-wise feed-forward layer: `down(activation(up(x)))`.
#[derive(Module, Debug)]
pub struct FeedForward {
    /// `hidden_size` to `intermediate_size`
    pub up: Linear,
    /// `intermediate_size` to `hidden_size`
    pub down: Linear,
    #[module(skip)]
    activation: Activation,
}

impl FeedForward {
    /// Both maps zero, with biases if `bias`.
    pub fn new(
        hidden_size: usize,
        intermediate_size: usize,
        bias: bool,
        activation: Activation,
        device: &Device,
    ) -> Self {
        Self {
            up: Linear::new(hidden_size, intermediate_size, bias, device),
            down: Linear::new(intermediate_size, hidden_size, bias, device),
            activation,
        }
    }

    /// # Shapes
    ///
    /// `[..., hidden_size]` to the same
    pub fn forward<const D: usize>(&self, x: Tensor<D>, context: &Context) -> Tensor<D> {
        let intermediate = self.activation.apply(self.up.forward(x, context));
        self.down.forward(intermediate, context)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;
    use fornax_backend::test_device;

    use super::*;

    /// Values and slopes on both sides of zero.
    #[test]
    fn functions_are_those_of_their_name() {
        let points: [f64; 4] = [-3.0, -0.7, 0.2, 1.9];
        let relu = (Activation::Relu, points.map(|x| x.max(0.0)), points.map(|x| if x > 0.0 { 1.0 } else { 0.0 }));
        let tanh = (Activation::Tanh, points.map(f64::tanh), points.map(|x| x.cosh().powi(-2)));
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let slope = |x: f64| sigmoid(x) * (1.0 + x * (1.0 - sigmoid(x)));
        let silu = (Activation::Silu, points.map(|x| x * sigmoid(x)), points.map(slope));
        for (activation, wanted, wanted_slopes) in [relu, tanh, silu] {
            let device = test_device().autodiff();
            let x = Tensor::<1>::from_data(TensorData::from(points), &device).require_grad();
            let y = activation.apply(x.clone());
            let slopes = x.grad(&y.clone().sum().backward()).unwrap();
            for (found, wanted) in [(y.into_data(), wanted), (slopes.into_data(), wanted_slopes)] {
                let error = found.iter::<f64>().zip(wanted).fold(0.0_f64, |m, (a, b)| m.max((a - b).abs()));
                assert!(error < 1e-6, "{activation:?}: {error}");
            }
        }
    }

    #[test]
    fn a_gate_multiplies_with_the_function_itself() {
        let device = test_device();
        let [gate, up] = [[-3.0, -0.7, 0.2, 1.9], [0.5, -2.0, 3.0, -0.1]]
            .map(|points: [f32; 4]| Tensor::<1>::from_data(TensorData::from(points), &device));
        let all = [Activation::Gelu, Activation::GeluTanh, Activation::Silu, Activation::Relu, Activation::Tanh];
        for activation in all {
            let wanted = activation.apply(gate.clone()) * up.clone();
            let error = (activation.gate(gate.clone(), up.clone()) - wanted).abs().max().into_scalar::<f32>();
            assert!(error < 1e-6, "{activation:?}: {error}");
        }
    }
}
