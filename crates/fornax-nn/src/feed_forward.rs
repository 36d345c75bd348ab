use burn::{
    module::Module,
    tensor::{Device, Tensor},
};
use fornax_ops::{Context, gelu, gelu_tanh};

use crate::Linear;

/// The nonlinearity of a [`FeedForward`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// The exact GELU.
    Gelu,
    /// Its tanh approximation.
    GeluTanh,
}

impl Activation {
    /// The function itself, element by element.
    pub fn apply<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Gelu => gelu(x),
            Self::GeluTanh => gelu_tanh(x),
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
