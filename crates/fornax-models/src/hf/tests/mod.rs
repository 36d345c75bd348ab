//! Against `transformers`: what the scripts in `tests/fixtures` wrote with pinned versions.

mod bert;
mod gpt2;
mod t5;
mod training;
mod transformer;

use std::{collections::BTreeMap, fs, path::Path, path::PathBuf};

use burn::tensor::{Device, Int, Tensor, TensorData};
use fornax_backend::Precision;
use fornax_ops::Context;
use safetensors::{Dtype, SafeTensors};

/// A folder or file of the fixtures.
fn fixture(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures")).join(name)
}

/// A copy of a fixture folder that a test may break.
fn copy(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture(name)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    dir
}

/// Changes a JSON file.
fn edit(path: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    let mut value = json(path);
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

fn json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Name -> (type, shape, bytes).
fn stored(path: &Path) -> BTreeMap<String, (String, Vec<usize>, Vec<u8>)> {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.iter().map(|(n, t)| (n.to_owned(), (t.dtype().to_string(), t.shape().to_vec(), t.data().to_vec()))).collect()
}

/// The numbers that `transformers` computed with a family's models.
struct Golden {
    bytes: Vec<u8>,
    json: serde_json::Value,
}

impl Golden {
    fn open(family: &str) -> Self {
        let dir = fixture(family);
        Self { bytes: fs::read(dir.join("golden.safetensors")).unwrap(), json: json(&dir.join("golden.json")) }
    }

    fn file(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).unwrap()
    }

    fn names(&self) -> Vec<String> {
        self.file().names().into_iter().map(str::to_owned).collect()
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        let file = self.file();
        let view = file.tensor(name).unwrap();
        assert_eq!(view.dtype(), Dtype::F32);
        view.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    fn ints<const D: usize>(&self, name: &str) -> ([usize; D], Vec<i32>) {
        let file = self.file();
        let view = file.tensor(name).unwrap();
        assert_eq!(view.dtype(), Dtype::I32);
        let shape = view.shape().try_into().unwrap();
        (shape, view.data().as_chunks().0.iter().map(|b| i32::from_le_bytes(*b)).collect())
    }

    fn int_tensor<const D: usize>(&self, name: &str, device: &Device) -> Tensor<D, Int> {
        let (shape, values) = self.ints::<D>(name);
        Tensor::from_data(TensorData::new(values, shape), device)
    }
}

fn evaluation() -> Context {
    Context::evaluation(Precision::F32)
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
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
