use fornax_backend::Precision;
use serde::{Deserialize, Serialize};

use super::super::SamplingOptions;
use crate::ModelError;

/// When beam search is content with the hypotheses that a row has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EarlyStopping {
    /// When there are `num_beams` and the best unfinished beam, at its present length, scores no better than the worst of them
    /// (`false` in `transformers`, its default). A guess where longer targets score higher.
    #[default]
    Heuristic,
    /// As soon as there are `num_beams` (`true` in `transformers`).
    FirstFinished,
    /// When no unfinished beam could become better than the worst of `num_beams`, were it to go on to the longest target without
    /// losing probability (`"never"` in `transformers`): exact, and the slowest.
    Never,
}

/// How a target is chosen, and when it ends.
///
/// The default is greedy. With `num_beams` above 1 it is beam search as `transformers` 5 has it, and with a `temperature` above 0
/// each target is drawn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Seq2SeqOptions {
    /// What every target begins with: the decoder's first input, never returned.
    pub start_token: u32,
    /// What stands after it in every target, such as the token of a language; returned.
    pub forced_first_token: Option<u32>,
    /// A target ends with one of these, which is not returned.
    pub stop_tokens: Vec<u32>,
    /// What ends a target that reaches its limit, whatever the model says; one of the stop tokens.
    pub forced_last_token: Option<u32>,
    /// The most tokens of a target, its stop token included; see `max_new_tokens_per_source_token`. No target is longer than the
    /// model's own limit.
    pub max_new_tokens: usize,
    /// Adds to `max_new_tokens` as many for each token of the source, rounded down: 1 with `max_new_tokens = 50` in Vaswani et
    /// al. (2017).
    pub max_new_tokens_per_source_token: f64,
    /// A stop token is not taken before as many other tokens.
    pub min_new_tokens: usize,
    /// No run of as many tokens stands twice in a target, the start token included; 1 forbids all repetition.
    pub no_repeat_ngram_size: Option<usize>,
    /// As [`SamplingOptions::repetition_penalty`], over the target alone; in beam search on log-probabilities.
    pub repetition_penalty: f64,
    /// Targets for each source: the best ones of beam search, or as many draws.
    pub num_return: usize,
    /// Beams of a row; 1 is no beam search.
    pub num_beams: usize,
    /// A hypothesis scores its log-probability divided by its length to this power, so that a larger one favours long targets; 0
    /// counts probability alone. (That of Wu et al. 2016, which the paper uses, is another formula.)
    pub length_penalty: f64,
    /// When beam search is content.
    pub early_stopping: EarlyStopping,
    /// As [`SamplingOptions::temperature`].
    pub temperature: f64,
    /// As [`SamplingOptions::top_k`].
    pub top_k: Option<usize>,
    /// As [`SamplingOptions::top_p`].
    pub top_p: f64,
    /// As [`SamplingOptions::seed`].
    pub seed: u64,
    /// Compute type of matrix products and attention; in no config, as it belongs to a device. Scores are `f32` in each.
    #[serde(skip)]
    pub precision: Precision,
}

impl Default for Seq2SeqOptions {
    fn default() -> Self {
        Self {
            // Those of T5, which starts with its padding token.
            start_token: 0,
            stop_tokens: vec![1],
            forced_first_token: None,
            forced_last_token: None,
            max_new_tokens: 100,
            max_new_tokens_per_source_token: 0.0,
            min_new_tokens: 0,
            no_repeat_ngram_size: None,
            repetition_penalty: 1.0,
            num_return: 1,
            num_beams: 1,
            length_penalty: 1.0,
            early_stopping: EarlyStopping::default(),
            temperature: 0.0,
            top_k: None,
            top_p: 1.0,
            seed: 0,
            precision: Precision::F32,
        }
    }
}

