//! What every Fornax program shares on the command line: TOML configs with `--set`, the flags of a run, and how errors
//! reach people and exit codes.

mod child;
mod config;
mod folder;
mod foreign;
mod micro_batch;
mod program;
mod run_args;
mod start;

pub use child::{ChildError, Figures};
pub use config::{ConfigError, Loaded, load};
pub use folder::model_folder;
pub use program::{Ending, Interrupted, Usage, UsageContext, main_with};
pub use run_args::RunArgs;
pub use start::{ModelTable, Start, first_weights, resolve_model};
