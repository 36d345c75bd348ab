use std::cmp::Ordering;

use fornax_ops::RandomKey;

use super::SamplingOptions;

/// Chooses the next token of one row.
///
/// `logits` are those of the row's last position, one a token of the vocabulary, finite or -∞ where a token is forbidden, but not
/// all of them; `history` is its prompt and what was generated so far. `row` and `position` (tokens generated so far) key the draw.
pub(super) fn next_token(
    mut logits: Vec<f32>,
    history: &[u32],
    options: &SamplingOptions,
    row: usize,
    position: usize,
) -> u32 {
    penalise(&mut logits, history, options.repetition_penalty, 0.0);
    if options.temperature == 0.0 {
        return argmax(&logits);
    }
    let candidates = candidates(&logits, options);
    draw(&candidates, uniform(options.seed, row, position))
}

/// Makes tokens of `history` less likely, each once however often it stands there. What counts as positive or negative is the
/// logit less `log_total`.
pub(super) fn penalise(logits: &mut [f32], history: &[u32], penalty: f64, log_total: f64) {
    if penalty == 1.0 {
        return;
    }
    let mut seen = history.to_vec();
    seen.sort_unstable();
    seen.dedup();
    for token in seen {
        let logit = &mut logits[token as usize];
        let value = f64::from(*logit) - log_total;
        let penalised = if value > 0.0 { value / penalty } else { value * penalty };
        *logit = (penalised + log_total) as f32;
    }
}

fn argmax(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().reduce(|best, next| if next.1 > best.1 { next } else { best });
    best.map_or(0, |(token, _)| token as u32)
}

/// The tokens that top-k and top-p keep, likeliest first, with probabilities that add to one.
fn candidates(logits: &[f32], options: &SamplingOptions) -> Vec<(u32, f64)> {
    let likelier = |a: &(u32, f64), b: &(u32, f64)| -> Ordering { b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)) };
    // Relative to the largest before the division, so that no temperature is too small for it.
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let scaled = logits.iter().map(|x| (f64::from(*x) - f64::from(largest)) / options.temperature);
    let mut kept: Vec<(u32, f64)> = (0..).zip(scaled).collect();
    if let Some(k) = options.top_k.filter(|k| *k < kept.len()) {
        // Sorting a vocabulary of 50,000 for each token would cost more than a small model's step.
        kept.select_nth_unstable_by(k - 1, likelier);
        kept.truncate(k);
    }
    kept.sort_unstable_by(likelier);
    kept.iter_mut().for_each(|(_, x)| *x = x.exp());
    normalise(&mut kept);
    if options.top_p < 1.0 {
        // What the likelier ones add up to; the first is always kept.
        let before = kept.iter().scan(0.0, |total, (_, p)| Some(std::mem::replace(total, *total + p)));
        let nucleus = before.take_while(|total| *total < options.top_p).count();
        kept.truncate(nucleus);
        normalise(&mut kept);
    }
    kept
}

/// Makes weights add to one.
fn normalise(weights: &mut [(u32, f64)]) {
    let total: f64 = weights.iter().map(|(_, x)| x).sum();
    weights.iter_mut().for_each(|(_, x)| *x /= total);
}

/// The token at `uniform` of the cumulative distribution.
fn draw(candidates: &[(u32, f64)], uniform: f64) -> u32 {
    let mut left = uniform;
    for (token, p) in candidates {
        left -= p;
        if left < 0.0 {
            return *token;
        }
    }
    // Rounding can leave a sliver above the last token that may be drawn.
    candidates.iter().rev().find(|(_, p)| *p > 0.0).map_or(0, |(token, _)| *token)
}

