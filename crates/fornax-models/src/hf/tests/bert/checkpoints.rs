//! Reading what `transformers` writes, in its variants, and writing it back.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use fornax_backend::test_device;

use super::{super::super::*, Batch, Golden, assert_close, edit, fixture, folder, json, load, stored, tolerance};
use crate::{BertConfig, BertFamily, Pooling};

/// Whether `ours` has the bytes of the weights in `theirs` and the same configuration, but for the version that wrote it.
fn assert_same_folder(ours: &Path, theirs: &Path) {
    let weights = |dir: &Path| dir.join("model.safetensors");
    assert_eq!(stored(&weights(ours)), stored(&weights(theirs)));
    // Down to the metadata and the order of tensors: the file itself is the same.
    assert!(fs::read(weights(ours)).unwrap() == fs::read(weights(theirs)).unwrap());
    let mut wanted = json(&theirs.join(CONFIG));
    wanted.as_object_mut().unwrap().remove("transformers_version");
    assert_eq!(json(&ours.join(CONFIG)), wanted);
    assert_eq!(fs::read_dir(ours).unwrap().count(), 2, "nothing temporary is left");
}

#[test]
fn folders_that_transformers_wrote_come_back_byte_for_byte() {
    let device = test_device();
    for (family, pad) in [("bert", 0), ("roberta", 1), ("distilbert", 0)] {
        let (dir, out) = (fixture(family).join("masked_lm"), tempfile::tempdir().unwrap());
        let (model, _) = load_bert_for_masked_lm(&dir, 1, &device).unwrap();
        save_bert_for_masked_lm(&model, out.path(), Some(pad)).unwrap();
        assert_same_folder(out.path(), &dir);
        for head in ["labels", "regression"] {
            let (dir, out) = (fixture(family).join(head), tempfile::tempdir().unwrap());
            if family == "bert" || head == "labels" {
                let options = LoadClassifier::default();
                let (model, _) = load_bert_for_sequence_classification(&dir, &options, &device).unwrap();
                save_bert_for_sequence_classification(&model, out.path(), Some(pad)).unwrap();
                assert_same_folder(out.path(), &dir);
            }
        }
    }
    let (dir, out) = (folder("pretraining"), tempfile::tempdir().unwrap());
    let (model, _) = load_bert_for_pretraining(&dir, 1, &device).unwrap();
    save_bert_for_pretraining(&model, out.path(), Some(0)).unwrap();
    assert_same_folder(out.path(), &dir);
    let (dir, out) = (folder("encoder"), tempfile::tempdir().unwrap());
    save_bert(&load_bert(&dir, &device).unwrap().0, out.path(), Some(0)).unwrap();
    assert_same_folder(out.path(), &dir);
}

#[test]
fn variants_load_with_equal_logits() {
    let golden = Golden::open("bert");
    let batch = Batch::open(&golden, "masked_lm.padded", &test_device());
    let plain = batch.logits(&load(&folder("masked_lm")).0);
    // Loaded, ignored, widened.
    for (name, counts) in [("legacy", (42, 3, 0)), ("sharded", (42, 0, 0)), ("f16", (42, 0, 42))] {
        let (model, report) = load(&folder(name));
        assert_eq!((report.loaded.len(), report.ignored.len(), report.widened.len()), counts, "{name}");
        assert!(report.initialised.is_empty() && report.unused.is_empty());
        let found = batch.logits(&model);
        match counts.2 {
            0 => assert_eq!(found, plain, "{name}"),
            _ => assert_close(name, &found, &golden.floats("f16.logits"), tolerance(&test_device())),
        }
    }
    let (_, report) = load(&folder("legacy"));
    let ignored = ["bert.embeddings.position_ids", "cls.predictions.decoder.bias", "cls.predictions.decoder.weight"];
    assert_eq!(report.ignored, ignored);
}

