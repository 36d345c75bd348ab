use std::sync::Arc;

use burn::{
    backend::{TensorMetadata, tensor::FloatTensor},
    tensor::Shape,
};

use super::{Kernels, operation::Operation};
use crate::host::embedding::{backward, forward};

/// The rows of a table that `ids` name.
#[derive(Clone, Debug)]
pub(super) struct Embedding {
    pub(super) ids: Arc<[usize]>,
}

impl<B: Kernels> Operation<B, 1> for Embedding {
    /// The shape of the table.
    type Saved = Shape;

    #[allow(clippy::expect_used)]
    fn forward(&self, [table]: [Option<FloatTensor<B>>; 1]) -> (FloatTensor<B>, Self::Saved) {
        let table = B::contiguous(table.expect("a table"));
        let shape = table.shape();
        let output = B::create(Shape::new([self.ids.len(), shape[1]]), |out| {
            forward(B::slice(&table), shape[1], &self.ids, out);
        });
        (output, shape)
    }

    fn backward(&self, shape: Shape, gradient: FloatTensor<B>, _: [bool; 1]) -> [Option<FloatTensor<B>>; 1] {
        let (gradient, size) = (B::contiguous(gradient), shape[1]);
        [Some(B::create(shape, |out| backward(B::slice(&gradient), size, &self.ids, out)))]
    }
}
