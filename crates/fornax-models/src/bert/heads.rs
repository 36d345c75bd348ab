use std::collections::BTreeSet;

use burn::{
    module::{Module, Param},
    tensor::{Device, Int, Tensor},
};
use fornax_nn::{Activation, Embedding, Init, LayerNorm, Linear, constant, initialise};
use fornax_ops::{AttentionMask, Context, dropout};

use super::{Bert, BertConfig, BertFamily, Pooling, mean_pool, published};
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

    /// A new sequence classifier, initialised as [`init`](Self::init) says.
    ///
    /// # Errors
    ///
    /// As [`validate`](Self::validate) and [`ClassifierConfig::validate`].
    pub fn init_sequence_classification(
        &self,
        classifier: &ClassifierConfig,
        seed: u64,
        device: &Device,
    ) -> Result<BertForSequenceClassification, ModelError> {
        self.validate()?;
        classifier.validate()?;
        let model = BertForSequenceClassification::new(self, classifier, device);
        Ok(initialise(model, seed, |path, _| published(path)))
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
    /// - result: `[positions, vocab_size]`
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
    ) -> Tensor<2> {
        let hidden = self.bert.forward(input_ids, token_type_ids, mask, context);
        self.logits(rows(hidden, positions), context)
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
        let transformed = self.activation.apply(self.transform.forward(hidden, context));
        embedding.logits(self.norm.forward(transformed), Some(self.bias.val()), context)
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

    /// The logits of the tokens at `positions` and those of the next-sentence classes.
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
    ) -> (Tensor<2>, Tensor<2>) {
        let hidden = self.bert.forward(input_ids, token_type_ids, mask, context);
        let pooled = self.pooler.forward(first_token(hidden.clone()), context).tanh();
        let tokens = self.head.forward(rows(hidden, positions), &self.bert.token_embedding, context);
        (tokens, self.next_sentence.forward(pooled, context))
    }
}

/// `[batch, seq, hidden_size]` to `[batch, hidden_size]`.
fn first_token(hidden: Tensor<3>) -> Tensor<2> {
    hidden.narrow(1, 0, 1).squeeze_dim(1)
}

/// What a sequence classifier tells apart, and by what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassifierConfig {
    /// The names of the classes; a single one stands for regression.
    pub labels: Vec<String>,
    /// What the head sees.
    pub pooling: Pooling,
}

impl ClassifierConfig {
    /// Classes without names of their own: `LABEL_0`, `LABEL_1`, ..., as `transformers` calls them.
    pub fn numbered(num_labels: usize, pooling: Pooling) -> Self {
        Self { labels: (0..num_labels).map(|i| format!("LABEL_{i}")).collect(), pooling }
    }

    /// Whether the model gives a number instead of classes.
    pub fn is_regression(&self) -> bool {
        self.labels.len() == 1
    }

    /// Whether there are classes, each with its own name.
    ///
    /// # Errors
    ///
    /// [`ModelError::Labels`] if not.
    pub fn validate(&self) -> Result<(), ModelError> {
        if self.labels.is_empty() {
            return Err(ModelError::Labels { reason: "there is none; regression has one".to_owned() });
        }
        let mut seen = BTreeSet::new();
        match self.labels.iter().find(|label| !seen.insert(*label)) {
            Some(label) => Err(ModelError::Labels { reason: format!("`{label}` is there twice") }),
            None => Ok(()),
        }
    }
}

/// BERT with a head that classifies sequences, or gives them a number.
#[derive(Module, Debug)]
pub struct BertForSequenceClassification {
    /// The encoder.
    pub bert: Bert,
    /// From its vectors to classes.
    pub head: ClassificationHead,
}

impl BertForSequenceClassification {
    pub(crate) fn new(config: &BertConfig, classifier: &ClassifierConfig, device: &Device) -> Self {
        Self { bert: Bert::new(config, device), head: ClassificationHead::new(config, classifier, device) }
    }

    /// What the head was made with.
    pub fn classifier(&self) -> &ClassifierConfig {
        &self.head.config
    }

    /// The same model with another probability of dropout; that of the head changes with it unless it has its own.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`] when it is not at least 0 and below 1.
    pub fn with_dropout(self, dropout: f64) -> Result<Self, ModelError> {
        let bert = self.bert.with_dropout(dropout)?;
        let head = ClassificationHead { dropout: bert.config.classifier_dropout(), ..self.head };
        Ok(Self { bert, head })
    }

    /// The logits of the classes, or the number that a regression gives.
    ///
    /// # Shapes
    ///
    /// As [`Bert::forward`]; result: `[batch, num_labels]`
    ///
    /// # Panics
    ///
    /// As [`Bert::forward`] and, with mean pooling, [`mean_pool`].
    pub fn forward(
        &self,
        input_ids: Tensor<2, Int>,
        token_type_ids: Option<Tensor<2, Int>>,
        mask: &AttentionMask,
        context: &Context,
    ) -> Tensor<2> {
        let hidden = self.bert.forward(input_ids, token_type_ids, mask, &context.child(0));
        self.head.forward(hidden, mask, &context.child(1))
    }
}

/// The head of a [`BertForSequenceClassification`], built as its family builds it.
#[derive(Module, Debug)]
pub struct ClassificationHead {
    /// `[hidden_size, hidden_size]`; none with mean pooling.
    pub dense: Option<Linear>,
    /// `[hidden_size, num_labels]`
    pub classifier: Linear,
    #[module(skip)]
    family: BertFamily,
    #[module(skip)]
    config: ClassifierConfig,
    dropout: f64,
}

impl ClassificationHead {
    fn new(config: &BertConfig, classifier: &ClassifierConfig, device: &Device) -> Self {
        let hidden_size = config.hidden_size;
        Self {
            dense: match classifier.pooling {
                Pooling::Cls => Some(Linear::new(hidden_size, hidden_size, true, device)),
                Pooling::Mean => None,
            },
            classifier: Linear::new(hidden_size, classifier.labels.len(), true, device),
            family: config.family,
            config: classifier.clone(),
            dropout: config.classifier_dropout(),
        }
    }

    fn forward(&self, hidden: Tensor<3>, mask: &AttentionMask, context: &Context) -> Tensor<2> {
        let drop = |x: Tensor<2>, site: u64| dropout(x, self.dropout, &context.child(site));
        let pooled = match &self.dense {
            None => mean_pool(hidden, mask),
            Some(dense) => {
                let first = first_token(hidden);
                let (first, activation) = match self.family {
                    BertFamily::Bert => (first, Activation::Tanh),
                    BertFamily::Roberta => (drop(first, 0), Activation::Tanh),
                    BertFamily::DistilBert => (first, Activation::Relu),
                };
                activation.apply(dense.forward(first, context))
            }
        };
        self.classifier.forward(drop(pooled, 1), context)
    }
}
