//! Bad folders: one clear error each.

use std::{fs, path::Path};

use fornax_backend::test_device;
use serde_json::{Value, json};

use super::{
    super::{super::*, edit},
    copy, fixture,
};

/// The error of loading `dir`, with the folder written as `DIR`.
fn error(dir: &Path) -> String {
    let error = load_gpt2(dir, &test_device()).unwrap_err();
    error.to_string().replace(&dir.display().to_string(), "DIR")
}

#[test]
fn folders_that_are_no_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    assert!(error(&dir.path().join("absent")).contains("No such file"), "{}", error(&dir.path().join("absent")));
    insta::assert_snapshot!(error(dir.path()), @"DIR is no Hugging Face checkpoint: it has no config.json");
    fs::copy(fixture("plain/config.json"), dir.path().join(CONFIG)).unwrap();
    insta::assert_snapshot!(error(dir.path()), @"DIR is no Hugging Face checkpoint: it has no model.safetensors nor model.safetensors.index.json");
    fs::write(dir.path().join("pytorch_model.bin"), b"pickle").unwrap();
    insta::assert_snapshot!(error(dir.path()), @r#"DIR/pytorch_model.bin: pickled weights are not read; convert them once with transformers: `X.from_pretrained("DIR").save_pretrained(...)`, where X is the class that config.json names"#);
}

#[test]
fn configurations_that_do_not_fit() {
    let cases: [(&str, Value, &str); 8] = [
        ("model_type", json!("llama"), "model_type is `llama`; supported here: gpt2"),
        ("model_type", Value::Null, "`model_type` is null"),
        ("activation_function", json!("gelu"), "`activation_function` is \"gelu\", only \"gelu_new\" is supported"),
        ("tie_word_embeddings", json!(false), "`tie_word_embeddings` is false, only true is supported"),
        ("add_cross_attention", json!(true), "`add_cross_attention` is true, only false is supported"),
        ("n_embd", json!("wide"), "`n_embd` is \"wide\": invalid type: string \"wide\", expected usize"),
        ("n_head", json!(5), "`n_embd` is 24: must be a multiple of model.num_heads = 5"),
        ("n_layer", json!(-1), "`n_layer` is -1: invalid value: integer `-1`, expected usize"),
    ];
    for (key, value, wanted) in cases {
        let dir = copy("plain");
        edit(&dir.path().join(CONFIG), |config| config[key] = value);
        let error = error(dir.path());
        assert!(error.contains(wanted), "{key}: {error}");
    }
    let dir = copy("plain");
    fs::write(dir.path().join(CONFIG), "{\"model_type\": ").unwrap();
    assert!(error(dir.path()).starts_with("DIR/config.json: EOF while parsing"), "{}", error(dir.path()));
}

#[test]
fn tensors_that_do_not_fit_are_all_named_with_both_shapes() {
    let dir = copy("plain");
    edit(&dir.path().join(CONFIG), |config| {
        config["n_layer"] = json!(1);
        config["n_positions"] = json!(16);
        config["n_inner"] = json!(48);
    });
    insta::assert_snapshot!(error(dir.path()), @r#"
    DIR: 16 of the checkpoint's tensors do not fit the model
      `transformer.wpe.weight`: checkpoint has [32, 24], model wants [16, 24]
      `transformer.h.0.mlp.c_fc.weight`: checkpoint has [24, 96], model wants [24, 48]
      `transformer.h.0.mlp.c_proj.weight`: checkpoint has [96, 24], model wants [48, 24]
      `transformer.h.0.mlp.c_fc.bias`: checkpoint has [96], model wants [48]
      `transformer.h.1.attn.c_attn.bias` [72]: unexpected, model has no such tensor
      `transformer.h.1.attn.c_attn.weight` [24, 72]: unexpected, model has no such tensor
      `transformer.h.1.attn.c_proj.bias` [24]: unexpected, model has no such tensor
      `transformer.h.1.attn.c_proj.weight` [24, 24]: unexpected, model has no such tensor
      `transformer.h.1.ln_1.bias` [24]: unexpected, model has no such tensor
      `transformer.h.1.ln_1.weight` [24]: unexpected, model has no such tensor
      and 6 more
    "#);
    edit(&dir.path().join(CONFIG), |config| {
        config["n_layer"] = json!(3);
        config["n_positions"] = json!(32);
        config["n_inner"] = Value::Null;
    });
    let error = error(dir.path());
    assert!(error.contains("`transformer.h.2.ln_1.weight`: missing, model wants [24]"), "{error}");
}

#[test]
fn a_type_that_is_no_float_is_named() {
    let dir = copy("plain");
    let path = dir.path().join("model.safetensors");
    // The header's first F32 (equally long as I32) is that of the first tensor.
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(3).position(|w| w == b"F32").unwrap();
    bytes[at] = b'I';
    fs::write(&path, bytes).unwrap();
    assert!(error(dir.path()).contains("stored as I32; F32, F16 and BF16 can be read"), "{}", error(dir.path()));
}

#[test]
fn broken_files() {
    let dir = copy("plain");
    let path = dir.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    for len in [0, 5, 100, bytes.len() - 1] {
        fs::write(&path, &bytes[..len]).unwrap();
        let error = error(dir.path());
        assert!(error.starts_with("DIR/model.safetensors: not a valid safetensors file"), "{len}: {error}");
    }
    fs::write(&path, b"a text that is no header at all").unwrap();
    assert!(error(dir.path()).contains("not a valid safetensors file"));
}

#[test]
fn broken_shards() {
    let dir = copy("sharded");
    fs::remove_file(dir.path().join("model-00002-of-00004.safetensors")).unwrap();
    insta::assert_snapshot!(error(dir.path()), @"DIR/model.safetensors.index.json: tensor `transformer.h.0.mlp.c_fc.bias` is in shard `model-00002-of-00004.safetensors`, which is not a file of the same folder");

    let dir = copy("sharded");
    let index = dir.path().join("model.safetensors.index.json");
    let wrong = "model-00004-of-00004.safetensors";
    edit(&index, |i| {
        i["weight_map"]["transformer.h.0.ln_1.bias"] = json!(wrong);
    });
    insta::assert_snapshot!(error(dir.path()), @"DIR/model.safetensors.index.json: tensor `transformer.h.0.ln_1.bias` should be in DIR/model-00004-of-00004.safetensors, but is not");

    edit(&index, |i| {
        i["weight_map"]["transformer.h.0.ln_1.bias"] = json!("../model.safetensors");
    });
    assert!(error(dir.path()).contains("../model.safetensors"), "{}", error(dir.path()));
}
