//! The tables of the config that are this recipe's own: `[model]`, `[tokenizer]` with its defaults, `[data]`.

use std::path::{Path, PathBuf};

use fornax_cli::ModelTable;
use fornax_data::{DataConfig, DataError, Part, Tokenizer, TokenizerConfig, TokenizerKind, source::Format};
use fornax_models::T5Config;
use fornax_nn::Activation;
use serde::{Deserialize, Serialize};

/// `[model]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// A Hugging Face folder of a T5 or a run folder to start from. Tokenizer and all other keys here but `dropout` then come from
    /// there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<PathBuf>,
    /// Rows of the token embedding; the tokenizer's size by default. More than that is padding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vocab_size: Option<usize>,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of an attention head, whatever `hidden_size` is.
    pub head_dim: usize,
    /// Attention heads of a block.
    pub num_heads: usize,
    /// Inner width of the feed-forward layers.
    pub intermediate_size: usize,
    /// Number of blocks of the encoder.
    pub num_layers: usize,
    /// Number of blocks of the decoder; as many as in the encoder by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_decoder_layers: Option<usize>,
    /// The nonlinearity of the feed-forward layers: `relu`, `gelu_tanh`, `gelu`, `silu` or `tanh`.
    pub activation: Activation,
    /// Whether the feed-forward layers are gated, as in version 1.1.
    pub gated: bool,
    /// Whether the head is the token embedding, as in version 1.0.
    pub tie_embeddings: bool,
    /// Rows of a table of relative position biases.
    pub relative_buckets: usize,
    /// The distance in tokens from which on all share a bucket.
    pub relative_max_distance: usize,
    /// Probability of dropout; by default the checkpoint's, or 0.1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dropout: Option<f64>,
    /// What is added to the mean square in norms.
    pub norm_eps: f64,
    /// The token that fills rows up; the tokenizer's by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pad_token: Option<u32>,
    /// What the decoder reads first; `pad_token` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_token: Option<u32>,
    /// The token that ends a source and a target; the tokenizer's by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_token: Option<u32>,
}

impl Default for ModelConfig {
    fn default() -> Self {
        // The published small model of version 1.0.
        let sizes = Self::of(&T5Config::default());
        Self { vocab_size: None, dropout: None, pad_token: None, start_token: None, end_token: None, ..sizes }
    }
}

impl ModelTable for ModelConfig {
    fn checkpoint_folder(&self) -> Option<&Path> {
        self.from.as_deref()
    }

    fn with_sizes_of(&self, checkpoint: Self) -> Self {
        Self { from: self.from.clone(), dropout: self.dropout.or(checkpoint.dropout), ..checkpoint }
    }
}

impl ModelConfig {
    /// The sizes of a model that there is.
    pub fn of(sizes: &T5Config) -> Self {
        Self {
            from: None,
            vocab_size: Some(sizes.vocab_size),
            hidden_size: sizes.hidden_size,
            head_dim: sizes.head_dim,
            num_heads: sizes.num_heads,
            intermediate_size: sizes.intermediate_size,
            num_layers: sizes.num_layers,
            num_decoder_layers: sizes.num_decoder_layers,
            activation: sizes.activation,
            gated: sizes.gated,
            tie_embeddings: sizes.tie_embeddings,
            relative_buckets: sizes.relative_buckets,
            relative_max_distance: sizes.relative_max_distance,
            dropout: Some(sizes.dropout),
            norm_eps: sizes.norm_eps,
            pad_token: Some(sizes.pad_token),
            start_token: Some(sizes.start_token),
            end_token: Some(sizes.end_token),
        }
    }

