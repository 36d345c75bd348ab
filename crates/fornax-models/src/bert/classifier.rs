use std::collections::BTreeSet;

use burn::{
    module::Module,
    tensor::{Device, Int, Tensor},
};
use fornax_nn::{Activation, Linear, initialise};
use fornax_ops::{AttentionMask, Context, dropout};

use super::{Bert, BertConfig, BertFamily, Pooling, heads::first_token, mean_pool, published};
use crate::ModelError;

impl BertConfig {
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

    /// The same model with other probabilities of dropout; that of the head is the encoder's where it has none of its own.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`] when one is not at least 0 and below 1.
    pub fn with_dropout(self, dropout: f64, classifier_dropout: Option<f64>) -> Result<Self, ModelError> {
        let mut bert = self.bert;
        bert.config.classifier_dropout = classifier_dropout;
        let bert = bert.with_dropout(dropout)?;
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
