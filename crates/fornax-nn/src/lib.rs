//! Transformer blocks over [`burn::tensor::Tensor`].
//!
//! A module is first built with `new`, which costs nothing: its parameters are made when they are first read, linear and
//! embedding weights as zeros, norms as the identity. [`initialise`] then draws every parameter by its path, or a
//! checkpoint replaces them. A module's `forward` is pure; what changes from call to call is in
//! [`fornax_ops::Context`] and, in generation, in a [`KvCache`].

mod attention;
mod cache;
mod embedding;
mod feed_forward;
mod freeze;
mod initialise;
mod linear;
mod lora;
mod multi_head_attention;
mod norm;
mod parameters;
mod relative_position_bias;

pub use attention::SelfAttention;
pub use cache::KvCache;
pub use embedding::Embedding;
pub use feed_forward::{Activation, FeedForward};
pub use freeze::freeze;
pub use initialise::{Init, initialise, initialise_some};
pub use linear::Linear;
pub use lora::Lora;
pub use multi_head_attention::{AttentionSizes, KeysAndValues, MultiHeadAttention};
pub use norm::{LayerNorm, RmsNorm};
pub use parameters::{ParameterInfo, constant, parameters};
pub use relative_position_bias::RelativePositionBias;
