mod config;
mod generation;
mod stack;
#[cfg(test)]
mod tests;

use burn::{
    module::Module,
    tensor::{Device, Int, Tensor},
};
use fornax_backend::Precision;
use fornax_nn::{Embedding, Init, Linear, initialise};
use fornax_ops::{Context, LinearLogits};

pub use config::T5Config;
pub use generation::T5State;
pub use stack::{T5Decoder, T5DecoderBlock, T5Encoder, T5EncoderBlock, T5FeedForward};

use crate::ModelError;

/// T5, an encoder-decoder with norms before its layers and relative positions, that maps text to text (Raffel et al. 2020,
/// "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer"), versions 1.0 and 1.1.
#[derive(Module, Debug)]
pub struct T5 {
    /// `[vocab_size, hidden_size]`, of encoder and decoder; also the head where that has no weights of its own.
    pub token_embedding: Embedding,
    /// Reads the source.
    pub encoder: T5Encoder,
    /// Writes the target.
    pub decoder: T5Decoder,
    /// `[hidden_size, vocab_size]`
    pub head: Option<Linear>,
    #[module(skip)]
    config: T5Config,
}

impl T5 {
    /// All parameters zero, to be replaced, with the ids that [`T5Config::init`] gives.
    pub(crate) fn zeros(config: &T5Config, device: &Device) -> Self {
        initialise(Self::new(config, device), 0, |_, _| Init::Constant(0.0))
    }

    /// A model whose parameters are made when they are first read.
    fn new(config: &T5Config, device: &Device) -> Self {
        let &T5Config { vocab_size, hidden_size, tie_embeddings, .. } = config;
        Self {
            token_embedding: Embedding::new(vocab_size, hidden_size, device),
            encoder: T5Encoder::new(config, device),
            decoder: T5Decoder::new(config, device),
            head: (!tie_embeddings).then(|| Linear::new(hidden_size, vocab_size, false, device)),
            config: config.clone(),
        }
    }

    /// What the model was made with.
    pub fn config(&self) -> T5Config {
        self.config.clone()
    }

    /// Whether the model can be computed in a precision.
    ///
    /// # Errors
    ///
    /// [`ModelError::Precision`] for `f16`: values inside the feed-forward layers of pretrained models exceed its range.
    pub fn check_precision(precision: Precision) -> Result<(), ModelError> {
        match precision {
            Precision::F32 | Precision::Bf16 => Ok(()),
            Precision::F16 => Err(ModelError::Precision {
                model: "T5",
                precision,
                reason: "values inside its feed-forward layers exceed 65,504, the largest of f16; use bf16, in which it was \
                         pretrained (Raffel et al. 2020), or f32",
            }),
        }
    }

    /// The same model with another probability of dropout.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`] when it is not at least 0 and below 1.
    pub fn with_dropout(self, dropout: f64) -> Result<Self, ModelError> {
        let config = T5Config { dropout, ..self.config };
        config.validate()?;
        let (encoder, decoder) = (self.encoder.with_dropout(dropout), self.decoder.with_dropout(dropout));
        Ok(Self { encoder, decoder, config, ..self })
    }

    /// The logits of every next target token: [`encode`](Self::encode), [`decode`](Self::decode), [`logits`](Self::logits).
    ///
    /// # Shapes
    ///
    /// - `input_ids`, `lengths`: as of [`encode`](Self::encode)
    /// - `decoder_input_ids`: `[batch, target_len]`, the start token and all target tokens but the last
    /// - result: `[batch, target_len, vocab_size]`
    pub fn forward(
        &self,
        input_ids: Tensor<2, Int>,
        lengths: Tensor<1, Int>,
        decoder_input_ids: Tensor<2, Int>,
        context: &Context,
    ) -> Tensor<3> {
        let encoded = self.encode(input_ids, lengths.clone(), context);
        self.logits(self.decode(encoded, lengths, decoder_input_ids, context), context)
    }

    /// What the encoder makes of the sources: one vector for each token.
    ///
    /// # Shapes
    ///
    /// - `input_ids`: `[batch, source_len]`
    /// - `lengths`: `[batch]`, the tokens of each source; what follows them is padding
    /// - result: `[batch, source_len, hidden_size]`; at padding, without meaning
    pub fn encode(&self, input_ids: Tensor<2, Int>, lengths: Tensor<1, Int>, context: &Context) -> Tensor<3> {
        self.encoder.forward(self.token_embedding.forward(input_ids), lengths, &context.child(0))
    }

    /// What the head sees: the residual stream of the decoder after its last block and norm.
    ///
    /// # Shapes
    ///
    /// - `encoded`: `[batch, source_len, hidden_size]`, from [`encode`](Self::encode) with the same `lengths`
    /// - `decoder_input_ids`: `[batch, target_len]`; padding at the end of a row changes nothing before it
    /// - result: `[batch, target_len, hidden_size]`
    pub fn decode(
        &self,
        encoded: Tensor<3>,
        lengths: Tensor<1, Int>,
        decoder_input_ids: Tensor<2, Int>,
        context: &Context,
    ) -> Tensor<3> {
        let embedded = self.token_embedding.forward(decoder_input_ids);
        self.decoder.forward(embedded, encoded, lengths, &context.child(1))
    }

    /// The head alone.
    ///
    /// # Shapes
    ///
    /// `[..., hidden_size]` to `[..., vocab_size]`
    pub fn logits<const D: usize>(&self, hidden: Tensor<D>, context: &Context) -> Tensor<D> {
        match &self.head {
            Some(head) => head.forward(hidden, context),
            None => self.token_embedding.logits(self.scaled(hidden), None, context),
        }
    }

    /// [`logits`](Self::logits) that are still to be computed, `[batch · target_len, vocab_size]`, for a loss.
    pub fn linear_logits(&self, hidden: Tensor<3>) -> LinearLogits {
        match &self.head {
            Some(head) => head.linear_logits(hidden),
            None => self.token_embedding.linear_logits(self.scaled(hidden), None),
        }
    }

    /// What a tied head is given.
    fn scaled<const D: usize>(&self, hidden: Tensor<D>) -> Tensor<D> {
        hidden.mul_scalar((self.config.hidden_size as f64).powf(-0.5))
    }
}
