use serde::{Deserialize, Serialize};

use crate::{Cadence, TrainError, micro_batch, optimizer::foreign_keys};

/// `[train]`: length, batch size, seed and cadences of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Optimizer steps. With `max_epochs` too, the run ends at whichever comes first.
    pub max_steps: Option<u64>,
    /// Passes over the training data.
    pub max_epochs: Option<u64>,
    /// Examples of one optimizer step: `micro_batch_size` times `gradient_accumulation`, as a check of these or, in a config with
    /// `micro_batch_size = "auto"`, in their place.
    pub batch_size: Option<usize>,
    /// Examples that the model sees at once; [`MicroBatch`](crate::MicroBatch) in a config file.
    #[serde(deserialize_with = "micro_batch::examples")]
    pub micro_batch_size: usize,
    /// Micro-batches that make one optimizer step.
    pub gradient_accumulation: usize,
    /// Whether the activations of transformer blocks are computed again in the backward pass instead of being kept: less memory,
    /// for a second forward pass in every step.
    pub checkpoint_blocks: bool,
    /// The root of data order, initial weights and every other noise.
    pub seed: u64,
    /// Steps between two lines of the log; the device is read once for each.
    pub log_every: u64,
    /// How often the model is evaluated. The last step's always is.
    pub eval_every: Cadence,
    /// Evaluations without a new best after which the run ends.
    pub early_stopping_patience: Option<u64>,
    /// The metric of the evaluation by which the best model is told: scores such as `accuracy` grow, all others shrink.
    pub metric_for_best: String,
    /// Whether the best model, not the last one, is what the run leaves.
    pub load_best_at_end: bool,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            // The length is a run's own: a default would hide that it was forgotten.
            max_steps: None,
            max_epochs: None,
            // The two below say it.
            batch_size: None,
            // Fits a model of 100M parameters with 512 tokens on 8 GB.
            micro_batch_size: 8,
            // The batch is the micro-batch until memory says otherwise.
            gradient_accumulation: 1,
            // Costs time, which only a model that doesn't fit has to pay.
            checkpoint_blocks: false,
            // The usual one; any other is as good.
            seed: 42,
            // Often enough to see a divergence, seldom enough that reading the device costs nothing.
            log_every: 10,
            // Right for data of any size.
            eval_every: Cadence::Epoch,
            // A run ends early only where that was asked for.
            early_stopping_patience: None,
            // The one metric that every task has.
            metric_for_best: "loss".to_owned(),
            // As in Hugging Face's `Trainer`.
            load_best_at_end: false,
        }
    }
}

impl TrainConfig {
    /// The number of optimizer steps of the run: the earlier of `max_steps` and `max_epochs`.
    pub fn total_steps(&self, steps_per_epoch: u64) -> u64 {
        let by_epochs = self.max_epochs.map(|epochs| epochs.saturating_mul(steps_per_epoch));
        self.max_steps.into_iter().chain(by_epochs).min().unwrap_or(0)
    }

    /// The numbers that so many equal blocks keep for the backward pass: all `activations` of each, or with `checkpoint_blocks` the
    /// `inputs` of each and the activations of the one that is computed again.
    pub fn kept_by_blocks(&self, blocks: usize, activations: usize, inputs: usize) -> usize {
        match self.checkpoint_blocks {
            true => blocks * inputs + activations,
            false => blocks * activations,
        }
    }

    /// Checks each key.
    ///
    /// # Errors
    ///
    /// [`TrainError::Config`] with the first key that can't be used.
    pub fn validate(&self) -> Result<(), TrainError> {
        if self.max_steps.is_none() && self.max_epochs.is_none() {
            return Err(config_error("train.max_steps", "set it or train.max_epochs: how long is the run?"));
        }
        at_least_one("train.max_steps", self.max_steps.unwrap_or(1))?;
        at_least_one("train.max_epochs", self.max_epochs.unwrap_or(1))?;
        at_least_one("train.micro_batch_size", self.micro_batch_size as u64)?;
        at_least_one("train.gradient_accumulation", self.gradient_accumulation as u64)?;
        self.check_batch_size()?;
        at_least_one("train.log_every", self.log_every)?;
        at_least_one("train.early_stopping_patience", self.early_stopping_patience.unwrap_or(1))?;
        if self.metric_for_best.is_empty() {
            return Err(config_error("train.metric_for_best", "must name a metric, such as `loss`"));
        }
        Ok(())
    }

