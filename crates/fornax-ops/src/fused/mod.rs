//! Fused forms of the operations of this crate: one pass over memory instead of one for each elementwise step, with backward
//! passes of their own.
//!
//! [`Fused`] is implemented by the backends that compute in memory of the host, and by automatic differentiation over them.
//! The functions of this crate take the fused form where [`is_fused`] says so, and their reference form elsewhere.

// Burn 0.23 drops LibTorch, which this stays for as long as 0.22 is pinned (docs/src/decisions.md).
#![cfg_attr(feature = "libtorch", allow(deprecated))]

mod activation;
mod attention;
mod cross_entropy;
mod dropout;
mod embedding;
mod linear;
#[cfg(target_arch = "x86_64")]
mod linear_tiled;
mod memory;
mod norm;
mod operation;
mod optimizer;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use burn::{
    backend::{
        Autodiff, AutodiffBackend, Backend, Dispatch, DispatchDevice, ExtensionType,
        autodiff::checkpoint::strategy::CheckpointStrategy, backend_extension, tensor::FloatTensor,
    },
    tensor::{Device, Tensor},
};
use fornax_backend::{Precision, multiplies_bf16};

pub(crate) use self::activation::Curve;
use self::{
    activation::Activation,
    attention::Attend,
    cross_entropy::CrossEntropySums,
    dropout::Dropout,
    embedding::Embedding,
    linear::{Linear, LinearKernel},
    memory::HostMemory,
    norm::Norm,
    operation::{compute, record},
};
#[cfg(target_arch = "x86_64")]
use crate::host::tiled::{Factors, pays_in_f32};
use crate::host::{adamw::Factors as AdamWFactors, attention::Attention, elementwise::Noise, norm::Centre};

/// A tensor that may be absent.
#[derive(ExtensionType)]
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

impl Maybe<Dispatch> {
    pub(crate) fn new<const D: usize>(tensor: Option<Tensor<D>>) -> Self {
        match tensor {
            Some(tensor) => Self::Some(tensor.into_dispatch()),
            None => Self::None,
        }
    }
}

