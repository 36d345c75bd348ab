use anyhow::Result;
use burn::tensor::Device;
use fornax_cli::{Start, first_weights, model_folder, resolve_model};
use fornax_data::TokenizerConfig;
use fornax_models::{ModelError, TieEmbeddings, Transformer, TransformerConfig, hf};
use fornax_train::Options;

use crate::{Config, Data, ModelConfig, SOURCE_TOKENIZER};

/// The config of a run, whose sizes are those of the model that `model.from` names, and the config to open its data with, which
/// also names the tokenizers that go with it.
pub(crate) fn resolve(config: &Config, options: &Options) -> Result<(Config, Config)> {
    let start = resolve_model(&config.model, options, |folder| {
        Ok::<_, ModelError>(ModelConfig::of(&hf::open_transformer_config(folder)?))
    })?;
    let config = Config { model: start.model.clone(), ..config.clone() };
    let mut opening = config.clone();
    if config.model.from.is_some() {
        opening.source_tokenizer = source_tokenizer(&config, &start);
        opening.tokenizer.from = start.tokenizer_from(opening.tokenizer.from);
    }
    if opening.source_tokenizer.is_some() && config.model.tie_embeddings == TieEmbeddings::All {
        let reason =
            "one table for all needs one vocabulary; leave [source_tokenizer] out, or take \"decoder\" or \"none\"";
        let (key, value) = ("tie_embeddings", "\"all\"".to_owned());
        return Err(ModelError::Config { key, value, reason: reason.to_owned() }.into());
    }
    Ok((config, opening))
}

/// `[source_tokenizer]` beside a model to start from: what the config names, else what lies in the model's folder.
fn source_tokenizer(config: &Config, start: &Start<ModelConfig>) -> Option<TokenizerConfig> {
    if let Some(named) = config.source_tokenizer.as_ref().filter(|tokenizer| tokenizer.from.is_some()) {
        return Some(named.clone());
    }
    // A run that was killed before its first step may lack what its model's folder has.
    let folders = start.tokenizer.iter().cloned().chain(config.model.from.as_deref().map(model_folder));
    let file = folders.map(|folder| folder.join(SOURCE_TOKENIZER)).find(|file| file.is_file())?;
    Some(TokenizerConfig { from: Some(file.display().to_string()), ..TokenizerConfig::default() })
}

/// A model as the resolved `config` says, with its first weights.
pub(crate) fn init_model(config: &Config, options: &Options, data: &Data, device: &Device) -> Result<Transformer> {
    let (source, target) = (data.tokenizers.source.vocab_size(), data.tokenizers.target.vocab_size());
    let max_len = config.data.max_source_len.max(config.data.max_target_len);
    let sizes = config.model.transformer(source, target, max_len, data.tokenizers.fill.pad_id as u32);
    check(&sizes, config, [source, target])?;
    first_weights(
        &config.model,
        options,
        |folder| hf::load_transformer(folder, device)?.0.with_dropout(sizes.dropout),
        || sizes.init(config.train.seed, device),
    )
}

fn check(sizes: &TransformerConfig, config: &Config, [source, target]: [usize; 2]) -> Result<(), ModelError> {
    sizes.validate()?;
    let tokens = |side: &str, tokens: usize| format!("the tokenizer of the {side}s has {tokens} tokens");
    for (key, value, least, reason) in [
        ("source_vocab_size", sizes.source_vocab_size, source, tokens("source", source)),
        ("target_vocab_size", sizes.target_vocab_size, target, tokens("target", target)),
        ("max_positions", sizes.max_positions, config.data.max_source_len, "data.max_source_len".to_owned()),
        ("max_positions", sizes.max_positions, config.data.max_target_len, "data.max_target_len".to_owned()),
    ] {
        if value < least {
            let reason = if key == "max_positions" { format!("{reason} is {least}") } else { reason };
            return Err(ModelError::Config { key, value: value.to_string(), reason });
        }
    }
    Ok(())
}