    /// The sizes of the model for a tokenizer of `tokens` tokens whose own are `tokenizer_pad` and `tokenizer_end`.
    pub fn t5(&self, tokens: usize, tokenizer_pad: u32, tokenizer_end: u32) -> T5Config {
        let pad_token = self.pad_token.unwrap_or(tokenizer_pad);
        T5Config {
            vocab_size: self.vocab_size.unwrap_or(tokens),
            hidden_size: self.hidden_size,
            head_dim: self.head_dim,
            num_heads: self.num_heads,
            intermediate_size: self.intermediate_size,
            num_layers: self.num_layers,
            num_decoder_layers: self.num_decoder_layers,
            activation: self.activation,
            gated: self.gated,
            tie_embeddings: self.tie_embeddings,
            relative_buckets: self.relative_buckets,
            relative_max_distance: self.relative_max_distance,
            dropout: self.dropout.unwrap_or(T5Config::default().dropout),
            norm_eps: self.norm_eps,
            pad_token,
            start_token: self.start_token.unwrap_or(pad_token),
            end_token: self.end_token.unwrap_or(tokenizer_end),
        }
    }

    /// As [`t5`](Self::t5), for this tokenizer.
    ///
    /// # Errors
    ///
    /// [`DataError::NoSeparator`] when it has no token that ends a text.
    pub fn t5_for(&self, tokenizer: &Tokenizer) -> Result<T5Config, DataError> {
        let end = tokenizer.end_of_text_id().ok_or(DataError::NoSeparator)?;
        Ok(self.t5(tokenizer.vocab_size(), tokenizer.filler_id(), end))
    }
}

/// `[tokenizer]` as in every recipe, with T5's defaults.
#[derive(Serialize, Deserialize)]
#[serde(remote = "TokenizerConfig", default = "unigram_with_sentinels", deny_unknown_fields)]
pub(crate) struct TokenizerTable {
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    kind: TokenizerKind,
    vocab_size: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_of_text: Option<bool>,
    sentinels: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    extra_tokens: Vec<String>,
}

/// The tokenizer that is trained where the config says nothing.
pub(crate) fn unigram_with_sentinels() -> TokenizerConfig {
    TokenizerConfig { kind: TokenizerKind::Unigram, sentinels: 100, ..TokenizerConfig::default() }
}

/// `[data]`: the text of pretraining, by the keys that every recipe has, or how long the texts of tasks may be.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataTable {
    /// As [`DataConfig::name`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// As [`DataConfig::part`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part: Option<Part>,
    /// As [`DataConfig::folder`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folder: Option<PathBuf>,
    /// As [`DataConfig::files`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<Vec<PathBuf>>,
    /// As [`DataConfig::valid_files`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub valid_files: Vec<PathBuf>,
    /// As [`DataConfig::valid_fraction`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub valid_fraction: Option<f64>,
    /// As [`DataConfig::format`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// As [`DataConfig::text_column`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_column: Option<String>,
    /// As [`DataConfig::extensions`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extensions: Vec<String>,
    /// Tokens of a task's source at most, its end included; what is longer is cut.
    pub max_source_len: usize,
    /// Tokens of a task's target at most, its end included.
    pub max_target_len: usize,
    /// Whether a step takes examples of the tasks of about the same length, which spares padding.
    pub group_by_length: bool,
}

impl Default for DataTable {
    fn default() -> Self {
        Self {
            name: None,
            part: None,
            folder: None,
            files: None,
            valid_files: Vec::new(),
            valid_fraction: None,
            format: None,
            text_column: None,
            extensions: Vec::new(),
            // T5's, and an answer of a few sentences: attention's cost grows with the square of either.
            max_source_len: 512,
            max_target_len: 128,
            // More than half of the positions of a step are padding without it, on SST-2 as on Multi30k.
            group_by_length: true,
        }
    }
}

impl DataTable {
    /// Where the text of pretraining is.
    pub fn text(&self) -> DataConfig {
        DataConfig {
            name: self.name.clone(),
            part: self.part,
            folder: self.folder.clone(),
            files: self.files.clone(),
            valid_files: self.valid_files.clone(),
            valid_fraction: self.valid_fraction,
            format: self.format,
            text_column: self.text_column.clone(),
            extensions: self.extensions.clone(),
        }
    }
}
