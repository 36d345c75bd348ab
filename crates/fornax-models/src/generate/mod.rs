//! Text generation with a decoder: greedy and sampled, several prompts of different lengths at once.

mod causal_lm;
mod decode;
mod options;
mod sampler;
mod seq2seq_lm;

pub use causal_lm::CausalLm;
pub use decode::{Flow, generate};
pub use options::SamplingOptions;
pub use seq2seq_lm::Seq2SeqLm;
