use burn::tensor::TensorData;
use fornax_backend::{Precision, test_device};
use fornax_nn::parameters;
use fornax_ops::{RandomKey, cross_entropy_sum};

use super::*;

fn tiny() -> Gpt2Config {
    Gpt2Config {
        vocab_size: 61,
        max_positions: 16,
        hidden_size: 24,
        num_layers: 2,
        num_heads: 3,
        dropout: 0.0,
        ..Gpt2Config::default()
    }
}

/// Weights ten times larger than at initialisation, so that tokens matter to each other.
fn model(config: &Gpt2Config) -> Gpt2 {
    let model = config.init(3, &test_device()).unwrap();
    initialise(model, 3, |_, _| Init::Normal { mean: 0.0, std: 0.2 })
}

fn context() -> Context {
    Context::evaluation(Precision::F32)
}

fn ints(rows: &[&[i64]]) -> Tensor<2, Int> {
    Tensor::from_data(TensorData::new(rows.concat(), [rows.len(), rows[0].len()]), &test_device())
}

fn run(model: &Gpt2, rows: &[&[i64]]) -> Tensor<3> {
    model.forward(ints(rows), &AttentionMask::None, &context())
}

fn assert_near(a: Tensor<3>, b: Tensor<3>) {
    assert_eq!(a.dims(), b.dims());
    let largest = b.clone().abs().max().into_scalar::<f32>();
    let difference = (a - b).abs().max().into_scalar::<f32>();
    assert!(largest > 0.1 && difference < 1e-5 * largest, "{difference} of {largest}");
}

#[test]
fn parameters_of_the_published_model_are_counted_without_making_them() {
    let published = Gpt2Config::default();
    assert_eq!(published.num_parameters(), 124_439_808);
    assert_eq!(Gpt2Config { bias: false, ..published }.num_parameters(), 124_337_664);
    for bias in [true, false] {
        let config = Gpt2Config { bias, intermediate_size: Some(50), ..tiny() };
        let counted: usize = parameters(&model(&config)).iter().map(|p| p.num_elements()).sum();
        assert_eq!(config.num_parameters(), counted);
    }
}

#[test]
fn flops_of_the_published_model_are_the_known_ones() {
    let sequence = 1024.0 * Gpt2Config::default().training_flops_per_token(1024);
    assert_eq!((sequence / 1e8).round() / 10.0, 874.9);
}

#[test]
fn parameters_have_the_published_initialisation() {
    let model = tiny().init(1, &test_device()).unwrap();
    let std = |tensor: Tensor<2>| tensor.square().mean().into_scalar::<f32>().sqrt();
    assert!((std(model.token_embedding.weight.val()) - 0.02).abs() < 0.002);
    let block = &model.blocks[1];
    assert!((std(block.attention.query_key_value.weight.val()) - 0.02).abs() < 0.002);
    assert!((std(block.attention.output.weight.val()) - 0.01).abs() < 0.001);
    assert!((std(block.feed_forward.down.weight.val()) - 0.01).abs() < 0.001);
    assert_eq!(block.attention_norm.gamma.val().into_data().iter::<f32>().sum::<f32>(), 24.0);
    for bias in [&block.feed_forward_norm.beta, &block.feed_forward.up.bias] {
        assert!(bias.as_ref().unwrap().val().into_data().iter::<f32>().all(|x| x == 0.0));
    }
}

#[test]
fn the_first_loss_is_near_that_of_guessing() {
    let config = tiny();
    let model = config.init(2, &test_device()).unwrap();
    let logits = run(&model, &[&[5, 9, 60, 0, 3, 7, 7, 1]]).flatten::<2>(0, 1);
    let targets = ints(&[&[9, 60, 0, 3, 7, 7, 1, 2]]).flatten::<1>(0, 1);
    let entropy = cross_entropy_sum(logits, targets, -100);
    let loss = (entropy.sum / entropy.count).into_scalar::<f32>();
    assert!((loss - (config.vocab_size as f32).ln()).abs() < 0.1, "{loss}");
}

#[test]
fn logits_ignore_later_tokens_and_other_rows() {
    let model = model(&tiny());
    let both = run(&model, &[&[1, 2, 3, 4, 5], &[9, 8, 7, 6, 5]]);
    let changed = run(&model, &[&[1, 2, 3, 60, 0], &[5, 5, 5, 5, 5]]);
    assert_near(changed.clone().narrow(0, 0, 1).narrow(1, 0, 3), both.clone().narrow(0, 0, 1).narrow(1, 0, 3));
    let next = |t: Tensor<3>| t.narrow(0, 0, 1).narrow(1, 3, 1);
    assert!((next(changed) - next(both.clone())).abs().max().into_scalar::<f32>() > 1e-2);
    let swapped = run(&model, &[&[9, 8, 7, 6, 5], &[1, 2, 3, 4, 5]]);
    assert_near(swapped.narrow(0, 1, 1), both.narrow(0, 0, 1));
}

