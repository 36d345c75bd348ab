use serde::{
    Deserialize, Serialize,
    de::{IntoDeserializer, value},
};

use crate::{TrainError, config::config_error};

/// `[optimizer]`: how gradients move the parameters.
///
/// A key of another optimizer than the one that is named is refused when the config is read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Keys", into = "Keys")]
pub struct OptimizerConfig {
    /// The highest learning rate; `[schedule]` says when it applies.
    pub lr: f64,
    /// Decoupled weight decay, for parameters of two and more dimensions: never on biases and norms.
    pub weight_decay: f64,
    /// The global norm that gradients are scaled down to; 0: no limit.
    pub max_grad_norm: f64,
    /// Which optimizer, with the keys that are its own.
    pub rule: OptimizerRule,
}

/// The optimizers that there are; `name` in the config. Adam is `Adamw` with a weight decay of 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum OptimizerRule {
    /// Adam with decoupled weight decay (Loshchilov and Hutter 2019), as in PyTorch.
    Adamw(AdamConfig),
    /// AdamW whose step is scaled by the size of each tensor, as `AdamWScale` in nanoT5.
    AdamwScaled(AdamConfig),
    /// Adafactor (Shazeer and Stern 2018), as in Hugging Face's `transformers`.
    Adafactor(AdafactorConfig),
}

/// The keys that `adamw` and `adamw_scaled` have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamConfig {
    /// The decay rates of the first and second moment.
    pub betas: [f64; 2],
    /// Added to the square root of the second moment.
    pub eps: f64,
}

/// The keys that `adafactor` has.
///
/// The relative step of the paper is a learning rate that is a function of the step alone, and so it is a schedule here:
/// with `lr = 1e-2` and `warmup_steps = 10_000`, `t5` is Hugging Face's `relative_step`, and `noam` is that with `warmup_init`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdafactorConfig {
    /// The decay rate of the first moment; none is kept without it.
    pub beta1: Option<f64>,
    /// The root mean square that the update of a tensor, before the learning rate, is scaled down to.
    pub clip_threshold: f64,
    /// The second moment keeps `1 - t^decay_rate` of its value in step `t`, counted from 1.
    pub decay_rate: f64,
    /// Whether the learning rate is multiplied by the root mean square of the tensor, at least 1e-3.
    pub scale_parameter: bool,
}

impl OptimizerConfig {
    /// The defaults of an optimizer.
    fn of(name: Name) -> Self {
        // PyTorch's.
        let adam = AdamConfig { betas: [0.9, 0.999], eps: 1e-8 };
        match name {
            // Three of PyTorch's defaults and the limit of nearly every published transformer.
            Name::Adamw => Self { lr: 1e-3, weight_decay: 1e-2, max_grad_norm: 1.0, rule: OptimizerRule::Adamw(adam) },
            // What nanoT5 trains with.
            Name::AdamwScaled => {
                let rule = OptimizerRule::AdamwScaled(AdamConfig { eps: 1e-6, ..adam });
                Self { lr: 2e-2, weight_decay: 0.0, max_grad_norm: 1.0, rule }
            }
            // The paper's, with the learning rate of its relative step. It clips the update, not the gradient.
            Name::Adafactor => {
                let rule = OptimizerRule::Adafactor(AdafactorConfig::default());
                Self { lr: 1e-2, weight_decay: 0.0, max_grad_norm: 0.0, rule }
            }
        }
    }

    /// Checks each key.
    ///
    /// # Errors
    ///
    /// [`TrainError::Config`] with the first key that can't be used.
    pub fn validate(&self) -> Result<(), TrainError> {
        check("optimizer.lr", self.lr, "> 0", self.lr > 0.0)?;
        check("optimizer.weight_decay", self.weight_decay, ">= 0", self.weight_decay >= 0.0)?;
        check("optimizer.max_grad_norm", self.max_grad_norm, ">= 0 (0: no limit)", self.max_grad_norm >= 0.0)?;
        match &self.rule {
            OptimizerRule::Adamw(adam) | OptimizerRule::AdamwScaled(adam) => adam.validate(),
            OptimizerRule::Adafactor(adafactor) => adafactor.validate(),
        }
    }
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self::of(Name::default())
    }
}

impl AdamConfig {
    fn validate(&self) -> Result<(), TrainError> {
        for beta in self.betas {
            check_beta("optimizer.betas", beta)?;
        }
        // Smaller than this, `0 / (0 + eps)` would be 0/0 in f32.
        let smallest = f64::from(f32::MIN_POSITIVE) * 1e6;
        check("optimizer.eps", self.eps, &format!("> {smallest:.0e}"), self.eps > smallest)
    }
}

impl AdafactorConfig {
    fn validate(&self) -> Result<(), TrainError> {
        check_beta("optimizer.beta1", self.beta1.unwrap_or(0.0))?;
        check("optimizer.clip_threshold", self.clip_threshold, "> 0", self.clip_threshold > 0.0)?;
        let rate = self.decay_rate;
        check("optimizer.decay_rate", rate, "at least -1 and below 0", (-1.0..0.0).contains(&rate))
    }
}

