//! How a run begins: in a fresh folder, or at the last checkpoint of an old one.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use burn::module::Module;
use serde::Serialize;
use toml::Table;

use super::{Clock, Run, config};
use crate::{
    Cadence, Checkpoint, CheckpointConfig, Checkpoints, Learner, Options, RunInfo, State, Summary, TrainConfig,
    TrainError,
    console::Console,
    environment::Environment,
    files::{self, check_writable},
    metrics::MetricsFile,
    signals::Interrupt,
};

/// Held while a process works in the folder.
const LOCK: &str = ".lock";

/// The folder of runs that name none.
const RUNS: &str = "runs";

/// How long a lock that is held is waited for, and how long between two looks at it.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// What a run writes into its folder and replaces there, under hidden names until it is complete.
const NAMES: [&str; 8] =
    [AVERAGED, "best", "config.toml", "environment.json", "last", "metrics.jsonl", "summary.json", "tokenizer.json"];

/// The folder with the mean of checkpoints.
pub(super) const AVERAGED: &str = "averaged";

impl<M: Module> Run<M> {
    /// Opens the run folder that `options` name: a fresh one, or with `resume` an old one, at whose last complete
    /// checkpoint `learner` is put. A run without a checkpoint is started anew.
    ///
    /// `config` is the recipe's whole resolved config; its tables `[train]` and `[checkpoint]` say how long the run is
    /// and when it logs, evaluates and saves. From here on the first SIGINT or SIGTERM ends the loop after its step,
    /// with a checkpoint and a summary; the second one ends the process.
    ///
    /// # Errors
    ///
    /// When the folder can't be written, is in use or holds another run or somebody's files; when the config, the data or the tokenizer
    /// or the precision differ from what the run began with; when the run has checkpoints and none of them can be used.
    pub fn open(
        options: &Options,
        config: &impl Serialize,
        info: RunInfo,
        learner: &mut Learner<M>,
    ) -> Result<Self, TrainError> {
        check_run_folder(options)?;
        let table = config::to_table(config)?;
        let train: TrainConfig = config::section(&table, "train")?;
        let saving: CheckpointConfig = config::section(&table, "checkpoint")?;
        train.validate()?;
        saving.validate()?;
        let max_steps = max_steps(&train, &saving, &info)?;

        let (dir, lock) = open_dir(options, &info.recipe)?;
        let checkpoints = Checkpoints::of_run(&dir);
        // Before anything is touched: another process may have come in between.
        let known = is_known(&dir, &checkpoints, options.resume)?;
        files::recover(&dir, |name| NAMES.contains(&name))?;
        checkpoints.recover()?;

        let mut state = State::fresh(train.seed, config::hash(&table), learner.precision(), learner.schedule());
        state.data_hash = info.data_hash.clone();
        state.tokenizer_hash = info.tokenizer_hash.clone();
        state.overfit = options.overfit;
        let checkpoint = if known { resume(&dir, &table, &checkpoints, &mut state, learner)? } else { None };
        let summary = if known { read_summary(&dir) } else { None };
        let finished = summary.filter(|summary| is_complete(summary, &state, max_steps));

        if finished.is_none() {
            // First, because it is by this file that a folder is known as a run's.
            config::write(&dir, &table)?;
            remove_stale(&dir)?;
            Environment::record(&dir, &info, state.step, known)?;
            if let Some(tokenizer) = &info.tokenizer {
                files::write_atomic(&dir.join("tokenizer.json"), tokenizer)?;
            }
        }
        let metrics = MetricsFile::open(&dir.join("metrics.jsonl"), state.step)?;
        let interrupt = Interrupt::install().map_err(files::io_error("handle signals for", &dir))?;
        let run = Self {
            _lock: lock,
            console: Console::new(state.step, max_steps),
            clock: Clock::starting_at(Duration::from_secs_f64(state.seconds.max(0.0))),
            writing: None,
            last_checkpoint: checkpoint.map(|checkpoint| checkpoint.dir().to_owned()),
            last_saved: known.then_some(state.step).filter(|&step| step > 0),
            parameters: learner.num_parameters() as u64,
            best_exported: None,
            keeps_best: false,
            settled: false,
            closed: finished.is_some(),
            test: Default::default(),
            kept: None,
            unmeasured: false,
            export: None,
            dir,
            info,
            train,
            saving,
            max_steps,
            checkpoints,
            metrics,
            interrupt,
            state,
            finished,
        };
        run.greet();
        Ok(run)
    }

    fn greet(&self) {
        let dir = self.dir.display();
        let (step, max_steps) = (self.state.step, self.max_steps);
        self.console.message(&match &self.finished {
            Some(Summary { stopped_early: true, steps, .. }) => {
                format!("`{dir}` stopped early after {steps} of {max_steps} steps, and a run that did so stays ended: nothing to do")
            }
            Some(summary) => format!("`{dir}` is a finished run of {} steps: nothing to do", summary.steps),
            None if step > 0 => format!("resuming `{dir}` after step {step} of {max_steps}"),
            None => format!("run folder `{dir}`, {max_steps} steps"),
        });
    }
}

