use burn::{
    module::Module,
    tensor::{Device, Int, Tensor},
};
use fornax_nn::{Activation, Embedding, FeedForward, Init, KvCache, LayerNorm, SelfAttention, initialise};
use fornax_ops::{AttentionMask, Context, LinearLogits, checkpoint, dropout};
use serde::{Deserialize, Serialize};

use crate::{ModelError, generate::CausalLm, validate};

/// The sizes of a [`Gpt2`]. The default is the published 124M model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gpt2Config {
    /// Number of tokens.
    pub vocab_size: usize,
    /// The longest sequence.
    pub max_positions: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Number of blocks.
    pub num_layers: usize,
    /// Attention heads of a block; divides `hidden_size`.
    pub num_heads: usize,
    /// Inner width of the feed-forward layers; none is `4 * hidden_size`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intermediate_size: Option<usize>,
    /// What is added to the variance in layer norms.
    pub norm_eps: f64,
    /// Probability of dropout on embeddings, attention weights and what each layer adds to the residual stream.
    pub dropout: f64,
    /// Whether linear maps and layer norms have biases.
    pub bias: bool,
}

impl Default for Gpt2Config {
    fn default() -> Self {
        Self {
            vocab_size: 50_257,
            max_positions: 1_024,
            hidden_size: 768,
            num_layers: 12,
            num_heads: 12,
            intermediate_size: None,
            norm_eps: 1e-5,
            dropout: 0.1,
            bias: true,
        }
    }
}

impl Gpt2Config {
    /// Whether the sizes describe a model.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`] with the first key whose value doesn't.
    pub fn validate(&self) -> Result<(), ModelError> {
        validate::sizes([
            ("vocab_size", self.vocab_size),
            ("max_positions", self.max_positions),
            ("hidden_size", self.hidden_size),
            ("num_layers", self.num_layers),
            ("num_heads", self.num_heads),
            ("intermediate_size", self.intermediate_size()),
        ])?;
        validate::heads(self.hidden_size, self.num_heads)?;
        validate::dropout("dropout", self.dropout)?;
        validate::norm_eps(self.norm_eps)
    }

    /// Inner width of the feed-forward layers.
    pub fn intermediate_size(&self) -> usize {
        self.intermediate_size.unwrap_or(4 * self.hidden_size)
    }

    /// A new model with the published initialisation (Radford et al. 2019): weights from N(0, 0.02), those that write to
    /// the residual stream from N(0, 0.02 / √(2 · num_layers)), biases 0, norms the identity.
    ///
    /// # Errors
    ///
    /// As [`validate`](Self::validate).
    pub fn init(&self, seed: u64, device: &Device) -> Result<Gpt2, ModelError> {
        self.validate()?;
        let residual_std = 0.02 / ((2 * self.num_layers) as f64).sqrt();
        Ok(initialise(Gpt2::new(self, device), seed, |path, _| match path.rsplit_once('.') {
            Some((_, "bias" | "beta")) => Init::Constant(0.0),
            Some((_, "gamma")) => Init::Constant(1.0),
            Some((layer, _)) if layer.ends_with(".attention.output") || layer.ends_with(".feed_forward.down") => {
                Init::Normal { mean: 0.0, std: residual_std }
            }
            _ => Init::Normal { mean: 0.0, std: 0.02 },
        }))
    }

    /// How many parameters the model has; the tied head counts once. Nothing is allocated.
    pub fn num_parameters(&self) -> usize {
        let (hidden, intermediate) = (self.hidden_size, self.intermediate_size());
        let norm = if self.bias { 2 * hidden } else { hidden };
        let block_biases = if self.bias { 3 * hidden + hidden + intermediate + hidden } else { 0 };
        let block = 2 * norm + self.block_weights() + block_biases;
        (self.vocab_size + self.max_positions) * hidden + self.num_layers * block + norm
    }

    /// Floating-point operations of a training step, forward and backward, for each token of sequences of `seq_len`
    /// tokens.
    ///
    /// Six for each weight of a matrix product, the head among them, and `12 · num_layers · hidden_size · seq_len` for
    /// attention, which is counted without the causal half (Chowdhery et al. 2022, appendix B): 874.9 GFLOP for a sequence
    /// of 1,024 tokens of the 124M model.
    pub fn training_flops_per_token(&self, seq_len: usize) -> f64 {
        let weights = self.num_layers * self.block_weights() + self.vocab_size * self.hidden_size;
        let attention = self.num_layers * self.hidden_size * seq_len;
        (6 * weights + 12 * attention) as f64
    }

