//! `train.micro_batch_size = "auto"`: numbers take its place before anything reads the config, those of the run that is resumed,
//! else the fastest of a few trials, each a process of its own, which may run out of memory without harm.

mod choice;

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, anyhow};
use fornax_backend::DeviceSpec;
use fornax_train::{
    Interrupt, MicroBatch, Options, TrainError, available_memory_bytes, check_run_folder, check_writable, open_config,
    peak_memory_bytes,
};
use serde::Deserialize;
use toml::{Table, Value};

use crate::{
    RunArgs, UsageContext,
    child::{ChildError, Figures},
    program::Interrupted,
};
use choice::{Trial, candidates, choose, megabytes};

/// Timed steps of a trial, after those to warm up.
const STEPS: usize = 5;

/// The micro-batch of a config that leaves it to trials.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct AutoMicroBatch {
    /// Examples of a step, at least 1.
    batch_size: usize,
}

/// A key that doesn't go with `"auto"`, and why.
#[derive(Debug, PartialEq)]
pub(crate) struct Refused {
    pub(crate) key: &'static str,
    pub(crate) problem: String,
}

impl AutoMicroBatch {
    /// What a config says, if it says `"auto"`.
    pub(crate) fn of(config: &Table) -> Result<Option<Self>, Refused> {
        let key = |table: &str, key: &str| config.get(table)?.get(key);
        match key("train", "micro_batch_size").map(|value| MicroBatch::deserialize(value.clone())) {
            Some(Ok(MicroBatch::Auto)) => {}
            // What is neither is refused with the types of all other keys.
            Some(Ok(MicroBatch::Examples(_)) | Err(_)) | None => return Ok(None),
        }
        let refuse = |key, problem: &str| Err(Refused { key, problem: problem.to_owned() });
        if key("data", "tokens_per_batch").is_some() {
            let problem = "\"auto\" chooses a number of examples, but data.tokens_per_batch counts batches by tokens; leave one out";
            return refuse("train.micro_batch_size", problem);
        }
        if key("train", "gradient_accumulation").is_some() {
            let problem = "can't be set beside train.micro_batch_size = \"auto\", which chooses it; leave it out, and set \
                           train.batch_size to the examples of a step";
            return refuse("train.gradient_accumulation", problem);
        }
        match key("train", "batch_size") {
            None => {
                let problem = "\"auto\" needs train.batch_size, the examples of a step, which it divides";
                refuse("train.micro_batch_size", problem)
            }
            Some(Value::Integer(size)) if *size > 0 => {
                Ok(Some(Self { batch_size: usize::try_from(*size).unwrap_or(usize::MAX) }))
            }
            Some(other) => {
                let problem = format!("must be a whole number of at least 1, got {other}");
                Err(Refused { key: "train.batch_size", problem })
            }
        }
    }

    /// The smallest micro-batch, which is the likeliest to fit.
    pub(crate) fn smallest(self) -> usize {
        candidates(self.batch_size)[0]
    }

    /// Takes `"auto"` out of a config that can't have it.
    pub(crate) fn remove(config: &mut Table) {
        if let Some(train) = config.get_mut("train").and_then(Value::as_table_mut) {
            train.remove("micro_batch_size");
        }
    }

    /// Puts numbers in the place of `"auto"`.
    pub(crate) fn write(self, micro_batch_size: usize, config: &mut Table) {
        let numbers = [
            ("micro_batch_size", micro_batch_size),
            ("gradient_accumulation", self.batch_size / micro_batch_size.max(1)),
        ];
        if let Some(train) = config.get_mut("train").and_then(Value::as_table_mut) {
            train.extend(numbers.map(|(key, number)| (key.to_owned(), Value::Integer(number as i64))));
        }
    }

    /// The micro-batch of a run of `recipe` that is started with `args` and in `folder`.
    ///
    /// # Errors
    ///
    /// A folder that the run could not use; what the trial of the smallest micro-batch fails with; [`Interrupted`].
    pub(crate) fn settle(self, recipe: &str, args: &RunArgs, folder: Option<&Path>) -> anyhow::Result<usize> {
        if args.dry_run {
            let sizes = self.listed();
            tracing::info!("train.micro_batch_size = \"auto\": a run would try {sizes}; this takes the smallest");
            return Ok(self.smallest());
        }
        if args.bench.is_none() {
            let resume = args.resume && folder.is_some();
            let options = Options { run_dir: folder.map(Path::to_owned), resume, ..Options::default() };
            match (folder, &args.run_dir) {
                // It is to hold several runs, none of which was begun.
                (None, Some(above)) => check_writable(above)?,
                _ => check_run_folder(&options)?,
            }
        }
        match folder.filter(|_| args.resume).and_then(stored) {
            Some(micro_batch_size) => Ok(micro_batch_size),
            None => self.measured(recipe, args),
        }
    }

