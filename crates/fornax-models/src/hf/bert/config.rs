use std::collections::BTreeMap;

use fornax_nn::Activation;
use serde_json::{Map, Value, json};

use super::super::ConfigFile;
use crate::{BertConfig, BertFamily, ClassifierConfig, ModelError, Pooling, ROBERTA_PAD};

/// Our own key in `config.json`: `0` for a model without token types, of which Hugging Face's BERT has at least one.
const TYPES: &str = "fornax_type_vocab_size";

/// Our own key in `config.json`: how a classifier pools where that is not as published.
const POOLING: &str = "fornax_pooling";

/// The values of `model_type` that can be read. The last two are RoBERTa under other names.
pub(super) const MODEL_TYPES: [&str; 5] = ["bert", "roberta", "distilbert", "xlm-roberta", "camembert"];

/// Our keys and those of `config.json`.
fn keys(family: BertFamily) -> [(&'static str, &'static str); 10] {
    match family {
        BertFamily::Bert | BertFamily::Roberta => [
            ("vocab_size", "vocab_size"),
            ("max_positions", "max_position_embeddings"),
            ("type_vocab_size", "type_vocab_size"),
            ("hidden_size", "hidden_size"),
            ("num_layers", "num_hidden_layers"),
            ("num_heads", "num_attention_heads"),
            ("intermediate_size", "intermediate_size"),
            ("norm_eps", "layer_norm_eps"),
            ("dropout", "hidden_dropout_prob"),
            ("classifier_dropout", "classifier_dropout"),
        ],
        BertFamily::DistilBert => [
            ("vocab_size", "vocab_size"),
            ("max_positions", "max_position_embeddings"),
            ("type_vocab_size", "type_vocab_size"),
            ("hidden_size", "dim"),
            ("num_layers", "n_layers"),
            ("num_heads", "n_heads"),
            ("intermediate_size", "hidden_dim"),
            ("norm_eps", "layer_norm_eps"),
            ("dropout", "dropout"),
            ("classifier_dropout", "seq_classif_dropout"),
        ],
    }
}

/// Our configuration of a `config.json`; absent keys mean what `transformers` takes them for.
pub(super) fn read(file: &ConfigFile) -> Result<BertConfig, ModelError> {
    let family = match file.get("model_type", String::new())?.as_str() {
        "bert" => BertFamily::Bert,
        "distilbert" => BertFamily::DistilBert,
        _ => BertFamily::Roberta,
    };
    file.expect("position_embedding_type", "absolute")?;
    file.expect("is_decoder", false)?;
    file.expect("add_cross_attention", false)?;
    file.expect("tie_word_embeddings", true)?;
    file.expect("pruned_heads", json!({}))?;
    let config = match family {
        BertFamily::Bert | BertFamily::Roberta => read_bert(file, family)?,
        BertFamily::DistilBert => read_distilbert(file)?,
    };
    match config.validate() {
        Err(ModelError::Config { key, value, reason }) => {
            let theirs = keys(family).into_iter().find(|(ours, _)| *ours == key).map_or(key, |(_, theirs)| theirs);
            Err(file.refuse(theirs, &format!("is {value}: {reason}")))
        }
        checked => checked.map(|()| config),
    }
}

fn read_bert(file: &ConfigFile, family: BertFamily) -> Result<BertConfig, ModelError> {
    let roberta = family == BertFamily::Roberta;
    if roberta {
        file.expect("pad_token_id", ROBERTA_PAD)?;
    }
    let sizes = BertConfig::default();
    // CamemBERT's own default is BERT's.
    let vocab_size = if file.get("model_type", String::new())? == "roberta" { 50_265 } else { sizes.vocab_size };
    let dropout = one_dropout(file, "hidden_dropout_prob", "attention_probs_dropout_prob")?;
    let positions: usize = file.get("max_position_embeddings", sizes.max_positions)?;
    let offset = family.position_offset();
    let Some(max_positions) = positions.checked_sub(offset) else {
        return Err(file.refuse("max_position_embeddings", &format!("is {positions}: must be above {offset}")));
    };
    let types = file.get("type_vocab_size", sizes.type_vocab_size)?;
    Ok(BertConfig {
        family,
        vocab_size: file.get("vocab_size", vocab_size)?,
        max_positions,
        type_vocab_size: file.get(TYPES, types)?,
        hidden_size: file.get("hidden_size", sizes.hidden_size)?,
        num_layers: file.get("num_hidden_layers", sizes.num_layers)?,
        num_heads: file.get("num_attention_heads", sizes.num_heads)?,
        intermediate_size: file.get("intermediate_size", sizes.intermediate_size)?,
        activation: activation(file, "hidden_act")?,
        norm_eps: file.get("layer_norm_eps", sizes.norm_eps)?,
        dropout,
        classifier_dropout: file.get("classifier_dropout", None)?,
    })
}

