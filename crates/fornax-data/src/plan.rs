use std::sync::{Arc, Mutex, PoisonError};

use crate::DataError;
use crate::random::{below, keyed};
use crate::sampler::Sampler;

/// The examples of one optimizer step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepPlan {
    /// How often the set had been visited in full before this step; noise of an example (masking, corruption) is keyed by it.
    pub epoch: u64,
    /// Example numbers, one list for each micro-batch.
    pub micro_batches: Vec<Vec<u64>>,
}

/// Maps a step to example numbers. The one seam for fixed blocks, length buckets and token-sized batches.
///
/// A plan is a pure function of its settings and the step: resuming needs the step number alone.
pub trait BatchPlan: Send + Sync {
    /// Steps in which the set is visited once.
    fn steps_per_epoch(&self) -> u64;

    /// The examples of `step`, counted from 0 and running on over the borders of epochs.
    fn step(&self, step: u64) -> StepPlan;
}

impl BatchPlan for Box<dyn BatchPlan> {
    fn steps_per_epoch(&self) -> u64 {
        self.as_ref().steps_per_epoch()
    }

    fn step(&self, step: u64) -> StepPlan {
        self.as_ref().step(step)
    }
}

/// How many examples one optimizer step takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepSize {
    /// Examples that run through the model at once.
    pub micro_batch_size: usize,
    /// Micro-batches whose gradients are summed before the optimizer's step.
    pub gradient_accumulation: usize,
}

impl StepSize {
    /// Examples a step; a plan refuses a size whose examples can't be counted.
    pub fn examples(&self) -> u64 {
        self.checked_examples().unwrap_or(u64::MAX)
    }

    fn checked_examples(&self) -> Option<u64> {
        (self.micro_batch_size as u64).checked_mul(self.gradient_accumulation as u64)
    }

    pub(crate) fn check(&self) -> Result<(), DataError> {
        for (key, value) in [
            ("train.micro_batch_size", self.micro_batch_size),
            ("train.gradient_accumulation", self.gradient_accumulation),
        ] {
            if value == 0 {
                return Err(DataError::ConfigValue { key, value: "0".into(), expected: "at least 1".into() });
            }
        }
        match self.checked_examples() {
            Some(_) => Ok(()),
            None => Err(DataError::ConfigValue {
                key: "train.gradient_accumulation",
                value: self.gradient_accumulation.to_string(),
                expected: format!("fewer: times train.micro_batch_size = {} it overflows", self.micro_batch_size),
            }),
        }
    }

    pub(crate) fn split(&self, examples: impl Iterator<Item = u64>) -> Vec<Vec<u64>> {
        let examples: Vec<u64> = examples.collect();
        examples.chunks(self.micro_batch_size).map(<[u64]>::to_vec).collect()
    }
}

/// Every example once an epoch, in an order that is a function of (seed, epoch).
///
/// An epoch is a whole number of steps: `floor(examples / examples of a step)`. What is left over (less than a step's worth, other
/// examples each epoch) is dropped, so no step ever mixes two epochs and every step has the same size.
#[derive(Clone, Debug)]
pub struct ShuffledPlan {
    seed: u64,
    sampler: Sampler,
    size: StepSize,
}

impl ShuffledPlan {
    /// A plan over `examples` examples.
    ///
    /// # Errors
    ///
    /// If a size is 0, or one step takes more examples than there are: repeating examples within a step would hide a wrong setting.
    pub fn new(seed: u64, examples: u64, size: StepSize) -> Result<Self, DataError> {
        size.check()?;
        if size.examples() > examples {
            return Err(DataError::TooFewExamples {
                examples,
                micro_batch_size: size.micro_batch_size,
                gradient_accumulation: size.gradient_accumulation,
            });
        }
        Ok(Self { seed, sampler: Sampler::new(examples), size })
    }
}

impl BatchPlan for ShuffledPlan {
    fn steps_per_epoch(&self) -> u64 {
        self.sampler.len() / self.size.examples()
    }