impl Seq2SeqOptions {
    /// The likeliest next token, up to `max_new_tokens` times or until a stop token.
    pub fn greedy(start_token: u32, stop_tokens: Vec<u32>, max_new_tokens: usize) -> Self {
        Self { start_token, stop_tokens, max_new_tokens, ..Self::default() }
    }

    /// The best target of `num_beams` beams.
    pub fn beams(num_beams: usize, start_token: u32, stop_tokens: Vec<u32>, max_new_tokens: usize) -> Self {
        Self { num_beams, ..Self::greedy(start_token, stop_tokens, max_new_tokens) }
    }

    /// Refuses values without a meaning, for a model with `vocab_size` target tokens.
    ///
    /// # Errors
    ///
    /// Names the option, its value and what it may be.
    pub fn validate(&self, vocab_size: usize) -> Result<(), ModelError> {
        self.sampling().validate(vocab_size)?;
        self.validate_tokens(vocab_size)?;
        self.validate_lengths()?;
        self.validate_search()
    }

    fn validate_tokens(&self, vocab_size: usize) -> Result<(), ModelError> {
        let tokens = [
            ("start_token", Some(self.start_token)),
            ("forced_first_token", self.forced_first_token),
            ("forced_last_token", self.forced_last_token),
        ];
        for (option, token) in tokens {
            if let Some(token) = token.filter(|token| *token as usize >= vocab_size) {
                return refuse(option, token, format!("below the vocabulary size {vocab_size}"));
            }
        }
        match self.forced_last_token.filter(|token| !self.stop_tokens.contains(token)) {
            Some(token) => refuse("forced_last_token", token, "one of stop_tokens"),
            None => Ok(()),
        }
    }

    fn validate_lengths(&self) -> Result<(), ModelError> {
        let rate = self.max_new_tokens_per_source_token;
        if !(rate >= 0.0 && rate.is_finite()) {
            return refuse("max_new_tokens_per_source_token", rate, "at least 0");
        }
        if rate == 0.0 && self.max_new_tokens == 0 {
            return refuse("max_new_tokens", 0, "at least 1 where max_new_tokens_per_source_token is 0");
        }
        if rate == 0.0 && self.min_new_tokens > self.max_new_tokens {
            let wanted = format!("at most max_new_tokens = {}", self.max_new_tokens);
            return refuse("min_new_tokens", self.min_new_tokens, wanted);
        }
        match self.no_repeat_ngram_size {
            Some(0) => refuse("no_repeat_ngram_size", 0, "at least 1 (leave it out to allow all)"),
            _ => Ok(()),
        }
    }

    fn validate_search(&self) -> Result<(), ModelError> {
        if self.num_beams == 0 {
            return refuse("num_beams", 0, "at least 1 (1 is no beam search)");
        }
        if self.num_beams > 1 && self.temperature != 0.0 {
            return refuse("temperature", self.temperature, "0 with num_beams above 1: beam search draws nothing");
        }
        if !self.length_penalty.is_finite() {
            return refuse("length_penalty", self.length_penalty, "a finite number (0 counts probability alone)");
        }
        let most = if self.temperature == 0.0 { self.num_beams } else { usize::MAX };
        if self.num_return == 0 || self.num_return > most {
            let wanted = format!("at least 1 and, without a temperature, at most num_beams = {}", self.num_beams);
            return refuse("num_return", self.num_return, wanted);
        }
        Ok(())
    }

    /// How a single token is drawn.
    pub(super) fn sampling(&self) -> SamplingOptions {
        SamplingOptions {
            max_new_tokens: self.max_new_tokens,
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            repetition_penalty: self.repetition_penalty,
            stop_tokens: self.stop_tokens.clone(),
            seed: self.seed,
            precision: self.precision,
        }
    }

    /// The most tokens of the target of one source, which is at least one and at most `positions`.
    pub(super) fn limit(&self, source_len: usize, positions: Option<usize>) -> usize {
        // A target beyond 2^53 tokens is limited by memory first.
        let share = (self.max_new_tokens_per_source_token * source_len as f64) as usize;
        self.max_new_tokens.saturating_add(share).min(positions.unwrap_or(usize::MAX)).max(1)
    }