fn read_distilbert(file: &ConfigFile) -> Result<BertConfig, ModelError> {
    let sizes = BertConfig::default();
    let dropout = one_dropout(file, "dropout", "attention_dropout")?;
    Ok(BertConfig {
        family: BertFamily::DistilBert,
        vocab_size: file.get("vocab_size", sizes.vocab_size)?,
        max_positions: file.get("max_position_embeddings", sizes.max_positions)?,
        type_vocab_size: 0,
        hidden_size: file.get("dim", sizes.hidden_size)?,
        num_layers: file.get("n_layers", 6)?,
        num_heads: file.get("n_heads", sizes.num_heads)?,
        intermediate_size: file.get("hidden_dim", sizes.intermediate_size)?,
        activation: activation(file, "activation")?,
        norm_eps: sizes.norm_eps,
        dropout,
        classifier_dropout: Some(file.get("seq_classif_dropout", 0.2)?),
    })
}

/// The rate of `key`, after a warning where that of attention weights is another.
fn one_dropout(file: &ConfigFile, key: &str, attention: &str) -> Result<f64, ModelError> {
    let dropout = file.get(key, 0.1)?;
    let other: f64 = file.get(attention, 0.1)?;
    if other != dropout {
        tracing::warn!(key = attention, value = other, used = dropout, "the model has one dropout rate: that of {key}");
    }
    Ok(dropout)
}

/// Names of nonlinearities; the first of each is written.
const ACTIVATIONS: [(&str, Activation); 6] = [
    ("gelu", Activation::Gelu),
    ("gelu_new", Activation::GeluTanh),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("silu", Activation::Silu),
    ("relu", Activation::Relu),
    ("tanh", Activation::Tanh),
];

fn activation(file: &ConfigFile, key: &str) -> Result<Activation, ModelError> {
    let name = file.get(key, "gelu".to_owned())?;
    ACTIVATIONS.iter().find(|(known, _)| *known == name).map(|(_, activation)| *activation).ok_or_else(|| {
        let known = ACTIVATIONS.map(|(known, _)| known).join(", ");
        file.refuse(key, &format!("is `{name}`; supported here: {known}"))
    })
}

fn activation_name(activation: Activation) -> &'static str {
    ACTIVATIONS.iter().find(|(_, known)| *known == activation).map_or("gelu", |(name, _)| name)
}

/// The classes of a `config.json` and how its classifier pools.
pub(super) fn read_classifier(file: &ConfigFile) -> Result<ClassifierConfig, ModelError> {
    let names: Option<BTreeMap<usize, String>> = file.get("id2label", None)?;
    let pooling = read_pooling(file)?;
    let classifier = match names {
        // Two are what `transformers` takes a file without either key for.
        None => ClassifierConfig::numbered(file.get("num_labels", 2)?, pooling),
        Some(names) => {
            if !names.keys().copied().eq(0..names.len()) {
                return Err(file.refuse("id2label", &"doesn't number its labels from 0 on without gaps"));
            }
            ClassifierConfig { labels: names.into_values().collect(), pooling }
        }
    };
    classifier.validate().map_err(|error| file.refuse("id2label", &error))?;
    let problem: Option<String> = file.get("problem_type", None)?;
    let wanted = problem_type(&classifier);
    match problem {
        Some(problem) if problem != wanted => {
            let count = classifier.labels.len();
            Err(file
                .refuse("problem_type", &format!("is `{problem}`; with {count} labels, only `{wanted}` is supported")))
        }
        _ => Ok(classifier),
    }
}

