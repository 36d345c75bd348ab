use std::path::Path;

use fornax_data::{DataConfig, closest, dataset::SourceKeys, labelled::LabelledConfig, pairs::PairConfig};
use fornax_train::TrainError;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use crate::{
    foreign::keys_for,
    micro_batch::{AutoMicroBatch, Refused, check_resumed},
};

/// What each kind of `[data]` says about where data comes from. A key that a kind lacks is in none of its tables.
const SOURCES: [SourceKeys; 3] = [DataConfig::SOURCE_KEYS, LabelledConfig::SOURCE_KEYS, PairConfig::SOURCE_KEYS];

/// The tables that every config has.
const TABLES: [&str; 5] = ["train", "optimizer", "schedule", "eval", "checkpoint"];

/// What is wrong with a config file or an override. All of these end a program with exit code 2.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("config {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("config {path}: {message}")]
    Syntax {
        /// The file.
        path: String,
        /// Line, column and problem.
        message: String,
    },
    /// `--set` without `=`, or with a path that runs through a value.
    #[error("--set {text}: {problem}")]
    Override {
        /// What was given.
        text: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A key that doesn't exist, or a value of the wrong type.
    #[error("{origin}: key `{key}`: {problem}")]
    Key {
        /// The file or the flag that said it.
        origin: String,
        /// The dotted path of the key.
        key: String,
        /// What is wrong, with a suggestion where there is one.
        problem: String,
    },
}

/// A config as the program uses it, and the table that it was read from.
#[derive(Clone, Debug)]
pub struct Loaded<C> {
    /// The typed config, with defaults filled in.
    pub config: C,
    /// Where it came from, for logs: a path, or the name of the built-in config.
    pub origin: String,
}

/// Reads `path`, or `built_in` when there is none, lays the overrides `a.b=value` over it, and checks every key. An override that
/// says where data comes from takes the place of what the config says of that, and one that names an optimizer that of the keys which
/// only another has, each with a line in the log. A micro-batch that is left to trials is the smallest: only
/// [`RunArgs`](crate::RunArgs) makes them.
///
/// # Errors
///
/// One [`ConfigError`] that names the file or flag and the key.
pub fn load<C: DeserializeOwned>(
    path: Option<&Path>,
    built_in: &str,
    overrides: &[String],
) -> Result<Loaded<C>, ConfigError> {
    Given::read(path, built_in, overrides)?.parse()
}

/// A config as a table, with the overrides laid over it.
#[derive(Debug)]
pub(crate) struct Given<'a> {
    /// Has numbers in the place of a micro-batch that is left to trials.
    table: Table,
    origin: String,
    overrides: &'a [String],
    /// Where it was left to trials, what they have to divide.
    pub(crate) micro_batch: Option<AutoMicroBatch>,
    /// Why it can't be left to them.
    refused: Option<Refused>,
}

