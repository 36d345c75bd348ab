use burn::backend::{TensorMetadata, tensor::FloatTensor};

use super::{Kernels, operation::Operation};
use crate::host::elementwise::Noise;

/// Multiplication with noise, which is computed anew in the backward pass instead of being kept.
#[derive(Clone, Debug)]
pub(super) struct Dropout(pub(super) Noise);

impl<B: Kernels> Operation<B, 1> for Dropout {
    type Saved = ();

    #[allow(clippy::expect_used)]
    fn forward(&self, [x]: [Option<FloatTensor<B>>; 1]) -> (FloatTensor<B>, ()) {
        let x = B::contiguous(x.expect("an input"));
        (B::create(x.shape(), |out| self.0.apply(B::slice(&x), out)), ())
    }

    fn backward(&self, (): (), gradient: FloatTensor<B>, _: [bool; 1]) -> [Option<FloatTensor<B>>; 1] {
        [Some(<Self as Operation<B, 1>>::forward(self, [Some(gradient)]).0)]
    }
}
