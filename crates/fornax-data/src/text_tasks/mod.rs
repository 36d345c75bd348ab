//! Tasks of text to text, as T5 learns them: each row of a table becomes a source, by a template, and a target, which for a label is a
//! word. Several tasks are mixed.
//!
//! [`TaskConfig`] is one of `[[tasks]]`; [`TextTasks`] opens them; a [`TaskMixture`] gives the batches of training, drawn by
//! [`MixturePlan`]; [`TextTasks::scored`] gives what each task is measured on, by itself.

mod config;
mod mixture;
mod plan;
mod task;
mod template;

pub use config::{Mixing, MixtureConfig, TaskConfig};
pub use fornax_metrics::TextMetric;
pub use mixture::TaskMixture;
pub use plan::MixturePlan;
pub use task::{ScoredTask, TextTask, TextTasks, task_named};

#[cfg(test)]
mod tests;
