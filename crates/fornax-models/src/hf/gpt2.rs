use std::path::Path;

use burn::tensor::Device;
use serde_json::{Value, json};

use super::{
    Archive, CONFIG, ConfigFile, Entry, Layout, LoadReport, TensorTable,
    write::{write_beside, write_safetensors},
};
use crate::{Gpt2, Gpt2Config, ModelError};

/// Our own key in `config.json`: `false` for a model without biases, which Hugging Face's GPT-2 can't express.
const BIAS: &str = "fornax_bias";

/// The sizes of the GPT-2 in a Hugging Face folder, by its `config.json` alone.
///
/// # Errors
///
/// When the folder is no checkpoint of a GPT-2 or has features that ours lacks.
pub fn open_gpt2_config(dir: &Path) -> Result<Gpt2Config, ModelError> {
    gpt2_config(&ConfigFile::open(dir, &["gpt2"])?)
}

/// Loads a GPT-2 from a Hugging Face folder, as `f32`.
///
/// Read are `config.json` and `model.safetensors`, or the shards of `model.safetensors.index.json`; `f16` and `bf16`
/// weights are widened. Names may lack the `transformer.` prefix. The buffers `attn.bias` and `attn.masked_bias` of old
/// versions and an `lm_head.weight` that equals the token embedding are passed over and listed in the report.
///
/// # Errors
///
/// When the folder is no checkpoint of a GPT-2, has features that ours lacks, or when tensors are missing, unexpected or of
/// another shape; the message names each.
pub fn load_gpt2(dir: &Path, device: &Device) -> Result<(Gpt2, LoadReport), ModelError> {
    let config = open_gpt2_config(dir)?;
    let archive = Archive::open(dir)?;
    let (model, report) = gpt2_table(&config).load(Gpt2::zeros(&config, device), &archive)?;
    report.log("GPT-2", dir);
    Ok((model, report))
}

/// Writes a GPT-2 as a Hugging Face folder that `transformers` loads with equal logits.
///
/// Weights are stored as `f32`. A model without biases is written with zero biases and `"fornax_bias": false` in
/// `config.json`, by which [`load_gpt2`] restores it. `end_of_text` is the token of the model's tokenizer that ends a text, if
/// it has one: `bos_token_id` and `eos_token_id`. Each file is written beside and renamed; `config.json` comes last.
///
/// # Errors
///
/// When the folder or a file can't be written.
pub fn save_gpt2(model: &Gpt2, dir: &Path, end_of_text: Option<u32>) -> Result<(), ModelError> {
    std::fs::create_dir_all(dir).map_err(ModelError::io(dir))?;
    let config = model.config();
    write_safetensors(&dir.join("model.safetensors"), &gpt2_table(&config).export(model))?;
    let path = dir.join(CONFIG);
    let text = serde_json::to_string_pretty(&gpt2_json(&config, end_of_text)).map_err(ModelError::json(&path))?;
    write_beside(&path, |file| std::io::Write::write_all(file, (text + "\n").as_bytes()))
}

/// Our configuration of a `config.json`; absent keys mean what `transformers` takes them for.
fn gpt2_config(file: &ConfigFile) -> Result<Gpt2Config, ModelError> {
    file.expect("activation_function", "gelu_new")?;
    file.expect("tie_word_embeddings", true)?;
    file.expect("scale_attn_weights", true)?;
    file.expect("scale_attn_by_inverse_layer_idx", false)?;
    file.expect("add_cross_attention", false)?;
    let dropout = file.get("resid_pdrop", 0.1)?;
    for key in ["embd_pdrop", "attn_pdrop"] {
        let other: f64 = file.get(key, 0.1)?;
        if other != dropout {
            tracing::warn!(key, value = other, used = dropout, "the model has one dropout rate: that of resid_pdrop");
        }
    }
    let sizes = Gpt2Config::default();
    let config = Gpt2Config {
        vocab_size: file.get("vocab_size", sizes.vocab_size)?,
        max_positions: file.get("n_positions", sizes.max_positions)?,
        hidden_size: file.get("n_embd", sizes.hidden_size)?,
        num_layers: file.get("n_layer", sizes.num_layers)?,
        num_heads: file.get("n_head", sizes.num_heads)?,
        intermediate_size: file.get("n_inner", None)?,
        norm_eps: file.get("layer_norm_epsilon", sizes.norm_eps)?,
        dropout,
        bias: file.get(BIAS, true)?,
    };
    match config.validate() {
        Err(ModelError::Config { key, value, reason }) => {
            let theirs = KEYS.iter().find(|(ours, _)| *ours == key).map_or(key, |(_, theirs)| theirs);
            Err(file.refuse(theirs, &format!("is {value}: {reason}")))
        }
        checked => checked.map(|()| config),
    }
}

