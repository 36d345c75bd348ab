use crate::plan::{BatchPlan, EpochOrders, StepPlan, StepSize};
use crate::random::keyed;
use crate::sampler::Sampler;
use crate::{DataError, SequentialPlan};

/// Steps among whose examples those of the same length are put together: enough that a step's lengths differ by little, few enough
/// that most examples meet others each epoch. Hugging Face's `LengthGroupedSampler` takes 50.
pub(crate) const WINDOW: usize = 64;

/// Every example once an epoch, examples of about the same length together, in an order that is a function of (seed, epoch).
///
/// An epoch is a permutation of the examples, cut into windows of 64 steps. The examples of a window are sorted by length and cut
/// into steps, whose order is then shuffled. Within a step they stay sorted, so that its micro-batches differ in length; which
/// examples a step has depends on the examples of a step alone, not on how they are divided into micro-batches.
///
/// The last step of an epoch is as small as it comes, as in Hugging Face's `Trainer`; its examples are the last of the permutation,
/// of any length. The first step of an epoch sorts it whole, which takes milliseconds; later ones look it up.
#[derive(Debug)]
pub struct BucketPlan {
    seed: u64,
    sampler: Sampler,
    lengths: Vec<u32>,
    size: StepSize,
    /// Steps a window; 0: nothing is sorted.
    window: usize,
    orders: EpochOrders,
}

impl BucketPlan {
    /// A plan over examples of these lengths.
    ///
    /// # Errors
    ///
    /// If a size is 0 or there is no example.
    pub fn new(seed: u64, lengths: Vec<u32>, size: StepSize) -> Result<Self, DataError> {
        Self::with_window(seed, lengths, size, WINDOW)
    }

    /// A plan without regard to length: steps are cut from the permutation as it is.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn shuffled(seed: u64, lengths: Vec<u32>, size: StepSize) -> Result<Self, DataError> {
        Self::with_window(seed, lengths, size, 0)
    }

    fn with_window(seed: u64, lengths: Vec<u32>, size: StepSize, window: usize) -> Result<Self, DataError> {
        size.check()?;
        let examples = lengths.len() as u64;
        if examples == 0 {
            let StepSize { micro_batch_size, gradient_accumulation } = size;
            return Err(DataError::TooFewExamples { examples, micro_batch_size, gradient_accumulation });
        }
        Ok(Self { seed, sampler: Sampler::new(examples), lengths, size, window, orders: EpochOrders::default() })
    }

    fn arrange(&self, epoch: u64) -> Vec<u64> {
        let mut order: Vec<u64> = self.sampler.order(self.seed, epoch).iter().collect();
        if self.window == 0 {
            return order;
        }
        let step = usize::try_from(self.size.examples()).unwrap_or(usize::MAX);
        let length = |example: &u64| self.lengths[*example as usize];
        let whole = order.len() / step * step;
        let mut arranged = Vec::with_capacity(order.len());
        for (number, window) in order[..whole].chunks_mut(step.saturating_mul(self.window)).enumerate() {
            // Stable: equally long examples stay in the order of the permutation.
            window.sort_by_key(length);
            let steps = Sampler::new((window.len() / step) as u64).order(keyed(&[self.seed, number as u64]), epoch);
            for at in steps.iter() {
                arranged.extend_from_slice(&window[at as usize * step..][..step]);
            }
        }
        let rest = &mut order[whole..];
        rest.sort_by_key(length);
        arranged.extend_from_slice(rest);
        arranged
    }
}

impl BatchPlan for BucketPlan {
    fn steps_per_epoch(&self) -> u64 {
        self.sampler.len().div_ceil(self.size.examples())
    }

    fn step(&self, step: u64) -> StepPlan {
        let (epoch, step) = (step / self.steps_per_epoch(), step % self.steps_per_epoch());
        let order = self.orders.get(epoch, || self.arrange(epoch));
        let first = step * self.size.examples();
        let end = first.saturating_add(self.size.examples()).min(self.sampler.len());
        let examples = order[first as usize..end as usize].iter().copied();
        StepPlan { epoch, micro_batches: self.size.split(examples) }
    }
}

