use super::Seq2SeqOptions;

/// What options allow to follow a target so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// This token alone, whose probability then is 1.
    Forced(u32),
    /// Every token whose logit is not -∞.
    Free,
}

/// Takes forbidden tokens out of the logits, as -∞.
///
/// `tokens` is the target so far, with the start token, and `limit` the most tokens after that.
pub(super) fn constrain(logits: &mut [f32], tokens: &[u32], limit: usize, options: &Seq2SeqOptions) -> Next {
    let new = tokens.len() - 1;
    // Where both apply the last one wins, as in `transformers`.
    let last = options.forced_last_token.filter(|_| new + 1 == limit);
    if let Some(token) = last.or(options.forced_first_token.filter(|_| new == 0)) {
        return Next::Forced(token);
    }
    if new < options.min_new_tokens {
        options.stop_tokens.iter().for_each(|token| logits[*token as usize] = f32::NEG_INFINITY);
    }
    if let Some(size) = options.no_repeat_ngram_size {
        // The tokens that followed each earlier occurrence of the last `size - 1`.
        let tail = &tokens[tokens.len().saturating_sub(size - 1)..];
        let repeated = tokens.windows(size).filter(|run| run[..size - 1] == *tail);
        repeated.for_each(|run| logits[run[size - 1] as usize] = f32::NEG_INFINITY);
    }
    Next::Free
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forbidden(tokens: &[u32], options: &Seq2SeqOptions) -> Vec<usize> {
        let mut logits = [0.0; 6];
        assert_eq!(constrain(&mut logits, tokens, 9, options), Next::Free);
        (0..6).filter(|token| logits[*token] == f32::NEG_INFINITY).collect()
    }

    #[test]
    fn what_would_repeat_a_run_is_forbidden() {
        let options = |size| Seq2SeqOptions { no_repeat_ngram_size: Some(size), ..Seq2SeqOptions::default() };
        let tokens = [0, 4, 5, 2, 4, 5, 3, 4, 5];
        assert_eq!(forbidden(&tokens, &options(1)), [0, 2, 3, 4, 5]);
        assert_eq!(forbidden(&tokens, &options(2)), [2, 3]);
        assert_eq!(forbidden(&tokens, &options(3)), [2, 3]);
        assert_eq!(forbidden(&tokens, &options(4)), [] as [usize; 0]);
        assert_eq!(forbidden(&[0, 4], &options(4)), [] as [usize; 0], "a target shorter than the run");
    }

    #[test]
    fn stop_tokens_wait_for_the_minimum() {
        let options = Seq2SeqOptions { stop_tokens: vec![1, 3], min_new_tokens: 2, ..Seq2SeqOptions::default() };
        assert_eq!(forbidden(&[0, 4], &options), [1, 3]);
        assert_eq!(forbidden(&[0, 4, 4], &options), [] as [usize; 0]);
    }

    #[test]
    fn the_first_and_the_last_token_can_be_forced() {
        let options =
            Seq2SeqOptions { forced_first_token: Some(5), forced_last_token: Some(1), ..Seq2SeqOptions::default() };
        let next = |tokens: &[u32], limit| constrain(&mut [0.0; 6], tokens, limit, &options);
        assert_eq!(next(&[0], 3), Next::Forced(5));
        assert_eq!(next(&[0, 5], 3), Next::Free);
        assert_eq!(next(&[0, 5, 2], 3), Next::Forced(1));
        assert_eq!(next(&[0], 1), Next::Forced(1));
    }
}
