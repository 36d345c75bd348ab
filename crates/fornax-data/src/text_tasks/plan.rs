use std::sync::{Mutex, PoisonError};

use crate::DataError;
use crate::labelled::WINDOW;
use crate::pairs::filling_order;
use crate::plan::{BatchPlan, EpochOrders, StepPlan, StepSize};
use crate::random::{keyed, unit};
use crate::sampler::Sampler;

/// Keys the choice of the task, the orders of the tasks and the orders of the steps, apart from each other.
const CHOICE: u64 = 0;
const ORDER: u64 = 1;
const STEPS: u64 = 2;

/// Draws between two places where the draws of each task are counted.
const STRIDE: u64 = 1 << 14;

/// Examples of several tasks, drawn one by one: which task draw `d` is of is random with the tasks' shares and a function of (seed,
/// `d`); its example is the next one of that task's epoch, whose order is a function of (seed, task, the task's epoch). So each
/// example of a task comes once before any comes again, as when the shuffled and repeated data sets are sampled from (T5, arXiv
/// 1910.10683).
///
/// Draws are cut into windows of 64 steps, each epoch by itself. Those of a window are sorted by length, whatever their task, and cut
/// into steps, whose order is a function of (seed, window): the examples of a window are as drawn, each step's are of about the same
/// length. Where a task is drawn so often that all its examples come within fewer steps, a window is no longer than that: otherwise
/// many copies of an example, equally long as they are, would meet in a step. A run that ends with an epoch has drawn each example of
/// a task equally often, but for one time.
///
/// Examples are numbered through: those of the first task, then those of the second. Within a step they are sorted by length, so that
/// micro-batches differ in length and little is filled up; which examples a step has does not depend on its micro-batches.
///
/// The first step of a window arranges it; later ones look it up. How many examples of each task came before a window is counted from
/// the draws before it, once for all: about a second for a hundred million examples, where a run is resumed so late.
#[derive(Debug)]
pub struct MixturePlan {
    seed: u64,
    /// Up to which number between 0 and 1 each task is drawn.
    ends: Vec<f64>,
    /// Examples of each task.
    sizes: Vec<u64>,
    /// The number of each task's first example.
    starts: Vec<u64>,
    /// Source and target.
    lengths: Vec<(u32, u32)>,
    size: StepSize,
    /// Steps a window; 1: they are cut from the draws as they come.
    window: u64,
    /// The draws of each task before draw `i * STRIDE`. A step's examples never depend on how much of it is here.
    counts: Mutex<Vec<Vec<u64>>>,
    windows: EpochOrders,
}

