//! GPT-2, against what `tests/fixtures/generate_gpt2.py` wrote.

mod checkpoints;
mod errors;
mod greedy;
mod parity;

use std::path::PathBuf;

use burn::tensor::Device;
use fornax_ops::AttentionMask;

use super::{FLOOR, Golden, assert_close, evaluation, tolerance, values};
use crate::Gpt2;

/// A folder or file of GPT-2's fixtures.
fn fixture(name: &str) -> PathBuf {
    super::fixture("gpt2").join(name)
}

/// A copy of a folder that a test may break.
fn copy(name: &str) -> tempfile::TempDir {
    super::copy(&format!("gpt2/{name}"))
}

/// Logits of the unpadded golden batch.
fn logits(model: &Gpt2, golden: &Golden, device: &Device) -> Vec<f32> {
    let input_ids = golden.int_tensor("full.input_ids", device);
    values(model.forward(input_ids, &AttentionMask::None, &evaluation()))
}
