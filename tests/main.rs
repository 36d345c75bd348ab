//! Integration tests: the programs as processes, and what crosses the borders of crates.
//!
//! - [`bad_input`]: whatever a user, a file or a disk does wrong ends in one clear error with the right exit code, and nothing is lost.
//! - [`bench`]: `fornax bench` measures, saves and compares.
//! - [`device`]: a model learns the same on every backend; CI runs these again with `FORNAX_TEST_DEVICE=wgpu` and `=libtorch`.
//! - [`docs`]: pages, links and configs in the repository are right.
//! - [`encoders`]: pretraining and fine-tuning of encoders, from a text to predictions.
//! - [`exactness`]: a run that was killed, interrupted or repeated is the run that was not, bit for bit.
//! - [`micro_batch`]: a micro-batch that is left to trials is a number from the first step on.
//! - [`other_programs`]: names that other programs for training have lead to the keys of Fornax.
//! - [`pipelines`]: what encoder-decoders write, and how it is scored, from a folder to printed lines.
//! - [`program`]: command lines, printed text and the files of a run are as documented.
//! - [`text2text`]: an encoder-decoder from hidden spans and tasks to answers.
//! - [`translation`]: encoder-decoders learn to translate, from parallel files to the translations of a test set.

// Helpers of tests fail as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bad_input;
mod bench;
mod device;
mod docs;
mod encoders;
mod exactness;
mod micro_batch;
mod other_programs;
mod pipelines;
mod program;
mod text2text;
mod translation;

use fornax_tests::Lab;

/// A scratch folder for the programs of this build.
fn lab() -> Lab {
    Lab::new(env!("CARGO_BIN_EXE_under-test"))
}
