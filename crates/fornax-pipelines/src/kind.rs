use std::path::Path;

use fornax_models::{
    ModelError,
    hf::{ConfigFile, HeadKind, open_bert_head},
};

use crate::{PipelineError, text2text::MODEL_TYPES};

/// What a model in a folder can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelKind {
    /// An encoder, with what its head is for.
    Encoder(HeadKind),
    /// An encoder-decoder.
    Text2Text,
}

impl ModelKind {
    /// By the folder's `config.json` alone.
    ///
    /// # Errors
    ///
    /// When there is none, or no pipeline for its `model_type`; the message has all that there are.
    pub fn open(folder: &Path) -> Result<Self, PipelineError> {
        match ConfigFile::open(folder, &MODEL_TYPES) {
            Ok(_) => Ok(Self::Text2Text),
            Err(ModelError::UnsupportedModel { .. }) => match open_bert_head(folder) {
                Err(ModelError::UnsupportedModel { path, found, supported }) => {
                    let supported = format!("{supported}, {}", MODEL_TYPES.join(", "));
                    Err(ModelError::UnsupportedModel { path, found, supported }.into())
                }
                head => Ok(Self::Encoder(head?)),
            },
            Err(other) => Err(other.into()),
        }
    }
}
