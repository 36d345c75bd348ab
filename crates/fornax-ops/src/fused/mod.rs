//! Fused forms of the operations of this crate: one pass over memory instead of one for each elementwise step, with backward
//! passes of their own.
//!
//! What is fused where differs between devices, so there are three traits of operations: [`Fused`] everywhere, [`HostFused`] for
//! backends that compute in memory of the host, [`CubeFused`] for those that CubeCL compiles kernels for. Each has one
//! implementation for all its backends, in a graph and outside of one ([`Apply`]). The functions of this crate take the fused form
//! where [`is_fused`], [`is_on_host`] or [`is_on_cube`] says so, and their reference form elsewhere.

// Burn 0.23 drops LibTorch, which this stays for as long as 0.22 is pinned (docs/src/decisions.md).
#![cfg_attr(feature = "libtorch", allow(deprecated))]
// Without a Cube backend, what `backend_extension` makes of `CubeFused` does nothing with its arguments.
#![cfg_attr(not(feature = "cube"), allow(unused_variables))]

mod activation;
mod attention;
mod cross_entropy;
mod dropout;
mod embedding;
mod linear;
#[cfg(target_arch = "x86_64")]
mod linear_cross_entropy;
#[cfg(target_arch = "x86_64")]
mod linear_tiled;
mod memory;
mod norm;
#[cfg(feature = "cube")]
mod on_cube;
mod operation;
mod optimizer;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use burn::{
    backend::{
        Backend, Dispatch, DispatchDevice, ExtensionType, backend_extension,
        tensor::{FloatTensor, IntTensor},
    },
    tensor::{Device, FloatDType, Tensor},
};
use fornax_backend::{Precision, multiplies_bf16};

pub(crate) use self::activation::Curve;
use self::{
    activation::{Activation, Gated},
    attention::Attend,
    cross_entropy::CrossEntropySums,
    dropout::Dropout,
    embedding::Embedding,
    linear::{Linear, LinearKernel},
    memory::HostMemory,
    norm::Norm,
    operation::{Apply, Operation},
    optimizer::AdamW,
};
#[cfg(target_arch = "x86_64")]
use crate::host::tiled::{Factors, pays_in_f32};
use crate::host::{
    adamw::Factors as AdamWFactors,
    attention::{Attention, Sizes},
    elementwise::Noise,
    norm::Centre,
};

/// A tensor that may be absent.
#[derive(Clone, Debug, ExtensionType)]
#[extension_type(fusion: cfg(feature = "cube"))]
pub(crate) enum Maybe<B: Backend> {
    /// It is there.
    Some(FloatTensor<B>),
    /// It is not.
    None,
}

impl<B: Backend> Maybe<B> {
    fn option(self) -> Option<FloatTensor<B>> {
        match self {
            Self::Some(tensor) => Some(tensor),
            Self::None => None,
        }
    }
}

impl<B: Backend> From<Option<FloatTensor<B>>> for Maybe<B> {
    fn from(tensor: Option<FloatTensor<B>>) -> Self {
        tensor.map_or(Self::None, Self::Some)
    }
}

impl<B: Backend> KeyMask<B> {
    #[cfg(feature = "cube")]
    fn option(self) -> Option<IntTensor<B>> {
        match self {
            Self::Some(tensor) => Some(tensor),
            Self::None => None,
        }
    }
}

impl<B: Backend> From<Option<IntTensor<B>>> for KeyMask<B> {
    fn from(tensor: Option<IntTensor<B>>) -> Self {
        tensor.map_or(Self::None, Self::Some)
    }
}

impl Maybe<Dispatch> {
    pub(crate) fn new<const D: usize>(tensor: Option<Tensor<D>>) -> Self {
        tensor.map(Tensor::into_dispatch).into()
    }
}

/// The operations that every device with fused forms has. Tensors are `f32`; shapes are those of the functions of this crate that
/// call them.
#[backend_extension(
    Cube: cfg(feature = "cube"), Flex: cfg(feature = "flex"), LibTorch: cfg(feature = "libtorch"), Autodiff
)]
pub(crate) trait Fused: Backend {
    /// Of `x`, or of its sum with a residual.
    fn fused_norm(
        x: FloatTensor<Self>,
        #[extension_type] residual: Maybe<Self>,
        gamma: FloatTensor<Self>,
        #[extension_type] beta: Maybe<Self>,
        centre: Centre,
        eps: f32,
    ) -> FloatTensor<Self>;

