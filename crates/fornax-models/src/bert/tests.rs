use burn::tensor::TensorData;
use fornax_backend::{Precision, test_device};
use fornax_nn::parameters;
use fornax_ops::{RandomKey, cross_entropy_sum};

use super::*;

const FAMILIES: [BertFamily; 3] = [BertFamily::Bert, BertFamily::Roberta, BertFamily::DistilBert];

fn tiny(family: BertFamily) -> BertConfig {
    BertConfig {
        family,
        vocab_size: 61,
        max_positions: 16,
        type_vocab_size: if family == BertFamily::DistilBert { 0 } else { 2 },
        hidden_size: 24,
        num_layers: 2,
        num_heads: 3,
        intermediate_size: 40,
        dropout: 0.0,
        ..BertConfig::default()
    }
}

/// Weights ten times larger than at initialisation, so that tokens matter to each other.
fn wide<M: Module>(model: M) -> M {
    initialise(model, 3, |_, _| Init::Normal { mean: 0.0, std: 0.2 })
}

fn masked_lm(config: &BertConfig) -> BertForMaskedLm {
    wide(config.init_masked_lm(3, &test_device()).unwrap())
}

fn classifier(config: &BertConfig, pooling: Pooling) -> BertForSequenceClassification {
    let classes = ClassifierConfig::numbered(3, pooling);
    wide(config.init_sequence_classification(&classes, 3, &test_device()).unwrap())
}

fn context() -> Context {
    Context::evaluation(Precision::F32)
}

fn training(seed: u64) -> Context {
    Context::training(Precision::F32, RandomKey::new(seed))
}

fn ints(rows: &[&[i64]]) -> Tensor<2, Int> {
    Tensor::from_data(TensorData::new(rows.concat(), [rows.len(), rows[0].len()]), &test_device())
}

fn list(values: &[i64]) -> Tensor<1, Int> {
    Tensor::from_data(TensorData::from(values), &test_device())
}

fn run(model: &BertForMaskedLm, rows: &[&[i64]]) -> Tensor<3> {
    model.forward(ints(rows), None, &AttentionMask::None, &context())
}

fn difference<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> f32 {
    assert_eq!(a.dims(), b.dims());
    (a - b).abs().max().into_scalar::<f32>()
}

fn assert_near<const D: usize>(a: Tensor<D>, b: Tensor<D>) {
    let largest = b.clone().abs().max().into_scalar::<f32>();
    let difference = difference(a, b);
    assert!(largest > 0.1 && difference < 1e-5 * largest, "{difference} of {largest}");
}

/// The counts that `transformers` gives for the published models: `bert-base-uncased` with its pooler, `roberta-base` and
/// `distilbert-base-uncased` without.
#[test]
fn parameters_of_the_published_models_are_counted_without_making_them() {
    let base = BertConfig::default();
    let pooler = 768 * 768 + 768;
    assert_eq!(base.num_parameters() + pooler, 109_482_240);
    let model = BertForPreTraining::new(&base, &test_device());
    let counted = |part: &str| -> usize {
        let found = parameters(&model).into_iter().filter(|p| p.path.starts_with(part));
        found.map(|p| p.num_elements()).sum()
    };
    assert_eq!((counted("bert."), counted("pooler.")), (base.num_parameters(), pooler));
    // The decoder is the token embedding: the head has no matrix of its own for it.
    assert_eq!(counted("head."), pooler + 2 * 768 + 30_522);
    let roberta =
        BertConfig { family: BertFamily::Roberta, vocab_size: 50_265, type_vocab_size: 1, ..BertConfig::default() };
    assert_eq!(roberta.num_parameters(), 124_055_040);
    let distilbert =
        BertConfig { family: BertFamily::DistilBert, type_vocab_size: 0, num_layers: 6, ..BertConfig::default() };
    assert_eq!(distilbert.num_parameters(), 66_362_880);
    for family in FAMILIES {
        let config = tiny(family);
        let counted: usize =
            parameters(&config.init(1, &test_device()).unwrap()).iter().map(|p| p.num_elements()).sum();
        assert_eq!(config.num_parameters(), counted);
    }
}

/// 84.9M weights in the blocks, and 512 tokens that attend to 512.
#[test]
fn flops_of_the_published_model_are_the_known_ones() {
    let sequence = 512.0 * BertConfig::default().training_flops_per_token(512);
    assert_eq!((sequence / 1e8).round() / 10.0, 289.9);
}

