mod classifier;
mod heads;
mod lora;
mod pooling;
#[cfg(test)]
mod tests;

use burn::{
    module::Module,
    tensor::{Device, Int, Tensor},
};
use fornax_nn::{Activation, Embedding, FeedForward, Init, LayerNorm, MultiHeadAttention, initialise};
use fornax_ops::{AttentionMask, Context, checkpoint, dropout};
use serde::{Deserialize, Serialize};

pub use classifier::{BertForSequenceClassification, ClassificationHead, ClassifierConfig};
pub(crate) use heads::with_new_head;
pub use heads::{BertForMaskedLm, BertForPreTraining, MlmHead};
pub use lora::{LoraConfig, LoraTarget};
pub use pooling::{Pooling, mean_pool};

use crate::{ModelError, validate};

/// The sizes of a [`Bert`]. The default is the published `bert-base-uncased`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BertConfig {
    /// Whose layout and heads the model has.
    pub family: BertFamily,
    /// Number of tokens.
    pub vocab_size: usize,
    /// The longest sequence.
    pub max_positions: usize,
    /// Number of token types (first and second sentence of a pair); 0 is a model without them.
    pub type_vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Number of blocks.
    pub num_layers: usize,
    /// Attention heads of a block; divides `hidden_size`.
    pub num_heads: usize,
    /// Inner width of the feed-forward layers.
    pub intermediate_size: usize,
    /// The nonlinearity of the feed-forward layers.
    pub activation: Activation,
    /// What is added to the variance in layer norms.
    pub norm_eps: f64,
    /// Probability of dropout on embeddings, attention weights and what each layer adds to the residual stream.
    pub dropout: f64,
    /// Probability of dropout in a classification head; none is `dropout`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classifier_dropout: Option<f64>,
}

/// RoBERTa's padding token, from which its positions are counted.
pub(crate) const ROBERTA_PAD: u32 = 1;

/// Encoders that differ in little more than their heads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BertFamily {
    /// Devlin et al. 2019.
    #[default]
    Bert,
    /// Liu et al. 2019: positions are counted from 2, after the padding token's. XLM-RoBERTa and CamemBERT are the same.
    Roberta,
    /// Sanh et al. 2019: no token types, and no dropout on what attention adds.
    DistilBert,
}

impl BertFamily {
    /// Token types of the published models.
    pub fn type_vocab_size(self) -> usize {
        match self {
            Self::Bert => 2,
            Self::Roberta => 1,
            Self::DistilBert => 0,
        }
    }

    /// Rows of the position table before that of the first token: `fairseq` numbers positions from its padding token on.
    pub(crate) fn position_offset(self) -> usize {
        match self {
            Self::Roberta => 2,
            Self::Bert | Self::DistilBert => 0,
        }
    }
}

impl Default for BertConfig {
    fn default() -> Self {
        Self {
            family: BertFamily::Bert,
            vocab_size: 30_522,
            max_positions: 512,
            type_vocab_size: 2,
            hidden_size: 768,
            num_layers: 12,
            num_heads: 12,
            intermediate_size: 3_072,
            activation: Activation::Gelu,
            norm_eps: 1e-12,
            dropout: 0.1,
            classifier_dropout: None,
        }
    }
}

