use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::ModelError;

/// The name of the file in a checkpoint folder.
pub const CONFIG: &str = "config.json";

/// The `config.json` of a Hugging Face folder.
#[derive(Clone, Debug)]
pub struct ConfigFile {
    path: PathBuf,
    values: BTreeMap<String, Value>,
}

impl ConfigFile {
    /// Reads the file and checks that its `model_type` is among `supported`.
    ///
    /// # Errors
    ///
    /// When the folder has no such file, when it is not a JSON object, or when it is of another model.
    pub fn open(dir: &Path, supported: &[&str]) -> Result<Self, ModelError> {
        let path = dir.join(CONFIG);
        if dir.is_dir() && !path.exists() {
            return Err(ModelError::NotACheckpoint { dir: dir.to_owned(), lacks: CONFIG.to_owned() });
        }
        let text = std::fs::read(&path).map_err(ModelError::io(&path))?;
        let values = serde_json::from_slice(&text).map_err(ModelError::json(&path))?;
        let config = Self { path, values };
        let found: String = config.get("model_type", String::new())?;
        if supported.contains(&found.as_str()) {
            return Ok(config);
        }
        Err(ModelError::UnsupportedModel { path: config.path, found, supported: supported.join(", ") })
    }

    /// The value of a key, or `default` where the file lacks it (as `transformers` fills in its own defaults).
    ///
    /// # Errors
    ///
    /// When the value has another type.
    pub fn get<T: DeserializeOwned>(&self, key: &str, default: T) -> Result<T, ModelError> {
        let Some(value) = self.values.get(key) else { return Ok(default) };
        T::deserialize(value).map_err(|e| self.refuse(key, &format!("is {value}: {e}")))
    }

    /// Refuses a value that our model has no counterpart of.
    ///
    /// # Errors
    ///
    /// When the file has the key with another value than `wanted`.
    pub fn expect(&self, key: &str, wanted: impl Into<Value>) -> Result<(), ModelError> {
        let wanted = wanted.into();
        match self.values.get(key) {
            Some(found) if *found != wanted => {
                Err(self.refuse(key, &format!("is {found}, only {wanted} is supported")))
            }
            _ => Ok(()),
        }
    }

    /// The error for a value that can't be used.
    pub fn refuse(&self, key: &str, reason: &dyn std::fmt::Display) -> ModelError {
        ModelError::ConfigKey { path: self.path.clone(), key: key.to_owned(), reason: reason.to_string() }
    }
}
