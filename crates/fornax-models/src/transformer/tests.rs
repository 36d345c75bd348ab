use burn::tensor::TensorData;
use fornax_backend::{Precision, test_device};
use fornax_nn::parameters;
use fornax_ops::{RandomKey, cross_entropy_sum};

use super::*;
use crate::generate::{Seq2SeqLm, Seq2SeqOptions, generate_seq2seq};

fn tiny() -> TransformerConfig {
    TransformerConfig {
        source_vocab_size: 31,
        target_vocab_size: 23,
        max_positions: 12,
        hidden_size: 24,
        num_layers: 2,
        num_decoder_layers: Some(1),
        num_heads: 3,
        intermediate_size: 40,
        dropout: 0.0,
        tie_embeddings: TieEmbeddings::None,
        ..TransformerConfig::default()
    }
}

/// With learned positions, norms first, a tied head and a bias on it: all that [`tiny`] is not.
fn other() -> TransformerConfig {
    TransformerConfig {
        positions: Positions::Learned,
        norm_first: true,
        tie_embeddings: TieEmbeddings::Decoder,
        scale_embeddings: false,
        head_bias: true,
        ..tiny()
    }
}

/// The model of the sixth notebook of bentrevett/pytorch-seq2seq, on Multi30k.
fn notebook() -> TransformerConfig {
    TransformerConfig {
        source_vocab_size: 7_853,
        target_vocab_size: 5_893,
        max_positions: 100,
        positions: Positions::Learned,
        hidden_size: 256,
        num_layers: 3,
        num_heads: 8,
        intermediate_size: 512,
        tie_embeddings: TieEmbeddings::None,
        head_bias: true,
        embedding_init: EmbeddingInit::Xavier,
        pad_token: 1,
        ..TransformerConfig::default()
    }
}

/// Weights so large that tokens matter to each other.
fn model(config: &TransformerConfig) -> Transformer {
    let model = config.init(3, &test_device()).unwrap();
    initialise(model, 3, |path, _| match path.ends_with("gamma") {
        true => Init::Constant(1.0),
        false => Init::Normal { mean: 0.0, std: 0.25 },
    })
}

fn context() -> Context {
    Context::evaluation(Precision::F32)
}

fn ints(rows: &[&[i64]]) -> Tensor<2, Int> {
    Tensor::from_data(TensorData::new(rows.concat(), [rows.len(), rows[0].len()]), &test_device())
}

fn lengths(lengths: &[i64]) -> Tensor<1, Int> {
    Tensor::from_data(TensorData::new(lengths.to_vec(), [lengths.len()]), &test_device())
}

