use std::f64::consts::PI;

use crate::{
    TrainError,
    config::{ScheduleConfig, ScheduleName},
};

/// The steps over which `inverse_sqrt` without warm-up falls to `lr / sqrt(2)`, as in Hugging Face's schedule.
const INVERSE_SQRT_TIMESCALE: u64 = 10_000;

/// The learning rate as a pure function of the step, so that a resumed run needs nothing but the step number.
///
/// Steps count from 0. In the first `warmup` steps every schedule but `t5` rises linearly, and none is ever zero there. All
/// schedules but `constant` then fall, at most to `min_lr`:
///
/// | name | warm-up | afterwards |
/// |---|---|---|
/// | `constant` | `lr (s+1) / (w+1)` | `lr` |
/// | `linear` | the same | straight line to `min_lr` at `decay_steps`, constant from there |
/// | `cosine` | the same | half a cosine to `min_lr` at `decay_steps`, constant from there (nanoGPT) |
/// | `inverse_sqrt` | the same | `lr sqrt(w / s)`; without warm-up, `lr sqrt(10000 / (s + 10000))` (Hugging Face) |
/// | `noam` | `lr (s+1) / w` | `lr sqrt(w / (s+1))` |
/// | `t5` | `lr` | `lr sqrt(w / (s+1))` |
///
/// `noam` is the schedule of Vaswani et al. (2017) scaled so that `lr` is its peak, reached at step `w - 1`; the
/// paper's own peak is `1 / sqrt(hidden_size * w)`. `t5` is `1 / sqrt(max(s+1, w))` (Raffel et al. 2020) scaled in the same way;
/// their own `lr` is `1 / sqrt(w)`, which is 1e-2 for their `w` of 10000.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    name: ScheduleName,
    peak: f64,
    min_lr: f64,
    warmup: u64,
    decay: u64,
}

impl Schedule {
    /// The schedule of a run of `total_steps` steps whose highest learning rate is `lr`.
    ///
    /// A warm-up longer than the run is no error: a run cut short stays in it.
    ///
    /// # Errors
    ///
    /// [`TrainError::Config`] when `decay_steps` is set and not more than the warm-up, which `warmup_ratio` may make as
    /// long as the run.
    pub fn new(config: &ScheduleConfig, lr: f64, total_steps: u64) -> Result<Self, TrainError> {
        let warmup = match (config.warmup_steps, config.warmup_ratio) {
            (Some(steps), _) => steps,
            (None, Some(ratio)) => (ratio * total_steps as f64).ceil() as u64,
            (None, None) => 0,
        };
        config.check_decay(warmup)?;
        let decay = config.decay_steps.unwrap_or(total_steps);
        Ok(Self { name: config.name, peak: lr, min_lr: config.min_lr, warmup, decay })
    }

    /// The learning rate of step `step`, counted from 0.
    pub fn lr(&self, step: u64) -> f64 {
        if let ScheduleName::Noam | ScheduleName::T5 = self.name {
            let (step, warmup) = ((step + 1) as f64, self.warmup.max(1) as f64);
            return match self.name {
                _ if step > warmup => self.floored((warmup / step).sqrt()),
                ScheduleName::T5 => self.peak,
                _ => self.peak * step / warmup,
            };
        }
        if step < self.warmup {
            return self.peak * (step + 1) as f64 / (self.warmup + 1) as f64;
        }
        match self.name {
            ScheduleName::Constant | ScheduleName::Noam | ScheduleName::T5 => self.peak,
            ScheduleName::Linear => self.between(1.0 - self.progress(step)),
            ScheduleName::Cosine => self.between(0.5 * (1.0 + (PI * self.progress(step)).cos())),
            ScheduleName::InverseSqrt => {
                let timescale = if self.warmup > 0 { self.warmup } else { INVERSE_SQRT_TIMESCALE };
                let elapsed = step + (timescale - self.warmup);
                self.floored((timescale as f64 / elapsed as f64).sqrt())
            }
        }
    }

