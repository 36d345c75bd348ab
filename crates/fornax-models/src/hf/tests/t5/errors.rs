//! Bad folders: one clear error each.

use std::path::Path;

use fornax_backend::test_device;
use serde_json::{Value, json};

use super::{super::super::*, copy, edit};

/// The error of loading `dir`, with the folder written as `DIR`.
fn error(dir: &Path) -> String {
    let error = load_t5(dir, &test_device()).unwrap_err();
    error.to_string().replace(&dir.display().to_string(), "DIR")
}

#[test]
fn configurations_that_do_not_fit() {
    let known = "relu, gated-gelu, gated-gelu_new, gelu_new, gelu, gated-gelu_python, silu, gated-silu, gated-relu, tanh, \
                 gated-tanh";
    let mish = format!("`feed_forward_proj` is `gated-mish`; supported here: {known}");
    let cases: [(&str, Value, &str); 12] = [
        ("model_type", json!("mt5"), "model_type is `mt5`; supported here: t5"),
        ("feed_forward_proj", json!("gated-mish"), &mish),
        ("feed_forward_proj", json!("relu"), "`dense_act_fn` is \"gelu_new\", only \"relu\" is supported"),
        ("feed_forward_proj", json!("gelu_new"), "`is_gated_act` is true, only false is supported"),
        ("is_encoder_decoder", json!(false), "`is_encoder_decoder` is false, only true is supported"),
        ("is_decoder", json!(true), "`is_decoder` is true, only false is supported"),
        ("d_kv", json!(0), "`d_kv` is 0: must be at least 1"),
        ("relative_attention_max_distance", json!(16), "is 16: must be above 16, half of model.relative_buckets"),
        ("relative_attention_num_buckets", json!(3), "`relative_attention_num_buckets` is 3: must be at least 4"),
        ("decoder_start_token_id", json!(43), "`decoder_start_token_id` is 43: must be below model.vocab_size = 43"),
        ("eos_token_id", json!([1, 2]), "`eos_token_id` is [1,2]: invalid type: sequence, expected u32"),
        ("layer_norm_epsilon", json!(-1.0), "`layer_norm_epsilon` is -1: must be above 0"),
    ];
    for (key, value, wanted) in cases {
        let dir = copy("t5/v1_1");
        edit(&dir.path().join(CONFIG), |config| config[key] = value);
        let error = error(dir.path());
        assert!(error.contains(wanted), "{key}: {error}");
    }
    let dir = copy("t5/v1_1");
    edit(&dir.path().join(CONFIG), |config| {
        config["scale_decoder_outputs"] = json!(true);
        config["tie_word_embeddings"] = json!(false);
    });
    insta::assert_snapshot!(error(dir.path()), @"DIR/config.json: `scale_decoder_outputs` is true with `tie_word_embeddings` = false: a head of its own isn't scaled here");
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let dir = copy("t5/v1_1");
    edit(&dir.path().join(CONFIG), |config| {
        config["feed_forward_proj"] = json!("relu");
        config["dense_act_fn"] = json!("relu");
        config["is_gated_act"] = json!(false);
        config["num_layers"] = json!(1);
        config["num_decoder_layers"] = json!(1);
        config["relative_attention_num_buckets"] = json!(64);
    });
    let error = error(dir.path());
    for wanted in [
        "`encoder.block.0.layer.1.DenseReluDense.wi.weight`: missing, model wants [20, 12]",
        "`encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight`: checkpoint has [32, 3], model wants [64, 3]",
        "`decoder.block.0.layer.2.DenseReluDense.wi_0.weight` [20, 12]: unexpected, model has no such tensor",
    ] {
        assert!(error.contains(wanted), "{error}");
    }
}
