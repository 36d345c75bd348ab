//! T5, against what `tests/fixtures/generate_t5.py` wrote.

mod checkpoints;
mod errors;
mod generation;
mod parity;

use std::path::PathBuf;

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::{Golden, assert_close, copy, edit, evaluation, json, stored, tolerance, values};
use crate::{T5, hf::load_t5};

const VERSIONS: [&str; 2] = ["v1_0", "v1_1"];

/// A folder of T5's fixtures.
fn fixture(name: &str) -> PathBuf {
    super::fixture("t5").join(name)
}

fn load(name: &str, device: &Device) -> T5 {
    load_t5(&fixture(name), device).unwrap().0
}

/// The tensors of a golden case.
struct Batch {
    input_ids: Tensor<2, Int>,
    lengths: Vec<i32>,
    decoder_input_ids: Tensor<2, Int>,
    targets: Tensor<1, Int>,
}

impl Batch {
    fn open(golden: &Golden, case: &str, device: &Device) -> Self {
        let ([_, source_len], attend) = golden.ints(&format!("{case}.attention_mask"));
        Self {
            input_ids: golden.int_tensor(&format!("{case}.input_ids"), device),
            lengths: attend.chunks(source_len).map(|row| row.iter().sum()).collect(),
            decoder_input_ids: golden.int_tensor(&format!("{case}.decoder_input_ids"), device),
            targets: golden.int_tensor::<2>(&format!("{case}.labels"), device).flatten(0, 1),
        }
    }

    fn lengths(&self) -> Tensor<1, Int> {
        Tensor::from_data(TensorData::new(self.lengths.clone(), [self.lengths.len()]), &self.input_ids.device())
    }

    fn logits(&self, model: &T5) -> Tensor<3> {
        model.forward(self.input_ids.clone(), self.lengths(), self.decoder_input_ids.clone(), &evaluation())
    }
}
