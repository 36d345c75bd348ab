//! Blocks whose activations are computed again in the backward pass, in every family of models.

use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::{Device, Gradients, Int, Tensor, TensorData},
};
use fornax_backend::{Precision, test_device};
use fornax_ops::{AttentionMask, Context, RandomKey};

use crate::{BertConfig, Gpt2Config, T5Config, TieEmbeddings, TransformerConfig};

/// Names and values of all gradients of a module.
struct Found {
    path: Vec<String>,
    gradients: Gradients,
    values: Vec<(String, Vec<f32>)>,
}

impl ModuleVisitor for Found {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let gradient = param.val().grad_remove(&mut self.gradients);
        let values = gradient.map_or_else(Vec::new, |gradient| gradient.into_data().iter().collect());
        self.values.push((self.path.join("."), values));
    }
}

/// Where several blocks read one tensor, gradients add up in another order. A share of the largest gradient of all, since that of a key's
/// bias is zero in theory and nothing but rounding.
const TOLERANCE: f32 = 1e-6;

/// The gradients are those of kept activations, with dropout on.
fn assert_same_gradients<M: Module>(model: &M, logits: impl Fn(&M, &Context) -> Tensor<3>) {
    let gradients = |checkpoint_blocks| {
        let context = Context::training(Precision::F32, RandomKey::new(9)).with_checkpointed_blocks(checkpoint_blocks);
        let logits = logits(model, &context);
        let dims = logits.dims();
        let weights = (0..dims.iter().product()).map(|i: usize| (i as f32 * 0.37).sin()).collect::<Vec<_>>();
        let weights = Tensor::from_data(TensorData::new(weights, dims), &logits.device());
        let gradients = (logits * weights).sum().backward();
        let mut found = Found { path: Vec::new(), gradients, values: Vec::new() };
        model.visit(&mut found);
        found.values
    };
    let (kept, again) = (gradients(false), gradients(true));
    assert_eq!(kept.len(), again.len());
    let largest = |values: &[f32]| values.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    let scale = kept.iter().map(|(_, values)| largest(values)).fold(0.0, f32::max);
    for ((name, kept), (_, again)) in kept.iter().zip(&again) {
        assert!(!kept.is_empty() && kept.len() == again.len(), "{name}: {} and {} numbers", kept.len(), again.len());
        let difference = largest(&kept.iter().zip(again).map(|(a, b)| a - b).collect::<Vec<_>>());
        assert!(largest(kept) > 0.0 && difference <= TOLERANCE * scale, "{name}: {difference} of {scale}");
    }
}

fn ints(rows: &[&[i64]], device: &Device) -> Tensor<2, Int> {
    Tensor::from_data(TensorData::new(rows.concat(), [rows.len(), rows[0].len()]), device)
}

fn device() -> Device {
    test_device().autodiff()
}

fn source(device: &Device) -> (Tensor<2, Int>, Tensor<1, Int>) {
    (ints(&[&[5, 9, 3, 7], &[12, 4, 0, 0]], device), Tensor::from_data(TensorData::from([4i64, 2]), device))
}

#[test]
fn a_decoder_has_the_same_gradients() {
    let config = Gpt2Config {
        vocab_size: 31,
        max_positions: 8,
        hidden_size: 24,
        num_layers: 3,
        num_heads: 3,
        dropout: 0.3,
        ..Gpt2Config::default()
    };
    let model = config.init(3, &device()).unwrap();
    assert_same_gradients(&model, |model, context| {
        model.forward(ints(&[&[5, 9, 30, 7], &[12, 4, 1, 0]], &device()), &AttentionMask::None, context)
    });
}

#[test]
fn an_encoder_has_the_same_gradients() {
    let config = BertConfig {
        vocab_size: 31,
        max_positions: 8,
        hidden_size: 24,
        num_layers: 3,
        num_heads: 3,
        intermediate_size: 40,
        dropout: 0.3,
        ..BertConfig::default()
    };
    let model = config.init(3, &device()).unwrap();
    assert_same_gradients(&model, |model, context| {
        let (input_ids, lengths) = source(&device());
        model.forward(input_ids, None, &AttentionMask::KeyLengths(lengths), context)
    });
}

#[test]
fn an_encoder_decoder_has_the_same_gradients() {
    let config = TransformerConfig {
        source_vocab_size: 31,
        target_vocab_size: 23,
        max_positions: 12,
        hidden_size: 24,
        num_layers: 2,
        num_decoder_layers: Some(3),
        num_heads: 3,
        intermediate_size: 40,
        dropout: 0.3,
        tie_embeddings: TieEmbeddings::None,
        ..TransformerConfig::default()
    };
    let model = config.init(3, &device()).unwrap();
    assert_same_gradients(&model, |model, context| {
        let (input_ids, lengths) = source(&device());
        model.forward(input_ids, lengths, ints(&[&[1, 9, 6], &[1, 4, 2]], &device()), context)
    });
}

#[test]
fn a_t5_has_the_same_gradients_of_the_position_biases_too() {
    let config = T5Config {
        vocab_size: 31,
        hidden_size: 24,
        head_dim: 5,
        num_heads: 3,
        intermediate_size: 40,
        num_layers: 2,
        num_decoder_layers: Some(3),
        relative_buckets: 8,
        relative_max_distance: 6,
        dropout: 0.3,
        ..T5Config::default()
    };
    let model = config.init(3, &device()).unwrap();
    assert_same_gradients(&model, |model, context| {
        let (input_ids, lengths) = source(&device());
        model.forward(input_ids, lengths, ints(&[&[0, 9, 6], &[0, 4, 2]], &device()), context)
    });
}