impl Default for AdafactorConfig {
    fn default() -> Self {
        // The paper's; `transformers` has the same.
        Self { beta1: None, clip_threshold: 1.0, decay_rate: -0.8, scale_parameter: true }
    }
}

fn check(key: &str, value: f64, wanted: &str, holds: bool) -> Result<(), TrainError> {
    match value.is_finite() && holds {
        true => Ok(()),
        false => Err(config_error(key, &format!("must be {wanted}, got {value}"))),
    }
}

fn check_beta(key: &str, beta: f64) -> Result<(), TrainError> {
    check(key, beta, "at least 0 and below 1", (0.0..1.0).contains(&beta))
}

/// `optimizer.name`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Name {
    #[default]
    Adamw,
    AdamwScaled,
    Adafactor,
}

/// `[optimizer]` as it is written: the keys of all optimizers side by side, those that are left out by name.
#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Keys {
    name: Name,
    lr: Option<f64>,
    betas: Option<[f64; 2]>,
    eps: Option<f64>,
    beta1: Option<f64>,
    clip_threshold: Option<f64>,
    decay_rate: Option<f64>,
    scale_parameter: Option<bool>,
    weight_decay: Option<f64>,
    max_grad_norm: Option<f64>,
}

/// The keys of `[optimizer]` that only others than the optimizer `name` have; none for a name that there isn't.
pub(crate) fn foreign_keys(name: &str) -> &'static [&'static str] {
    let name = Name::deserialize(IntoDeserializer::<value::Error>::into_deserializer(name));
    name.map_or(&[], |name| name.foreign().0)
}

impl Name {
    /// The keys that only others have, and who these are.
    fn foreign(self) -> (&'static [&'static str], &'static str) {
        match self {
            Self::Adamw | Self::AdamwScaled => {
                (&["beta1", "clip_threshold", "decay_rate", "scale_parameter"], "`adafactor`")
            }
            Self::Adafactor => (&["betas", "eps"], "`adamw` and `adamw_scaled`"),
        }
    }
}

impl Keys {
    /// Refuses what the named optimizer would not look at.
    fn check_owners(&self) -> Result<(), String> {
        let set = [
            ("betas", self.betas.is_some()),
            ("eps", self.eps.is_some()),
            ("beta1", self.beta1.is_some()),
            ("clip_threshold", self.clip_threshold.is_some()),
            ("decay_rate", self.decay_rate.is_some()),
            ("scale_parameter", self.scale_parameter.is_some()),
        ];
        let name = match self.name {
            Name::Adamw => "adamw",
            Name::AdamwScaled => "adamw_scaled",
            Name::Adafactor => "adafactor",
        };
        let (foreign, owner) = self.name.foreign();
        match set.iter().find(|(key, set)| *set && foreign.contains(key)) {
            Some((key, _)) => Err(format!("`{key}` is a key of {owner}, but `optimizer.name` is `{name}`")),
            None => Ok(()),
        }
    }
}

impl TryFrom<Keys> for OptimizerConfig {
    type Error = String;

    fn try_from(keys: Keys) -> Result<Self, String> {
        keys.check_owners()?;
        let mut config = Self::of(keys.name);
        config.lr = keys.lr.unwrap_or(config.lr);
        config.weight_decay = keys.weight_decay.unwrap_or(config.weight_decay);
        config.max_grad_norm = keys.max_grad_norm.unwrap_or(config.max_grad_norm);
        match &mut config.rule {
            OptimizerRule::Adamw(adam) | OptimizerRule::AdamwScaled(adam) => {
                adam.betas = keys.betas.unwrap_or(adam.betas);
                adam.eps = keys.eps.unwrap_or(adam.eps);
            }
            OptimizerRule::Adafactor(adafactor) => {
                adafactor.beta1 = keys.beta1;
                adafactor.clip_threshold = keys.clip_threshold.unwrap_or(adafactor.clip_threshold);
                adafactor.decay_rate = keys.decay_rate.unwrap_or(adafactor.decay_rate);
                adafactor.scale_parameter = keys.scale_parameter.unwrap_or(adafactor.scale_parameter);
            }
        }
        Ok(config)
    }
}