impl BertConfig {
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
            ("intermediate_size", self.intermediate_size),
        ])?;
        validate::heads(self.hidden_size, self.num_heads)?;
        validate::dropout("dropout", self.dropout)?;
        validate::dropout("classifier_dropout", self.classifier_dropout())?;
        validate::norm_eps(self.norm_eps)?;
        if self.family == BertFamily::DistilBert {
            if self.type_vocab_size != 0 {
                let reason = "must be 0: a DistilBERT has no token types";
                return Err(validate::refuse("type_vocab_size", &self.type_vocab_size, reason));
            }
            if self.norm_eps != 1e-12 {
                let reason = "must be 1e-12: a DistilBERT has no other";
                return Err(validate::refuse("norm_eps", &self.norm_eps, reason));
            }
        }
        Ok(())
    }

    /// Whether a tokenizer of `tokens` tokens, of which `pad_token` pads, goes with the model.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`] when the model knows fewer tokens, or is a RoBERTa, whose positions are counted from its padding token,
    /// and the tokenizer's is another.
    pub fn check_tokenizer(&self, tokens: usize, pad_token: Option<u32>) -> Result<(), ModelError> {
        if self.vocab_size < tokens {
            return Err(validate::refuse("vocab_size", &self.vocab_size, format!("the tokenizer has {tokens} tokens")));
        }
        if self.vocab_size > 2 * tokens.max(500) {
            let vocab_size = self.vocab_size;
            tracing::warn!("the tokenizer has {tokens} tokens, the model {vocab_size}: do they belong together?");
        }
        match pad_token {
            Some(other) if self.family == BertFamily::Roberta && other != ROBERTA_PAD => {
                let reason = format!(
                    "positions of this family are counted from padding token {ROBERTA_PAD}, but the tokenizer's is {other}"
                );
                Err(validate::refuse("family", &"roberta", reason))
            }
            _ => Ok(()),
        }
    }

    /// Whether it makes a difference which token is of which text of a pair. Token types other than 0 must not be given otherwise.
    pub fn reads_token_types(&self) -> bool {
        self.type_vocab_size > 1
    }

    /// Probability of dropout in a classification head.
    pub fn classifier_dropout(&self) -> f64 {
        self.classifier_dropout.unwrap_or(self.dropout)
    }

    /// A new encoder with the published initialisation (Devlin et al. 2019): weights and embeddings from N(0, 0.02), biases
    /// 0, norms the identity.
    ///
    /// # Errors
    ///
    /// As [`validate`](Self::validate).
    pub fn init(&self, seed: u64, device: &Device) -> Result<Bert, ModelError> {
        self.validate()?;
        Ok(initialise(Bert::new(self, device), seed, |path, _| published(path)))
    }

    /// How many parameters the encoder has, without pooler and heads. Nothing is allocated.
    pub fn num_parameters(&self) -> usize {
        let (hidden, intermediate) = (self.hidden_size, self.intermediate_size);
        let embeddings = self.vocab_size + self.position_rows() + self.type_vocab_size;
        let norm = 2 * hidden;
        let block = self.block_weights() + 4 * hidden + intermediate + hidden + 2 * norm;
        embeddings * hidden + norm + self.num_layers * block
    }

    /// Floating-point operations of a training step of the encoder, forward and backward, for each token of sequences of
    /// `seq_len` tokens: six for each weight of a matrix product and `12 · num_layers · hidden_size · seq_len` for attention
    /// (Chowdhery et al. 2022, appendix B).
    ///
    /// A head comes on top: the masked-language-model head with six times `hidden_size · (hidden_size + vocab_size)` for each
    /// token that it predicts.
    pub fn training_flops_per_token(&self, seq_len: usize) -> f64 {
        let attention = self.num_layers * self.hidden_size * seq_len;
        (6 * self.num_layers * self.block_weights() + 12 * attention) as f64
    }

    /// Numbers in the matrices of one block.
    fn block_weights(&self) -> usize {
        4 * self.hidden_size * self.hidden_size + 2 * self.hidden_size * self.intermediate_size
    }

    /// Rows of the position table.
    pub(crate) fn position_rows(&self) -> usize {
        self.max_positions + self.family.position_offset()
    }
}

/// How the parameter at `path` is drawn.
fn published(path: &str) -> Init {
    match path.rsplit_once('.').map_or(path, |(_, name)| name) {
        "bias" | "beta" => Init::Constant(0.0),
        "gamma" => Init::Constant(1.0),
        _ => Init::Normal { mean: 0.0, std: 0.02 },
    }
}

/// BERT, an encoder with norms after its layers and learned positions (Devlin et al. 2019, "BERT: Pre-training of Deep
/// Bidirectional Transformers for Language Understanding"), and its family.
#[derive(Module, Debug)]
pub struct Bert {
    /// `[vocab_size, hidden_size]`; also the decoder of a masked-language-model head.
    pub token_embedding: Embedding,
    /// `[max_positions, hidden_size]`; RoBERTa has two rows more, which come first.
    pub position_embedding: Embedding,
    /// `[type_vocab_size, hidden_size]`
    pub token_type_embedding: Option<Embedding>,
    /// Applied to the sum of the embeddings.
    pub embedding_norm: LayerNorm,
    /// The layers.
    pub blocks: Vec<BertBlock>,
    #[module(skip)]
    config: BertConfig,
}

/// One block of a [`Bert`].
#[derive(Module, Debug)]
pub struct BertBlock {
    /// Of all tokens to all.
    pub attention: MultiHeadAttention,
    /// After attention and its residual connection.
    pub attention_norm: LayerNorm,
    /// Position-wise.
    pub feed_forward: FeedForward,
    /// After the feed-forward layer and its residual connection.
    pub feed_forward_norm: LayerNorm,
    /// On what attention adds.
    attention_dropout: f64,
    /// On what the feed-forward layer adds.
    dropout: f64,
}

