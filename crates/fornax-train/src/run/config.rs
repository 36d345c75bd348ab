//! `config.toml` of a run folder, and what of it a resumed run may change.

use std::{collections::BTreeMap, fs, path::Path};

use serde::{Serialize, de::DeserializeOwned};
use toml::{Table, Value};

use crate::{
    TrainError,
    files::{self, FORMAT_VERSION},
};

/// The keys that `--resume` accepts with other values: they decide how far the run goes, when it writes and in how
/// much memory it computes, not what.
pub(crate) const CHANGEABLE: [&str; 7] = [
    "train.max_steps",
    "train.max_epochs",
    "train.log_every",
    "train.eval_every",
    "train.checkpoint_blocks",
    "checkpoint.save_every",
    "checkpoint.keep_last",
];

const CONFIG: &str = "config.toml";
const VERSION_KEY: &str = "format_version";

/// The config that the run in `run_dir` was made with, without its `format_version`.
///
/// # Errors
///
/// When the file is missing, damaged or of a newer format.
pub fn open_config(run_dir: &Path) -> Result<Table, TrainError> {
    let path = run_dir.join(CONFIG);
    let text = fs::read_to_string(&path).map_err(files::io_error("read", &path))?;
    let mut table: Table = text
        .parse()
        .map_err(|error: toml::de::Error| TrainError::Damaged { path: path.clone(), problem: error.to_string() })?;
    let version = table.remove(VERSION_KEY).and_then(|version| version.as_integer());
    files::check_version(&path, version.and_then(|version| u64::try_from(version).ok()))?;
    Ok(table)
}

/// Writes the resolved config of a run.
pub(super) fn write(run_dir: &Path, config: &Table) -> Result<(), TrainError> {
    let path = run_dir.join(CONFIG);
    let text = toml::to_string_pretty(config)
        .map_err(|error| TrainError::Damaged { path: path.clone(), problem: error.to_string() })?;
    files::write_atomic(&path, format!("{VERSION_KEY} = {FORMAT_VERSION}\n{text}").as_bytes())
}

/// Whether `run_dir` holds the config of a run.
pub(super) fn exists(run_dir: &Path) -> bool {
    run_dir.join(CONFIG).exists()
}

/// A config as the table that is stored.
pub(super) fn to_table(config: &impl Serialize) -> Result<Table, TrainError> {
    Table::try_from(config).map_err(|error| TrainError::Config { key: "config".to_owned(), problem: error.to_string() })
}

/// A table of the config, such as `[train]`; its defaults where the recipe has none.
pub(super) fn section<T: DeserializeOwned>(config: &Table, name: &str) -> Result<T, TrainError> {
    let section = config.get(name).cloned().unwrap_or_else(|| Value::Table(Table::new()));
    section.try_into().map_err(|error: toml::de::Error| TrainError::Config {
        key: name.to_owned(),
        problem: error.message().to_owned(),
    })
}

/// Refuses a config that differs from the stored one in more than the changeable keys, naming all of them.
pub(super) fn check_unchanged(run_dir: &Path, stored: &Table, given: &Table) -> Result<(), TrainError> {
    let (stored, given) = (fixed_keys(stored), fixed_keys(given));
    let text = |value: Option<&Value>| value.map_or_else(|| "not set".to_owned(), ToString::to_string);
    let mut keys: Vec<_> = stored.keys().chain(given.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    let changes: Vec<_> = keys
        .into_iter()
        .filter(|key| stored.get(*key) != given.get(*key))
        .map(|key| format!("`{key}` was {}, now {}", text(stored.get(key)), text(given.get(key))))
        .collect();
    if changes.is_empty() {
        return Ok(());
    }
    Err(TrainError::ConfigChanged { dir: run_dir.to_owned(), changes: changes.join("; ") })
}

/// Identifies what a run computes.
pub(super) fn hash(config: &Table) -> String {
    let lines: Vec<_> = fixed_keys(config).iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
    files::sha256(lines.concat().as_bytes())
}

/// Dotted keys and values, without the changeable ones.
fn fixed_keys(config: &Table) -> BTreeMap<String, Value> {
    let mut keys = BTreeMap::new();
    flatten("", config, &mut keys);
    keys.retain(|key, _| !CHANGEABLE.contains(&key.as_str()));
    keys
}

fn flatten(prefix: &str, table: &Table, into: &mut BTreeMap<String, Value>) {
    for (key, value) in table {
        let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match value {
            Value::Table(table) => flatten(&key, table, into),
            value => {
                into.insert(key, value.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"
        [model]
        hidden_size = 64
        dropout = 0.1
        [train]
        max_steps = 100
        seed = 1
        [checkpoint]
        save_every = 10
    "#;

    fn changed(from: &str, to: &str) -> Result<(), String> {
        let given = CONFIG.replace(from, to).parse().unwrap();
        check_unchanged(Path::new("runs/a"), &CONFIG.parse().unwrap(), &given).map_err(|error| error.to_string())
    }

    #[test]
    fn every_changed_key_is_listed_with_both_values() {
        let message = changed("seed = 1", "seed = 2\nmicro_batch_size = 8").unwrap_err();
        assert!(
            message.contains("`train.micro_batch_size` was not set, now 8; `train.seed` was 1, now 2;"),
            "{message}"
        );
        let message = changed("dropout = 0.1", "").unwrap_err();
        assert!(message.contains("`model.dropout` was 0.1, now not set"), "{message}");
    }

    #[test]
    fn length_and_cadences_may_change() {
        assert_eq!(changed("max_steps = 100", "max_steps = 200\nlog_every = 1\neval_every = 5"), Ok(()));
        assert_eq!(changed("save_every = 10", "save_every = 20\nkeep_last = 9"), Ok(()));
        let longer = CONFIG.replace("100", "200").parse().unwrap();
        assert_eq!(hash(&longer), hash(&CONFIG.parse().unwrap()));
    }

    #[test]
    fn the_file_comes_back_without_its_version_and_a_newer_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut config: Table = CONFIG.parse().unwrap();
        config.insert("name".to_owned(), "a".into());
        write(dir.path(), &config).unwrap();
        assert_eq!(open_config(dir.path()).unwrap(), config);
        let path = dir.path().join("config.toml");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("format_version = 1\n"));
        fs::write(&path, text.replace("format_version = 1", "format_version = 2")).unwrap();
        assert!(matches!(open_config(dir.path()), Err(TrainError::NewerFormat { found: 2, .. })));
    }
}