    fn step(&self, step: u64) -> StepPlan {
        let (epoch, step) = (step / self.steps_per_epoch(), step % self.steps_per_epoch());
        let order = self.sampler.order(self.seed, epoch);
        let first = step * self.size.examples();
        let examples = (first..first + self.size.examples()).map(|position| order.index(position));
        StepPlan { epoch, micro_batches: self.size.split(examples) }
    }
}

/// Draws with replacement, as nanoGPT samples offsets: example `i` of step `s` is uniform over the set and a function of (seed, s, i).
#[derive(Clone, Debug)]
pub struct DrawnPlan {
    seed: u64,
    examples: u64,
    steps_per_epoch: u64,
    size: StepSize,
}

impl DrawnPlan {
    /// A plan over `examples` examples. An epoch is as many steps as read `epoch_examples` examples, at least one; for offsets into a
    /// text these are the blocks that lie side by side in it ([`Blocks::epoch_len`](crate::Blocks::epoch_len)).
    ///
    /// # Errors
    ///
    /// If a size is 0 or there is no example.
    pub fn new(seed: u64, examples: u64, epoch_examples: u64, size: StepSize) -> Result<Self, DataError> {
        size.check()?;
        if examples == 0 {
            return Err(DataError::TooFewExamples {
                examples,
                micro_batch_size: size.micro_batch_size,
                gradient_accumulation: size.gradient_accumulation,
            });
        }
        Ok(Self { seed, examples, steps_per_epoch: (epoch_examples / size.examples()).max(1), size })
    }
}

impl BatchPlan for DrawnPlan {
    fn steps_per_epoch(&self) -> u64 {
        self.steps_per_epoch
    }

    fn step(&self, step: u64) -> StepPlan {
        let examples = (0..self.size.examples()).map(|i| below(keyed(&[self.seed, step, i]), self.examples));
        StepPlan { epoch: step / self.steps_per_epoch, micro_batches: self.size.split(examples) }
    }
}

/// Orders of the last epochs asked for, for plans that can't compute theirs place by place. Two are kept: workers of a loader are at the
/// end of one epoch and the beginning of the next at the same time. What comes out never depends on what is kept.
#[derive(Debug, Default)]
pub(crate) struct EpochOrders {
    kept: Mutex<Vec<(u64, Arc<Vec<u64>>)>>,
}

impl EpochOrders {
    const KEPT: usize = 2;

    /// The order of `epoch`, which `make` makes if it is not here.
    pub(crate) fn get(&self, epoch: u64, make: impl FnOnce() -> Vec<u64>) -> Arc<Vec<u64>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, order)) = kept.iter().find(|(known, _)| *known == epoch) {
            return order.clone();
        }
        let order = Arc::new(make());
        if kept.len() == Self::KEPT {
            kept.remove(0);
        }
        kept.push((epoch, order.clone()));
        order
    }
}

/// Every example once, in order, the last batch as small as it comes: for evaluation.
#[derive(Clone, Copy, Debug)]
pub struct SequentialPlan {
    examples: u64,
    batch_size: u64,
}

impl SequentialPlan {
    /// A plan over `examples` examples, one micro-batch a step.
    ///
    /// # Errors
    ///
    /// If `batch_size` is 0.
    pub fn new(examples: u64, batch_size: usize) -> Result<Self, DataError> {
        if batch_size == 0 {
            return Err(DataError::ConfigValue {
                key: "eval.micro_batch_size",
                value: "0".into(),
                expected: "at least 1".into(),
            });
        }
        Ok(Self { examples, batch_size: batch_size as u64 })
    }
}

impl BatchPlan for SequentialPlan {
    fn steps_per_epoch(&self) -> u64 {
        self.examples.div_ceil(self.batch_size)
    }

    fn step(&self, step: u64) -> StepPlan {
        let steps = self.steps_per_epoch().max(1);
        let first = (step % steps) * self.batch_size;
        let examples = (first..(first + self.batch_size).min(self.examples)).collect();
        StepPlan { epoch: step / steps, micro_batches: vec![examples] }
    }
}

