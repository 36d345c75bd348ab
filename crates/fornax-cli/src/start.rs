use std::path::{Path, PathBuf};

use anyhow::Context;
use fornax_train::{Options, open_config};
use serde::{Serialize, de::DeserializeOwned};
use toml::Table;

use crate::model_folder;

/// A `[model]` table that may name a checkpoint to start from.
pub trait ModelTable: Clone + Serialize + DeserializeOwned {
    /// The folder of the checkpoint: the key `from`.
    fn checkpoint_folder(&self) -> Option<&Path>;

    /// This table with the sizes of `checkpoint`; `from`, and what belongs to a training rather than to a model, stay.
    #[must_use]
    fn with_sizes_of(&self, checkpoint: Self) -> Self;
}

/// What a run starts from.
#[derive(Clone, Debug)]
pub struct Start<T> {
    /// `[model]` with the sizes that the model has.
    pub model: T,
    /// The folder whose tokenizer goes with the checkpoint, for a config that names none.
    pub tokenizer: Option<PathBuf>,
}

impl<T> Start<T> {
    /// `tokenizer.from` for opening the data: what the config names, else the tokenizer that goes with the checkpoint.
    pub fn tokenizer_from(&self, named: Option<String>) -> Option<String> {
        named.or_else(|| self.tokenizer.as_ref().map(|folder| folder.display().to_string()))
    }
}

/// Fills `[model]` with the sizes of the checkpoint that it names, which `open_sizes` reads from a Hugging Face folder. A log line
/// names what was replaced.
///
/// A run that is resumed finds sizes and tokenizer in its own folder, so the checkpoint may be gone.
///
/// # Errors
///
/// What `open_sizes` fails with, under the key `model.from`.
pub fn resolve_model<T: ModelTable, E: Into<anyhow::Error>>(
    given: &T,
    options: &Options,
    open_sizes: impl FnOnce(&Path) -> Result<T, E>,
) -> anyhow::Result<Start<T>> {
    let Some(from) = given.checkpoint_folder() else { return Ok(Start { model: given.clone(), tokenizer: None }) };
    let folder = model_folder(from);
    let run_dir = options.run_dir.as_deref().filter(|_| options.resume);
    let stored = run_dir.and_then(stored_model::<T>).filter(|stored| stored.checkpoint_folder() == Some(from));
    let own = run_dir.filter(|dir| stored.is_some() && dir.join("tokenizer.json").is_file());
    let tokenizer = Some(own.map_or_else(|| folder.clone(), Path::to_owned));
    let sizes = match stored {
        Some(stored) => stored,
        None => open_sizes(&folder).map_err(Into::into).context("model.from")?,
    };
    let model = given.with_sizes_of(sizes);
    let replaced = replaced(given, &model)?;
    if !replaced.is_empty() {
        tracing::info!("model.from = {}: {}", from.display(), replaced.join(", "));
    }
    Ok(Start { model, tokenizer })
}

/// A model with the weights of its first step: those that `load` reads from the checkpoint that `[model]` names, else those that `init`
/// makes. A run that has a checkpoint of its own needs no other, since its own will replace them.
///
/// # Errors
///
/// What `load`, under the key `model.from`, and `init` fail with, or when the run's checkpoints can't be listed.
pub fn first_weights<M, E: Into<anyhow::Error>>(
    model: &impl ModelTable,
    options: &Options,
    load: impl FnOnce(&Path) -> Result<M, E>,
    init: impl FnOnce() -> Result<M, E>,
) -> anyhow::Result<M> {
    match model.checkpoint_folder() {
        Some(from) if !options.has_checkpoint()? => {
            let key = match options.resume {
                true => "without a checkpoint of its own the run begins with model.from",
                false => "model.from",
            };
            load(&model_folder(from)).map_err(Into::into).context(key)
        }
        _ => init().map_err(Into::into),
    }
}

/// `[model]` of the run in a folder.
fn stored_model<T: DeserializeOwned>(run_dir: &Path) -> Option<T> {
    open_config(run_dir).ok()?.remove("model")?.try_into().ok()
}

/// The keys that have another value now, each with both.
fn replaced<T: Serialize>(given: &T, resolved: &T) -> anyhow::Result<Vec<String>> {
    let (given, resolved) = (Table::try_from(given)?, Table::try_from(resolved)?);
    let changed = given.iter().filter(|(key, value)| resolved.get(*key) != Some(*value));
    let text = |key: &str| resolved.get(key).map_or_else(|| "unset".to_owned(), ToString::to_string);
    Ok(changed.map(|(key, value)| format!("model.{key} is {}, not {value}", text(key))).collect())
}

