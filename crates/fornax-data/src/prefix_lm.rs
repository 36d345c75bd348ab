//! Prefix language modelling (Raffel et al., 2020): the encoder reads the beginning of a block, the decoder writes the rest.

use crate::random::below;

/// How many tokens of a block of `block` tokens are the prefix: at least one, and at least one follows it.
///
/// The length of the rest is uniform from 1 to almost twice its mean `noise_density * block`. At a density of one half, any prefix is
/// as likely, as in T5 (`random_prefix_noise_mask`); at one quarter it is UL2's sequential denoiser.
pub(crate) fn prefix_len(block: usize, noise_density: f64, key: u64) -> usize {
    let longest_rest = (2.0 * noise_density * block as f64).round() as usize;
    let longest_rest = longest_rest.saturating_sub(1).clamp(1, block.saturating_sub(1).max(1));
    block.saturating_sub(1 + below(key, longest_rest as u64) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::keyed;

    /// How often each prefix length comes in 100,000 draws.
    fn counts(block: usize, noise_density: f64) -> Vec<f64> {
        let mut counts = vec![0.0; block + 1];
        for i in 0..100_000 {
            counts[prefix_len(block, noise_density, keyed(&[5, i]))] += 1.0;
        }
        counts
    }

    /// Asserts that the lengths `range` are as likely and no other comes.
    fn assert_uniform(counts: &[f64], range: std::ops::RangeInclusive<usize>) {
        let cells = range.clone().count() as f64;
        let expected = 100_000.0 / cells;
        let inside: f64 = counts[range.clone()].iter().map(|count| (count - expected).powi(2) / expected).sum();
        // Chi-square with `cells - 1` degrees of freedom: five standard deviations around its mean.
        let freedom = cells - 1.0;
        assert!((inside - freedom).abs() < 5.0 * (2.0 * freedom).sqrt(), "{inside} for {freedom} degrees of freedom");
        assert_eq!(counts[range].iter().sum::<f64>(), 100_000.0);
    }

    #[test]
    fn every_prefix_is_as_likely_at_one_half() {
        assert_uniform(&counts(20, 0.5), 1..=19);
        // An odd length has no middle to round to.
        assert_uniform(&counts(21, 0.5), 1..=20);
    }

    #[test]
    fn a_quarter_is_written_on_average() {
        let counts = counts(200, 0.25);
        assert_uniform(&counts, 101..=199);
        let mean: f64 = counts.iter().enumerate().map(|(prefix, count)| (200 - prefix) as f64 * count).sum();
        // One of 100,000 draws has a standard deviation of 28.6.
        assert!((mean / 100_000.0 - 50.0).abs() < 0.5, "{mean}");
    }

    #[test]
    fn both_sides_have_a_token() {
        for noise_density in [0.001, 0.25, 0.5] {
            for (block, key) in [(2, 0), (2, u64::MAX), (3, 0), (3, u64::MAX)] {
                let prefix = prefix_len(block, noise_density, key);
                assert!((1..block).contains(&prefix), "{prefix} of {block}");
            }
        }
        assert_eq!((prefix_len(0, 0.5, 9), prefix_len(1, 0.5, 9)), (0, 0));
    }
}