#[test]
fn parameters_have_the_published_initialisation() {
    let model = tiny(BertFamily::Bert).init_masked_lm(1, &test_device()).unwrap();
    let std = |tensor: Tensor<2>| tensor.square().mean().into_scalar::<f32>().sqrt();
    let block = &model.bert.blocks[1];
    for weight in [
        &model.bert.token_embedding.weight,
        &block.attention.key.weight,
        &block.attention.output.weight,
        &block.feed_forward.down.weight,
        &model.head.transform.weight,
    ] {
        assert!((std(weight.val()) - 0.02).abs() < 0.002);
    }
    let sum = |tensor: Tensor<1>| tensor.abs().sum().into_scalar::<f32>();
    assert_eq!((sum(block.attention_norm.gamma.val()), sum(model.head.norm.gamma.val())), (24.0, 24.0));
    assert_eq!(sum(model.head.bias.val()), 0.0);
    for bias in [&block.feed_forward_norm.beta, &block.feed_forward.up.bias, &block.attention.query.bias] {
        assert_eq!(sum(bias.as_ref().unwrap().val()), 0.0);
    }
}

#[test]
fn the_first_losses_are_near_those_of_guessing() {
    let device = test_device();
    let (ids, targets) = (ints(&[&[5, 9, 60, 0, 3, 7, 7, 1]]), list(&[9, 60, 0, 3, 7, 7, 1, 2]));
    let loss = |logits: Tensor<2>, targets: Tensor<1, Int>| {
        let entropy = cross_entropy_sum(logits, targets, -100);
        (entropy.sum / entropy.count).into_scalar::<f32>()
    };
    for family in FAMILIES {
        let model = tiny(family).init_masked_lm(2, &device).unwrap();
        let logits = model.forward(ids.clone(), None, &AttentionMask::None, &context());
        let tokens = loss(logits.flatten(0, 1), targets.clone());
        assert!((tokens - 61_f32.ln()).abs() < 0.1, "{tokens}");
        let classes = ClassifierConfig::numbered(5, Pooling::Cls);
        let model = tiny(family).init_sequence_classification(&classes, 2, &device).unwrap();
        let logits = model.forward(ids.clone(), None, &AttentionMask::None, &context());
        let label = loss(logits, list(&[3]));
        assert!((label - 5_f32.ln()).abs() < 0.1, "{label}");
    }
}

#[test]
fn every_token_sees_every_other_of_its_row_and_none_of_another() {
    for family in FAMILIES {
        let model = masked_lm(&tiny(family));
        let both = run(&model, &[&[4, 2, 3, 4, 5], &[9, 8, 7, 6, 5]]);
        let changed = run(&model, &[&[4, 2, 3, 4, 60], &[9, 8, 7, 6, 5]]);
        let row = |t: &Tensor<3>, row| t.clone().narrow(0, row, 1);
        assert_near(row(&changed, 1), row(&both, 1));
        for place in 0..5 {
            let at = |t: &Tensor<3>| row(t, 0).narrow(1, place, 1);
            assert!(difference(at(&changed), at(&both)) > 1e-3, "{family:?}, {place}");
        }
        let swapped = run(&model, &[&[9, 8, 7, 6, 5], &[4, 2, 3, 4, 5]]);
        assert_near(row(&swapped, 1), row(&both, 0));
    }
}

#[test]
fn padding_changes_nothing() {
    let mask = AttentionMask::KeyLengths(list(&[5, 3]));
    let (ids, short) = (ints(&[&[4, 2, 3, 4, 5], &[4, 5, 6, 0, 0]]), ints(&[&[4, 5, 6]]));
    for family in FAMILIES {
        let config = tiny(family);
        let model = masked_lm(&config);
        let padded = model.forward(ids.clone(), None, &mask, &context());
        assert_near(padded.narrow(0, 1, 1).narrow(1, 0, 3), run(&model, &[&[4, 5, 6]]));
        for pooling in [Pooling::Cls, Pooling::Mean] {
            let model = classifier(&config, pooling);
            let padded = model.forward(ids.clone(), None, &mask, &context());
            let alone = model.forward(short.clone(), None, &AttentionMask::None, &context());
            assert_near(padded.narrow(0, 1, 1), alone);
        }
    }
}