    /// The steps of the rising part.
    pub fn warmup_steps(&self) -> u64 {
        self.warmup
    }

    /// The step at which the falling part ends.
    pub fn decay_steps(&self) -> u64 {
        self.decay
    }

    /// What there is to say when a run that this schedule was resolved for keeps a shorter one, which ends at `decay`.
    pub(crate) fn outlived(&self, decay: u64) -> Option<String> {
        let falls = matches!(self.name, ScheduleName::Linear | ScheduleName::Cosine);
        (falls && self.decay > decay).then(|| {
            format!(
                "the run keeps the schedule that it began with (schedule.decay_steps is {decay}, not {}): from step {decay} on \
                 the learning rate stays at schedule.min_lr, {:e}",
                self.decay, self.min_lr
            )
        })
    }

    /// The same schedule with other resolved lengths: a resumed run keeps those that it began with, though it may have
    /// become longer.
    #[must_use]
    pub fn with_steps(self, warmup: u64, decay: u64) -> Self {
        Self { warmup, decay, ..self }
    }

    /// How much of the falling part lies behind, in `0..=1`.
    fn progress(&self, step: u64) -> f64 {
        if step >= self.decay {
            return 1.0;
        }
        (step - self.warmup) as f64 / (self.decay - self.warmup) as f64
    }

    fn between(&self, share: f64) -> f64 {
        self.min_lr + share * (self.peak - self.min_lr)
    }

