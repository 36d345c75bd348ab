use burn::{backend::tensor::FloatTensor, tensor::Shape};

use super::memory::HostMemory;
use crate::host::adamw::{self, Factors};

/// Value and moments, moved in their own memory; of what somebody else has too, a copy is moved.
pub(super) fn adamw<B: HostMemory>(
    tensors: [FloatTensor<B>; 3],
    gradient: FloatTensor<B>,
    factors: &Factors,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let [mut value, mut first, mut second] = tensors.map(B::owned);
    let gradient = B::contiguous(gradient);
    let memory = (B::slice_mut(&mut value), B::slice_mut(&mut first), B::slice_mut(&mut second));
    if let (Some(value), Some(first), Some(second)) = memory {
        adamw::step(value, first, second, B::slice(&gradient), factors);
    }
    (value, first, second)
}

/// `[1]`
pub(super) fn sum_of_squares<B: HostMemory>(x: FloatTensor<B>) -> FloatTensor<B> {
    let x = B::contiguous(x);
    let sum = adamw::sum_of_squares(B::slice(&x));
    B::create(Shape::new([1]), |out| out[0] = sum as f32)
}
