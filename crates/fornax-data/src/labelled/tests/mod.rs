mod batches;
mod own_tables;
mod places;
mod tasks;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn_dataset::Dataset;

use super::*;
use crate::dataset::{Patience, Places};
use crate::loader::BatchSource;
use crate::store::tests::memory;
use crate::{DataError, IGNORE_TARGET, StepSize, Tokenizer, TokenizerConfig, TokenizerKind};

fn folder_with(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    folder
}

/// The places of a machine on which nothing was downloaded and nothing can be.
fn nowhere(folder: &Path) -> Places {
    Places { folder: Some(folder.into()), patience: Patience::none(), ..Places::default() }
}

fn open_task(task: GlueTask, files: &[(&str, &str)]) -> LabelledSplits {
    let folder = folder_with(files);
    let config = LabelledConfig { task: Some(task), ..LabelledConfig::default() };
    config.open_in(nowhere(folder.path())).unwrap()
}

/// The config's text with `DIR` for the folder; the error's text without it.
fn open_own(files: &[(&str, &str)], config: &str) -> Result<LabelledSplits, String> {
    let folder = folder_with(files);
    let dir = folder.path().display().to_string();
    let config: LabelledConfig = toml::from_str(&config.replace("DIR", &dir)).unwrap();
    config.open_in(Places::default()).map_err(|error| {
        error.to_string().replace(&format!("{dir}{}", std::path::MAIN_SEPARATOR), "").replace(&dir, "DIR")
    })
}

/// The error of a task whose file `name` has `content`.
fn task_error(task: GlueTask, name: &str, content: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    for set in task.info().sets {
        std::fs::write(folder.path().join(set.file), VALID_SST2).unwrap();
    }
    std::fs::write(folder.path().join(name), content).unwrap();
    let config = LabelledConfig { task: Some(task), ..LabelledConfig::default() };
    let error = config.open_in(nowhere(folder.path())).unwrap_err().to_string();
    error.replace(&format!("{}{}", folder.path().display(), std::path::MAIN_SEPARATOR), "")
}

const VALID_SST2: &str = "sentence\tlabel\nfine\t1\n";

fn example(text: &str, pair: Option<&str>, label: Option<Label>, index: u64) -> LabelledExample {
    LabelledExample { text: text.into(), pair: pair.map(Into::into), label, index }
}

fn class(class: usize) -> Option<Label> {
    Some(Label::Class(class))
}
