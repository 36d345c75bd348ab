use std::sync::{Mutex, PoisonError};

use crate::DataError;
use crate::plan::{BatchPlan, StepPlan, StepSize};
use crate::random::{keyed, unit};
use crate::sampler::Sampler;

/// Keys the choice of the task and the orders of the tasks, apart from each other.
const CHOICE: u64 = 0;
const ORDER: u64 = 1;

/// Draws between two places where the draws of each task are counted.
const STRIDE: u64 = 1 << 14;

/// Examples of several tasks, drawn one by one: which task draw `d` is of is random with the tasks' shares and a function of (seed,
/// `d`); its example is the next one of that task's epoch, whose order is a function of (seed, task, the task's epoch). So each
/// example of a task comes once before any comes again, as when the shuffled and repeated data sets are sampled from (T5, arXiv
/// 1910.10683).
///
/// Examples are numbered through: those of the first task, then those of the second. Within a step they are sorted by length, so that
/// micro-batches differ in length and little is filled up; which examples a step has does not depend on its micro-batches.
///
/// How many examples of each task came before a step is counted from the draws before it, once for all steps: about a second for
/// a hundred million examples, where a run is resumed so late.
#[derive(Debug)]
pub struct MixturePlan {
    seed: u64,
    /// Up to which number between 0 and 1 each task is drawn.
    ends: Vec<f64>,
    /// Examples of each task.
    sizes: Vec<u64>,
    /// The number of each task's first example.
    starts: Vec<u64>,
    lengths: Vec<u32>,
    size: StepSize,
    /// The draws of each task before draw `i * STRIDE`. A step's examples never depend on how much of it is here.
    counts: Mutex<Vec<Vec<u64>>>,
}

impl MixturePlan {
    /// A plan over tasks with these shares, which add up to 1, and numbers of examples; `lengths` are those of all examples.
    ///
    /// # Errors
    ///
    /// If a size is 0 or a task has no example.
    ///
    /// # Panics
    ///
    /// If there is no task, or shares, sizes and lengths don't fit together.
    pub fn new(
        seed: u64,
        shares: &[f64],
        sizes: Vec<u64>,
        lengths: Vec<u32>,
        size: StepSize,
    ) -> Result<Self, DataError> {
        size.check()?;
        assert!(!shares.is_empty() && shares.len() == sizes.len(), "{} shares of {} tasks", shares.len(), sizes.len());
        assert_eq!(sizes.iter().sum::<u64>(), lengths.len() as u64, "lengths of all examples");
        if sizes.contains(&0) {
            let StepSize { micro_batch_size, gradient_accumulation } = size;
            return Err(DataError::TooFewExamples { examples: 0, micro_batch_size, gradient_accumulation });
        }
        let sum_up = |sum: &mut f64, share: &f64| {
            *sum += share;
            Some(*sum)
        };
        let before = |start: &mut u64, size: &u64| {
            *start += size;
            Some(*start - size)
        };
        Ok(Self {
            seed,
            ends: shares.iter().scan(0.0, sum_up).collect(),
            starts: sizes.iter().scan(0, before).collect(),
            counts: Mutex::new(vec![vec![0; sizes.len()]]),
            sizes,
            lengths,
            size,
        })
    }

    /// The task of draw `draw`.
    fn choice(&self, draw: u64) -> usize {
        let point = unit(keyed(&[self.seed, CHOICE, draw]));
        // Rounding may leave the last end a little below 1.
        self.ends.partition_point(|&end| end <= point).min(self.ends.len() - 1)
    }

    /// The draws of each task before draw `draw`.
    fn counts_before(&self, draw: u64) -> Vec<u64> {
        let place = (draw / STRIDE) as usize;
        let mut kept = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        while kept.len() <= place {
            let first = (kept.len() as u64 - 1) * STRIDE;
            let mut counts = kept[kept.len() - 1].clone();
            self.count(first..first + STRIDE, &mut counts);
            kept.push(counts);
        }
        let mut counts = kept[place].clone();
        drop(kept);
        self.count(place as u64 * STRIDE..draw, &mut counts);
        counts
    }

    fn count(&self, draws: std::ops::Range<u64>, counts: &mut [u64]) {
        for draw in draws {
            counts[self.choice(draw)] += 1;
        }
    }

    /// The example that comes as number `drawn` of a task.
    fn example(&self, task: usize, drawn: u64) -> u64 {
        let size = self.sizes[task];
        let order = Sampler::new(size).order(keyed(&[self.seed, ORDER, task as u64]), drawn / size);
        self.starts[task] + order.index(drawn % size)
    }
}

