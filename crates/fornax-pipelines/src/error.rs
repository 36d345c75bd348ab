use std::path::PathBuf;

use fornax_data::DataError;
use fornax_models::ModelError;

/// What can go wrong between a text and an answer.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// Model or checkpoint.
    #[error("{0}")]
    Model(#[from] ModelError),

    /// Tokenizer.
    #[error("{0}")]
    Data(#[from] DataError),

    /// A tokenizer has tokens that its model doesn't know, or another padding token than it counts on.
    #[error("model and tokenizer do not belong together: {source}")]
    Tokenizer {
        /// What does not fit.
        source: ModelError,
    },

    /// A checkpoint lacks what its answers would come from.
    #[error(
        "{}: the checkpoint has no trained head for {task}: {} missing; train one first, or choose another task",
        folder.display(),
        tensors.join(", ")
    )]
    NoHead {
        /// The folder.
        folder: PathBuf,
        /// What was asked for.
        task: &'static str,
        /// What is missing.
        tensors: Vec<String>,
    },

    /// A checkpoint has no settings for a task.
    #[error(
        "{}: `task_specific_params` has no `{task}`; {}",
        path.display(),
        if known.is_empty() { "it has no tasks: leave the task out, and give a prefix if the model was trained with one".to_owned() }
        else { format!("it has {}", known.join(", ")) }
    )]
    UnknownTask {
        /// Where they would be.
        path: PathBuf,
        /// What was asked for.
        task: String,
        /// What there is.
        known: Vec<String>,
    },

    /// A text has nothing to fill in.
    #[error("{text:?} has no {mask}")]
    NoMask {
        /// The text.
        text: String,
        /// The token that is filled in.
        mask: String,
    },

    /// What the mask stands for was cut off.
    #[error("{text:?}: a {mask} of it lies behind the {max_positions} tokens that the model reads")]
    MaskCutOff {
        /// The beginning of the text.
        text: String,
        /// The token that is filled in.
        mask: String,
        /// The longest sequence of the model.
        max_positions: usize,
    },
}
