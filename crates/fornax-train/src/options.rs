use std::path::PathBuf;

use fornax_backend::Precision;

use crate::{Checkpoints, TrainError};

/// How a recipe is started: everything that is not part of its config. The command line fills it.
#[derive(Clone, Debug)]
pub struct Options {
    /// A device name such as `auto`, `flex` or `vulkan:0`.
    pub device: String,
    /// The compute type of matrix products and attention.
    pub precision: Precision,
    /// The run folder; by default `runs/<recipe>-<date>-<time>`.
    pub run_dir: Option<PathBuf>,
    /// Continue the run in `run_dir` at its last complete checkpoint.
    pub resume: bool,
    /// Show what would be trained, run one step, leave nothing.
    pub dry_run: bool,
    /// Train on this many batches only, over and over.
    pub overfit: Option<usize>,
    /// Time this many steps instead of training.
    pub bench: Option<usize>,
}

impl Options {
    /// Whether a checkpoint of the run will replace the first weights.
    ///
    /// # Errors
    ///
    /// When the folder of checkpoints can't be read.
    pub fn has_checkpoint(&self) -> Result<bool, TrainError> {
        match &self.run_dir {
            Some(dir) if self.resume => Ok(!Checkpoints::of_run(dir).steps()?.is_empty()),
            _ => Ok(false),
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            device: "auto".to_owned(),
            precision: Precision::F32,
            run_dir: None,
            resume: false,
            dry_run: false,
            overfit: None,
            bench: None,
        }
    }
}
