//! Attention: any sizes, masks and biases, from one tensor or three.

use burn::tensor::Tensor;
use fornax_backend::{Precision, test_device};
use proptest::prelude::*;

use super::{
    super::{is_fused, rounds, takes_attention},
    BF16, F16, agree, agree_within, input, ints, on_host,
};
use crate::{
    AttentionMask, AttentionOptions, Context, attention, host::attention::Sizes, packed_attention, testing::*,
};

#[derive(Clone, Debug)]
struct Case {
    batch: usize,
    kv_heads: usize,
    group: usize,
    query_len: usize,
    more_keys: usize,
    head_dim: usize,
    value_dim: usize,
    causal: bool,
    mask: u8,
    bias: u8,
    drop: bool,
    seed: u64,
}

fn cases() -> impl Strategy<Value = Case> {
    let sizes = (1usize..3, 1usize..3, 1usize..3, 1usize..150, 0usize..40, 1usize..40, 1usize..40);
    (sizes, any::<bool>(), 0u8..3, 0u8..4, any::<bool>(), any::<u64>()).prop_map(
        |((batch, kv_heads, group, query_len, more_keys, head_dim, value_dim), causal, mask, bias, drop, seed)| Case {
            batch,
            kv_heads,
            group,
            query_len,
            more_keys,
            head_dim,
            value_dim,
            causal,
            mask,
            bias,
            drop,
            seed,
        },
    )
}

impl Case {
    fn mask(&self) -> AttentionMask {
        let (batch, query_len, key_len) = (self.batch, self.query_len, self.query_len + self.more_keys);
        let number = |i: usize, below: usize| ((i as u64 * 7919 + self.seed % 1000) % below as u64) as i64;
        match self.mask {
            0 => AttentionMask::None,
            // No key at all among them.
            1 => AttentionMask::KeyLengths(ints((0..batch).map(|i| number(i, key_len + 1)).collect(), [batch])),
            _ => AttentionMask::Segments {
                query: ints((0..batch * query_len).map(|i| number(i, 3)).collect(), [batch, query_len]),
                key: ints((0..batch * key_len).map(|i| number(i, 3)).collect(), [batch, key_len]),
            },
        }
    }

    /// That there are two forms to compare. A device with the fewest bindings that WebGPU allows would fail here.
    fn assert_fused(&self) {
        let Case { batch, kv_heads, group, query_len, more_keys, head_dim, value_dim, .. } = *self;
        let key_len = query_len + more_keys;
        let sizes = Sizes { batch, heads: kv_heads * group, kv_heads, query_len, key_len, head_dim, value_dim };
        assert!(on_host() || takes_attention(&test_device(), Precision::F32, sizes, 2));
    }

    fn options(&self) -> (AttentionOptions, Context) {
        let dropout = if self.drop { 0.25 } else { 0.0 };
        (AttentionOptions { causal: self.causal, scale: 0.3, dropout }, training(self.seed))
    }
}

fn separate_tensors(case: &Case) {
    if !is_fused(&test_device()) {
        return;
    }
    case.assert_fused();
    let Case { batch, kv_heads, group, query_len, more_keys, head_dim, value_dim, .. } = *case;
    let (heads, key_len) = (kv_heads * group, query_len + more_keys);
    let mut inputs = vec![
        input([batch, heads, query_len, head_dim], case.seed),
        input([batch, kv_heads, key_len, head_dim], case.seed ^ 1),
        input([batch, kv_heads, key_len, value_dim], case.seed ^ 2),
    ];
    match case.bias {
        0 => {}
        1 => inputs.push(input([1, heads, query_len, key_len], 7)),
        2 => inputs.push(input([batch, heads, query_len, key_len], 7)),
        _ => inputs.push(input([batch, 1, 1, key_len], 7)),
    }
    let (mask, (options, context)) = (case.mask(), case.options());
    let bias = |x: &[Tensor<4>]| x.get(3).cloned();
    agree(
        &inputs,
        |x| attention(x[0].clone(), x[1].clone(), x[2].clone(), &mask, bias(x), &options, &context),
        |x| attention::reference(x[0].clone(), x[1].clone(), x[2].clone(), &mask, bias(x), &options, &context),
    );
}

