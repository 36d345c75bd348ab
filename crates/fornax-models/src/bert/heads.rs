use burn::{
    module::{Module, Param},
    tensor::{Device, Int, Tensor},
};
use fornax_nn::{Activation, Embedding, Init, LayerNorm, Linear, constant, initialise};
use fornax_ops::{AttentionMask, Context, LinearLogits};

use super::{Bert, BertConfig, BertFamily, published};
use crate::{ModelError, validate};

impl BertConfig {
    /// A new masked language model, initialised as [`init`](Self::init) says.
    ///
    /// # Errors
    ///
    /// As [`validate`](Self::validate).
    pub fn init_masked_lm(&self, seed: u64, device: &Device) -> Result<BertForMaskedLm, ModelError> {
        self.validate()?;
        Ok(initialise(BertForMaskedLm::new(self, device), seed, |path, _| published(path)))
    }

    /// A new model for both tasks of BERT's pre-training, initialised as [`init`](Self::init) says.
    ///
    /// # Errors
    ///
    /// As [`validate`](Self::validate), or [`ModelError::Config`] for another family than BERT.
    pub fn init_pretraining(&self, seed: u64, device: &Device) -> Result<BertForPreTraining, ModelError> {
        self.validate()?;
        self.require_next_sentence()?;
        Ok(initialise(BertForPreTraining::new(self, device), seed, |path, _| published(path)))
    }

    /// Refuses families that predict no next sentence.
    pub(crate) fn require_next_sentence(&self) -> Result<(), ModelError> {
        let name = match self.family {
            BertFamily::Bert => return Ok(()),
            BertFamily::Roberta => "roberta",
            BertFamily::DistilBert => "distilbert",
        };
        Err(validate::refuse("family", &name, "must be bert: the others have no next-sentence head"))
    }
}

/// A model whose encoder, at `bert`, is zero and to be replaced and whose head is initialised.
pub(crate) fn with_new_head<M: Module>(model: M, seed: u64) -> M {
    let rule = |path: &str| if path.starts_with("bert.") { Init::Constant(0.0) } else { published(path) };
    initialise(model, seed, |path, _| rule(path))
}

/// BERT with a masked-language-model head.
#[derive(Module, Debug)]
pub struct BertForMaskedLm {
    /// The encoder.
    pub bert: Bert,
    /// The head, whose decoder is the encoder's token embedding.
    pub head: MlmHead,
}

impl BertForMaskedLm {
    pub(crate) fn new(config: &BertConfig, device: &Device) -> Self {
        Self { bert: Bert::new(config, device), head: MlmHead::new(config, device) }
    }

    /// The same model with another probability of dropout.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`] when it is not at least 0 and below 1.
    pub fn with_dropout(self, dropout: f64) -> Result<Self, ModelError> {
        Ok(Self { bert: self.bert.with_dropout(dropout)?, ..self })
    }

    /// The logits of the token at every position.
    ///
    /// # Shapes
    ///
    /// As [`Bert::forward`]; result: `[batch, seq, vocab_size]`
    ///
    /// # Panics
    ///
    /// As [`Bert::forward`].
    pub fn forward(
        &self,
        input_ids: Tensor<2, Int>,
        token_type_ids: Option<Tensor<2, Int>>,
        mask: &AttentionMask,
        context: &Context,
    ) -> Tensor<3> {
        self.logits(self.bert.forward(input_ids, token_type_ids, mask, context), context)
    }

    /// [`forward`](Self::forward) at some positions only, for training on the masked tokens: the product with the vocabulary,
    /// which costs as much as several blocks, is computed for these alone.
    ///
    /// # Shapes
    ///
    /// - `positions`: `[positions]`, each the index `row · seq + column` of a token
    /// - result: `[positions, vocab_size]`, still to be computed
    ///
    /// # Panics
    ///
    /// As [`Bert::forward`].
    pub fn forward_at(
        &self,
        input_ids: Tensor<2, Int>,
        token_type_ids: Option<Tensor<2, Int>>,
        mask: &AttentionMask,
        positions: Tensor<1, Int>,
        context: &Context,
    ) -> LinearLogits {
        let hidden = self.bert.forward(input_ids, token_type_ids, mask, context);
        self.head.linear_logits(rows(hidden, positions), &self.bert.token_embedding, context)
    }

    /// The head alone.
    ///
    /// # Shapes
    ///
    /// `[..., hidden_size]` to `[..., vocab_size]`
    pub fn logits<const D: usize>(&self, hidden: Tensor<D>, context: &Context) -> Tensor<D> {
        self.head.forward(hidden, &self.bert.token_embedding, context)
    }
}

