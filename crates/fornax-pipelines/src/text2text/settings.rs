use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use fornax_models::{ModelError, generate::EarlyStopping, hf::CONFIG};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::Text2TextOptions;
use crate::PipelineError;

/// What `transformers` 4 reads before its text-to-text pipelines; an absent file says nothing.
const GENERATION_CONFIG: &str = "generation_config.json";

/// How many of the likeliest tokens `transformers` draws among where a file asks for draws and says nothing of it.
const DEFAULT_TOP_K: usize = 50;

/// What the files of a folder say of generation.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    /// Of messages.
    path: PathBuf,
    all: TaskSettings,
    /// With what all tasks have.
    tasks: BTreeMap<String, TaskSettings>,
}

/// The keys that are read, by their names in `transformers`; others are about what is not here.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct TaskSettings {
    prefix: Option<String>,
    /// With the start token.
    max_length: Option<usize>,
    max_new_tokens: Option<usize>,
    /// With the start token.
    min_length: Option<usize>,
    min_new_tokens: Option<usize>,
    num_beams: Option<usize>,
    num_return_sequences: Option<usize>,
    length_penalty: Option<f64>,
    early_stopping: Option<Early>,
    /// 0: any may stand twice.
    no_repeat_ngram_size: Option<usize>,
    repetition_penalty: Option<f64>,
    do_sample: Option<bool>,
    temperature: Option<f64>,
    /// 0: all tokens.
    top_k: Option<usize>,
    top_p: Option<f64>,
    decoder_start_token_id: Option<u32>,
    eos_token_id: Option<Tokens>,
    forced_bos_token_id: Option<u32>,
    forced_eos_token_id: Option<u32>,
}

/// `true`, `false` or `"never"`.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Early {
    Flag(bool),
    Name(Never),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Never {
    Never,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Tokens {
    One(u32),
    Several(Vec<u32>),
}

impl Settings {
    pub(super) fn open(folder: &Path) -> Result<Self, PipelineError> {
        let path = folder.join(CONFIG);
        let model = read(&path)?;
        let generation = folder.join(GENERATION_CONFIG);
        let mut all = if generation.is_file() { read(&generation)? } else { model.clone() };
        if let Some(prefix) = model.get("prefix") {
            all.insert("prefix".into(), prefix.clone());
        }
        // A key without a value is one that isn't there.
        all.retain(|_, value| !value.is_null());
        let parse = |keys: Map<String, Value>, path: &Path| -> Result<TaskSettings, PipelineError> {
            Ok(TaskSettings::deserialize(Value::Object(keys)).map_err(json(path))?)
        };
        // First, so that a bad key is laid to the file that it is in.
        let origin = if generation.is_file() { &generation } else { &path };
        let of_all = parse(all.clone(), origin)?;
        let mut tasks = BTreeMap::new();
        if let Some(found) = model.get("task_specific_params").filter(|found| !found.is_null()) {
            let found = BTreeMap::<String, Map<String, Value>>::deserialize(found).map_err(json(&path))?;
            for (task, keys) in found {
                let keys = all.clone().into_iter().chain(keys).collect();
                tasks.insert(task, parse(keys, &path)?);
            }
        }
        Ok(Self { all: of_all, tasks, path })
    }

    pub(super) fn tasks(&self) -> impl Iterator<Item = &str> {
        self.tasks.keys().map(String::as_str)
    }

    /// Of a task, or of all.
    pub(super) fn of(&self, task: Option<&str>) -> Result<&TaskSettings, PipelineError> {
        let Some(task) = task else { return Ok(&self.all) };
        self.tasks.get(task).ok_or_else(|| PipelineError::UnknownTask {
            path: self.path.clone(),
            task: task.to_owned(),
            known: self.tasks.keys().cloned().collect(),
        })
    }
}

impl TaskSettings {
    /// Lays what is said over the options.
    pub(super) fn apply(&self, options: &mut Text2TextOptions) {
        set(&mut options.prefix, self.prefix.clone());
        let decoding = &mut options.decoding;
        let after_start = |len: Option<usize>| len.map(|len| len.saturating_sub(1));
        set(&mut decoding.max_new_tokens, self.max_new_tokens.or(after_start(self.max_length)));
        set(&mut decoding.min_new_tokens, self.min_new_tokens.or(after_start(self.min_length)));
        set(&mut decoding.num_beams, self.num_beams);
        set(&mut decoding.num_return, self.num_return_sequences);
        set(&mut decoding.length_penalty, self.length_penalty);
        set(&mut decoding.repetition_penalty, self.repetition_penalty);
        decoding.no_repeat_ngram_size = self.no_repeat_ngram_size.filter(|size| *size > 0);
        set(&mut decoding.early_stopping, self.early_stopping.as_ref().map(Early::meaning));
        set(&mut decoding.start_token, self.decoder_start_token_id);
        set(&mut decoding.stop_tokens, self.eos_token_id.as_ref().map(Tokens::list));
        decoding.forced_first_token = self.forced_bos_token_id;
        decoding.forced_last_token = self.forced_eos_token_id;
        // Without `do_sample`, what shapes the draws does nothing.
        if self.do_sample == Some(true) {
            decoding.temperature = self.temperature.unwrap_or(1.0);
            decoding.top_k = Some(self.top_k.unwrap_or(DEFAULT_TOP_K)).filter(|k| *k > 0);
            set(&mut decoding.top_p, self.top_p);
        }
    }
}

impl Early {
    fn meaning(&self) -> EarlyStopping {
        match self {
            Self::Flag(true) => EarlyStopping::FirstFinished,
            Self::Flag(false) => EarlyStopping::Heuristic,
            Self::Name(Never::Never) => EarlyStopping::Never,
        }
    }
}

impl Tokens {
    fn list(&self) -> Vec<u32> {
        match self {
            Self::One(token) => vec![*token],
            Self::Several(tokens) => tokens.clone(),
        }
    }
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

fn read(path: &Path) -> Result<Map<String, Value>, ModelError> {
    let text = std::fs::read(path).map_err(|source| ModelError::Io { path: path.to_owned(), source })?;
    serde_json::from_slice(&text).map_err(json(path))
}

fn json(path: &Path) -> impl Fn(serde_json::Error) -> ModelError {
    move |source| ModelError::Json { path: path.to_owned(), source }
}
