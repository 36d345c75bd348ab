use burn::tensor::Tensor;
use fornax_ops::Context;

/// One named term of a loss.
#[derive(Clone, Debug)]
pub struct Term {
    /// Its name in logs and in [`BatchSize::counts`].
    pub name: &'static str,
    /// The sum over the targets of the micro-batch, not their mean; shape `[1]`, on the device.
    pub sum: Tensor<1>,
    /// What the term's mean is multiplied by in the total loss.
    pub weight: f64,
}

/// What a task computes from one micro-batch. Nothing here is read by the host before a log is due.
#[derive(Clone, Debug)]
pub struct Sums {
    /// The terms of the loss; the first one's targets are those that metrics are divided by.
    pub terms: Vec<Term>,
    /// Further sums, shape `[1]`, which need no gradient, divided by the targets of the first term: `correct` becomes `accuracy`,
    /// `TERM_correct` becomes `TERM_accuracy` over the targets of that term, any other keeps its name. `nll`, the loss of labels
    /// as they are where the task smooths them, is logged in training too, for a comparison with the evaluation.
    pub metrics: Vec<(&'static str, Tensor<1>)>,
    /// A number for each example, shape `[examples]`, which need no gradient: the class or the score that is predicted. For
    /// [`evaluate_examples`](crate::evaluate_examples), where a metric is no mean of sums.
    pub predictions: Option<Tensor<1>>,
}

/// What the host knows of a micro-batch before the model has seen it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BatchSize {
    /// The number of targets of each term, by its name.
    pub counts: Vec<(&'static str, usize)>,
    /// Tokens read, padding left out.
    pub tokens: usize,
}

/// An objective: the only thing that a researcher writes to train a model on something else.
///
/// The loss is given as sums because a mean can't be taken of a part: the learner divides each sum by the targets of
/// the whole step before it differentiates, so that accumulation over micro-batches equals the large batch.
pub trait Task<M> {
    /// A micro-batch on the host.
    type Batch: Send;

    /// Targets and tokens of `batch`.
    fn size(&self, batch: &Self::Batch) -> BatchSize;

    /// Which examples `batch` is made of, for error messages: `examples 17, 4, 90`.
    fn describe(&self, batch: &Self::Batch) -> String;

    /// Runs `model` on `batch`.
    ///
    /// # Panics
    ///
    /// May panic when `batch` does not fit `model`: a caller's bug.
    fn loss(&self, model: &M, batch: &Self::Batch, context: &Context) -> Sums;
}