/// The first `steps` steps of another plan over and over, as the same batches each time: to see whether a model can learn them by heart.
pub struct FirstSteps<P> {
    plan: P,
    steps: u64,
}

impl<P: BatchPlan> FirstSteps<P> {
    /// Repeats the first `steps` steps of `plan`, at least one.
    pub fn new(plan: P, steps: u64) -> Self {
        Self { plan, steps: steps.max(1) }
    }
}

impl<P: BatchPlan> BatchPlan for FirstSteps<P> {
    fn steps_per_epoch(&self) -> u64 {
        self.steps
    }

    fn step(&self, step: u64) -> StepPlan {
        self.plan.step(step % self.steps)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn size(micro_batch_size: usize, gradient_accumulation: usize) -> StepSize {
        StepSize { micro_batch_size, gradient_accumulation }
    }

    proptest! {
        #[test]
        fn an_epoch_never_repeats_an_example(examples in 12u64..200, micro in 1usize..4, accumulation in 1usize..4, epoch in 0u64..5) {
            let plan = ShuffledPlan::new(3, examples, size(micro, accumulation)).unwrap();
            let steps = plan.steps_per_epoch();
            let mut seen = BTreeSet::new();
            for step in epoch * steps..(epoch + 1) * steps {
                let planned = plan.step(step);
                prop_assert_eq!(planned.epoch, epoch);
                prop_assert_eq!(planned.micro_batches.len(), accumulation);
                for example in planned.micro_batches.into_iter().flatten() {
                    prop_assert!(example < examples && seen.insert(example));
                }
            }
            prop_assert!(examples - (seen.len() as u64) < (micro * accumulation) as u64);
        }

        #[test]
        fn grouping_into_micro_batches_does_not_change_a_step(step in 0u64..100) {
            let flat = |plan: &dyn BatchPlan| plan.step(step).micro_batches.concat();
            let shuffled = [size(8, 1), size(2, 4)].map(|size| flat(&ShuffledPlan::new(1, 50, size).unwrap()));
            let drawn = [size(8, 1), size(2, 4)].map(|size| flat(&DrawnPlan::new(1, 50, 50, size).unwrap()));
            prop_assert_eq!(&shuffled[0], &shuffled[1]);
            prop_assert_eq!(&drawn[0], &drawn[1]);
        }
    }

    #[test]
    fn sequential_plan_covers_everything_once_in_order() {
        let plan = SequentialPlan::new(7, 3).unwrap();
        let all: Vec<_> = (0..plan.steps_per_epoch()).flat_map(|step| plan.step(step).micro_batches).collect();
        assert_eq!(all, [vec![0, 1, 2], vec![3, 4, 5], vec![6]]);
    }

    #[test]
    fn first_steps_repeat() {
        let plan = FirstSteps::new(ShuffledPlan::new(1, 40, size(2, 1)).unwrap(), 2);
        assert_eq!(plan.step(0), plan.step(2));
        assert_eq!(plan.step(1), plan.step(41));
        assert_ne!(plan.step(0), plan.step(1));
    }

    #[test]
    fn a_step_larger_than_the_set_is_refused() {
        let error = ShuffledPlan::new(1, 10, size(4, 3)).unwrap_err();
        insta::assert_snapshot!(error, @"one step takes 12 examples (micro_batch_size 4 x gradient_accumulation 3), but the data set has 10");
        assert!(ShuffledPlan::new(1, 10, size(0, 1)).unwrap_err().to_string().contains("train.micro_batch_size"));
        // In 64 bits the product wraps to 2.
        let wrapping = size(usize::MAX / 2 + 2, 2);
        for error in [ShuffledPlan::new(1, 10, wrapping).unwrap_err(), DrawnPlan::new(1, 10, 10, wrapping).unwrap_err()]
        {
            assert!(error.to_string().contains("train.gradient_accumulation"), "{error}");
        }
    }
}