impl<'a> Given<'a> {
    /// Reads `path`, or `built_in` when there is none.
    pub(crate) fn read(path: Option<&Path>, built_in: &str, overrides: &'a [String]) -> Result<Self, ConfigError> {
        let (origin, text) = match path {
            Some(path) => {
                let name = path.display().to_string();
                let text =
                    std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: name.clone(), source })?;
                (name, text)
            }
            None => ("the built-in config".to_owned(), built_in.to_owned()),
        };
        let mut table: Table = toml::from_str(&text).map_err(|error| syntax(&origin, &text, &error))?;
        // A run's own `config.toml` carries the version of its folder's format, which is no key of a recipe.
        table.remove("format_version");
        for text in overrides {
            apply(&mut table, text)?;
        }
        leave_out_displaced(&mut table, overrides);
        let (micro_batch, refused) = match AutoMicroBatch::of(&table) {
            Ok(micro_batch) => (micro_batch, None),
            Err(refused) => {
                AutoMicroBatch::remove(&mut table);
                (None, Some(refused))
            }
        };
        let given = Self { table, origin, overrides, micro_batch, refused };
        Ok(match micro_batch {
            Some(auto) => given.with_micro_batch(auto.smallest()),
            None => given,
        })
    }

    /// Refuses another batch than that of the run in `folder`, before anything is made of it.
    pub(crate) fn check_resumed(&self, folder: &Path) -> Result<(), TrainError> {
        check_resumed(folder, &self.table)
    }

    /// With this micro-batch, where it was left to trials.
    pub(crate) fn with_micro_batch(mut self, micro_batch_size: usize) -> Self {
        if let Some(auto) = self.micro_batch {
            auto.write(micro_batch_size, &mut self.table);
        }
        self
    }

    /// The typed config.
    pub(crate) fn parse<C: DeserializeOwned>(&self) -> Result<Loaded<C>, ConfigError> {
        let config = serde_path_to_error::deserialize(Value::Table(self.table.clone())).map_err(|error| {
            let path = error.path().to_string();
            key_error(&self.origin, self.overrides, &path, error.into_inner().message(), has_key::<C>)
        })?;
        // Behind a misspelt key, which may be the one that is missed here.
        if let Some(Refused { key, problem }) = &self.refused {
            let origin = said_by(&self.origin, self.overrides, key);
            return Err(ConfigError::Key { origin, key: (*key).to_owned(), problem: problem.clone() });
        }
        Ok(Loaded { config, origin: self.origin.clone() })
    }
}

fn syntax(origin: &str, text: &str, error: &toml::de::Error) -> ConfigError {
    let place = error.span().map_or_else(String::new, |span| {
        let before = &text[..span.start.min(text.len())];
        let column = before.chars().rev().take_while(|&c| c != '\n').count() + 1;
        format!("line {}, column {column}: ", before.matches('\n').count() + 1)
    });
    ConfigError::Syntax { path: origin.to_owned(), message: format!("{place}{}", error.message()) }
}

/// Takes out of the config what does not go with an override, unless it is given beside it.
fn leave_out_displaced(table: &mut Table, overrides: &[String]) {
    let paths = overrides.iter().filter_map(|text| Some(text.split_once('=')?.0.trim().split('.')));
    let given: Vec<(&str, &str)> = paths.filter_map(|mut keys| Some((keys.next()?, keys.next()?))).collect();
    for &(section, key) in &given {
        let Some(table) = table.get_mut(section).and_then(Value::as_table_mut) else { continue };
        let others = displaced_by(section, key, table.get(key).and_then(Value::as_str).unwrap_or_default());
        for other in others.into_iter().filter(|other| !given.contains(&(section, other))) {
            if let Some(value) = table.remove(other) {
                tracing::info!("{section}.{key} is given, so {section}.{other} = {value} of the config is left out");
            }
        }
    }
}

/// The keys of a table that do not go with one of them, where that has this value.
fn displaced_by(section: &str, key: &str, value: &str) -> Vec<&'static str> {
    match section {
        "data" => {
            let named = SOURCES.into_iter().flatten().filter(|(source, _)| *source == key);
            named.flat_map(|(_, others)| *others).copied().collect()
        }
        _ => fornax_train::displaced_by(&format!("{section}.{key}"), value).to_vec(),
    }
}

/// Lays one `a.b=value` over the table. A value that is no TOML is a string, so that paths and names need no quotes.
fn apply(table: &mut Table, text: &str) -> Result<(), ConfigError> {
    let wrong = |problem: &str| ConfigError::Override { text: text.to_owned(), problem: problem.to_owned() };
    let (path, value) = text.split_once('=').ok_or_else(|| wrong("expected KEY=VALUE, such as train.seed=7"))?;
    let mut keys: Vec<&str> = path.trim().split('.').collect();
    let last = keys.pop().filter(|key| !key.is_empty()).ok_or_else(|| wrong("the key is empty"))?;
    let mut place = table;
    for key in keys {
        let entry = place.entry(key).or_insert_with(|| Value::Table(Table::new()));
        place = entry.as_table_mut().ok_or_else(|| wrong(&format!("`{key}` is a value, not a table")))?;
    }
    place.insert(last.to_owned(), parse_value(value.trim()));
    Ok(())
}

