use std::sync::Arc;

use burn::{
    backend::Dispatch,
    tensor::{Device, Tensor},
};

use crate::{
    AttentionMask, Context, dropout,
    fused::{AttentionInputs, CubeFused, HostFused, Maybe, Rules, is_on_host, rounds, takes_attention},
    host::{
        attention::{Attention, Sizes},
        elementwise::Noise,
    },
    linear::matmul,
    slope::{constant, with_slope},
};

/// The largest score subtracted before `exp` is at least this: far above what a mask adds, far below any real score, so
/// that a row without a permitted key gets weights of exactly zero.
const LOWEST_MAXIMUM: f32 = -1e29;

/// An infinite bias is taken for this, so that differences of scores are numbers.
const LOWEST_BIAS: f32 = -1e38;

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
/// The matrix products run in [`Context::precision`] or better, the softmax in `f32`. A query that may attend to nothing gives
/// zeros and passes no gradient.
///
/// The fused form, on CPUs and, with heads of at most 128, on Cube devices, never holds the scores of all queries, and keeps a
/// number a query for the backward pass. On Cube devices query, key and value are rounded to a lower precision, read and kept in it,
/// and multiplied in `f32`: by no units for matrices, which the reference form may use there. The reference form keeps the scores `[batch, heads, query_len, key_len]`. Both
/// divide by the sum of the exponentials after the product with the values, where a row has `head_dim` numbers instead of
/// `key_len`.
///
/// # Shapes
///
/// - `query`: `[batch, heads, query_len, head_dim]`
/// - `key`: `[batch, kv_heads, key_len, head_dim]`; `heads` is a multiple of `kv_heads`, and `heads / kv_heads`
///   consecutive query heads share a key head (Ainslie et al. 2023)
/// - `value`: `[batch, kv_heads, key_len, value_dim]`
/// - `bias`: broadcastable to `[batch, heads, query_len, key_len]`; it receives a gradient. `-∞` hides a key
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
    let sizes = sizes(query.dims(), key.dims(), value.dims(), bias.as_ref());
    let device = query.device();
    let extra = u32::from(bias.is_some()) + u32::from(mask.hides());
    if takes_attention(&device, context.precision(), sizes, extra) {
        return on_cube([query, key, value], mask, fitted(bias, sizes), sizes, options, context);
    }
    if !is_on_host(&device) {
        return reference(query, key, value, mask, bias, options, context);
    }
    let bias = fitted(bias, sizes);
    let attention = fused(sizes, mask, options, context, &device);
    let [query, key, value] = [query, key, value].map(Tensor::into_dispatch);
    Tensor::from_dispatch(Dispatch::fused_attention(query, key, value, Maybe::new(bias), attention))
}

/// [`attention`] of tokens to each other, from one tensor that holds query, key and value.
///
/// # Shapes
///
/// - `packed`: `[batch, seq, 3 * heads * head_dim]`: columns of query, key and value, each ordered by head
/// - `bias`: broadcastable to `[batch, heads, seq, seq]`
/// - result: `[batch, seq, heads * head_dim]`
///
/// # Panics
///
/// When the last size of `packed` isn't a multiple of `3 * heads`, or the mask doesn't fit.
pub fn packed_attention(
    packed: Tensor<3>,
    heads: usize,
    mask: &AttentionMask,
    bias: Option<Tensor<4>>,
    options: &AttentionOptions,
    context: &Context,
) -> Tensor<3> {
    let [batch, seq, width] = packed.dims();
    assert!(heads > 0 && width.is_multiple_of(3 * heads), "packed attention: {width} columns, {heads} heads");
    let head_dim = width / 3 / heads;
    if !is_on_host(&packed.device()) {
        let part = |part: usize| {
            let part = packed.clone().narrow(2, part * width / 3, width / 3);
            part.reshape([batch, seq, heads, head_dim]).swap_dims(1, 2)
        };
        let attended = attention(part(0), part(1), part(2), mask, bias, options, context);
        return attended.swap_dims(1, 2).reshape([batch, seq, heads * head_dim]);
    }
    let part = [batch, heads, seq, head_dim];
    let sizes = sizes(part, part, part, bias.as_ref());
    let (bias, attention) = (fitted(bias, sizes), fused(sizes, mask, options, context, &packed.device()));
    Tensor::from_dispatch(Dispatch::fused_packed_attention(packed.into_dispatch(), Maybe::new(bias), attention))
}

