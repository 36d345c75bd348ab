//! Against `transformers`: what `tests/fixtures/generate_gpt2.py` wrote with pinned versions.

mod checkpoints;
mod errors;
mod greedy;
mod parity;

use std::path::PathBuf;

use burn::tensor::{Device, Int, Tensor, TensorData};
use fornax_backend::Precision;
use fornax_ops::{AttentionMask, Context};
use safetensors::{Dtype, SafeTensors};

use crate::Gpt2;

/// A folder or file of the fixtures.
fn fixture(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/gpt2")).join(name)
}

/// The numbers that `transformers` computed.
struct Golden {
    bytes: Vec<u8>,
    json: serde_json::Value,
}

impl Golden {
    fn open() -> Self {
        let bytes = std::fs::read(fixture("golden.safetensors")).unwrap();
        let json = serde_json::from_slice(&std::fs::read(fixture("golden.json")).unwrap()).unwrap();
        Self { bytes, json }
    }

    fn names(&self) -> Vec<String> {
        SafeTensors::deserialize(&self.bytes).unwrap().names().into_iter().map(str::to_owned).collect()
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let view = file.tensor(name).unwrap();
        assert_eq!(view.dtype(), Dtype::F32);
        view.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    fn ints(&self, name: &str) -> ([usize; 2], Vec<i32>) {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let view = file.tensor(name).unwrap();
        assert_eq!(view.dtype(), Dtype::I32);
        let shape = view.shape().try_into().unwrap();
        (shape, view.data().as_chunks().0.iter().map(|b| i32::from_le_bytes(*b)).collect())
    }

    fn int_tensor(&self, name: &str, device: &Device) -> Tensor<2, Int> {
        let (shape, values) = self.ints(name);
        Tensor::from_data(TensorData::new(values, shape), device)
    }
}

fn evaluation() -> Context {
    Context::evaluation(Precision::F32)
}

/// Logits of the unpadded golden batch.
fn logits(model: &Gpt2, golden: &Golden, device: &Device) -> Vec<f32> {
    let input_ids = golden.int_tensor("full.input_ids", device);
    model.forward(input_ids, &AttentionMask::None, &evaluation()).into_data().iter::<f32>().collect()
}

/// 1e-5 on the CPU of `flex`, 1e-3 elsewhere: relative to the largest value of a tensor.
fn tolerance(device: &Device) -> f32 {
    if *device == Device::flex() { 1e-5 } else { 1e-3 }
}

/// Compares within `tolerance` of the largest wanted value, plus a floor for tensors that are zero in theory.
fn assert_close(name: &str, found: &[f32], wanted: &[f32], tolerance: f32) {
    assert_eq!(found.len(), wanted.len(), "{name}");
    let largest = wanted.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
    let error = found.iter().zip(wanted).fold(0.0_f32, |m, (a, b)| m.max((a - b).abs()));
    let limit = tolerance * largest + FLOOR;
    assert!(error <= limit, "{name}: error {error:e}, limit {limit:e} (largest value {largest:e})");
}

/// What rounding leaves of a gradient that cancels to zero, such as that of the key biases.
const FLOOR: f32 = 2e-7;