#[test]
fn logits_at_positions_are_rows_of_all_logits() {
    let ids = [&[4i64, 2, 3, 4, 5][..], &[9, 8, 7, 6, 0]];
    let (mask, positions) = (AttentionMask::KeyLengths(list(&[5, 4])), list(&[8, 0, 3, 3]));
    for family in FAMILIES {
        let model = masked_lm(&tiny(family));
        let whole = model.forward(ints(&ids), None, &mask, &context()).flatten::<2>(0, 1);
        let at = model.forward_at(ints(&ids), None, &mask, positions.clone(), &context());
        assert_near(at.compute(&context()), whole.select(0, positions.clone()));
    }
    let model = wide(tiny(BertFamily::Bert).init_pretraining(3, &test_device()).unwrap());
    let (tokens, following) = model.forward_at(ints(&ids), None, &mask, positions.clone(), &context());
    let hidden = model.bert.forward(ints(&ids), None, &mask, &context());
    let all = model.head.forward(hidden, &model.bert.token_embedding, &context()).flatten::<2>(0, 1);
    assert_near(tokens.compute(&context()), all.select(0, positions));
    assert_eq!(following.dims(), [2, 2]);
}

#[test]
fn no_token_types_are_types_of_zero() {
    let model = masked_lm(&tiny(BertFamily::Bert));
    let ids = ints(&[&[1, 2, 3], &[4, 5, 6]]);
    let run = |types| model.forward(ids.clone(), types, &AttentionMask::None, &context());
    assert_near(run(Some(ints(&[&[0, 0, 0], &[0, 0, 0]]))), run(None));
    assert!(difference(run(Some(ints(&[&[0, 0, 1], &[0, 0, 0]]))), run(None)) > 1e-2);
}

#[test]
#[should_panic(expected = "no token types")]
fn token_types_are_refused_by_a_model_without_them() {
    let ids = ints(&[&[1, 2, 3]]);
    masked_lm(&tiny(BertFamily::DistilBert)).forward(ids.clone(), Some(ids), &AttentionMask::None, &context());
}

#[test]
#[should_panic(expected = "17 positions from 2 on, of 18")]
fn a_sequence_beyond_the_last_position_is_refused() {
    run(&masked_lm(&tiny(BertFamily::Roberta)), &[&[5; 17]]);
}

#[test]
fn dropout_is_a_function_of_the_key() {
    for family in FAMILIES {
        let config = BertConfig { dropout: 0.2, ..tiny(family) };
        let (tokens, classes) = (masked_lm(&config), classifier(&config, Pooling::Cls));
        let run = |seed| {
            let ids = ints(&[&[1, 2, 3]]);
            let logits = tokens.forward(ids.clone(), None, &AttentionMask::None, &training(seed));
            let class = classes.forward(ids, None, &AttentionMask::None, &training(seed));
            [logits.flatten::<1>(0, 2), class.flatten(0, 1)].map(|t| t.into_data().iter::<f32>().collect::<Vec<_>>())
        };
        assert_eq!(run(1), run(1));
        let ([a, b], [c, d]) = (run(1), run(2));
        assert!(a != c && b != d);
    }
}

#[test]
fn another_dropout_replaces_every_place_of_it() {
    for family in FAMILIES {
        let config = tiny(family);
        let without = classifier(&config, Pooling::Cls);
        let with = without.clone().with_dropout(0.2, None).unwrap();
        assert_eq!(with.bert.config(), BertConfig { dropout: 0.2, ..config.clone() });
        let logits = |model: &BertForSequenceClassification| {
            model.forward(ints(&[&[1, 2, 3]]), None, &AttentionMask::None, &training(1))
        };
        assert_near(logits(&with.clone().with_dropout(0.0, None).unwrap()), logits(&without));
        // As of a model that was made with it.
        let made = classifier(&BertConfig { dropout: 0.2, ..config.clone() }, Pooling::Cls);
        assert_near(logits(&with), logits(&made));
        assert!(difference(logits(&with), logits(&without)) > 1e-2);
        // A head with its own rate keeps it.
        let own = classifier(&BertConfig { classifier_dropout: Some(0.5), ..config }, Pooling::Cls);
        assert!(difference(logits(&own), logits(&without)) > 1e-2);
        let kept = own.clone().with_dropout(0.2, Some(0.5)).unwrap().with_dropout(0.0, Some(0.5)).unwrap();
        assert_near(logits(&kept), logits(&own));
        assert_near(logits(&own.with_dropout(0.0, Some(0.0)).unwrap()), logits(&without));
        let error = with.with_dropout(1.0, None).unwrap_err().to_string();
        assert!(error.starts_with("model.dropout = 1: must be at least 0 and below 1"), "{error}");
    }
}