    /// Refuses a `batch_size` that isn't what the step has.
    fn check_batch_size(&self) -> Result<(), TrainError> {
        let (rows, number) = (self.micro_batch_size, self.gradient_accumulation);
        let Some(batch_size) = self.batch_size.filter(|&size| rows.checked_mul(number) != Some(size)) else {
            return Ok(());
        };
        let way_out = match batch_size % rows {
            0 if batch_size > 0 => format!("set train.gradient_accumulation to {}", batch_size / rows),
            _ => "set train.micro_batch_size to a divisor of it, or to \"auto\"".to_owned(),
        };
        let product = rows.saturating_mul(number);
        let problem = format!(
            "is {batch_size}, but a step has {product} examples: train.micro_batch_size {rows} x \
             train.gradient_accumulation {number}; hint: {way_out}"
        );
        Err(config_error("train.batch_size", &problem))
    }
}

/// The shapes of a learning rate schedule; [`Schedule`](crate::Schedule) has their formulas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleName {
    /// Stays.
    Constant,
    /// Falls in a straight line.
    Linear,
    /// Falls in half a cosine.
    #[default]
    Cosine,
    /// The schedule of the 2017 Transformer.
    Noam,
    /// The schedule of T5's pretraining.
    T5,
    /// Falls with the inverse square root of the step.
    InverseSqrt,
}

/// `[schedule]`: how the learning rate moves.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScheduleConfig {
    /// The shape; `cosine` by default, as in nanoGPT.
    pub name: ScheduleName,
    /// Steps of linear rise at the start, or of standing still for `t5`; none by default, because how many are needed depends on model and batch.
    pub warmup_steps: Option<u64>,
    /// The same as a share of the run's length, rounded up.
    pub warmup_ratio: Option<f64>,
    /// The step at which `min_lr` is reached; the run's length by default.
    pub decay_steps: Option<u64>,
    /// The lowest learning rate after the warm-up; 0 by default, as in Hugging Face's schedules.
    pub min_lr: f64,
}

impl ScheduleConfig {
    /// Checks each key; `lr` is `optimizer.lr`.
    ///
    /// # Errors
    ///
    /// [`TrainError::Config`] with the first key that can't be used.
    pub fn validate(&self, lr: f64) -> Result<(), TrainError> {
        if self.warmup_steps.is_some() && self.warmup_ratio.is_some() {
            return Err(config_error("schedule.warmup_ratio", "can't be set beside schedule.warmup_steps"));
        }
        if let Some(ratio) = self.warmup_ratio.filter(|ratio| !(0.0..=1.0).contains(ratio)) {
            return Err(config_error("schedule.warmup_ratio", &format!("must be in 0..=1, got {ratio}")));
        }
        if !(0.0..=lr).contains(&self.min_lr) {
            let problem = format!("must be at least 0 and at most optimizer.lr ({lr}), got {}", self.min_lr);
            return Err(config_error("schedule.min_lr", &problem));
        }
        self.check_decay(self.warmup_steps.unwrap_or(0))?;
        let no_warmup = self.warmup_steps.unwrap_or(0) == 0 && self.warmup_ratio.unwrap_or(0.0) == 0.0;
        let name = match self.name {
            ScheduleName::Noam => "noam",
            ScheduleName::T5 => "t5",
            _ => return Ok(()),
        };
        if no_warmup {
            let problem = format!("must be at least 1 for the schedule `{name}`");
            return Err(config_error("schedule.warmup_steps", &problem));
        }
        Ok(())
    }

