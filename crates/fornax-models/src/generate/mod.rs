//! Text generation, of several inputs of different lengths at once: with a decoder greedy and sampled, with an encoder and a
//! decoder also by beam search.

mod causal_lm;
mod decode;
mod options;
mod sampler;
mod seq2seq;
mod seq2seq_lm;

pub use causal_lm::CausalLm;
pub use decode::{Flow, generate};
pub use options::SamplingOptions;
pub use seq2seq::{EarlyStopping, Hypothesis, Seq2SeqOptions, generate_seq2seq, generate_seq2seq_numbered};
pub use seq2seq_lm::Seq2SeqLm;
