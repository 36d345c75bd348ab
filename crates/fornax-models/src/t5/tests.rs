use burn::{
    optim::{AdamConfig, GradientsParams},
    tensor::TensorData,
};
use fornax_backend::{Precision, test_device};
use fornax_nn::{Activation, parameters};
use fornax_ops::{RandomKey, cross_entropy_sum};

use super::*;

/// Version 1.0 and version 1.1.
fn tiny() -> [T5Config; 2] {
    let v1_0 = T5Config {
        vocab_size: 31,
        hidden_size: 24,
        head_dim: 5,
        num_heads: 3,
        intermediate_size: 40,
        num_layers: 2,
        num_decoder_layers: Some(3),
        relative_buckets: 8,
        relative_max_distance: 6,
        dropout: 0.0,
        ..T5Config::default()
    };
    let v1_1 = T5Config { activation: Activation::GeluTanh, gated: true, tie_embeddings: false, ..v1_0.clone() };
    [v1_0, v1_1]
}

fn model(config: &T5Config) -> T5 {
    config.init(3, &test_device()).unwrap()
}

fn context() -> Context {
    Context::evaluation(Precision::F32)
}

fn training(seed: u64) -> Context {
    Context::training(Precision::F32, RandomKey::new(seed))
}

fn ints(rows: &[&[i64]], device: &Device) -> Tensor<2, Int> {
    Tensor::from_data(TensorData::new(rows.concat(), [rows.len(), rows[0].len()]), device)
}

/// Sources of 6 and 3 tokens.
fn sources(device: &Device) -> (Tensor<2, Int>, Tensor<1, Int>) {
    let lengths = Tensor::from_data(TensorData::from([6i64, 3]), device);
    (ints(&[&[5, 9, 30, 7, 7, 1], &[12, 4, 1, 0, 0, 0]], device), lengths)
}

fn run(model: &T5, decoder_input_ids: &[&[i64]], context: &Context) -> Tensor<3> {
    let device = &model.token_embedding.weight.device();
    let (input_ids, lengths) = sources(device);
    model.forward(input_ids, lengths, ints(decoder_input_ids, device), context)
}

fn difference(a: Tensor<3>, b: Tensor<3>) -> f32 {
    assert_eq!(a.dims(), b.dims());
    (a - b).abs().max().into_scalar::<f32>()
}

/// The counts that `transformers` gives for the published models, with the head of version 1.1, and for one whose decoder is
/// deeper.
#[test]
fn parameters_of_the_published_models_are_counted_without_making_them() {
    let small = T5Config::default();
    let base = |config| T5Config { hidden_size: 768, num_layers: 12, num_heads: 12, ..config };
    assert_eq!(small.num_parameters(), 60_506_624);
    assert_eq!(base(T5Config { intermediate_size: 3_072, ..small.clone() }).num_parameters(), 222_903_552);
    assert_eq!(T5Config::v1_1_small().num_parameters(), 76_961_152);
    assert_eq!(base(T5Config { intermediate_size: 2_048, ..T5Config::v1_1_small() }).num_parameters(), 247_577_856);
    assert_eq!(T5Config { num_layers: 2, num_decoder_layers: Some(5), ..small }.num_parameters(), 43_723_776);
    for config in tiny() {
        let counted: usize = parameters(&model(&config)).iter().map(|p| p.num_elements()).sum();
        assert_eq!(config.num_parameters(), counted);
    }
}

/// Every matrix product of a pair by hand, two operations for each number that is multiplied, times three with the backward pass.
#[test]
fn flops_are_those_of_all_products() {
    let (source, target, inner) = (7, 4, 15);
    for (config, maps) in tiny().into_iter().zip([2, 3]) {
        let product = |rows: usize, input: usize, output: usize| 6 * rows * input * output;
        // Queries or outputs, keys or values: one map each of as many rows.
        let map = |rows| product(rows, 24, inner);
        let feed_forward = |rows| maps * product(rows, 24, 40);
        let scores_and_values = |queries: usize, keys: usize| 2 * product(queries, inner, keys);
        let encoder = 4 * map(source) + scores_and_values(source, source) + feed_forward(source);
        let own = 4 * map(target) + scores_and_values(target, target);
        let cross = 2 * map(target) + 2 * map(source) + scores_and_values(target, source);
        let decoder = own + cross + feed_forward(target);
        let wanted = (2 * encoder + 3 * decoder + product(target, 24, 31)) as f64;
        assert_eq!(config.training_flops_per_token(source, target) * (source + target) as f64, wanted);
    }
}