    /// Refuses a decay that is set and ends before it begins, after `warmup` steps.
    pub(crate) fn check_decay(&self, warmup: u64) -> Result<(), TrainError> {
        match self.decay_steps.filter(|&decay| decay <= warmup) {
            Some(decay) => {
                let problem = format!("must be more than the {warmup} steps of warm-up, got {decay}");
                Err(config_error("schedule.decay_steps", &problem))
            }
            None => Ok(()),
        }
    }
}

/// `[eval]`: how an evaluation reads its split.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvalConfig {
    /// Examples that the model sees at once; `train.micro_batch_size` by default, which is known to fit.
    pub micro_batch_size: Option<usize>,
    /// Batches of one evaluation, of `micro_batch_size` examples where that is set, else of `train.batch_size` where that is, else of
    /// `train.micro_batch_size`; by default all of the split, since a part of it gives a noisier number.
    pub max_batches: Option<usize>,
}

impl EvalConfig {
    /// Examples that the model sees at once.
    pub fn rows(&self, train: &TrainConfig) -> usize {
        self.micro_batch_size.unwrap_or(train.micro_batch_size)
    }

    /// The most micro-batches of [`rows`](Self::rows) examples of one evaluation; none: all of the split. How `train.batch_size` is cut
    /// does not change the examples.
    pub fn max_micro_batches(&self, train: &TrainConfig) -> Option<usize> {
        let of_a_batch = match (self.micro_batch_size, train.batch_size) {
            (None, Some(_)) => train.gradient_accumulation,
            _ => 1,
        };
        self.max_batches.map(|most| most.saturating_mul(of_a_batch))
    }

    /// Checks each key.
    ///
    /// # Errors
    ///
    /// [`TrainError::Config`] with the first key that can't be used.
    pub fn validate(&self) -> Result<(), TrainError> {
        at_least_one("eval.micro_batch_size", self.micro_batch_size.unwrap_or(1) as u64)?;
        at_least_one("eval.max_batches", self.max_batches.unwrap_or(1) as u64)
    }
}

/// `[checkpoint]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CheckpointConfig {
    /// How often a checkpoint is written. One is at the end, on interruption and for a new best in any case.
    pub save_every: Cadence,
    /// How many are kept, that of the last step and those that were due before all others; the best one is kept besides.
    pub keep_last: usize,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self {
            // As in Hugging Face's `Trainer`.
            save_every: Cadence::Steps(500),
            // One more than is needed, for the case that the disk damages the newest.
            keep_last: 2,
        }
    }
}

impl CheckpointConfig {
    /// Checks each key.
    ///
    /// # Errors
    ///
    /// [`TrainError::Config`] with the first key that can't be used.
    pub fn validate(&self) -> Result<(), TrainError> {
        at_least_one("checkpoint.keep_last", self.keep_last as u64)
    }
}

/// The keys beside `key`, given with its table, that do not go with it where it is `value`: a program that lets a flag override a
/// config leaves out what the config says of them.
pub fn displaced_by(key: &str, value: &str) -> &'static [&'static str] {
    match key {
        "optimizer.name" => foreign_keys(value),
        "train.micro_batch_size" if value == "auto" => &["gradient_accumulation"],
        "schedule.warmup_steps" => &["warmup_ratio"],
        "schedule.warmup_ratio" => &["warmup_steps"],
        _ => &[],
    }
}

fn at_least_one(key: &str, value: u64) -> Result<(), TrainError> {
    if value == 0 { Err(config_error(key, "must be at least 1, got 0")) } else { Ok(()) }
}

