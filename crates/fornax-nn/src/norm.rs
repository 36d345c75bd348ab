use burn::{
    module::{Module, Param},
    tensor::{Device, Tensor},
};
use fornax_ops::{add_layer_norm, layer_norm, rms_norm};

use crate::parameters::constant;

/// Layer normalisation over the last axis (Ba et al. 2016).
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// `[size]`
    pub gamma: Param<Tensor<1>>,
    /// `[size]`
    pub beta: Option<Param<Tensor<1>>>,
    norm_eps: f64,
}

impl LayerNorm {
    /// Gamma 1 and, with `bias`, beta 0.
    pub fn new(size: usize, bias: bool, norm_eps: f64, device: &Device) -> Self {
        Self { gamma: constant([size], 1.0, device), beta: bias.then(|| constant([size], 0.0, device)), norm_eps }
    }

    /// # Shapes
    ///
    /// `[..., size]` to the same
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        layer_norm(x, self.gamma.val(), self.beta.as_ref().map(Param::val), self.norm_eps)
    }

    /// [`forward`](Self::forward) of `x + residual`: after a layer that gave `x`, in a block with norms after its layers.
    ///
    /// # Shapes
    ///
    /// Both `[..., size]`, and the result too
    pub fn forward_sum<const D: usize>(&self, x: Tensor<D>, residual: Tensor<D>) -> Tensor<D> {
        let beta = self.beta.as_ref().map(Param::val);
        add_layer_norm(x, residual, self.gamma.val(), beta, self.norm_eps)
    }
}

/// Root-mean-square normalisation over the last axis (Zhang and Sennrich 2019).
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// `[size]`
    pub gamma: Param<Tensor<1>>,
    norm_eps: f64,
}

impl RmsNorm {
    /// Gamma 1.
    pub fn new(size: usize, norm_eps: f64, device: &Device) -> Self {
        Self { gamma: constant([size], 1.0, device), norm_eps }
    }

    /// # Shapes
    ///
    /// `[..., size]` to the same
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        rms_norm(x, self.gamma.val(), self.norm_eps)
    }
}