#[test]
fn padding_changes_nothing() {
    let model = model(&tiny());
    let alone = run(&model, &[&[4, 5, 6]]);
    let lengths = Tensor::from_data(TensorData::new(vec![5i64, 3], [2]), &test_device());
    let ids = ints(&[&[1, 2, 3, 4, 5], &[4, 5, 6, 0, 0]]);
    let padded = model.forward(ids, &AttentionMask::KeyLengths(lengths), &context());
    assert_near(padded.narrow(0, 1, 1).narrow(1, 0, 3), alone);
}

#[test]
fn cached_tokens_give_the_same_logits() {
    let model = model(&tiny());
    let rows: [&[i64]; 2] = [&[1, 2, 3, 4, 5, 6], &[6, 0, 4, 3, 60, 1]];
    let (ids, whole) = (ints(&rows), run(&model, &rows));
    let mut caches = model.new_cache();
    let mut parts = Vec::new();
    for (start, len) in [(0usize, 3usize), (3, 1), (4, 2)] {
        let positions: Vec<i64> = (start..start + len).map(|p| p as i64).collect();
        let (ids, positions) = (ids.clone().narrow(1, start, len), ints(&[&positions, &positions]));
        parts.push(model.forward_cached(ids, positions, &AttentionMask::None, &mut caches, &context()));
    }
    assert_near(Tensor::cat(parts, 1), whole.clone());
    let mut cache = model.new_cache();
    let positions: &[i64] = &[0, 1, 2, 3, 4, 5];
    let next = model.next_logits(ids, ints(&[positions, positions]), &AttentionMask::None, &mut cache, &context());
    assert_near(next.unsqueeze_dim(1), whole.narrow(1, 5, 1));
}

#[test]
fn dropout_is_a_function_of_the_key() {
    let model = model(&Gpt2Config { dropout: 0.2, ..tiny() });
    let run = |seed| {
        let context = Context::training(Precision::F32, RandomKey::new(seed));
        let logits = model.forward(ints(&[&[1, 2, 3]]), &AttentionMask::None, &context);
        logits.into_data().iter::<f32>().collect::<Vec<_>>()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn another_dropout_replaces_every_place_of_it() {
    let without = model(&tiny());
    let with = without.clone().with_dropout(0.2).unwrap();
    assert_eq!(with.config(), Gpt2Config { dropout: 0.2, ..tiny() });
    let logits = |model: &Gpt2| {
        let context = Context::training(Precision::F32, RandomKey::new(1));
        model.forward(ints(&[&[1, 2, 3]]), &AttentionMask::None, &context)
    };
    assert_near(logits(&with.clone().with_dropout(0.0).unwrap()), logits(&without));
    // As of a model that was made with it: on embeddings, weights and layers alike.
    assert_near(logits(&with), logits(&model(&Gpt2Config { dropout: 0.2, ..tiny() })));
    assert!((logits(&with) - logits(&without)).abs().max().into_scalar::<f32>() > 1e-2);
    let error = with.with_dropout(1.0).unwrap_err().to_string();
    assert!(error.starts_with("model.dropout = 1: must be at least 0 and below 1"), "{error}");
}

#[test]
fn configurations_that_describe_no_model_are_refused() {
    let base = tiny();
    let cases = [
        (Gpt2Config { vocab_size: 0, ..base.clone() }, "model.vocab_size = 0: must be at least 1"),
        (Gpt2Config { intermediate_size: Some(0), ..base.clone() }, "model.intermediate_size = 0: must be"),
        (
            Gpt2Config { num_heads: 5, ..base.clone() },
            "model.hidden_size = 24: must be a multiple of model.num_heads = 5",
        ),
        (Gpt2Config { dropout: 1.0, ..base.clone() }, "model.dropout = 1: must be at least 0 and below 1"),
        (Gpt2Config { dropout: f64::NAN, ..base.clone() }, "model.dropout = NaN"),
        (Gpt2Config { norm_eps: 0.0, ..base }, "model.norm_eps = 0: must be above 0"),
    ];
    for (config, message) in cases {
        let error = config.init(0, &test_device()).unwrap_err().to_string();
        assert!(error.starts_with(message), "{error}");
    }
    assert!(serde_json::from_str::<Gpt2Config>(r#"{"n_embd": 3}"#).is_err());
    assert_eq!(serde_json::from_str::<Gpt2Config>("{}").unwrap(), Gpt2Config::default());
}