/// The vectors at `positions`, counted through all rows.
fn rows(hidden: Tensor<3>, positions: Tensor<1, Int>) -> Tensor<2> {
    hidden.flatten::<2>(0, 1).select(0, positions)
}

/// The masked-language-model head: `norm(activation(transform(x)))` against every token of the vocabulary.
#[derive(Module, Debug)]
pub struct MlmHead {
    /// `[hidden_size, hidden_size]`
    pub transform: Linear,
    /// After the nonlinearity.
    pub norm: LayerNorm,
    /// `[vocab_size]`
    pub bias: Param<Tensor<1>>,
    #[module(skip)]
    activation: Activation,
}

impl MlmHead {
    fn new(config: &BertConfig, device: &Device) -> Self {
        let hidden_size = config.hidden_size;
        let activation = match config.family {
            BertFamily::Bert | BertFamily::DistilBert => config.activation,
            // Its reference implementation has no other here.
            BertFamily::Roberta => Activation::Gelu,
        };
        Self {
            transform: Linear::new(hidden_size, hidden_size, true, device),
            norm: LayerNorm::new(hidden_size, true, config.norm_eps, device),
            bias: constant([config.vocab_size], 0.0, device),
            activation,
        }
    }

    /// The logits of every token, whose vectors are in `embedding`.
    ///
    /// # Shapes
    ///
    /// `[..., hidden_size]` to `[..., vocab_size]`
    pub fn forward<const D: usize>(&self, hidden: Tensor<D>, embedding: &Embedding, context: &Context) -> Tensor<D> {
        embedding.logits(self.transformed(hidden, context), Some(self.bias.val()), context)
    }

    /// [`forward`](Self::forward) whose last product is still to be computed, for a loss.
    ///
    /// # Shapes
    ///
    /// `[rows, hidden_size]` to `[rows, vocab_size]`
    pub fn linear_logits(&self, hidden: Tensor<2>, embedding: &Embedding, context: &Context) -> LinearLogits {
        embedding.linear_logits(self.transformed(hidden, context), Some(self.bias.val()))
    }

    fn transformed<const D: usize>(&self, hidden: Tensor<D>, context: &Context) -> Tensor<D> {
        self.norm.forward(self.activation.apply(self.transform.forward(hidden, context)))
    }
}

/// BERT with both heads of its pre-training (Devlin et al. 2019, section 3.1).
#[derive(Module, Debug)]
pub struct BertForPreTraining {
    /// The encoder.
    pub bert: Bert,
    /// `[hidden_size, hidden_size]`, with tanh, from the first token to what stands for the sequence.
    pub pooler: Linear,
    /// Of masked tokens; its decoder is the encoder's token embedding.
    pub head: MlmHead,
    /// `[hidden_size, 2]`: class 0 is that the second sentence follows the first, class 1 that it was drawn at random.
    pub next_sentence: Linear,
}

impl BertForPreTraining {
    pub(crate) fn new(config: &BertConfig, device: &Device) -> Self {
        Self {
            bert: Bert::new(config, device),
            pooler: Linear::new(config.hidden_size, config.hidden_size, true, device),
            head: MlmHead::new(config, device),
            next_sentence: Linear::new(config.hidden_size, 2, true, device),
        }
    }

    /// The same model with another probability of dropout.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`] when it is not at least 0 and below 1.
    pub fn with_dropout(self, dropout: f64) -> Result<Self, ModelError> {
        Ok(Self { bert: self.bert.with_dropout(dropout)?, ..self })
    }

    /// The logits of the tokens at `positions`, still to be computed, and those of the next-sentence classes.
    ///
    /// # Shapes
    ///
    /// As [`BertForMaskedLm::forward_at`]; results: `[positions, vocab_size]` and `[batch, 2]`
    ///
    /// # Panics
    ///
    /// As [`Bert::forward`].
    pub fn forward_at(
        &self,
        input_ids: Tensor<2, Int>,
        token_type_ids: Option<Tensor<2, Int>>,
        mask: &AttentionMask,
        positions: Tensor<1, Int>,
        context: &Context,
    ) -> (LinearLogits, Tensor<2>) {
        let hidden = self.bert.forward(input_ids, token_type_ids, mask, context);
        let pooled = self.pooler.forward(first_token(hidden.clone()), context).tanh();
        let tokens = self.head.linear_logits(rows(hidden, positions), &self.bert.token_embedding, context);
        (tokens, self.next_sentence.forward(pooled, context))
    }
}

/// `[batch, seq, hidden_size]` to `[batch, hidden_size]`.
pub(super) fn first_token(hidden: Tensor<3>) -> Tensor<2> {
    hidden.narrow(1, 0, 1).squeeze_dim(1)
}
