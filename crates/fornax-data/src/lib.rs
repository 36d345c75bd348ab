//! Text to tokens to examples to host batches. Knows no tensors and no devices.

mod batch;
mod blocks;
mod chunks;
pub mod dataset;
mod error;
mod files;
pub mod inspect;
pub mod labelled;
mod loader;
mod masked_batch;
mod masked_blocks;
mod masking;
mod plan;
mod progress;
mod random;
mod sampler;
mod sentence_pairs;
mod seq2seq_batch;
pub mod source;
pub mod store;
pub mod tokenizer;

pub use batch::{IGNORE_TARGET, TokenBatch};
pub use blocks::{BlockBatches, Blocks, Tail};
pub use dataset::DataConfig;
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
pub use store::{StoreOptions, TokenStore};
pub use tokenizer::{SpecialToken, TextStream, Tokenizer, TokenizerConfig, TokenizerKind};
