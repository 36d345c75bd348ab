use burn::{
    module::{Module, Param},
    tensor::{Device, Int, Tensor},
};
use fornax_ops::{Context, embedding, linear};

use crate::parameters::constant;

/// A table of vectors, one for each token or position.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[vocab_size, hidden_size]`
    pub weight: Param<Tensor<2>>,
}

impl Embedding {
    /// A table of zeros, to be filled by [`initialise`](crate::initialise) or from a checkpoint.
    pub fn new(vocab_size: usize, hidden_size: usize, device: &Device) -> Self {
        Self { weight: constant([vocab_size, hidden_size], 0.0, device) }
    }

    /// The vectors of `ids`.
    ///
    /// # Shapes
    ///
    /// `[batch, seq]` to `[batch, seq, hidden_size]`
    pub fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        embedding(self.weight.val(), ids)
    }

    /// The vectors of ids `0..len`, for positions; cheaper than looking them up.
    ///
    /// # Shapes
    ///
    /// Result: `[1, len, hidden_size]`
    ///
    /// # Panics
    ///
    /// When the table has fewer than `len` vectors.
    pub fn first(&self, len: usize) -> Tensor<3> {
        let weight = self.weight.val();
        assert!(len <= weight.dims()[0], "embedding: {len} positions of {}", weight.dims()[0]);
        weight.narrow(0, 0, len).unsqueeze()
    }

    /// Scores of every token by the same table (Press and Wolf 2017), computed in [`Context::precision`].
    ///
    /// The head shares this one parameter; a copy of it would go stale, as an optimizer updates the first it visits.
    ///
    /// # Shapes
    ///
    /// `[batch, seq, hidden_size]` to `[batch, seq, vocab_size]`
    pub fn logits(&self, hidden: Tensor<3>, context: &Context) -> Tensor<3> {
        linear(hidden, self.weight.val().transpose(), None, context)
    }
}