impl From<OptimizerConfig> for Keys {
    fn from(config: OptimizerConfig) -> Self {
        let shared = Self {
            lr: Some(config.lr),
            weight_decay: Some(config.weight_decay),
            max_grad_norm: Some(config.max_grad_norm),
            ..Self::default()
        };
        let adam = |name, AdamConfig { betas, eps }| (name, Some(betas), Some(eps));
        match config.rule {
            OptimizerRule::Adamw(keys) => {
                let (name, betas, eps) = adam(Name::Adamw, keys);
                Self { name, betas, eps, ..shared }
            }
            OptimizerRule::AdamwScaled(keys) => {
                let (name, betas, eps) = adam(Name::AdamwScaled, keys);
                Self { name, betas, eps, ..shared }
            }
            OptimizerRule::Adafactor(keys) => Self {
                name: Name::Adafactor,
                beta1: keys.beta1,
                clip_threshold: Some(keys.clip_threshold),
                decay_rate: Some(keys.decay_rate),
                scale_parameter: Some(keys.scale_parameter),
                ..shared
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use toml::Table;

    use super::*;

    fn read(text: &str) -> Result<OptimizerConfig, String> {
        toml::from_str(text).map_err(|error| error.message().to_owned())
    }

    fn invalid(text: &str) -> String {
        read(text).unwrap().validate().unwrap_err().to_string()
    }

    /// The table of a run from before there were other optimizers than AdamW: its hash decides whether the run can go on.
    #[test]
    fn a_config_without_a_name_is_written_as_ever() {
        let written = Table::try_from(OptimizerConfig::default()).unwrap();
        let known =
            "name = 'adamw'\nlr = 1e-3\nbetas = [0.9, 0.999]\neps = 1e-8\nweight_decay = 1e-2\nmax_grad_norm = 1.0";
        assert_eq!(written, known.parse().unwrap());
        assert_eq!(read("").unwrap(), OptimizerConfig::default());
        assert_eq!(read(known).unwrap(), OptimizerConfig::default());
    }

    #[test]
    fn each_optimizer_has_its_defaults_and_comes_back_as_written() {
        let scaled = read("name = 'adamw_scaled'\nbetas = [0.8, 0.9]").unwrap();
        assert_eq!(scaled.rule, OptimizerRule::AdamwScaled(AdamConfig { betas: [0.8, 0.9], eps: 1e-6 }));
        assert_eq!((scaled.lr, scaled.weight_decay, scaled.max_grad_norm), (2e-2, 0.0, 1.0));
        let adafactor = read("name = 'adafactor'\nbeta1 = 0.5\nscale_parameter = false\nlr = 1e-4").unwrap();
        let rule = AdafactorConfig { beta1: Some(0.5), scale_parameter: false, ..AdafactorConfig::default() };
        assert_eq!(adafactor.rule, OptimizerRule::Adafactor(rule));
        assert_eq!((adafactor.lr, adafactor.max_grad_norm), (1e-4, 0.0));
        for config in [scaled, adafactor, read("name = 'adafactor'").unwrap()] {
            config.validate().unwrap();
            assert_eq!(Table::try_from(config.clone()).unwrap().try_into(), Ok(config));
        }
    }

    #[test]
    fn the_keys_that_an_optimizer_lacks_are_those_that_others_write() {
        let tables = ["name = 'adamw'", "name = 'adamw_scaled'", "name = 'adafactor'\nbeta1 = 0.9"]
            .map(|text| Table::try_from(read(text).unwrap()).unwrap());
        for own in &tables {
            let others: BTreeSet<_> =
                tables.iter().flat_map(Table::keys).filter(|key| !own.contains_key(*key)).collect();
            let foreign = foreign_keys(own["name"].as_str().unwrap());
            assert!(others.into_iter().eq(foreign), "{foreign:?} of {own}");
        }
        assert!(foreign_keys("sgd").is_empty());
    }

    #[test]
    fn a_bad_value_is_named_with_its_key() {
        assert_eq!(invalid("lr = -1.0"), "`optimizer.lr`: must be > 0, got -1");
        assert_eq!(invalid("betas = [0.9, 1.0]"), "`optimizer.betas`: must be at least 0 and below 1, got 1");
        assert!(invalid("name = 'adamw_scaled'\neps = 0.0").starts_with("`optimizer.eps`: must be >"));
        assert!(invalid("max_grad_norm = nan").contains("got NaN"));
        let adafactor = |text: &str| invalid(&format!("name = 'adafactor'\n{text}"));
        assert_eq!(adafactor("decay_rate = 0.8"), "`optimizer.decay_rate`: must be at least -1 and below 0, got 0.8");
        assert_eq!(adafactor("beta1 = 1.0"), "`optimizer.beta1`: must be at least 0 and below 1, got 1");
        assert_eq!(adafactor("clip_threshold = 0.0"), "`optimizer.clip_threshold`: must be > 0, got 0");
    }

    /// Also where the value is the default: whoever wrote it expects it to be used.
    #[test]
    fn a_key_of_another_optimizer_is_refused() {
        let refused = |text: &str| read(text).unwrap_err();
        assert_eq!(refused("beta1 = 0.9"), "`beta1` is a key of `adafactor`, but `optimizer.name` is `adamw`");
        assert_eq!(
            refused("name = 'adafactor'\nbetas = [0.9, 0.999]"),
            "`betas` is a key of `adamw` and `adamw_scaled`, but `optimizer.name` is `adafactor`"
        );
        assert!(refused("name = 'adamw_scaled'\ndecay_rate = -0.8").contains("is `adamw_scaled`"));
        assert!(refused("name = 'adafactor'\neps = 1e-8").starts_with("`eps` is a key of `adamw`"));
        assert!(refused("name = 'sgd'").contains("adamw_scaled"));
        assert!(refused("relative_step = true").starts_with("unknown field `relative_step`"));
    }
}