impl MixturePlan {
    /// A plan over tasks with these shares, which add up to 1, and numbers of examples; `lengths` are those of source and target of each
    /// example.
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
        lengths: Vec<(u32, u32)>,
        size: StepSize,
    ) -> Result<Self, DataError> {
        Self::with_window(seed, shares, sizes, lengths, size, WINDOW as u64)
    }

    /// A plan without regard to length: steps are cut from the draws as they come.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    ///
    /// # Panics
    ///
    /// As [`new`](Self::new).
    pub fn shuffled(
        seed: u64,
        shares: &[f64],
        sizes: Vec<u64>,
        lengths: Vec<(u32, u32)>,
        size: StepSize,
    ) -> Result<Self, DataError> {
        Self::with_window(seed, shares, sizes, lengths, size, 1)
    }

    fn with_window(
        seed: u64,
        shares: &[f64],
        sizes: Vec<u64>,
        lengths: Vec<(u32, u32)>,
        size: StepSize,
        window: u64,
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
        // Draws in which all examples of a task come once, for the task that is through first.
        let once = shares.iter().zip(&sizes).map(|(share, &size)| size as f64 / share).fold(f64::INFINITY, f64::min);
        Ok(Self {
            seed,
            window: ((once / size.examples() as f64) as u64).clamp(1, window),
            windows: EpochOrders::default(),
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

    /// The window that a step belongs to.
    fn window_of(&self, step: u64) -> Window {
        let steps = self.steps_per_epoch();
        let (epoch, place) = (step / steps, step % steps);
        let number = place / self.window;
        let first = number * self.window;
        Window {
            number: epoch * steps.div_ceil(self.window) + number,
            first: epoch * steps + first,
            steps: self.window.min(steps - first),
        }
    }

    /// The examples of the steps of a window, one step behind the other.
    fn arrange(&self, window: Window) -> Vec<u64> {
        let examples = self.size.examples();
        let draws = window.first * examples..(window.first + window.steps) * examples;
        let mut counts = self.counts_before(draws.start);
        let draw = |draw| {
            let task = self.choice(draw);
            counts[task] += 1;
            self.example(task, counts[task] - 1)
        };
        let mut drawn: Vec<u64> = draws.map(draw).collect();
        // Stable: equally long examples stay in the order in which they were drawn.
        drawn.sort_by_key(|&example| filling_order(self.lengths[example as usize]));
        let order = Sampler::new(window.steps).order(keyed(&[self.seed, STEPS]), window.number);
        order.iter().flat_map(|step| &drawn[(step * examples) as usize..][..examples as usize]).copied().collect()
    }
}

/// Steps whose examples are grouped by length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Window {
    /// Counted over all epochs.
    number: u64,
    first: u64,
    steps: u64,
}

impl BatchPlan for MixturePlan {
    /// Steps that draw as many examples as all tasks have, at least one.
    fn steps_per_epoch(&self) -> u64 {
        (self.lengths.len() as u64 / self.size.examples()).max(1)
    }

    fn step(&self, step: u64) -> StepPlan {
        let window = self.window_of(step);
        let arranged = self.windows.get(window.number, || self.arrange(window));
        let (place, examples) = ((step - window.first) as usize, self.size.examples() as usize);
        let examples = arranged[place * examples..][..examples].iter().copied();
        StepPlan { epoch: step / self.steps_per_epoch(), micro_batches: self.size.split(examples) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Sources of 1 to 60 tokens, most of them short, and targets of up to 5 more.
    fn lengths(sizes: &[u64]) -> Vec<(u32, u32)> {
        let source = |i| 1 + (keyed(&[3, i]) % 60).min(keyed(&[4, i]) % 60) as u32;
        (0..sizes.iter().sum()).map(|i| (source(i), source(i) + (keyed(&[5, i]) % 6) as u32)).collect()
    }

    fn plan(seed: u64, shares: &[f64], sizes: &[u64], micro_batch_size: usize, accumulation: usize) -> MixturePlan {
        let size = StepSize { micro_batch_size, gradient_accumulation: accumulation };
        MixturePlan::new(seed, shares, sizes.to_vec(), lengths(sizes), size).unwrap()
    }

    fn shuffled(seed: u64, shares: &[f64], sizes: &[u64], micro_batch_size: usize) -> MixturePlan {
        let size = StepSize { micro_batch_size, gradient_accumulation: 1 };
        MixturePlan::shuffled(seed, shares, sizes.to_vec(), lengths(sizes), size).unwrap()
    }

    fn examples(plan: &MixturePlan, steps: std::ops::Range<u64>) -> Vec<u64> {
        steps.flat_map(|step| plan.step(step).micro_batches.concat()).collect()
    }

    fn task_of(plan: &MixturePlan, example: u64) -> usize {
        plan.starts.partition_point(|&start| start <= example) - 1
    }

    #[test]
    fn each_task_is_drawn_as_often_as_its_share_says() {
        let shares = [0.5, 0.3, 0.17, 0.03];
        let plan = plan(3, &shares, &[10, 4_000, 77, 500], 100, 1);
        let mut drawn = [0.0; 4];
        for example in examples(&plan, 0..2_000) {
            drawn[task_of(&plan, example)] += 1.0;
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
            let mut steps = 0;
            while steps < 100 {
                let window = plan.window_of(steps);
                prop_assert_eq!(window.first, steps);
                steps += window.steps;
                for example in examples(&plan, window.first..steps) {
                    counts[example as usize] += 1;
                }
                for task in [&counts[..first as usize], &counts[first as usize..]] {
                    prop_assert!(task.iter().max().unwrap() - task.iter().min().unwrap() <= 1);
                }
            }
            prop_assert_eq!(u64::from(counts.iter().sum::<u32>()), steps * 10);
        }

        #[test]
        fn a_window_has_the_examples_that_were_drawn(seed: u64, window in 0u64..9) {
            let (shares, sizes) = ([0.7, 0.3], [4_000, 3_000]);
            let (grouped, drawn) = (plan(seed, &shares, &sizes, 8, 1), shuffled(seed, &shares, &sizes, 8));
            prop_assert_eq!((grouped.window, drawn.window), (64, 1));
            let [grouped, drawn] = [grouped, drawn].map(|plan| {
                let mut examples = examples(&plan, window * 64..(window + 1) * 64);
                examples.sort_unstable();
                examples
            });
            prop_assert_eq!(grouped, drawn);
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
        assert!(steps[0].is_sorted_by_key(|&example| filling_order(mixture.lengths[example as usize])));
        assert_eq!(mixture.steps_per_epoch(), 12);
        assert_ne!(mixture.step(0), mixture.step(12));
        assert_ne!(mixture.step(0), plan(2, &[0.5, 0.5], &[40, 60], 8, 1).step(0));
    }

    #[test]
    fn lengths_are_grouped_and_their_steps_mixed() {
        let (shares, sizes) = ([0.7, 0.3], [4_000, 3_000]);
        let tokens = lengths(&sizes);
        let filled = |plan: &MixturePlan| {
            let (mut positions, mut filled) = (0, 0);
            for step in 0..256 {
                let pairs = examples(plan, step..step + 1).into_iter().map(|it| tokens[it as usize]);
                let (sources, targets): (Vec<u32>, Vec<u32>) = pairs.unzip();
                for side in [sources, targets] {
                    positions += side.iter().max().unwrap() * side.len() as u32;
                    filled += side.iter().sum::<u32>();
                }
            }
            f64::from(positions) / f64::from(filled)
        };
        let grouped = plan(1, &shares, &sizes, 32, 1);
        assert!(filled(&grouped) < 1.1, "{}", filled(&grouped));
        let shuffled = shuffled(1, &shares, &sizes, 32);
        assert!(filled(&shuffled) > 2.0, "{}", filled(&shuffled));
        // Short and long steps alternate, otherwise in each window; both tasks are among the first.
        let of_steps = |first: u64| -> Vec<u32> {
            (first..first + 64).map(|step| tokens[examples(&grouped, step..step + 1)[0] as usize].1).collect()
        };
        assert!(!of_steps(0)[..8].is_sorted() && !of_steps(0)[..8].iter().rev().is_sorted());
        let ranks = |lengths: Vec<u32>| {
            let mut steps: Vec<usize> = (0..lengths.len()).collect();
            steps.sort_by_key(|&step| lengths[step]);
            steps
        };
        assert_ne!(ranks(of_steps(0)), ranks(of_steps(64)));
        let first: Vec<usize> = examples(&grouped, 0..8).iter().map(|&it| task_of(&grouped, it)).collect();
        assert!(first.contains(&0) && first.contains(&1));
    }

    /// 21 steps an epoch, and 64 would be a window.
    #[test]
    fn epochs_of_a_single_task_are_whole() {
        let plan = plan(6, &[1.0], &[168], 8, 1);
        assert_eq!((plan.window, plan.steps_per_epoch()), (21, 21));
        let longer = self::plan(6, &[1.0], &[8 * 150], 8, 1);
        let windows = [0, 64, 128, 150].map(|step| longer.window_of(step));
        let (window, last) = (|number, first, steps| Window { number, first, steps }, 150 - 128);
        assert_eq!(windows, [window(0, 0, 64), window(1, 64, 64), window(2, 128, last), window(3, 150, 64)]);
        for (plan, epoch) in [(plan, 21), (longer, 150)] {
            for first in [0, epoch, 2 * epoch] {
                let mut seen = examples(&plan, first..first + epoch);
                seen.sort_unstable();
                assert_eq!(seen, (0..epoch * 8).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_window_is_no_longer_than_the_shortest_epoch() {
        // All of the second task come within five steps, and again in the next five.
        let plan = plan(4, &[0.5, 0.5], &[10_000, 80], 32, 1);
        assert_eq!(plan.window, 5);
        // An epoch of it may end within a window and the next begin; no example comes a third time.
        for window in 0..40 {
            let mut counts = [0; 80];
            for example in examples(&plan, 5 * window..5 * (window + 1)) {
                if let Some(second) = example.checked_sub(10_000) {
                    counts[second as usize] += 1;
                }
            }
            assert!(counts.iter().all(|&count| count <= 2), "{counts:?}");
        }
        // Of a task of 2,100 a window of 64 steps has a half at most.
        assert_eq!(self::plan(4, &[0.5, 0.5], &[10_000, 2_100], 32, 1).window, 64);
    }

    #[test]
    fn a_task_without_examples_is_refused() {
        let size = StepSize { micro_batch_size: 1, gradient_accumulation: 1 };
        let error = MixturePlan::new(1, &[0.5, 0.5], vec![1, 0], vec![(1, 1)], size).unwrap_err();
        assert!(error.to_string().ends_with("but the data set has 0"), "{error}");
    }
}
