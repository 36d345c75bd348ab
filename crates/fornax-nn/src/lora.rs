use burn::{
    module::{Module, Param},
    tensor::{Device, Tensor},
};
use fornax_ops::{Context, dropout, linear};

use crate::parameters::constant;

/// A trained difference of low rank beside a weight that stays as it is: `scale · dropout(x) · a · b` (Hu et al. 2022, "LoRA").
#[derive(Module, Debug)]
pub struct Lora {
    /// `[input_size, rank]`
    pub a: Param<Tensor<2>>,
    /// `[rank, output_size]`
    pub b: Param<Tensor<2>>,
    scale: f64,
    dropout: f64,
}

impl Lora {
    /// A difference of zero, both factors zero, of which [`initialise_some`](crate::initialise_some) must draw `a`: with both zero,
    /// neither would ever get a gradient. `scale` is `alpha / rank` of the paper; `dropout` the probability that an input is dropped.
    pub fn new(input_size: usize, output_size: usize, rank: usize, scale: f64, dropout: f64, device: &Device) -> Self {
        Self {
            a: constant([input_size, rank], 0.0, device),
            b: constant([rank, output_size], 0.0, device),
            scale,
            dropout,
        }
    }

    /// # Shapes
    ///
    /// `[..., input_size]` to `[..., output_size]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>, context: &Context) -> Tensor<D> {
        // The id follows from the path, so that layers which share a context drop different inputs.
        let dropped = dropout(x, self.dropout, &context.child(self.a.id.val()));
        let narrow = linear(dropped, self.a.val(), None, context);
        linear(narrow, self.b.val(), None, context).mul_scalar(self.scale)
    }

    /// What the weight beside would have to be increased by: `[input_size, output_size]`.
    pub fn difference(&self) -> Tensor<2> {
        self.a.val().matmul(self.b.val()).mul_scalar(self.scale)
    }
}