/// The fused operations. Tensors are `f32`; shapes are those of the functions of this crate that call them.
#[backend_extension(Flex: cfg(feature = "flex"), LibTorch: cfg(feature = "libtorch"), Autodiff)]
pub(crate) trait Fused: Backend {
    /// The factors rounded to bfloat16 or not.
    fn fused_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        #[extension_type] bias: Maybe<Self>,
        bf16: bool,
    ) -> FloatTensor<Self>;

    fn fused_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        #[extension_type] beta: Maybe<Self>,
        centre: Centre,
        eps: f32,
    ) -> FloatTensor<Self>;

    fn fused_activation(x: FloatTensor<Self>, curve: Curve) -> FloatTensor<Self>;

    fn fused_dropout(x: FloatTensor<Self>, noise: Noise) -> FloatTensor<Self>;

    /// Loss, negative log-likelihood, count and correct ones, `[4]`; the first alone has a gradient.
    fn fused_cross_entropy(
        logits: FloatTensor<Self>,
        targets: Arc<[Option<usize>]>,
        smoothing: f32,
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

    /// Value and both moments after the step, in the same memory if nobody else has it. Without a gradient.
    fn fused_adamw(
        value: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        factors: AdamWFactors,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// `[1]`, without a gradient.
    fn fused_sum_of_squares(x: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// A backend with everything that the fused operations are made of.
pub(crate) trait Kernels: HostMemory + LinearKernel {}

impl<B: HostMemory + LinearKernel> Kernels for B {}

/// The implementation of [`Fused`] for a backend with [`Kernels`].
macro_rules! fused_on {
    ($backend:ty) => {
        impl Fused for $backend {
            fn fused_linear(
                x: FloatTensor<Self>,
                weight: FloatTensor<Self>,
                bias: Maybe<Self>,
                bf16: bool,
            ) -> FloatTensor<Self> {
                #[cfg(target_arch = "x86_64")]
                if let Some(factors) = tiled(&x, &weight, bf16) {
                    let linear = linear_tiled::TiledLinear(factors);
                    return compute::<Self, _, _>(linear, [Some(x), Some(weight), bias.option()]);
                }
                compute::<Self, _, _>(Linear, [Some(x), Some(weight), bias.option()])
            }

            fn fused_norm(
                x: FloatTensor<Self>,
                gamma: FloatTensor<Self>,
                beta: Maybe<Self>,
                centre: Centre,
                eps: f32,
            ) -> FloatTensor<Self> {
                compute::<Self, _, _>(Norm { centre, eps }, [Some(x), Some(gamma), beta.option()])
            }

            fn fused_activation(x: FloatTensor<Self>, curve: Curve) -> FloatTensor<Self> {
                compute::<Self, _, _>(Activation(curve), [Some(x)])
            }

            fn fused_dropout(x: FloatTensor<Self>, noise: Noise) -> FloatTensor<Self> {
                compute::<Self, _, _>(Dropout(noise), [Some(x)])
            }

            fn fused_cross_entropy(
                logits: FloatTensor<Self>,
                targets: Arc<[Option<usize>]>,
                smoothing: f32,
            ) -> FloatTensor<Self> {
                compute::<Self, _, _>(CrossEntropySums { targets, smoothing }, [Some(logits)])
            }

            fn fused_embedding(table: FloatTensor<Self>, ids: Arc<[usize]>) -> FloatTensor<Self> {
                compute::<Self, _, _>(Embedding { ids }, [Some(table)])
            }

            fn fused_attention(
                query: FloatTensor<Self>,
                key: FloatTensor<Self>,
                value: FloatTensor<Self>,
                bias: Maybe<Self>,
                attention: Arc<Attention>,
            ) -> FloatTensor<Self> {
                compute::<Self, _, _>(Attend(attention), [Some(query), Some(key), Some(value), bias.option()])
            }

            fn fused_packed_attention(
                packed: FloatTensor<Self>,
                bias: Maybe<Self>,
                attention: Arc<Attention>,
            ) -> FloatTensor<Self> {
                compute::<Self, _, _>(Attend(attention), [Some(packed), bias.option()])
            }

            fn fused_adamw(
                value: FloatTensor<Self>,
                first: FloatTensor<Self>,
                second: FloatTensor<Self>,
                gradient: FloatTensor<Self>,
                factors: AdamWFactors,
            ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
                optimizer::adamw::<Self>([value, first, second], gradient, &factors)
            }

            fn fused_sum_of_squares(x: FloatTensor<Self>) -> FloatTensor<Self> {
                optimizer::sum_of_squares::<Self>(x)
            }
        }
    };
}

#[cfg(feature = "flex")]
fused_on!(burn::backend::Flex);
#[cfg(feature = "libtorch")]
fused_on!(burn::backend::LibTorch);

impl<B: Fused + Kernels, C: CheckpointStrategy> Fused for Autodiff<B, C> {
    fn fused_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Maybe<Self>,
        bf16: bool,
    ) -> FloatTensor<Self> {
        #[cfg(target_arch = "x86_64")]
        if let Some(factors) = tiled(&x, &weight, bf16) {
            let linear = linear_tiled::TiledLinear(factors);
            return record::<B, C, _, 3>(linear, [Some(x), Some(weight), bias.option()]);
        }
        record::<B, C, _, 3>(Linear, [Some(x), Some(weight), bias.option()])
    }

    fn fused_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: Maybe<Self>,
        centre: Centre,
        eps: f32,
    ) -> FloatTensor<Self> {
        record::<B, C, _, 3>(Norm { centre, eps }, [Some(x), Some(gamma), beta.option()])
    }

    fn fused_activation(x: FloatTensor<Self>, curve: Curve) -> FloatTensor<Self> {
        record::<B, C, _, 1>(Activation(curve), [Some(x)])
    }

    fn fused_dropout(x: FloatTensor<Self>, noise: Noise) -> FloatTensor<Self> {
        record::<B, C, _, 1>(Dropout(noise), [Some(x)])
    }

    fn fused_cross_entropy(
        logits: FloatTensor<Self>,
        targets: Arc<[Option<usize>]>,
        smoothing: f32,
    ) -> FloatTensor<Self> {
        record::<B, C, _, 1>(CrossEntropySums { targets, smoothing }, [Some(logits)])
    }

    fn fused_embedding(table: FloatTensor<Self>, ids: Arc<[usize]>) -> FloatTensor<Self> {
        record::<B, C, _, 1>(Embedding { ids }, [Some(table)])
    }

    fn fused_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        bias: Maybe<Self>,
        attention: Arc<Attention>,
    ) -> FloatTensor<Self> {
        record::<B, C, _, 4>(Attend(attention), [Some(query), Some(key), Some(value), bias.option()])
    }

    fn fused_packed_attention(
        packed: FloatTensor<Self>,
        bias: Maybe<Self>,
        attention: Arc<Attention>,
    ) -> FloatTensor<Self> {
        record::<B, C, _, 2>(Attend(attention), [Some(packed), bias.option()])
    }

    fn fused_adamw(
        value: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        factors: AdamWFactors,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let [value, first, second, gradient] = [value, first, second, gradient].map(|tensor| tensor.into_primitive());
        let (value, first, second) = B::fused_adamw(value, first, second, gradient, factors);
        (Self::from_inner(value), Self::from_inner(first), Self::from_inner(second))
    }

    fn fused_sum_of_squares(x: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::from_inner(B::fused_sum_of_squares(x.into_primitive()))
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
    match device {
        DispatchDevice::Autodiff(device) => host(device),
        #[cfg(feature = "flex")]
        DispatchDevice::Flex(_) => Some(Host::Flex),
        #[cfg(feature = "libtorch")]
        DispatchDevice::LibTorch(burn::backend::libtorch::LibTorchDevice::Cpu) => Some(Host::LibTorch),
        _ => None,
    }
}

/// Whether tensors of `device` take the fused forms.
pub(crate) fn is_fused(device: &Device) -> bool {
    host(device.as_dispatch()).is_some()
}

/// Whether products on `device` round their factors to bfloat16 themselves; `None` where this precision has no fused form.
pub(crate) fn rounds(precision: Precision, device: &Device) -> Option<bool> {
    if !is_fused(device) {
        return None;
    }
    match precision {
        Precision::F32 => Some(false),
        Precision::Bf16 => multiplies_bf16().then_some(true),
        Precision::F16 => None,
    }
}
