//! Cached continuations against `transformers`' own.

use burn::tensor::{Int, Tensor, TensorData};
use fornax_backend::test_device;
use fornax_ops::AttentionMask;
use serde::Deserialize;

use super::{super::super::load_gpt2, Golden, assert_close, evaluation, fixture, tolerance};
use crate::generate::{CausalLm, SamplingOptions, generate};

#[derive(Deserialize)]
struct Greedy {
    max_new_tokens: usize,
    prompts: Vec<Vec<u32>>,
    continuations: Vec<Vec<u32>>,
}

#[test]
fn greedy_continuations_equal_those_of_transformers_token_for_token() {
    let (model, _) = load_gpt2(&fixture("plain"), &test_device()).unwrap();
    let greedy = Greedy::deserialize(&Golden::open("gpt2").json["greedy"]).unwrap();
    let options = SamplingOptions::greedy(greedy.max_new_tokens);
    let mut streamed = vec![Vec::new(); greedy.prompts.len()];
    let together = generate(&model, &greedy.prompts, &options, &mut |row, t| streamed[row].push(t)).unwrap();
    assert_eq!(together, greedy.continuations);
    assert_eq!(streamed, greedy.continuations);
    for (prompt, wanted) in greedy.prompts.iter().zip(&greedy.continuations) {
        let alone = generate(&model, std::slice::from_ref(prompt), &options, &mut |_, _| {}).unwrap();
        assert_eq!(alone, std::slice::from_ref(wanted));
    }
}

#[test]
fn cached_logits_equal_uncached_ones() {
    let device = test_device();
    let (model, _) = load_gpt2(&fixture("plain"), &device).unwrap();
    let ids: Vec<i32> = (0..20).map(|i| (i * 17 + 3) % 61).collect();
    let tensor = |values: &[i32]| -> Tensor<2, Int> {
        Tensor::from_data(TensorData::new(values.to_vec(), [1, values.len()]), &device)
    };
    let whole: Vec<f32> =
        model.forward(tensor(&ids), &AttentionMask::None, &evaluation()).into_data().iter::<f32>().collect();
    let mut cache = CausalLm::new_cache(&model);
    let mut start = 0;
    // A long prefill, single steps, and several tokens onto a filled cache.
    for len in [7, 1, 1, 4, 1, 6] {
        let end = start + len;
        let positions: Vec<i32> = (start as i32..end as i32).collect();
        let logits = model.next_logits(
            tensor(&ids[start..end]),
            tensor(&positions),
            &AttentionMask::None,
            &mut cache,
            &evaluation(),
        );
        let found: Vec<f32> = logits.into_data().iter::<f32>().collect();
        assert_close(&format!("after {end}"), &found, &whole[(end - 1) * 61..end * 61], tolerance(&device));
        start = end;
    }
    assert_eq!(start, 20);
}
