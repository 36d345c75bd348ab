use burn::{
    module::Module,
    tensor::{Device, Tensor},
};
use fornax_ops::{AttentionMask, AttentionOptions, Context, attention};

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
        let projected = self.query_key_value.forward(hidden, context);
        let heads = |part: usize| {
            projected
                .clone()
                .narrow(2, part * hidden_size, hidden_size)
                .reshape([batch, seq, self.num_heads, head_dim])
                .swap_dims(1, 2) // [batch, heads, seq, head_dim]
        };
        let (query, key, value) = (heads(0), heads(1), heads(2));
        let (key, value) = match cache {
            Some(cache) => cache.append(key, value),
            None => (key, value),
        };
        let options =
            AttentionOptions { causal: self.causal, scale: (head_dim as f32).powf(-0.5), dropout: self.dropout };
        let attended = attention(query, key, value, mask, None, &options, context);
        let merged = attended.swap_dims(1, 2).reshape([batch, seq, hidden_size]);
        self.output.forward(merged, context)
    }
}