/// The sizes of an attention of tensors with these shapes.
///
/// # Panics
///
/// When they don't fit together. What a mask must fit is checked with it.
fn sizes(query: [usize; 4], key: [usize; 4], value: [usize; 4], bias: Option<&Tensor<4>>) -> Sizes {
    let [batch, heads, query_len, head_dim] = query;
    let [_, kv_heads, key_len, _] = key;
    let value_dim = value[3];
    assert_eq!([batch, head_dim], [key[0], key[3]], "attention: [batch, head_dim] of query and key");
    assert_eq!(key[..3], value[..3], "attention: [batch, kv_heads, key_len] of key and value");
    assert!(heads.is_multiple_of(kv_heads), "attention: {heads} query heads over {kv_heads} key heads");
    assert!(key_len > 0, "attention: no keys");
    let scores = [batch, heads, query_len, key_len];
    if let Some(bias) = bias.map(Tensor::dims) {
        let fits = bias.iter().zip(scores).all(|(&size, of_scores)| size == 1 || size == of_scores);
        assert!(fits, "attention: a bias of {bias:?} for scores of {scores:?}");
    }
    Sizes { batch, heads, kv_heads, query_len, key_len, head_dim, value_dim }
}

/// A bias as the fused form wants it: of all heads, queries and keys.
fn fitted(bias: Option<Tensor<4>>, sizes: Sizes) -> Option<Tensor<4>> {
    let Sizes { heads, query_len, key_len, .. } = sizes;
    bias.map(|bias| {
        let shape = [bias.dims()[0], heads, query_len, key_len];
        if bias.dims() == shape { bias } else { bias.expand(shape) }
    })
}

/// By the kernels of Cube devices.
fn on_cube(
    [query, key, value]: [Tensor<4>; 3],
    mask: &AttentionMask,
    bias: Option<Tensor<4>>,
    sizes: Sizes,
    options: &AttentionOptions,
    context: &Context,
) -> Tensor<4> {
    let mask = mask.on_cube(options.causal, sizes.mask());
    let [query, key, value] = [query, key, value].map(Tensor::into_dispatch);
    let inputs = AttentionInputs { query, key, value, bias: Maybe::new(bias), mask };
    let rules = Rules {
        operands: context.precision().dtype(),
        scale: options.scale,
        causal: options.causal,
        noise: noise(options, context),
    };
    Tensor::from_dispatch(Dispatch::cube_attention(inputs, rules))
}

/// The factors of dropout, in training.
fn noise(options: &AttentionOptions, context: &Context) -> Option<Noise> {
    let drops = context.is_training() && options.dropout != 0.0;
    drops.then(|| Noise::new(options.dropout, context.key()))
}

fn fused(
    sizes: Sizes,
    mask: &AttentionMask,
    options: &AttentionOptions,
    context: &Context,
    device: &Device,
) -> Arc<Attention> {
    Arc::new(Attention {
        sizes,
        scale: options.scale,
        mask: mask.on_host(options.causal, sizes.mask()),
        noise: noise(options, context),
        bf16: rounds(context.precision(), device).unwrap_or(false),
    })
}