    /// The fastest of the micro-batches that are tried.
    fn measured(self, recipe: &str, args: &RunArgs) -> anyhow::Result<usize> {
        let interrupt = Interrupt::install().context("signals can't be handled while micro-batches are tried")?;
        let (sizes, all) = (self.listed(), self.batch_size);
        tracing::info!("train.micro_batch_size = \"auto\": trying {sizes} of {all} examples");
        tracing::info!("the first trial prepares the data, which may take a while where that was not done before");
        let choice = choose(self.batch_size, |micro_batch_size| {
            let mut command = trial(recipe, args, micro_batch_size)?;
            let figures = match Figures::of(&mut command, || interrupt.requested()) {
                Ok(figures) => figures,
                Err(ChildError::Stopped) => {
                    tracing::info!("interrupted while micro-batches are tried: no run was begun");
                    return Err(Interrupted.into());
                }
                Err(error) => return Ok(Err(error)),
            };
            let trial = Trial {
                micro_batch_size,
                tokens_per_second: figures.tokens_per_second,
                peak_memory_bytes: figures.peak_memory_bytes,
                program_bytes: peak_memory_bytes().unwrap_or(0),
                available_bytes: available_memory_bytes().filter(|_| computes_in_memory(&figures)),
            };
            let peak = trial.peak_memory_bytes.map_or_else(|| "unknown".to_owned(), megabytes);
            tracing::info!(
                "a micro-batch of {micro_batch_size}: {:.0} tokens/s, peak memory {peak}",
                trial.tokens_per_second
            );
            Ok(Ok(trial))
        });
        let (fastest, stop) = choice.or_else(|error| self.explain(error))?;
        let (chosen, number) = (fastest.micro_batch_size, self.batch_size / fastest.micro_batch_size);
        tracing::info!("train.micro_batch_size = {chosen}, train.gradient_accumulation = {number}: {stop}");
        Ok(chosen)
    }

    /// The error of a trial as one of this program, with the exit code that it had.
    fn explain<T>(self, error: anyhow::Error) -> anyhow::Result<T> {
        let failed = error.downcast::<ChildError>()?;
        let by_user = matches!(failed, ChildError::Failed { code: Some(2), .. });
        let error = anyhow!(failed)
            .context(format!("train.micro_batch_size = \"auto\": the smallest, {}, fails", self.smallest()));
        if by_user { Err(error).usage() } else { Err(error) }
    }

    fn listed(self) -> String {
        let sizes: Vec<String> = candidates(self.batch_size).iter().map(ToString::to_string).collect();
        sizes.join(", ")
    }
}

/// `train.micro_batch_size` of the run in a folder.
fn stored(folder: &Path) -> Option<usize> {
    let config = open_config(folder).ok()?;
    usize::try_from(config.get("train")?.get("micro_batch_size")?.as_integer()?).ok()
}

/// Refuses a `train.batch_size` that is not that of the run in `folder`: the numbers that would be made of it differ too, and nobody
/// has set them. What else is wrong with the folder, the run itself reports.
pub(crate) fn check_resumed(folder: &Path, config: &Table) -> Result<(), TrainError> {
    let Ok(stored) = open_config(folder) else { return Ok(()) };
    let batch_size = |config: &Table| config.get("train")?.get("batch_size").cloned();
    let (was, now) = (batch_size(&stored), batch_size(config));
    let Some(now) = now.filter(|now| was.as_ref() != Some(now)) else { return Ok(()) };
    let was = was.map_or_else(|| "not set".to_owned(), |was| was.to_string());
    let changes = format!("`train.batch_size` was {was}, now {now}");
    Err(TrainError::ConfigChanged { dir: folder.to_owned(), changes })
}

/// Whether what a trial computed with lay in the memory of the machine.
fn computes_in_memory(figures: &Figures) -> bool {
    let spec = figures.device.as_deref().and_then(|device| device.parse().ok());
    matches!(spec, Some(DeviceSpec::Family { family, .. }) if family.is_cpu())
}

