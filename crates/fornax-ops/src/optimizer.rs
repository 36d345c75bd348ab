use burn::{
    backend::Dispatch,
    tensor::{Device, Tensor},
};

use crate::fused::{HostFused, is_on_host};
pub use crate::host::adamw::Factors as AdamWFactors;

/// Whether [`adamw_step`] and [`sum_of_squares`] are there for tensors of `device`.
pub fn steps_on_host(device: &Device) -> bool {
    is_on_host(device)
}

/// One update of AdamW in one pass, on a device where [`steps_on_host`]: value, first and second moment after it, in the same
/// memory unless somebody else has the tensors too.
///
/// # Shapes
///
/// All four tensors have the same.
///
/// # Panics
///
/// On other devices, and when the shapes differ.
pub fn adamw_step<const D: usize>(
    tensors: [Tensor<D>; 3],
    gradient: Tensor<D>,
    factors: AdamWFactors,
) -> [Tensor<D>; 3] {
    assert!(tensors.iter().all(|tensor| tensor.dims() == gradient.dims()), "adamw_step: shapes of gradient and state");
    let [value, first, second] = tensors.map(Tensor::into_dispatch);
    let (value, first, second) = Dispatch::fused_adamw(value, first, second, gradient.into_dispatch(), factors);
    [value, first, second].map(Tensor::from_dispatch)
}

/// The sum of all elements' squares, `[1]`, on a device where [`steps_on_host`]; added up in the same order for any number of
/// threads.
///
/// # Panics
///
/// On other devices.
pub fn sum_of_squares<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    Tensor::from_dispatch(Dispatch::fused_sum_of_squares(x.into_dispatch()))
}
