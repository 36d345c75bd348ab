use std::time::Instant;

use burn::module::Module;
use fornax_backend::OpenDevice;
use serde::Serialize;

use crate::{Learner, Task, TrainError, memory::peak_memory_bytes};

/// Steps before the clock starts, as many as the PyTorch programs beside which Fornax is measured take.
const WARMUP: usize = 3;

/// `--bench N`: steps timed one by one, without logging, evaluation or saving.
#[derive(Clone, Debug)]
pub struct Bench {
    /// Steps before the clock starts: they compile kernels and fill memory pools.
    pub warmup: usize,
    /// Timed steps.
    pub steps: usize,
    /// Name of the device.
    pub device: String,
    /// Compute type of matrix products.
    pub precision: String,
    /// Numbers in the model's parameters, those that are not trained among them.
    pub parameters: u64,
    /// Floating point operations for one token, forward and backward, as if every parameter were trained, where the recipe knows them.
    pub flops_per_token: Option<f64>,
    /// What the device can do in this precision per second, where it is known.
    pub peak_flops: Option<f64>,
}

/// What one step of a benchmark gives.
#[derive(Clone, Copy, Debug)]
pub struct BenchStep {
    /// The step's loss, read from the device: reading it is what ends the step.
    pub loss: f64,
    /// Tokens the step read.
    pub tokens: usize,
}

/// What `--bench` prints as JSON.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BenchReport {
    /// Name of the device.
    pub device: String,
    /// Compute type of matrix products.
    pub precision: String,
    /// Numbers in the model's parameters, those that are not trained among them.
    pub parameters: u64,
    /// Timed steps.
    pub steps: usize,
    /// Tokens of all timed steps over their time.
    pub tokens_per_second: f64,
    /// Median wall time of a step, in milliseconds.
    pub step_ms: f64,
    /// Model FLOP/s over the device's peak; `null` where either isn't known.
    pub mfu: Option<f64>,
    /// The largest resident memory of the process, in bytes.
    pub peak_memory_bytes: Option<u64>,
    /// The loss of each step, the warm-up's too.
    pub losses: Vec<f64>,
}

impl Bench {
    /// A benchmark of so many timed steps of `learner`, with `flops_per_token` floating-point operations for each token.
    pub fn of<M: Module>(steps: usize, learner: &Learner<M>, device: &OpenDevice, flops_per_token: f64) -> Self {
        Self {
            warmup: WARMUP,
            steps,
            device: device.spec.to_string(),
            precision: learner.precision().to_string(),
            parameters: learner.num_parameters() as u64,
            flops_per_token: Some(flops_per_token),
            peak_flops: device.peak_flops(learner.precision()),
        }
    }

    /// How many steps are run, those before the clock starts among them.
    pub fn total_steps(&self) -> u64 {
        (self.warmup + self.steps) as u64
    }

    /// Times steps of `learner` on `task`; `batches(i)` gives the micro-batches of step `i`, in order, and its time counts.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run), and what `batches` fails with.
    pub fn run_learner<M, T, E>(
        &self,
        learner: &mut Learner<M>,
        task: &T,
        mut batches: impl FnMut(u64) -> Result<Vec<T::Batch>, E>,
    ) -> Result<BenchReport, E>
    where
        M: Module,
        T: Task<M>,
        E: From<TrainError>,
    {
        self.run(|step| {
            let stats = learner.train_step(step, &batches(step)?, task)?;
            let loss = learner.take_window()?.map_or(f64::NAN, |window| window.loss);
            Ok(BenchStep { loss, tokens: usize::try_from(stats.tokens).unwrap_or(usize::MAX) })
        })
    }

    /// Runs the steps; `step(i)` does step `i`, reads its loss from the device and returns.
    ///
    /// # Errors
    ///
    /// The first error of a step; [`TrainError::Config`] when no step is to be timed.
    pub fn run<E: From<TrainError>>(
        &self,
        mut step: impl FnMut(u64) -> Result<BenchStep, E>,
    ) -> Result<BenchReport, E> {
        if self.steps == 0 {
            let problem = "at least one step has to be timed".to_owned();
            return Err(TrainError::Config { key: "--bench".to_owned(), problem }.into());
        }
        let (mut losses, mut times, mut tokens) = (Vec::new(), Vec::new(), 0);
        for index in 0..self.total_steps() {
            let start = Instant::now();
            let done = step(index)?;
            losses.push(done.loss);
            if index >= self.warmup as u64 {
                times.push(start.elapsed().as_secs_f64());
                tokens += done.tokens;
            }
        }
        let tokens_per_second = tokens as f64 / times.iter().sum::<f64>();
        let mfu = self.flops_per_token.zip(self.peak_flops).map(|(flops, peak)| tokens_per_second * flops / peak);
        Ok(BenchReport {
            device: self.device.clone(),
            precision: self.precision.clone(),
            parameters: self.parameters,
            steps: self.steps,
            tokens_per_second,
            step_ms: median(&mut times) * 1e3,
            mfu,
            peak_memory_bytes: peak_memory_bytes(),
            losses,
        })
    }
}

/// The middle of some times, of which there is at least one; the mean of the two middle ones of an even number.
fn median(times: &mut [f64]) -> f64 {
    times.sort_unstable_by(f64::total_cmp);
    let middle = times.len() / 2;
    if times.len().is_multiple_of(2) { f64::midpoint(times[middle - 1], times[middle]) } else { times[middle] }
}

#[cfg(test)]
mod tests {
    use std::{thread::sleep, time::Duration};

    use super::*;

    fn bench() -> Bench {
        Bench {
            warmup: 2,
            steps: 3,
            device: "flex".into(),
            precision: "f32".into(),
            parameters: 10,
            flops_per_token: Some(60.0),
            peak_flops: Some(1e6),
        }
    }

    #[test]
    fn warm_up_steps_are_run_but_not_timed() {
        let mut seen = Vec::new();
        let report = bench().run(|index| {
            seen.push(index);
            sleep(Duration::from_millis(if index < 2 { 200 } else { 5 }));
            Ok::<_, TrainError>(BenchStep { loss: index as f64, tokens: 100 })
        });
        let report = report.unwrap();
        assert_eq!(seen, [0, 1, 2, 3, 4]);
        assert_eq!(report.losses, [0.0, 1.0, 2.0, 3.0, 4.0]);
        assert!((5.0..150.0).contains(&report.step_ms), "{report:?}");
        assert!(report.tokens_per_second <= 100.0 / 0.005);
        assert!((report.mfu.unwrap() - report.tokens_per_second * 6e-5).abs() < 1e-9);
    }

    #[test]
    fn an_unknown_peak_gives_no_mfu_and_an_error_ends_it() {
        let bench = Bench { peak_flops: None, ..bench() };
        let report = bench.run(|_| Ok::<_, TrainError>(BenchStep { loss: 1.0, tokens: 1 })).unwrap();
        assert!(serde_json::to_value(&report).unwrap()["mfu"].is_null());
        let failed = bench.run(|_| Err::<BenchStep, _>(TrainError::ResumeNeedsRunDir));
        assert!(matches!(failed, Err(TrainError::ResumeNeedsRunDir)));
    }

    #[test]
    fn the_median_of_an_even_number_is_between() {
        assert_eq!(median(&mut [4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(median(&mut [9.0, 1.0, 3.0]), 3.0);
    }
}