/// This program, told to time steps of one micro-batch.
fn trial(recipe: &str, args: &RunArgs, micro_batch_size: usize) -> anyhow::Result<Command> {
    let program = env::current_exe().context("the program can't find itself to try a micro-batch")?;
    let mut command = Command::new(&program);
    command.args(before_recipe(recipe, &program, env::args_os())).args(arguments(args, micro_batch_size));
    Ok(command)
}

/// The arguments that lead to a recipe, such as `train gpt-lm`: none in the recipe's own program.
fn before_recipe(recipe: &str, program: &Path, args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    if program.file_stem().is_some_and(|name| name == recipe) {
        return Vec::new();
    }
    let words = args.skip(1).take_while(|arg| !arg.as_encoded_bytes().starts_with(b"-"));
    let mut words: Vec<OsString> = words.collect();
    let len = words.iter().position(|word| word == recipe).map_or(0, |at| at + 1);
    words.truncate(len);
    words
}

/// The arguments of a recipe for the trial of a micro-batch: those of the run, but for its folder and for what else it does.
fn arguments(args: &RunArgs, micro_batch_size: usize) -> Vec<OsString> {
    let mut words = vec!["--device".to_owned(), args.device.to_string()];
    words.extend(["--precision".to_owned(), args.precision.to_string(), "--bench".to_owned(), STEPS.to_string()]);
    let of_step = [
        format!("train.batch_size={micro_batch_size}"),
        format!("train.micro_batch_size={micro_batch_size}"),
        "train.gradient_accumulation=1".to_owned(),
    ];
    words.extend(args.overrides.iter().chain(&of_step).map(|text| format!("--set={text}")));
    words.extend(args.seed.map(|seed| format!("--seed={seed}")));
    words.extend(args.max_steps.map(|steps| format!("--max-steps={steps}")));
    let config = args.config.iter().flat_map(|path: &PathBuf| ["--".into(), path.into()]);
    words.into_iter().map(OsString::from).chain(config).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn of(text: &str) -> Result<Option<AutoMicroBatch>, String> {
        AutoMicroBatch::of(&text.parse().unwrap()).map_err(|refused| format!("{}: {}", refused.key, refused.problem))
    }

    #[test]
    fn auto_divides_the_batch_of_a_step_and_goes_with_nothing_else_that_says_it() {
        assert_eq!(
            of("[train]\nmicro_batch_size = 'auto'\nbatch_size = 12"),
            Ok(Some(AutoMicroBatch { batch_size: 12 }))
        );
        for numbers in [
            "",
            "train = 1",
            "[train]\nbatch_size = 12",
            "[train]\nmicro_batch_size = 4",
            "[train]\nmicro_batch_size = 'autoo'",
        ] {
            assert_eq!(of(numbers), Ok(None), "{numbers}");
        }
        let refused = |more: &str| of(&format!("[train]\nmicro_batch_size = 'auto'\n{more}")).unwrap_err();
        assert!(refused("").starts_with("train.micro_batch_size: \"auto\" needs train.batch_size"));
        assert!(
            refused("batch_size = 8\ngradient_accumulation = 2")
                .starts_with("train.gradient_accumulation: can't be set")
        );
        assert_eq!(refused("batch_size = 0"), "train.batch_size: must be a whole number of at least 1, got 0");
        assert_eq!(refused("batch_size = 'x'"), "train.batch_size: must be a whole number of at least 1, got \"x\"");
        let tokens = refused("batch_size = 8\n[data]\ntokens_per_batch = 4096");
        assert!(tokens.starts_with("train.micro_batch_size: ") && tokens.contains("data.tokens_per_batch"), "{tokens}");
    }

    #[test]
    fn numbers_take_its_place() {
        let mut config: Table = "[train]\nmicro_batch_size = 'auto'\nbatch_size = 12".parse().unwrap();
        AutoMicroBatch { batch_size: 12 }.write(6, &mut config);
        let expected: Table = "batch_size = 12\nmicro_batch_size = 6\ngradient_accumulation = 2".parse().unwrap();
        assert_eq!(config["train"], Value::Table(expected));
    }

    #[derive(Parser)]
    struct Args {
        #[command(flatten)]
        run: RunArgs,
    }

    fn run_args(words: &[&str]) -> RunArgs {
        Args::try_parse_from([&["gpt-lm"], words].concat()).unwrap_or_else(|error| panic!("{error}")).run
    }

    #[test]
    fn a_trial_is_a_bench_of_the_same_run_and_leaves_its_folder_alone() {
        let given =
            ["my.toml", "--device", "flex", "--precision", "bf16", "--set", "train.batch_size=64", "--set=a.b=-1"];
        let more = ["--run-dir", "runs/a", "--overfit", "3", "--seed", "7", "--max-steps", "9"];
        let words = arguments(&run_args(&[given.as_slice(), &more].concat()), 4);
        let words: Vec<&str> = words.iter().map(|word| word.to_str().unwrap()).collect();
        let trial = run_args(&words);
        assert_eq!(
            trial.overrides,
            [
                "train.batch_size=64",
                "a.b=-1",
                "train.batch_size=4",
                "train.micro_batch_size=4",
                "train.gradient_accumulation=1"
            ]
        );
        let shown = (trial.config.unwrap(), trial.device.to_string(), trial.precision.to_string());
        assert_eq!(shown, ("my.toml".into(), "flex".to_owned(), "bf16".to_owned()));
        assert_eq!((trial.seed, trial.max_steps, trial.bench), (Some(7), Some(9), Some(STEPS as u64)));
        assert!(trial.run_dir.is_none() && trial.overfit.is_none());
        assert_eq!(run_args(&["--bench", "2"]).config, None);
    }

    #[test]
    fn a_trial_finds_the_recipe_that_it_is_of() {
        let before = |program: &str, args: &[&str]| {
            let args = std::iter::once(program).chain(args.iter().copied()).map(OsString::from);
            before_recipe("gpt-lm", Path::new(program), args)
        };
        assert_eq!(before("target/release/gpt-lm", &["gpt-lm", "--bench", "3"]), [""; 0]);
        assert_eq!(before("fornax", &["train", "gpt-lm", "my.toml"]), ["train", "gpt-lm"]);
        assert_eq!(before("under-test", &["gpt-lm", "gpt-lm", "--resume"]), ["gpt-lm"]);
        assert_eq!(before("renamed", &["my.toml", "--run-dir", "gpt-lm"]), [""; 0]);
    }

    #[test]
    fn only_a_cpu_is_bound_by_the_memory_of_the_machine() {
        let of = |device: &str| {
            serde_json::from_value(serde_json::json!({ "tokens_per_second": 1.0, "device": device })).unwrap()
        };
        assert!(computes_in_memory(&of("flex")) && computes_in_memory(&of("libtorch")));
        assert!(!computes_in_memory(&of("vulkan:0")) && !computes_in_memory(&of("libtorch-cuda:0")));
    }

    /// A run folder with this `[train]`.
    fn run_folder(train: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.toml"), format!("format_version = 1\n[train]\n{train}")).unwrap();
        folder
    }

    #[test]
    fn a_run_that_is_resumed_keeps_its_numbers_and_nothing_is_tried_for_one_that_can_not_be() {
        let run = run_folder("batch_size = 12\nmicro_batch_size = 6\ngradient_accumulation = 2");
        let path = run.path().to_str().unwrap();
        let settle = |batch_size, words: &[&str]| {
            AutoMicroBatch { batch_size }.settle("gpt-lm", &run_args(words), Some(run.path()))
        };
        assert_eq!(settle(12, &["--run-dir", path, "--resume"]).unwrap(), 6);
        assert_eq!(settle(12, &["--run-dir", path, "--dry-run"]).unwrap(), 1);
        let refused = settle(12, &["--run-dir", path]).unwrap_err();
        assert!(matches!(refused.downcast_ref(), Some(TrainError::HoldsAnotherRun { .. })), "{refused:#}");
    }

    #[test]
    fn a_resumed_run_keeps_its_batch() {
        let run = run_folder("batch_size = 12\nmicro_batch_size = 6\ngradient_accumulation = 2");
        let check = |folder: &Path, train: &str| {
            let result = check_resumed(folder, &format!("[train]\n{train}").parse().unwrap());
            result.map_err(|error| error.to_string())
        };
        assert_eq!(check(run.path(), "batch_size = 12\nmicro_batch_size = 3"), Ok(()));
        // What is left out, or set besides, the run compares.
        assert_eq!(check(run.path(), "micro_batch_size = 3"), Ok(()));
        assert_eq!(check(&run.path().join("nowhere"), "batch_size = 24"), Ok(()));
        let message = check(run.path(), "batch_size = 24\nmicro_batch_size = 1").unwrap_err();
        assert!(message.contains(": `train.batch_size` was 12, now 24; hint: "), "{message}");
        let message = check(run_folder("micro_batch_size = 6").path(), "batch_size = 24").unwrap_err();
        assert!(message.contains(": `train.batch_size` was not set, now 24; hint: "), "{message}");
    }
}