    fn floored(&self, share: f64) -> f64 {
        (self.peak * share).max(self.min_lr)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAMES: [ScheduleName; 6] = [
        ScheduleName::Constant,
        ScheduleName::Linear,
        ScheduleName::Cosine,
        ScheduleName::Noam,
        ScheduleName::InverseSqrt,
        ScheduleName::T5,
    ];

    fn schedule(name: ScheduleName, warmup: u64, total: u64, min_lr: f64) -> Schedule {
        let config = ScheduleConfig { name, warmup_steps: Some(warmup), min_lr, ..ScheduleConfig::default() };
        Schedule::new(&config, 1e-3, total).unwrap()
    }

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() <= 1e-12 * expected.abs(), "{found} instead of {expected}");
    }

    /// Values of `get_lr` in nanoGPT's `train.py` with learning_rate 1e-3, warmup_iters 100, lr_decay_iters 2000,
    /// min_lr 1e-4: its CPU setting for Shakespeare.
    #[test]
    fn cosine_has_the_values_of_nanogpt() {
        let schedule = schedule(ScheduleName::Cosine, 100, 2000, 1e-4);
        close(schedule.lr(0), 1e-3 / 101.0);
        close(schedule.lr(99), 1e-3 * 100.0 / 101.0);
        close(schedule.lr(100), 1e-3);
        close(schedule.lr(1050), 5.5e-4);
        close(schedule.lr(575), 8.681_980_515_339_464e-4);
        close(schedule.lr(2000), 1e-4);
        close(schedule.lr(1_000_000), 1e-4);
    }

    #[test]
    fn each_schedule_at_its_corners() {
        let linear = schedule(ScheduleName::Linear, 10, 110, 0.0);
        close(linear.lr(60), 5e-4);
        assert_eq!(linear.lr(110), 0.0);
        let constant = schedule(ScheduleName::Constant, 10, 110, 0.0);
        close(constant.lr(10), 1e-3);
        close(constant.lr(10_000), 1e-3);
        let noam = schedule(ScheduleName::Noam, 400, 1_000, 0.0);
        close(noam.lr(0), 1e-3 / 400.0);
        close(noam.lr(399), 1e-3);
        close(noam.lr(1_599), 5e-4);
        let inverse = schedule(ScheduleName::InverseSqrt, 400, 1_000, 0.0);
        close(inverse.lr(400), 1e-3);
        close(inverse.lr(1_600), 5e-4);
        close(schedule_without_warmup(ScheduleName::InverseSqrt).lr(30_000), 5e-4);
    }

    fn schedule_without_warmup(name: ScheduleName) -> Schedule {
        schedule(name, 0, 100, 0.0)
    }

    /// The formulas as published, with the paper's own peak as `lr`.
    #[test]
    fn noam_t5_and_the_inverse_root_have_their_closed_forms() {
        let (hidden_size, warmup) = (512f64, 4_000f64);
        let config = |name, warmup| ScheduleConfig { name, warmup_steps: Some(warmup), ..ScheduleConfig::default() };
        let noam = Schedule::new(&config(ScheduleName::Noam, 4_000), (hidden_size * warmup).powf(-0.5), 1).unwrap();
        let inverse = Schedule::new(&config(ScheduleName::InverseSqrt, 4_000), 1.0, 1).unwrap();
        let t5 = Schedule::new(&config(ScheduleName::T5, 10_000), 1e-2, 1).unwrap();
        let rise = Schedule::new(&config(ScheduleName::Noam, 10_000), 1e-2, 1).unwrap();
        for step in [0u64, 1, 99, 3_998, 3_999, 4_000, 9_999, 10_000, 39_999, 1_000_000] {
            let t = (step + 1) as f64;
            close(noam.lr(step), hidden_size.powf(-0.5) * t.powf(-0.5).min(t * warmup.powf(-1.5)));
            close(t5.lr(step), 1.0 / t.max(1e4).sqrt());
            // The relative step of Adafactor, as in Hugging Face's `Adafactor`, without and with `warmup_init`.
            close(t5.lr(step), (1.0 / t.sqrt()).min(1e-2));
            close(rise.lr(step), (1.0 / t.sqrt()).min(1e-6 * t));
            if step >= 4_000 {
                close(inverse.lr(step), (warmup / step as f64).sqrt());
            }
        }
    }

    #[test]
    fn warmup_as_a_ratio_rounds_up_and_decay_steps_override_the_length() {
        let config = ScheduleConfig {
            name: ScheduleName::Linear,
            warmup_ratio: Some(0.06),
            decay_steps: Some(50),
            ..ScheduleConfig::default()
        };
        let schedule = Schedule::new(&config, 1.0, 110).unwrap();
        assert_eq!(schedule.warmup_steps(), 7);
        assert_eq!(schedule.lr(50), 0.0);
        let error = Schedule::new(&config, 1.0, 1_000).unwrap_err().to_string();
        assert_eq!(error, "`schedule.decay_steps`: must be more than the 60 steps of warm-up, got 50");
    }

    #[test]
    fn only_a_falling_schedule_is_outlived() {
        let message = schedule(ScheduleName::Cosine, 10, 200, 1e-5).outlived(100).unwrap();
        assert!(message.contains("schedule.decay_steps is 100") && message.contains("min_lr, 1e-5"), "{message}");
        assert_eq!(schedule(ScheduleName::Linear, 10, 100, 0.0).outlived(100), None);
        assert_eq!(schedule(ScheduleName::Constant, 10, 200, 0.0).outlived(100), None);
    }

    #[test]
    fn a_run_shorter_than_its_warmup_stays_in_it() {
        let schedule = schedule(ScheduleName::Cosine, 100, 20, 1e-4);
        assert!(schedule.lr(19) < schedule.lr(20));
        assert_eq!(schedule.lr(100), 1e-4);
    }

    proptest! {
        #[test]
        fn rises_in_the_warmup_then_never_rises_again(
            which in 0..NAMES.len(), warmup in 0u64..200, length in 1u64..500, step in 0u64..1_000,
        ) {
            let schedule = schedule(NAMES[which], warmup, warmup + length, 1e-5);
            let (now, next) = (schedule.lr(step), schedule.lr(step + 1));
            prop_assert!(now > 0.0 && now <= 1e-3);
            if step + 1 < warmup {
                let stands = schedule.name == ScheduleName::T5;
                prop_assert!(next > now || stands && next == now);
            } else if step >= warmup {
                prop_assert!(next <= now);
                prop_assert!(next >= 1e-5);
            }
        }
    }
}