/// Our keys and those of `config.json`.
const KEYS: [(&str, &str); 8] = [
    ("vocab_size", "vocab_size"),
    ("max_positions", "n_positions"),
    ("hidden_size", "n_embd"),
    ("num_layers", "n_layer"),
    ("num_heads", "n_head"),
    ("intermediate_size", "n_inner"),
    ("norm_eps", "layer_norm_epsilon"),
    ("dropout", "resid_pdrop"),
];

/// The `config.json` of a configuration: the keys that `transformers` 5.23 itself writes.
fn gpt2_json(config: &Gpt2Config, end_of_text: Option<u32>) -> Value {
    let mut json = json!({
        "activation_function": "gelu_new",
        "add_cross_attention": false,
        "architectures": ["GPT2LMHeadModel"],
        "attn_pdrop": config.dropout,
        "bos_token_id": end_of_text,
        "dtype": "float32",
        "embd_pdrop": config.dropout,
        "eos_token_id": end_of_text,
        "initializer_range": 0.02,
        "layer_norm_epsilon": config.norm_eps,
        "model_type": "gpt2",
        "n_embd": config.hidden_size,
        "n_head": config.num_heads,
        "n_inner": config.intermediate_size,
        "n_layer": config.num_layers,
        "n_positions": config.max_positions,
        "pad_token_id": null,
        "reorder_and_upcast_attn": false,
        "resid_pdrop": config.dropout,
        "scale_attn_by_inverse_layer_idx": false,
        "scale_attn_weights": true,
        "summary_activation": null,
        "summary_first_dropout": 0.1,
        "summary_proj_to_labels": true,
        "summary_type": "cls_index",
        "summary_use_proj": true,
        "tie_word_embeddings": true,
        "use_cache": true,
        "vocab_size": config.vocab_size,
    });
    if !config.bias {
        json[BIAS] = json!(false);
    }
    json
}

/// Each parameter's name. `Conv1D` keeps `[in, out]`, which is our own layout: nothing is transposed.
pub(super) fn gpt2_table(config: &Gpt2Config) -> TensorTable {
    let (hidden, intermediate) = (config.hidden_size, config.intermediate_size());
    let mut table = TensorTable {
        prefix: "transformer.",
        entries: Vec::new(),
        zeros: Vec::new(),
        tied: vec![("lm_head.weight", "wte.weight")],
        renamed: &[],
        is_buffer: |name| name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias"),
        is_foreign: |_| false,
    };
    let mut weight = |ours: &str, theirs: &str| {
        table.entries.push(Entry::new(ours, format!("transformer.{theirs}"), Layout::Same));
    };
    weight("token_embedding.weight", "wte.weight");
    weight("position_embedding.weight", "wpe.weight");
    weight("final_norm.gamma", "ln_f.weight");
    let mut biases = vec![("final_norm.beta".to_owned(), "ln_f.bias".to_owned(), hidden)];
    for i in 0..config.num_layers {
        for (ours, theirs) in [("attention_norm", "ln_1"), ("feed_forward_norm", "ln_2")] {
            weight(&format!("blocks.{i}.{ours}.gamma"), &format!("h.{i}.{theirs}.weight"));
            biases.push((format!("blocks.{i}.{ours}.beta"), format!("h.{i}.{theirs}.bias"), hidden));
        }
        for (ours, theirs, width) in [
            ("attention.query_key_value", "attn.c_attn", 3 * hidden),
            ("attention.output", "attn.c_proj", hidden),
            ("feed_forward.up", "mlp.c_fc", intermediate),
            ("feed_forward.down", "mlp.c_proj", hidden),
        ] {
            weight(&format!("blocks.{i}.{ours}.weight"), &format!("h.{i}.{theirs}.weight"));
            biases.push((format!("blocks.{i}.{ours}.bias"), format!("h.{i}.{theirs}.bias"), width));
        }
    }
    for (ours, theirs, width) in biases {
        let theirs = format!("transformer.{theirs}");
        match config.bias {
            true => table.entries.push(Entry::new(ours, theirs, Layout::Same)),
            false => table.zeros.push((theirs, vec![width])),
        }
    }
    table
}