/// The tensors of a folder.
fn tensors(dir: &Path) -> BTreeMap<String, HostTensor> {
    let archive = Archive::open(dir).unwrap();
    let read =
        |name: &str| HostTensor { shape: archive.shape(name).unwrap().to_vec(), values: archive.read(name).unwrap() };
    archive.names().map(|name| (name.to_owned(), read(name))).collect()
}

/// A folder like `dir` with other tensors.
fn with_tensors(dir: PathBuf, tensors: &BTreeMap<String, HostTensor>) -> tempfile::TempDir {
    let out = tempfile::tempdir().unwrap();
    fs::copy(dir.join(CONFIG), out.path().join(CONFIG)).unwrap();
    write_safetensors(&out.path().join("model.safetensors"), tensors).unwrap();
    out
}

#[test]
fn tensors_of_other_heads_are_passed_over_and_those_of_a_missing_head_are_new() {
    let device = test_device();
    let (_, report) = load_bert(&folder("pretraining"), &device).unwrap();
    assert_eq!((report.loaded.len(), report.unused.len()), (37, 9));
    let (model, report) = load(&folder("pretraining"));
    let pooler = ["bert.pooler.dense.bias", "bert.pooler.dense.weight"];
    let unused = [&pooler[..], &["cls.seq_relationship.bias", "cls.seq_relationship.weight"]].concat();
    assert_eq!((report.unused, report.initialised), (unused.into_iter().map(str::to_owned).collect(), vec![]));
    let golden = Golden::open("bert");
    let batch = Batch::open(&golden, "pretraining.padded", &device);
    let wanted = golden.floats("pretraining.padded.logits");
    assert_close("logits", &batch.logits(&model), &wanted, tolerance(&device));

    // The encoder alone: without a prefix, without a pooler. What is new is what `init` would have drawn.
    let options = LoadClassifier { seed: 7, ..LoadClassifier::default() };
    let (model, report) = load_bert_for_sequence_classification(&folder("encoder"), &options, &device).unwrap();
    assert_eq!(report.loaded.len(), 37);
    let new = ["bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias"];
    assert_eq!(report.initialised, new);
    let fresh = model.bert.config().init_sequence_classification(model.classifier(), 7, &device).unwrap();
    assert_eq!(model.classifier().labels, ["LABEL_0", "LABEL_1"]);
    let weights = |model: &crate::BertForSequenceClassification| model.head.classifier.weight.val().into_data();
    assert_eq!(weights(&model), weights(&fresh));
    assert!(weights(&model).iter::<f32>().all(|x| x != 0.0));
    let (model, report) = load(&folder("encoder"));
    assert_eq!(report.initialised.len(), 5);
    assert_eq!(model.head.norm.gamma.val().into_data().iter::<f32>().sum::<f32>(), 12.0);
}

#[test]
fn tied_tensors_stand_for_each_other_where_one_is_missing_and_must_be_equal_otherwise() {
    let legacy = folder("legacy");
    let golden = Golden::open("bert");
    let batch = Batch::open(&golden, "masked_lm.full", &test_device());
    let wanted = batch.logits(&load(&legacy).0);
    // Read through our own archive, which has no integers.
    let mut all = tensors(&folder("masked_lm"));
    let bias = all.remove("cls.predictions.bias").unwrap();
    all.insert("cls.predictions.decoder.bias".to_owned(), bias.clone());
    let dir = with_tensors(legacy.clone(), &all);
    let (model, report) = load(dir.path());
    assert!(report.initialised.is_empty() && report.loaded.contains(&"cls.predictions.decoder.bias".to_owned()));
    assert_eq!(batch.logits(&model), wanted);

    let other = HostTensor { values: bias.values.iter().map(|x| x + 1.0).collect(), ..bias.clone() };
    all.insert("cls.predictions.bias".to_owned(), other);
    let dir = with_tensors(legacy, &all);
    let error = load_bert_for_masked_lm(dir.path(), 1, &test_device()).unwrap_err().to_string();
    assert!(error.contains("`cls.predictions.decoder.bias`: differs from `cls.predictions.bias`"), "{error}");
    // To the encoder alone, neither means anything.
    assert_eq!(load_bert(dir.path(), &test_device()).unwrap().1.unused.len(), 6);
}