#[test]
fn parameters_have_the_published_initialisation() {
    let wide = |config: T5Config| T5Config { vocab_size: 300, hidden_size: 100, intermediate_size: 200, ..config };
    for config in tiny().map(wide) {
        let model = config.init(1, &test_device()).unwrap();
        let assert_std = |tensor: Tensor<2>, wanted: f64| {
            let count = tensor.shape().num_elements() as f64;
            let found = f64::from(tensor.square().mean().into_scalar::<f32>()).sqrt();
            // Five standard errors.
            assert!((found / wanted - 1.0).abs() < 5.0 / (2.0 * count).sqrt(), "{found} against {wanted}");
        };
        assert_std(model.token_embedding.weight.val(), 1.0);
        assert_std(model.encoder.position_bias.weight.val(), 0.1);
        assert_std(model.decoder.position_bias.weight.val(), 0.1);
        let block = &model.decoder.blocks[1];
        for attention in [&model.encoder.blocks[1].attention, &block.attention, &block.cross_attention] {
            assert_std(attention.query.weight.val(), (100.0_f64 * 5.0).powf(-0.5));
            assert_std(attention.key.weight.val(), 0.1);
            assert_std(attention.value.weight.val(), 0.1);
            assert_std(attention.output.weight.val(), 15.0_f64.powf(-0.5));
        }
        let feed_forward = &block.feed_forward;
        assert_std(feed_forward.up.weight.val(), 0.1);
        assert_std(feed_forward.down.weight.val(), 200.0_f64.powf(-0.5));
        assert_eq!((feed_forward.gate.is_some(), model.head.is_some()), (config.gated, config.gated));
        if let (Some(gate), Some(head)) = (&feed_forward.gate, &model.head) {
            assert_std(gate.weight.val(), 0.1);
            assert_std(head.weight.val(), 1.0);
        }
        for norm in [&block.attention_norm, &block.cross_attention_norm, &feed_forward.norm, &model.decoder.final_norm]
        {
            assert!(norm.gamma.val().into_data().iter::<f32>().all(|x| x == 1.0));
        }
    }
}

/// By one batch, both versions, to a hundredth of where they begin.
#[test]
fn a_batch_is_learned_by_heart() {
    let device = test_device().autodiff();
    for config in tiny() {
        let mut model = config.init(3, &device).unwrap();
        let targets = ints(&[&[8, 3, 3, 29, 1], &[17, 22, 6, 2, 1]], &device).flatten::<1>(0, 1);
        let mut optimizer = AdamConfig::new().init();
        let mut losses = Vec::new();
        for _ in 0..120 {
            let logits = run(&model, &[&[0, 8, 3, 3, 29], &[0, 17, 22, 6, 2]], &training(1)).flatten::<2>(0, 1);
            let entropy = cross_entropy_sum(logits, targets.clone(), -100);
            let loss = entropy.sum / entropy.count;
            losses.push(loss.clone().into_scalar::<f32>());
            let grads = GradientsParams::from_grads(loss.backward(), &model);
            model = optimizer.step(1e-2, model, grads);
        }
        let (first, last) = (losses[0], losses[119]);
        assert!(first > 1.0 && last < 0.01 * first, "from {first} to {last}");
    }
}