/// Every example once, short ones first, so that little is filled up: for evaluation.
#[derive(Clone, Debug)]
pub struct LengthPlan {
    /// Example numbers by length, equally long ones in order.
    order: Vec<u64>,
    places: SequentialPlan,
}

impl LengthPlan {
    /// A plan over examples of these lengths, one micro-batch a step.
    ///
    /// # Errors
    ///
    /// If `batch_size` is 0.
    pub fn new(lengths: &[u32], batch_size: usize) -> Result<Self, DataError> {
        let places = SequentialPlan::new(lengths.len() as u64, batch_size)?;
        let mut order: Vec<u64> = (0..lengths.len() as u64).collect();
        order.sort_by_key(|&example| lengths[example as usize]);
        Ok(Self { order, places })
    }
}

impl BatchPlan for LengthPlan {
    fn steps_per_epoch(&self) -> u64 {
        self.places.steps_per_epoch()
    }

    fn step(&self, step: u64) -> StepPlan {
        let mut plan = self.places.step(step);
        for place in plan.micro_batches.iter_mut().flatten() {
            *place = self.order[*place as usize];
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn size(micro_batch_size: usize, gradient_accumulation: usize) -> StepSize {
        StepSize { micro_batch_size, gradient_accumulation }
    }

    /// Lengths of 1 to 60, most of them short.
    fn lengths(examples: usize) -> Vec<u32> {
        (0..examples as u64).map(|i| 1 + (keyed(&[3, i]) % 60).min(keyed(&[4, i]) % 60) as u32).collect()
    }

    fn epoch_of(plan: &BucketPlan, epoch: u64) -> Vec<StepPlan> {
        let steps = plan.steps_per_epoch();
        (epoch * steps..(epoch + 1) * steps).map(|step| plan.step(step)).collect()
    }

    /// Positions that batches of these steps have, filling included.
    fn positions(plan: &BucketPlan, steps: &[StepPlan]) -> u64 {
        let rows = |batch: &Vec<u64>| {
            let longest = batch.iter().map(|&example| plan.lengths[example as usize]).max().unwrap_or(0);
            u64::from(longest) * batch.len() as u64
        };
        steps.iter().flat_map(|step| &step.micro_batches).map(rows).sum()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]
        #[test]
        fn each_example_comes_once_an_epoch(
            examples in 1usize..900, micro in 1usize..9, accumulation in 1usize..4, epoch in 0u64..9, window in 0usize..9
        ) {
            let size = size(micro, accumulation);
            let plan = BucketPlan::with_window(5, lengths(examples), size, window).unwrap();
            prop_assert_eq!(plan.steps_per_epoch(), (examples as u64).div_ceil(size.examples()));
            let steps = epoch_of(&plan, epoch);
            let (last, full) = steps.split_last().unwrap();
            for step in full {
                prop_assert!(step.micro_batches.len() == accumulation && step.micro_batches.iter().all(|it| it.len() == micro));
            }
            prop_assert!(steps.iter().all(|step| step.epoch == epoch));
            prop_assert!(last.micro_batches.iter().all(|it| (1..=micro).contains(&it.len())));
            let mut seen: Vec<u64> = steps.into_iter().flat_map(|step| step.micro_batches).flatten().collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..examples as u64).collect::<Vec<_>>());
        }

        #[test]
        fn a_window_fills_up_at_most_its_spread_of_lengths(examples in 200usize..900, micro in 2usize..9, epoch in 0u64..9) {
            let plan = BucketPlan::with_window(5, lengths(examples), size(micro, 1), 8).unwrap();
            let steps = epoch_of(&plan, epoch);
            let full = examples / micro;
            // Of a sorted window, each step's longest is at most the next one's shortest: what is filled up adds up to less than the
            // difference between longest and shortest for each row of a step.
            for window in steps[..full].chunks(8) {
                let tokens: u64 = window.iter().flat_map(|step| &step.micro_batches[0])
                    .map(|&example| u64::from(plan.lengths[example as usize])).sum();
                prop_assert!(positions(&plan, window) - tokens <= 59 * (micro as u64 - 1));
            }
        }

