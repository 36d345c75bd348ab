use std::path::{Path, PathBuf};

use fornax_cli::ModelTable;
use fornax_data::{
    TokenizerConfig,
    labelled::{LabelKind, LabelledConfig},
};
use fornax_models::{BertConfig, BertFamily, LoraConfig, ModelError, Pooling};
use fornax_nn::Activation;
use fornax_train::{CheckpointConfig, EvalConfig, OptimizerConfig, ScheduleConfig, ScoreKind, TrainConfig, TrainError};
use serde::{Deserialize, Serialize};

/// `train.metric_for_best` for the metric that the task is known by.
const AUTO: &str = "auto";

/// The config of this recipe; every table may be left out.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// A checkpoint to start from, or sizes.
    pub model: ModelConfig,
    /// A tokenizer to load or, for a new model, to train.
    pub tokenizer: TokenizerConfig,
    /// The task, or tables with labels.
    pub data: LabelledConfig,
    /// Length, batch size, seed and cadences.
    pub train: TrainConfig,
    /// The optimizer.
    pub optimizer: OptimizerConfig,
    /// The learning rate over time.
    pub schedule: ScheduleConfig,
    /// How evaluations run.
    pub eval: EvalConfig,
    /// How often the run is saved.
    pub checkpoint: CheckpointConfig,
}

impl Config {
    /// Checks every key that can be checked without data.
    ///
    /// # Errors
    ///
    /// The first key that can't be used.
    pub fn validate(&self) -> anyhow::Result<()> {
        self.data.check()?;
        self.model.validate()?;
        self.train.validate()?;
        self.optimizer.validate()?;
        self.schedule.validate(self.optimizer.lr)?;
        self.eval.validate()?;
        Ok(self.checkpoint.validate()?)
    }

    /// Puts the task's own metric in the place of `auto`, and refuses one that these labels don't have.
    ///
    /// # Errors
    ///
    /// [`TrainError::UnknownMetric`].
    pub(crate) fn choose_metric(&mut self, best: &str, kinds: &[ScoreKind]) -> Result<(), TrainError> {
        let metric = &mut self.train.metric_for_best;
        if metric == AUTO {
            best.clone_into(metric);
        }
        let known: Vec<&str> = kinds.iter().map(|kind| kind.name()).chain(["loss"]).collect();
        match known.contains(&metric.as_str()) {
            true => Ok(()),
            false => Err(TrainError::UnknownMetric { metric: metric.clone(), known: known.join(", ") }),
        }
    }
}

/// `[model]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// A Hugging Face folder (BERT, RoBERTa or DistilBERT) or a run folder to start from. Tokenizer and sizes then come from there; a
    /// classification head for another number of classes is drawn anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<PathBuf>,
    /// Layout and head: `bert`, `roberta` or `distilbert`.
    pub family: BertFamily,
    /// Rows of the token embedding; the tokenizer's size by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vocab_size: Option<usize>,
    /// The longest sequence; `data.max_len` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_positions: Option<usize>,
    /// Token types: what tells the texts of a pair apart. By default as the family is published: 2, 1 or 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub type_vocab_size: Option<usize>,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Number of layers.
    pub num_layers: usize,
    /// Attention heads of a layer; divides `hidden_size`.
    pub num_heads: usize,
    /// Inner width of the feed-forward layers; `4 * hidden_size` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intermediate_size: Option<usize>,
    /// The nonlinearity of the feed-forward layers: `gelu`, `gelu_tanh`, `silu`, `relu` or `tanh`.
    pub activation: Activation,
    /// What is added to the variance in layer norms.
    pub norm_eps: f64,
    /// Probability of dropout; by default the checkpoint's, or 0.1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dropout: Option<f64>,
    /// Probability of dropout in the head; by default the checkpoint's, or `dropout`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classifier_dropout: Option<f64>,
    /// What the head sees: `cls`, the first token, or `mean`, the mean over all tokens. By default what the checkpoint says, or `cls`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pooling: Option<Pooling>,
    /// Layers that are not trained, counted from the first; above 0 the embeddings aren't either.
    pub frozen_layers: usize,
    /// Whether the embeddings are not trained.
    pub frozen_embeddings: bool,
    /// Adapters of low rank, which are trained in the place of the encoder. Without the table there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
}

impl Default for ModelConfig {
    fn default() -> Self {
        let bert = BertConfig::default();
        Self {
            from: None,
            family: bert.family,
            vocab_size: None,
            max_positions: None,
            type_vocab_size: None,
            hidden_size: bert.hidden_size,
            num_layers: bert.num_layers,
            num_heads: bert.num_heads,
            intermediate_size: None,
            activation: bert.activation,
            norm_eps: bert.norm_eps,
            dropout: None,
            classifier_dropout: None,
            pooling: None,
            frozen_layers: 0,
            frozen_embeddings: false,
            lora: None,
        }
    }
}

impl ModelTable for ModelConfig {
    fn checkpoint_folder(&self) -> Option<&Path> {
        self.from.as_deref()
    }