fn run(model: &Transformer, source: &[&[i64]], source_lengths: &[i64], target: &[&[i64]]) -> Tensor<3> {
    model.forward(ints(source), lengths(source_lengths), ints(target), &context())
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

#[test]
fn parameters_are_counted_without_making_them() {
    assert_eq!(notebook().num_parameters(), 9_038_341);
    // `torch.nn.Transformer` of this size has 44,140,544, two final norms among them that the paper lacks.
    let paper = TransformerConfig::default();
    assert_eq!(paper.num_parameters(), 37_000 * 512 + 44_140_544 - 2 * 1_024);
    assert_eq!(TransformerConfig { norm_first: true, ..paper }.num_parameters(), 37_000 * 512 + 44_140_544);
    let joint = TransformerConfig { source_vocab_size: 23, tie_embeddings: TieEmbeddings::All, ..other() };
    for config in [tiny(), other(), joint] {
        let counted: usize = parameters(&model(&config)).iter().map(|p| p.num_elements()).sum();
        assert_eq!(config.num_parameters(), counted);
    }
}

#[test]
fn flops_are_those_of_the_matrix_products() {
    // One token each, by hand. Encoder: 4 · 24² of attention and 2 · 24 · 40 of feed-forward, twice, and 2 · 24² for the
    // keys and values of the decoder's layer; decoder: 6 · 24² and 2 · 24 · 40, and the head. One pair of tokens in each of
    // four layers of attention.
    let encoder = 2 * (4 * 576 + 1_920) + 2 * 576;
    let decoder = 6 * 576 + 1_920 + 24 * 23;
    let wanted = 6 * (encoder + decoder) + 12 * 24 * 4;
    assert_eq!(tiny().training_flops_per_pair(1, 1), f64::from(wanted));
    // Twice the source: twice the encoder's products and the target's view of it, four times the encoder's pairs.
    let longer = 6 * (2 * encoder + decoder) + 12 * 24 * (2 * 4 + 1 + 2);
    assert_eq!(tiny().training_flops_per_pair(2, 1), f64::from(longer));
}

#[test]
fn matrices_are_drawn_as_glorot_and_bengio_have_it() {
    let assert_uniform = |weight: &Param<Tensor<2>>| {
        let [inputs, outputs] = weight.dims();
        let bound = (6.0 / (inputs + outputs) as f32).sqrt();
        let found = weight.val().abs().max().into_scalar::<f32>();
        assert!(found <= bound && found > 0.95 * bound, "{found} of {bound}");
    };
    let model = TransformerConfig { embedding_init: EmbeddingInit::Xavier, ..other() }.init(1, &test_device()).unwrap();
    let block = &model.decoder[0];
    let linears =
        [&block.attention.query, &block.cross_attention.value, &block.feed_forward.up, &block.feed_forward.down];
    for linear in linears {
        assert_uniform(&linear.weight);
        let bias = linear.bias.as_ref().unwrap().val();
        assert!(bias.into_data().iter::<f32>().all(|x| x == 0.0));
    }
    assert_uniform(&model.source_embedding.weight);
    assert_uniform(&model.target_position_embedding.as_ref().unwrap().weight);
    assert_eq!(block.cross_attention_norm.gamma.val().into_data().iter::<f32>().sum::<f32>(), 24.0);
    assert_eq!(model.head_bias.as_ref().unwrap().val().abs().max().into_scalar::<f32>(), 0.0);

    let model = tiny().init(1, &test_device()).unwrap();
    assert_uniform(&model.head.as_ref().unwrap().weight);
    let std = model.source_embedding.weight.val().square().mean().into_scalar::<f32>().sqrt();
    assert!((std - 24_f32.powf(-0.5)).abs() < 0.02, "{std}");
}

#[test]
fn the_first_loss_is_near_that_of_guessing() {
    let model = TransformerConfig { embedding_init: EmbeddingInit::Xavier, ..tiny() }.init(2, &test_device()).unwrap();
    let logits = run(&model, &[&[5, 9, 30, 0, 3]], &[5], &[&[1, 7, 7, 2, 22, 14]]).flatten::<2>(0, 1);
    let entropy = cross_entropy_sum(logits, ints(&[&[7, 7, 2, 22, 14, 3]]).flatten::<1>(0, 1), -100);
    let loss = (entropy.sum / entropy.count).into_scalar::<f32>();
    // The head's input has variance 1, its weights 2 / (24 + 23): logits of variance 24 · 2 / 47 ≈ 1 add a half to ln 23.
    assert!((loss - 23_f32.ln() - 0.5).abs() < 0.5, "{loss}");
}

#[test]
fn logits_ignore_later_targets_padding_and_other_rows() {
    for config in [tiny(), other()] {
        let model = model(&config);
        let both = run(&model, &[&[1, 2, 3, 4], &[9, 8, 0, 0]], &[4, 2], &[&[1, 5, 6, 7], &[1, 3, 2, 9]]);
        // Other padding, other later tokens, another first row, in another order.
        let changed = run(&model, &[&[9, 8, 30, 30], &[5, 5, 5, 6]], &[2, 4], &[&[1, 3, 22, 0], &[1, 1, 1, 1]]);
        let (first, second) = (both.clone().narrow(0, 0, 1), both.narrow(0, 1, 1));
        assert_near(changed.clone().narrow(0, 0, 1).narrow(1, 0, 2), second.clone().narrow(1, 0, 2));
        assert!(difference(changed.narrow(0, 0, 1).narrow(1, 2, 1), second.clone().narrow(1, 2, 1)) > 1e-2);
        assert_near(run(&model, &[&[9, 8]], &[2], &[&[1, 3, 2, 9]]), second);
        assert_near(run(&model, &[&[1, 2, 3, 4]], &[4], &[&[1, 5, 6, 7]]), first.clone());
        // A token of the source matters to all of the target, and where it stands does too.
        let other_source = run(&model, &[&[1, 2, 3, 5]], &[4], &[&[1, 5, 6, 7]]);
        assert!(difference(other_source.narrow(1, 0, 1), first.clone().narrow(1, 0, 1)) > 1e-2);
        let moved = run(&model, &[&[2, 1, 3, 4]], &[4], &[&[1, 5, 6, 7]]);
        assert!(difference(moved, first) > 1e-2);
    }
}

#[test]
fn cached_tokens_give_the_same_logits() {
    for config in [tiny(), other()] {
        let model = model(&config);
        let (source, target) =
            ([&[1i64, 2, 3, 4][..], &[9, 8, 0, 0]], [&[1i64, 5, 6, 7, 3, 2][..], &[1, 3, 2, 9, 4, 4]]);
        let whole = run(&model, &source, &[4, 2], &target);
        let mut state = Seq2SeqLm::encode(&model, ints(&source), lengths(&[4, 2]), 6, &context());
        for (start, len) in [(0, 3), (3, 1), (4, 1)] {
            let found = model.next_logits(ints(&target).narrow(1, start, len), &mut state, &context());
            assert_near(found, whole.clone().narrow(1, start + len - 1, 1).squeeze_dim(1));
        }
        // Rows that change places take their sources and what they have seen with them.
        model.select(&mut state, &lengths(&[1, 0, 1]));
        let found = model.next_logits(ints(&[&[4], &[2], &[4]]), &mut state, &context());
        let last = whole.narrow(1, 5, 1).squeeze_dim::<2>(1);
        assert_near(found, last.select(0, lengths(&[1, 0, 1])));
    }
}

#[test]
fn reordered_rows_keep_their_source() {
    let model = model(&other());
    let source = [&[1i64, 2, 3][..], &[1, 2, 3], &[7, 8, 9]];
    let mut state = Seq2SeqLm::encode(&model, ints(&source), lengths(&[3, 3, 3]), 3, &context());
    model.next_logits(ints(&[&[1, 4], &[1, 5], &[1, 6]]), &mut state, &context());
    let mut selected = state.clone();
    let rows = lengths(&[1, 1, 2]);
    model.select(&mut selected, &rows);
    model.reorder(&mut state, &rows);
    let next = |state: &mut TransformerState| model.next_logits(ints(&[&[2], &[3], &[4]]), state, &context());
    let found = next(&mut state);
    assert_eq!(difference(found.clone(), next(&mut selected)), 0.0);
    assert_near(found.narrow(0, 1, 1), run(&model, &source[..1], &[3], &[&[1, 5, 3]]).narrow(1, 2, 1).squeeze_dim(1));
}

/// The best of four beams scores what the model itself gives its tokens, the whole target at once.
#[test]
fn beams_score_what_the_uncached_model_does() {
    for config in [tiny(), other()] {
        let model = model(&config);
        let sources = [vec![4, 9, 2], vec![17, 3, 30, 8, 1], vec![6]];
        let options = Seq2SeqOptions { num_return: 4, ..Seq2SeqOptions::beams(4, 0, vec![1], 8) };
        let found = generate_seq2seq(&model, &sources, &options).unwrap();
        for (source, hypotheses) in sources.iter().zip(found) {
            assert_eq!(hypotheses.len(), 4);
            for hypothesis in hypotheses {
                let tokens: Vec<i64> =
                    hypothesis.tokens.iter().chain(&hypothesis.stop).map(|t| i64::from(*t)).collect();
                let input: Vec<i64> = [&[0], &tokens[..tokens.len() - 1]].concat();
                let source: Vec<i64> = source.iter().map(|t| i64::from(*t)).collect();
                let logits = run(&model, &[&source], &[source.len() as i64], &[&input]).flatten::<2>(0, 1);
                let loss = cross_entropy_sum(logits, lengths(&tokens), -100).sum.into_scalar::<f32>();
                let score = -f64::from(loss) / tokens.len() as f64;
                assert!((score - hypothesis.score).abs() < 1e-4, "{score} {}", hypothesis.score);
            }
        }
    }
}

#[test]
fn dropout_is_a_function_of_the_key_and_can_be_replaced_everywhere() {
    let training = |seed| Context::training(Precision::F32, RandomKey::new(seed));
    let logits = |model: &Transformer, seed| {
        model.forward(ints(&[&[1, 2, 3]]), lengths(&[3]), ints(&[&[1, 2]]), &training(seed))
    };
    let with = model(&TransformerConfig { dropout: 0.2, ..other() });
    assert_eq!(difference(logits(&with, 1), logits(&with, 1)), 0.0);
    assert!(difference(logits(&with, 1), logits(&with, 2)) > 1e-2);
    let without = model(&other());
    assert_near(logits(&with.clone().with_dropout(0.0).unwrap(), 1), logits(&without, 1));
    // As of a model that was made with it: on embeddings, weights and layers alike.
    let replaced = without.with_dropout(0.2).unwrap();
    assert_eq!(replaced.config(), with.config());
    assert_eq!(difference(logits(&replaced, 1), logits(&with, 1)), 0.0);
    let error = with.with_dropout(1.0).unwrap_err().to_string();
    assert!(error.starts_with("model.dropout = 1: must be at least 0 and below 1"), "{error}");
}

#[test]
#[should_panic(expected = "transformer: 13 tokens from position 0 on, of 12")]
fn a_source_beyond_the_positions_is_refused() {
    run(&model(&tiny()), &[&[1; 13]], &[13], &[&[1]]);
}

#[test]
fn configurations_that_describe_no_model_are_refused() {
    let base = tiny();
    let cases = [
        (TransformerConfig { target_vocab_size: 0, ..base.clone() }, "model.target_vocab_size = 0: must be at least 1"),
        (TransformerConfig { num_decoder_layers: Some(0), ..base.clone() }, "model.num_decoder_layers = 0: must be"),
        (
            TransformerConfig { num_heads: 5, ..base.clone() },
            "model.hidden_size = 24: must be a multiple of model.num_heads",
        ),
        (
            TransformerConfig { tie_embeddings: TieEmbeddings::All, ..base.clone() },
            "model.target_vocab_size = 23: must be model.source_vocab_size = 31 with model.tie_embeddings = \"all\"",
        ),
        (TransformerConfig { pad_token: 23, ..base.clone() }, "model.pad_token = 23: must be a token of both"),
        (TransformerConfig { norm_eps: 0.0, ..base }, "model.norm_eps = 0: must be above 0"),
    ];
    for (config, message) in cases {
        let error = config.init(0, &test_device()).unwrap_err().to_string();
        assert!(error.starts_with(message), "{error}");
    }
    assert!(serde_json::from_str::<TransformerConfig>(r#"{"d_model": 3}"#).is_err());
    assert_eq!(serde_json::from_str::<TransformerConfig>("{}").unwrap(), TransformerConfig::default());
}