/// Several tiles of the sizes that large heads have in kernels, each kind of mask and bias, heads that share keys.
#[test]
fn attention_of_large_heads() {
    for (mask, bias, causal, drop) in [(0, 1, true, true), (1, 2, false, true), (2, 3, true, false)] {
        separate_tensors(&Case {
            batch: 2,
            kv_heads: 1,
            group: 2,
            query_len: 37,
            more_keys: 5,
            head_dim: 128,
            value_dim: 72,
            causal,
            mask,
            bias,
            drop,
            seed: 9,
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if on_host() { 48 } else { 4 }))]

    /// Any sizes, masks and biases, shared between rows and heads or not.
    #[test]
    fn attention_of_separate_tensors(case in cases()) {
        separate_tensors(&case);
    }

    #[test]
    fn attention_of_one_tensor(case in cases()) {
        if !is_fused(&test_device()) {
            return Ok(());
        }
        case.assert_fused();
        let case = Case { more_keys: 0, ..case };
        let Case { batch, kv_heads: heads, query_len: len, head_dim, .. } = case;
        let mut inputs = vec![input([batch, len, 3, heads * head_dim], case.seed)];
        if case.bias == 1 {
            inputs.push(input([1, heads, len, len], 7));
        }
        let (mask, (options, context)) = (case.mask(), case.options());
        let part = |x: &Tensor<4>, part: usize| {
            x.clone().narrow(2, part, 1).reshape([batch, len, heads, head_dim]).swap_dims(1, 2)
        };
        agree(
            &inputs,
            |x| {
                let packed = x[0].clone().reshape([batch, len, 3 * heads * head_dim]);
                let attended = packed_attention(packed, heads, &mask, x.get(1).cloned(), &options, &context);
                attended.reshape([batch, len, heads, head_dim])
            },
            |x| {
                let [query, key, value] = [0, 1, 2].map(|index| part(&x[0], index));
                attention::reference(query, key, value, &mask, x.get(1).cloned(), &options, &context).swap_dims(1, 2)
            },
        );
    }
}

/// What differs from `f32` is the products, of sizes around those of tiles; also the sum over heads that share keys, with a bias.
#[test]
fn attention_in_16_bits() {
    let device = test_device();
    let lower = [(Precision::Bf16, BF16), (Precision::F16, F16)];
    for (precision, tolerance) in lower.into_iter().filter(|(precision, _)| precision.is_supported(&device)) {
        if !is_fused(&device) || (on_host() && rounds(precision, &device) != Some(true)) {
            continue;
        }
        // The last with a row that sees no key.
        let cases = [
            ([40, 43, 9, 20], true, false),
            ([70, 161, 33, 20], false, false),
            ([130, 150, 64, 64], true, false),
            ([41, 47, 20, 9], true, true),
        ];
        for ([query_len, key_len, head_dim, value_dim], causal, lengths) in cases {
            let mask = match lengths {
                true => AttentionMask::KeyLengths(ints(vec![0, key_len as i64 - 3], [2])),
                false => AttentionMask::None,
            };
            let inputs = [
                input([2, 4, query_len, head_dim], 1),
                input([2, 2, key_len, head_dim], 2),
                input([2, 2, key_len, value_dim], 3),
                input([1, 4, query_len, key_len], 4),
            ];
            let sizes = Sizes { batch: 2, heads: 4, kv_heads: 2, query_len, key_len, head_dim, value_dim };
            assert!(on_host() || takes_attention(&device, precision, sizes, 1));
            let run = |x: &[Tensor<4>], precision| {
                let context = Context::training(precision, training(5).key());
                let options = AttentionOptions { causal, scale: 0.3, dropout: 0.25 };
                let bias = Some(x[3].clone());
                attention(x[0].clone(), x[1].clone(), x[2].clone(), &mask, bias, &options, &context)
            };
            agree_within(tolerance, &inputs, |x| run(x, precision), |x| run(x, Precision::F32));
            let plain = inputs.each_ref().map(|input| tensor(&input.0, input.1, &device));
            assert_ne!(values(run(&plain, precision)), values(run(&plain, Precision::F32)), "{precision} rounds");
        }
    }
}
