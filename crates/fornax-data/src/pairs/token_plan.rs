use crate::DataError;
use crate::plan::{BatchPlan, EpochOrders, StepPlan};
use crate::random::keyed;
use crate::sampler::Sampler;

/// Keys the order of the batches, apart from that of the examples.
const BATCH_ORDER: u64 = 1;

/// Batches of as many pairs as have room in a number of tokens; every pair once an epoch, in an order that is a function of (seed,
/// epoch).
///
/// A batch has room for `rows x longest <= tokens_per_batch`, where the longest is that of all sources and targets, filling counted:
/// fairseq's `--max-tokens`. A pair that is longer by itself is a batch of its own.
///
/// An epoch sorts all pairs by their lengths; equally long ones come in the order of the epoch's permutation. The sorted pairs are cut
/// into batches and the batches shuffled. Since the sorted lengths are the same each epoch, so are the cuts: an epoch always has the
/// same number of batches, each of the same shape, with other pairs in it.
///
/// The last step of an epoch may have fewer micro-batches. The first step of an epoch sorts it, which takes milliseconds for
/// a hundred thousand pairs; later ones look it up.
#[derive(Debug)]
pub struct TokenPlan {
    seed: u64,
    /// Source and target.
    lengths: Vec<(u32, u32)>,
    /// Where each batch ends among the sorted pairs.
    ends: Vec<usize>,
    longer: usize,
    gradient_accumulation: usize,
    orders: EpochOrders,
}

impl TokenPlan {
    /// A plan over pairs whose sources and targets have these lengths; a step takes `gradient_accumulation` batches.
    ///
    /// # Errors
    ///
    /// If a size is 0 or there is no pair.
    pub fn new(
        seed: u64,
        lengths: Vec<(u32, u32)>,
        tokens_per_batch: usize,
        gradient_accumulation: usize,
    ) -> Result<Self, DataError> {
        for (key, value) in
            [("data.tokens_per_batch", tokens_per_batch), ("train.gradient_accumulation", gradient_accumulation)]
        {
            if value == 0 {
                return Err(DataError::ConfigValue { key, value: "0".into(), expected: "at least 1".into() });
            }
        }
        if lengths.is_empty() {
            return Err(DataError::TooFewExamples { examples: 0, micro_batch_size: 1, gradient_accumulation });
        }
        let mut sorted: Vec<u32> = lengths.iter().map(|&pair| longest(pair)).collect();
        sorted.sort_unstable();
        let longer = sorted.iter().filter(|&&length| length as usize > tokens_per_batch).count();
        let ends = cut(&sorted, tokens_per_batch);
        Ok(Self { seed, lengths, ends, longer, gradient_accumulation, orders: EpochOrders::default() })
    }

    /// Pairs that are longer than `tokens_per_batch` by themselves.
    pub fn longer(&self) -> usize {
        self.longer
    }

    fn arrange(&self, epoch: u64) -> Vec<u64> {
        let mut order: Vec<u64> = Sampler::new(self.lengths.len() as u64).order(self.seed, epoch).iter().collect();
        // By the longer side first, as the cuts want it. Stable.
        order.sort_by_key(|&example| filling_order(self.lengths[example as usize]));
        order
    }

    fn batch(&self, order: &[u64], number: u64) -> Vec<u64> {
        let number = number as usize;
        let start = if number == 0 { 0 } else { self.ends[number - 1] };
        order[start..self.ends[number]].to_vec()
    }
}

fn longest((source, target): (u32, u32)) -> u32 {
    source.max(target)
}

/// The key by which pairs of source and target are sorted so that neighbours need little filling: by the longer side, then by both.
pub(crate) fn filling_order(pair: (u32, u32)) -> (u32, (u32, u32)) {
    (longest(pair), pair)
}

/// Where each batch ends, of pairs sorted by their longer side.
fn cut(sorted: &[u32], tokens_per_batch: usize) -> Vec<usize> {
    let (mut ends, mut start) = (Vec::new(), 0);
    for (at, &length) in sorted.iter().enumerate() {
        if at > start && (length as usize).saturating_mul(at + 1 - start) > tokens_per_batch {
            ends.push(at);
            start = at;
        }
    }
    ends.push(sorted.len());
    ends
}

impl BatchPlan for TokenPlan {
    fn steps_per_epoch(&self) -> u64 {
        self.ends.len().div_ceil(self.gradient_accumulation) as u64
    }