    fn with_sizes_of(&self, checkpoint: Self) -> Self {
        Self {
            from: self.from.clone(),
            dropout: self.dropout.or(checkpoint.dropout),
            classifier_dropout: self.classifier_dropout.or(checkpoint.classifier_dropout),
            pooling: self.pooling.or(checkpoint.pooling),
            frozen_layers: self.frozen_layers,
            frozen_embeddings: self.frozen_embeddings,
            lora: self.lora.clone(),
            ..checkpoint
        }
    }
}

impl ModelConfig {
    /// Checks what no checkpoint is needed for.
    fn validate(&self) -> Result<(), ModelError> {
        let Some(lora) = &self.lora else { return Ok(()) };
        let reason = || "model.lora freezes the whole encoder".to_owned();
        if self.frozen_layers > 0 {
            let value = self.frozen_layers.to_string();
            return Err(ModelError::Config { key: "frozen_layers", value, reason: reason() });
        }
        if self.frozen_embeddings {
            return Err(ModelError::Config { key: "frozen_embeddings", value: "true".to_owned(), reason: reason() });
        }
        lora.validate()
    }

    /// The sizes of a model that there is, and what its head sees.
    pub fn of(sizes: &BertConfig, pooling: Pooling) -> Self {
        Self {
            family: sizes.family,
            vocab_size: Some(sizes.vocab_size),
            max_positions: Some(sizes.max_positions),
            type_vocab_size: Some(sizes.type_vocab_size),
            hidden_size: sizes.hidden_size,
            num_layers: sizes.num_layers,
            num_heads: sizes.num_heads,
            intermediate_size: Some(sizes.intermediate_size),
            activation: sizes.activation,
            norm_eps: sizes.norm_eps,
            dropout: Some(sizes.dropout),
            classifier_dropout: sizes.classifier_dropout,
            pooling: Some(pooling),
            ..Self::default()
        }
    }

    /// The sizes of a new model for a tokenizer of `tokens` tokens and examples of at most `max_len`.
    pub fn bert(&self, tokens: usize, max_len: usize) -> BertConfig {
        BertConfig {
            family: self.family,
            vocab_size: self.vocab_size.unwrap_or(tokens),
            max_positions: self.max_positions.unwrap_or(max_len),
            type_vocab_size: self.type_vocab_size.unwrap_or(self.family.type_vocab_size()),
            hidden_size: self.hidden_size,
            num_layers: self.num_layers,
            num_heads: self.num_heads,
            intermediate_size: self.intermediate_size.unwrap_or(4 * self.hidden_size),
            activation: self.activation,
            norm_eps: self.norm_eps,
            dropout: self.dropout.unwrap_or(BertConfig::default().dropout),
            classifier_dropout: self.classifier_dropout,
        }
    }

    /// Whether the parameter at `path` of the model stays as it is.
    pub(crate) fn is_frozen(&self, path: &str) -> bool {
        let Some(encoder) = path.strip_prefix("bert.") else { return false };
        if self.lora.is_some() {
            return !encoder.contains(".lora.");
        }
        match encoder.strip_prefix("blocks.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok()) {
            Some(layer) => layer < self.frozen_layers,
            None => self.frozen_embeddings || self.frozen_layers > 0,
        }
    }
}

/// The names of a classifier's outputs.
pub(crate) fn output_names(kind: &LabelKind) -> Vec<String> {
    match kind {
        LabelKind::Classes(names) => names.clone(),
        // As `transformers` names the one output of a regression.
        LabelKind::Score => vec!["LABEL_0".to_owned()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frozen_layers_are_the_first_and_take_the_embeddings_with_them() {
        let paths = [
            "bert.token_embedding.weight",
            "bert.embedding_norm.gamma",
            "bert.blocks.0.attention.query.weight",
            "bert.blocks.1.feed_forward.up.bias",
            "bert.blocks.10.feed_forward.up.bias",
            "head.dense.weight",
        ];
        let frozen = |model: ModelConfig| paths.map(|path| model.is_frozen(path));
        assert_eq!(frozen(ModelConfig::default()), [false; 6]);
        let first = ModelConfig { frozen_layers: 1, ..ModelConfig::default() };
        assert_eq!(frozen(first), [true, true, true, false, false, false]);
        let adapters = ModelConfig { lora: Some(LoraConfig::default()), ..ModelConfig::default() };
        assert_eq!(frozen(adapters.clone()), [true, true, true, true, true, false]);
        assert!(!adapters.is_frozen("bert.blocks.0.attention.query.lora.a"));
        let embeddings = ModelConfig { frozen_embeddings: true, ..ModelConfig::default() };
        assert_eq!(frozen(embeddings), [true, true, false, false, false, false]);
        let all = ModelConfig { frozen_layers: 12, ..ModelConfig::default() };
        assert_eq!(frozen(all), [true, true, true, true, true, false]);
    }

    #[test]
    fn the_metric_for_the_best_follows_the_task_and_must_be_one_of_its_labels() {
        let mut config = Config::default();
        config.train.metric_for_best = AUTO.to_owned();
        config.choose_metric("matthews", &[ScoreKind::Accuracy, ScoreKind::Matthews]).unwrap();
        assert_eq!(config.train.metric_for_best, "matthews");
        let error = config.choose_metric("spearman", &[ScoreKind::Pearson, ScoreKind::Spearman]).unwrap_err();
        assert!(error.to_string().contains("pearson, spearman, loss"), "{error}");
    }
}
