//! Text to tokens to examples to host batches. Knows no tensors and no devices.

mod error;
pub mod source;

pub use error::DataError;
pub use source::{Document, Source};
