//! Checkpoints: folders `step-000500/{model.bpk, optimizer.bpk, state.json}` that are complete or absent.

mod average;
mod pack;
mod state;

use std::{
    cmp::Reverse,
    fs, io,
    path::{Path, PathBuf},
};

pub use average::average_checkpoints;
pub use pack::NamedTensors;
pub use state::{Evaluation, FileDigest, ScheduleSteps, State};

use crate::{TrainError, files};

const MODEL: &str = "model.bpk";
const OPTIMIZER: &str = "optimizer.bpk";
const STATE: &str = "state.json";

/// The `checkpoints/` folder of a run.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    dir: PathBuf,
}

/// A checkpoint whose files are all there and have the sizes and hashes that `state.json` records.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    state: State,
}

/// What a look for the newest usable checkpoint found.
#[derive(Debug)]
pub struct Found {
    /// The newest checkpoint that verifies.
    pub checkpoint: Option<Checkpoint>,
    /// The newer ones that don't, newest first, with what is wrong with them.
    pub skipped: Vec<(PathBuf, TrainError)>,
}

impl Checkpoints {
    /// The checkpoints of the run in `run_dir`; nothing is read or created.
    pub fn of_run(run_dir: &Path) -> Self {
        Self { dir: run_dir.join("checkpoints") }
    }

    /// The folder of the checkpoint after `step` steps.
    pub fn path(&self, step: u64) -> PathBuf {
        self.dir.join(format!("step-{step:06}"))
    }

    /// The steps of all checkpoint folders, oldest first; whether they verify is not looked at.
    ///
    /// # Errors
    ///
    /// When the folder can't be read; a folder that doesn't exist is empty.
    pub fn steps(&self) -> Result<Vec<u64>, TrainError> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(files::io_error("read", &self.dir))?,
        };
        let mut steps = Vec::new();
        for entry in entries {
            let name = entry.map_err(files::io_error("read", &self.dir))?.file_name();
            steps.extend(name.to_str().and_then(|name| self.step_of(name)));
        }
        steps.sort_unstable();
        Ok(steps)
    }

    /// The step of a checkpoint folder's name.
    fn step_of(&self, name: &str) -> Option<u64> {
        let step = name.strip_prefix("step-")?.parse().ok()?;
        // Written back, so that a folder of somebody else's, `step-7`, is not taken for `step-000007`.
        self.path(step).ends_with(name).then_some(step)
    }

    /// Writes the checkpoint of `state.step`; the tensors of each file are asked for when it is written, and dropped with it.
    ///
    /// # Errors
    ///
    /// [`TrainError::SaveFailed`], which says which checkpoint is kept; nothing half-written remains.
    pub fn write(
        &self,
        state: &mut State,
        model: impl FnOnce() -> Result<NamedTensors, TrainError>,
        optimizer: impl FnOnce() -> Result<NamedTensors, TrainError>,
    ) -> Result<Checkpoint, TrainError> {
        let path = self.path(state.step);
        let fill = |dir: &Path| {
            pack::write(&dir.join(MODEL), model()?)?;
            pack::write(&dir.join(OPTIMIZER), optimizer()?)?;
            state.files.clear();
            for name in [MODEL, OPTIMIZER] {
                let (size, sha256) = files::digest_file(&dir.join(name))?;
                state.files.insert(name.to_owned(), FileDigest { size, sha256 });
            }
            files::write_json(&dir.join(STATE), state)
        };
        let written = files::create_dir(&self.dir).and_then(|()| files::write_dir(&path, fill));
        match written {
            Ok(()) => Ok(Checkpoint { dir: path, state: state.clone() }),
            Err(source) => {
                Err(TrainError::SaveFailed { kept: self.kept_beside(&path), path, source: Box::new(source) })
            }
        }
    }

    /// Says which checkpoint remains after a failed write of `path`.
    pub(crate) fn kept_beside(&self, path: &Path) -> String {
        match self.latest() {
            Ok(Found { checkpoint: Some(kept), .. }) if kept.dir != path => {
                format!("the checkpoint of step {} is kept in `{}`", kept.state.step, kept.dir.display())
            }
            _ => "there is no earlier checkpoint".to_owned(),
        }
    }

    /// The newest checkpoint that verifies, and the newer ones that don't.
    ///
    /// # Errors
    ///
    /// When the folder itself can't be read.
    pub fn latest(&self) -> Result<Found, TrainError> {
        let mut skipped = Vec::new();
        for step in self.steps()?.into_iter().rev() {
            match Checkpoint::open(&self.path(step)) {
                Ok(checkpoint) => return Ok(Found { checkpoint: Some(checkpoint), skipped }),
                Err(error) => skipped.push((self.path(step), error)),
            }
        }
        Ok(Found { checkpoint: None, skipped })
    }

    /// Deletes all checkpoints up to `newest`, which was just written, but `keep_last` of them, that one included, and `best`.
    ///
    /// Those of the steps that `is_due` names are kept before those that were written for another reason: a run that was
    /// interrupted, or that found a new best model on the way, has the same of them as one that was not.
    ///
    /// A folder of a later step is no checkpoint of this run as it now stands: the run went back behind it because it
    /// doesn't verify. It neither counts nor is it deleted; the run replaces it when it gets there.
    ///
    /// A folder that can't be removed is a warning.
    ///
    /// # Errors
    ///
    /// When the folder of all checkpoints can't be read.
    pub fn retain(
        &self,
        keep_last: usize,
        newest: u64,
        best: Option<u64>,
        is_due: impl Fn(u64) -> bool,
    ) -> Result<(), TrainError> {
        let mut steps: Vec<u64> = self.steps()?.into_iter().filter(|&step| step <= newest).collect();
        steps.sort_by_key(|&step| Reverse((step == newest, is_due(step), step)));
        for &step in steps.iter().skip(keep_last.max(1)) {
            if Some(step) != best
                && let Err(error) = files::delete_dir(&self.path(step))
            {
                tracing::warn!("an old checkpoint is left behind: {}", error.chain());
            }
        }
        Ok(())
    }

    /// Removes what a killed process left half-written.
    pub(crate) fn recover(&self) -> Result<(), TrainError> {
        files::recover(&self.dir, |name| self.step_of(name).is_some())
    }
}