    fn fused_dropout(x: FloatTensor<Self>, noise: Noise) -> FloatTensor<Self>;

    /// Value and both moments after the step, in the same memory if nobody else has it. Without a gradient.
    fn fused_adamw(
        value: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        scales: FloatTensor<Self>,
        factors: AdamWFactors,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

impl<A: Apply<Inner: AdamW>> Fused for A
where
    Norm: Operation<A::Inner, 4>,
    Dropout: Operation<A::Inner, 1>,
{
    fn fused_norm(
        x: FloatTensor<Self>,
        residual: Maybe<Self>,
        gamma: FloatTensor<Self>,
        beta: Maybe<Self>,
        centre: Centre,
        eps: f32,
    ) -> FloatTensor<Self> {
        Self::apply(Norm { centre, eps }, [Some(x), residual.option(), Some(gamma), beta.option()])
    }

    fn fused_dropout(x: FloatTensor<Self>, noise: Noise) -> FloatTensor<Self> {
        Self::apply(Dropout(noise), [Some(x)])
    }

    fn fused_adamw(
        value: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        scales: FloatTensor<Self>,
        factors: AdamWFactors,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let (state, gradient) = ([value, first, second].map(Self::lower), Self::lower(gradient));
        let moved = A::Inner::adamw(state, gradient, Self::lower(scales), factors);
        let [value, first, second] = moved.map(Self::lift);
        (value, first, second)
    }
}

/// The operations of backends that compute in memory of the host. Tensors are `f32`; shapes are those of the functions of this
/// crate that call them.
#[backend_extension(Flex: cfg(feature = "flex"), LibTorch: cfg(feature = "libtorch"), Autodiff)]
pub(crate) trait HostFused: Backend {
    /// The factors rounded to bfloat16 or not.
    fn fused_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        #[extension_type] bias: Maybe<Self>,
        bf16: bool,
    ) -> FloatTensor<Self>;

    fn fused_activation(x: FloatTensor<Self>, curve: Curve) -> FloatTensor<Self>;

    fn fused_gated(gate: FloatTensor<Self>, up: FloatTensor<Self>, curve: Curve) -> FloatTensor<Self>;

    /// Loss, negative log-likelihood, count and correct ones, `[4]`; the first alone has a gradient.
    fn fused_cross_entropy(
        logits: FloatTensor<Self>,
        targets: Arc<[Option<usize>]>,
        smoothing: f32,
    ) -> FloatTensor<Self>;

    /// [`fused_cross_entropy`](Self::fused_cross_entropy) of `hidden · weight + bias`, where [`multiplies_by_tiles`].
    fn fused_linear_cross_entropy(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        #[extension_type] bias: Maybe<Self>,
        loss: ChunkedLoss,
    ) -> FloatTensor<Self>;

    /// `[ids, size]`
    fn fused_embedding(table: FloatTensor<Self>, ids: Arc<[usize]>) -> FloatTensor<Self>;

    fn fused_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        #[extension_type] bias: Maybe<Self>,
        attention: Arc<Attention>,
    ) -> FloatTensor<Self>;

    /// Attention of `[batch, seq, 3 · heads · head_dim]` to itself, which gives `[batch, seq, heads · head_dim]`.
    fn fused_packed_attention(
        packed: FloatTensor<Self>,
        #[extension_type] bias: Maybe<Self>,
        attention: Arc<Attention>,
    ) -> FloatTensor<Self>;

