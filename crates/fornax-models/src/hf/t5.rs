use std::path::Path;

use burn::tensor::Device;
use fornax_nn::Activation;
use serde_json::{Map, Value, json};

use super::{
    Archive, CONFIG, ConfigFile, Entry, Layout, LoadReport, TensorTable,
    write::{write_beside, write_safetensors},
};
use crate::{ModelError, T5, T5Config};

/// The sizes of the T5 in a Hugging Face folder, by its `config.json` alone.
///
/// # Errors
///
/// When the folder is no checkpoint of a T5 or has features that ours lacks.
pub fn open_t5_config(dir: &Path) -> Result<T5Config, ModelError> {
    t5_config(&ConfigFile::open(dir, &["t5"])?)
}

/// Loads a T5 of version 1.0 or 1.1 from a Hugging Face folder, as `f32`.
///
/// Read are `config.json` and `model.safetensors`, or the shards of `model.safetensors.index.json`; `f16` and `bf16`
/// weights are widened. Copies of the embedding under other names, and the position biases that old versions stored for
/// cross-attention and never read, are passed over and listed in the report. A head that has no weights though it isn't scaled (a
/// new model of version 1.1 in `transformers` 5) starts as a copy of the embedding.
///
/// # Errors
///
/// When the folder is no checkpoint of a T5, has features that ours lacks, or when tensors are missing, unexpected or of
/// another shape; the message names each.
pub fn load_t5(dir: &Path, device: &Device) -> Result<(T5, LoadReport), ModelError> {
    let file = ConfigFile::open(dir, &["t5"])?;
    let config = t5_config(&file)?;
    let archive = Archive::open(dir)?;
    let mut table = t5_table(&config);
    if !config.tie_embeddings && file.get(TIED, true)? {
        table.tied.push(("shared.weight", "lm_head.weight"));
    }
    let (model, report) = table.load(T5::zeros(&config, device), &archive)?;
    report.log("T5", dir);
    Ok((model, report))
}

/// Writes a T5 as a Hugging Face folder that `transformers` loads with equal logits.
///
/// Weights are stored as `f32`. Each file is written beside and renamed; `config.json` comes last.
///
/// # Errors
///
/// When the folder or a file can't be written.
pub fn save_t5(model: &T5, dir: &Path) -> Result<(), ModelError> {
    save_t5_with(model, dir, Map::new())
}

/// As [`save_t5`], with more keys in `config.json`, such as `task_specific_params`.
///
/// # Errors
///
/// As [`save_t5`].
pub fn save_t5_with(model: &T5, dir: &Path, keys: Map<String, Value>) -> Result<(), ModelError> {
    std::fs::create_dir_all(dir).map_err(ModelError::io(dir))?;
    let config = model.config();
    write_safetensors(&dir.join("model.safetensors"), &t5_table(&config).export(model))?;
    let path = dir.join(CONFIG);
    let mut json = t5_json(&config);
    for (key, value) in keys {
        json[key] = value;
    }
    let text = serde_json::to_string_pretty(&json).map_err(ModelError::json(&path))?;
    write_beside(&path, |file| std::io::Write::write_all(file, (text + "\n").as_bytes()))
}

/// Whether the head is the embedding. Up to version 4 of `transformers` also: whether it is scaled; version 5 writes it as true
/// always, and unties a head that has weights of its own.
const TIED: &str = "tie_word_embeddings";

/// Whether the head is scaled, in files of version 5 of `transformers`.
const SCALED: &str = "scale_decoder_outputs";

/// Values of `feed_forward_proj`, and of the keys that `transformers` derives from it; the first of a kind is written.
/// `gated-gelu` means the tanh form by way of exception.
const FEED_FORWARDS: [(&str, &str, Activation, bool); 11] = [
    ("relu", "relu", Activation::Relu, false),
    ("gated-gelu", "gelu_new", Activation::GeluTanh, true),
    ("gated-gelu_new", "gelu_new", Activation::GeluTanh, true),
    ("gelu_new", "gelu_new", Activation::GeluTanh, false),
    ("gelu", "gelu", Activation::Gelu, false),
    ("gated-gelu_python", "gelu_python", Activation::Gelu, true),
    ("silu", "silu", Activation::Silu, false),
    ("gated-silu", "silu", Activation::Silu, true),
    ("gated-relu", "relu", Activation::Relu, true),
    ("tanh", "tanh", Activation::Tanh, false),
    ("gated-tanh", "tanh", Activation::Tanh, true),
];