#[test]
fn a_model_without_token_types_is_restored_and_has_a_zero_one_elsewhere() {
    let device = test_device();
    let golden = Golden::open("bert");
    let mut batch = Batch::open(&golden, "masked_lm.full", &device);
    for family in [BertFamily::Bert, BertFamily::Roberta] {
        let config = BertConfig {
            family,
            vocab_size: 37,
            max_positions: 11,
            type_vocab_size: 0,
            hidden_size: 12,
            num_layers: 1,
            num_heads: 2,
            intermediate_size: 16,
            activation: fornax_nn::Activation::GeluTanh,
            norm_eps: 1e-6,
            dropout: 0.25,
            classifier_dropout: Some(0.5),
        };
        let model = config.init_masked_lm(3, &device).unwrap();
        let dir = tempfile::tempdir().unwrap();
        save_bert_for_masked_lm(&model, dir.path(), None).unwrap();
        let (restored, report) = load(dir.path());
        assert_eq!(restored.bert.config(), config);
        assert_eq!(report.ignored.len(), 1);
        batch.token_type_ids = None;
        let wanted = batch.logits(&model);
        assert_eq!(batch.logits(&restored), wanted);
        // What `transformers` makes of it: it knows nothing of our key and loads the zeros.
        edit(&dir.path().join(CONFIG), |config| {
            assert_eq!(config.as_object_mut().unwrap().remove("fornax_type_vocab_size"), Some(0.into()));
            assert_eq!(config["type_vocab_size"], 1);
        });
        let (seen, report) = load(dir.path());
        assert!(seen.bert.config().type_vocab_size == 1 && report.ignored.is_empty());
        assert_close("zero types", &batch.logits(&seen), &wanted, tolerance(&device));
    }
}

#[test]
fn names_of_the_same_architecture_are_read() {
    for model_type in ["xlm-roberta", "camembert"] {
        let dir = super::copy("roberta/masked_lm");
        edit(&dir.path().join(CONFIG), |config| config["model_type"] = model_type.into());
        let (model, report) = load(dir.path());
        assert_eq!((model.bert.config().family, report.loaded.len()), (BertFamily::Roberta, 42));
    }
    let config = open_bert_config(&fixture("roberta/labels")).unwrap();
    assert_eq!((config.max_positions, config.type_vocab_size, config.norm_eps), (12, 1, 1e-5));
}

#[test]
fn mean_pooling_is_our_own_key() {
    let device = test_device();
    for family in ["bert", "roberta", "distilbert"] {
        let from = fixture(family).join("labels");
        let options = LoadClassifier { pooling: Some(Pooling::Mean), ..LoadClassifier::default() };
        let (model, report) = load_bert_for_sequence_classification(&from, &options, &device).unwrap();
        assert!(model.head.dense.is_none() && report.initialised.is_empty());
        assert_eq!(report.unused.len(), 2, "the dense layer: {:?}", report.unused);
        let dir = tempfile::tempdir().unwrap();
        save_bert_for_sequence_classification(&model, dir.path(), None).unwrap();
        let saved = json(&dir.path().join(CONFIG));
        assert_eq!(saved["fornax_pooling"], "mean");
        assert!(saved["architectures"][0].as_str().unwrap().ends_with("Model"), "{saved}");
        let options = LoadClassifier::default();
        let (restored, report) = load_bert_for_sequence_classification(dir.path(), &options, &device).unwrap();
        assert_eq!(restored.classifier(), model.classifier());
        assert!(report.unused.is_empty() && report.initialised.is_empty());
    }
}
