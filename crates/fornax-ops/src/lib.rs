//! Differentiable tensor operations that transformers need, in a reference form made of plain tensor operations.

mod context;

pub use context::{Context, RandomKey};