/// Our keys and those of `config.json`, where they differ.
const KEYS: [(&str, &str); 10] = [
    ("hidden_size", "d_model"),
    ("head_dim", "d_kv"),
    ("intermediate_size", "d_ff"),
    ("relative_buckets", "relative_attention_num_buckets"),
    ("relative_max_distance", "relative_attention_max_distance"),
    ("dropout", "dropout_rate"),
    ("norm_eps", "layer_norm_epsilon"),
    ("pad_token", "pad_token_id"),
    ("start_token", "decoder_start_token_id"),
    ("end_token", "eos_token_id"),
];

/// Our configuration of a `config.json`; absent keys mean what `transformers` takes them for.
fn t5_config(file: &ConfigFile) -> Result<T5Config, ModelError> {
    file.expect("is_encoder_decoder", true)?;
    file.expect("is_decoder", false)?;
    let (activation, gated) = feed_forward(file)?;
    let tied = file.get(TIED, true)?;
    let tie_embeddings = file.get(SCALED, tied)?;
    if tie_embeddings && !tied {
        return Err(file.refuse(SCALED, &format!("is true with `{TIED}` = false: a head of its own isn't scaled here")));
    }
    let sizes = T5Config::default();
    let pad_token = file.get("pad_token_id", sizes.pad_token)?;
    let config = T5Config {
        vocab_size: file.get("vocab_size", sizes.vocab_size)?,
        hidden_size: file.get("d_model", sizes.hidden_size)?,
        head_dim: file.get("d_kv", sizes.head_dim)?,
        num_heads: file.get("num_heads", sizes.num_heads)?,
        intermediate_size: file.get("d_ff", sizes.intermediate_size)?,
        num_layers: file.get("num_layers", sizes.num_layers)?,
        num_decoder_layers: file.get("num_decoder_layers", None)?,
        activation,
        gated,
        tie_embeddings,
        relative_buckets: file.get("relative_attention_num_buckets", sizes.relative_buckets)?,
        relative_max_distance: file.get("relative_attention_max_distance", sizes.relative_max_distance)?,
        dropout: file.get("dropout_rate", sizes.dropout)?,
        norm_eps: file.get("layer_norm_epsilon", sizes.norm_eps)?,
        pad_token,
        start_token: file.get("decoder_start_token_id", pad_token)?,
        end_token: file.get("eos_token_id", sizes.end_token)?,
    };
    match config.validate() {
        Err(ModelError::Config { key, value, reason }) => {
            let theirs = KEYS.iter().find(|(ours, _)| *ours == key).map_or(key, |(_, theirs)| theirs);
            Err(file.refuse(theirs, &format!("is {value}: {reason}")))
        }
        checked => checked.map(|()| config),
    }
}

/// The nonlinearity of the feed-forward layers and whether they are gated.
fn feed_forward(file: &ConfigFile) -> Result<(Activation, bool), ModelError> {
    let name = file.get("feed_forward_proj", "relu".to_owned())?;
    let Some((_, function, activation, gated)) = FEED_FORWARDS.iter().find(|(known, ..)| *known == name) else {
        let known = FEED_FORWARDS.map(|(known, ..)| known).join(", ");
        return Err(file.refuse("feed_forward_proj", &format!("is `{name}`; supported here: {known}")));
    };
    // Both follow from the name; `transformers` believes them where they contradict it.
    file.expect("dense_act_fn", *function)?;
    file.expect("is_gated_act", *gated)?;
    Ok((*activation, *gated))
}

