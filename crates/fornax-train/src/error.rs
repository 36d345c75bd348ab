use std::{
    io,
    path::{Path, PathBuf},
};

/// What an exporter that a recipe hands in may fail with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What can go wrong between a config and a trained model.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The file system refused something.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file of a run can't be read as what it should be.
    #[error("`{}` is damaged: {problem}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A file was written by a newer version of Fornax.
    #[error("`{}` has format_version {found}; this build reads up to {supported}; hint: use the version of Fornax that wrote it", path.display())]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// The newest version that this build reads.
        supported: u64,
    },
    /// A file that is to be read back carries no `format_version`.
    #[error("`{}` has no format_version: not a file of a Fornax run", path.display())]
    NoFormatVersion {
        /// The file.
        path: PathBuf,
    },
    /// A new run was to be written into the folder of another one.
    #[error("`{}` holds another run; hint: continue it with --resume, or choose another --run-dir", dir.display())]
    HoldsAnotherRun {
        /// The run folder.
        dir: PathBuf,
    },
    /// A new run was to be written into a folder that somebody else uses.
    #[error("`{}` is no run folder and not empty: it has `{found}`; hint: choose another --run-dir, or an empty folder", dir.display())]
    ForeignFolder {
        /// The folder.
        dir: PathBuf,
        /// Something in it that no run has left there.
        found: String,
    },
    /// `--resume` names a folder without a run.
    #[error("there is no run to resume in `{}`; hint: start a new one without --resume", dir.display())]
    NothingToResume {
        /// The run folder.
        dir: PathBuf,
    },
    /// `--resume` came without `--run-dir`.
    #[error("`--resume` needs `--run-dir`: which run is to be continued?; hint: --resume --run-dir runs/NAME")]
    ResumeNeedsRunDir,
    /// Another process works in the run folder.
    #[error("another process is using the run folder `{}`; hint: wait for it, or choose another --run-dir", dir.display())]
    Locked {
        /// The run folder.
        dir: PathBuf,
    },
    /// The run has checkpoints, but none of them is complete and undamaged.
    #[error("no checkpoint of `{}` can be used: {problems}{}", dir.display(), hint.as_ref().map_or_else(String::new, |hint| format!("{HINT}{hint}")))]
    NoUsableCheckpoint {
        /// The run folder.
        dir: PathBuf,
        /// What is wrong with each, newest first.
        problems: String,
        /// What to do about the first of them that has a remedy.
        hint: Option<String>,
    },
    /// An average of no checkpoint was asked for.
    #[error("there is no checkpoint to average; hint: give at least one")]
    NothingToAverage,
    /// Checkpoints that are to be averaged are of different models.
    #[error("tensor `{name}` is {found} in `{}`, but {wanted} in `{}`; hint: average checkpoints of one model", path.display(), first.display())]
    CheckpointsDiffer {
        /// Its name.
        name: String,
        /// The file of the later checkpoint.
        path: PathBuf,
        /// Type and shape there, or that it is missing.
        found: String,
        /// The file of the first checkpoint.
        first: PathBuf,
        /// Type and shape there, or that it is missing.
        wanted: String,
    },
    /// The config differs from the one that the run began with.
    #[error("the config differs from that of the run in `{}`: {changes}; hint: a resumed run may change {}; leave all else as it was, or start a new run", dir.display(), crate::run::CHANGEABLE.join(", "))]
    ConfigChanged {
        /// The run folder.
        dir: PathBuf,
        /// Every changed key with both values.
        changes: String,
    },
    /// `config.toml` of the run folder is not the one that its checkpoints were made with.
    #[error("`{}` was edited after the checkpoint of step {step} was written; hint: restore the file, or start a new run in another --run-dir", path.display())]
    ConfigEdited {
        /// The config file.
        path: PathBuf,
        /// The checkpoint.
        step: u64,
    },
    /// The data, the tokenizer or a flag that decides what is computed differs from what the run began with.
    #[error("the {what} differs from that of the run in `{}`: the run has {stored}, now it is {given}; hint: restore it, or start a new run in another --run-dir", dir.display())]
    InputChanged {
        /// The run folder.
        dir: PathBuf,
        /// Which input.
        what: &'static str,
        /// The hash or value in the checkpoint.
        stored: String,
        /// The hash or value now.
        given: String,
    },
    /// A checkpoint could not be written; the run's earlier files are as they were.
    #[error("cannot save a checkpoint in `{}`: {}; {kept}; hint: make room or repair the folder, then continue with --resume", path.display(), source.problem_and_hint().0)]
    SaveFailed {
        /// The checkpoint's folder.
        path: PathBuf,
        /// What remains.
        kept: String,
        /// The cause.
        #[source]
        source: Box<TrainError>,
    },
    /// A checkpoint does not fit what is trained.
    #[error("cannot load the checkpoint `{}`", path.display())]
    LoadFailed {
        /// The checkpoint's folder.
        path: PathBuf,
        /// The cause.
        source: Box<TrainError>,
    },
    /// A burnpack file can't be written or read.
    #[error("cannot {action} `{}`", path.display())]
    Pack {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: burn_pack::Error,
    },
    /// The recipe's exporter failed.
    #[error("cannot export the model to `{}`", dir.display())]
    Export {
        /// The folder that was to be written.
        dir: PathBuf,
        /// The cause.
        source: BoxError,
    },
    /// The metric that chooses the best model is not among those of the evaluation.
    #[error("`train.metric_for_best` is `{metric}`, but the evaluation gives: {known}")]
    UnknownMetric {
        /// The metric that was asked for.
        metric: String,
        /// The metrics that there are.
        known: String,
    },
    /// A config key has a value that can't be used.
    #[error("`{key}`: {problem}")]
    Config {
        /// The key, with its table.
        key: String,
        /// What is wrong with its value.
        problem: String,
    },
    /// A loss or a gradient was not finite; that step and all later ones changed nothing.
    #[error(
        "the {what} of step {step}, counted from 0, is not finite ({examples}){kept}; hint: try a lower optimizer.lr or a longer warm-up"
    )]
    NonFinite {
        /// `loss`, or `gradient` where the loss was finite.
        what: &'static str,
        /// The first such step, counted from 0: so many are completed.
        step: u64,
        /// What its batch was made of.
        examples: String,
        /// Which checkpoint remains; empty outside of a run.
        kept: String,
    },
    /// No parameter of the model takes a gradient.
    #[error("no parameter of the model takes a gradient: it is frozen, or not on an autodiff device")]
    NotTrainable,
    /// A step has nothing to learn from.
    #[error("step {step}, counted from 0, has no target ({examples})")]
    NoTargets {
        /// The step, counted from 0.
        step: u64,
        /// What its batch was made of.
        examples: String,
    },
    /// An evaluation has nothing to measure.
    #[error("there is no target in the {batches} batches of the evaluation")]
    EmptyEvaluation {
        /// The number of batches.
        batches: u64,
    },
    /// The data did not yield a batch.
    #[error("cannot read the next batch")]
    Batch {
        /// The cause.
        source: BoxError,
    },
    /// A task gives a term of the loss without saying how many targets it has.
    #[error("the loss has the term `{term}`, but targets are counted for: {counted}")]
    UncountedTerm {
        /// The term.
        term: String,
        /// The terms that have counts.
        counted: String,
    },
    /// A task gives other sums than for the micro-batch before.
    #[error("the task gives the sums `{now}`, but gave `{before}` for the micro-batch before")]
    SumsChanged {
        /// Their names before.
        before: String,
        /// Their names now.
        now: String,
    },
    /// A stored state lacks a tensor.
    #[error("tensor `{name}` is missing")]
    MissingTensor {
        /// Its name.
        name: String,
    },
    /// A stored state has a tensor that the model has no place for.
    #[error("the model has no place for the tensor `{name}`")]
    UnexpectedTensor {
        /// Its name.
        name: String,
    },
    /// A stored tensor does not fit.
    #[error("tensor `{name}`: stored is {stored}, the model wants {wanted}")]
    TensorMismatch {
        /// Its name.
        name: String,
        /// Type and shape in the file.
        stored: String,
        /// Type and shape in the model.
        wanted: String,
    },
}

