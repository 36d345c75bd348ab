use burn::tensor::Device;
use fornax_nn::{Init, initialise};
use serde::{Deserialize, Serialize};

use super::Transformer;
use crate::{ModelError, validate};

/// How a [`Transformer`] tells where a token stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Positions {
    /// Sines in the even columns and cosines in the odd ones, as in section 3.5 of the paper: column `2i` of position `p`
    /// holds `sin(p / 10000^(2i / hidden_size))` and column `2i + 1` the cosine of the same angle. (Others, Marian among them,
    /// put all sines before all cosines.)
    Sinusoidal,
    /// A learned vector each, in one table for sources and another for targets.
    Learned,
}

/// Which of a [`Transformer`]'s three tables are one: the embedding of the source, that of the target, and the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TieEmbeddings {
    /// All three are their own.
    None,
    /// The target's embedding is the head (Press and Wolf 2017).
    Decoder,
    /// One table for all, over a vocabulary that source and target share.
    All,
}

/// What the embeddings of a new [`Transformer`] are drawn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EmbeddingInit {
    /// N(0, 1 / √hidden_size), so that a tied head starts with logits of size 1.
    Normal,
    /// As all other matrices.
    Xavier,
}

/// The sizes of a [`Transformer`]. The default is the base model of the paper.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TransformerConfig {
    /// Number of tokens of the source.
    pub source_vocab_size: usize,
    /// Number of tokens of the target.
    pub target_vocab_size: usize,
    /// The longest source, and the longest target with its start token.
    pub max_positions: usize,
    /// How positions are told.
    pub positions: Positions,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Number of the encoder's blocks.
    pub num_layers: usize,
    /// Number of the decoder's blocks; none is as many as the encoder's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_decoder_layers: Option<usize>,
    /// Attention heads of a block; divides `hidden_size`.
    pub num_heads: usize,
    /// Inner width of the feed-forward layers.
    pub intermediate_size: usize,
    /// Probability of dropout where `torch.nn.Transformer` has it: on embeddings, attention weights, inside the feed-forward
    /// layer, and on what each layer adds to the residual stream. (The paper has it in the first and last of these places.)
    pub dropout: f64,
    /// Whether norms stand before their layers, and one after each stack, instead of after each addition as in the paper.
    pub norm_first: bool,
    /// What is added to the variance in layer norms.
    pub norm_eps: f64,
    /// Which tables are one.
    pub tie_embeddings: TieEmbeddings,
    /// Whether embedded tokens are multiplied by √hidden_size before positions are added.
    pub scale_embeddings: bool,
    /// Whether the head adds a number to the score of each token.
    pub head_bias: bool,
    /// What embeddings are drawn from.
    pub embedding_init: EmbeddingInit,
    /// The token that fills up short rows. No source attends to its own, and no loss should count those of a target.
    pub pad_token: u32,
}

impl Default for TransformerConfig {
    fn default() -> Self {
        Self {
            // Byte pairs shared by English and German.
            source_vocab_size: 37_000,
            target_vocab_size: 37_000,
            // The paper names no limit; sentences are shorter, and sinusoids cost no memory.
            max_positions: 1_024,
            positions: Positions::Sinusoidal,
            hidden_size: 512,
            num_layers: 6,
            num_decoder_layers: None,
            num_heads: 8,
            intermediate_size: 2_048,
            dropout: 0.1,
            norm_first: false,
            norm_eps: 1e-5,
            tie_embeddings: TieEmbeddings::All,
            scale_embeddings: true,
            head_bias: false,
            embedding_init: EmbeddingInit::Normal,
            pad_token: 0,
        }
    }
}

