//! The Transformer of Vaswani et al. (2017), "Attention is all you need": an encoder reads a source, a decoder writes a target.

mod block;
mod config;
mod generation;
mod sinusoids;
#[cfg(test)]
mod tests;

use burn::{
    module::{Module, Param},
    tensor::{Device, Int, Tensor},
};
use fornax_nn::{Embedding, Init, LayerNorm, Linear, constant, initialise};
use fornax_ops::{AttentionMask, Context, LinearLogits, checkpoint, dropout};

use crate::ModelError;

pub use block::{DecoderBlock, EncoderBlock};
use block::{Memory, norm};
pub use config::{EmbeddingInit, Positions, TieEmbeddings, TransformerConfig};
pub use generation::TransformerState;

/// The encoder-decoder of Vaswani et al. (2017), with norms after each addition or before each layer (Xiong et al. 2020).
///
/// All linear maps have biases, as in `torch.nn.Transformer`.
#[derive(Module, Debug)]
pub struct Transformer {
    /// `[source_vocab_size, hidden_size]`; with [`TieEmbeddings::All`] also the target's embedding and the head
    pub source_embedding: Embedding,
    /// `[target_vocab_size, hidden_size]`; with [`TieEmbeddings::Decoder`] also the head
    pub target_embedding: Option<Embedding>,
    /// `[max_positions, hidden_size]`, of [`Positions::Learned`]
    pub source_position_embedding: Option<Embedding>,
    /// `[max_positions, hidden_size]`, of [`Positions::Learned`]
    pub target_position_embedding: Option<Embedding>,
    /// The layers that read the source.
    pub encoder: Vec<EncoderBlock>,
    /// Applied to what the last block of the encoder leaves, with norms before the layers.
    pub encoder_norm: Option<LayerNorm>,
    /// The layers that write the target.
    pub decoder: Vec<DecoderBlock>,
    /// Applied to what the last block of the decoder leaves, with norms before the layers.
    pub decoder_norm: Option<LayerNorm>,
    /// Scores of the target's tokens, where no embedding gives them.
    pub head: Option<Linear>,
    /// `[target_vocab_size]`, added to the scores of a tied head
    pub head_bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    config: TransformerConfig,
}

impl Transformer {
    /// All parameters zero, to be replaced, with the ids that [`TransformerConfig::init`] gives.
    pub(crate) fn zeros(config: &TransformerConfig, device: &Device) -> Self {
        initialise(Self::new(config, device), 0, |_, _| Init::Constant(0.0))
    }

    /// A model whose parameters are made when they are first read.
    fn new(config: &TransformerConfig, device: &Device) -> Self {
        let &TransformerConfig { hidden_size, max_positions, head_bias, tie_embeddings: tie, .. } = config;
        let target = config.target_vocab_size;
        let positions = || {
            let learned = config.positions == Positions::Learned;
            learned.then(|| Embedding::new(max_positions, hidden_size, device))
        };
        let untied = tie == TieEmbeddings::None;
        Self {
            source_embedding: Embedding::new(config.source_vocab_size, hidden_size, device),
            target_embedding: (tie != TieEmbeddings::All).then(|| Embedding::new(target, hidden_size, device)),
            source_position_embedding: positions(),
            target_position_embedding: positions(),
            encoder: (0..config.num_layers).map(|_| EncoderBlock::new(config, device)).collect(),
            encoder_norm: config.norm_first.then(|| norm(config, device)),
            decoder: (0..config.num_decoder_layers()).map(|_| DecoderBlock::new(config, device)).collect(),
            decoder_norm: config.norm_first.then(|| norm(config, device)),
            head: untied.then(|| Linear::new(hidden_size, target, head_bias, device)),
            head_bias: (!untied && head_bias).then(|| constant([target], 0.0, device)),
            config: config.clone(),
        }
    }

    /// What the model was made with.
    pub fn config(&self) -> TransformerConfig {
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
        self.encoder = self.encoder.into_iter().map(|block| block.with_dropout(dropout)).collect();
        self.decoder = self.decoder.into_iter().map(|block| block.with_dropout(dropout)).collect();
        Ok(self)
    }

    /// The logits of the target's next tokens.
    ///
    /// # Shapes
    ///
    /// - `input_ids`: `[batch, source_len]`, at most `max_positions` tokens
    /// - `lengths`: `[batch]`, the tokens of each source, at least 1; what follows them is padding
    /// - `decoder_input_ids`: `[batch, target_len]`, at most `max_positions`: the start token and the target without its last
    ///   token; what follows a shorter target is seen by no token before it
    /// - result: `[batch, target_len, target_vocab_size]`
    ///
    /// # Panics
    ///
    /// When source or target are longer than `max_positions`.
    pub fn forward(
        &self,
        input_ids: Tensor<2, Int>,
        lengths: Tensor<1, Int>,
        decoder_input_ids: Tensor<2, Int>,
        context: &Context,
    ) -> Tensor<3> {
        self.logits(self.hidden(input_ids, lengths, decoder_input_ids, context), context)
    }

