use std::path::Path;

use burn::tensor::Device;
use serde_json::{Value, json};

use super::{
    Archive, CONFIG, ConfigFile, Entry, Layout, LoadReport, TensorTable,
    write::{write_beside, write_safetensors},
};
use crate::{ModelError, TieEmbeddings, Transformer, TransformerConfig};

/// Hugging Face has no such model: this name keeps others from being taken for it.
const MODEL_TYPE: &str = "fornax-transformer";

/// The newest layout of the folder that can be read, and the one that is written.
const FORMAT_VERSION: u32 = 1;

/// The sizes of the Transformer in a folder of [`save_transformer`], by its `config.json` alone.
///
/// # Errors
///
/// When the folder is no checkpoint of a Transformer, or of one that a newer Fornax wrote.
pub fn open_transformer_config(dir: &Path) -> Result<TransformerConfig, ModelError> {
    transformer_config(&ConfigFile::open(dir, &[MODEL_TYPE])?)
}

/// Loads a Transformer from a folder in the style of Hugging Face, as `f32`.
///
/// Read are `config.json` and `model.safetensors`, or the shards of `model.safetensors.index.json`; `f16` and `bf16` weights are
/// widened. A head that equals the embedding that it is tied to is passed over and listed in the report.
///
/// # Errors
///
/// When the folder is no checkpoint of a Transformer, or when tensors are missing, unexpected or of another shape; the message
/// names each.
pub fn load_transformer(dir: &Path, device: &Device) -> Result<(Transformer, LoadReport), ModelError> {
    let config = open_transformer_config(dir)?;
    let archive = Archive::open(dir)?;
    let (model, report) = transformer_table(&config).load(Transformer::zeros(&config, device), &archive)?;
    report.log("Transformer", dir);
    Ok((model, report))
}

/// How the texts of a Transformer are written and read: what its `config.json` says besides sizes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransformerText {
    /// The token that a target begins with, if it has one: `decoder_start_token_id`.
    pub start_token: Option<u32>,
    /// The token that a target ends with, if it has one: `eos_token_id`.
    pub end_token: Option<u32>,
    /// Whether sources are read in lower case: `fornax_lowercase`.
    pub lowercase: bool,
}

/// Writes a Transformer as a folder in the style of Hugging Face: names as of BART, `f32`, matrices as `torch.nn.Linear` keeps
/// them, and a `config.json` with the keys of [`TransformerConfig`] and `"model_type": "fornax-transformer"`.
///
/// Each file is written beside and renamed; `config.json` comes last.
///
/// # Errors
///
/// When the folder or a file can't be written.
pub fn save_transformer(model: &Transformer, dir: &Path, text: &TransformerText) -> Result<(), ModelError> {
    std::fs::create_dir_all(dir).map_err(ModelError::io(dir))?;
    let config = model.config();
    write_safetensors(&dir.join("model.safetensors"), &transformer_table(&config).export(model))?;
    let path = dir.join(CONFIG);
    let json = transformer_json(&config, text).map_err(ModelError::json(&path))?;
    let json = serde_json::to_string_pretty(&json).map_err(ModelError::json(&path))?;
    write_beside(&path, |file| std::io::Write::write_all(file, (json + "\n").as_bytes()))
}

/// Our configuration of a `config.json`; absent keys have our defaults.
fn transformer_config(file: &ConfigFile) -> Result<TransformerConfig, ModelError> {
    let version: u32 = file.get("format_version", FORMAT_VERSION)?;
    if version > FORMAT_VERSION {
        let reason =
            format!("is {version}, and this Fornax reads up to {FORMAT_VERSION}: use the one that wrote the folder");
        return Err(file.refuse("format_version", &reason));
    }
    let default = TransformerConfig::default();
    let config = TransformerConfig {
        source_vocab_size: file.get("source_vocab_size", default.source_vocab_size)?,
        target_vocab_size: file.get("target_vocab_size", default.target_vocab_size)?,
        max_positions: file.get("max_positions", default.max_positions)?,
        positions: file.get("positions", default.positions)?,
        hidden_size: file.get("hidden_size", default.hidden_size)?,
        num_layers: file.get("num_layers", default.num_layers)?,
        num_decoder_layers: file.get("num_decoder_layers", default.num_decoder_layers)?,
        num_heads: file.get("num_heads", default.num_heads)?,
        intermediate_size: file.get("intermediate_size", default.intermediate_size)?,
        dropout: file.get("dropout", default.dropout)?,
        norm_first: file.get("norm_first", default.norm_first)?,
        norm_eps: file.get("norm_eps", default.norm_eps)?,
        tie_embeddings: file.get("tie_embeddings", default.tie_embeddings)?,
        scale_embeddings: file.get("scale_embeddings", default.scale_embeddings)?,
        head_bias: file.get("head_bias", default.head_bias)?,
        embedding_init: file.get("embedding_init", default.embedding_init)?,
        pad_token: file.get(PAD, default.pad_token)?,
    };
    match config.validate() {
        Err(ModelError::Config { key, value, reason }) => {
            let theirs = if key == "pad_token" { PAD } else { key };
            Err(file.refuse(theirs, &format!("is {value}: {reason}")))
        }
        checked => checked.map(|()| config),
    }
}

