use std::path::{Path, PathBuf};

use fornax_cli::ModelTable;
use fornax_data::{DataConfig, TokenizerConfig};
use fornax_models::Gpt2Config;
use fornax_train::{CheckpointConfig, EvalConfig, OptimizerConfig, ScheduleConfig, TrainConfig, TrainError};
use serde::{Deserialize, Serialize};

/// What an evaluation measures, and so what `train.metric_for_best` may name.
const METRICS: [&str; 4] = ["accuracy", "bits_per_byte", "loss", "perplexity"];

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
    /// The text printed at the end.
    pub sample: SampleConfig,
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
        if !METRICS.contains(&metric.as_str()) {
            return Err(TrainError::UnknownMetric { metric: metric.clone(), known: METRICS.join(", ") });
        }
        if self.objective.seq_len == 0 {
            return Err(TrainError::Config {
                key: "objective.seq_len".to_owned(),
                problem: "must be at least 1, got 0".to_owned(),
            });
        }
        self.optimizer.validate()?;
        self.schedule.validate(self.optimizer.lr)?;
        self.eval.validate()?;
        self.checkpoint.validate()
    }
}

/// `[model]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// A Hugging Face folder or a run folder's `best` or `last` to start from. Tokenizer and all other keys here but `dropout`
    /// then come from there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<PathBuf>,
    /// Rows of the token embedding; the tokenizer's size by default. More than that is padding, which some GPUs like.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vocab_size: Option<usize>,
    /// The longest sequence; `objective.seq_len` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_positions: Option<usize>,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Number of blocks.
    pub num_layers: usize,
    /// Attention heads of a block; divides `hidden_size`.
    pub num_heads: usize,
    /// Inner width of the feed-forward layers; `4 * hidden_size` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intermediate_size: Option<usize>,
    /// What is added to the variance in layer norms.
    pub norm_eps: f64,
    /// Probability of dropout. With `from`, it replaces the checkpoint's.
    pub dropout: f64,
    /// Whether linear maps and layer norms have biases.
    pub bias: bool,
}

impl Default for ModelConfig {
    fn default() -> Self {
        let gpt2 = Gpt2Config::default();
        Self {
            from: None,
            vocab_size: None,
            max_positions: None,
            hidden_size: gpt2.hidden_size,
            num_layers: gpt2.num_layers,
            num_heads: gpt2.num_heads,
            intermediate_size: None,
            norm_eps: gpt2.norm_eps,
            // Pretraining sees each text about once, so there is nothing to regularise; nanoGPT does the same.
            dropout: 0.0,
            // As the published GPT-2, so that `transformers` needs no padding with zeros.
            bias: true,
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
    pub fn of(sizes: &Gpt2Config) -> Self {
        Self {
            from: None,
            vocab_size: Some(sizes.vocab_size),
            max_positions: Some(sizes.max_positions),
            hidden_size: sizes.hidden_size,
            num_layers: sizes.num_layers,
            num_heads: sizes.num_heads,
            intermediate_size: sizes.intermediate_size,
            norm_eps: sizes.norm_eps,
            dropout: sizes.dropout,
            bias: sizes.bias,
        }
    }

    /// The sizes of a new model for a tokenizer of `tokens` tokens and blocks of `seq_len`.
    pub fn gpt2(&self, tokens: usize, seq_len: usize) -> Gpt2Config {
        Gpt2Config {
            vocab_size: self.vocab_size.unwrap_or(tokens),
            max_positions: self.max_positions.unwrap_or(seq_len),
            hidden_size: self.hidden_size,
            num_layers: self.num_layers,
            num_heads: self.num_heads,
            intermediate_size: self.intermediate_size,
            norm_eps: self.norm_eps,
            dropout: self.dropout,
            bias: self.bias,
        }
    }
}

/// `[objective]`: next-token prediction on blocks of text.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ObjectiveConfig {
    /// Tokens a block.
    pub seq_len: usize,
    /// Which blocks a step trains on.
    pub sampling: Sampling,
}

impl Default for ObjectiveConfig {
    fn default() -> Self {
        // The context of GPT-2; each epoch sees each token once.
        Self { seq_len: 1024, sampling: Sampling::Contiguous }
    }
}

/// Which blocks a step trains on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sampling {
    /// Blocks side by side, each once an epoch, in a new order each epoch.
    Contiguous,
    /// Blocks at random offsets, drawn with replacement, as nanoGPT does.
    RandomOffsets,
}

/// `[sample]`: what the model says when it is trained.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SampleConfig {
    /// What the text begins with; a line break by default, as in nanoGPT. Where it gives no token, the tokenizer's end-of-text
    /// token takes its place.
    pub prompt: String,
    /// Tokens to add; 0 prints nothing.
    pub max_new_tokens: usize,
    /// Divides the logits before they become probabilities; 0 always takes the likeliest token.
    pub temperature: f64,
    /// Draws among the likeliest tokens only.
    pub top_k: Option<usize>,
}

impl Default for SampleConfig {
    fn default() -> Self {
        // Temperature and top-k of nanoGPT's sample.py; 100 tokens fill a few lines of a terminal.
        Self { prompt: "\n".to_owned(), max_new_tokens: 100, temperature: 0.8, top_k: Some(200) }
    }
}
