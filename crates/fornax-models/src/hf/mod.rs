//! Hugging Face checkpoints: folders with `config.json` and `safetensors` weights, read and written.
//!
//! An architecture is one file here: how its `config.json` maps to our configuration, and a [`TensorTable`] with the name
//! and layout of each parameter. Everything else (shards, half precision, prefixes, reports, atomic writing) is shared.

mod archive;
mod bert;
mod check;
mod config_file;
mod gpt2;
mod report;
mod t5;
mod table;
mod transformer;
mod write;

#[cfg(test)]
mod tests;

pub use archive::Archive;
pub use bert::{
    HeadKind, LoadClassifier, load_bert, load_bert_for_masked_lm, load_bert_for_pretraining,
    load_bert_for_sequence_classification, open_bert_config, open_bert_head, open_bert_pooling, save_bert,
    save_bert_for_masked_lm, save_bert_for_pretraining, save_bert_for_sequence_classification, save_bert_lora,
};
pub use config_file::{CONFIG, ConfigFile};
pub use gpt2::{load_gpt2, open_gpt2_config, save_gpt2};
pub use report::{LoadReport, TensorProblem};
pub use t5::{load_t5, open_t5_config, save_t5, save_t5_with};
pub use table::{Demand, Entry, Layout, TensorTable};
pub use transformer::{TransformerText, load_transformer, open_transformer_config, save_transformer};
pub use write::{HostTensor, write_beside, write_safetensors};
