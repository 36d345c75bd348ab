use std::{
    fmt::Write as _,
    io,
    path::{Path, PathBuf},
};

use fornax_backend::Precision;

use crate::hf::TensorProblem;

/// What can go wrong with models, their checkpoints and generation.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A configuration that describes no model.
    #[error("model.{key} = {value}: {reason}")]
    Config {
        /// The key of the `[model]` table.
        key: &'static str,
        /// Its value.
        value: String,
        /// What it should be.
        reason: String,
    },

    /// A precision that a model can't be computed in.
    #[error("{model} in precision {precision}: {reason}")]
    Precision {
        /// The model.
        model: &'static str,
        /// The precision.
        precision: Precision,
        /// What happens in it, and which to use.
        reason: &'static str,
    },

    /// Names of classes that a classifier can't have.
    #[error("labels: {reason}")]
    Labels {
        /// What is wrong with them.
        reason: String,
    },

    /// A file or folder can't be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },

    /// A file is not the JSON that it should be.
    #[error("{}: {source}", path.display())]
    Json {
        /// Which.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },

    /// A file is no valid safetensors file.
    #[error("{}: not a valid safetensors file: {source}", path.display())]
    Safetensors {
        /// Which.
        path: PathBuf,
        /// Why.
        source: safetensors::SafeTensorError,
    },

    /// A folder lacks what makes a checkpoint.
    #[error("{} is no Hugging Face checkpoint: it has no {lacks}", dir.display())]
    NotACheckpoint {
        /// The folder.
        dir: PathBuf,
        /// The missing file.
        lacks: String,
    },

    /// A folder has its weights in Python's pickle format only, which can run code when it is read.
    #[error(
        "{}: pickled weights are not read; convert them once with transformers: \
         `X.from_pretrained({dir:?}).save_pretrained(...)`, where X is the class that config.json names",
        path.display()
    )]
    Pickle {
        /// The pickle.
        path: PathBuf,
        /// Its folder.
        dir: PathBuf,
    },

    /// An index names a shard that isn't in its folder.
    #[error("{}: tensor `{tensor}` is in shard `{shard}`, which is not a file of the same folder", index.display())]
    MissingShard {
        /// The index.
        index: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shard that it should be in.
        shard: String,
    },

    /// A shard lacks a tensor that the index says it has.
    #[error("{}: tensor `{tensor}` should be in {}, but is not", index.display(), shard.display())]
    NotInShard {
        /// The index.
        index: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shard.
        shard: PathBuf,
    },

    /// `config.json` is of another architecture.
    #[error("{}: model_type is `{found}`; supported here: {supported}", path.display())]
    UnsupportedModel {
        /// The file.
        path: PathBuf,
        /// Its `model_type`.
        found: String,
        /// Those that can be loaded here.
        supported: String,
    },

    /// A key of `config.json` has a value that our model has no counterpart of.
    #[error("{}: `{key}` {reason}", path.display())]
    ConfigKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is wrong with it.
        reason: String,
    },

    /// Tensors of a checkpoint don't fit the model.
    #[error("{}: {} of the checkpoint's tensors do not fit the model{}", dir.display(), problems.len(), lines(problems))]
    Weights {
        /// The folder.
        dir: PathBuf,
        /// One for each tensor.
        problems: Vec<TensorProblem>,
    },

    /// An option of generation has no meaning.
    #[error("{option} = {value}: must be {wanted}")]
    SamplingOption {
        /// Its name.
        option: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        wanted: String,
    },

    /// A prompt has no token to continue from.
    #[error("prompt {row} is empty; give at least one token, such as the end-of-text token")]
    EmptyPrompt {
        /// The number of the prompt.
        row: usize,
    },

    /// A prompt has a token that the model doesn't know.
    #[error("prompt {row}: token {token} is outside the model's vocabulary of {vocab_size}; is this its tokenizer?")]
    TokenOutsideVocabulary {
        /// The number of the prompt.
        row: usize,
        /// The token.
        token: u32,
        /// The size of the vocabulary.
        vocab_size: usize,
    },

    /// A source has no token to read.
    #[error("source {row} is empty; give at least one token, such as the one that ends a text")]
    EmptySource {
        /// The number of the source.
        row: usize,
    },

    /// A source is longer than the model can read.
    #[error("source {row} has {len} tokens, and the model reads at most {max}; cut it, or split it into sentences")]
    SourceTooLong {
        /// The number of the source.
        row: usize,
        /// Its tokens.
        len: usize,
        /// The most that can be read.
        max: usize,
    },

    /// A source has a token that the model doesn't know.
    #[error("source {row}: token {token} is outside the source vocabulary of {vocab_size}; is this its tokenizer?")]
    SourceTokenOutsideVocabulary {
        /// The number of the source.
        row: usize,
        /// The token.
        token: u32,
        /// The size of the vocabulary.
        vocab_size: usize,
    },

    /// The model computed infinities or NaN.
    #[error("row {row}: the logits of token {position} are not finite; the weights are damaged or training diverged")]
    NonFiniteLogits {
        /// The number of the prompt or source.
        row: usize,
        /// The place of the token that was to be chosen.
        position: usize,
    },
}

impl ModelError {
    pub(crate) fn io(path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), source }
    }

    pub(crate) fn json(path: &Path) -> impl Fn(serde_json::Error) -> Self {
        move |source| Self::Json { path: path.to_owned(), source }
    }
}

/// At most ten problems, one a line.
fn lines(problems: &[TensorProblem]) -> String {
    const SHOWN: usize = 10;
    let mut text = String::new();
    for problem in problems.iter().take(SHOWN) {
        let _ = write!(text, "\n  {problem}");
    }
    if problems.len() > SHOWN {
        let _ = write!(text, "\n  and {} more", problems.len() - SHOWN);
    }
    text
}