/// How the classifier of a `config.json` pools.
pub(super) fn read_pooling(file: &ConfigFile) -> Result<Pooling, ModelError> {
    file.get(POOLING, Pooling::Cls)
}

/// Whether a `config.json` says how its classifier pools: only ours do.
pub(super) fn names_pooling(file: &ConfigFile) -> Result<bool, ModelError> {
    Ok(file.get::<Option<Pooling>>(POOLING, None)?.is_some())
}

fn problem_type(classifier: &ClassifierConfig) -> &'static str {
    if classifier.is_regression() { "regression" } else { "single_label_classification" }
}

/// The `config.json` of a configuration: the keys that `transformers` 5.23 itself writes.
///
/// # Errors
///
/// When a RoBERTa has another padding token than the one that its positions are counted from.
pub(super) fn write(
    config: &BertConfig,
    architecture: &str,
    classifier: Option<&ClassifierConfig>,
    pad_token: Option<u32>,
) -> Result<Value, ModelError> {
    let mut json = match config.family {
        BertFamily::Bert => encoder(config, "bert", [pad_token, None, None]),
        BertFamily::Roberta => {
            config.check_tokenizer(0, pad_token)?;
            encoder(config, "roberta", [Some(ROBERTA_PAD), Some(0), Some(2)])
        }
        BertFamily::DistilBert => distilbert(config, pad_token),
    };
    json.insert("architectures".to_owned(), json!([architecture]));
    if let Some(classifier) = classifier {
        let labels = classifier.labels.iter().enumerate();
        let ids = labels.clone().map(|(id, label)| (label.clone(), json!(id))).collect();
        json.insert("id2label".to_owned(), labels.map(|(id, label)| (id.to_string(), json!(label))).collect());
        json.insert("label2id".to_owned(), ids);
        json.insert("problem_type".to_owned(), json!(problem_type(classifier)));
        if classifier.pooling != Pooling::Cls {
            json.insert(POOLING.to_owned(), json!(classifier.pooling));
        }
    }
    Ok(Value::Object(json))
}

/// The keys of BERT and RoBERTa, with the tokens that pad, begin and end a sequence.
fn encoder(config: &BertConfig, model_type: &str, [pad, begin, end]: [Option<u32>; 3]) -> Map<String, Value> {
    let mut json = json!({
        "add_cross_attention": false,
        "attention_probs_dropout_prob": config.dropout,
        "bos_token_id": begin,
        "classifier_dropout": config.classifier_dropout,
        "dtype": "float32",
        "eos_token_id": end,
        "hidden_act": activation_name(config.activation),
        "hidden_dropout_prob": config.dropout,
        "hidden_size": config.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": config.intermediate_size,
        "is_decoder": false,
        "layer_norm_eps": config.norm_eps,
        "max_position_embeddings": config.position_rows(),
        "model_type": model_type,
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.num_layers,
        "pad_token_id": pad,
        "tie_word_embeddings": true,
        "type_vocab_size": config.type_vocab_size.max(1),
        "use_cache": true,
        "vocab_size": config.vocab_size,
    });
    if config.type_vocab_size == 0 {
        json[TYPES] = json!(0);
    }
    into_map(json)
}

fn distilbert(config: &BertConfig, pad: Option<u32>) -> Map<String, Value> {
    into_map(json!({
        "activation": activation_name(config.activation),
        "attention_dropout": config.dropout,
        "bos_token_id": null,
        "dim": config.hidden_size,
        "dropout": config.dropout,
        "dtype": "float32",
        "eos_token_id": null,
        "hidden_dim": config.intermediate_size,
        "initializer_range": 0.02,
        "max_position_embeddings": config.max_positions,
        "model_type": "distilbert",
        "n_heads": config.num_heads,
        "n_layers": config.num_layers,
        "pad_token_id": pad,
        "qa_dropout": 0.1,
        "seq_classif_dropout": config.classifier_dropout(),
        "sinusoidal_pos_embds": false,
        "tie_word_embeddings": true,
        "vocab_size": config.vocab_size,
    }))
}

fn into_map(json: Value) -> Map<String, Value> {
    match json {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