impl TrainError {
    /// [`NoUsableCheckpoint`](Self::NoUsableCheckpoint) of the run in `dir`, for all those that were `skipped`, newest first.
    pub(crate) fn no_usable_checkpoint(dir: &Path, skipped: &[(PathBuf, Self)]) -> Self {
        let (problems, hints): (Vec<_>, Vec<_>) = skipped.iter().map(|(_, error)| error.problem_and_hint()).unzip();
        let hint = hints.into_iter().flatten().next();
        Self::NoUsableCheckpoint { dir: dir.to_owned(), problems: problems.join("; "), hint }
    }

    /// The error and its causes on one line, each said once, and the first hint among them at the end.
    pub(crate) fn chain(&self) -> String {
        match self.problem_and_hint() {
            (problem, Some(hint)) => format!("{problem}{HINT}{hint}"),
            (problem, None) => problem,
        }
    }

    /// The two parts of [`chain`](Self::chain), for a text that goes on behind it.
    pub(crate) fn problem_and_hint(&self) -> (String, Option<String>) {
        let (mut problem, mut found) = (String::new(), None);
        let first: &dyn std::error::Error = self;
        for cause in std::iter::successors(Some(first), |error| error.source()).map(ToString::to_string) {
            let (cause, hint) =
                cause.split_once(HINT).map_or((cause.as_str(), None), |(text, hint)| (text, Some(hint)));
            if !problem.contains(cause) {
                let colon = if problem.is_empty() { "" } else { ": " };
                problem = format!("{problem}{colon}{cause}");
            }
            found = found.or_else(|| hint.map(str::to_owned));
        }
        (problem, found)
    }

    /// Names the last good checkpoint of a run, or says that there is none, where the error is one that a run recovers from by
    /// going back.
    #[must_use]
    pub fn with_checkpoint(mut self, path: Option<&Path>) -> Self {
        if let Self::NonFinite { kept, .. } = &mut self {
            *kept = match path {
                Some(path) => format!("; the last good checkpoint is `{}`", path.display()),
                None => "; there is no checkpoint yet".to_owned(),
            };
        }
        self
    }
}

/// What stands before the way out, at the end of a message.
const HINT: &str = "; hint: ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_stands_at_the_end_of_a_chain() {
        let newer = || TrainError::NewerFormat { path: "state.json".into(), found: 2, supported: 1 };
        let chain = TrainError::LoadFailed { path: "step-10".into(), source: Box::new(newer()) }.chain();
        assert_eq!(chain, format!("cannot load the checkpoint `step-10`: {}", newer()));
        let failed =
            TrainError::SaveFailed { path: "step-10".into(), kept: "all is lost".into(), source: Box::new(newer()) };
        let chain = failed.chain();
        assert_eq!(chain.matches("hint: ").count(), 1, "{chain}");
        assert!(chain.contains("reads up to 1; all is lost; hint: make room"), "{chain}");
    }
}
