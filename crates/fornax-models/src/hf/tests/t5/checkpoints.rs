//! Reading what `transformers` writes, in its variants, and writing it back.

use std::{collections::BTreeMap, fs, path::Path};

use burn::tensor::Device;
use fornax_backend::test_device;
use fornax_nn::parameters;

use super::{
    super::super::*, Batch, Golden, VERSIONS, assert_close, copy, edit, fixture, json, load, stored, tolerance, values,
};
use crate::{ModelError, T5Config};

#[test]
fn folders_that_transformers_wrote_come_back_byte_for_byte() {
    for (version, tensors) in [("v1_0", 47), ("v1_1", 61)] {
        let (model, report) = load_t5(&fixture(version), &test_device()).unwrap();
        assert_eq!((report.loaded.len(), report.ignored.len(), report.widened.len()), (tensors, 0, 0));
        let out = tempfile::tempdir().unwrap();
        save_t5(&model, out.path()).unwrap();
        let (ours, theirs) = (out.path().join("model.safetensors"), fixture(version).join("model.safetensors"));
        assert_eq!(stored(&ours), stored(&theirs));
        // Down to the metadata and the order of tensors: the file itself is the same.
        assert!(fs::read(ours).unwrap() == fs::read(theirs).unwrap());
        let mut wanted = json(&fixture(version).join(CONFIG));
        wanted.as_object_mut().unwrap().remove("transformers_version");
        // Version 5 calls every head tied; version 4 would throw ours away if we did.
        wanted["tie_word_embeddings"] = (version == "v1_0").into();
        assert_eq!(json(&out.path().join(CONFIG)), wanted);
        assert_eq!(fs::read_dir(out.path()).unwrap().count(), 2, "nothing temporary is left");
        let (again, _) = load_t5(out.path(), &test_device()).unwrap();
        assert_eq!(again.config(), model.config());
    }
}

#[test]
fn the_configurations_are_those_of_both_versions() {
    let v1_0 = open_t5_config(&fixture("v1_0")).unwrap();
    let tiny = T5Config {
        vocab_size: 43,
        hidden_size: 12,
        head_dim: 5,
        num_heads: 3,
        intermediate_size: 20,
        num_layers: 2,
        num_decoder_layers: Some(2),
        relative_max_distance: 20,
        dropout: 0.0,
        ..T5Config::default()
    };
    assert_eq!(v1_0, tiny);
    let v1_1 = T5Config { relative_max_distance: 128, num_layers: 3, ..tiny };
    let T5Config { activation, gated, tie_embeddings, .. } = T5Config::v1_1_small();
    assert_eq!(open_t5_config(&fixture("v1_1")).unwrap(), T5Config { activation, gated, tie_embeddings, ..v1_1 });
}

fn logits(dir: &Path, version: &str, golden: &Golden, device: &Device) -> Vec<f32> {
    let batch = Batch::open(golden, &format!("{version}.full"), device);
    values(batch.logits(&load_t5(dir, device).unwrap().0))
}

#[test]
fn variants_load_with_equal_logits() {
    let (device, golden) = (test_device(), Golden::open("t5"));
    let (_, report) = load_t5(&fixture("f16"), &device).unwrap();
    assert_eq!(report.widened.len(), 61);
    let half = logits(&fixture("f16"), "v1_1", &golden, &device);
    assert_close("f16", &half, &golden.floats("f16.logits"), tolerance(&device));
    let (_, report) = load_t5(&fixture("legacy"), &device).unwrap();
    let ignored = [
        "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
        "decoder.embed_tokens.weight",
        "encoder.embed_tokens.weight",
        "lm_head.weight",
    ];
    assert_eq!((report.loaded.len(), report.ignored), (47, ignored.map(str::to_owned).to_vec()));
    let plain = logits(&fixture("v1_0"), "v1_0", &golden, &device);
    assert_eq!(logits(&fixture("legacy"), "v1_0", &golden, &device), plain);
}

