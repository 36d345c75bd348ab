//! A published encoder, where it is at hand: `tests/fixtures/generate_minilm.py` says which.

use std::{fs, path::PathBuf};

use fornax_backend::test_device;

use super::{super::super::load_bert, Batch, Golden, assert_close, evaluation, fixture, tolerance, values};
use crate::mean_pool;

#[test]
fn mean_embeddings_of_sentences_equal_those_of_transformers() {
    let dir = std::env::var_os("FORNAX_DATA").map(|data| PathBuf::from(data).join("minilm-l6-h384"));
    let Some(dir) = dir.filter(|dir| dir.is_dir()) else {
        eprintln!("skipped: $FORNAX_DATA/minilm-l6-h384 is no folder");
        return;
    };
    let device = test_device();
    let bytes = fs::read(fixture("minilm/golden.safetensors")).unwrap();
    let golden = Golden { bytes, json: serde_json::Value::Null };
    let (model, report) = load_bert(&dir, &device).unwrap();
    assert_eq!((report.loaded.len(), report.ignored.len(), report.unused.len()), (101, 1, 2));
    let Batch { input_ids, token_type_ids, mask, .. } = Batch::open(&golden, None, &device);
    let found = values(mean_pool(model.forward(input_ids, token_type_ids, &mask, &evaluation()), &mask));
    let wanted = golden.floats("mean");
    let error = found.iter().zip(&wanted).fold(0.0_f32, |m, (a, b)| m.max((a - b).abs()));
    eprintln!("largest error {error:e}");
    assert_close("mean embeddings", &found, &wanted, tolerance(&device));
}
