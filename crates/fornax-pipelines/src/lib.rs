//! Text in, answers out: a trained model and its tokenizer behind one call, as in Hugging Face's `pipeline`.
//!
//! ```no_run
//! use fornax_pipelines::{FeatureExtraction, FillMask, Pooling, Text2Text, TextClassification};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let device = fornax_backend::open(&"auto".parse()?)?.device;
//! let classifier = TextClassification::open("runs/sst2/best".as_ref(), &device)?;
//! for answer in classifier.run(&[("a charming film", None), ("premise", Some("hypothesis"))])? {
//!     println!("{} {:.3}", answer[0].label, answer[0].score); // all classes are there, likeliest first
//! }
//! let filler = FillMask::open("runs/bert/best".as_ref(), &device)?;
//! for guess in &filler.run(&["The capital of France is [MASK]."], 5)?[0][0] {
//!     println!("{:.3} {}", guess.score, guess.sequence); // of the first text, for its first mask
//! }
//! let features = FeatureExtraction::open("path/to/minilm".as_ref(), Pooling::Mean, &device)?;
//! println!("{} numbers", features.run(&[("a text", None)])?[0].len()); // hidden_size
//! let writer = Text2Text::open("path/to/t5".as_ref(), &device)?;
//! let mut options = writer.options(Some("translation_en_to_de"))?; // prefix and search of config.json
//! options.decoding.num_beams = 4;
//! for answer in writer.run(&["The house is wonderful.", "Good night."], &options)? {
//!     println!("{:.3} {}", answer[0].score, answer[0].text); // the best of 4 beams
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A pipeline computes `batch_size` texts at a time, answers in their order, and cuts what is longer than the model reads.

mod batch;
mod error;
mod feature_extraction;
mod fill_mask;
mod kind;
mod text2text;
mod text_classification;

#[cfg(test)]
mod testing;

pub use error::PipelineError;
pub use feature_extraction::FeatureExtraction;
pub use fill_mask::{FillMask, Guess};
pub use fornax_models::Pooling;
pub use kind::ModelKind;
pub use text_classification::{LabelScore, TextClassification};
pub use text2text::{
    AnswerRow, Answers, GeneratedText, Limits, Text2Text, Text2TextModel, Text2TextOptions, Written,
    save_generation_config,
};

/// A text, or a pair of texts such as premise and hypothesis.
pub type Text<'a> = (&'a str, Option<&'a str>);

/// Texts that a pipeline computes at once unless it is told otherwise.
pub const BATCH_SIZE: usize = 32;