    fn step(&self, step: u64) -> StepPlan {
        let (epoch, step) = (step / self.steps_per_epoch(), step % self.steps_per_epoch());
        let order = self.orders.get(epoch, || self.arrange(epoch));
        let batches = Sampler::new(self.ends.len() as u64).order(keyed(&[self.seed, BATCH_ORDER]), epoch);
        let first = step * self.gradient_accumulation as u64;
        let end = first.saturating_add(self.gradient_accumulation as u64).min(self.ends.len() as u64);
        let micro_batches = (first..end).map(|place| self.batch(&order, batches.index(place))).collect();
        StepPlan { epoch, micro_batches }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn lengths() -> impl Strategy<Value = Vec<(u32, u32)>> {
        prop::collection::vec((1u32..60, 1u32..60), 1..400)
    }

    fn epoch_of(plan: &TokenPlan, epoch: u64) -> Vec<StepPlan> {
        let steps = plan.steps_per_epoch();
        (epoch * steps..(epoch + 1) * steps).map(|step| plan.step(step)).collect()
    }

    fn longest_of(lengths: &[(u32, u32)], batch: &[u64]) -> usize {
        batch.iter().map(|&example| longest(lengths[example as usize]) as usize).max().unwrap_or(0)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]
        #[test]
        fn each_pair_comes_once_an_epoch_and_no_batch_is_over_the_limit(
            lengths in lengths(), limit in 1usize..500, accumulation in 1usize..4, epoch in 0u64..9, seed: u64
        ) {
            let plan = TokenPlan::new(seed, lengths.clone(), limit, accumulation).unwrap();
            let steps = epoch_of(&plan, epoch);
            let (last, full) = steps.split_last().unwrap();
            prop_assert!(full.iter().all(|step| step.micro_batches.len() == accumulation));
            prop_assert!((1..=accumulation).contains(&last.micro_batches.len()));
            let mut seen = Vec::new();
            for step in steps {
                prop_assert_eq!(step.epoch, epoch);
                for batch in step.micro_batches {
                    prop_assert!(!batch.is_empty());
                    prop_assert!(batch.len() == 1 || batch.len() * longest_of(&lengths, &batch) <= limit);
                    seen.extend(batch);
                }
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..lengths.len() as u64).collect::<Vec<_>>());
        }

        #[test]
        fn steps_do_not_depend_on_what_was_asked_before(lengths in lengths(), asked in prop::collection::vec(0u64..200, 1..20)) {
            let plan = || TokenPlan::new(7, lengths.clone(), 120, 2).unwrap();
            let used = plan();
            for step in asked {
                prop_assert_eq!(used.step(step), plan().step(step));
            }
        }

        #[test]
        fn batches_are_as_full_as_the_next_pair_allows(lengths in lengths(), limit in 60usize..500) {
            let plan = TokenPlan::new(1, lengths.clone(), limit, 1).unwrap();
            let mut batches: Vec<Vec<u64>> = epoch_of(&plan, 0).into_iter().flat_map(|step| step.micro_batches).collect();
            batches.sort_by_key(|batch| longest_of(&lengths, batch));
            for next in batches.windows(2) {
                let shortest = next[1].iter().map(|&example| longest(lengths[example as usize])).min().unwrap_or(0);
                prop_assert!((next[0].len() + 1) * shortest as usize > limit || longest_of(&lengths, &next[0]) == longest_of(&lengths, &next[1]));
            }
        }
    }

    #[test]
    fn seeds_and_epochs_change_batches_and_their_order() {
        let lengths: Vec<(u32, u32)> = (0..2_000).map(|i| (1 + i % 7, 1 + i % 5)).collect();
        let plan = |seed| TokenPlan::new(seed, lengths.clone(), 64, 1).unwrap();
        let batches = |seed, epoch| epoch_of(&plan(seed), epoch).into_iter().flat_map(|it| it.micro_batches).collect();
        let first: Vec<Vec<u64>> = batches(1, 0);
        assert_eq!(first, batches(1, 0));
        for other in [batches(1, 1), batches(2, 0)] {
            assert_ne!(first, other);
            assert_eq!(first.len(), other.len());
            // Other pairs meet, not only the same batches in another order.
            let sets = |batches: &[Vec<u64>]| batches.iter().map(|it| it.iter().copied().collect()).collect();
            let (a, b): (BTreeSet<BTreeSet<u64>>, BTreeSet<BTreeSet<u64>>) = (sets(&first), sets(&other));
            assert!(a.intersection(&b).count() < first.len() / 4);
        }
        // Short and long batches alternate instead of growing.
        let longest: Vec<usize> = first.iter().map(|batch| longest_of(&lengths, batch)).collect();
        assert!(!longest.is_sorted() && longest[..20].iter().collect::<BTreeSet<_>>().len() > 3);
    }

    #[test]
    fn a_pair_over_the_limit_is_alone_and_a_size_of_0_is_refused() {
        let plan = TokenPlan::new(1, vec![(3, 2), (90, 1), (2, 80), (2, 3)], 10, 1).unwrap();
        assert_eq!(plan.longer(), 2);
        let mut batches: Vec<Vec<u64>> = epoch_of(&plan, 0).into_iter().flat_map(|it| it.micro_batches).collect();
        batches.iter_mut().for_each(|batch| batch.sort_unstable());
        batches.sort();
        assert_eq!(batches, [vec![0, 3], vec![1], vec![2]]);
        let error =
            |tokens, accumulation, pairs| TokenPlan::new(1, pairs, tokens, accumulation).unwrap_err().to_string();
        assert_eq!(error(0, 1, vec![(1, 1)]), "`data.tokens_per_batch` is 0; expected at least 1");
        assert_eq!(error(1, 0, vec![(1, 1)]), "`train.gradient_accumulation` is 0; expected at least 1");
        assert!(error(1, 1, vec![]).ends_with("but the data set has 0"));
    }
}