/// Refuses what [`Run::open`] would refuse for the sake of the folder alone. It leaves nothing behind, so it is asked before data is
/// prepared.
///
/// # Errors
///
/// When there is no run to resume, or another run or somebody's files where a new one is to be written; when the config of
/// a run that is to be resumed can't be read; when the folder can't be written.
pub fn check_run_folder(options: &Options) -> Result<(), TrainError> {
    let Some(dir) = &options.run_dir else {
        return if options.resume { Err(TrainError::ResumeNeedsRunDir) } else { check_writable(Path::new(RUNS)) };
    };
    if !dir.is_dir() {
        return if options.resume {
            Err(TrainError::NothingToResume { dir: dir.clone() })
        } else {
            check_writable(dir)
        };
    }
    if is_known(dir, &Checkpoints::of_run(dir), options.resume)? {
        config::open_config(dir)?;
    }
    check_writable(dir)
}

/// The length of the run.
fn max_steps(train: &TrainConfig, saving: &CheckpointConfig, info: &RunInfo) -> Result<u64, TrainError> {
    let missing = |key: &str| TrainError::Config {
        key: key.to_owned(),
        problem: "the recipe doesn't know how many steps an epoch has; use steps".to_owned(),
    };
    match info.steps_per_epoch {
        Some(steps) => Ok(train.total_steps(steps)),
        None if train.max_epochs.is_some() => Err(missing("train.max_epochs")),
        None if train.eval_every == Cadence::Epoch => Err(missing("train.eval_every")),
        None if saving.save_every == Cadence::Epoch => Err(missing("checkpoint.save_every")),
        None => Ok(train.total_steps(u64::MAX)),
    }
}

/// The run folder and the lock that keeps other processes out while the run lives.
fn open_dir(options: &Options, recipe: &str) -> Result<(PathBuf, File), TrainError> {
    let dir = options.run_dir.clone().unwrap_or_else(|| default_dir(Path::new(RUNS), recipe));
    files::create_dir(&dir)?;
    let path = dir.join(LOCK);
    let lock = File::create(&path).map_err(files::io_error("create", &path))?;
    check_lock(patient_lock(&lock), &dir)?;
    Ok((dir, lock))
}

/// Takes the lock, and waits for it a moment: a process that has just been killed keeps it until it is gone, and so does a child of
/// ours that is about to become another program.
fn patient_lock(lock: &File) -> Result<(), TryLockError> {
    let until = Instant::now() + LOCK_PATIENCE;
    loop {
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) if Instant::now() < until => std::thread::sleep(LOCK_PAUSE),
            locked => return locked,
        }
    }
}

/// A file system without locks (some network folders) is no reason not to train.
fn check_lock(locked: Result<(), TryLockError>, dir: &Path) -> Result<(), TrainError> {
    match locked {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(TrainError::Locked { dir: dir.to_owned() }),
        Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {
            let dir = dir.display();
            tracing::warn!("the file system of `{dir}` has no locks: see to it that no other process works there");
            Ok(())
        }
        Err(TryLockError::Error(error)) => Err(files::io_error("lock", &dir.join(LOCK))(error)),
    }
}

/// Whether there is a run in the folder to go on with. Refuses a run that isn't to be resumed, and a folder without a run
/// that has other things in it than what a process leaves that is killed before it has written its config.
fn is_known(dir: &Path, checkpoints: &Checkpoints, resume: bool) -> Result<bool, TrainError> {
    if config::exists(dir) || !checkpoints.steps()?.is_empty() {
        return if resume { Ok(true) } else { Err(TrainError::HoldsAnotherRun { dir: dir.to_owned() }) };
    }
    let is_leftover =
        |name: &str| name == LOCK || files::hidden_original(name).is_some_and(|name| NAMES.contains(&name));
    for entry in fs::read_dir(dir).map_err(files::io_error("read", dir))? {
        let name = entry.map_err(files::io_error("read", dir))?.file_name().to_string_lossy().into_owned();
        if !is_leftover(&name) {
            let dir = dir.to_owned();
            let refusal = TrainError::ForeignFolder { dir: dir.clone(), found: name };
            return Err(if resume { TrainError::NothingToResume { dir } } else { refusal });
        }
    }
    Ok(false)
}

/// `runs/<recipe>-<date>-<time>`, with a number if there is such a folder.
fn default_dir(parent: &Path, recipe: &str) -> PathBuf {
    let name = format!("{recipe}-{}", jiff::Zoned::now().strftime("%Y%m%d-%H%M%S"));
    let numbered = (2u32..).map(|number| parent.join(format!("{name}-{number}")));
    let mut free = std::iter::once(parent.join(&name)).chain(numbered).filter(|dir| !dir.exists());
    free.next().unwrap_or_else(|| parent.join(&name))
}