        #[test]
        fn steps_do_not_depend_on_what_was_asked_before(examples in 50usize..300, asked in prop::collection::vec(0u64..400, 1..20)) {
            let plan = |_| BucketPlan::new(7, lengths(examples), size(4, 2)).unwrap();
            let used = plan(0);
            for step in asked {
                prop_assert_eq!(used.step(step), plan(1).step(step));
            }
        }

        #[test]
        fn grouping_into_micro_batches_does_not_change_a_step(step in 0u64..100) {
            let steps = [size(8, 1), size(2, 4), size(3, 3)].map(|size| {
                BucketPlan::new(1, lengths(500), size).unwrap().step(step).micro_batches.concat()
            });
            prop_assert_eq!(&steps[0], &steps[1]);
            prop_assert_ne!(&steps[0], &steps[2]);
        }

        #[test]
        fn an_evaluation_sees_each_example_once_short_ones_first(examples in 0usize..300, batch in 1usize..9) {
            let lengths = lengths(examples);
            let plan = LengthPlan::new(&lengths, batch).unwrap();
            prop_assert_eq!(plan.steps_per_epoch(), (examples as u64).div_ceil(batch as u64));
            let mut seen: Vec<u64> = (0..plan.steps_per_epoch()).flat_map(|step| plan.step(step).micro_batches.concat()).collect();
            prop_assert!(seen.is_sorted_by_key(|&example| lengths[example as usize]));
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..examples as u64).collect::<Vec<_>>());
        }
    }

    #[test]
    fn seeds_and_epochs_change_the_order_and_lengths_group() {
        let plan = |seed| BucketPlan::new(seed, lengths(5_000), size(32, 1)).unwrap();
        assert_eq!(epoch_of(&plan(1), 0), epoch_of(&plan(1), 0));
        assert_ne!(epoch_of(&plan(1), 0), epoch_of(&plan(2), 0));
        let two = plan(1);
        assert_ne!(epoch_of(&two, 0)[0].micro_batches, epoch_of(&two, 1)[0].micro_batches);

        let shuffled = BucketPlan::shuffled(1, lengths(5_000), size(32, 1)).unwrap();
        let tokens: u32 = lengths(5_000).iter().sum();
        let filled = |plan: &BucketPlan| positions(plan, &epoch_of(plan, 0)) as f64 / f64::from(tokens);
        assert!(filled(&two) < 1.05, "{}", filled(&two));
        assert!(filled(&shuffled) > 2.0, "{}", filled(&shuffled));
        // Short and long steps are mixed: the mean length of the first ten is near that of all.
        let first: Vec<u64> = epoch_of(&two, 0)[..10].iter().flat_map(|step| step.micro_batches.concat()).collect();
        let mean = first.iter().map(|&it| f64::from(two.lengths[it as usize])).sum::<f64>() / first.len() as f64;
        assert!((10.0..35.0).contains(&mean), "{mean}");
    }

    #[test]
    fn a_set_smaller_than_a_step_is_one_step_and_an_empty_one_is_refused() {
        let plan = BucketPlan::new(1, lengths(5), size(4, 4)).unwrap();
        assert_eq!(plan.steps_per_epoch(), 1);
        assert_eq!(plan.step(3).micro_batches.iter().map(Vec::len).collect::<Vec<_>>(), [4, 1]);
        assert!(matches!(BucketPlan::new(1, Vec::new(), size(4, 4)), Err(DataError::TooFewExamples { .. })));
        assert!(BucketPlan::new(1, lengths(5), size(0, 4)).is_err());
        assert!(LengthPlan::new(&[1], 0).is_err());
    }
}