pub(crate) fn config_error(key: &str, problem: &str) -> TrainError {
    TrainError::Config { key: key.to_owned(), problem: problem.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(result: Result<(), TrainError>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn defaults_are_valid_but_for_the_length() {
        assert!(message(TrainConfig::default().validate()).contains("train.max_steps"));
        TrainConfig { max_steps: Some(1), ..TrainConfig::default() }.validate().unwrap();
        ScheduleConfig::default().validate(1e-3).unwrap();
        EvalConfig::default().validate().unwrap();
        CheckpointConfig::default().validate().unwrap();
    }

    #[test]
    fn a_bad_value_is_named_with_its_key() {
        let schedule = |text: &str| message(toml::from_str::<ScheduleConfig>(text).unwrap().validate(1e-3));
        assert!(schedule("warmup_steps = 1\nwarmup_ratio = 0.1").contains("schedule.warmup_ratio"));
        assert!(schedule("min_lr = 1.0").contains("at most optimizer.lr (0.001), got 1"));
        let decay = "`schedule.decay_steps`: must be more than the";
        assert_eq!(schedule("warmup_steps = 9\ndecay_steps = 9"), format!("{decay} 9 steps of warm-up, got 9"));
        assert_eq!(schedule("decay_steps = 0"), format!("{decay} 0 steps of warm-up, got 0"));
        for name in ["noam", "t5"] {
            let expected = format!("`schedule.warmup_steps`: must be at least 1 for the schedule `{name}`");
            assert_eq!(schedule(&format!("name = '{name}'")), expected);
        }
    }

    #[test]
    fn the_batch_of_a_step_is_the_product_of_its_parts() {
        let train = |batch_size, micro_batch_size, gradient_accumulation| {
            let sizes = TrainConfig { micro_batch_size, gradient_accumulation, ..TrainConfig::default() };
            TrainConfig { max_steps: Some(1), batch_size: Some(batch_size), ..sizes }.validate()
        };
        train(24, 8, 3).unwrap();
        assert_eq!(
            message(train(64, 8, 1)),
            "`train.batch_size`: is 64, but a step has 8 examples: train.micro_batch_size 8 x train.gradient_accumulation 1; \
             hint: set train.gradient_accumulation to 8"
        );
        assert!(
            message(train(65, 8, 1)).ends_with("hint: set train.micro_batch_size to a divisor of it, or to \"auto\"")
        );
        assert!(message(train(0, 8, 1)).starts_with("`train.batch_size`: is 0, but"));
        assert!(message(train(9, usize::MAX, 2)).starts_with("`train.batch_size`: is 9, but"));
    }

    #[test]
    fn an_evaluation_reads_the_same_examples_however_a_batch_is_cut() {
        let examples = |of_eval, batch_size, (micro_batch_size, gradient_accumulation)| {
            let train = TrainConfig { batch_size, micro_batch_size, gradient_accumulation, ..TrainConfig::default() };
            let eval = EvalConfig { micro_batch_size: of_eval, max_batches: Some(5) };
            eval.rows(&train) * eval.max_micro_batches(&train).unwrap()
        };
        for cut in [(1, 12), (4, 3), (12, 1)] {
            assert_eq!((examples(None, Some(12), cut), examples(Some(7), Some(12), cut)), (60, 35));
            assert_eq!(examples(None, None, cut), 5 * cut.0);
        }
        assert_eq!(EvalConfig::default().max_micro_batches(&TrainConfig::default()), None);
    }

    #[test]
    fn unknown_keys_and_names_are_refused() {
        assert!(toml::from_str::<TrainConfig>("max_step = 3").unwrap_err().to_string().contains("max_step"));
        let names = toml::from_str::<ScheduleConfig>("name = 'step'").unwrap_err().to_string();
        assert!(names.contains("inverse_sqrt"), "{names}");
    }

    #[test]
    fn the_earlier_end_wins() {
        let config = |max_steps, max_epochs| TrainConfig { max_steps, max_epochs, ..TrainConfig::default() };
        assert_eq!(config(Some(100), Some(3)).total_steps(40), 100);
        assert_eq!(config(Some(200), Some(3)).total_steps(40), 120);
        assert_eq!(config(None, Some(3)).total_steps(40), 120);
        assert_eq!(config(Some(7), None).total_steps(40), 7);
    }
}
