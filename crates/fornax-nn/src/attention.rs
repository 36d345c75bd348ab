use burn::{
    module::Module,
    tensor::{Device, Tensor},
};
use fornax_ops::{AttentionMask, AttentionOptions, Context, attention, packed_attention};

use crate::{KvCache, Linear};

/// Multi-head self-attention with one projection for query, key and value (Vaswani et al. 2017).
#[derive(Module, Debug)]
pub struct SelfAttention {
    /// `[hidden_size, 3 * hidden_size]`: columns of query, key and value, each ordered by head
    pub query_key_value: Linear,
    /// `[hidden_size, hidden_size]`
    pub output: Linear,
    num_heads: usize,
    causal: bool,
    dropout: f64,
}

impl SelfAttention {
    /// Both projections zero, with biases if `bias`. `dropout` is the probability that an attention weight is dropped.
    ///
    /// # Panics
    ///
    /// When `num_heads` doesn't divide `hidden_size`.
    pub fn new(hidden_size: usize, num_heads: usize, causal: bool, dropout: f64, bias: bool, device: &Device) -> Self {
        assert!(
            num_heads > 0 && hidden_size.is_multiple_of(num_heads),
            "self-attention: {hidden_size} over {num_heads} heads"
        );
        Self {
            query_key_value: Linear::new(hidden_size, 3 * hidden_size, bias, device),
            output: Linear::new(hidden_size, hidden_size, bias, device),
            num_heads,
            causal,
            dropout,
        }
    }

    /// The same layer with another probability of dropout.
    #[must_use]
    pub fn with_dropout(self, dropout: f64) -> Self {
        Self { dropout, ..self }
    }

    /// Attends to the tokens of `hidden`, and with a `cache` to all tokens that it has seen, which then include these.
    ///
    /// # Shapes
    ///
    /// - `hidden` and result: `[batch, seq, hidden_size]`
    /// - `mask`: over `seq` queries and, with a cache, `seen + seq` keys
    ///
    /// # Panics
    ///
    /// When the cache is full.
    pub fn forward(
        &self,
        hidden: Tensor<3>,
        mask: &AttentionMask,
        cache: Option<&mut KvCache>,
        context: &Context,
    ) -> Tensor<3> {
        let [batch, seq, hidden_size] = hidden.dims();
        let head_dim = hidden_size / self.num_heads;
        let options =
            AttentionOptions { causal: self.causal, scale: (head_dim as f32).powf(-0.5), dropout: self.dropout };
        let packed = self.query_key_value.forward(hidden, context);
        let merged = match cache {
            None => packed_attention(packed, self.num_heads, mask, None, &options, context),
            Some(cache) => {
                let part = |part: usize| {
                    let part = packed.clone().narrow(2, part * hidden_size, hidden_size);
                    part.reshape([batch, seq, self.num_heads, head_dim]).swap_dims(1, 2)
                };
                let (key, value) = cache.append(part(1), part(2));
                let attended = attention(part(0), key, value, mask, None, &options, context);
                attended.swap_dims(1, 2).reshape([batch, seq, hidden_size])
            }
        };
        self.output.forward(merged, context)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Int, TensorData};
    use fornax_backend::{Precision, test_device};

    use super::*;
    use crate::{Init, initialise, parameters};

    fn layer(causal: bool) -> SelfAttention {
        let layer = SelfAttention::new(12, 3, causal, 0.0, true, &test_device());
        initialise(layer, 1, |_, _| Init::Normal { mean: 0.0, std: 0.4 })
    }

    fn input(batch: usize, seq: usize) -> Tensor<3> {
        let values: Vec<f32> = (0..batch * seq * 12).map(|i| ((i * 37) as f32).sin()).collect();
        Tensor::from_data(TensorData::new(values, [batch, seq, 12]), &test_device())
    }

    fn assert_near(a: Tensor<3>, b: Tensor<3>) {
        assert_eq!(a.dims(), b.dims());
        let difference = (a - b).abs().max().into_scalar::<f32>();
        assert!(difference < 1e-5, "{difference}");
    }

    #[test]
    fn parameters_are_named_by_their_place() {
        let found: Vec<_> = parameters(&layer(true)).into_iter().map(|p| (p.path, p.shape)).collect();
        let expected = [
            ("query_key_value.weight", vec![12, 36]),
            ("query_key_value.bias", vec![36]),
            ("output.weight", vec![12, 12]),
            ("output.bias", vec![12]),
        ];
        assert_eq!(found, expected.map(|(path, shape)| (path.to_owned(), shape)));
    }

    /// One head at a time with nothing but matrix products and a softmax.
    #[test]
    fn equals_separate_heads() {
        let (layer, context) = (layer(false), Context::evaluation(Precision::F32));
        let x = input(1, 5);
        let projected = layer.query_key_value.forward(x.clone(), &context);
        let part = |part: usize, head: usize| projected.clone().narrow(2, part * 12 + head * 4, 4);
        let head = |h: usize| {
            let scores = part(0, h).matmul(part(1, h).transpose()).div_scalar(2.0);
            burn::tensor::activation::softmax(scores, 2).matmul(part(2, h))
        };
        let merged = Tensor::cat((0..3).map(head).collect(), 2);
        let expected = layer.output.forward(merged, &context);
        assert_near(layer.forward(x, &AttentionMask::None, None, &context), expected);
    }

    #[test]
    fn a_cache_changes_nothing() {
        let (layer, context) = (layer(true), Context::evaluation(Precision::F32));
        let (x, mut cache) = (input(2, 7), KvCache::new(9));
        let whole = layer.forward(x.clone(), &AttentionMask::None, None, &context);
        let mut parts = Vec::new();
        for (start, len) in [(0, 4), (4, 1), (5, 2)] {
            let new = x.clone().narrow(1, start, len);
            parts.push(layer.forward(new, &AttentionMask::None, Some(&mut cache), &context));
        }
        assert_eq!((cache.len(), cache.capacity()), (7, 9));
        assert_near(Tensor::cat(parts, 1), whole);
    }

    /// The second row has two tokens less: padding on the left, told apart by segment 0.
    #[test]
    fn a_cached_row_is_the_same_beside_a_longer_one() {
        let (layer, context) = (layer(true), Context::evaluation(Precision::F32));
        let segments = |rows: [&[i64]; 2]| -> Tensor<2, Int> {
            Tensor::from_data(TensorData::new(rows.concat(), [2, rows[0].len()]), &test_device())
        };
        let x = input(2, 5);
        let short = x.clone().narrow(0, 1, 1).narrow(1, 2, 3);
        let alone = layer.forward(short, &AttentionMask::None, None, &context);

        let mut cache = KvCache::new(5);
        let first = segments([&[1; 4], &[0, 0, 1, 1]]);
        let mask = AttentionMask::Segments { query: first.clone(), key: first };
        let before = layer.forward(x.clone().narrow(1, 0, 4), &mask, Some(&mut cache), &context);
        let mask =
            AttentionMask::Segments { query: segments([&[1], &[1]]), key: segments([&[1; 5], &[0, 0, 1, 1, 1]]) };
        let after = layer.forward(x.narrow(1, 4, 1), &mask, Some(&mut cache), &context);
        let row = Tensor::cat(vec![before.narrow(1, 2, 2), after], 1).narrow(0, 1, 1);
        assert_near(row, alone);
    }

    #[test]
    #[should_panic(expected = "3 tokens do not fit in 2")]
    fn a_full_cache_is_refused() {
        let mut cache = KvCache::new(2);
        layer(true).forward(input(1, 3), &AttentionMask::None, Some(&mut cache), &Context::evaluation(Precision::F32));
    }
}
