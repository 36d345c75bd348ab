use std::{path::Path, process::Command};

use fornax_backend::{OpenDevice, Precision};
use serde::{Deserialize, Serialize};

use crate::{
    TrainError,
    files::{self, FORMAT_VERSION},
};

/// The version of Burn that this crate is built with; a test compares it with the lock file.
const BURN_VERSION: &str = "0.22.1";

/// What a recipe knows of a run and a run can't find out by itself.
#[derive(Clone, Debug, Default)]
pub struct RunInfo {
    /// The recipe's name.
    pub recipe: String,
    /// The device in use, as `--device` names it, e.g. `vulkan:0`.
    pub device: String,
    /// Adapter and driver, where there are any.
    pub driver: Option<String>,
    /// The compute type of matrix products.
    pub precision: String,
    /// What identifies the training data.
    pub data_hash: Option<String>,
    /// What identifies the tokenizer.
    pub tokenizer_hash: Option<String>,
    /// The bytes of `tokenizer.json`.
    pub tokenizer: Option<Vec<u8>>,
    /// Steps of one pass over the training data; needed by `max_epochs` and by the cadence "each epoch".
    pub steps_per_epoch: Option<u64>,
}

impl RunInfo {
    /// What is known before there are data.
    pub fn new(recipe: &str, device: &OpenDevice, precision: Precision) -> Self {
        Self {
            recipe: recipe.to_owned(),
            device: device.spec.to_string(),
            driver: Some(format!("{} {}", device.name, device.driver).trim().to_owned()),
            precision: precision.to_string(),
            data_hash: None,
            tokenizer_hash: None,
            tokenizer: None,
            steps_per_epoch: None,
        }
    }
}

/// `environment.json`: with what a run was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Environment {
    format_version: u64,
    #[serde(flatten)]
    first: Session,
    /// One entry for each time the run was resumed.
    resumed: Vec<Session>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Session {
    started: String,
    from_step: u64,
    fornax: String,
    burn: String,
    recipe: String,
    os: String,
    arch: String,
    cpus: usize,
    device: String,
    driver: Option<String>,
    precision: String,
    git_commit: Option<String>,
    data_hash: Option<String>,
    tokenizer_hash: Option<String>,
}

impl Environment {
    /// Writes `environment.json`; a resumed run adds to the one it finds. A damaged one is begun anew: nothing depends
    /// on it.
    pub(crate) fn record(run_dir: &Path, info: &RunInfo, from_step: u64, resumed: bool) -> Result<(), TrainError> {
        let path = run_dir.join("environment.json");
        let session = Session::now(info, from_step);
        let found = if resumed && path.exists() { Self::read(&path)? } else { None };
        let environment = match found {
            Some(mut environment) => {
                environment.resumed.push(session);
                environment
            }
            None => Self { format_version: FORMAT_VERSION, first: session, resumed: Vec::new() },
        };
        files::write_json(&path, &environment)
    }

    fn read(path: &Path) -> Result<Option<Self>, TrainError> {
        match files::read_json(path) {
            Ok(environment) => Ok(Some(environment)),
            Err(error @ TrainError::NewerFormat { .. }) => Err(error),
            Err(error) => {
                tracing::warn!("{}; it is begun anew", error.chain());
                Ok(None)
            }
        }
    }
}

impl Session {
    fn now(info: &RunInfo, from_step: u64) -> Self {
        Self {
            started: jiff::Timestamp::now().to_string(),
            from_step,
            fornax: env!("CARGO_PKG_VERSION").to_owned(),
            burn: BURN_VERSION.to_owned(),
            recipe: info.recipe.clone(),
            os: std::env::consts::OS.to_owned(),
            arch: std::env::consts::ARCH.to_owned(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            device: info.device.clone(),
            driver: info.driver.clone(),
            precision: info.precision.clone(),
            git_commit: git_commit(),
            data_hash: info.data_hash.clone(),
            tokenizer_hash: info.tokenizer_hash.clone(),
        }
    }
}

/// The commit of the working directory, with `-dirty` if it was changed since; `None` outside a repository.
fn git_commit() -> Option<String> {
    let output = Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]).output();
    let output = output.ok().filter(|output| output.status.success())?;
    let commit = String::from_utf8(output.stdout).ok()?;
    Some(commit.trim().to_owned()).filter(|commit| !commit.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recorded_version_of_burn_is_the_locked_one() {
        let lock = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.lock")).unwrap();
        let lock: toml::Table = lock.parse().unwrap();
        let packages = lock["package"].as_array().unwrap();
        let burn = packages.iter().find(|package| package["name"].as_str() == Some("burn")).unwrap();
        assert_eq!(burn["version"].as_str(), Some(BURN_VERSION));
    }

    #[test]
    fn each_session_is_recorded() {
        let dir = tempfile::tempdir().unwrap();
        let info = RunInfo { recipe: "toy".into(), device: "flex".into(), ..RunInfo::default() };
        Environment::record(dir.path(), &info, 0, false).unwrap();
        Environment::record(dir.path(), &RunInfo { device: "vulkan:0".into(), ..info }, 500, true).unwrap();
        let value: serde_json::Value = files::read_json(&dir.path().join("environment.json")).unwrap();
        assert_eq!((&value["device"], &value["from_step"]), (&"flex".into(), &0.into()));
        assert_eq!(
            (&value["resumed"][0]["device"], &value["resumed"][0]["from_step"]),
            (&"vulkan:0".into(), &500.into())
        );
    }

    #[test]
    fn a_damaged_file_is_begun_anew_and_a_newer_one_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("environment.json");
        for damaged in ["", "{\"format_version\": 1}", "{}", "[]"] {
            std::fs::write(&path, damaged).unwrap();
            Environment::record(dir.path(), &RunInfo::default(), 500, true).unwrap();
            let found = Environment::read(&path).unwrap().unwrap();
            assert_eq!((found.first.from_step, found.resumed.len()), (500, 0));
        }
        std::fs::write(&path, "{\"format_version\": 2}").unwrap();
        let newer = Environment::record(dir.path(), &RunInfo::default(), 500, true);
        assert!(matches!(newer, Err(TrainError::NewerFormat { .. })));
    }
}
