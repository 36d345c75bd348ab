use fornax_backend::Precision;
use serde::{Deserialize, Serialize};

use crate::ModelError;

/// How the next token is chosen, and when to stop.
///
/// The logits of a row pass through, in this order (that of `transformers`): repetition penalty, temperature, top-k,
/// top-p; then one token is drawn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingOptions {
    /// The most tokens that are added to a prompt.
    pub max_new_tokens: usize,
    /// Logits are divided by it; 0 takes the likeliest token (greedy; of equals the lowest id).
    pub temperature: f64,
    /// Only the `k` likeliest tokens stay; of equals the lower ids.
    pub top_k: Option<usize>,
    /// Only the likeliest tokens stay whose probabilities together reach `top_p` (nucleus sampling, Holtzman et al.,
    /// 2020); 1 keeps all.
    pub top_p: f64,
    /// Logits of tokens that stand in the prompt or were generated are divided by it where positive and multiplied where
    /// negative (CTRL, Keskar et al., 2019); 1 changes nothing.
    pub repetition_penalty: f64,
    /// A row ends when it draws one of these; that token is neither returned nor streamed.
    pub stop_tokens: Vec<u32>,
    /// The seed of all rows. A draw is a function of seed, row number and position, never of the other rows.
    pub seed: u64,
    /// Compute type of matrix products and attention; in no config, as it belongs to a device. Logits are `f32` in each.
    #[serde(skip)]
    pub precision: Precision,
}

impl Default for SamplingOptions {
    /// Plain sampling from the model's own distribution.
    fn default() -> Self {
        Self {
            max_new_tokens: 100,
            temperature: 1.0,
            top_k: None,
            top_p: 1.0,
            repetition_penalty: 1.0,
            stop_tokens: Vec::new(),
            seed: 0,
            precision: Precision::F32,
        }
    }
}

impl SamplingOptions {
    /// The likeliest continuation of `max_new_tokens` tokens.
    pub fn greedy(max_new_tokens: usize) -> Self {
        Self { max_new_tokens, temperature: 0.0, ..Self::default() }
    }

    /// Refuses values without a meaning, for a model with `vocab_size` tokens.
    ///
    /// # Errors
    ///
    /// Names the option, its value and what it may be.
    pub fn validate(&self, vocab_size: usize) -> Result<(), ModelError> {
        let refuse = |option, value: String, wanted: &str| {
            Err(ModelError::SamplingOption { option, value, wanted: wanted.to_owned() })
        };
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return refuse("temperature", self.temperature.to_string(), "at least 0 (0 is greedy)");
        }
        if self.top_k == Some(0) {
            return refuse("top_k", "0".to_owned(), "at least 1 (leave it out to keep all tokens)");
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return refuse("top_p", self.top_p.to_string(), "above 0 and at most 1 (1 keeps all tokens)");
        }
        if !(self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite()) {
            return refuse("repetition_penalty", self.repetition_penalty.to_string(), "above 0 (1 changes nothing)");
        }
        match self.stop_tokens.iter().find(|t| **t as usize >= vocab_size) {
            Some(token) => refuse("stop_tokens", token.to_string(), &format!("below the vocabulary size {vocab_size}")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meaningless_options_are_refused_by_name() {
        let base = SamplingOptions::default;
        let cases = [
            (SamplingOptions { temperature: -0.5, ..base() }, "temperature"),
            (SamplingOptions { temperature: f64::NAN, ..base() }, "temperature"),
            (SamplingOptions { top_k: Some(0), ..base() }, "top_k"),
            (SamplingOptions { top_p: 0.0, ..base() }, "top_p"),
            (SamplingOptions { top_p: 1.5, ..base() }, "top_p"),
            (SamplingOptions { repetition_penalty: 0.0, ..base() }, "repetition_penalty"),
            (SamplingOptions { stop_tokens: vec![3, 10], ..base() }, "stop_tokens"),
        ];
        for (options, name) in cases {
            let error = options.validate(10).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
        base().validate(10).unwrap();
        let error = SamplingOptions { top_p: 1.5, ..base() }.validate(10).unwrap_err();
        assert_eq!(error.to_string(), "top_p = 1.5: must be above 0 and at most 1 (1 keeps all tokens)");
    }
}