    /// What a hypothesis of `len` tokens, its stop token included, scores.
    pub(super) fn score(&self, log_probability: f64, len: usize) -> f64 {
        log_probability / (len as f64).powf(self.length_penalty)
    }
}

fn refuse(option: &'static str, value: impl std::fmt::Display, wanted: impl Into<String>) -> Result<(), ModelError> {
    Err(ModelError::SamplingOption { option, value: value.to_string(), wanted: wanted.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meaningless_options_are_refused_by_name() {
        let base = || Seq2SeqOptions { num_beams: 4, ..Seq2SeqOptions::default() };
        let cases = [
            (Seq2SeqOptions { start_token: 10, ..base() }, "start_token = 10: must be below the vocabulary size 10"),
            (Seq2SeqOptions { forced_first_token: Some(11), ..base() }, "forced_first_token = 11: must be below"),
            (
                Seq2SeqOptions { forced_last_token: Some(2), ..base() },
                "forced_last_token = 2: must be one of stop_tokens",
            ),
            (Seq2SeqOptions { stop_tokens: vec![12], ..base() }, "stop_tokens = 12: must be below"),
            (Seq2SeqOptions { max_new_tokens: 0, ..base() }, "max_new_tokens = 0: must be at least 1 where"),
            (
                Seq2SeqOptions { max_new_tokens_per_source_token: -1.0, ..base() },
                "max_new_tokens_per_source_token = -1: must be at least 0",
            ),
            (
                Seq2SeqOptions { min_new_tokens: 101, ..base() },
                "min_new_tokens = 101: must be at most max_new_tokens = 100",
            ),
            (
                Seq2SeqOptions { no_repeat_ngram_size: Some(0), ..base() },
                "no_repeat_ngram_size = 0: must be at least 1",
            ),
            (Seq2SeqOptions { repetition_penalty: 0.0, ..base() }, "repetition_penalty = 0"),
            (Seq2SeqOptions { num_beams: 0, ..base() }, "num_beams = 0: must be at least 1"),
            (Seq2SeqOptions { temperature: 0.5, ..base() }, "temperature = 0.5: must be 0 with num_beams above 1"),
            (Seq2SeqOptions { length_penalty: f64::NAN, ..base() }, "length_penalty = NaN: must be a finite number"),
            (Seq2SeqOptions { num_return: 0, ..base() }, "num_return = 0: must be at least 1"),
            (
                Seq2SeqOptions { num_return: 5, ..base() },
                "num_return = 5: must be at least 1 and, without a temperature",
            ),
        ];
        for (options, message) in cases {
            let error = options.validate(10).unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
        base().validate(10).unwrap();
        Seq2SeqOptions { num_return: 5, temperature: 1.0, ..Seq2SeqOptions::default() }.validate(10).unwrap();
        assert!(serde_json::from_str::<Seq2SeqOptions>(r#"{"num_beam": 3}"#).is_err());
        let read = serde_json::from_str::<Seq2SeqOptions>(r#"{"num_beams": 3, "early_stopping": "first_finished"}"#);
        assert_eq!(read.unwrap().early_stopping, EarlyStopping::FirstFinished);
    }

    #[test]
    fn a_limit_grows_with_the_source_up_to_the_models() {
        let options =
            Seq2SeqOptions { max_new_tokens: 3, max_new_tokens_per_source_token: 1.5, ..Seq2SeqOptions::default() };
        assert_eq!([1, 2, 4].map(|len| options.limit(len, None)), [4, 6, 9]);
        assert_eq!(options.limit(4, Some(7)), 7);
        let share = Seq2SeqOptions { max_new_tokens: 0, max_new_tokens_per_source_token: 0.1, ..options };
        assert_eq!(share.limit(5, None), 1, "half a token is rounded up to one");
    }
}
