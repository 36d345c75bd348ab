//! Models of Fornax, their Hugging Face checkpoints and text generation.

mod bert;
#[cfg(test)]
mod checkpointed;
mod error;
mod gpt2;
mod t5;
mod transformer;
mod validate;

pub mod generate;
pub mod hf;

pub use bert::{
    Bert, BertBlock, BertConfig, BertFamily, BertForMaskedLm, BertForPreTraining, BertForSequenceClassification,
    ClassificationHead, ClassifierConfig, LoraConfig, LoraTarget, MlmHead, Pooling, mean_pool,
};
pub(crate) use bert::{ROBERTA_PAD, with_new_head};
pub use error::ModelError;
pub use gpt2::{Gpt2, Gpt2Block, Gpt2Config};
pub use t5::{T5, T5Config, T5Decoder, T5DecoderBlock, T5Encoder, T5EncoderBlock, T5FeedForward, T5State};
pub use transformer::{
    DecoderBlock, EmbeddingInit, EncoderBlock, Positions, TieEmbeddings, Transformer, TransformerConfig,
    TransformerState,
};
