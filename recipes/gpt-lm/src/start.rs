use anyhow::Result;
use burn::tensor::Device;
use fornax_cli::{first_weights, resolve_model};
use fornax_data::Tokenizer;
use fornax_models::{Gpt2, ModelError, hf};
use fornax_train::Options;

use crate::{Config, ModelConfig};

/// The config of a run, whose sizes are those of the checkpoint that `model.from` names, and the config to open its data with,
/// which also names the tokenizer that goes with it.
pub(crate) fn resolve(config: &Config, options: &Options) -> Result<(Config, Config)> {
    let start = resolve_model(&config.model, options, |folder| {
        Ok::<_, ModelError>(ModelConfig::of(&hf::open_gpt2_config(folder)?))
    })?;
    let config = Config { model: start.model.clone(), ..config.clone() };
    let mut opening = config.clone();
    opening.tokenizer.from = start.tokenizer_from(opening.tokenizer.from);
    Ok((config, opening))
}

/// A model as the resolved `config` says, with its first weights.
pub(crate) fn init_model(config: &Config, options: &Options, tokenizer: &Tokenizer, device: &Device) -> Result<Gpt2> {
    let sizes = config.model.gpt2(tokenizer.vocab_size(), config.objective.seq_len);
    sizes.validate()?;
    let refuse = |key, value: usize, reason| Err(ModelError::Config { key, value: value.to_string(), reason }.into());
    if sizes.vocab_size < tokenizer.vocab_size() {
        let reason = format!("the tokenizer has {} tokens", tokenizer.vocab_size());
        return refuse("vocab_size", sizes.vocab_size, reason);
    }
    if sizes.max_positions < config.objective.seq_len {
        let reason = format!("objective.seq_len is {}", config.objective.seq_len);
        return refuse("max_positions", sizes.max_positions, reason);
    }
    first_weights(
        &config.model,
        options,
        |folder| hf::load_gpt2(folder, device)?.0.with_dropout(sizes.dropout),
        || sizes.init(config.train.seed, device),
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use fornax_backend::test_device;
    use fornax_models::Gpt2Config;
    use toml::Table;

    use super::*;

    /// A model of 8 positions in a folder, without a tokenizer.
    fn checkpoint() -> (tempfile::TempDir, Gpt2Config) {
        let folder = tempfile::tempdir().unwrap();
        let sizes = Gpt2Config {
            vocab_size: 300,
            max_positions: 8,
            hidden_size: 12,
            num_layers: 1,
            num_heads: 2,
            dropout: 0.3,
            ..Gpt2Config::default()
        };
        hf::save_gpt2(&sizes.init(1, &test_device()).unwrap(), folder.path(), None).unwrap();
        (folder, sizes)
    }

    fn config(from: &Path) -> Config {
        let mut config = Config::default();
        config.model.from = Some(from.to_owned());
        config.model.hidden_size = 64;
        config.model.dropout = 0.05;
        config.tokenizer.kind = fornax_data::TokenizerKind::Byte;
        config.objective.seq_len = 8;
        config
    }

    fn options(run_dir: Option<&Path>) -> Options {
        Options { run_dir: run_dir.map(Path::to_owned), resume: run_dir.is_some(), ..Options::default() }
    }

    fn bytes() -> Tokenizer {
        let folder = tempfile::tempdir().unwrap();
        let config = fornax_data::TokenizerConfig { kind: fornax_data::TokenizerKind::Byte, ..Default::default() };
        let text = folder.path().join("text.txt");
        std::fs::write(&text, "a text").unwrap();
        let data = fornax_data::DataConfig { files: Some(vec![text]), ..Default::default() };
        let splits = data.open().unwrap();
        Tokenizer::prepare(&config, splits.train.as_ref(), folder.path()).unwrap()
    }

    #[test]
    fn sizes_come_from_the_checkpoint_and_dropout_from_the_config() {
        let (folder, sizes) = checkpoint();
        let (resolved, opening) = resolve(&config(folder.path()), &options(None)).unwrap();
        let expected = Gpt2Config { dropout: 0.05, ..sizes };
        assert_eq!(resolved.model.gpt2(1, 1), expected);
        assert_eq!(opening.tokenizer.from, Some(folder.path().display().to_string()));
        assert_eq!(resolved.tokenizer.from, None);
        let model = init_model(&resolved, &options(None), &bytes(), &test_device()).unwrap();
        assert_eq!(model.config(), expected);
        // A config that was resolved before stays as it is.
        let (again, _) = resolve(&resolved, &options(None)).unwrap();
        assert_eq!(Table::try_from(&again).unwrap(), Table::try_from(&resolved).unwrap());
    }

    #[test]
    fn a_dropout_that_is_none_is_refused() {
        let (folder, _) = checkpoint();
        let mut config = config(folder.path());
        config.model.dropout = 1.5;
        let (resolved, _) = resolve(&config, &options(None)).unwrap();
        let error = init_model(&resolved, &options(None), &bytes(), &test_device()).unwrap_err();
        assert!(error.to_string().starts_with("model.dropout = 1.5"), "{error}");
    }

    #[test]
    fn a_resumed_run_needs_its_own_folder_alone() {
        let (folder, _) = checkpoint();
        let given = config(folder.path());
        let (resolved, _) = resolve(&given, &options(None)).unwrap();
        let run = tempfile::tempdir().unwrap();
        let text = toml::to_string(&resolved).unwrap();
        std::fs::write(run.path().join("config.toml"), format!("format_version = 1\n{text}")).unwrap();
        std::fs::write(run.path().join("tokenizer.json"), "{}").unwrap();
        drop(folder);
        let (resumed, opening) = resolve(&given, &options(Some(run.path()))).unwrap();
        assert_eq!(Table::try_from(&resumed).unwrap(), Table::try_from(&resolved).unwrap());
        assert_eq!(opening.tokenizer.from, Some(run.path().display().to_string()));
        let start = |resumed: &Config| init_model(resumed, &options(Some(run.path())), &bytes(), &test_device());
        assert!(start(&resumed).is_err(), "without a checkpoint it begins anew, for which the weights are needed");
        std::fs::create_dir_all(run.path().join("checkpoints/step-000001")).unwrap();
        assert_eq!(start(&resumed).unwrap().config(), resolved.model.gpt2(1, 1));
    }
}