/// By the reference implementation, a DistilBERT drops nothing of what attention adds.
#[test]
fn distilbert_has_no_dropout_after_attention() {
    let rates = |family| {
        let model = BertConfig { dropout: 0.2, ..tiny(family) }.init(1, &test_device()).unwrap();
        (model.blocks[1].attention_dropout, model.blocks[1].dropout)
    };
    assert_eq!(FAMILIES.map(rates), [(0.2, 0.2), (0.2, 0.2), (0.0, 0.2)]);
}

#[test]
fn a_mean_is_over_tokens() {
    let hidden = Tensor::<1, Int>::arange(0..12, &test_device()).float().reshape([2, 3, 2]);
    let values = |mask: AttentionMask| mean_pool(hidden.clone(), &mask).into_data().iter::<f32>().collect::<Vec<_>>();
    assert_eq!(values(AttentionMask::None), [2.0, 3.0, 8.0, 9.0]);
    assert_eq!(values(AttentionMask::KeyLengths(list(&[3, 1]))), [2.0, 3.0, 6.0, 7.0]);
    assert_eq!(values(AttentionMask::KeyLengths(list(&[2, 0]))), [1.0, 2.0, 0.0, 0.0]);
    let segments = ints(&[&[0, 1, 1], &[1, 2, 0]]);
    let mask = AttentionMask::Segments { query: segments.clone(), key: segments };
    assert_eq!(values(mask), [3.0, 4.0, 7.0, 8.0]);
}

#[test]
fn configurations_that_describe_no_model_are_refused() {
    let (bert, distilbert) = (tiny(BertFamily::Bert), tiny(BertFamily::DistilBert));
    let cases = [
        (BertConfig { vocab_size: 0, ..bert.clone() }, "model.vocab_size = 0: must be at least 1"),
        (BertConfig { intermediate_size: 0, ..bert.clone() }, "model.intermediate_size = 0: must be"),
        (
            BertConfig { num_heads: 5, ..bert.clone() },
            "model.hidden_size = 24: must be a multiple of model.num_heads = 5",
        ),
        (BertConfig { dropout: 1.0, ..bert.clone() }, "model.dropout = 1: must be at least 0 and below 1"),
        (BertConfig { classifier_dropout: Some(-0.5), ..bert.clone() }, "model.classifier_dropout = -0.5: must be"),
        (BertConfig { norm_eps: 0.0, ..bert }, "model.norm_eps = 0: must be above 0"),
        (BertConfig { type_vocab_size: 2, ..distilbert.clone() }, "model.type_vocab_size = 2: must be 0"),
        (BertConfig { norm_eps: 1e-5, ..distilbert }, "model.norm_eps = 0.00001: must be 1e-12"),
    ];
    for (config, message) in cases {
        let error = config.init(0, &test_device()).unwrap_err().to_string();
        assert!(error.starts_with(message), "{error}");
    }
    let error = tiny(BertFamily::DistilBert).init_pretraining(0, &test_device()).unwrap_err().to_string();
    assert!(error.starts_with("model.family = distilbert: must be bert"), "{error}");
}

#[test]
fn configurations_are_read_and_written() {
    let read = |json: &str| serde_json::from_str::<BertConfig>(json);
    assert!(read(r#"{"hidden_dropout_prob": 0.1}"#).is_err());
    assert_eq!(read("{}").unwrap(), BertConfig::default());
    let json =
        r#"{"family": "distilbert", "activation": "gelu_tanh", "type_vocab_size": 0, "classifier_dropout": 0.2}"#;
    let config = read(json).unwrap();
    assert_eq!((config.family, config.activation), (BertFamily::DistilBert, Activation::GeluTanh));
    assert_eq!(read(&serde_json::to_string(&config).unwrap()).unwrap(), config);
    assert!(read(r#"{"activation": "gelu_new"}"#).unwrap_err().to_string().contains("unknown variant `gelu_new`"));
}
