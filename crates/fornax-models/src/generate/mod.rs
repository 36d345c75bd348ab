//! Text generation with a decoder: greedy and sampled, several prompts of different lengths at once.

mod causal_lm;
mod decode;
mod options;
mod sampler;

pub use causal_lm::CausalLm;
pub use decode::generate;
pub use options::SamplingOptions;
