use std::collections::HashMap;
use std::hash::Hash;

/// How often each n-gram comes.
pub(crate) type Counts<'a, T> = HashMap<&'a [T], u64>;

/// The n-grams of exactly `order` items; none of a shorter text.
pub(crate) fn counts<T: Eq + Hash>(items: &[T], order: usize) -> Counts<'_, T> {
    let mut counts = HashMap::new();
    for ngram in items.windows(order) {
        *counts.entry(ngram).or_default() += 1;
    }
    counts
}

/// How many n-grams `a` and `b` have in common, each counted as often as it comes in both.
pub(crate) fn common<T: Eq + Hash>(a: &Counts<'_, T>, b: &Counts<'_, T>) -> u64 {
    a.iter().map(|(ngram, count)| b.get(ngram).map_or(0, |other| *count.min(other))).sum()
}

/// How many n-grams of `order` items a text of `length` items has.
pub(crate) fn total(length: usize, order: usize) -> u64 {
    (length + 1).saturating_sub(order) as u64
}