/// [`attention`] in tensor operations.
pub fn reference(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    mask: &AttentionMask,
    bias: Option<Tensor<4>>,
    options: &AttentionOptions,
    context: &Context,
) -> Tensor<4> {
    let sizes = sizes(query.dims(), key.dims(), value.dims(), bias.as_ref());
    let Sizes { batch, heads, kv_heads, query_len, key_len, head_dim, value_dim } = sizes;
    // Query heads that share a key head are rows of one product: keys and values are never repeated.
    let rows = heads / kv_heads * query_len;
    let query = query.mul_scalar(options.scale).reshape([batch, kv_heads, rows, head_dim]);
    let scores = matmul(query, key.transpose(), context).reshape([batch, heads, query_len, key_len]);

    let mask = mask.additive(options.causal, sizes.mask(), &scores.device());
    let bias = bias.map(|bias| bias.clamp_min(LOWEST_BIAS));
    let scores = match (mask, bias) {
        (Some(mask), Some(bias)) => scores + (bias + mask),
        (Some(extra), None) | (None, Some(extra)) => scores + extra,
        (None, None) => scores,
    };
    // The maximum cancels out of the quotient, so it needs no gradient. The exponential is its own derivative.
    let at = constant(&scores);
    let maximum = at.clone().max_dim(3).clamp_min(LOWEST_MAXIMUM);
    let weights = (at - maximum).exp();
    let weights = with_slope(scores, weights.clone(), || weights);
    // At least 1 wherever a key is permitted, since the largest weight is 1.
    let total = weights.clone().sum_dim(3).clamp_min(0.5);
    let weights = dropout(weights, options.dropout, context).reshape([batch, kv_heads, rows, key_len]);
    matmul(weights, value, context).reshape([batch, heads, query_len, value_dim]) / total
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Int, TensorData};
    use fornax_backend::Precision;

    use super::*;
    use crate::testing::*;

    /// Odd sizes, two query heads to a key head.
    #[derive(Clone, Copy)]
    struct Lengths {
        batch: usize,
        heads: usize,
        kv_heads: usize,
        query_len: usize,
        key_len: usize,
    }

    const HEAD_DIM: usize = 3;
    const VALUE_DIM: usize = 2;
    const SCALE: f32 = 0.7;
    const SIZES: Lengths = Lengths { batch: 2, heads: 4, kv_heads: 2, query_len: 3, key_len: 5 };

    impl Lengths {
        fn query(self) -> [usize; 4] {
            [self.batch, self.heads, self.query_len, HEAD_DIM]
        }
        fn key(self) -> [usize; 4] {
            [self.batch, self.kv_heads, self.key_len, HEAD_DIM]
        }
        fn value(self) -> [usize; 4] {
            [self.batch, self.kv_heads, self.key_len, VALUE_DIM]
        }
        /// One bias for all rows of the batch.
        fn bias(self) -> [usize; 4] {
            [1, self.heads, self.query_len, self.key_len]
        }
    }

    /// Query, key, value and bias.
    type Inputs = [Vec<f64>; 4];

    fn inputs(sizes: Lengths) -> Inputs {
        let draw = |shape: [usize; 4], seed| numbers(shape.iter().product(), seed);
        [draw(sizes.query(), 1), draw(sizes.key(), 2), draw(sizes.value(), 3), draw(sizes.bias(), 4)]
    }

    /// One query and one head at a time, straight from the definition. `factor` is what dropout multiplies a weight with.
    fn expected_output(
        s: Lengths,
        [query, key, value, bias]: &Inputs,
        allowed: &dyn Fn(usize, usize, usize) -> bool,
        factor: &dyn Fn(usize) -> f64,
    ) -> Vec<f64> {
        let mut out = Vec::new();
        for row in 0..s.batch * s.heads * s.query_len {
            let (b, h, i) = (row / s.query_len / s.heads, row / s.query_len % s.heads, row % s.query_len);
            let kv = b * s.kv_heads + h / (s.heads / s.kv_heads);
            let score = |j: usize| {
                let dot: f64 =
                    (0..HEAD_DIM).map(|d| query[row * HEAD_DIM + d] * key[(kv * s.key_len + j) * HEAD_DIM + d]).sum();
                f64::from(SCALE) * dot + bias[(h * s.query_len + i) * s.key_len + j]
            };
            let seen: Vec<usize> = (0..s.key_len).filter(|&j| allowed(b, i, j)).collect();
            let total: f64 = seen.iter().map(|&j| score(j).exp()).sum();
            for d in 0..VALUE_DIM {
                let weigh = |&j: &usize| {
                    score(j).exp() / total * factor(row * s.key_len + j) * value[(kv * s.key_len + j) * VALUE_DIM + d]
                };
                out.push(seen.iter().map(weigh).sum());
            }
        }
        out
    }

    fn options(causal: bool, dropout: f64) -> AttentionOptions {
        AttentionOptions { causal, scale: SCALE, dropout }
    }

    fn ints<const D: usize>(values: &[i64], shape: [usize; D]) -> Tensor<D, Int> {
        Tensor::from_data(TensorData::new(values.to_vec(), shape), &autodiff_device())
    }

    /// Output and all four gradients against the reference and its central differences.
    fn check(
        s: Lengths,
        mask: &AttentionMask,
        options: &AttentionOptions,
        context: &Context,
        allowed: &dyn Fn(usize, usize, usize) -> bool,
        factor: &dyn Fn(usize) -> f64,
    ) {
        let inputs = inputs(s);
        let leaves = [
            leaf(&inputs[0], s.query()),
            leaf(&inputs[1], s.key()),
            leaf(&inputs[2], s.value()),
            leaf(&inputs[3], s.bias()),
        ];
        let [query, key, value, bias] = leaves.clone();
        let output = attention(query, key, value, mask, Some(bias), options, context);
        assert_close("output", &values(output.clone()), &expected_output(s, &inputs, allowed, factor));
        let grads = weighted(output, 9).backward();
        for (i, name) in ["query", "key", "value", "bias"].into_iter().enumerate() {
            let expected = differences(&inputs[i], |x| {
                let mut inputs = inputs.clone();
                inputs[i] = x.to_vec();
                weighted_f64(&expected_output(s, &inputs, allowed, factor), 9)
            });
            assert_close(name, &values(leaves[i].grad(&grads).unwrap()), &expected);
        }
    }

    fn plain(_: usize) -> f64 {
        1.0
    }

    #[test]
    fn equals_the_definition_unmasked() {
        check(SIZES, &AttentionMask::None, &options(false, 0.0), &evaluation(), &|_, _, _| true, &plain);
    }

    #[test]
    fn causal_is_aligned_with_the_last_key() {
        check(SIZES, &AttentionMask::None, &options(true, 0.0), &evaluation(), &|_, i, j| j <= i + 2, &plain);
        let square = Lengths { key_len: 3, ..SIZES };
        check(square, &AttentionMask::None, &options(true, 0.0), &evaluation(), &|_, i, j| j <= i, &plain);
        let last = Lengths { query_len: 1, ..SIZES };
        check(last, &AttentionMask::None, &options(true, 0.0), &evaluation(), &|_, _, _| true, &plain);
    }

    /// The second row has no key at all: zeros, and gradients that are zero rather than NaN.
    #[test]
    fn key_lengths_hide_padding() {
        let lengths = [4, 0];
        let mask = AttentionMask::KeyLengths(ints(&lengths, [2]));
        for causal in [false, true] {
            let allowed = move |b: usize, i: usize, j: usize| (j as i64) < lengths[b] && (!causal || j <= i + 2);
            check(SIZES, &mask, &options(causal, 0.0), &evaluation(), &allowed, &plain);
        }
    }

    /// Packed documents, padding in the middle and at the end, and a padding query, which sees nothing.
    #[test]
    fn segments_see_only_themselves() {
        let (query, key) = ([1i64, 2, 0, 3, 1, 1], [1i64, 1, 0, 2, 2, 3, 0, 1, 1, 0]);
        let mask = AttentionMask::Segments { query: ints(&query, [2, 3]), key: ints(&key, [2, 5]) };
        for causal in [false, true] {
            let allowed = move |b: usize, i: usize, j: usize| {
                query[b * 3 + i] == key[b * 5 + j] && key[b * 5 + j] != 0 && (!causal || j <= i + 2)
            };
            check(SIZES, &mask, &options(causal, 0.0), &evaluation(), &allowed, &plain);
        }
    }

    #[test]
    fn a_shared_mask_is_the_mask_it_was_made_of() {
        let lengths = [4, 2];
        let Lengths { batch, query_len, key_len, .. } = SIZES;
        for causal in [false, true] {
            let mask = AttentionMask::KeyLengths(ints(&lengths, [2]));
            let mask = mask.shared(causal, batch, query_len, key_len, &autodiff_device());
            let allowed = move |b: usize, i: usize, j: usize| (j as i64) < lengths[b] && (!causal || j <= i + 2);
            check(SIZES, &mask, &options(causal, 0.0), &evaluation(), &allowed, &plain);
        }
    }

    #[test]
    #[should_panic(expected = "causal flag of the shared mask")]
    fn a_mask_shared_for_another_kind_of_attention_is_refused() {
        let Lengths { batch, query_len, key_len, .. } = SIZES;
        let mask = AttentionMask::None.shared(false, batch, query_len, key_len, &autodiff_device());
        check(SIZES, &mask, &options(true, 0.0), &evaluation(), &|_, _, _| true, &plain);
    }

    #[test]
    #[should_panic(expected = "a bias of [3, 4, 1, 5] for scores of [2, 4, 3, 5]")]
    fn a_bias_of_other_rows_is_refused() {
        let [query, key, value, _] = inputs(SIZES);
        let [query, key, value] = [leaf(&query, SIZES.query()), leaf(&key, SIZES.key()), leaf(&value, SIZES.value())];
        let bias = Some(leaf(&[0.0; 60], [3, 4, 1, 5]));
        let _ = attention(query, key, value, &AttentionMask::None, bias, &options(false, 0.0), &evaluation());
    }

    /// Noise depends on key and position alone, so a tensor of ones shows the factors.
    #[test]
    fn dropout_multiplies_the_weights_forward_and_backward() {
        let context = training(3);
        let len = SIZES.batch * SIZES.heads * SIZES.query_len * SIZES.key_len;
        let ones = Tensor::<1>::ones([len], &autodiff_device());
        let factors = values(dropout(ones, 0.4, &context));
        assert!(factors.contains(&0.0) && factors.iter().any(|&f| f > 1.0));
        check(SIZES, &AttentionMask::None, &options(true, 0.4), &context, &|_, i, j| j <= i + 2, &|n| factors[n]);
    }

    #[test]
    fn scores_of_any_size_are_safe() {
        let s = SIZES;
        let [query, key, value, bias] = inputs(s);
        let large: Vec<f64> = query.iter().map(|x| x * 1e4).collect();
        let output = |bias: &[f64]| {
            let [query, key, value, bias] =
                [leaf(&large, s.query()), leaf(&key, s.key()), leaf(&value, s.value()), leaf(bias, s.bias())];
            let mask = AttentionMask::None;
            attention(query.clone(), key, value, &mask, Some(bias), &options(true, 0.0), &evaluation())
        };
        assert!(values(output(&bias)).iter().all(|x| x.is_finite()));
        // A constant cancels, however large; a bias of -infinity hides everything.
        assert!(values(output(&vec![f64::from(f32::MIN); bias.len()])).iter().all(|x| x.is_finite()));
        assert!(values(output(&vec![f64::NEG_INFINITY; bias.len()])).iter().all(|&x| x == 0.0));
    }

    #[test]
    fn a_later_key_changes_nothing_before_it() {
        let s = Lengths { query_len: 5, ..SIZES };
        let [query, mut key, mut value, _] = inputs(s);
        let run = |key: &[f64], value: &[f64]| {
            let [query, key, value] = [leaf(&query, s.query()), leaf(key, s.key()), leaf(value, s.value())];
            values(attention(query, key, value, &AttentionMask::None, None, &options(true, 0.0), &evaluation()))
        };
        let before = run(&key, &value);
        for head in 0..s.batch * s.kv_heads {
            key[(head * 5 + 4) * HEAD_DIM] += 9.0;
            value[(head * 5 + 4) * VALUE_DIM] += 9.0;
        }
        for (n, (a, b)) in before.iter().zip(run(&key, &value)).enumerate() {
            let last = n / VALUE_DIM % 5 == 4;
            // The first value of the last position alone is reached by the change.
            if last && n % VALUE_DIM == 0 {
                assert!((a - b).abs() > 1e-3, "{a} and {b}");
            } else if !last {
                assert_eq!(*a, b);
            }
        }
    }

    #[test]
    fn lower_precision_is_near_and_gives_f32() {
        let s = SIZES;
        let [query, key, value, _] = inputs(s);
        let run = |precision| {
            let [query, key, value] = [leaf(&query, s.query()), leaf(&key, s.key()), leaf(&value, s.value())];
            let context = Context::evaluation(precision);
            let output =
                attention(query.clone(), key, value, &AttentionMask::None, None, &options(true, 0.0), &context);
            assert_eq!(output.dtype(), burn::tensor::DType::F32);
            let gradient = query.grad(&weighted(output.clone(), 1).backward()).unwrap();
            assert_eq!(gradient.dtype(), burn::tensor::DType::F32);
            values(output)
        };
        if !Precision::Bf16.is_supported(&fornax_backend::test_device()) {
            return;
        }
        let (exact, rounded) = (run(Precision::F32), run(Precision::Bf16));
        // Where the CPU doesn't multiply in bfloat16, the fused form computes in `f32` whatever is asked for.
        let device = fornax_backend::test_device();
        assert_eq!(exact == rounded, is_on_host(&device) && rounds(Precision::Bf16, &device).is_none());
        assert!(exact.iter().zip(&rounded).all(|(a, b)| (a - b).abs() < 0.03));
    }
}