impl BatchPlan for MixturePlan {
    /// Steps that draw as many examples as all tasks have, at least one.
    fn steps_per_epoch(&self) -> u64 {
        (self.lengths.len() as u64 / self.size.examples()).max(1)
    }

    fn step(&self, step: u64) -> StepPlan {
        let first = step * self.size.examples();
        let mut counts = self.counts_before(first);
        let draw = |draw| {
            let task = self.choice(draw);
            counts[task] += 1;
            self.example(task, counts[task] - 1)
        };
        let mut examples: Vec<u64> = (first..first + self.size.examples()).map(draw).collect();
        examples.sort_by_key(|&example| self.lengths[example as usize]);
        StepPlan { epoch: step / self.steps_per_epoch(), micro_batches: self.size.split(examples.into_iter()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plan(seed: u64, shares: &[f64], sizes: &[u64], micro_batch_size: usize, accumulation: usize) -> MixturePlan {
        let lengths = (0..sizes.iter().sum()).map(|i| 1 + (keyed(&[i]) % 40) as u32).collect();
        let size = StepSize { micro_batch_size, gradient_accumulation: accumulation };
        MixturePlan::new(seed, shares, sizes.to_vec(), lengths, size).unwrap()
    }

    fn task_of(plan: &MixturePlan, example: u64) -> usize {
        plan.starts.partition_point(|&start| start <= example) - 1
    }

    #[test]
    fn each_task_is_drawn_as_often_as_its_share_says() {
        let shares = [0.5, 0.3, 0.17, 0.03];
        let plan = plan(3, &shares, &[10, 4_000, 77, 500], 100, 1);
        let mut drawn = [0.0; 4];
        for step in 0..2_000 {
            for example in plan.step(step).micro_batches.concat() {
                drawn[task_of(&plan, example)] += 1.0;
            }
        }
        // 200,000 draws: a standard deviation of a share is at most 0.0011.
        for (share, drawn) in shares.iter().zip(drawn) {
            assert!((drawn / 200_000.0 - share).abs() < 0.005, "{drawn} of {share}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(50))]
        #[test]
        fn every_example_of_a_task_comes_before_any_comes_again(seed: u64, first in 1u64..60, second in 1u64..60) {
            let plan = plan(seed, &[0.25, 0.75], &[first, second], 5, 2);
            let mut counts = vec![0u32; (first + second) as usize];
            for step in 0..100 {
                for example in plan.step(step).micro_batches.concat() {
                    counts[example as usize] += 1;
                }
                for task in [&counts[..first as usize], &counts[first as usize..]] {
                    prop_assert!(task.iter().max().unwrap() - task.iter().min().unwrap() <= 1);
                }
            }
            prop_assert_eq!(counts.iter().sum::<u32>(), 1_000);
        }

        #[test]
        fn a_step_is_the_same_wherever_a_run_begins(seed: u64, steps in prop::collection::vec(0u64..20_000, 1..6)) {
            let plan = || plan(seed, &[0.9, 0.1], &[300, 20], 4, 2);
            let used = plan();
            for step in steps {
                prop_assert_eq!(used.step(step), plan().step(step));
            }
        }
    }

    #[test]
    fn micro_batches_divide_a_step_without_changing_it() {
        let steps = [(8, 1), (2, 4)].map(|(micro, accumulation)| {
            let planned = plan(1, &[0.5, 0.5], &[40, 60], micro, accumulation).step(7);
            assert!(planned.micro_batches.iter().all(|batch| batch.len() == micro));
            planned.micro_batches.concat()
        });
        assert_eq!(steps[0], steps[1]);
        let mixture = plan(1, &[0.5, 0.5], &[40, 60], 8, 1);
        assert!(steps[0].is_sorted_by_key(|&example| mixture.lengths[example as usize]));
        assert_eq!(mixture.steps_per_epoch(), 12);
        assert_ne!(mixture.step(0), mixture.step(12));
        assert_ne!(mixture.step(0), plan(2, &[0.5, 0.5], &[40, 60], 8, 1).step(0));
    }

    #[test]
    fn a_task_without_examples_is_refused() {
        let size = StepSize { micro_batch_size: 1, gradient_accumulation: 1 };
        let error = MixturePlan::new(1, &[0.5, 0.5], vec![1, 0], vec![1], size).unwrap_err();
        assert!(error.to_string().ends_with("but the data set has 0"), "{error}");
    }
}
