//! Training on any backend: the learner, and what a run leaves on disk and shows on the console.

mod accumulator;
mod bench;
mod cadence;
mod checkpoint;
mod config;
mod console;
mod dry_run;
mod environment;
mod error;
mod evaluate;
mod exact;
mod files;
mod gradients;
mod learner;
mod loss_scale;
mod memory;
mod metrics;
mod micro_batch;
mod optimizer;
mod options;
mod parameters;
mod run;
mod schedule;
mod scores;
mod signals;
mod summary;
mod task;
#[cfg(test)]
mod testing;

pub use accumulator::{TermTotal, Totals};
pub use bench::{Bench, BenchReport, BenchStep};
pub use cadence::Cadence;
pub use checkpoint::{
    Checkpoint, Checkpoints, Evaluation, FileDigest, Found, NamedTensors, ScheduleSteps, State, average_checkpoints,
};
pub use config::{CheckpointConfig, EvalConfig, ScheduleConfig, ScheduleName, TrainConfig, displaced_by};
pub use dry_run::{Estimate, Rehearsal, parameter_table, rehearse};
pub use environment::RunInfo;
pub use error::{BoxError, TrainError};
pub use evaluate::{Metrics, evaluate, evaluate_examples};
pub use files::{FORMAT_VERSION, check_writable, write_atomic};
pub use learner::{Learner, LearnerSettings, StepStats, Window};
pub use memory::{available_memory_bytes, peak_memory_bytes};
pub use metrics::{TrainLine, read_metrics};
pub use micro_batch::MicroBatch;
pub use optimizer::{AdafactorConfig, AdamConfig, OptimizerConfig, OptimizerRule};
pub use options::Options;
pub use parameters::{ParameterInfo, export_parameters, load_parameters, parameters};
pub use run::{Run, check_run_folder, open_config};
pub use schedule::Schedule;
pub use scores::{Confusion, Correlation, ScoreKind, Scores};
pub use signals::Interrupt;
pub use summary::{Best, EXIT_INTERRUPTED, Summary};
pub use task::{BatchSize, Sums, Task, Term};
