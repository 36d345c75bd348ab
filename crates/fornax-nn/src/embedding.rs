use burn::{
    module::{Module, Param},
    tensor::{Device, Int, Tensor},
};
use fornax_ops::{Context, LinearLogits, embedding, linear};

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

    /// The vectors of ids `first..first + len`, for positions; cheaper than looking them up.
    ///
    /// # Shapes
    ///
    /// Result: `[1, len, hidden_size]`
    ///
    /// # Panics
    ///
    /// When the table has fewer than `first + len` vectors.
    pub fn range(&self, first: usize, len: usize) -> Tensor<3> {
        let weight = self.weight.val();
        let rows = weight.dims()[0];
        assert!(first + len <= rows, "embedding: {len} positions from {first} on, of {rows}");
        weight.narrow(0, first, len).unsqueeze()
    }

    /// Scores of every token by the same table (Press and Wolf 2017), plus `bias`, computed in [`Context::precision`].
    ///
    /// The head shares this one parameter; a copy of it would go stale, as an optimizer updates the first it visits.
    ///
    /// # Shapes
    ///
    /// - `hidden`: `[..., hidden_size]`
    /// - `bias`: `[vocab_size]`
    /// - result: `[..., vocab_size]`
    pub fn logits<const D: usize>(&self, hidden: Tensor<D>, bias: Option<Tensor<1>>, context: &Context) -> Tensor<D> {
        linear(hidden, self.weight.val().transpose(), bias, context)
    }

    /// [`logits`](Self::logits) that are still to be computed, for a loss.
    ///
    /// # Shapes
    ///
    /// As [`logits`](Self::logits), but all leading sizes of the result are one.
    pub fn linear_logits<const D: usize>(&self, hidden: Tensor<D>, bias: Option<Tensor<1>>) -> LinearLogits {
        LinearLogits { hidden: rows(hidden), weight: self.weight.val().transpose(), bias }
    }
}

/// `[..., size]` to `[rows, size]`.
pub(crate) fn rows<const D: usize>(x: Tensor<D>) -> Tensor<2> {
    let shape = x.dims();
    let size = shape[D - 1];
    x.reshape([shape.iter().take(D - 1).product(), size])
}

#[cfg(test)]
mod tests {
    use fornax_backend::{Precision, test_device};

    use super::*;
    use crate::{Init, initialise};

    fn table() -> Embedding {
        initialise(Embedding::new(7, 3, &test_device()), 1, |_, _| Init::Normal { mean: 0.0, std: 1.0 })
    }

    fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
        tensor.into_data().iter::<f32>().collect()
    }

    #[test]
    fn a_range_is_what_looking_its_ids_up_gives() {
        let table = table();
        let ids = Tensor::<1, Int>::arange(2..6, &test_device()).unsqueeze();
        let range = table.range(2, 4);
        assert_eq!(range.dims(), [1, 4, 3]);
        assert_eq!(values(range), values(table.forward(ids)));
    }

    #[test]
    #[should_panic(expected = "4 positions from 4 on, of 7")]
    fn a_range_beyond_the_table_is_refused() {
        table().range(4, 4);
    }

    #[test]
    fn logits_are_products_with_the_rows_plus_the_bias() {
        let (table, context) = (table(), Context::evaluation(Precision::F32));
        let bias: Tensor<1> = Tensor::<1, Int>::arange(0..7, &test_device()).float();
        let hidden = table.weight.val().narrow(0, 1, 2);
        let logits = table.logits(hidden.clone(), Some(bias), &context);
        assert_eq!(logits.dims(), [2, 7]);
        let (rows, found) = (values(table.weight.val()), values(logits));
        for (row, hidden) in values(hidden).chunks(3).enumerate() {
            for token in 0..7 {
                let product: f32 = (0..3).map(|i| hidden[i] * rows[token * 3 + i]).sum();
                assert!((found[row * 7 + token] - product - token as f32).abs() < 1e-5);
            }
        }
    }
}
