use burn::tensor::Tensor;

use crate::{AttentionMask, Context, dropout, linear::matmul};

/// The largest score subtracted before `exp` is at least this: far above what a mask adds, far below any real score, so
/// that a row without a permitted key gets weights of exactly zero.
const LOWEST_MAXIMUM: f32 = -1e29;

/// How [`attention`] scores keys.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionOptions {
    /// A query sees no later key; the last query is aligned with the last key, so new tokens see a whole cache.
    pub causal: bool,
    /// What `query · key` is multiplied with; `1 / √head_dim` in most models.
    pub scale: f32,
    /// Probability that an attention weight is dropped in training.
    pub dropout: f64,
}

/// Scaled dot-product attention, `dropout(softmax(scale · query · keyᵀ + bias)) · value` (Vaswani et al. 2017).
///
/// The matrix products run in [`Context::precision`], the softmax in `f32`. A query that may attend to nothing gives
/// zeros and passes no gradient.
///
/// The reference form keeps the scores `[batch, heads, query_len, key_len]` for the backward pass. It divides by the sum
/// of the exponentials after the product with the values, where a row has `head_dim` numbers instead of `key_len`.
///
/// # Shapes
///
/// - `query`: `[batch, heads, query_len, head_dim]`
/// - `key`: `[batch, kv_heads, key_len, head_dim]`; `heads` is a multiple of `kv_heads`, and `heads / kv_heads`
///   consecutive query heads share a key head (Ainslie et al. 2023)
/// - `value`: `[batch, kv_heads, key_len, value_dim]`
/// - `bias`: broadcastable to `[batch, heads, query_len, key_len]`; it receives a gradient
/// - result: `[batch, heads, query_len, value_dim]`
///
/// # Panics
///
/// When the shapes don't fit together, or when `causal` is set with more queries than keys.
pub fn attention(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    mask: &AttentionMask,
    bias: Option<Tensor<4>>,
    options: &AttentionOptions,
    context: &Context,
) -> Tensor<4> {
    let [batch, heads, query_len, head_dim] = query.dims();
    let [key_batch, kv_heads, key_len, key_dim] = key.dims();
    let [value_batch, value_heads, value_len, value_dim] = value.dims();
    assert_eq!([batch, head_dim], [key_batch, key_dim], "attention: [batch, head_dim] of query and key");
    assert_eq!(
        [key_batch, kv_heads, key_len],
        [value_batch, value_heads, value_len],
        "attention: [batch, kv_heads, key_len] of key and value"
    );
    assert!(heads.is_multiple_of(kv_heads), "attention: {heads} query heads over {kv_heads} key heads");
    assert!(key_len > 0, "attention: no keys");

    // Query heads that share a key head are rows of one product: keys and values are never repeated.
    let rows = heads / kv_heads * query_len;
    let query = query.mul_scalar(options.scale).reshape([batch, kv_heads, rows, head_dim]);
    let scores = matmul(query, key.transpose(), context).reshape([batch, heads, query_len, key_len]);

    let mask = mask.additive(options.causal, [batch, query_len, key_len], &scores.device());
    let scores = match (mask, bias) {
        (Some(mask), Some(bias)) => scores + (bias + mask),
        (Some(extra), None) | (None, Some(extra)) => scores + extra,
        (None, None) => scores,
    };
    // The maximum cancels out of the quotient, so it needs no gradient.
    let maximum = scores.clone().set_require_grad(false).max_dim(3).clamp_min(LOWEST_MAXIMUM);
    let weights = (scores - maximum).exp();
    // At least 1 wherever a key is permitted, since the largest weight is 1.
    let total = weights.clone().sum_dim(3).clamp_min(0.5);
    let weights = dropout(weights, options.dropout, context).reshape([batch, kv_heads, rows, key_len]);
    matmul(weights, value, context).reshape([batch, heads, query_len, value_dim]) / total
}
