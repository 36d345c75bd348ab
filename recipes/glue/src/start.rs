use anyhow::Result;
use burn::tensor::Device;
use fornax_cli::{first_weights, resolve_model};
use fornax_data::SpecialToken;
use fornax_models::{
    BertConfig, BertForSequenceClassification, ClassifierConfig, ModelError,
    hf::{self, LoadClassifier},
};
use fornax_nn::freeze;
use fornax_train::Options;

use crate::{Config, Data, ModelConfig, config::output_names};

/// The config of a run, whose sizes are those of the checkpoint that `model.from` names, and the config to open its data with,
/// which also names the tokenizer that goes with it.
pub(crate) fn resolve(config: &Config, options: &Options) -> Result<(Config, Config)> {
    let start = resolve_model(&config.model, options, |folder| {
        Ok::<_, ModelError>(ModelConfig::of(&hf::open_bert_config(folder)?, hf::open_bert_pooling(folder)?))
    })?;
    let config = Config { model: start.model.clone(), ..config.clone() };
    let mut opening = config.clone();
    opening.tokenizer.from = start.tokenizer_from(opening.tokenizer.from);
    Ok((config, opening))
}

/// A classifier as the resolved `config` says, with its first weights, and what is frozen not to be trained.
pub(crate) fn init_model(
    config: &Config,
    options: &Options,
    data: &Data,
    device: &Device,
) -> Result<BertForSequenceClassification> {
    let sizes = config.model.bert(data.tokenizer.vocab_size(), config.data.max_len);
    check(&sizes, config, data)?;
    let labels = output_names(&data.splits.kind);
    let (seed, pooling) = (config.train.seed, config.model.pooling);
    let model = first_weights(
        &config.model,
        options,
        |folder| {
            let options = LoadClassifier { labels: Some(labels.clone()), pooling, replace_head: true, seed };
            let (model, _) = hf::load_bert_for_sequence_classification(folder, &options, device)?;
            model.with_dropout(sizes.dropout, sizes.classifier_dropout)
        },
        || {
            let classifier = ClassifierConfig { labels: labels.clone(), pooling: pooling.unwrap_or_default() };
            sizes.init_sequence_classification(&classifier, seed, device)
        },
    )?;
    let model = match &config.model.lora {
        Some(lora) => model.with_lora(lora, seed)?,
        None => model,
    };
    Ok(freeze(model, |path| config.model.is_frozen(path)))
}

fn check(sizes: &BertConfig, config: &Config, data: &Data) -> Result<(), ModelError> {
    sizes.validate()?;
    let refuse = |key, value: usize, reason| Err(ModelError::Config { key, value: value.to_string(), reason });
    let tokenizer = &data.tokenizer;
    sizes.check_tokenizer(tokenizer.vocab_size(), tokenizer.special_id(SpecialToken::Pad).ok())?;
    if sizes.max_positions < config.data.max_len {
        return refuse("max_positions", sizes.max_positions, format!("data.max_len is {}", config.data.max_len));
    }
    if config.model.frozen_layers > sizes.num_layers {
        let reason = format!("the model has {} layers", sizes.num_layers);
        return refuse("frozen_layers", config.model.frozen_layers, reason);
    }
    Ok(())
}
