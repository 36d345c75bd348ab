//! Text to tokens to examples to host batches. Knows no tensors and no devices.

pub mod dataset;
mod error;
pub mod source;

pub use dataset::DataConfig;
pub use error::DataError;
pub use source::{Document, Part, Source, Split, Splits};