impl TransformerConfig {
    /// Whether the sizes describe a model.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`] with the first key whose value doesn't.
    pub fn validate(&self) -> Result<(), ModelError> {
        let (source, target) = (self.source_vocab_size, self.target_vocab_size);
        validate::sizes([
            ("source_vocab_size", source),
            ("target_vocab_size", target),
            ("max_positions", self.max_positions),
            ("hidden_size", self.hidden_size),
            ("num_layers", self.num_layers),
            ("num_decoder_layers", self.num_decoder_layers()),
            ("num_heads", self.num_heads),
            ("intermediate_size", self.intermediate_size),
        ])?;
        validate::heads(self.hidden_size, self.num_heads)?;
        validate::dropout("dropout", self.dropout)?;
        validate::norm_eps(self.norm_eps)?;
        if self.tie_embeddings == TieEmbeddings::All && source != target {
            let reason = format!("must be model.source_vocab_size = {source} with model.tie_embeddings = \"all\"");
            return Err(validate::refuse("target_vocab_size", &target, reason));
        }
        if self.pad_token as usize >= source.min(target) {
            let reason = format!("must be a token of both vocabularies, below {}", source.min(target));
            return Err(validate::refuse("pad_token", &self.pad_token, reason));
        }
        Ok(())
    }

    /// Number of the decoder's blocks.
    pub fn num_decoder_layers(&self) -> usize {
        self.num_decoder_layers.unwrap_or(self.num_layers)
    }

    /// A new model: matrices uniform as Glorot and Bengio (2010) have it, embeddings and learned positions as
    /// [`embedding_init`](Self::embedding_init) says, biases 0, norms the identity.
    ///
    /// # Errors
    ///
    /// As [`validate`](Self::validate).
    pub fn init(&self, seed: u64, device: &Device) -> Result<Transformer, ModelError> {
        self.validate()?;
        let std = (self.hidden_size as f64).powf(-0.5);
        Ok(initialise(Transformer::new(self, device), seed, |path, _| match path.rsplit_once('.') {
            Some((_, "gamma")) => Init::Constant(1.0),
            Some((layer, "weight")) if layer.ends_with("embedding") && self.embedding_init == EmbeddingInit::Normal => {
                Init::Normal { mean: 0.0, std }
            }
            Some((_, "weight")) => Init::XavierUniform,
            // `beta`, `bias` and the bias of a tied head.
            _ => Init::Constant(0.0),
        }))
    }

    /// How many parameters the model has; a tied table counts once. Nothing is allocated.
    pub fn num_parameters(&self) -> usize {
        let hidden = self.hidden_size;
        let norm = 2 * hidden;
        let attention = 4 * (hidden * hidden + hidden);
        let feed_forward = 2 * hidden * self.intermediate_size + self.intermediate_size + hidden;
        let encoder = self.num_layers * (attention + feed_forward + 2 * norm);
        let decoder = self.num_decoder_layers() * (2 * attention + feed_forward + 3 * norm);
        let final_norms = if self.norm_first { 2 * norm } else { 0 };
        let positions = if self.positions == Positions::Learned { 2 * self.max_positions } else { 0 };
        let rows = match self.tie_embeddings {
            TieEmbeddings::None => self.source_vocab_size + 2 * self.target_vocab_size,
            TieEmbeddings::Decoder => self.source_vocab_size + self.target_vocab_size,
            TieEmbeddings::All => self.source_vocab_size,
        };
        let head_bias = if self.head_bias { self.target_vocab_size } else { 0 };
        (rows + positions) * hidden + encoder + decoder + final_norms + head_bias
    }

    /// Floating-point operations of a training step, forward and backward, for a source of `source_len` tokens and a target
    /// of `target_len`.
    ///
    /// Six for each weight of a matrix product and token that it is applied to, the head among them, and
    /// `12 · hidden_size` for each pair of tokens of an attention layer, which is counted without the causal half (Chowdhery
    /// et al. 2022, appendix B).
    pub fn training_flops_per_pair(&self, source_len: usize, target_len: usize) -> f64 {
        let (hidden, square) = (self.hidden_size, self.hidden_size * self.hidden_size);
        let feed_forward = 2 * hidden * self.intermediate_size;
        let (encoder_layers, decoder_layers) = (self.num_layers, self.num_decoder_layers());
        // The keys and values of attention over the source are made of its tokens, queries and outputs of the target's.
        let of_source = encoder_layers * (4 * square + feed_forward) + decoder_layers * 2 * square;
        let of_target = decoder_layers * (6 * square + feed_forward) + hidden * self.target_vocab_size;
        let pairs = encoder_layers * source_len * source_len + decoder_layers * target_len * (target_len + source_len);
        (6 * (of_source * source_len + of_target * target_len) + 12 * hidden * pairs) as f64
    }
}
