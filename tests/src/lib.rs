//! What the integration tests share: a scratch folder with the programs as processes, a small corpus, and readers for what a
//! run leaves.

// All of it serves tests: what fails here is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod lab;
mod run_folder;
mod text;

pub use lab::{Lab, Outcome, Running, cpu, test_device_name};
pub use run_folder::RunFolder;
pub use text::sentences;
