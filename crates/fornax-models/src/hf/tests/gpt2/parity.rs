//! Logits, loss, every gradient and five AdamW steps.

use burn::tensor::{Device, Int, Tensor, TensorData};
use fornax_backend::test_device;
use fornax_ops::AttentionMask;

use super::{
    super::{
        super::{gpt2::gpt2_table, load_gpt2},
        training::{
            IGNORE, Outcome, assert_adamw_losses, assert_gradients, assert_logits_and_loss, gradients, training,
        },
    },
    FLOOR, Golden, fixture,
};
use crate::Gpt2;

struct Case {
    name: &'static str,
    input_ids: Tensor<2, Int>,
    mask: AttentionMask,
    /// What follows each token: the labels, one to the left.
    targets: Tensor<1, Int>,
}

impl Case {
    fn all(golden: &Golden, device: &Device) -> [Self; 2] {
        let case = |name, padded: bool| {
            let (shape, labels) = golden.ints::<2>(&format!("{name}.labels"));
            let shifted: Vec<i32> =
                labels.chunks(shape[1]).flat_map(|row| row[1..].iter().copied().chain([IGNORE as i32])).collect();
            let (_, attend) = golden.ints::<2>(&format!("{name}.attention_mask"));
            let lengths: Vec<i32> = attend.chunks(shape[1]).map(|row| row.iter().sum()).collect();
            let mask = match padded {
                true => AttentionMask::KeyLengths(Tensor::from_data(TensorData::new(lengths, [shape[0]]), device)),
                false => AttentionMask::None,
            };
            let targets = Tensor::from_data(TensorData::new(shifted, [shape[0] * shape[1]]), device);
            Self { name, input_ids: golden.int_tensor(&format!("{name}.input_ids"), device), mask, targets }
        };
        [case("full", false), case("padded", true)]
    }

    fn outcome(&self, model: &Gpt2) -> Outcome {
        let hidden = model.hidden(self.input_ids.clone(), &self.mask, &training());
        let logits = model.logits(hidden.clone(), &training()).flatten::<2>(0, 1);
        let entropy = model.linear_logits(hidden).cross_entropy_sum(self.targets.clone(), IGNORE, 0.0, &training());
        Outcome { logits: vec![("logits", logits)], loss: entropy.sum / entropy.count }
    }
}

#[test]
fn logits_and_loss_equal_those_of_transformers() {
    let device = test_device();
    let golden = Golden::open("gpt2");
    let (model, _) = load_gpt2(&fixture("plain"), &device).unwrap();
    for case in Case::all(&golden, &device) {
        assert_logits_and_loss(&golden, case.name, case.outcome(&model));
    }
}

#[test]
fn every_gradient_equals_that_of_transformers() {
    let device = test_device().autodiff();
    let golden = Golden::open("gpt2");
    let (model, _) = load_gpt2(&fixture("plain"), &device).unwrap();
    let table = gpt2_table(&model.config());
    for case in Case::all(&golden, &device) {
        assert_gradients(&golden, case.name, &model, case.outcome(&model).loss, &table);
    }
}

#[test]
fn key_biases_have_no_gradient_beyond_the_floor() {
    let device = test_device().autodiff();
    let golden = Golden::open("gpt2");
    let (model, _) = load_gpt2(&fixture("plain"), &device).unwrap();
    let wanted = golden.floats("padded.grad.transformer.h.0.attn.c_attn.bias");
    assert!(wanted[24..48].iter().all(|x| x.abs() < 1e-9), "zero in theory");
    let [_, padded] = Case::all(&golden, &device);
    let found = gradients(&model, padded.outcome(&model).loss);
    let path = "blocks.0.attention.query_key_value.bias";
    let id = fornax_nn::parameters(&model).into_iter().find(|p| p.path == path).unwrap().id;
    let found = &found[&id].values[24..48];
    assert!(found.iter().all(|x| x.abs() <= FLOOR), "{found:?}");
}

#[test]
fn five_adamw_losses_equal_those_of_torch() {
    let device = test_device().autodiff();
    let golden = Golden::open("gpt2");
    for case in Case::all(&golden, &device) {
        let (model, _) = load_gpt2(&fixture("plain"), &device).unwrap();
        assert_adamw_losses(&golden, case.name, model, |model| case.outcome(model).loss);
    }
}