    /// `[1]`, without a gradient.
    fn fused_sum_of_squares(x: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// A backend with everything that the operations of [`HostFused`] are made of.
pub(crate) trait Kernels: HostMemory + LinearKernel {}

impl<B: HostMemory + LinearKernel> Kernels for B {}

impl<A: Apply<Inner: Kernels>> HostFused for A {
    fn fused_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Maybe<Self>,
        bf16: bool,
    ) -> FloatTensor<Self> {
        #[cfg(target_arch = "x86_64")]
        if let Some(factors) = tiled(&x, &weight, bf16) {
            return Self::apply(linear_tiled::TiledLinear(factors), [Some(x), Some(weight), bias.option()]);
        }
        Self::apply(Linear, [Some(x), Some(weight), bias.option()])
    }

    fn fused_activation(x: FloatTensor<Self>, curve: Curve) -> FloatTensor<Self> {
        Self::apply(Activation(curve), [Some(x)])
    }

    fn fused_gated(gate: FloatTensor<Self>, up: FloatTensor<Self>, curve: Curve) -> FloatTensor<Self> {
        Self::apply(Gated(curve), [Some(gate), Some(up)])
    }

    fn fused_cross_entropy(
        logits: FloatTensor<Self>,
        targets: Arc<[Option<usize>]>,
        smoothing: f32,
    ) -> FloatTensor<Self> {
        Self::apply(CrossEntropySums { targets, smoothing }, [Some(logits)])
    }

    #[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
    fn fused_linear_cross_entropy(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Maybe<Self>,
        loss: ChunkedLoss,
    ) -> FloatTensor<Self> {
        #[cfg(target_arch = "x86_64")]
        {
            Self::apply(linear_cross_entropy::TiledLoss(loss), [Some(hidden), Some(weight), bias.option()])
        }
        #[cfg(not(target_arch = "x86_64"))]
        unreachable!("products by tiles are of x86-64")
    }

    fn fused_embedding(table: FloatTensor<Self>, ids: Arc<[usize]>) -> FloatTensor<Self> {
        Self::apply(Embedding { ids }, [Some(table)])
    }

    fn fused_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        bias: Maybe<Self>,
        attention: Arc<Attention>,
    ) -> FloatTensor<Self> {
        Self::apply(Attend(attention), [Some(query), Some(key), Some(value), bias.option()])
    }

    fn fused_packed_attention(
        packed: FloatTensor<Self>,
        bias: Maybe<Self>,
        attention: Arc<Attention>,
    ) -> FloatTensor<Self> {
        Self::apply(Attend(attention), [Some(packed), bias.option()])
    }

    fn fused_sum_of_squares(x: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::lift(optimizer::sum_of_squares::<A::Inner>(Self::lower(x)))
    }
}

/// The factors of a linear map by tiles, where the map is computed so.
#[cfg(target_arch = "x86_64")]
fn tiled<T: burn::backend::TensorMetadata>(x: &T, weight: &T, bf16: bool) -> Option<Factors> {
    let [inputs, outputs] = [weight.shape()[0], weight.shape()[1]];
    let rows = x.shape().num_elements() / inputs.max(1);
    match bf16 {
        true => Some(Factors::Bf16),
        false => pays_in_f32([rows, inputs, outputs]).then_some(Factors::F32),
    }
}

/// The operations of Cube devices that take what is on the device already. Tensors are `f32` and `i32`; shapes are those of the
/// functions of this crate that call them.
#[backend_extension(Cube: cfg(feature = "cube"), Autodiff: cfg(feature = "cube"))]
pub(crate) trait CubeFused: Backend {
    /// As [`HostFused::fused_cross_entropy`], over the targets other than `ignore`.
    #[cfg_attr(not(feature = "cube"), allow(unused_variables))]
    fn cube_cross_entropy(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
        ignore: i32,
        smoothing: f32,
    ) -> FloatTensor<Self>;

    /// The rows of a table that `ids`, `[tokens]`, name: `[tokens, size]`.
    #[cfg_attr(not(feature = "cube"), allow(unused_variables))]
    fn cube_embedding(table: FloatTensor<Self>, ids: IntTensor<Self>) -> FloatTensor<Self>;

    /// For what [`takes_attention`] says.
    #[cfg_attr(not(feature = "cube"), allow(unused_variables))]
    fn cube_attention(#[extension_type] inputs: AttentionInputs<Self>, rules: Rules) -> FloatTensor<Self>;
}

/// The tensors of an attention; shapes as in [`attention`](crate::attention()).
#[derive(Clone, Debug, ExtensionType)]
#[extension_type(fusion: cfg(feature = "cube"))]
pub(crate) struct AttentionInputs<B: Backend> {
    pub(crate) query: FloatTensor<B>,
    pub(crate) key: FloatTensor<B>,
    pub(crate) value: FloatTensor<B>,
    /// `[1 or batch, heads, query_len, key_len]`
    #[extension_type]
    pub(crate) bias: Maybe<B>,
    #[extension_type]
    pub(crate) mask: KeyMask<B>,
}

/// Which keys are seen, but for the causal flag.
#[derive(Clone, Debug, ExtensionType)]
#[extension_type(fusion: cfg(feature = "cube"))]
pub(crate) enum KeyMask<B: Backend> {
    /// All of them.
    None,
    /// `[i32]`: the first of each row, `[batch]`, or those of the own segment, `[batch, query_len + key_len]`.
    Some(IntTensor<B>),
}

/// A cross-entropy of logits that are computed a chunk of rows at a time.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
#[derive(Clone, Debug)]
pub(crate) struct ChunkedLoss {
    /// Of each row; `None` is left out.
    pub(crate) targets: Arc<[Option<usize>]>,
    pub(crate) smoothing: f32,
    /// Whether factors are rounded to bfloat16.
    pub(crate) bf16: bool,
    /// Rows whose logits are there at a time.
    pub(crate) chunk: usize,
    /// Whether the weight takes a gradient, as that of a frozen model doesn't.
    pub(crate) of_weight: bool,
}

/// How scores come about, but for tensors.
#[cfg_attr(not(feature = "cube"), allow(dead_code))]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// What query, key and value are rounded to.
    pub(crate) operands: FloatDType,
    pub(crate) scale: f32,
    pub(crate) causal: bool,
    pub(crate) noise: Option<Noise>,
}