/// Brings `learner` and `state` to the newest usable checkpoint, if the run has any.
fn resume<M: Module>(
    dir: &Path,
    table: &Table,
    checkpoints: &Checkpoints,
    state: &mut State,
    learner: &mut Learner<M>,
) -> Result<Option<Checkpoint>, TrainError> {
    config::check_unchanged(dir, &config::open_config(dir)?, table)?;
    let found = checkpoints.latest()?;
    for (path, error) in &found.skipped {
        tracing::warn!("the checkpoint `{}` is skipped: {}", path.display(), error.chain());
    }
    let Some(checkpoint) = found.checkpoint else {
        if found.skipped.is_empty() {
            return Ok(None);
        }
        return Err(TrainError::no_usable_checkpoint(dir, &found.skipped));
    };
    let stored = checkpoint.state();
    if stored.config_hash != state.config_hash {
        return Err(TrainError::ConfigEdited { path: dir.join("config.toml"), step: stored.step });
    }
    check_input(dir, "data", &stored.data_hash, &state.data_hash)?;
    check_input(dir, "tokenizer", &stored.tokenizer_hash, &state.tokenizer_hash)?;
    check_input(dir, "value of --overfit", &stored.overfit, &state.overfit)?;
    check_input(dir, "value of --precision", &Some(&stored.precision), &Some(&state.precision))?;
    load(&checkpoint, learner)
        .map_err(|source| TrainError::LoadFailed { path: checkpoint.dir().to_owned(), source: Box::new(source) })?;
    *state = stored.clone();
    Ok(Some(checkpoint))
}

fn load<M: Module>(checkpoint: &Checkpoint, learner: &mut Learner<M>) -> Result<(), TrainError> {
    let state = checkpoint.state();
    learner.load_parameters(checkpoint.model()?)?;
    learner.load_optimizer(checkpoint.optimizer()?)?;
    learner.load_window(state.window.clone());
    if let Some(warning) = learner.schedule().outlived(state.schedule.decay) {
        tracing::warn!("{warning}");
    }
    let schedule = learner.schedule().with_steps(state.schedule.warmup, state.schedule.decay);
    learner.set_schedule(schedule);
    Ok(())
}

fn check_input<T: PartialEq + ToString>(
    dir: &Path,
    what: &'static str,
    stored: &Option<T>,
    given: &Option<T>,
) -> Result<(), TrainError> {
    if stored == given {
        return Ok(());
    }
    let text = |value: &Option<T>| value.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string);
    Err(TrainError::InputChanged { dir: dir.to_owned(), what, stored: text(stored), given: text(given) })
}

/// A summary that can't be read is as good as none: it is written again at the end.
fn read_summary(dir: &Path) -> Option<Summary> {
    Summary::open(dir).unwrap_or_else(|error| {
        tracing::warn!("{}", error.chain());
        None
    })
}

/// Whether the run of `summary` ended as it should and has no steps left.
fn is_complete(summary: &Summary, state: &State, max_steps: u64) -> bool {
    let ended = summary.stopped_early || state.step >= max_steps;
    ended && !summary.interrupted && summary.error.is_none() && summary.steps == state.step
}

/// Removes what the end of a run left that goes on: its summary, and the mean of checkpoints that are no longer its last.
fn remove_stale(dir: &Path) -> Result<(), TrainError> {
    let (summary, averaged) = (dir.join("summary.json"), dir.join(AVERAGED));
    if summary.exists() {
        fs::remove_file(&summary).map_err(files::io_error("remove", &summary))?;
    }
    if averaged.exists() {
        fs::remove_dir_all(&averaged).map_err(files::io_error("remove", &averaged))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_is_held_is_refused_and_one_that_cannot_be_is_not() {
        let check = |kind: io::ErrorKind| check_lock(Err(TryLockError::Error(kind.into())), Path::new("run"));
        check(io::ErrorKind::Unsupported).unwrap();
        assert!(matches!(check(io::ErrorKind::PermissionDenied), Err(TrainError::Io { action: "lock", .. })));
        let held = check_lock(Err(TryLockError::WouldBlock), Path::new("run"));
        assert!(matches!(held, Err(TrainError::Locked { .. })));
    }

    #[test]
    fn default_folders_are_named_by_recipe_and_time_and_never_shared() {
        let parent = tempfile::tempdir().unwrap();
        let first = default_dir(parent.path(), "gpt-lm");
        let name = first.file_name().unwrap().to_str().unwrap();
        let shape: String = name.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert_eq!(shape, "gpt-lm-00000000-000000");
        // The clock may tick between two names; both seconds are taken.
        for _ in 0..3 {
            let dir = default_dir(parent.path(), "gpt-lm");
            assert!(!dir.exists());
            fs::create_dir(&dir).unwrap();
        }
    }
}
