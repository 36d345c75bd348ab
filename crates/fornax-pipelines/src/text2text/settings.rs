use std::{
    collections::BTreeMap,
    fmt::Display,
    io::Write,
    path::{Path, PathBuf},
};

use fornax_models::{
    ModelError,
    generate::{EarlyStopping, Seq2SeqOptions},
    hf::{CONFIG, write_beside},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

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
    /// Ours: added to `max_new_tokens` for each token of the source.
    #[serde(rename = "fornax_max_new_tokens_per_source_token")]
    max_new_tokens_per_source_token: Option<f64>,
}

/// Keys by which `transformers` chooses tokens otherwise than we can, each with the number that changes nothing.
const UNSUPPORTED: [(&str, f64); 22] = [
    ("assistant_early_exit", 0.0),
    ("bad_words_ids", 0.0),
    ("begin_suppress_tokens", 0.0),
    ("constraints", 0.0),
    ("diversity_penalty", 0.0),
    ("dola_layers", 0.0),
    ("encoder_no_repeat_ngram_size", 0.0),
    ("encoder_repetition_penalty", 1.0),
    ("epsilon_cutoff", 0.0),
    ("eta_cutoff", 0.0),
    ("exponential_decay_length_penalty", 0.0),
    ("force_words_ids", 0.0),
    ("guidance_scale", 1.0),
    ("min_p", 0.0),
    ("num_beam_groups", 1.0),
    ("penalty_alpha", 0.0),
    ("renormalize_logits", 0.0),
    ("sequence_bias", 0.0),
    ("stop_strings", 0.0),
    ("suppress_tokens", 0.0),
    ("typical_p", 1.0),
    ("watermarking_config", 0.0),
];

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
            Ok(TaskSettings::deserialize(Value::Object(keys)).map_err(json_error(path))?)
        };
        // First, so that a bad key is laid to the file that it is in.
        let origin = if generation.is_file() { &generation } else { &path };
        let of_all = parse(all.clone(), origin)?;
        let mut left_out = unsupported(&all, origin.display());
        let mut tasks = BTreeMap::new();
        if let Some(found) = model.get("task_specific_params").filter(|found| !found.is_null()) {
            let found = BTreeMap::<String, Map<String, Value>>::deserialize(found).map_err(json_error(&path))?;
            for (task, keys) in found {
                left_out.extend(unsupported(&keys, format_args!("{}: {task}", path.display())));
                let keys = all.clone().into_iter().chain(keys).collect();
                tasks.insert(task, parse(keys, &path)?);
            }
        }
        for said in left_out {
            tracing::warn!("{said} is not supported and left out");
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

/// What stands under the keys that we have no code for, where it would change an answer.
fn unsupported(keys: &Map<String, Value>, place: impl Display) -> Vec<String> {
    let changes = |value: &&Value, neutral: f64| {
        let nothing = value.as_f64() == Some(neutral) || value.is_null();
        !nothing && ![json!([]), json!(false)].contains(value)
    };
    let found = UNSUPPORTED.iter().filter_map(|(key, neutral)| {
        let value = keys.get(*key).filter(|value| changes(value, *neutral))?;
        Some(format!("{place}: {key} = {value}"))
    });
    found.collect()
}

impl TaskSettings {
    /// Lays what is said over the options.
    pub(super) fn apply(&self, options: &mut Text2TextOptions) {
        set(&mut options.prefix, self.prefix.clone());
        let decoding = &mut options.decoding;
        let after_start = |len: Option<usize>| len.map(|len| len.saturating_sub(1));
        set(&mut decoding.max_new_tokens, self.max_new_tokens.or(after_start(self.max_length)));
        set(&mut decoding.min_new_tokens, self.min_new_tokens.or(after_start(self.min_length)));
        set(&mut decoding.max_new_tokens_per_source_token, self.max_new_tokens_per_source_token);
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

/// Writes the `generation_config.json` of a model, by which `transformers` and [`Text2Text::options`](super::Text2Text::options) decode
/// as `options` do. Seed and precision are not part of it.
///
/// # Errors
///
/// When the file can't be written.
pub fn save_generation_config(options: &Seq2SeqOptions, pad_token: u32, folder: &Path) -> Result<(), ModelError> {
    let mut keys = json!({
        "decoder_start_token_id": options.start_token,
        "eos_token_id": options.stop_tokens,
        "max_new_tokens": options.max_new_tokens,
        "pad_token_id": pad_token,
    });
    let mut put = |key: &str, value: Value| keys[key] = value;
    if options.max_new_tokens_per_source_token != 0.0 {
        put("fornax_max_new_tokens_per_source_token", json!(options.max_new_tokens_per_source_token));
    }
    if options.min_new_tokens > 0 {
        put("min_new_tokens", json!(options.min_new_tokens));
    }
    // `transformers` warns of keys that do nothing.
    if options.num_beams > 1 {
        put("num_beams", json!(options.num_beams));
        put("length_penalty", json!(options.length_penalty));
        let early = match options.early_stopping {
            EarlyStopping::FirstFinished => json!(true),
            EarlyStopping::Heuristic => json!(false),
            EarlyStopping::Never => json!("never"),
        };
        put("early_stopping", early);
    }
    if options.num_return > 1 {
        put("num_return_sequences", json!(options.num_return));
    }
    if let Some(size) = options.no_repeat_ngram_size {
        put("no_repeat_ngram_size", json!(size));
    }
    if options.repetition_penalty != 1.0 {
        put("repetition_penalty", json!(options.repetition_penalty));
    }
    if options.temperature > 0.0 {
        put("do_sample", json!(true));
        put("temperature", json!(options.temperature));
        put("top_k", json!(options.top_k.unwrap_or(0)));
        put("top_p", json!(options.top_p));
    }
    for (key, token) in
        [("forced_bos_token_id", options.forced_first_token), ("forced_eos_token_id", options.forced_last_token)]
    {
        if let Some(token) = token {
            put(key, json!(token));
        }
    }
    let path = folder.join(GENERATION_CONFIG);
    write_beside(&path, |file| file.write_all(format!("{keys:#}\n").as_bytes()))
}

/// The longest text that the tokenizer's file speaks of; `None` where it names no number that a memory could hold.
pub(super) fn model_max_length(folder: &Path) -> Result<Option<usize>, PipelineError> {
    let path = folder.join("tokenizer_config.json");
    if !path.is_file() {
        return Ok(None);
    }
    // `transformers` writes 10^30 for no limit.
    let len = read(&path)?.get("model_max_length").and_then(Value::as_u64).filter(|len| *len <= 1 << 20);
    Ok(len.and_then(|len| usize::try_from(len).ok()))
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
    serde_json::from_slice(&text).map_err(json_error(path))
}

fn json_error(path: &Path) -> impl Fn(serde_json::Error) -> ModelError {
    move |source| ModelError::Json { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_change_an_answer_without_our_doing_is_named() {
        let keys = json!({
            "bad_words_ids": [[7]], "suppress_tokens": [], "num_beam_groups": 2, "typical_p": 1.0, "renormalize_logits": false,
            "guidance_scale": null, "stop_strings": "so", "num_beams": 4,
        });
        let said = unsupported(keys.as_object().unwrap(), "a.json");
        let expected =
            ["a.json: bad_words_ids = [[7]]", "a.json: num_beam_groups = 2", "a.json: stop_strings = \"so\""];
        assert_eq!(said, expected);
    }
}