fn parse_value(text: &str) -> Value {
    let parsed = toml::from_str::<Table>(&format!("value = {text}")).ok();
    parsed.and_then(|mut table| table.remove("value")).unwrap_or_else(|| Value::String(text.to_owned()))
}

/// Turns serde's message into one with the full key, who said it, and what was probably meant.
fn key_error(
    origin: &str,
    overrides: &[String],
    path: &str,
    message: &str,
    has_key: impl Fn(&str) -> bool,
) -> ConfigError {
    let first = message.lines().next().unwrap_or_default();
    let mut quoted = first.split('`').skip(1).step_by(2);
    let unknown = first.starts_with("unknown field").then(|| quoted.next()).flatten();
    let key = match unknown {
        // serde_path_to_error ends the path at the unknown key or at the table around it, depending on the format.
        Some(name) if path == name || path.ends_with(&format!(".{name}")) => path.to_owned(),
        Some(name) if path == "." => name.to_owned(),
        Some(name) => format!("{path}.{name}"),
        None => path.to_owned(),
    };
    let problem = match unknown {
        None => first.to_owned(),
        Some(name) => {
            let known: Vec<&str> = quoted.collect();
            let elsewhere = keys_for(name).iter().find(|key| key.starts_with("--") || has_key(key));
            // Of a key that stands in the same table its own name is enough.
            let table = key.rsplit_once('.').map_or("", |(table, _)| table);
            let short =
                |key: &'static str| key.strip_prefix(table).and_then(|key| key.strip_prefix('.')).unwrap_or(key);
            // A config that takes any key has none by that name.
            let stands_in = |key: &String| has_key(key) && !has_key(&format!("{key}?"));
            let in_another_table = || TABLES.map(|table| format!("{table}.{name}")).into_iter().find(stands_in);
            let meant = elsewhere.map(|key| short(key).to_owned()).or_else(in_another_table);
            match meant.or_else(|| closest(name, known.iter().copied()).map(str::to_owned)) {
                Some(meant) => format!("unknown key; did you mean `{meant}`?"),
                None => format!("unknown key; known here: {}", known.join(", ")),
            }
        }
    };
    let origin = said_by(origin, overrides, &key);
    ConfigError::Key { origin, key, problem }
}

/// Whether a config of this kind has a key, given with its tables: one that is there may refuse the value that it gets here, but is
/// not unknown.
fn has_key<C: DeserializeOwned>(path: &str) -> bool {
    let nested = path
        .rsplit('.')
        .fold(Value::Array(Vec::new()), |value, key| Value::Table(Table::from_iter([(key.to_owned(), value)])));
    let read: Result<C, _> = nested.try_into();
    read.err().is_none_or(|error| !error.message().starts_with("unknown field"))
}

/// Who gave a key: an override, else the config.
fn said_by(origin: &str, overrides: &[String], key: &str) -> String {
    let said = overrides.iter().find(|text| {
        let path = text.split_once('=').map_or("", |(path, _)| path.trim());
        let below =
            |inner: &str, outer: &str| inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with(['.', '[']));
        path == key || below(path, key) || below(key, path)
    });
    said.map_or_else(|| format!("config {origin}"), |text| format!("--set {text}"))
}

