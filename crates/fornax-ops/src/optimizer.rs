use burn::{
    backend::Dispatch,
    tensor::{DType, Device, Tensor},
};

use crate::fused::{Fused, HostFused, is_fused, is_on_host};
pub use crate::host::adamw::Factors as AdamWFactors;

/// Whether [`adamw_step`] is there for tensors of `device`.
pub fn steps_in_one_pass(device: &Device) -> bool {
    is_fused(device)
}

/// Whether [`sum_of_squares`] is there for tensors of `device`.
pub fn sums_squares(device: &Device) -> bool {
    is_on_host(device)
}

/// One update of AdamW in one pass, on a device where [`steps_in_one_pass`]: value, first and second moment after it, in the same
/// memory unless somebody else has the tensors too.
///
/// # Shapes
///
/// - `tensors`, `gradient`: the same
/// - `scales`: `[2]`: what the gradient is multiplied with, and what [`AdamWFactors::rate`] is. Where that is zero, nothing changes,
///   whatever the gradient holds
///
/// # Panics
///
/// On other devices, when the shapes differ, and for other elements than `f32`.
pub fn adamw_step<const D: usize>(
    tensors: [Tensor<D>; 3],
    gradient: Tensor<D>,
    scales: Tensor<1>,
    factors: AdamWFactors,
) -> [Tensor<D>; 3] {
    assert!(tensors.iter().all(|tensor| tensor.dims() == gradient.dims()), "adamw_step: shapes of gradient and state");
    assert_eq!(scales.dims(), [2], "adamw_step: scales of gradient and rate");
    let types = tensors.each_ref().map(Tensor::dtype).into_iter().chain([gradient.dtype(), scales.dtype()]);
    types.for_each(|dtype| assert_eq!(dtype, DType::F32, "adamw_step: element types"));
    let [value, first, second] = tensors.map(Tensor::into_dispatch);
    let (gradient, scales) = (gradient.into_dispatch(), scales.into_dispatch());
    let (value, first, second) = Dispatch::fused_adamw(value, first, second, gradient, scales, factors);
    [value, first, second].map(Tensor::from_dispatch)
}

/// The sum of all elements' squares, `[1]`, on a device where [`sums_squares`]; added up in the same order for any number of
/// threads.
///
/// # Panics
///
/// On other devices.
pub fn sum_of_squares<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    Tensor::from_dispatch(Dispatch::fused_sum_of_squares(x.into_dispatch()))
}
