//! Text with labels, for classification and regression: GLUE as its official files are or as the Hugging Face hub has it, or the
//! user's own tables.
//!
//! [`LabelledConfig`] opens [`LabelledSet`]s of [`LabelledExample`]s; [`EncodedSet`] is one of them as token ids in memory; a
//! [`BucketPlan`] or a [`LengthPlan`] says which examples make a batch, and [`LabelledBatches`] makes it. [`write_submission`] writes
//! what was predicted for a test set as <https://gluebenchmark.com> takes it.

mod batch;
mod buckets;
mod config;
mod encode;
mod example;
mod find;
mod hub;
mod read;
mod submission;
mod tasks;

pub use crate::source::{Column, TableFormat};
pub use batch::{LabelledBatch, LabelledBatches, Labels};
pub use buckets::{BucketPlan, LengthPlan};
pub use config::{LabelledConfig, LabelledSplits, ScoredSets};
pub use encode::EncodedSet;
pub use example::{Label, LabelKind, LabelledExample, LabelledSet};
pub use submission::{write_predictions, write_submission};
pub use tasks::{Columns, GlueTask, TaskInfo, TaskLabels, TaskSet};

pub(crate) use buckets::WINDOW;

#[cfg(test)]
mod tests;
