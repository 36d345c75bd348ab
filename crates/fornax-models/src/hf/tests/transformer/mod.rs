//! The Transformer, against what `tests/fixtures/generate_transformer.py` wrote: PyTorch's own layers.

mod checkpoints;
mod parity;

use std::path::PathBuf;

use super::{Golden, fixture as any_fixture};

/// Norms after the layers, sinusoids, one table; and norms before them, learned positions, three tables and a bias.
const CASES: [&str; 2] = ["post", "pre"];

fn fixture(name: &str) -> PathBuf {
    any_fixture("transformer").join(name)
}
