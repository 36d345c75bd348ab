use std::collections::BTreeMap;

use fornax_backend::Precision;
use serde::{Deserialize, Serialize};

use crate::{Schedule, Totals, exact, files::FORMAT_VERSION};

/// `state.json`: all of a checkpoint that is not a tensor.
///
/// Data order, noise and learning rate are functions of seed and step, so the step number stands for all of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// The layout of this file.
    pub format_version: u64,
    /// Completed optimizer steps.
    pub step: u64,
    /// The root of every random stream of the run.
    pub seed: u64,
    /// SHA-256 of the config without the keys that a resumed run may change.
    pub config_hash: String,
    /// The compute type of matrix products.
    pub precision: String,
    /// What identifies the training data, where the recipe gives it.
    pub data_hash: Option<String>,
    /// What identifies the tokenizer, where the recipe gives it.
    pub tokenizer_hash: Option<String>,
    /// `--overfit`, which decides what data the run sees.
    pub overfit: Option<usize>,
    /// The lengths that the schedule was resolved with: a run that is made longer keeps them.
    pub schedule: ScheduleSteps,
    /// Tokens that training has read.
    pub tokens: u64,
    /// Wall time so far.
    pub seconds: f64,
    /// Wall time of training steps alone, without evaluation and saving.
    pub train_seconds: f64,
    /// The loss of the last train line.
    #[serde(with = "exact::option")]
    pub train_loss: Option<f64>,
    /// The part of the logged window that lies before this step.
    pub window: Totals,
    /// The last evaluation.
    pub valid: Option<Evaluation>,
    /// The best evaluation so far.
    pub best: Option<Evaluation>,
    /// Evaluations since the best one.
    pub evaluations_without_improvement: u64,
    /// Size and SHA-256 of the other files, by name.
    pub files: BTreeMap<String, FileDigest>,
}

impl State {
    /// The state before the first step.
    pub(crate) fn fresh(seed: u64, config_hash: String, precision: Precision, schedule: &Schedule) -> Self {
        Self {
            format_version: FORMAT_VERSION,
            step: 0,
            seed,
            config_hash,
            precision: precision.to_string(),
            data_hash: None,
            tokenizer_hash: None,
            overfit: None,
            schedule: ScheduleSteps { warmup: schedule.warmup_steps(), decay: schedule.decay_steps() },
            tokens: 0,
            seconds: 0.0,
            train_seconds: 0.0,
            train_loss: None,
            window: Totals::default(),
            valid: None,
            best: None,
            evaluations_without_improvement: 0,
            files: BTreeMap::new(),
        }
    }
}

/// The resolved lengths of a learning rate schedule, in steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleSteps {
    /// Of the rising part.
    pub warmup: u64,
    /// From the run's beginning to the end of the falling part.
    pub decay: u64,
}

/// One evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Completed steps when it was made.
    pub step: u64,
    /// Its metrics by name.
    #[serde(with = "exact::named")]
    pub metrics: BTreeMap<String, f64>,
}

/// What a file of a checkpoint must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDigest {
    /// Bytes.
    pub size: u64,
    /// In hexadecimal.
    pub sha256: String,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{ScheduleConfig, TermTotal};

    proptest! {
        #[test]
        fn every_number_survives(bits: u64, sum: f32, count: u64) {
            let value = f64::from_bits(bits);
            prop_assume!(!value.is_nan() && !sum.is_nan());
            let schedule = Schedule::new(&ScheduleConfig::default(), 1e-3, 100).unwrap();
            let mut state = State::fresh(7, "hash".into(), Precision::F32, &schedule);
            let term = TermTotal { name: "tokens".into(), weight: 1.0, sum: f64::from(sum), count };
            let metrics = vec![("correct".to_owned(), value), ("a".to_owned(), f64::from(sum))];
            state.window = Totals { steps: 3, tokens: count, terms: vec![term], metrics };
            state.train_loss = Some(value);
            state.best = Some(Evaluation { step: 3, metrics: [("loss".to_owned(), value)].into() });
            let text = serde_json::to_string(&state).unwrap();
            prop_assert_eq!(serde_json::from_str::<State>(&text).unwrap(), state);
        }
    }
}