/// What `config.json` calls the padding token, as all of Hugging Face does.
const PAD: &str = "pad_token_id";

/// The `config.json` of a configuration.
fn transformer_json(config: &TransformerConfig, text: &TransformerText) -> Result<Value, serde_json::Error> {
    let mut json = serde_json::to_value(config)?;
    if let Some(keys) = json.as_object_mut() {
        keys.remove("pad_token");
    }
    for (key, value) in [
        ("architectures", json!(["FornaxTransformer"])),
        ("decoder_start_token_id", json!(text.start_token)),
        ("dtype", json!("float32")),
        ("eos_token_id", json!(text.end_token)),
        ("format_version", json!(FORMAT_VERSION)),
        ("fornax_lowercase", json!(text.lowercase)),
        ("is_encoder_decoder", json!(true)),
        ("model_type", json!(MODEL_TYPE)),
        (PAD, json!(config.pad_token)),
    ] {
        json[key] = value;
    }
    Ok(json)
}

/// Each parameter's name.
pub(super) fn transformer_table(config: &TransformerConfig) -> TensorTable {
    let mut names = Names::default();
    let (source, tied) = match config.tie_embeddings {
        TieEmbeddings::None => ("encoder.embed_tokens.weight", vec![]),
        TieEmbeddings::Decoder => {
            ("encoder.embed_tokens.weight", vec![("lm_head.weight", "decoder.embed_tokens.weight")])
        }
        TieEmbeddings::All => {
            let copies = ["lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"];
            ("shared.weight", copies.map(|copy| (copy, "shared.weight")).to_vec())
        }
    };
    names.add("source_embedding.weight", source, Layout::Same);
    if config.tie_embeddings != TieEmbeddings::All {
        names.add("target_embedding.weight", "decoder.embed_tokens.weight", Layout::Same);
    }
    if config.positions == crate::Positions::Learned {
        names.add("source_position_embedding.weight", "encoder.embed_positions.weight", Layout::Same);
        names.add("target_position_embedding.weight", "decoder.embed_positions.weight", Layout::Same);
    }
    for i in 0..config.num_layers {
        let (ours, theirs) = (format!("encoder.{i}"), format!("encoder.layers.{i}"));
        names.attention(&format!("{ours}.attention"), &format!("{theirs}.self_attn"));
        names.feed_forward(&ours, &theirs);
    }
    for i in 0..config.num_decoder_layers() {
        let (ours, theirs) = (format!("decoder.{i}"), format!("decoder.layers.{i}"));
        names.attention(&format!("{ours}.attention"), &format!("{theirs}.self_attn"));
        names.attention(&format!("{ours}.cross_attention"), &format!("{theirs}.encoder_attn"));
        names.feed_forward(&ours, &theirs);
    }
    if config.norm_first {
        names.norm("encoder_norm", "encoder.layer_norm");
        names.norm("decoder_norm", "decoder.layer_norm");
    }
    match (config.tie_embeddings, config.head_bias) {
        (TieEmbeddings::None, true) => names.linear("head", "lm_head"),
        (TieEmbeddings::None, false) => names.add("head.weight", "lm_head.weight", Layout::Transposed),
        (_, true) => names.add("head_bias", "lm_head.bias", Layout::Same),
        (_, false) => {}
    }
    TensorTable {
        prefix: "",
        entries: names.0,
        zeros: Vec::new(),
        tied,
        renamed: &[],
        is_buffer: |_| false,
        is_foreign: |_| false,
    }
}

#[derive(Default)]
struct Names(Vec<Entry>);

impl Names {
    fn add(&mut self, ours: &str, theirs: &str, layout: Layout) {
        self.0.push(Entry::new(ours, theirs, layout));
    }

    fn linear(&mut self, ours: &str, theirs: &str) {
        self.add(&format!("{ours}.weight"), &format!("{theirs}.weight"), Layout::Transposed);
        self.add(&format!("{ours}.bias"), &format!("{theirs}.bias"), Layout::Same);
    }

    fn norm(&mut self, ours: &str, theirs: &str) {
        self.add(&format!("{ours}.gamma"), &format!("{theirs}.weight"), Layout::Same);
        self.add(&format!("{ours}.beta"), &format!("{theirs}.bias"), Layout::Same);
    }

    /// The projections and the norm beside them.
    fn attention(&mut self, ours: &str, theirs: &str) {
        for (our_part, their_part) in
            [("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"), ("output", "out_proj")]
        {
            self.linear(&format!("{ours}.{our_part}"), &format!("{theirs}.{their_part}"));
        }
        self.norm(&format!("{ours}_norm"), &format!("{theirs}_layer_norm"));
    }

    /// That of a block, with its norm.
    fn feed_forward(&mut self, ours: &str, theirs: &str) {
        self.linear(&format!("{ours}.feed_forward.up"), &format!("{theirs}.fc1"));
        self.linear(&format!("{ours}.feed_forward.down"), &format!("{theirs}.fc2"));
        self.norm(&format!("{ours}.feed_forward_norm"), &format!("{theirs}.final_layer_norm"));
    }
}
