//! Text to tokens to examples to host batches. Knows no tensors and no devices.

mod batch;
mod blocks;
mod chunks;
pub mod dataset;
mod denoising;
mod denoising_blocks;
mod denoising_config;
mod error;
mod files;
pub mod inspect;
pub mod labelled;
mod loader;
mod masked_batch;
mod masked_blocks;
mod masking;
pub mod pairs;
mod plan;
mod prefix_lm;
mod progress;
mod random;
mod sampler;
mod sentence_pairs;
mod seq2seq_batch;
pub mod source;
mod span_corruption;
pub mod store;
mod suggest;
pub mod text_tasks;
pub mod tokenizer;

/// The name of threads whose panics are caught and dealt with: a program's hook has nothing to say of them.
pub const CAUGHT: &str = "fornax-caught";

pub use batch::{IGNORE_TARGET, TokenBatch};
pub use blocks::{BlockBatches, Blocks, Tail};
pub use dataset::DataConfig;
pub use denoising::Denoising;
pub use denoising_blocks::{DenoisingBatches, DenoisingBlocks};
pub use denoising_config::{DenoiserConfig, DenoisingConfig, DenoisingKind};
pub use error::DataError;
pub use loader::{BatchSource, Loader, LoaderOptions};
pub use masked_batch::{MaskedBatch, MaskedBatches, MaskedExamples};
pub use masked_blocks::MaskedBlocks;
pub use masking::{Masking, MaskingConfig};
pub use plan::{BatchPlan, DrawnPlan, FirstSteps, SequentialPlan, ShuffledPlan, StepPlan, StepSize};
pub use sampler::{Order, Sampler};
pub use sentence_pairs::{PairKind, SentencePairs};
pub use seq2seq_batch::{Fill, Seq2SeqBatch};
pub use source::{Document, Part, Source, Split, Splits};
pub use span_corruption::{CorruptedLengths, NoiseSpans, restore as restore_spans};
pub use store::{StoreOptions, TokenStore};
pub use suggest::closest;
pub use tokenizer::{SpecialToken, TextStream, Tokenizer, TokenizerConfig, TokenizerKind};