    /// Numbers in the matrices of one block.
    fn block_weights(&self) -> usize {
        let attention = 4 * self.hidden_size * self.hidden_size;
        attention + 2 * self.hidden_size * self.intermediate_size()
    }
}

/// GPT-2, a decoder with norms before its layers, learned positions and a head tied to the token embedding
/// (Radford et al. 2019, "Language models are unsupervised multitask learners").
#[derive(Module, Debug)]
pub struct Gpt2 {
    /// `[vocab_size, hidden_size]`; also the head.
    pub token_embedding: Embedding,
    /// `[max_positions, hidden_size]`
    pub position_embedding: Embedding,
    /// The layers.
    pub blocks: Vec<Gpt2Block>,
    /// Applied to what the last block leaves.
    pub final_norm: LayerNorm,
    #[module(skip)]
    config: Gpt2Config,
}

/// One block of a [`Gpt2`].
#[derive(Module, Debug)]
pub struct Gpt2Block {
    /// Before attention.
    pub attention_norm: LayerNorm,
    /// Causal.
    pub attention: SelfAttention,
    /// Before the feed-forward layer.
    pub feed_forward_norm: LayerNorm,
    /// With the tanh form of GELU.
    pub feed_forward: FeedForward,
    dropout: f64,
}

impl Gpt2Block {
    fn new(config: &Gpt2Config, device: &Device) -> Self {
        let &Gpt2Config { hidden_size, num_heads, norm_eps, dropout, bias, .. } = config;
        let intermediate_size = config.intermediate_size();
        Self {
            attention_norm: LayerNorm::new(hidden_size, bias, norm_eps, device),
            attention: SelfAttention::new(hidden_size, num_heads, true, dropout, bias, device),
            feed_forward_norm: LayerNorm::new(hidden_size, bias, norm_eps, device),
            feed_forward: FeedForward::new(hidden_size, intermediate_size, bias, Activation::GeluTanh, device),
            dropout,
        }
    }

    fn forward(
        &self,
        hidden: Tensor<3>,
        mask: &AttentionMask,
        cache: Option<&mut KvCache>,
        context: &Context,
    ) -> Tensor<3> {
        let normed = self.attention_norm.forward(hidden.clone());
        let attended = self.attention.forward(normed, mask, cache, &context.child(0));
        let hidden = hidden + dropout(attended, self.dropout, &context.child(1));
        let normed = self.feed_forward_norm.forward(hidden.clone());
        let fed = self.feed_forward.forward(normed, context);
        hidden + dropout(fed, self.dropout, &context.child(2))
    }
}

impl Gpt2 {
    /// All parameters zero, to be replaced, with the ids that [`Gpt2Config::init`] gives.
    pub(crate) fn zeros(config: &Gpt2Config, device: &Device) -> Self {
        initialise(Self::new(config, device), 0, |_, _| Init::Constant(0.0))
    }

    /// A model whose parameters are made when they are first read.
    fn new(config: &Gpt2Config, device: &Device) -> Self {
        Self {
            token_embedding: Embedding::new(config.vocab_size, config.hidden_size, device),
            position_embedding: Embedding::new(config.max_positions, config.hidden_size, device),
            blocks: (0..config.num_layers).map(|_| Gpt2Block::new(config, device)).collect(),
            final_norm: LayerNorm::new(config.hidden_size, config.bias, config.norm_eps, device),
            config: config.clone(),
        }
    }

    /// What the model was made with.
    pub fn config(&self) -> Gpt2Config {
        self.config.clone()
    }

    /// The same model with another probability of dropout.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`] when it is not at least 0 and below 1.
    pub fn with_dropout(mut self, dropout: f64) -> Result<Self, ModelError> {
        self.config.dropout = dropout;
        self.config.validate()?;
        let with_dropout = |block: Gpt2Block| {
            let attention = block.attention.with_dropout(dropout);
            Gpt2Block { attention, dropout, ..block }
        };
        self.blocks = self.blocks.into_iter().map(with_dropout).collect();
        Ok(self)
    }

    /// The logits of every next token.
    ///
    /// # Shapes
    ///
    /// - `input_ids`: `[batch, seq]`, at most `max_positions` tokens
    /// - `mask`: over `seq` queries and keys; later tokens are hidden in any case
    /// - result: `[batch, seq, vocab_size]`
    ///
    /// # Panics
    ///
    /// When the sequence is longer than `max_positions`.
    pub fn forward(&self, input_ids: Tensor<2, Int>, mask: &AttentionMask, context: &Context) -> Tensor<3> {
        self.logits(self.hidden(input_ids, mask, context), context)
    }

