use std::path::{Path, PathBuf};

use anyhow::Context as _;
use fornax_cli::{ModelTable, UsageContext};
use fornax_data::{TokenizerConfig, pairs::PairConfig};
use fornax_models::{
    EmbeddingInit, Positions, TieEmbeddings, TransformerConfig,
    generate::{EarlyStopping, Seq2SeqOptions},
};
use fornax_train::{CheckpointConfig, EvalConfig, OptimizerConfig, ScheduleConfig, TrainConfig, TrainError};
use serde::{Deserialize, Serialize};

/// What every evaluation measures, and so what `train.metric_for_best` may name.
const METRICS: [&str; 3] = ["loss", "perplexity", "token_accuracy"];

/// What an evaluation measures besides where it translates.
const TEXT_METRICS: [&str; 3] = ["bleu", "chrf", "sacrebleu"];

/// The config of this recipe; every table but `[data]` may be left out.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Sizes, or a model to start from.
    pub model: ModelConfig,
    /// A tokenizer to load or to train: that of both languages or, beside `[source_tokenizer]`, of what is written.
    pub tokenizer: TokenizerConfig,
    /// A tokenizer for what is read alone. Without the table one vocabulary serves both languages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_tokenizer: Option<TokenizerConfig>,
    /// What to train, to evaluate and to test on.
    pub data: PairConfig,
    /// What is learned of a pair.
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
    /// How translations are made.
    pub generate: GenerateConfig,
    /// What is measured at the end.
    pub test: TestConfig,
}

impl Config {
    /// Checks every key that can be checked without data.
    ///
    /// # Errors
    ///
    /// The first key that can't be used.
    pub fn validate(&self) -> anyhow::Result<()> {
        self.data.check()?;
        self.objective.validate()?;
        // Before the product is checked that it isn't.
        if self.data.tokens_per_batch.is_some() && self.train.batch_size.is_some() {
            let problem = "can't be set beside data.tokens_per_batch: batches are then counted by tokens, not by pairs";
            return Err(config_error("train.batch_size", problem.to_owned()).into());
        }
        self.train.validate()?;
        let metric = &self.train.metric_for_best;
        let of_texts: &[&str] = if self.generate.valid_examples > 0 { &TEXT_METRICS } else { &[] };
        let known = [&METRICS, of_texts].concat();
        if TEXT_METRICS.contains(&metric.as_str()) && of_texts.is_empty() {
            let problem = format!("`{metric}` needs translations: set generate.valid_examples, as 200");
            return Err(config_error("train.metric_for_best", problem).into());
        }
        if !known.contains(&metric.as_str()) {
            return Err(TrainError::UnknownMetric { metric: metric.clone(), known: known.join(", ") }.into());
        }
        self.optimizer.validate()?;
        self.schedule.validate(self.optimizer.lr)?;
        self.eval.validate()?;
        self.checkpoint.validate()?;
        self.generate.validate()?;
        self.check_average()
    }

    /// Refuses an average of checkpoints that are not kept, or of which the best model is none.
    fn check_average(&self) -> anyhow::Result<()> {
        let (count, kept) = (self.test.average_last, self.checkpoint.keep_last);
        if count > kept {
            let problem = format!("is {count}, but checkpoint.keep_last keeps {kept}; raise that to {count}");
            return Err(config_error("test.average_last", problem).into());
        }
        if count > 0 && self.train.load_best_at_end {
            let problem = "can't be set beside train.load_best_at_end: either the average or the best is tested";
            return Err(config_error("test.average_last", problem.to_owned()).into());
        }
        Ok(())
    }
}

fn config_error(key: &str, problem: String) -> TrainError {
    TrainError::Config { key: key.to_owned(), problem }
}

/// `[model]`: the keys of [`TransformerConfig`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// A run folder of this recipe, or its `averaged`, `best` or `last`, to start from; of a run folder the first of them that is there. Tokenizers and all other keys here but `dropout` then
    /// come from there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<PathBuf>,
    /// Rows of the embedding of what is read; the tokenizer's size by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_vocab_size: Option<usize>,
    /// Rows of the embedding of what is written; the tokenizer's size by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_vocab_size: Option<usize>,
    /// The longest source and the longest target; by default the larger of `data.max_source_len` and `data.max_target_len`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_positions: Option<usize>,
    /// `sinusoidal` or `learned`.
    pub positions: Positions,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Number of the encoder's layers.
    pub num_layers: usize,
    /// Number of the decoder's layers; as many as the encoder's by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_decoder_layers: Option<usize>,
    /// Attention heads of a layer; divides `hidden_size`.
    pub num_heads: usize,
    /// Inner width of the feed-forward layers; `4 * hidden_size` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intermediate_size: Option<usize>,
    /// Probability of dropout. With `from`, it replaces the checkpoint's.
    pub dropout: f64,
    /// Whether norms stand before their layers instead of after each addition.
    pub norm_first: bool,
    /// What is added to the variance in layer norms.
    pub norm_eps: f64,
    /// Which of the two embeddings and the head are one table: `none`, `decoder` (head and target) or `all`.
    pub tie_embeddings: TieEmbeddings,
    /// Whether embedded tokens are multiplied by √hidden_size.
    pub scale_embeddings: bool,
    /// Whether the head adds a number to the score of each token.
    pub head_bias: bool,
    /// What embeddings are drawn from: `normal` or `xavier`.
    pub embedding_init: EmbeddingInit,
}

