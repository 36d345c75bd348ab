//! Encoder states, logits, loss, every gradient and five AdamW steps; buckets of distances; losses of new models.

use burn::{
    module::{Module, ModuleMapper, Param},
    tensor::{Device, Tensor, TensorData},
};
use fornax_backend::test_device;
use fornax_nn::RelativePositionBias;
use fornax_ops::Context;
use serde::Deserialize;

use super::{
    super::{
        super::t5::t5_table,
        training::{IGNORE, Outcome, assert_adamw_losses, assert_gradients, assert_logits_and_loss, training},
    },
    Batch, Golden, VERSIONS, assert_close, evaluation, load, tolerance, values,
};
use crate::T5;

/// Every golden case: its name and the folder of its model.
fn cases() -> impl Iterator<Item = (String, &'static str)> {
    VERSIONS.into_iter().flat_map(|version| ["full", "padded"].map(|batch| (format!("{version}.{batch}"), version)))
}

fn outcome(golden: &Golden, case: &str, model: &T5, context: &Context, device: &Device) -> Outcome {
    let batch = Batch::open(golden, case, device);
    let decoder_input_ids = batch.decoder_input_ids.clone();
    let encoded = model.encode(batch.input_ids.clone(), batch.lengths(), context);
    let hidden = model.decode(encoded, batch.lengths(), decoder_input_ids, context);
    let logits = model.logits(hidden.clone(), context).flatten::<2>(0, 1);
    let entropy = model.linear_logits(hidden).cross_entropy_sum(batch.targets, IGNORE, 0.0, context);
    Outcome { logits: vec![("logits", logits)], loss: entropy.sum / entropy.count }
}

#[test]
fn encoder_states_equal_those_of_transformers() {
    let (device, golden) = (test_device(), Golden::open("t5"));
    for (case, version) in cases() {
        let batch = Batch::open(&golden, &case, &device);
        let encoded = load(version, &device).encode(batch.input_ids.clone(), batch.lengths(), &evaluation());
        let rows = encoded.iter_dim(0).zip(&batch.lengths);
        let tokens: Vec<f32> = rows.flat_map(|(row, length)| values(row.narrow(1, 0, *length as usize))).collect();
        let name = format!("{case}.encoded");
        assert_close(&name, &tokens, &golden.floats(&name), tolerance(&device));
    }
}

#[test]
fn logits_and_loss_equal_those_of_transformers() {
    let (device, golden) = (test_device(), Golden::open("t5"));
    for (case, version) in cases() {
        let model = load(version, &device);
        assert_logits_and_loss(&golden, &case, outcome(&golden, &case, &model, &training(), &device));
    }
}

#[test]
fn every_gradient_equals_that_of_transformers() {
    let (device, golden) = (test_device().autodiff(), Golden::open("t5"));
    for (case, version) in cases() {
        let model = load(version, &device);
        let loss = outcome(&golden, &case, &model, &training(), &device).loss;
        assert_gradients(&golden, &case, &model, loss, &t5_table(&model.config()));
    }
}

#[test]
fn five_adamw_losses_equal_those_of_torch() {
    let (device, golden) = (test_device().autodiff(), Golden::open("t5"));
    for (case, version) in cases() {
        let loss = |model: &T5| outcome(&golden, &case, model, &training(), &device).loss;
        assert_adamw_losses(&golden, &case, load(version, &device), loss);
    }
}

/// Each row of the padded batch alone, without padding on either side.
#[test]
fn a_padded_row_is_as_it_is_alone() {
    let (device, golden) = (test_device(), Golden::open("t5"));
    for version in VERSIONS {
        let model = load(version, &device);
        let batch = Batch::open(&golden, &format!("{version}.padded"), &device);
        let together = batch.logits(&model);
        for (row, length) in batch.lengths.iter().enumerate() {
            let length = *length as usize;
            let source = batch.input_ids.clone().narrow(0, row, 1).narrow(1, 0, length);
            let target = batch.decoder_input_ids.clone().narrow(0, row, 1).narrow(1, 0, 9);
            let lengths = batch.lengths().narrow(0, row, 1);
            let alone = values(model.forward(source, lengths, target, &evaluation()));
            let beside = values(together.clone().narrow(0, row, 1).narrow(1, 0, 9));
            assert_close(&format!("{version}, row {row}"), &beside, &alone, tolerance(&device));
        }
    }
}

#[derive(Deserialize)]
struct Buckets {
    num_buckets: usize,
    max_distance: usize,
    bidirectional: bool,
    first_distance: i64,
    buckets: Vec<f32>,
}

/// Makes each row of a table hold its own number.
struct Numbered;

impl ModuleMapper for Numbered {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|table| {
            let (shape, device) = (table.shape(), table.device());
            let rows: Vec<f32> = (0..shape.num_elements()).map(|row| row as f32).collect();
            Tensor::from_data(TensorData::new(rows, shape), &device)
        })
    }
}

/// Of all distances on both sides, also where a logarithm falls on a border.
#[test]
fn distances_have_the_buckets_of_transformers() {
    let cases = Vec::<Buckets>::deserialize(&Golden::open("t5").json["buckets"]).unwrap();
    assert_eq!(cases.len(), 7);
    for Buckets { num_buckets, max_distance, bidirectional, first_distance, buckets } in cases {
        let layer = RelativePositionBias::new(num_buckets, 1, max_distance, bidirectional, &test_device());
        let query = usize::try_from(-first_distance).unwrap();
        let found = values(layer.map(&mut Numbered).forward(query..query + 1, buckets.len()));
        assert_eq!(found, buckets, "{num_buckets} {max_distance} {bidirectional}");
    }
}

#[derive(Deserialize)]
struct NewLosses {
    mean: f64,
    std: f64,
}

/// In T5 this isn't the logarithm of the number of tokens: logits of a new model have a variance of 1 or, in version 1.1, of the
/// width.
#[test]
fn new_models_lose_as_much_as_those_of_the_reference() {
    const MODELS: u64 = 60;
    let (device, golden) = (test_device(), Golden::open("t5"));
    for version in VERSIONS {
        let NewLosses { mean, std } = NewLosses::deserialize(&golden.json["new_losses"][version]).unwrap();
        let config = load(version, &device).config();
        let loss = |seed| {
            let model = config.init(seed, &device).unwrap();
            let outcome = outcome(&golden, &format!("{version}.full"), &model, &evaluation(), &device);
            outcome.loss.into_scalar::<f64>()
        };
        let found = (0..MODELS).map(loss).sum::<f64>() / MODELS as f64;
        // Four standard errors of the difference of the means of 60 and of 200 models.
        let error = 4.0 * std * (1.0 / MODELS as f64 + 1.0 / 200.0).sqrt();
        assert!((found - mean).abs() < error, "{version}: {found} against {mean} ± {error}");
    }
}
