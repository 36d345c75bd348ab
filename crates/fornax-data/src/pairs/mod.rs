//! Texts with what is to be written for them, for encoder-decoders: translation and every other task of text to text.
//!
//! [`PairConfig`] opens [`TextPairs`] out of parallel files, tables or a data set; a [`PairEncoder`] makes token ids of them, a
//! [`PairSet`]; [`PairBatches`] are its batches, sentence by sentence or sized by tokens ([`TokenPlan`]).

mod batches;
mod config;
mod encode;
mod find;
mod text_pairs;
mod token_plan;

pub use batches::PairBatches;
pub use config::{PairConfig, PairSplits, ParallelFiles};
pub use encode::{PairEncoder, PairSet};
pub use text_pairs::{TextPair, TextPairs};
pub use token_plan::TokenPlan;

pub(crate) use find::{rows_of_data_set, rows_of_files};
pub(crate) use token_plan::filling_order;

#[cfg(test)]
pub(crate) mod tests;