/// A backend that computes in memory of the host.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Host {
    #[cfg(feature = "flex")]
    Flex,
    #[cfg(feature = "libtorch")]
    LibTorch,
}

fn host(device: &DispatchDevice) -> Option<Host> {
    // Without any backend there is one kind of device, which is none of these.
    #[allow(unreachable_patterns)]
    match plain(device) {
        #[cfg(feature = "flex")]
        DispatchDevice::Flex(_) => Some(Host::Flex),
        #[cfg(feature = "libtorch")]
        DispatchDevice::LibTorch(burn::backend::libtorch::LibTorchDevice::Cpu) => Some(Host::LibTorch),
        _ => None,
    }
}

/// Whether tensors of `device` take the forms of [`HostFused`].
pub(crate) fn is_on_host(device: &Device) -> bool {
    host(device.as_dispatch()).is_some()
}

/// Whether tensors of `device` take the forms of [`CubeFused`].
pub(crate) fn is_on_cube(device: &Device) -> bool {
    #[allow(unreachable_patterns)]
    match plain(device.as_dispatch()) {
        #[cfg(feature = "cube")]
        DispatchDevice::Cube(_) => true,
        _ => false,
    }
}

/// Whether [`CubeFused::cube_attention`] takes heads of these sizes in this precision on `device`, with so many of bias and mask.
#[cfg_attr(not(feature = "cube"), allow(unused_variables))]
pub(crate) fn takes_attention(device: &Device, precision: Precision, sizes: Sizes, extra: u32) -> bool {
    #[allow(unreachable_patterns)]
    match plain(device.as_dispatch()) {
        #[cfg(feature = "cube")]
        DispatchDevice::Cube(cube) => {
            // Of one query there is little to hold, and 16 bits would cost a copy of all keys and values.
            (precision == Precision::F32 || sizes.query_len > 1 && precision.is_supported(device))
                && crate::cube::attention::suits(&cube.client(), sizes.head_dim, sizes.value_dim, extra)
        }
        _ => false,
    }
}

/// The device below automatic differentiation.
fn plain(device: &DispatchDevice) -> &DispatchDevice {
    match device {
        DispatchDevice::Autodiff(device) => plain(device),
        device => device,
    }
}

/// Whether tensors of `device` take the forms of [`Fused`].
pub(crate) fn is_fused(device: &Device) -> bool {
    is_on_host(device) || is_on_cube(device)
}

/// Whether products on `device` round their factors to bfloat16 themselves; `None` where this precision has no fused form.
pub(crate) fn rounds(precision: Precision, device: &Device) -> Option<bool> {
    if !is_on_host(device) {
        return None;
    }
    match precision {
        Precision::F32 => Some(false),
        Precision::Bf16 => multiplies_bf16().then_some(true),
        Precision::F16 => None,
    }
}

/// Whether products of matrices of these sizes, `[rows, inner, columns]`, are made of tiles, and of factors rounded to bfloat16 or not.
#[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
pub(crate) fn multiplies_by_tiles(precision: Precision, device: &Device, sizes: [usize; 3]) -> Option<bool> {
    #[cfg(target_arch = "x86_64")]
    return rounds(precision, device).filter(|bf16| !sizes.contains(&0) && (*bf16 || pays_in_f32(sizes)));
    #[cfg(not(target_arch = "x86_64"))]
    None
}
