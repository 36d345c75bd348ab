use burn::{
    backend::{Backend, tensor::FloatTensor},
    tensor::Shape,
};

use super::memory::HostMemory;
use crate::host::adamw::{self, Factors};

/// A backend that moves parameters in one pass.
pub(crate) trait AdamW: Backend {
    /// Value and moments, moved in their own memory; of what somebody else has too, a copy is moved. `scales` as in
    /// [`adamw_step`](crate::adamw_step).
    fn adamw(
        state: [FloatTensor<Self>; 3],
        gradient: FloatTensor<Self>,
        scales: FloatTensor<Self>,
        factors: Factors,
    ) -> [FloatTensor<Self>; 3];
}

impl<B: HostMemory> AdamW for B {
    fn adamw(
        state: [FloatTensor<B>; 3],
        gradient: FloatTensor<B>,
        scales: FloatTensor<B>,
        mut factors: Factors,
    ) -> [FloatTensor<B>; 3] {
        let scales = B::contiguous(scales);
        let [scale, share] = [0, 1].map(|index| B::slice(&scales)[index]);
        if share == 0.0 {
            return state;
        }
        factors.add = [factors.add[0] * scale, factors.add[1] * scale * scale];
        factors.rate *= share;
        let [mut value, mut first, mut second] = state.map(B::owned);
        let gradient = B::contiguous(gradient);
        let memory = (B::slice_mut(&mut value), B::slice_mut(&mut first), B::slice_mut(&mut second));
        if let (Some(value), Some(first), Some(second)) = memory {
            adamw::step(value, first, second, B::slice(&gradient), &factors);
        }
        [value, first, second]
    }
}

/// `[1]`
pub(super) fn sum_of_squares<B: HostMemory>(x: FloatTensor<B>) -> FloatTensor<B> {
    let x = B::contiguous(x);
    let sum = adamw::sum_of_squares(B::slice(&x));
    B::create(Shape::new([1]), |out| out[0] = sum as f32)
}