impl BertBlock {
    fn new(config: &BertConfig, device: &Device) -> Self {
        let &BertConfig { hidden_size, num_heads, intermediate_size, activation, norm_eps, dropout, .. } = config;
        let block = Self {
            attention: MultiHeadAttention::new(hidden_size, num_heads, dropout, true, device),
            attention_norm: LayerNorm::new(hidden_size, true, norm_eps, device),
            feed_forward: FeedForward::new(hidden_size, intermediate_size, true, activation, device),
            feed_forward_norm: LayerNorm::new(hidden_size, true, norm_eps, device),
            attention_dropout: 0.0,
            dropout: 0.0,
        };
        block.with_dropout(config)
    }

    /// The same block with the dropout of `config`.
    fn with_dropout(self, config: &BertConfig) -> Self {
        let dropout = config.dropout;
        let attention_dropout = if config.family == BertFamily::DistilBert { 0.0 } else { dropout };
        Self { attention: self.attention.with_dropout(dropout), attention_dropout, dropout, ..self }
    }

    fn forward(&self, hidden: Tensor<3>, mask: &AttentionMask, context: &Context) -> Tensor<3> {
        let attended = self.attention.forward(hidden.clone(), None, mask, &context.child(0));
        let attended = dropout(attended, self.attention_dropout, &context.child(1));
        let hidden = self.attention_norm.forward_sum(attended, hidden);
        let fed = dropout(self.feed_forward.forward(hidden.clone(), context), self.dropout, &context.child(2));
        self.feed_forward_norm.forward_sum(fed, hidden)
    }
}

impl Bert {
    /// A model whose parameters are made when they are first read.
    pub(crate) fn new(config: &BertConfig, device: &Device) -> Self {
        let &BertConfig { vocab_size, type_vocab_size, hidden_size, .. } = config;
        let types = (type_vocab_size > 0).then(|| Embedding::new(type_vocab_size, hidden_size, device));
        Self {
            token_embedding: Embedding::new(vocab_size, hidden_size, device),
            position_embedding: Embedding::new(config.position_rows(), hidden_size, device),
            token_type_embedding: types,
            embedding_norm: LayerNorm::new(hidden_size, true, config.norm_eps, device),
            blocks: (0..config.num_layers).map(|_| BertBlock::new(config, device)).collect(),
            config: config.clone(),
        }
    }

    /// What the model was made with.
    pub fn config(&self) -> BertConfig {
        self.config.clone()
    }

    /// [`BertConfig::reads_token_types`]
    pub fn reads_token_types(&self) -> bool {
        self.config.reads_token_types()
    }

    /// The same model with another probability of dropout.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`] when it is not at least 0 and below 1.
    pub fn with_dropout(mut self, dropout: f64) -> Result<Self, ModelError> {
        self.config.dropout = dropout;
        self.config.validate()?;
        self.blocks = self.blocks.into_iter().map(|block| block.with_dropout(&self.config)).collect();
        Ok(self)
    }

    /// What the last block leaves: one vector for each token.
    ///
    /// # Shapes
    ///
    /// - `input_ids`: `[batch, seq]`, at most `max_positions` tokens
    /// - `token_type_ids`: `[batch, seq]`, each below `type_vocab_size`; none is 0 everywhere
    /// - `mask`: over `seq` queries and keys. A row's tokens come first and its padding last
    /// - result: `[batch, seq, hidden_size]`; at padding, without meaning
    ///
    /// # Panics
    ///
    /// When the sequence is longer than `max_positions`, or when a model without token types is given some.
    pub fn forward(
        &self,
        input_ids: Tensor<2, Int>,
        token_type_ids: Option<Tensor<2, Int>>,
        mask: &AttentionMask,
        context: &Context,
    ) -> Tensor<3> {
        let has_types = self.token_type_embedding.is_some();
        assert!(has_types || token_type_ids.is_none(), "this model has no token types (type_vocab_size = 0)");
        let [batch, seq] = input_ids.dims();
        let positions = self.position_embedding.range(self.config.family.position_offset(), seq);
        let embedded = self.token_embedding.forward(input_ids);
        let embedded = match (&self.token_type_embedding, token_type_ids) {
            (Some(types), Some(ids)) => embedded + types.forward(ids) + positions,
            // The sum is as wide as one row of the batch.
            (Some(types), None) => embedded + (positions + types.range(0, 1)),
            (None, _) => embedded + positions,
        };
        let mask = mask.shared(false, batch, seq, seq, &embedded.device());
        let normed = self.embedding_norm.forward(embedded);
        let mut hidden = dropout(normed, self.config.dropout, &context.child(0));
        for (block, index) in self.blocks.iter().zip(1..) {
            let mask = mask.clone();
            hidden = checkpoint(block, hidden, &context.child(index), move |block, hidden, context| {
                block.forward(hidden, &mask, context)
            });
        }
        hidden
    }
}
