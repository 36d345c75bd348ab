use anyhow::Result;
use burn::{
    module::{Module, ModuleMapper, Param},
    tensor::{Device, Tensor},
};
use fornax_cli::{model_folder, resolve_model};
use fornax_models::{
    BertForSequenceClassification, ClassifierConfig, ModelError,
    hf::{self, LoadClassifier},
};
use fornax_train::Options;

use crate::{Config, Data, ModelConfig, config::output_names};

/// The config of a run, whose sizes are those of the checkpoint that `model.from` names, and the config to open its data with,
/// which also names the tokenizer that goes with it.
pub(crate) fn resolve(config: &Config, options: &Options) -> Result<(Config, Config)> {
    let start = resolve_model(&config.model, options, |folder| {
        Ok::<_, ModelError>(ModelConfig::of(&hf::open_bert_config(folder)?))
    })?;
    let config = Config { model: start.model, ..config.clone() };
    let mut opening = config.clone();
    if let (Some(folder), None) = (start.tokenizer, &opening.tokenizer.from) {
        opening.tokenizer.from = Some(folder.display().to_string());
    }
    Ok((config, opening))
}

/// A classifier as the resolved `config` says, with weights of its own or of a checkpoint, and what is frozen not to be trained. The
/// weights of a run that is resumed are in its own checkpoint, which replaces those that it gets here.
pub(crate) fn init_model(
    config: &Config,
    options: &Options,
    data: &Data,
    device: &Device,
) -> Result<BertForSequenceClassification> {
    let labels = output_names(&data.splits.kind);
    let (seed, pooling) = (config.train.seed, config.model.pooling);
    let model = match &config.model.from {
        // Of a resumed run too: family and activation are in the checkpoint alone.
        Some(folder) => {
            let options = LoadClassifier { labels: Some(labels), pooling, replace_head: true, seed };
            let (model, _) = hf::load_bert_for_sequence_classification(&model_folder(folder), &options, device)?;
            match config.model.dropout {
                Some(dropout) => model.with_dropout(dropout)?,
                None => model,
            }
        }
        None => {
            let sizes = config.model.bert(data.tokenizer.vocab_size(), config.data.max_len);
            let classifier = ClassifierConfig { labels, pooling: pooling.unwrap_or_default() };
            sizes.init_sequence_classification(&classifier, seed, device)?
        }
    };
    let _ = options;
    check(&model, config, data)?;
    let model = match &config.model.lora {
        Some(lora) => model.with_lora(lora, seed)?,
        None => model,
    };
    let frozen = |path: &str| config.model.is_frozen(path);
    Ok(model.map(&mut Freeze { place: Vec::new(), frozen }))
}

fn check(model: &BertForSequenceClassification, config: &Config, data: &Data) -> Result<(), ModelError> {
    let sizes = model.bert.config();
    let refuse = |key, value: usize, reason| Err(ModelError::Config { key, value: value.to_string(), reason });
    let tokens = data.tokenizer.vocab_size();
    if sizes.vocab_size < tokens {
        return refuse("vocab_size", sizes.vocab_size, format!("the tokenizer has {tokens} tokens"));
    }
    if sizes.max_positions < config.data.max_len {
        return refuse("max_positions", sizes.max_positions, format!("data.max_len is {}", config.data.max_len));
    }
    if config.model.lora.is_some() && (config.model.frozen_layers > 0 || config.model.frozen_embeddings) {
        let reason = "model.lora freezes all layers of the encoder".to_owned();
        return refuse("frozen_layers", config.model.frozen_layers, reason);
    }
    if config.model.frozen_layers > sizes.num_layers {
        let reason = format!("the model has {} layers", sizes.num_layers);
        return refuse("frozen_layers", config.model.frozen_layers, reason);
    }
    Ok(())
}

/// Takes parameters out of training by their paths.
struct Freeze<F> {
    place: Vec<String>,
    frozen: F,
}

impl<F: Fn(&str) -> bool> ModuleMapper for Freeze<F> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.place.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.place.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if (self.frozen)(&self.place.join(".")) { param.set_require_grad(false) } else { param }
    }
}
