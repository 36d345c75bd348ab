//! Reading what `transformers` writes, in its variants, and writing it back.

use std::{collections::BTreeMap, fs};

use fornax_backend::{Precision, test_device};
use fornax_ops::AttentionMask;

use super::{
    super::{super::*, json, stored},
    Golden, assert_close, fixture, logits, tolerance,
};
use crate::{Gpt2Config, ModelError};

#[test]
fn a_file_that_transformers_wrote_comes_back_tensor_for_tensor() {
    let (model, report) = load_gpt2(&fixture("plain"), &test_device()).unwrap();
    assert_eq!(report.loaded.len(), 28);
    assert!(report.ignored.is_empty() && report.widened.is_empty());
    let out = tempfile::tempdir().unwrap();
    save_gpt2(&model, out.path(), Some(1)).unwrap();
    let (ours, theirs) = (out.path().join("model.safetensors"), fixture("plain/model.safetensors"));
    assert_eq!(stored(&ours), stored(&theirs));
    // Down to the metadata and the order of tensors: the file itself is the same.
    assert!(fs::read(ours).unwrap() == fs::read(theirs).unwrap());
    // The configuration too, but for the padding token, which our models have none of, and the version that wrote it.
    let (mut ours, mut theirs) = (json(&out.path().join(CONFIG)), json(&fixture("plain/config.json")));
    assert_eq!((&ours["bos_token_id"], &ours["eos_token_id"]), (&1.into(), &1.into()));
    for key in ["pad_token_id", "transformers_version"] {
        ours.as_object_mut().unwrap().remove(key);
        theirs.as_object_mut().unwrap().remove(key);
    }
    assert_eq!(ours, theirs);
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 2, "nothing temporary is left");
}

#[test]
fn variants_load_with_equal_logits() {
    let device = test_device();
    let golden = Golden::open("gpt2");
    let plain = logits(&load_gpt2(&fixture("plain"), &device).unwrap().0, &golden, &device);
    for (name, ignored, widened) in [("legacy", 2, 0), ("sharded", 0, 0), ("f16", 2, 28), ("bf16", 0, 28)] {
        let (model, report) = load_gpt2(&fixture(name), &device).unwrap();
        assert_eq!((report.loaded.len(), report.ignored.len(), report.widened.len()), (28, ignored, widened), "{name}");
        let found = logits(&model, &golden, &device);
        match widened {
            0 => assert_eq!(found, plain, "{name}"),
            _ => assert_close(name, &found, &golden.floats(&format!("{name}.logits")), tolerance(&device)),
        }
    }
}

#[test]
fn a_tied_head_is_accepted_and_another_head_is_refused() {
    let tensors = Archive::open(&fixture("plain")).unwrap();
    let read =
        |name: &str| HostTensor { shape: tensors.shape(name).unwrap().to_vec(), values: tensors.read(name).unwrap() };
    let mut all: BTreeMap<String, HostTensor> = tensors.names().map(|n| (n.to_owned(), read(n))).collect();
    all.insert("lm_head.weight".to_owned(), read("transformer.wte.weight"));
    let dir = tempfile::tempdir().unwrap();
    fs::copy(fixture("plain/config.json"), dir.path().join(CONFIG)).unwrap();
    write_safetensors(&dir.path().join("model.safetensors"), &all).unwrap();
    let (_, report) = load_gpt2(dir.path(), &test_device()).unwrap();
    assert_eq!(report.ignored, ["lm_head.weight"]);

    all.get_mut("lm_head.weight").unwrap().values[0] += 1.0;
    write_safetensors(&dir.path().join("model.safetensors"), &all).unwrap();
    let error = load_gpt2(dir.path(), &test_device()).unwrap_err().to_string();
    assert!(error.contains("`lm_head.weight`: differs from `transformer.wte.weight`"), "{error}");
}

#[test]
fn a_model_without_biases_is_restored_and_reads_as_zero_biases_elsewhere() {
    let device = test_device();
    let golden = Golden::open("gpt2");
    let config = Gpt2Config {
        vocab_size: 61,
        max_positions: 16,
        hidden_size: 24,
        num_layers: 2,
        num_heads: 2,
        intermediate_size: Some(40),
        norm_eps: 1e-6,
        dropout: 0.25,
        bias: false,
    };
    let model = config.init(3, &device).unwrap();
    let wanted = logits(&model, &golden, &device);
    let dir = tempfile::tempdir().unwrap();
    save_gpt2(&model, dir.path(), None).unwrap();
    let (restored, report) = load_gpt2(dir.path(), &device).unwrap();
    assert_eq!(restored.config(), config);
    assert_eq!(report.ignored.len(), 13, "one for each linear layer and norm");
    assert_eq!(logits(&restored, &golden, &device), wanted);

    // What `transformers` makes of it: it knows nothing of our key and loads the zeros.
    let path = dir.path().join(CONFIG);
    let mut seen = json(&path);
    assert!(seen["bos_token_id"].is_null() && seen["eos_token_id"].is_null(), "a tokenizer without such a token");
    assert_eq!(seen.as_object_mut().unwrap().remove("fornax_bias"), Some(false.into()));
    fs::write(&path, seen.to_string()).unwrap();
    let (biased, report) = load_gpt2(dir.path(), &device).unwrap();
    assert!(biased.config().bias && report.ignored.is_empty());
    assert_close("zero biases", &logits(&biased, &golden, &device), &wanted, tolerance(&device));

    // And a key that does not tell the truth is caught.
    save_gpt2(&load_gpt2(&fixture("plain"), &device).unwrap().0, dir.path(), None).unwrap();
    let mut lying = json(&path);
    lying["fornax_bias"] = false.into();
    fs::write(&path, lying.to_string()).unwrap();
    let error = load_gpt2(dir.path(), &device).unwrap_err();
    let ModelError::Weights { problems, .. } = error else { panic!("{error}") };
    assert!(problems.contains(&TensorProblem::NotZero { name: "transformer.h.0.attn.c_attn.bias".to_owned() }));
}

#[test]
fn loading_keeps_parameter_ids_and_gradients_on() {
    let device = test_device().autodiff();
    let (model, _) = load_gpt2(&fixture("plain"), &device).unwrap();
    let fresh = model.config().init(5, &device).unwrap();
    let ids = |model: &crate::Gpt2| fornax_nn::parameters(model).into_iter().map(|p| p.id).collect::<Vec<_>>();
    assert_eq!(ids(&model), ids(&fresh));
    let context = fornax_ops::Context::evaluation(Precision::F32);
    let input_ids = Golden::open("gpt2").int_tensor::<2>("full.input_ids", &device);
    let loss = model.forward(input_ids, &AttentionMask::None, &context).sum();
    let grads = burn::optim::GradientsParams::from_grads(loss.backward(), &model);
    assert_eq!(grads.len(), 28);
}
