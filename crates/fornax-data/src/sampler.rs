use crate::random::{keyed, mix};

/// Rounds of the Feistel network; four already hide the order, eight make small sets look uniform too.
const ROUNDS: usize = 8;
/// A domain of at least 2^8 keeps the order of a handful of examples random: tiny Feistel halves have few permutations.
const MIN_HALF_BITS: u32 = 4;

/// Orders of `0..len`: one permutation for each `(seed, epoch)`, computed index by index, so that there is nothing to store or to save.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampler {
    len: u64,
}

impl Sampler {
    /// A sampler of `len` examples.
    pub fn new(len: u64) -> Self {
        Self { len }
    }

    /// How many examples one epoch visits.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is nothing to visit.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The order in which epoch `epoch` of a run with seed `seed` visits the examples.
    pub fn order(&self, seed: u64, epoch: u64) -> Order {
        let bits = u64::BITS - self.len.saturating_sub(1).leading_zeros();
        let half_bits = bits.div_ceil(2).max(MIN_HALF_BITS);
        let keys = std::array::from_fn(|round| keyed(&[seed, epoch, round as u64]));
        Order { len: self.len, half_bits, keys }
    }
}

/// One permutation of `0..len`: a balanced Feistel network over the next even power of two, walked until it falls into the range
/// (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).
#[derive(Clone, Debug)]
pub struct Order {
    len: u64,
    half_bits: u32,
    keys: [u64; ROUNDS],
}

impl Order {
    /// The example at `position`. Constant memory; the domain is at most four times `len` (256 for small sets), so a walk is short.
    ///
    /// # Panics
    ///
    /// If `position >= len`.
    pub fn index(&self, position: u64) -> u64 {
        assert!(position < self.len, "position {position} of an order over {} examples", self.len);
        let mut index = self.permute(position);
        while index >= self.len {
            index = self.permute(index);
        }
        index
    }

    /// The whole order.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        (0..self.len).map(|position| self.index(position))
    }

    fn permute(&self, word: u64) -> u64 {
        let mask = (1u64 << self.half_bits) - 1;
        let (mut left, mut right) = (word >> self.half_bits, word & mask);
        for key in self.keys {
            (left, right) = (right, left ^ (mix(right ^ key) & mask));
        }
        left << self.half_bits | right
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn order_is_a_permutation(len in 1u64..3000, seed: u64, epoch in 0u64..1000) {
            let mut seen: Vec<u64> = Sampler::new(len).order(seed, epoch).iter().collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..len).collect::<Vec<_>>());
        }

        #[test]
        fn epoch_and_seed_change_the_order(len in 20u64..500, seed in 0u64..1000, epoch in 0u64..1000) {
            let order = |seed, epoch| Sampler::new(len).order(seed, epoch).iter().collect::<Vec<_>>();
            prop_assert_ne!(order(seed, epoch), order(seed, epoch + 1));
            prop_assert_ne!(order(seed, epoch), order(seed + 1, epoch));
            prop_assert_eq!(order(seed, epoch), order(seed, epoch));
        }

        #[test]
        fn huge_sets_stay_in_range(len in (u64::MAX / 2)..u64::MAX, position in 0u64..1000) {
            prop_assert!(Sampler::new(len).order(1, 2).index(position) < len);
        }
    }

    #[test]
    fn three_examples_come_in_all_six_orders_about_equally_often() {
        let mut counts = std::collections::BTreeMap::new();
        for epoch in 0..6000 {
            *counts.entry(Sampler::new(3).order(1, epoch).iter().collect::<Vec<_>>()).or_insert(0u32) += 1;
        }
        // A standard deviation is 29.
        assert_eq!(counts.len(), 6);
        assert!(counts.values().all(|count| (850..1150).contains(count)), "{counts:?}");
    }
}
