use super::Seq2SeqOptions;

/// A target that is done.
#[derive(Clone, Debug, PartialEq)]
pub struct Hypothesis {
    /// Without the start token and the stop token.
    pub tokens: Vec<u32>,
    /// The stop token that ended it; none where it reached its limit.
    pub stop: Option<u32>,
    /// The logarithm of its probability, divided by `len ^ length_penalty`, where `len` counts its stop token; at most 0. Forced
    /// tokens have probability 1.
    pub score: f64,
}

/// A target so far.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Prefix {
    /// With the start token, which is never taken away.
    pub(super) tokens: Vec<u32>,
    pub(super) log_probability: f64,
}

impl Prefix {
    pub(super) fn start(options: &Seq2SeqOptions) -> Self {
        Self { tokens: vec![options.start_token], log_probability: 0.0 }
    }

    pub(super) fn last_token(&self) -> u32 {
        self.tokens[self.tokens.len() - 1]
    }

    /// Tokens after the start token.
    pub(super) fn new_tokens(&self) -> usize {
        self.tokens.len() - 1
    }

    /// One token longer, with the log-probability of the whole.
    pub(super) fn extended(&self, token: u32, log_probability: f64) -> Self {
        let mut tokens = Vec::with_capacity(self.tokens.len() + 1);
        tokens.extend_from_slice(&self.tokens);
        tokens.push(token);
        Self { tokens, log_probability }
    }

    /// The hypothesis that this is, if it ends here: with a stop token or at the limit.
    pub(super) fn hypothesis(&self, limit: usize, options: &Seq2SeqOptions) -> Option<Hypothesis> {
        let stop = self.tokens[1..].last().copied().filter(|token| options.stop_tokens.contains(token));
        (stop.is_some() || self.new_tokens() >= limit).then(|| self.ended(stop, options))
    }

    /// The hypothesis that this is where nothing may follow.
    pub(super) fn ended(&self, stop: Option<u32>, options: &Seq2SeqOptions) -> Hypothesis {
        let len = self.new_tokens();
        let shown = if stop.is_some() { len } else { len + 1 };
        Hypothesis {
            tokens: self.tokens[1..shown].to_vec(),
            stop,
            score: options.score(self.log_probability, len.max(1)),
        }
    }
}
