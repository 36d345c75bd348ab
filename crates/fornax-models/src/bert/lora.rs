use fornax_nn::{Init, Linear, initialise_some};
use serde::{Deserialize, Serialize};

use super::{Bert, BertForSequenceClassification};
use crate::{ModelError, validate};

/// Which layers get an adapter, and of what rank (Hu et al. 2022, "LoRA: low-rank adaptation of large language models").
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoraConfig {
    /// The rank of the difference.
    pub rank: usize,
    /// The difference is multiplied by `alpha / rank`, so that the learning rate need not change with the rank.
    pub alpha: f64,
    /// Probability that an input of an adapter is dropped.
    pub dropout: f64,
    /// The layers of every block that get one.
    pub targets: Vec<LoraTarget>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        // Rank, alpha and targets of the paper's RoBERTa-base on GLUE (its table 9).
        Self { rank: 8, alpha: 8.0, dropout: 0.0, targets: vec![LoraTarget::Query, LoraTarget::Value] }
    }
}

/// A linear layer of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoraTarget {
    /// Attention's queries.
    Query,
    /// Attention's keys.
    Key,
    /// Attention's values.
    Value,
    /// Attention's output.
    Output,
    /// The first feed-forward layer.
    Up,
    /// The second feed-forward layer.
    Down,
}

impl LoraConfig {
    /// Whether there is an adapter to train.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`] with the first key that can't be used.
    pub fn validate(&self) -> Result<(), ModelError> {
        if self.rank == 0 {
            return Err(validate::refuse("lora.rank", &0, "must be at least 1"));
        }
        if !(self.alpha > 0.0 && self.alpha.is_finite()) {
            return Err(validate::refuse("lora.alpha", &self.alpha, "must be above 0"));
        }
        if self.targets.is_empty() {
            return Err(validate::refuse(
                "lora.targets",
                &"[]",
                "must name at least one layer: query, key, value, output, up, down",
            ));
        }
        validate::dropout("lora.dropout", self.dropout)
    }
}

impl Bert {
    /// The same encoder with `change` made to the linear layers of each block.
    fn map_linear(mut self, mut change: impl FnMut(LoraTarget, Linear) -> Linear) -> Self {
        self.blocks = self
            .blocks
            .into_iter()
            .map(|mut block| {
                let attention = &mut block.attention;
                for (target, layer) in [
                    (LoraTarget::Query, &mut attention.query),
                    (LoraTarget::Key, &mut attention.key),
                    (LoraTarget::Value, &mut attention.value),
                    (LoraTarget::Output, &mut attention.output),
                    (LoraTarget::Up, &mut block.feed_forward.up),
                    (LoraTarget::Down, &mut block.feed_forward.down),
                ] {
                    *layer = change(target, layer.clone());
                }
                block
            })
            .collect();
        self
    }
}

impl BertForSequenceClassification {
    /// The same model with adapters, which add nothing yet: the first factor is drawn from `seed` as PEFT draws it, uniform on
    /// `±1 / √input_size`, the second is zero. What else is trained is the caller's choice.
    ///
    /// # Errors
    ///
    /// As [`LoraConfig::validate`].
    pub fn with_lora(self, config: &LoraConfig, seed: u64) -> Result<Self, ModelError> {
        config.validate()?;
        let scale = config.alpha / config.rank as f64;
        let bert = self.bert.map_linear(|target, layer| match config.targets.contains(&target) {
            true => layer.with_lora(config.rank, scale, config.dropout),
            false => layer,
        });
        Ok(initialise_some(Self { bert, ..self }, seed, |path, shape| {
            let factor = path.rsplit_once(".lora.")?.1;
            let bound = (shape[0] as f64).sqrt().recip();
            Some(if factor == "a" { Init::Uniform { low: -bound, high: bound } } else { Init::Constant(0.0) })
        }))
    }

    /// The same model with its adapters, if it has any, added to the weights beside them.
    #[must_use]
    pub fn merge_lora(self) -> Self {
        Self { bert: self.bert.map_linear(|_, layer| layer.merge_lora()), ..self }
    }
}

#[cfg(test)]
mod tests {
    use burn::{
        module::Module,
        tensor::{Int, Tensor, TensorData},
    };
    use fornax_backend::{Precision, test_device};
    use fornax_nn::initialise;
    use fornax_ops::{AttentionMask, Context};

    use super::*;
    use crate::{BertConfig, ClassifierConfig, Pooling};

    fn model() -> BertForSequenceClassification {
        let sizes = BertConfig {
            vocab_size: 31,
            max_positions: 8,
            hidden_size: 12,
            num_layers: 2,
            num_heads: 3,
            intermediate_size: 20,
            ..BertConfig::default()
        };
        let classifier = ClassifierConfig::numbered(2, Pooling::Cls);
        let model = sizes.init_sequence_classification(&classifier, 1, &test_device()).unwrap();
        // Weights ten times larger than at initialisation, so that a change in one is seen in the logits.
        initialise(model, 1, |_, _| Init::Normal { mean: 0.0, std: 0.2 })
    }

    fn logits(model: &BertForSequenceClassification) -> Vec<f32> {
        let ids = TensorData::new(vec![1i32, 5, 9, 2, 30, 3], [2, 3]);
        let ids = Tensor::<2, Int>::from_data(ids, &test_device());
        let context = Context::evaluation(Precision::F32);
        model.forward(ids, None, &AttentionMask::None, &context).into_data().iter::<f32>().collect()
    }

    #[test]
    fn adapters_begin_as_nothing_and_merge_into_the_weights() {
        let config =
            LoraConfig { rank: 3, targets: vec![LoraTarget::Query, LoraTarget::Down], ..LoraConfig::default() };
        let plain = model();
        let adapted = plain.clone().with_lora(&config, 7).unwrap();
        assert_eq!(adapted.num_params() - plain.num_params(), 2 * (3 * (12 + 12) + 3 * (20 + 12)));
        assert_eq!(logits(&adapted), logits(&plain));

        let trained = initialise_some(adapted, 8, |path, _| {
            path.ends_with(".lora.b").then_some(Init::Normal { mean: 0.0, std: 0.5 })
        });
        let merged = trained.clone().merge_lora();
        assert_eq!(merged.num_params(), plain.num_params());
        let difference =
            |a: Vec<f32>, b: Vec<f32>| a.iter().zip(b).fold(0.0f32, |most, (a, b)| most.max((a - b).abs()));
        assert!(difference(logits(&merged), logits(&trained)) < 1e-5);
        assert!(difference(logits(&merged), logits(&plain)) > 1e-3);
        let ids = |model: &BertForSequenceClassification| {
            fornax_nn::parameters(model).into_iter().map(|parameter| parameter.id).collect::<Vec<_>>()
        };
        assert_eq!(ids(&merged), ids(&plain));
    }

    #[test]
    fn configurations_that_train_nothing_are_refused() {
        let base = LoraConfig::default();
        for (config, message) in [
            (LoraConfig { rank: 0, ..base.clone() }, "model.lora.rank = 0: must be at least 1"),
            (LoraConfig { alpha: 0.0, ..base.clone() }, "model.lora.alpha = 0: must be above 0"),
            (LoraConfig { targets: vec![], ..base.clone() }, "model.lora.targets = []: must name"),
            (LoraConfig { dropout: 1.0, ..base }, "model.lora.dropout = 1: must be"),
        ] {
            let error = model().with_lora(&config, 1).unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
    }
}