#[cfg(test)]
mod tests {
    use fornax_train::{OptimizerConfig, OptimizerRule, ScheduleConfig, TrainConfig};
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Train {
        max_steps: Option<u64>,
        seed: u64,
        name: String,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Config {
        train: Train,
        data: Data,
        optimizer: OptimizerConfig,
        schedule: ScheduleConfig,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Data {
        name: Option<String>,
        part: Option<String>,
        files: Vec<String>,
        max_len: usize,
        train: Table,
    }

    fn load_with(text: &str, overrides: &[&str]) -> Result<Config, String> {
        let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
        load(None, text, &overrides).map(|loaded| loaded.config).map_err(|error| error.to_string())
    }

    #[test]
    fn overrides_lie_over_the_file_and_take_bare_words_as_strings() {
        let config =
            load_with("[train]\nseed = 1\n", &["train.seed=7", "train.name=runs/a b", "train.max_steps = 1_000"])
                .unwrap();
        assert_eq!(config.train, Train { max_steps: Some(1000), seed: 7, name: "runs/a b".to_owned() });
    }

    #[test]
    fn an_override_that_names_a_source_replaces_that_of_the_file() {
        let data = |overrides: &[&str]| load_with("[data]\npart = 'prose'\nmax_len = 9\n", overrides).unwrap().data;
        let own = data(&["data.files=['a.txt']"]);
        assert_eq!(own, Data { files: vec!["a.txt".to_owned()], max_len: 9, ..Data::default() });
        assert_eq!(data(&["data.name=other"]).part, None);
        let pairs = |overrides: &[&str]| load_with("[data]\nname = 'pairs'\n", overrides).unwrap().data;
        assert_eq!(
            (pairs(&["data.train.source=['a.de']"]).name, pairs(&["data.max_len=2"]).name),
            (None, Some("pairs".into()))
        );
        assert_eq!(data(&["data.max_len=3"]).part.as_deref(), Some("prose"));
        // What is given beside it stays, for the recipe to refuse.
        assert_eq!(data(&["data.files=['a.txt']", "data.part=code"]).part.as_deref(), Some("code"));
    }

    #[test]
    fn an_override_that_names_an_optimizer_leaves_out_the_keys_of_another() {
        let text = "[optimizer]\nlr = 0.5\nbetas = [0.9, 0.95]\neps = 1e-6\n";
        let adafactor = load_with(text, &["optimizer.name=adafactor"]).unwrap().optimizer;
        assert!(matches!(adafactor.rule, OptimizerRule::Adafactor(_)) && adafactor.lr == 0.5, "{adafactor:?}");
        let scaled = load_with(text, &["optimizer.name=adamw_scaled"]).unwrap().optimizer;
        assert!(matches!(scaled.rule, OptimizerRule::AdamwScaled(keys) if keys.betas == [0.9, 0.95]), "{scaled:?}");
        // The last name decides.
        let again = load_with(text, &["optimizer.name=adafactor", "optimizer.name=adamw"]).unwrap().optimizer;
        assert!(matches!(again.rule, OptimizerRule::Adamw(keys) if keys.eps == 1e-6), "{again:?}");
        // What is given beside it is meant, and what a file says for itself too.
        let refused = load_with(text, &["optimizer.name=adafactor", "optimizer.eps=1e-8"]).unwrap_err();
        assert!(refused.contains("`eps` is a key of `adamw`"), "{refused}");
        let refused = load_with("[optimizer]\nname = 'adafactor'\neps = 1e-8", &["optimizer.lr=1e-3"]).unwrap_err();
        assert!(refused.contains("`eps` is a key of `adamw`"), "{refused}");
    }

    #[test]
    fn an_override_of_the_warmup_takes_the_place_of_its_other_form() {
        let schedule = load_with("[schedule]\nwarmup_steps = 9\n", &["schedule.warmup_ratio=0.1"]).unwrap().schedule;
        assert_eq!((schedule.warmup_steps, schedule.warmup_ratio), (None, Some(0.1)));
    }

    #[test]
    fn a_micro_batch_that_is_left_to_trials_is_the_smallest_where_there_are_none() {
        #[derive(Deserialize)]
        struct Config {
            train: TrainConfig,
        }
        let sizes = |text: &str, overrides: &[&str]| {
            let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
            let loaded = load::<Config>(None, text, &overrides).map_err(|error| error.to_string())?;
            let TrainConfig { batch_size, micro_batch_size, gradient_accumulation, .. } = loaded.config.train;
            Ok::<_, String>((batch_size, micro_batch_size, gradient_accumulation))
        };
        let auto = "[train]\nbatch_size = 12\nmicro_batch_size = 'auto'";
        assert_eq!(sizes(auto, &[]), Ok((Some(12), 1, 12)));
        // A number given for it leaves the batch to be checked, and "auto" takes the place of its other half.
        assert_eq!(sizes(auto, &["train.micro_batch_size=4"]), Ok((Some(12), 4, 1)));
        let numbers = "[train]\nmicro_batch_size = 4\ngradient_accumulation = 3";
        let given = ["train.micro_batch_size=auto", "train.batch_size=12"];
        assert_eq!(sizes(numbers, &given), Ok((Some(12), 1, 12)));
        let refused = |text: &str, overrides: &[&str]| sizes(text, overrides).unwrap_err();
        assert_eq!(
            refused(numbers, &given[..1]),
            "--set train.micro_batch_size=auto: key `train.micro_batch_size`: \"auto\" needs train.batch_size, the examples of a \
             step, which it divides"
        );
        // What is misspelt is told, not what is missing for it.
        assert_eq!(
            refused("[train]\nmicro_batch_size = 'auto'\nbatchsize = 12", &[]),
            "config the built-in config: key `train.batchsize`: unknown key; did you mean `batch_size`?"
        );
        let both = refused(auto, &["train.gradient_accumulation=3"]);
        assert!(
            both.starts_with("--set train.gradient_accumulation=3: key `train.gradient_accumulation`: can't be"),
            "{both}"
        );
        assert_eq!(
            refused("[train]\nmicro_batch_size = 'autoo'", &[]),
            "config the built-in config: key `train.micro_batch_size`: invalid value: string \"autoo\", expected a number of \
             examples, or \"auto\""
        );
    }

    #[test]
    fn each_mistake_names_its_place_and_the_way_out() {
        let cases = [
            (
                "[train]\nmax_step = 3",
                vec![],
                "config the built-in config: key `train.max_step`: unknown key; did you mean `max_steps`?",
            ),
            ("", vec!["trainn.seed=1"], "--set trainn.seed=1: key `trainn`: unknown key; did you mean `train`?"),
            ("", vec!["train.sed=1"], "--set train.sed=1: key `train.sed`: unknown key; did you mean `seed`?"),
            // The names of others, where this config has what they stand for.
            (
                "[train]\nlearning_rate = 1",
                vec![],
                "config the built-in config: key `train.learning_rate`: unknown key; did you mean `optimizer.lr`?",
            ),
            (
                "",
                vec!["schedule.lr_scheduler_type=linear"],
                "--set schedule.lr_scheduler_type=linear: key `schedule.lr_scheduler_type`: unknown key; did you mean `name`?",
            ),
            (
                "",
                vec!["max_iters=9"],
                "--set max_iters=9: key `max_iters`: unknown key; did you mean `train.max_steps`?",
            ),
            (
                "",
                vec!["block_size=9"],
                "--set block_size=9: key `block_size`: unknown key; did you mean `data.max_len`?",
            ),
            ("", vec!["n_layer=9"], "--set n_layer=9: key `n_layer`: unknown key; known here: train, data, "),
            (
                "",
                vec!["train.bf16=true"],
                "--set train.bf16=true: key `train.bf16`: unknown key; did you mean `--precision bf16`?",
            ),
            (
                "[train]\nseed = \"x\"",
                vec![],
                "config the built-in config: key `train.seed`: invalid type: string \"x\", expected u64",
            ),
            (
                "",
                vec!["train.seed=-1"],
                "--set train.seed=-1: key `train.seed`: invalid value: integer `-1`, expected u64",
            ),
            ("", vec!["data.files=[1]"], "--set data.files=[1]: key `data.files[0]`: invalid type: integer `1`"),
            ("[train]\nseed = = 1", vec![], "config the built-in config: line 2, column 8: "),
            ("", vec!["train.seed"], "--set train.seed: expected KEY=VALUE, such as train.seed=7"),
            ("[train]\nseed = 1", vec!["train.seed.x=1"], "--set train.seed.x=1: `seed` is a value, not a table"),
        ];
        for (text, overrides, expected) in cases {
            let message = load_with(text, &overrides).unwrap_err();
            assert!(message.starts_with(expected), "{message}\n  instead of\n{expected}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let message = load::<Config>(Some(Path::new("no/such.toml")), "", &[]).unwrap_err().to_string();
        assert!(message.starts_with("config no/such.toml: "), "{message}");
    }
}