impl Default for ModelConfig {
    fn default() -> Self {
        // The paper's base model, for vocabularies and lengths that are the data's.
        let mut base = Self::of(&TransformerConfig::default());
        base.source_vocab_size = None;
        base.target_vocab_size = None;
        base.max_positions = None;
        base.intermediate_size = None;
        base
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
    pub fn of(sizes: &TransformerConfig) -> Self {
        Self {
            from: None,
            source_vocab_size: Some(sizes.source_vocab_size),
            target_vocab_size: Some(sizes.target_vocab_size),
            max_positions: Some(sizes.max_positions),
            positions: sizes.positions,
            hidden_size: sizes.hidden_size,
            num_layers: sizes.num_layers,
            num_decoder_layers: sizes.num_decoder_layers,
            num_heads: sizes.num_heads,
            intermediate_size: Some(sizes.intermediate_size),
            dropout: sizes.dropout,
            norm_first: sizes.norm_first,
            norm_eps: sizes.norm_eps,
            tie_embeddings: sizes.tie_embeddings,
            scale_embeddings: sizes.scale_embeddings,
            head_bias: sizes.head_bias,
            embedding_init: sizes.embedding_init,
        }
    }

    /// The sizes of a new model for tokenizers of so many tokens and texts of at most `max_len`. `pad_token` fills rows up.
    pub fn transformer(
        &self,
        source_tokens: usize,
        target_tokens: usize,
        max_len: usize,
        pad_token: u32,
    ) -> TransformerConfig {
        TransformerConfig {
            source_vocab_size: self.source_vocab_size.unwrap_or(source_tokens),
            target_vocab_size: self.target_vocab_size.unwrap_or(target_tokens),
            max_positions: self.max_positions.unwrap_or(max_len),
            positions: self.positions,
            hidden_size: self.hidden_size,
            num_layers: self.num_layers,
            num_decoder_layers: self.num_decoder_layers,
            num_heads: self.num_heads,
            intermediate_size: self.intermediate_size.unwrap_or(4 * self.hidden_size),
            dropout: self.dropout,
            norm_first: self.norm_first,
            norm_eps: self.norm_eps,
            tie_embeddings: self.tie_embeddings,
            scale_embeddings: self.scale_embeddings,
            head_bias: self.head_bias,
            embedding_init: self.embedding_init,
            pad_token,
        }
    }
}

/// `[objective]`: the next token of a target whose tokens so far are given.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ObjectiveConfig {
    /// The share of probability that is spread over all tokens in training, at least 0 and below 1; 0 by default. Evaluations
    /// measure plain cross-entropy.
    pub label_smoothing: f64,
}

impl ObjectiveConfig {
    fn validate(&self) -> Result<(), TrainError> {
        match (0.0..1.0).contains(&self.label_smoothing) {
            true => Ok(()),
            false => {
                let problem = format!("must be at least 0 and below 1, got {}", self.label_smoothing);
                Err(config_error("objective.label_smoothing", problem))
            }
        }
    }
}

/// `[generate]`: how translations are made.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GenerateConfig {
    /// The first so many pairs of the valid set are translated, greedily, in each evaluation, which then has `bleu`, `sacrebleu`
    /// and `chrf` too; 0: none.
    pub valid_examples: usize,
    /// Texts that are translated at once.
    pub batch_size: usize,
    /// Beams of a second translation of the test set, after the greedy one; 1: there is none.
    pub num_beams: usize,
    /// A translation of beam search scores its log-probability divided by its length to this power.
    pub length_penalty: f64,
    /// When beam search is content: `heuristic`, `first_finished` or `never`.
    pub early_stopping: EarlyStopping,
    /// The most tokens of a translation, its end included; see `max_new_tokens_per_source_token`. None is longer than the model's
    /// `max_positions`.
    pub max_new_tokens: usize,
    /// Adds as many tokens to `max_new_tokens` for each token of the source.
    pub max_new_tokens_per_source_token: f64,
    /// How many translations are shown at the end.
    pub examples: usize,
}

impl Default for GenerateConfig {
    fn default() -> Self {
        Self {
            // A translation costs some ten evaluations of its pair.
            valid_examples: 0,
            // Beams multiply it, and the logits of a step are read by the host.
            batch_size: 64,
            // Beam search is the slowest part of a run on a CPU.
            num_beams: 1,
            // As in `transformers`.
            length_penalty: 1.0,
            early_stopping: EarlyStopping::default(),
            // As in the paper: 50 more than the source has.
            max_new_tokens: 50,
            max_new_tokens_per_source_token: 1.0,
            // Enough to see whether it is a language.
            examples: 3,
        }
    }
}

impl GenerateConfig {
    /// The options of a search with so many beams, for a model that begins a target with `start` and ends it with `end`.
    pub fn options(&self, num_beams: usize, start: u32, end: u32) -> Seq2SeqOptions {
        Seq2SeqOptions {
            start_token: start,
            stop_tokens: vec![end],
            max_new_tokens: self.max_new_tokens,
            max_new_tokens_per_source_token: self.max_new_tokens_per_source_token,
            num_beams,
            length_penalty: self.length_penalty,
            early_stopping: self.early_stopping,
            ..Seq2SeqOptions::default()
        }
    }

    fn validate(&self) -> anyhow::Result<()> {
        if self.batch_size == 0 {
            return Err(config_error("generate.batch_size", "must be at least 1, got 0".to_owned()).into());
        }
        // Start and end are tokens of every vocabulary.
        self.options(self.num_beams, 0, 0).validate(usize::MAX).context("[generate]").usage()
    }
}

/// `[test]`: what is measured at the end.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TestConfig {
    /// The test set is translated by the mean of the newest so many checkpoints, which is then in the folder `averaged` of the run;
    /// 0: by the model that the run keeps. The paper takes 5 for its base model.
    pub average_last: usize,
}
