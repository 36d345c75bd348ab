//! Differentiable tensor operations that transformers need: a reference form made of plain tensor operations, and fused forms for
//! the backends that have them.
//!
//! Each operation is one free function over [`burn::tensor::Tensor`], and its signature is the seam: the fused form of a
//! backend (`burn::backend::backend_extension`) is reached from inside the same function, so no caller changes, and the
//! reference form stays as what the fused one is compared with.
//!
//! Every operation takes `f32` tensors and gives `f32` tensors. Matrix products run in [`Context::precision`], with their operands
//! cast or rounded where they are used; everything that sums many numbers (softmax, norms, losses) runs in `f32`.

mod attention;
mod checkpoint;
mod context;
mod cross_entropy;
#[cfg(feature = "cube")]
mod cube;
mod dropout;
mod embedding;
mod fused;
mod gated;
mod gelu;
mod host;
mod linear;
mod linear_cross_entropy;
mod mask;
mod norm;
mod optimizer;
mod philox;
mod slope;
#[cfg(test)]
mod testing;

/// The reference forms: the same operations made of plain tensor operations, with which the fused ones are compared.
pub mod reference {
    pub use crate::{
        attention::reference as attention,
        cross_entropy::reference as smoothed_cross_entropy_sum,
        gated::{geglu_reference as geglu, geglu_tanh_reference as geglu_tanh, swiglu_reference as swiglu},
        gelu::{gelu_reference as gelu, gelu_tanh_reference as gelu_tanh, silu_reference as silu},
        linear::reference as linear,
        norm::{layer_norm_reference as layer_norm, rms_norm_reference as rms_norm},
    };
}

pub use attention::{AttentionOptions, attention, packed_attention};
pub use checkpoint::{BlockInputs, checkpoint};
pub use context::{Context, RandomKey};
pub use cross_entropy::{CrossEntropy, cross_entropy_sum, smoothed_cross_entropy_sum};
pub use dropout::dropout;
pub use embedding::embedding;
pub use gated::{geglu, geglu_tanh, reglu, swiglu};
pub use gelu::{gelu, gelu_tanh, relu, silu};
pub use linear::{linear, matmul};
pub use linear_cross_entropy::LinearLogits;
pub use mask::{AttentionMask, SharedMask};
pub use norm::{add_layer_norm, add_rms_norm, layer_norm, rms_norm};
pub use optimizer::{AdamWFactors, adamw_step, steps_in_one_pass, sum_of_squares, sums_squares};