    /// What the head sees: the residual stream after the last block and the final norm.
    ///
    /// # Shapes
    ///
    /// As [`forward`](Self::forward); result: `[batch, seq, hidden_size]`
    ///
    /// # Panics
    ///
    /// When the sequence is longer than `max_positions`.
    pub fn hidden(&self, input_ids: Tensor<2, Int>, mask: &AttentionMask, context: &Context) -> Tensor<3> {
        let [batch, seq] = input_ids.dims();
        let embedded = self.token_embedding.forward(input_ids) + self.position_embedding.range(0, seq);
        let mask = mask.shared(true, batch, seq, seq, &embedded.device());
        let mut hidden = dropout(embedded, self.config.dropout, &context.child(0));
        for (block, index) in self.blocks.iter().zip(1..) {
            let mask = mask.clone();
            hidden = checkpoint(block, hidden, &context.child(index), move |block, hidden, context| {
                block.forward(hidden, &mask, None, context)
            });
        }
        self.final_norm.forward(hidden)
    }

    /// The head alone.
    ///
    /// # Shapes
    ///
    /// `[batch, seq, hidden_size]` to `[batch, seq, vocab_size]`
    pub fn logits(&self, hidden: Tensor<3>, context: &Context) -> Tensor<3> {
        self.token_embedding.logits(hidden, None, context)
    }

    /// [`logits`](Self::logits) that are still to be computed, `[batch · seq, vocab_size]`, for a loss.
    pub fn linear_logits(&self, hidden: Tensor<3>) -> LinearLogits {
        self.token_embedding.linear_logits(hidden, None)
    }

    /// [`forward`](Self::forward) of new tokens only, which also attend to those that the caches, one a block, have seen.
    ///
    /// # Shapes
    ///
    /// - `input_ids`: `[batch, new]`
    /// - `positions`: `[batch, new]`, the place of each token in its row, below `max_positions`
    /// - `mask`: over `new` queries and `seen + new` keys
    /// - result: `[batch, new, vocab_size]`
    ///
    /// # Panics
    ///
    /// When the caches are full or not one a block.
    pub fn forward_cached(
        &self,
        input_ids: Tensor<2, Int>,
        positions: Tensor<2, Int>,
        mask: &AttentionMask,
        caches: &mut [KvCache],
        context: &Context,
    ) -> Tensor<3> {
        self.logits(self.hidden_cached(input_ids, positions, mask, caches, context), context)
    }

    fn hidden_cached(
        &self,
        input_ids: Tensor<2, Int>,
        positions: Tensor<2, Int>,
        mask: &AttentionMask,
        caches: &mut [KvCache],
        context: &Context,
    ) -> Tensor<3> {
        assert_eq!(caches.len(), self.blocks.len(), "key-value caches are one a block");
        let [batch, new] = input_ids.dims();
        let seen = caches.first().map_or(0, KvCache::len);
        let embedded = self.token_embedding.forward(input_ids) + self.position_embedding.forward(positions);
        let mask = mask.shared(true, batch, new, seen + new, &embedded.device());
        let mut hidden = dropout(embedded, self.config.dropout, &context.child(0));
        for ((block, cache), index) in self.blocks.iter().zip(caches).zip(1..) {
            hidden = block.forward(hidden, &mask, Some(cache), &context.child(index));
        }
        self.final_norm.forward(hidden)
    }
}

impl CausalLm for Gpt2 {
    type Cache = Vec<KvCache>;

    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn max_positions(&self) -> usize {
        self.config.max_positions
    }

    fn device(&self) -> Device {
        self.token_embedding.weight.device()
    }

    fn new_cache(&self) -> Self::Cache {
        vec![KvCache::new(self.config.max_positions); self.blocks.len()]
    }

    fn next_logits(
        &self,
        input_ids: Tensor<2, Int>,
        positions: Tensor<2, Int>,
        mask: &AttentionMask,
        cache: &mut Self::Cache,
        context: &Context,
    ) -> Tensor<2> {
        let last = input_ids.dims()[1] - 1;
        let hidden = self.hidden_cached(input_ids, positions, mask, cache, context);
        self.logits(hidden.narrow(1, last, 1), context).squeeze_dim(1)
    }
}

#[cfg(test)]
mod tests;
