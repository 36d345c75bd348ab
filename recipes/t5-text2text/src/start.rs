use anyhow::Result;
use burn::tensor::Device;
use fornax_cli::{first_weights, resolve_model};
use fornax_data::Tokenizer;
use fornax_models::{ModelError, T5, T5Config, hf};
use fornax_train::Options;

use crate::{Config, ModelConfig};

/// The config of a run, whose sizes are those of the checkpoint that `model.from` names, and the config to open its data with,
/// which also names the tokenizer that goes with it.
pub(crate) fn resolve(config: &Config, options: &Options) -> Result<(Config, Config)> {
    let start = resolve_model(&config.model, options, |folder| {
        Ok::<_, ModelError>(ModelConfig::of(&hf::open_t5_config(folder)?))
    })?;
    let config = Config { model: start.model.clone(), ..config.clone() };
    let mut opening = config.clone();
    opening.tokenizer.from = start.tokenizer_from(opening.tokenizer.from);
    if let Some(objective) = &config.objective {
        let extra = &mut opening.tokenizer.extra_tokens;
        let missing: Vec<String> = objective.modes()?.into_iter().filter(|mode| !extra.contains(mode)).collect();
        extra.extend(missing);
    }
    Ok((config, opening))
}

/// A model as the resolved `config` says, with its first weights.
pub(crate) fn init_model(config: &Config, options: &Options, tokenizer: &Tokenizer, device: &Device) -> Result<T5> {
    let sizes = config.model.t5_for(tokenizer)?;
    check(&sizes, tokenizer)?;
    first_weights(
        &config.model,
        options,
        |folder| hf::load_t5(folder, device)?.0.with_dropout(sizes.dropout),
        || sizes.init(config.train.seed, device),
    )
}

fn check(sizes: &T5Config, tokenizer: &Tokenizer) -> Result<(), ModelError> {
    sizes.validate()?;
    let refuse = |key, value: String, reason| Err(ModelError::Config { key, value, reason });
    let (tokens, vocab_size) = (tokenizer.vocab_size(), sizes.vocab_size);
    if vocab_size < tokens {
        return refuse("vocab_size", vocab_size.to_string(), format!("the tokenizer has {tokens} tokens"));
    }
    // A small tokenizer beside a rounded-up vocabulary is no mistake.
    if vocab_size > 2 * tokens.max(500) {
        tracing::warn!("the tokenizer has {tokens} tokens, the model {vocab_size}: do they belong together?");
    }
    match tokenizer.end_of_text_id() {
        // The model would never write the token at which an answer ends.
        Some(end) if end != sizes.end_token => {
            refuse("end_token", sizes.end_token.to_string(), format!("texts end with token {end} of the tokenizer"))
        }
        _ => Ok(()),
    }
}
