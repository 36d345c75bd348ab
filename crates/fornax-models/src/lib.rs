//! Models of Fornax, their Hugging Face checkpoints and text generation.

mod error;
mod gpt2;

pub mod generate;
pub mod hf;

pub use error::ModelError;
pub use gpt2::{Gpt2, Gpt2Block, Gpt2Config};