/// A number in `[0, 1)` that is a function of its arguments: no generator state, so rows and steps are independent.
fn uniform(seed: u64, row: usize, position: usize) -> f64 {
    let bits = RandomKey::new(seed).fold(row as u64).fold(position as u64).value();
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [0.0, 2.0, 1.0, 2.0, -3.0];

    fn kept(options: &SamplingOptions) -> Vec<u32> {
        candidates(&LOGITS, options).into_iter().map(|(token, _)| token).collect()
    }

    #[test]
    fn top_k_keeps_the_likeliest_and_of_equals_the_lower_ids() {
        let top = |k| kept(&SamplingOptions { top_k: Some(k), ..SamplingOptions::default() });
        assert_eq!(top(1), [1]);
        assert_eq!(top(3), [1, 3, 2]);
        assert_eq!(top(99), [1, 3, 2, 0, 4]);
    }

    #[test]
    fn top_p_keeps_the_smallest_set_that_reaches_it() {
        // Probabilities: 0.3995 0.3995 0.1470 0.0541 0.0027 hold for tokens 1, 3, 2, 0, 4.
        let top = |p| kept(&SamplingOptions { top_p: p, ..SamplingOptions::default() });
        assert_eq!(top(1e-9), [1]);
        assert_eq!(top(0.39), [1]);
        assert_eq!(top(0.41), [1, 3]);
        assert_eq!(top(0.90), [1, 3, 2]);
        assert_eq!(top(1.0), [1, 3, 2, 0, 4]);
    }

    #[test]
    fn what_is_kept_is_a_distribution_and_keeps_its_ratios() {
        let options = SamplingOptions { top_k: Some(4), top_p: 0.9, temperature: 0.5, ..SamplingOptions::default() };
        let kept = candidates(&LOGITS, &options);
        assert!((kept.iter().map(|(_, p)| p).sum::<f64>() - 1.0).abs() < 1e-12);
        let two = candidates(&LOGITS, &SamplingOptions { top_p: 1.0, ..options });
        assert!((two[0].1 / two[2].1 - 2.0_f64.exp()).abs() < 1e-9, "a logit apart at temperature 0.5");
    }

    #[test]
    fn the_smallest_temperature_is_greedy() {
        let options = SamplingOptions { temperature: f64::MIN_POSITIVE, ..SamplingOptions::default() };
        assert_eq!(next_token(vec![1.0, 3.0, 2.0], &[], &options, 0, 0), 1);
    }

    #[test]
    fn repetition_penalty_lowers_each_seen_token_once() {
        let mut logits = LOGITS.to_vec();
        penalise(&mut logits, &[1, 4, 1, 0], 2.0, 0.0);
        assert_eq!(logits, [0.0, 1.0, 1.0, 2.0, -6.0]);
        let greedy = SamplingOptions { repetition_penalty: 2.0, ..SamplingOptions::greedy(1) };
        assert_eq!(next_token(LOGITS.to_vec(), &[], &greedy, 0, 0), 1);
        assert_eq!(next_token(LOGITS.to_vec(), &[1], &greedy, 0, 0), 3);
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let options = SamplingOptions { seed: 7, ..SamplingOptions::default() };
        let expected = candidates(&LOGITS, &options);
        let draws = 20_000;
        let mut counts = [0.0; 5];
        for position in 0..draws {
            counts[next_token(LOGITS.to_vec(), &[], &options, position % 3, position) as usize] += 1.0;
        }
        for (token, p) in expected {
            let (mean, deviation) = (p * f64::from(draws as u32), (p * (1.0 - p) * f64::from(draws as u32)).sqrt());
            let count: f64 = counts[token as usize];
            assert!((count - mean).abs() < 4.5 * deviation, "token {token}: {count} of {mean}");
        }
    }

    #[test]
    fn rows_positions_and_seeds_draw_differently() {
        let draws: Vec<f64> = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)].map(|(s, r, p)| uniform(s, r, p)).into();
        for (i, a) in draws.iter().enumerate() {
            assert!((0.0..1.0).contains(a));
            assert!(draws[..i].iter().all(|b| b != a));
        }
    }
}
