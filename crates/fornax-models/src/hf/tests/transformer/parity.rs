//! Logits, loss, every gradient, five AdamW steps and greedy targets.

use burn::tensor::{Device, Int, Tensor};
use fornax_backend::test_device;
use serde::Deserialize;

use super::{
    super::{
        super::{load_transformer, transformer::transformer_table},
        training::{IGNORE, Outcome, assert_adamw_losses, assert_gradients, assert_logits_and_loss, training},
    },
    CASES, Golden, fixture,
};
use crate::{
    Transformer,
    generate::{Seq2SeqOptions, generate_seq2seq},
};

struct Batch {
    input_ids: Tensor<2, Int>,
    lengths: Tensor<1, Int>,
    decoder_input_ids: Tensor<2, Int>,
    targets: Tensor<1, Int>,
}

impl Batch {
    fn of(golden: &Golden, case: &str, device: &Device) -> Self {
        Self {
            input_ids: golden.int_tensor(&format!("{case}.input_ids"), device),
            lengths: golden.int_tensor(&format!("{case}.lengths"), device),
            decoder_input_ids: golden.int_tensor(&format!("{case}.decoder_input_ids"), device),
            targets: golden.int_tensor::<2>(&format!("{case}.labels"), device).flatten(0, 1),
        }
    }

    fn outcome(&self, model: &Transformer) -> Outcome {
        let (source, lengths, target) = (self.input_ids.clone(), self.lengths.clone(), self.decoder_input_ids.clone());
        let hidden = model.hidden(source, lengths, target, &training());
        let logits = model.logits(hidden.clone(), &training()).flatten::<2>(0, 1);
        let entropy = model.linear_logits(hidden).cross_entropy_sum(self.targets.clone(), IGNORE, 0.0, &training());
        Outcome { logits: vec![("logits", logits)], loss: entropy.sum / entropy.count }
    }
}

fn all(device: &Device, check: impl Fn(&Golden, &'static str, Batch, Transformer)) {
    let golden = Golden::open("transformer");
    for case in CASES {
        let (model, _) = load_transformer(&fixture(case), device).unwrap();
        check(&golden, case, Batch::of(&golden, case, device), model);
    }
}

#[test]
fn logits_and_loss_equal_those_of_torch() {
    all(&test_device(), |golden, case, batch, model| {
        assert_logits_and_loss(golden, case, batch.outcome(&model));
    });
}

#[test]
fn every_gradient_equals_that_of_torch() {
    all(&test_device().autodiff(), |golden, case, batch, model| {
        let table = transformer_table(&model.config());
        assert_gradients(golden, case, &model, batch.outcome(&model).loss, &table);
    });
}

#[test]
fn five_adamw_losses_equal_those_of_torch() {
    all(&test_device().autodiff(), |golden, case, batch, model| {
        assert_adamw_losses(golden, case, model, |model| batch.outcome(model).loss);
    });
}

#[derive(Deserialize)]
struct Greedy {
    start: u32,
    max_new_tokens: usize,
    sources: Vec<Vec<u32>>,
    continuations: Vec<Vec<u32>>,
}

#[test]
fn greedy_targets_equal_those_without_a_cache() {
    all(&test_device(), |golden, case, _, model| {
        let wanted = Greedy::deserialize(&golden.json["cases"][case]["greedy"]).unwrap();
        let options = Seq2SeqOptions::greedy(wanted.start, Vec::new(), wanted.max_new_tokens);
        let found = generate_seq2seq(&model, &wanted.sources, &options).unwrap();
        let found: Vec<Vec<u32>> = found.into_iter().map(|mut row| row.remove(0).tokens).collect();
        assert_eq!(found, wanted.continuations, "{case}");
    });
}