/// `transformers` computes these logits from the weights of version 1.1.
#[test]
fn gates_of_silu_come_back_with_equal_logits() {
    let (device, golden) = (test_device(), Golden::open("t5"));
    let dir = copy("t5/v1_1");
    edit(&dir.path().join(CONFIG), |config| {
        config["feed_forward_proj"] = "gated-silu".into();
        config["dense_act_fn"] = "silu".into();
    });
    assert_close(
        "silu",
        &logits(dir.path(), "v1_1", &golden, &device),
        &golden.floats("silu.logits"),
        tolerance(&device),
    );
    let out = tempfile::tempdir().unwrap();
    save_t5(&load_t5(dir.path(), &device).unwrap().0, out.path()).unwrap();
    let [found, wanted] = [out.path(), dir.path()].map(|dir| json(&dir.join(CONFIG)));
    for key in ["feed_forward_proj", "dense_act_fn", "is_gated_act"] {
        assert_eq!(found[key], wanted[key]);
    }
}

/// Version 4 doesn't write whether the head is scaled: it follows from whether it is tied.
#[test]
fn files_of_version_4_are_told_apart_by_the_tied_head() {
    let (device, golden) = (test_device(), Golden::open("t5"));
    for version in VERSIONS {
        let dir = copy(&format!("t5/{version}"));
        edit(&dir.path().join(CONFIG), |config| {
            let config = config.as_object_mut().unwrap();
            config.remove("scale_decoder_outputs");
            config.insert("tie_word_embeddings".to_owned(), (version == "v1_0").into());
        });
        let plain = logits(&fixture(version), version, &golden, &device);
        assert_eq!(logits(dir.path(), version, &golden, &device), plain);
    }
}

/// The tensors of a folder.
fn tensors(dir: &Path) -> BTreeMap<String, HostTensor> {
    let archive = Archive::open(dir).unwrap();
    let read =
        |name: &str| HostTensor { shape: archive.shape(name).unwrap().to_vec(), values: archive.read(name).unwrap() };
    archive.names().map(|name| (name.to_owned(), read(name))).collect()
}

#[test]
fn copies_of_the_embedding_stand_for_it_and_must_equal_it() {
    let dir = copy("t5/v1_0");
    let path = dir.path().join("model.safetensors");
    let mut all = tensors(dir.path());
    let shared = all.remove("shared.weight").unwrap();
    all.insert("decoder.embed_tokens.weight".to_owned(), shared.clone());
    write_safetensors(&path, &all).unwrap();
    let (model, _) = load_t5(dir.path(), &test_device()).unwrap();
    assert_eq!(values(model.token_embedding.weight.val()), shared.values);
    all.insert("lm_head.weight".to_owned(), HostTensor { shape: shared.shape, values: vec![1.0; 43 * 12] });
    write_safetensors(&path, &all).unwrap();
    let error = load_t5(dir.path(), &test_device()).unwrap_err();
    let ModelError::Weights { problems, .. } = error else { panic!("{error}") };
    let original = "decoder.embed_tokens.weight".to_owned();
    assert_eq!(problems, [TensorProblem::NotTied { name: "lm_head.weight".to_owned(), original }]);
}

/// A new model of version 1.1 in version 5 of `transformers`: not scaled, yet tied. Its head becomes one of its own.
#[test]
fn a_head_that_is_missing_starts_as_the_embedding_where_the_file_calls_it_tied() {
    let dir = copy("t5/v1_1");
    let mut all = tensors(dir.path());
    all.remove("lm_head.weight");
    write_safetensors(&dir.path().join("model.safetensors"), &all).unwrap();
    let (model, report) = load_t5(dir.path(), &test_device()).unwrap();
    assert_eq!(report.loaded.len(), 61);
    let head = model.head.as_ref().unwrap().weight.val();
    assert_eq!(values(head.transpose()), values(model.token_embedding.weight.val()));
    edit(&dir.path().join(CONFIG), |config| config["tie_word_embeddings"] = false.into());
    let error = load_t5(dir.path(), &test_device()).unwrap_err().to_string();
    assert!(error.contains("`lm_head.weight`: missing, model wants [43, 12]"), "{error}");
}

#[test]
fn loading_keeps_parameter_ids() {
    for version in VERSIONS {
        let model = load(version, &test_device());
        let fresh = model.config().init(5, &test_device()).unwrap();
        let ids = |model: &crate::T5| parameters(model).into_iter().map(|p| p.id).collect::<Vec<_>>();
        assert_eq!(ids(&model), ids(&fresh));
    }
}