/// The `config.json` of a configuration: the keys that `transformers` 5.23 itself writes, except that a head of its own is
/// said to be untied, as version 4 has to know.
fn t5_json(config: &T5Config) -> Value {
    let same = |(_, _, activation, gated): &&(&str, &str, Activation, bool)| {
        (*activation, *gated) == (config.activation, config.gated)
    };
    let (feed_forward, function, ..) = FEED_FORWARDS.iter().find(same).unwrap_or(&FEED_FORWARDS[0]);
    json!({
        "architectures": ["T5ForConditionalGeneration"],
        "classifier_dropout": 0.0,
        "d_ff": config.intermediate_size,
        "d_kv": config.head_dim,
        "d_model": config.hidden_size,
        "decoder_start_token_id": config.start_token,
        "dense_act_fn": function,
        "dropout_rate": config.dropout,
        "dtype": "float32",
        "eos_token_id": config.end_token,
        "feed_forward_proj": feed_forward,
        "initializer_factor": 1.0,
        "is_decoder": false,
        "is_encoder_decoder": true,
        "is_gated_act": config.gated,
        "layer_norm_epsilon": config.norm_eps,
        "model_type": "t5",
        "num_decoder_layers": config.num_decoder_layers(),
        "num_heads": config.num_heads,
        "num_layers": config.num_layers,
        "pad_token_id": config.pad_token,
        "relative_attention_max_distance": config.relative_max_distance,
        "relative_attention_num_buckets": config.relative_buckets,
        SCALED: config.tie_embeddings,
        TIED: config.tie_embeddings,
        "use_cache": true,
        "vocab_size": config.vocab_size,
    })
}

/// Each parameter's name.
pub(super) fn t5_table(config: &T5Config) -> TensorTable {
    let mut names = Names(Vec::new());
    names.push("token_embedding.weight", "shared.weight", Layout::Same);
    for i in 0..config.num_layers {
        names.attention(
            &format!("encoder.blocks.{i}.attention"),
            &format!("encoder.block.{i}.layer.0"),
            "SelfAttention",
        );
        names.feed_forward(&format!("encoder.blocks.{i}"), &format!("encoder.block.{i}.layer.1"), config.gated);
    }
    for i in 0..config.num_decoder_layers() {
        let (ours, theirs) = (format!("decoder.blocks.{i}"), format!("decoder.block.{i}.layer"));
        names.attention(&format!("{ours}.attention"), &format!("{theirs}.0"), "SelfAttention");
        names.attention(&format!("{ours}.cross_attention"), &format!("{theirs}.1"), "EncDecAttention");
        names.feed_forward(&ours, &format!("{theirs}.2"), config.gated);
    }
    for stack in ["encoder", "decoder"] {
        let bias = format!("{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight");
        names.push(&format!("{stack}.position_bias.weight"), &bias, Layout::Same);
        names.push(&format!("{stack}.final_norm.gamma"), &format!("{stack}.final_layer_norm.weight"), Layout::Same);
    }
    let mut tied =
        vec![("encoder.embed_tokens.weight", "shared.weight"), ("decoder.embed_tokens.weight", "shared.weight")];
    match config.tie_embeddings {
        true => tied.push(("lm_head.weight", "shared.weight")),
        false => names.push("head.weight", "lm_head.weight", Layout::Transposed),
    }
    TensorTable {
        prefix: "",
        entries: names.0,
        zeros: Vec::new(),
        tied,
        renamed: &[],
        is_buffer: |name| name == "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
        is_foreign: |_| false,
    }
}

struct Names(Vec<Entry>);

impl Names {
    fn push(&mut self, ours: &str, theirs: &str, layout: Layout) {
        self.0.push(Entry::new(ours, theirs, layout));
    }

    fn attention(&mut self, ours: &str, layer: &str, attention: &str) {
        self.push(&format!("{ours}_norm.gamma"), &format!("{layer}.layer_norm.weight"), Layout::Same);
        for (name, theirs) in [("query", "q"), ("key", "k"), ("value", "v"), ("output", "o")] {
            let theirs = format!("{layer}.{attention}.{theirs}.weight");
            self.push(&format!("{ours}.{name}.weight"), &theirs, Layout::Transposed);
        }
    }

    fn feed_forward(&mut self, block: &str, layer: &str, gated: bool) {
        self.push(&format!("{block}.feed_forward.norm.gamma"), &format!("{layer}.layer_norm.weight"), Layout::Same);
        let maps: &[_] = match gated {
            true => &[("gate", "wi_0"), ("up", "wi_1"), ("down", "wo")],
            false => &[("up", "wi"), ("down", "wo")],
        };
        for (name, theirs) in maps {
            let theirs = format!("{layer}.DenseReluDense.{theirs}.weight");
            self.push(&format!("{block}.feed_forward.{name}.weight"), &theirs, Layout::Transposed);
        }
    }
}