#[test]
fn a_target_token_sees_the_source_and_no_later_token() {
    for config in tiny() {
        let model = model(&config);
        let before = run(&model, &[&[0, 8, 3, 3, 29], &[0, 17, 22, 6, 2]], &context());
        let after = run(&model, &[&[0, 8, 3, 5, 6], &[0, 17, 22, 7, 7]], &context());
        assert!(difference(before.clone().narrow(1, 0, 3), after.clone().narrow(1, 0, 3)) < 1e-5);
        assert!(difference(before.clone().narrow(1, 3, 2), after.narrow(1, 3, 2)) > 1e-2);
        // The first column begins with the same token in both rows, so only the source tells them apart.
        let [one, two] = [0, 1].map(|row| before.clone().narrow(0, row, 1).narrow(1, 0, 1));
        assert!(difference(one, two) > 1e-2);
    }
}

#[test]
fn dropout_is_a_function_of_the_key() {
    for config in tiny() {
        let model = model(&T5Config { dropout: 0.2, ..config });
        let run = |seed| run(&model, &[&[0, 8], &[0, 17]], &training(seed));
        assert_eq!(difference(run(1), run(1)), 0.0);
        assert!(difference(run(1), run(2)) > 1e-2);
    }
}

#[test]
fn another_dropout_replaces_every_place_of_it() {
    for config in tiny() {
        let without = model(&config);
        let with = without.clone().with_dropout(0.2).unwrap();
        assert_eq!(with.config(), T5Config { dropout: 0.2, ..config.clone() });
        let run = |model: &T5| run(model, &[&[0, 8, 3], &[0, 17, 6]], &training(1));
        assert_eq!(difference(run(&with.clone().with_dropout(0.0).unwrap()), run(&without)), 0.0);
        // As of a model that was made with it.
        assert_eq!(difference(run(&with), run(&model(&T5Config { dropout: 0.2, ..config }))), 0.0);
        assert!(difference(run(&with), run(&without)) > 1e-2);
        let error = with.with_dropout(1.0).unwrap_err().to_string();
        assert!(error.starts_with("model.dropout = 1: must be at least 0 and below 1"), "{error}");
    }
}

#[test]
fn half_precision_is_refused_with_the_reason() {
    assert!(T5::check_precision(Precision::F32).is_ok() && T5::check_precision(Precision::Bf16).is_ok());
    let error = T5::check_precision(Precision::F16).unwrap_err();
    insta::assert_snapshot!(error, @"T5 in precision f16: values inside its feed-forward layers exceed 65,504, the largest of f16; use bf16, in which it was pretrained (Raffel et al. 2020), or f32");
}

#[test]
fn configurations_that_describe_no_model_are_refused() {
    let [base, _] = tiny();
    let cases = [
        (T5Config { head_dim: 0, ..base.clone() }, "model.head_dim = 0: must be at least 1"),
        (T5Config { num_decoder_layers: Some(0), ..base.clone() }, "model.num_decoder_layers = 0: must be at least 1"),
        (T5Config { relative_buckets: 3, ..base.clone() }, "model.relative_buckets = 3: must be at least 4"),
        (
            T5Config { relative_max_distance: 4, ..base.clone() },
            "model.relative_max_distance = 4: must be above 4, half of model.relative_buckets",
        ),
        (T5Config { pad_token: 31, ..base.clone() }, "model.pad_token = 31: must be below model.vocab_size = 31"),
        (T5Config { end_token: 99, ..base.clone() }, "model.end_token = 99: must be below model.vocab_size = 31"),
        (T5Config { dropout: -0.1, ..base.clone() }, "model.dropout = -0.1: must be at least 0 and below 1"),
        (T5Config { norm_eps: f64::NAN, ..base }, "model.norm_eps = NaN: must be above 0"),
    ];
    for (config, message) in cases {
        let error = config.init(0, &test_device()).unwrap_err().to_string();
        assert!(error.starts_with(message), "{error}");
    }
    let read = |json: &str| serde_json::from_str::<T5Config>(json);
    assert!(read(r#"{"d_model": 3}"#).is_err());
    assert_eq!(read("{}").unwrap(), T5Config::default());
    let small = T5Config::v1_1_small();
    assert_eq!(read(&serde_json::to_string(&small).unwrap()).unwrap(), small);
}