#[cfg(test)]
mod tests {
    use anyhow::bail;
    use fornax_train::Checkpoints;
    use serde::Deserialize;

    use super::*;

    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default)]
    struct Model {
        #[serde(skip_serializing_if = "Option::is_none")]
        from: Option<PathBuf>,
        hidden_size: usize,
        dropout: f64,
    }

    impl ModelTable for Model {
        fn checkpoint_folder(&self) -> Option<&Path> {
            self.from.as_deref()
        }

        fn with_sizes_of(&self, checkpoint: Self) -> Self {
            Self { hidden_size: checkpoint.hidden_size, ..self.clone() }
        }
    }

    fn given() -> Model {
        Model { from: Some("folder".into()), hidden_size: 64, dropout: 0.05 }
    }

    fn twelve_wide(_: &Path) -> anyhow::Result<Model> {
        Ok(Model { hidden_size: 12, dropout: 0.3, from: None })
    }

    fn unreadable(_: &Path) -> anyhow::Result<Model> {
        bail!("no such folder")
    }

    #[test]
    fn sizes_come_from_the_checkpoint_and_the_rest_from_the_config() {
        let start = resolve_model(&given(), &Options::default(), twelve_wide).unwrap();
        assert_eq!(start.model, Model { hidden_size: 12, ..given() });
        assert_eq!(start.tokenizer, Some(PathBuf::from("folder")));
        assert_eq!(replaced(&given(), &start.model).unwrap(), ["model.hidden_size is 12, not 64"]);
        // A table that was resolved before stays as it is.
        assert_eq!(resolve_model(&start.model, &Options::default(), twelve_wide).unwrap().model, start.model);
        // Without `from` no checkpoint is opened.
        let new = Model { from: None, ..given() };
        let start = resolve_model(&new, &Options::default(), unreadable).unwrap();
        assert_eq!((start.model, start.tokenizer), (new, None));
        let error = format!("{:#}", resolve_model(&given(), &Options::default(), unreadable).unwrap_err());
        assert_eq!(error, "model.from: no such folder");
    }

    #[test]
    fn a_resumed_run_needs_its_own_folder_alone() {
        let run = tempfile::tempdir().unwrap();
        let options = Options { run_dir: Some(run.path().to_owned()), resume: true, ..Options::default() };
        let stored = Model { hidden_size: 12, ..given() };
        let text =
            toml::to_string(&toml::Table::from_iter([("model".to_owned(), toml::Value::try_from(&stored).unwrap())]));
        std::fs::write(run.path().join("config.toml"), format!("format_version = 1\n{}", text.unwrap())).unwrap();
        let start = resolve_model(&given(), &options, unreadable).unwrap();
        assert_eq!((start.model, start.tokenizer), (stored.clone(), Some(PathBuf::from("folder"))));
        std::fs::write(run.path().join("tokenizer.json"), "{}").unwrap();
        let start = resolve_model(&given(), &options, unreadable).unwrap();
        assert_eq!((start.model, start.tokenizer), (stored, Some(run.path().to_owned())));
        // Another checkpoint than the run began with is looked for.
        let other = Model { from: Some("nowhere".into()), ..given() };
        assert!(resolve_model(&other, &options, unreadable).is_err());
    }

    #[test]
    fn the_first_weights_are_those_of_the_folder_unless_the_run_has_its_own() {
        let run = tempfile::tempdir().unwrap();
        let resumed = Options { run_dir: Some(run.path().to_owned()), resume: true, ..Options::default() };
        let with = |model: &Model, options, load: fn(&Path) -> anyhow::Result<Model>| {
            first_weights(model, options, load, || Ok(Model::default())).map_err(|error| format!("{error:#}"))
        };
        let new = Options::default();
        assert_eq!(with(&given(), &new, twelve_wide).unwrap().hidden_size, 12);
        assert_eq!(with(&Model::default(), &new, twelve_wide), Ok(Model::default()));
        assert_eq!(with(&given(), &new, unreadable).unwrap_err(), "model.from: no such folder");
        let error = "without a checkpoint of its own the run begins with model.from: no such folder";
        assert_eq!(with(&given(), &resumed, unreadable).unwrap_err(), error);
        std::fs::create_dir_all(Checkpoints::of_run(run.path()).path(5)).unwrap();
        assert_eq!(with(&given(), &resumed, unreadable), Ok(Model::default()));
    }
}
