use burn::tensor::Device;
use fornax_nn::{Activation, Init, initialise};
use serde::{Deserialize, Serialize};

use super::T5;
use crate::{ModelError, validate};

/// The sizes of a [`T5`]. The default is the published small model of version 1.0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct T5Config {
    /// Number of tokens. May exceed the tokenizer's: the published models round its 32,100 up.
    pub vocab_size: usize,
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
    /// Number of blocks of the decoder; none is as many as in the encoder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_decoder_layers: Option<usize>,
    /// Nonlinearity of the feed-forward layers.
    pub activation: Activation,
    /// Whether the feed-forward layers are gated (Shazeer 2020), as in version 1.1.
    pub gated: bool,
    /// Whether the head is the token embedding, as in version 1.0; hidden states are then scaled by `1 / √hidden_size` before
    /// it. If not, it has weights of its own, as in version 1.1.
    pub tie_embeddings: bool,
    /// Rows of a table of relative position biases.
    pub relative_buckets: usize,
    /// The distance in tokens from which on all share a bucket.
    pub relative_max_distance: usize,
    /// Probability of dropout on embeddings, attention weights, inside the feed-forward layers, on what each layer adds to the
    /// residual stream, and after the last norms.
    pub dropout: f64,
    /// What is added to the mean square in norms.
    pub norm_eps: f64,
    /// The token that fills sources and targets up.
    pub pad_token: u32,
    /// The token that a decoder input begins with.
    pub start_token: u32,
    /// The token that ends a source and a target.
    pub end_token: u32,
}

impl Default for T5Config {
    fn default() -> Self {
        Self {
            vocab_size: 32_128,
            hidden_size: 512,
            head_dim: 64,
            num_heads: 8,
            intermediate_size: 2_048,
            num_layers: 6,
            num_decoder_layers: None,
            activation: Activation::Relu,
            gated: false,
            tie_embeddings: true,
            relative_buckets: 32,
            relative_max_distance: 128,
            dropout: 0.1,
            norm_eps: 1e-6,
            pad_token: 0,
            start_token: 0,
            end_token: 1,
        }
    }
}

impl T5Config {
    /// The published small model of version 1.1.
    pub fn v1_1_small() -> Self {
        Self {
            num_heads: 6,
            intermediate_size: 1_024,
            num_layers: 8,
            activation: Activation::GeluTanh,
            gated: true,
            tie_embeddings: false,
            ..Self::default()
        }
    }

    /// Whether the sizes describe a model.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`] with the first key whose value doesn't.
    pub fn validate(&self) -> Result<(), ModelError> {
        validate::sizes([
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("head_dim", self.head_dim),
            ("num_heads", self.num_heads),
            ("intermediate_size", self.intermediate_size),
            ("num_layers", self.num_layers),
            ("num_decoder_layers", self.num_decoder_layers()),
        ])?;
        if self.relative_buckets < 4 {
            return Err(validate::refuse("relative_buckets", &self.relative_buckets, "must be at least 4"));
        }
        let exact = self.relative_buckets / 2;
        if self.relative_max_distance <= exact {
            let reason = format!("must be above {exact}, half of model.relative_buckets");
            return Err(validate::refuse("relative_max_distance", &self.relative_max_distance, reason));
        }
        let tokens = [("pad_token", self.pad_token), ("start_token", self.start_token), ("end_token", self.end_token)];
        if let Some((key, token)) = tokens.into_iter().find(|(_, token)| *token as usize >= self.vocab_size) {
            let reason = format!("must be below model.vocab_size = {}", self.vocab_size);
            return Err(validate::refuse(key, &token, reason));
        }
        validate::dropout("dropout", self.dropout)?;
        validate::norm_eps(self.norm_eps)
    }

    /// Number of blocks of the decoder.
    pub fn num_decoder_layers(&self) -> usize {
        self.num_decoder_layers.unwrap_or(self.num_layers)
    }

    /// A new model with the initialisation of the published code: embeddings and a head of its own from N(0, 1), norms the
    /// identity, all other weights from normal distributions whose variance is one by the width of what they read; that of
    /// queries is by `head_dim` smaller, in place of scaled scores.
    ///
    /// # Errors
    ///
    /// As [`validate`](Self::validate).
    pub fn init(&self, seed: u64, device: &Device) -> Result<T5, ModelError> {
        self.validate()?;
        Ok(initialise(T5::new(self, device), seed, |path, _| self.published(path)))
    }

    /// How the parameter at `path` is drawn.
    fn published(&self, path: &str) -> Init {
        let variance_by = match path.trim_end_matches(".weight").rsplit('.').next().unwrap_or_default() {
            "gamma" => return Init::Constant(1.0),
            "token_embedding" | "head" => 1,
            "query" => self.hidden_size * self.head_dim,
            "output" => self.inner_size(),
            "down" => self.intermediate_size,
            // Keys, values, both maps into a feed-forward layer, and biases of positions.
            _ => self.hidden_size,
        };
        Init::Normal { mean: 0.0, std: (variance_by as f64).powf(-0.5) }
    }

    /// How many parameters the model has; a tied head counts once. Nothing is allocated.
    pub fn num_parameters(&self) -> usize {
        let embeddings = self.vocab_size * self.hidden_size * if self.tie_embeddings { 1 } else { 2 };
        let encoder = self.num_layers * (self.attention_weights() + self.feed_forward_weights() + 2 * self.hidden_size);
        let decoder = self.num_decoder_layers()
            * (2 * self.attention_weights() + self.feed_forward_weights() + 3 * self.hidden_size);
        embeddings + encoder + decoder + 2 * (self.relative_buckets * self.num_heads + self.hidden_size)
    }

    /// Floating-point operations of a training step, forward and backward, for each token of pairs of `source_len` source and
    /// `target_len` target tokens, both of which count.
    ///
    /// Six for each weight of a matrix product and token that goes through it, and 12 times the inner width of attention for
    /// each query and key, the causal half not taken off (Chowdhery et al. 2022, appendix B).
    pub fn training_flops_per_token(&self, source_len: usize, target_len: usize) -> f64 {
        let (attention, feed_forward) = (self.attention_weights(), self.feed_forward_weights());
        // Keys and values of cross-attention are of source tokens, queries and outputs of target tokens.
        let of_source = self.num_layers * (attention + feed_forward) + self.num_decoder_layers() * attention / 2;
        let of_target = self.num_decoder_layers() * (attention + attention / 2 + feed_forward);
        let head = self.vocab_size * self.hidden_size;
        let products = 6 * (source_len * of_source + target_len * (of_target + head));
        let scores = self.num_layers * source_len * source_len
            + self.num_decoder_layers() * target_len * (target_len + source_len);
        (products + 12 * self.inner_size() * scores) as f64 / (source_len + target_len) as f64
    }

    /// Width of all heads of an attention layer.
    fn inner_size(&self) -> usize {
        self.num_heads * self.head_dim
    }

    /// Numbers in the matrices of one attention layer.
    fn attention_weights(&self) -> usize {
        4 * self.hidden_size * self.inner_size()
    }

    /// Numbers in the matrices of one feed-forward layer.
    fn feed_forward_weights(&self) -> usize {
        self.hidden_size * self.intermediate_size * if self.gated { 3 } else { 2 }
    }
}
