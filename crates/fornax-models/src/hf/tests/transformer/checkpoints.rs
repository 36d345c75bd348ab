//! Writing folders, reading them back, and bad ones.

use std::{collections::BTreeMap, fs, path::Path};

use burn::tensor::{Device, Int, Tensor, TensorData};
use fornax_backend::test_device;
use serde_json::{Value, json};

use super::{
    super::{super::*, copy, edit, evaluation, json, stored, values},
    CASES, fixture,
};
use crate::{Positions, TieEmbeddings, Transformer, TransformerConfig};

fn ints<const D: usize>(values: &[i64], shape: [usize; D], device: &Device) -> Tensor<D, Int> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), device)
}

fn logits(model: &Transformer) -> Vec<f32> {
    let device = test_device();
    let (source, target) = (ints(&[5, 9, 2], [1, 3], &device), ints(&[1, 7], [1, 2], &device));
    values(model.forward(source, ints(&[3], [1], &device), target, &evaluation()))
}

#[test]
fn a_folder_comes_back_byte_for_byte() {
    for case in CASES {
        let (model, report) = load_transformer(&fixture(case), &test_device()).unwrap();
        assert!(report.ignored.is_empty() && report.widened.is_empty());
        let out = tempfile::tempdir().unwrap();
        save_transformer(&model, out.path(), &TransformerText { start_token: Some(1), ..TransformerText::default() })
            .unwrap();
        let file = |dir: &Path| fs::read(dir.join("model.safetensors")).unwrap();
        assert_eq!(stored(&out.path().join("model.safetensors")), stored(&fixture(case).join("model.safetensors")));
        assert!(file(out.path()) == file(&fixture(case)), "{case}");
        assert_eq!(json(&out.path().join(CONFIG)), json(&fixture(case).join(CONFIG)));
        assert_eq!(fs::read_dir(out.path()).unwrap().count(), 2, "nothing temporary is left");
    }
}

#[test]
fn every_form_is_restored_with_equal_logits() {
    let tiny = TransformerConfig {
        source_vocab_size: 23,
        target_vocab_size: 23,
        max_positions: 9,
        hidden_size: 12,
        num_layers: 1,
        num_heads: 2,
        intermediate_size: 20,
        ..TransformerConfig::default()
    };
    for tie_embeddings in [TieEmbeddings::None, TieEmbeddings::Decoder, TieEmbeddings::All] {
        for (head_bias, norm_first, positions) in
            [(false, true, Positions::Learned), (true, false, Positions::Sinusoidal)]
        {
            let config = TransformerConfig { tie_embeddings, head_bias, norm_first, positions, ..tiny.clone() };
            let model = config.init(3, &test_device()).unwrap();
            let dir = tempfile::tempdir().unwrap();
            save_transformer(&model, dir.path(), &TransformerText { end_token: Some(2), ..TransformerText::default() })
                .unwrap();
            let written = json(&dir.path().join(CONFIG));
            assert_eq!((&written["decoder_start_token_id"], &written["eos_token_id"]), (&Value::Null, &json!(2)));
            let (restored, _) = load_transformer(dir.path(), &test_device()).unwrap();
            assert_eq!((open_transformer_config(dir.path()).unwrap(), restored.config()), (config.clone(), config));
            assert_eq!(logits(&restored), logits(&model));
        }
    }
}

#[test]
fn a_tied_head_is_accepted_and_another_head_is_refused() {
    let archive = Archive::open(&fixture("post")).unwrap();
    let read =
        |name: &str| HostTensor { shape: archive.shape(name).unwrap().to_vec(), values: archive.read(name).unwrap() };
    let mut all: BTreeMap<String, HostTensor> = archive.names().map(|n| (n.to_owned(), read(n))).collect();
    all.insert("lm_head.weight".to_owned(), read("shared.weight"));
    let dir = copy("transformer/post");
    write_safetensors(&dir.path().join("model.safetensors"), &all).unwrap();
    assert_eq!(load_transformer(dir.path(), &test_device()).unwrap().1.ignored, ["lm_head.weight"]);
    all.get_mut("lm_head.weight").unwrap().values[0] += 1.0;
    write_safetensors(&dir.path().join("model.safetensors"), &all).unwrap();
    let error = load_transformer(dir.path(), &test_device()).unwrap_err().to_string();
    assert!(error.contains("`lm_head.weight`: differs from `shared.weight`"), "{error}");
}

#[test]
fn configurations_and_tensors_that_do_not_fit_are_named() {
    let error = |key: &str, value: Value| {
        let dir = copy("transformer/pre");
        edit(&dir.path().join(CONFIG), |config| config[key] = value);
        let error = load_transformer(dir.path(), &test_device()).unwrap_err();
        error.to_string().replace(&dir.path().display().to_string(), "DIR")
    };
    let cases = [
        ("model_type", json!("t5"), "DIR/config.json: model_type is `t5`; supported here: fornax-transformer"),
        (
            "format_version",
            json!(2),
            "DIR/config.json: `format_version` is 2, and this Fornax reads up to 1: use the one",
        ),
        ("positions", json!("rotary"), "DIR/config.json: `positions` is \"rotary\": unknown variant"),
        ("num_heads", json!(5), "DIR/config.json: `hidden_size` is 24: must be a multiple of model.num_heads = 5"),
        ("pad_token_id", json!(31), "DIR/config.json: `pad_token_id` is 31: must be a token of both vocabularies"),
        ("num_decoder_layers", json!(2), "`decoder.layers.1.self_attn.q_proj.weight`: missing, model wants [24, 24]"),
        (
            "intermediate_size",
            json!(44),
            "`encoder.layers.0.fc1.weight`: checkpoint has [40, 24], model wants [44, 24]",
        ),
        ("head_bias", json!(false), "`lm_head.bias` [31]: unexpected, model has no such tensor"),
    ];
    for (key, value, wanted) in cases {
        let error = error(key, value);
        assert!(error.contains(wanted), "{key}: {error}");
    }
}