impl Checkpoint {
    /// Opens and verifies a checkpoint folder: every file is read once.
    ///
    /// # Errors
    ///
    /// When a file is missing, has another size or hash than recorded, or is of a newer format.
    pub fn open(dir: &Path) -> Result<Self, TrainError> {
        let state: State = files::read_json(&dir.join(STATE))?;
        for name in [MODEL, OPTIMIZER] {
            let path = dir.join(name);
            let damaged = |problem| TrainError::Damaged { path: path.clone(), problem };
            let expected = state.files.get(name).ok_or_else(|| damaged("state.json does not list it".to_owned()))?;
            let size = fs::metadata(&path).map_err(files::io_error("read", &path))?.len();
            if size != expected.size {
                return Err(damaged(format!("it has {size} bytes, state.json records {}", expected.size)));
            }
            let (_, sha256) = files::digest_file(&path)?;
            if sha256 != expected.sha256 {
                return Err(damaged(format!("its sha256 is {sha256}, state.json records {}", expected.sha256)));
            }
        }
        Ok(Self { dir: dir.to_owned(), state })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// All of it that is not a tensor.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The model's tensors by parameter path.
    ///
    /// # Errors
    ///
    /// When the file can't be read.
    pub fn model(&self) -> Result<NamedTensors, TrainError> {
        pack::read(&self.dir.join(MODEL))
    }

    /// The optimizer's tensors.
    ///
    /// # Errors
    ///
    /// When the file can't be read.
    pub fn optimizer(&self) -> Result<NamedTensors, TrainError> {
        pack::read(&self.dir.join(OPTIMIZER))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;
    use fornax_backend::Precision;
    use proptest::prelude::*;

    use super::*;
    use crate::{Schedule, ScheduleConfig};

    fn tensors(value: f32) -> NamedTensors {
        vec![("weight".to_owned(), TensorData::new(vec![value; 300], [300]))]
    }

    fn fresh() -> State {
        let schedule = Schedule::new(&ScheduleConfig::default(), 1e-3, 100).unwrap();
        State::fresh(1, "config".into(), Precision::F32, &schedule)
    }

    fn write(checkpoints: &Checkpoints, step: u64) -> Result<Checkpoint, TrainError> {
        let mut state = fresh();
        state.step = step;
        checkpoints.write(&mut state, || Ok(tensors(step as f32)), || Ok(tensors(0.5)))
    }

    fn run_with(steps: &[u64]) -> (tempfile::TempDir, Checkpoints) {
        let dir = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::of_run(dir.path());
        for &step in steps {
            write(&checkpoints, step).unwrap();
        }
        (dir, checkpoints)
    }

    #[test]
    fn what_is_written_is_read() {
        let (_dir, checkpoints) = run_with(&[500]);
        let found = checkpoints.latest().unwrap().checkpoint.unwrap();
        assert!(found.dir().ends_with("checkpoints/step-000500"));
        assert_eq!(found.state().step, 500);
        assert_eq!(found.model().unwrap(), tensors(500.0));
        assert_eq!(found.optimizer().unwrap(), tensors(0.5));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        /// Whatever is cut off whichever file, the checkpoint is skipped by name and the one before it is used.
        #[test]
        fn a_truncated_checkpoint_falls_back(file in 0usize..3, cut in 0.0f64..1.0) {
            let (_dir, checkpoints) = run_with(&[10, 20]);
            let path = checkpoints.path(20).join([MODEL, OPTIMIZER, STATE][file]);
            let bytes = fs::read(&path).unwrap();
            // The final newline of state.json carries nothing.
            let length = ((bytes.len() - 1) as f64 * cut) as usize;
            fs::write(&path, &bytes[..length]).unwrap();
            let found = checkpoints.latest().unwrap();
            prop_assert_eq!(found.checkpoint.unwrap().state().step, 10);
            prop_assert_eq!(&found.skipped[0].0, &checkpoints.path(20));
        }

        #[test]
        fn a_flipped_bit_falls_back(file in 0usize..2, place in 0.0f64..1.0, bit in 0u8..8) {
            let (_dir, checkpoints) = run_with(&[10, 20]);
            let path = checkpoints.path(20).join([MODEL, OPTIMIZER][file]);
            let mut bytes = fs::read(&path).unwrap();
            let index = (bytes.len() as f64 * place) as usize;
            bytes[index] ^= 1 << bit;
            fs::write(&path, &bytes).unwrap();
            prop_assert_eq!(checkpoints.latest().unwrap().checkpoint.unwrap().state().step, 10);
        }

        /// Retention keeps the newest, as many before it that were due as there is room for, and the best, whatever was saved when.
        #[test]
        fn retention_keeps_newest_due_and_best(count in 1u64..8, keep_last in 0usize..4, best in 0u64..8, every in 1u64..4) {
            let dir = tempfile::tempdir().unwrap();
            let checkpoints = Checkpoints::of_run(dir.path());
            let all: Vec<u64> = (1..=count).map(|i| i * 10).collect();
            fs::create_dir_all(dir.path().join("checkpoints/step-7")).unwrap();
            for &step in &all {
                fs::create_dir_all(checkpoints.path(step)).unwrap();
            }
            let best = Some(best * 10);
            let is_due = |step: u64| step.is_multiple_of(10 * every);
            checkpoints.retain(keep_last, count * 10, best, is_due).unwrap();
            let (newest, earlier) = all.split_last().unwrap();
            let (due, others): (Vec<u64>, Vec<u64>) = earlier.iter().rev().partition(|&&step| is_due(step));
            let kept = [vec![*newest], due, others].concat();
            let kept = &kept[..kept.len().min(keep_last.max(1))];
            let expected: Vec<u64> =
                all.iter().copied().filter(|step| kept.contains(step) || Some(*step) == best).collect();
            prop_assert_eq!(checkpoints.steps().unwrap(), expected);
        }
    }

    #[test]
    fn missing_files_and_newer_formats_fall_back() {
        let (_dir, checkpoints) = run_with(&[10, 20, 30]);
        fs::remove_file(checkpoints.path(20).join(OPTIMIZER)).unwrap();
        let state = checkpoints.path(30).join(STATE);
        let newer = fs::read_to_string(&state).unwrap().replace("\"format_version\": 1", "\"format_version\": 2");
        fs::write(&state, newer).unwrap();
        let found = checkpoints.latest().unwrap();
        assert_eq!(found.checkpoint.unwrap().state().step, 10);
        assert!(matches!(found.skipped[0].1, TrainError::NewerFormat { found: 2, .. }));
        assert!(found.skipped[1].1.to_string().contains(OPTIMIZER));
    }

    #[test]
    fn a_checkpoint_that_went_bad_does_not_count_and_is_replaced() {
        let (_dir, checkpoints) = run_with(&[10, 20, 30]);
        fs::write(checkpoints.path(30).join(MODEL), "damaged").unwrap();
        write(&checkpoints, 25).unwrap();
        checkpoints.retain(1, 25, None, |_| true).unwrap();
        assert_eq!(checkpoints.steps().unwrap(), [25, 30]);
        assert_eq!(checkpoints.latest().unwrap().checkpoint.unwrap().state().step, 25);
        write(&checkpoints, 30).unwrap();
        assert_eq!(checkpoints.latest().unwrap().checkpoint.unwrap().state().step, 30);
    }

    #[test]
    fn an_old_checkpoint_that_cannot_be_deleted_is_left() {
        let (_dir, checkpoints) = run_with(&[10, 20, 30]);
        // Something in the way of the folder's last name.
        fs::write(checkpoints.dir.join(".step-000010.gone"), "").unwrap();
        checkpoints.retain(1, 30, None, |_| true).unwrap();
        assert_eq!(checkpoints.steps().unwrap(), [10, 30]);
    }

    #[test]
    fn a_failing_export_keeps_the_previous_checkpoint_and_says_so() {
        let (_dir, checkpoints) = run_with(&[10]);
        let mut state = fresh();
        state.step = 20;
        let error = checkpoints
            .write(&mut state, || Ok(tensors(1.0)), || Err(TrainError::ResumeNeedsRunDir))
            .unwrap_err()
            .to_string();
        assert!(error.contains("step-000020") && error.contains("checkpoint of step 10 is kept"), "{error}");
        assert_eq!(fs::read_dir(&checkpoints.dir).unwrap().count(), 1);
        assert_eq!(checkpoints.latest().unwrap().checkpoint.unwrap().state().step, 10);
    }

    /// A disk that takes no more: the kernel refuses to let any file of a child process grow beyond 4 KiB. The limit
    /// holds for the whole process, hence the child; it holds for root too.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_keeps_the_previous_checkpoint() {
        const DIR: &str = "FORNAX_TEST_FULL_DISK";
        const NAME: &str = "checkpoint::tests::a_full_disk_keeps_the_previous_checkpoint";
        if let Some(dir) = std::env::var_os(DIR) {
            use nix::sys::resource::{Resource, setrlimit};
            signal_hook::flag::register(signal_hook::consts::SIGXFSZ, std::sync::Arc::default()).unwrap();
            setrlimit(Resource::RLIMIT_FSIZE, 4096, 4096).unwrap();
            let mut state = fresh();
            state.step = 20;
            let big = vec![("weight".to_owned(), TensorData::new(vec![1f32; 50_000], [50_000]))];
            let error = Checkpoints::of_run(Path::new(&dir)).write(&mut state, || Ok(big), || Ok(vec![])).unwrap_err();
            let TrainError::SaveFailed { source, kept, .. } = error else { panic!("{error}") };
            let TrainError::Pack { source, path, .. } = *source else { panic!("{source}") };
            assert!(path.ends_with(MODEL) && source.to_string().contains("File too large"), "{source}");
            assert!(kept.contains("step 10"));
            return;
        }
        let (dir, checkpoints) = run_with(&[10]);
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", NAME, "--nocapture"])
            .env(DIR, dir.path())
            .output()
            .unwrap();
        let output = String::from_utf8_lossy(&child.stdout).into_owned() + &String::from_utf8_lossy(&child.stderr);
        assert!(child.status.success() && output.contains("1 passed"), "{output}");
        assert_eq!(fs::read_dir(&checkpoints.dir).unwrap().count(), 1);
        assert_eq!(checkpoints.latest().unwrap().checkpoint.unwrap().state().step, 10);
    }
}
