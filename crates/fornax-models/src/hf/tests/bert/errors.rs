//! Bad folders: one clear error each.

use std::path::Path;

use fornax_backend::test_device;
use serde_json::{Value, json};

use super::{super::super::*, copy, edit, fixture, folder};

/// The error of loading `dir`, with the folder written as `DIR`.
fn error(dir: &Path) -> String {
    let error = load_bert_for_masked_lm(dir, 1, &test_device()).unwrap_err();
    error.to_string().replace(&dir.display().to_string(), "DIR")
}

#[test]
fn configurations_that_do_not_fit() {
    let cases: [(&str, &str, Value, &str); 15] = [
        (
            "bert",
            "model_type",
            json!("gpt2"),
            "model_type is `gpt2`; supported here: bert, roberta, distilbert, xlm-roberta, camembert",
        ),
        ("bert", "position_embedding_type", json!("relative_key"), "is \"relative_key\", only \"absolute\" is"),
        ("bert", "is_decoder", json!(true), "`is_decoder` is true, only false is supported"),
        ("bert", "add_cross_attention", json!(true), "`add_cross_attention` is true, only false is supported"),
        ("bert", "tie_word_embeddings", json!(false), "`tie_word_embeddings` is false, only true is supported"),
        ("bert", "pruned_heads", json!({"0": [1]}), "`pruned_heads` is {\"0\":[1]}, only {} is supported"),
        ("bert", "hidden_act", json!("mish"), "`hidden_act` is `mish`; supported here: gelu, gelu_new"),
        ("distilbert", "activation", json!("mish"), "`activation` is `mish`; supported here: gelu"),
        ("bert", "hidden_size", json!("wide"), "`hidden_size` is \"wide\": invalid type"),
        ("bert", "num_attention_heads", json!(5), "`hidden_size` is 12: must be a multiple of model.num_heads = 5"),
        ("distilbert", "n_heads", json!(5), "`dim` is 12: must be a multiple of model.num_heads = 5"),
        ("bert", "hidden_dropout_prob", json!(1.0), "`hidden_dropout_prob` is 1: must be at least 0 and below 1"),
        ("bert", "classifier_dropout", json!(-1), "`classifier_dropout` is -1: must be at least 0 and below 1"),
        ("roberta", "pad_token_id", json!(0), "`pad_token_id` is 0, only 1 is supported"),
        ("roberta", "max_position_embeddings", json!(1), "`max_position_embeddings` is 1: must be above 2"),
    ];
    for (family, key, value, wanted) in cases {
        let dir = copy(&format!("{family}/masked_lm"));
        edit(&dir.path().join(CONFIG), |config| config[key] = value);
        let error = error(dir.path());
        assert!(error.contains(wanted), "{key}: {error}");
    }
}

/// A name inside the encoder that means nothing to us is no other head.
#[test]
fn tensors_of_the_encoder_that_do_not_fit_are_all_named_with_both_shapes() {
    let dir = copy("bert/masked_lm");
    edit(&dir.path().join(CONFIG), |config| {
        config["num_hidden_layers"] = json!(1);
        config["max_position_embeddings"] = json!(16);
        config["intermediate_size"] = json!(24);
    });
    insta::assert_snapshot!(error(dir.path()), @r"
    DIR: 20 of the checkpoint's tensors do not fit the model
      `bert.embeddings.position_embeddings.weight`: checkpoint has [12, 12], model wants [16, 12]
      `bert.encoder.layer.0.intermediate.dense.weight`: checkpoint has [20, 12], model wants [24, 12]
      `bert.encoder.layer.0.intermediate.dense.bias`: checkpoint has [20], model wants [24]
      `bert.encoder.layer.0.output.dense.weight`: checkpoint has [12, 20], model wants [12, 24]
      `bert.encoder.layer.1.attention.output.LayerNorm.bias` [12]: unexpected, model has no such tensor
      `bert.encoder.layer.1.attention.output.LayerNorm.weight` [12]: unexpected, model has no such tensor
      `bert.encoder.layer.1.attention.output.dense.bias` [12]: unexpected, model has no such tensor
      `bert.encoder.layer.1.attention.output.dense.weight` [12, 12]: unexpected, model has no such tensor
      `bert.encoder.layer.1.attention.self.key.bias` [12]: unexpected, model has no such tensor
      `bert.encoder.layer.1.attention.self.key.weight` [12, 12]: unexpected, model has no such tensor
      and 10 more
    ");
    edit(&dir.path().join(CONFIG), |config| {
        config["num_hidden_layers"] = json!(3);
        config["max_position_embeddings"] = json!(12);
        config["intermediate_size"] = json!(20);
    });
    let error = error(dir.path());
    let missing = "`bert.encoder.layer.2.attention.self.query.weight`: missing, model wants [12, 12]";
    assert!(error.contains(missing), "{error}");
}

#[test]
fn a_head_of_another_shape_is_no_missing_head() {
    let dir = copy("bert/pretraining");
    let path = dir.path().join("model.safetensors");
    let archive = Archive::open(dir.path()).unwrap();
    let mut tensors: std::collections::BTreeMap<String, HostTensor> = archive
        .names()
        .map(|n| {
            (n.to_owned(), HostTensor { shape: archive.shape(n).unwrap().to_vec(), values: archive.read(n).unwrap() })
        })
        .collect();
    let bias = tensors.get_mut("cls.seq_relationship.bias").unwrap();
    bias.shape = vec![1];
    bias.values.truncate(1);
    write_safetensors(&path, &tensors).unwrap();
    let error = load_bert_for_pretraining(dir.path(), 1, &test_device()).unwrap_err().to_string();
    assert!(error.contains("`cls.seq_relationship.bias`: checkpoint has [1], model wants [2]"), "{error}");
}

#[test]
fn only_bert_predicts_the_next_sentence() {
    let error = load_bert_for_pretraining(&fixture("roberta/masked_lm"), 1, &test_device()).unwrap_err().to_string();
    assert_eq!(error, "model.family = roberta: must be bert: the others have no next-sentence head");
}

#[test]
fn a_roberta_is_not_written_with_another_padding_token() {
    let (model, _) = load_bert_for_masked_lm(&fixture("roberta/masked_lm"), 1, &test_device()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let error = save_bert_for_masked_lm(&model, &dir.path().join("out"), Some(0)).unwrap_err().to_string();
    assert!(error.contains("counted from padding token 1, but the tokenizer's is 0"), "{error}");
    assert!(!dir.path().join("out").exists());
    let (bert, _) = load_bert(&folder("encoder"), &test_device()).unwrap();
    save_bert(&bert, dir.path(), Some(9)).unwrap();
    assert_eq!(super::json(&dir.path().join(CONFIG))["pad_token_id"], 9);
}
