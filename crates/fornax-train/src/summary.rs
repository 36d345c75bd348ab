use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Deserializer, Serialize};

use crate::{
    TrainError,
    files::{self, FORMAT_VERSION},
};

/// The exit code of a program that SIGINT or SIGTERM ended: 128 + 2.
pub const EXIT_INTERRUPTED: i32 = 130;

/// `summary.json`: a run in one object, written at its end, on interruption and on an error that ends it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The layout of this file.
    pub format_version: u64,
    /// The recipe's name.
    pub recipe: String,
    /// The device that the run ended on.
    pub device: String,
    /// The compute type of matrix products.
    pub precision: String,
    /// Numbers in the model's parameters, those that are not trained among them.
    pub parameters: u64,
    /// Completed optimizer steps.
    pub steps: u64,
    /// Passes over the training data, where the recipe knows how long one is.
    pub epochs: Option<f64>,
    /// Tokens read in training.
    pub tokens: u64,
    /// Wall time of the run, all sessions together.
    pub seconds: f64,
    /// In training steps, without evaluation and saving.
    pub tokens_per_second: f64,
    /// The largest resident memory of the process, where the platform tells.
    pub peak_memory_bytes: Option<u64>,
    /// Whether a signal ended the run before its last step, or after it before all was measured.
    pub interrupted: bool,
    /// Whether early stopping ended the run before its last step.
    pub stopped_early: bool,
    /// The error that ended the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The last train line's loss.
    #[serde(deserialize_with = "numbers")]
    pub train: BTreeMap<String, f64>,
    /// Metrics of the model that was kept: the mean of checkpoints where the recipe tests that, the best if `load_best_at_end`, else
    /// the last.
    #[serde(deserialize_with = "numbers")]
    pub valid: BTreeMap<String, f64>,
    /// Metrics of that model on labelled test data, where there are any.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "numbers")]
    pub test: BTreeMap<String, f64>,
    /// The best evaluation.
    pub best: Option<Best>,
}

/// The evaluation that had the best value of `metric_for_best`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Completed steps.
    pub step: u64,
    /// The metric's name.
    pub metric: String,
    /// Its value.
    #[serde(deserialize_with = "number")]
    pub value: f64,
}

impl Summary {
    /// Reads the summary in a run folder; `None` where there is none yet.
    ///
    /// # Errors
    ///
    /// When the file is damaged or of a newer format.
    pub fn open(run_dir: &Path) -> Result<Option<Self>, TrainError> {
        let path = run_dir.join("summary.json");
        if path.exists() { files::read_json(&path).map(Some) } else { Ok(None) }
    }

    /// Writes it into a run folder.
    pub(crate) fn write(&self, run_dir: &Path) -> Result<(), TrainError> {
        debug_assert_eq!(self.format_version, FORMAT_VERSION);
        files::write_json(&run_dir.join("summary.json"), self)
    }

    /// 0, or 130 after an interruption.
    pub fn exit_code(&self) -> i32 {
        if self.interrupted { EXIT_INTERRUPTED } else { 0 }
    }
}

/// JSON has no NaN: it is written as `null` and read back as what it was.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

fn numbers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, f64>, D::Error> {
    let values = BTreeMap::<String, Option<f64>>::deserialize(deserializer)?;
    Ok(values.into_iter().map(|(name, value)| (name, value.unwrap_or(f64::NAN))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_with_a_nan_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Summary::open(dir.path()).unwrap(), None);
        let summary = Summary {
            format_version: FORMAT_VERSION,
            recipe: "gpt-lm".into(),
            device: "flex".into(),
            precision: "f32".into(),
            parameters: 12,
            steps: 3,
            epochs: Some(0.5),
            tokens: 96,
            seconds: 1.5,
            tokens_per_second: 64.0,
            peak_memory_bytes: None,
            interrupted: true,
            stopped_early: false,
            error: Some("the loss of step 4 is not finite".into()),
            train: [("loss".to_owned(), f64::NAN)].into(),
            valid: BTreeMap::new(),
            test: BTreeMap::new(),
            best: Some(Best { step: 2, metric: "loss".into(), value: 0.25 }),
        };
        summary.write(dir.path()).unwrap();
        let read = Summary::open(dir.path()).unwrap().unwrap();
        assert!(read.train["loss"].is_nan());
        assert_eq!(Summary { train: BTreeMap::new(), ..read }, Summary { train: BTreeMap::new(), ..summary });
    }
}
