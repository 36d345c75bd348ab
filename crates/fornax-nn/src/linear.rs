use burn::{
    module::{Module, Param},
    tensor::{Device, Tensor},
};
use fornax_ops::{Context, linear};

use crate::parameters::constant;

/// A linear map with optional bias.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[input_size, output_size]`
    pub weight: Param<Tensor<2>>,
    /// `[output_size]`
    pub bias: Option<Param<Tensor<1>>>,
}

impl Linear {
    /// A map of zeros, to be filled by [`initialise`](crate::initialise) or from a checkpoint.
    pub fn new(input_size: usize, output_size: usize, bias: bool, device: &Device) -> Self {
        Self {
            weight: constant([input_size, output_size], 0.0, device),
            bias: bias.then(|| constant([output_size], 0.0, device)),
        }
    }

    /// `x · weight + bias`, computed in [`Context::precision`].
    ///
    /// # Shapes
    ///
    /// `[..., input_size]` to `[..., output_size]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>, context: &Context) -> Tensor<D> {
        linear(x, self.weight.val(), self.bias.as_ref().map(Param::val), context)
    }
}