    /// What the head sees: the residual stream after the decoder.
    ///
    /// # Shapes
    ///
    /// As [`forward`](Self::forward); result: `[batch, target_len, hidden_size]`
    ///
    /// # Panics
    ///
    /// When source or target are longer than `max_positions`.
    pub fn hidden(
        &self,
        input_ids: Tensor<2, Int>,
        lengths: Tensor<1, Int>,
        decoder_input_ids: Tensor<2, Int>,
        context: &Context,
    ) -> Tensor<3> {
        let ([batch, source_len], [_, target_len]) = (input_ids.dims(), decoder_input_ids.dims());
        let device = input_ids.device();
        let padding = AttentionMask::KeyLengths(lengths);
        let source = self.source_hidden(input_ids, &padding, &context.child(0));
        let context = context.child(1);
        let embedded = self.embed_target(decoder_input_ids, 0, &context.child(0));
        let mask = AttentionMask::None.shared(true, batch, target_len, target_len, &device);
        let source_mask = padding.shared(false, batch, target_len, source_len, &device);
        let layers = self.decoder.iter().zip(1..);
        let hidden = layers.fold(embedded, |hidden, (block, index)| {
            let (inputs, mask, source_mask) = ((hidden, source.clone()), mask.clone(), source_mask.clone());
            checkpoint(block, inputs, &context.child(index), move |block, (hidden, source), context| {
                let keys_and_values = block.cross_attention.keys_and_values(source, context);
                block.forward(hidden, Memory { keys_and_values, mask: &source_mask }, &mask, None, context)
            })
        });
        normed(self.decoder_norm.as_ref(), hidden)
    }

    /// What the decoder attends to: the source after the encoder.
    ///
    /// # Shapes
    ///
    /// - `input_ids`: `[batch, source_len]`, at most `max_positions` tokens
    /// - `mask`: over `source_len` queries and keys
    /// - result: `[batch, source_len, hidden_size]`
    ///
    /// # Panics
    ///
    /// When the source is longer than `max_positions`.
    pub fn source_hidden(&self, input_ids: Tensor<2, Int>, mask: &AttentionMask, context: &Context) -> Tensor<3> {
        let [batch, len] = input_ids.dims();
        let mask = mask.shared(false, batch, len, len, &input_ids.device());
        let positions = self.source_position_embedding.as_ref();
        let embedded = self.embed(&self.source_embedding, positions, input_ids, 0, &context.child(0));
        let layers = self.encoder.iter().zip(1..);
        let hidden = layers.fold(embedded, |hidden, (block, index)| {
            let mask = mask.clone();
            checkpoint(block, hidden, &context.child(index), move |block, hidden, context| {
                block.forward(hidden, &mask, context)
            })
        });
        normed(self.encoder_norm.as_ref(), hidden)
    }

    /// The head alone.
    ///
    /// # Shapes
    ///
    /// `[..., hidden_size]` to `[..., target_vocab_size]`
    pub fn logits<const D: usize>(&self, hidden: Tensor<D>, context: &Context) -> Tensor<D> {
        match &self.head {
            Some(head) => head.forward(hidden, context),
            None => self.target_table().logits(hidden, self.head_bias.as_ref().map(Param::val), context),
        }
    }

    /// [`logits`](Self::logits) that are still to be computed, `[batch · target_len, target_vocab_size]`, for a loss.
    pub fn linear_logits(&self, hidden: Tensor<3>) -> LinearLogits {
        match &self.head {
            Some(head) => head.linear_logits(hidden),
            None => self.target_table().linear_logits(hidden, self.head_bias.as_ref().map(Param::val)),
        }
    }

    fn target_table(&self) -> &Embedding {
        self.target_embedding.as_ref().unwrap_or(&self.source_embedding)
    }

    /// The decoder over new tokens, which also attend to those that the caches have seen, as the residual stream.
    fn hidden_cached(
        &self,
        decoder_input_ids: Tensor<2, Int>,
        state: &mut TransformerState,
        context: &Context,
    ) -> Tensor<3> {
        let [batch, new] = decoder_input_ids.dims();
        let device = decoder_input_ids.device();
        let seen = state.layers.first().map_or(0, |layer| layer.seen.len());
        let embedded = self.embed_target(decoder_input_ids, seen, &context.child(0));
        let mask = AttentionMask::None.shared(true, batch, new, seen + new, &device);
        let source_mask =
            AttentionMask::KeyLengths(state.lengths.clone()).shared(false, batch, new, state.source_len, &device);
        let layers = self.decoder.iter().zip(&mut state.layers).zip(1..);
        let hidden = layers.fold(embedded, |hidden, ((block, layer), index)| {
            let memory = Memory { keys_and_values: layer.source.clone(), mask: &source_mask };
            block.forward(hidden, memory, &mask, Some(&mut layer.seen), &context.child(index))
        });
        normed(self.decoder_norm.as_ref(), hidden)
    }

    fn embed_target(&self, ids: Tensor<2, Int>, first: usize, context: &Context) -> Tensor<3> {
        self.embed(self.target_table(), self.target_position_embedding.as_ref(), ids, first, context)
    }

    /// Tokens that stand at `first` and after it.
    fn embed(
        &self,
        table: &Embedding,
        positions: Option<&Embedding>,
        ids: Tensor<2, Int>,
        first: usize,
        context: &Context,
    ) -> Tensor<3> {
        let (hidden_size, max) = (self.config.hidden_size, self.config.max_positions);
        let len = ids.dims()[1];
        assert!(first + len <= max, "transformer: {len} tokens from position {first} on, of {max}");
        let embedded = table.forward(ids);
        let embedded = match self.config.scale_embeddings {
            true => embedded.mul_scalar((hidden_size as f64).sqrt()),
            false => embedded,
        };
        let positions = match positions {
            Some(learned) => learned.range(first, len),
            None => sinusoids::range(first, len, hidden_size, &embedded.device()),
        };
        dropout(embedded + positions, self.config.dropout, context)
    }
}

fn normed(norm: Option<&LayerNorm>, hidden: Tensor<3>) -> Tensor<3> {
    match norm {
        Some(norm) => norm.forward(hidden),
        None => hidden,
    }
}
