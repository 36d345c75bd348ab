use anyhow::Result;
use burn::tensor::Device;
use fornax_cli::{first_weights, resolve_model};
use fornax_data::{SpecialToken, Tokenizer};
use fornax_models::{BertConfig, ModelError, hf};
use fornax_train::Options;

use crate::{Config, ModelConfig, Pretraining};

/// The config of a run, whose sizes are those of the checkpoint that `model.from` names, and the config to open its data with,
/// which also names the tokenizer that goes with it.
pub(crate) fn resolve(config: &Config, options: &Options) -> Result<(Config, Config)> {
    let start = resolve_model(&config.model, options, |folder| {
        Ok::<_, ModelError>(ModelConfig::of(&hf::open_bert_config(folder)?))
    })?;
    let config = Config { model: start.model.clone(), ..config.clone() };
    let mut opening = config.clone();
    opening.tokenizer.from = start.tokenizer_from(opening.tokenizer.from);
    Ok((config, opening))
}

/// A model as the resolved `config` says, with its first weights.
pub(crate) fn init_model<M: Pretraining>(
    config: &Config,
    options: &Options,
    tokenizer: &Tokenizer,
    device: &Device,
) -> Result<M> {
    let sizes = config.model.bert(tokenizer.vocab_size(), config.objective.seq_len);
    check(&sizes, config, tokenizer)?;
    first_weights(
        &config.model,
        options,
        |folder| M::load(folder, config.train.seed, device)?.dropout(sizes.dropout),
        || M::init(&sizes, config.train.seed, device),
    )
}

fn check(sizes: &BertConfig, config: &Config, tokenizer: &Tokenizer) -> Result<(), ModelError> {
    sizes.validate()?;
    let refuse = |key, value: usize, reason| Err(ModelError::Config { key, value: value.to_string(), reason });
    sizes.check_tokenizer(tokenizer.vocab_size(), tokenizer.special_id(SpecialToken::Pad).ok())?;
    if config.objective.sentence_pairs.is_some() && !sizes.reads_token_types() {
        let reason = "objective.sentence_pairs needs 2 token types to tell the sentences apart".to_owned();
        return refuse("type_vocab_size", sizes.type_vocab_size, reason);
    }
    if sizes.max_positions < config.objective.seq_len {
        let reason = format!("objective.seq_len is {}", config.objective.seq_len);
        return refuse("max_positions", sizes.max_positions, reason);
    }
    Ok(())
}
