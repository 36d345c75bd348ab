use std::path::{Path, PathBuf};

use fornax_cli::ModelTable;
use fornax_data::{DataConfig, MaskingConfig, PairKind, TokenizerConfig};
use fornax_models::{BertConfig, BertFamily};
use fornax_nn::Activation;
use fornax_train::{CheckpointConfig, EvalConfig, OptimizerConfig, ScheduleConfig, TrainConfig, TrainError};
use serde::{Deserialize, Serialize};

/// What every evaluation measures, and so what `train.metric_for_best` may name.
const METRICS: [&str; 3] = ["accuracy", "loss", "perplexity"];

/// What an evaluation of sentence pairs measures besides.
const PAIR_METRICS: [&str; 3] = ["masked_lm", "next_sentence", "next_sentence_accuracy"];

/// The config of this recipe; every table may be left out.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Sizes, or a checkpoint to start from.
    pub model: ModelConfig,
    /// A tokenizer to load or to train.
    pub tokenizer: TokenizerConfig,
    /// What to train and to evaluate on.
    pub data: DataConfig,
    /// How text becomes examples.
    pub objective: ObjectiveConfig,
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
    /// The text that is filled at the end.
    pub example: ExampleConfig,
}

impl Config {
    /// Checks every key that can be checked without data.
    ///
    /// # Errors
    ///
    /// The first key that can't be used.
    pub fn validate(&self) -> Result<(), TrainError> {
        self.train.validate()?;
        let metric = &self.train.metric_for_best;
        let pairs: &[&str] = if self.objective.sentence_pairs.is_some() { &PAIR_METRICS } else { &[] };
        let known = [&METRICS, pairs].concat();
        if !known.contains(&metric.as_str()) {
            return Err(TrainError::UnknownMetric { metric: metric.clone(), known: known.join(", ") });
        }
        self.optimizer.validate()?;
        self.schedule.validate(self.optimizer.lr)?;
        self.eval.validate()?;
        self.checkpoint.validate()
    }

    /// The share of positions at which logits are computed.
    pub(crate) fn predicted_share(&self) -> f64 {
        if self.objective.gather { self.objective.masking.rate } else { 1.0 }
    }
}

/// `[model]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// A Hugging Face folder (BERT, RoBERTa or DistilBERT) or a run folder to start from. Tokenizer and all other keys here but
    /// `dropout` then come from there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<PathBuf>,
    /// Layout and head: `bert`, `roberta` or `distilbert`.
    pub family: BertFamily,
    /// Rows of the token embedding; the tokenizer's size by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vocab_size: Option<usize>,
    /// The longest sequence; `objective.seq_len` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_positions: Option<usize>,
    /// Token types: what tells the sentences of a pair apart. By default as the family is published: 2, 1 or 0.
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
    /// Probability of dropout. With `from`, it replaces the checkpoint's.
    pub dropout: f64,
    /// Probability of dropout in a classification head. No part of this training: it goes on from a checkpoint to what is made of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classifier_dropout: Option<f64>,
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
            // Small models on a text seen a few times underfit; the paper's 0.1 is in its own config.
            dropout: 0.0,
            classifier_dropout: None,
        }
    }
}

impl ModelTable for ModelConfig {
    fn checkpoint_folder(&self) -> Option<&Path> {
        self.from.as_deref()
    }

    fn with_sizes_of(&self, checkpoint: Self) -> Self {
        Self { from: self.from.clone(), dropout: self.dropout, ..checkpoint }
    }
}

impl ModelConfig {
    /// The sizes of a model that there is.
    pub fn of(sizes: &BertConfig) -> Self {
        Self {
            from: None,
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
            dropout: sizes.dropout,
            classifier_dropout: sizes.classifier_dropout,
        }
    }

    /// The sizes of a new model for a tokenizer of `tokens` tokens and sequences of `seq_len`.
    pub fn bert(&self, tokens: usize, seq_len: usize) -> BertConfig {
        BertConfig {
            family: self.family,
            vocab_size: self.vocab_size.unwrap_or(tokens),
            max_positions: self.max_positions.unwrap_or(seq_len),
            type_vocab_size: self.type_vocab_size.unwrap_or(self.family.type_vocab_size()),
            hidden_size: self.hidden_size,
            num_layers: self.num_layers,
            num_heads: self.num_heads,
            intermediate_size: self.intermediate_size.unwrap_or(4 * self.hidden_size),
            activation: self.activation,
            norm_eps: self.norm_eps,
            dropout: self.dropout,
            classifier_dropout: self.classifier_dropout,
        }
    }
}

/// `[objective]`: masked-language modelling (Devlin et al. 2019), alone or with sentence pairs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ObjectiveConfig {
    /// Tokens a sequence, special ones included.
    pub seq_len: usize,
    /// Which tokens are to be predicted, and what is shown in their place.
    pub masking: MaskingConfig,
    /// Two spans a sequence, and whether they belong together as a second objective.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sentence_pairs: Option<PairKind>,
    /// Whether the vocabulary product runs on the chosen tokens only. The loss is the same; without, it costs more time and memory.
    pub gather: bool,
}

impl Default for ObjectiveConfig {
    fn default() -> Self {
        Self {
            // Enough for most sentences and paragraphs; attention's cost grows with its square.
            seq_len: 128,
            masking: MaskingConfig::default(),
            // RoBERTa (Liu et al. 2019) found that next sentence prediction doesn't help.
            sentence_pairs: None,
            gather: true,
        }
    }
}

/// `[example]`: what the model fills in when it is trained.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExampleConfig {
    /// A text with one or more masks that lie within the model's positions; empty: none is shown. `[MASK]` and `<mask>` both stand
    /// for the tokenizer's own mask token.
    pub text: String,
    /// How many guesses are shown for each mask.
    pub top_k: usize,
}

impl Default for ExampleConfig {
    fn default() -> Self {
        // As many as Hugging Face's fill-mask pipeline shows.
        Self { text: String::new(), top_k: 5 }
    }
}
