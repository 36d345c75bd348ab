//! Metrics that need more than sums: an evaluation folds the output of each example into counts or moments and keeps no logits.

use std::{collections::BTreeMap, fmt};

mod confusion;
mod correlation;

pub use confusion::Confusion;
pub use correlation::Correlation;

/// A metric of classification or regression, named as in `metrics.jsonl`; for all of them more is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ScoreKind {
    /// `accuracy`: the share of examples whose class is predicted.
    Accuracy,
    /// `f1`: the harmonic mean of precision and recall of class 1 of two; 0 where class 1 is neither a label nor predicted.
    F1,
    /// `matthews`: Matthews' correlation coefficient, for any number of classes (Gorodkin, 2004); 0 where the labels or the
    /// predictions are all of one class, as scikit-learn has it.
    Matthews,
    /// `pearson`: the linear correlation of predictions and labels; 0 where either are all equal. SciPy gives NaN there, which
    /// neither JSON nor the choice of a best model can hold; a model that says the same of every example tells nothing, as with
    /// Matthews' coefficient.
    Pearson,
    /// `spearman`: Pearson's correlation of the ranks, equal values sharing the mean of their ranks; 0 as for `pearson`.
    Spearman,
}

impl ScoreKind {
    /// Its name in configs and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Accuracy => "accuracy",
            Self::F1 => "f1",
            Self::Matthews => "matthews",
            Self::Pearson => "pearson",
            Self::Spearman => "spearman",
        }
    }
}

impl fmt::Display for ScoreKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What an evaluation has seen so far, for any of the metrics that fit its labels.
#[derive(Clone, Debug, PartialEq)]
pub enum Scores {
    /// Of classes.
    Classes(Confusion),
    /// Of numbers.
    Regression(Correlation),
}

impl Scores {
    /// Nothing yet of `classes` classes.
    pub fn classes(classes: usize) -> Self {
        Self::Classes(Confusion::new(classes))
    }

    /// Nothing yet of a regression.
    pub fn regression() -> Self {
        Self::Regression(Correlation::default())
    }

    /// Adds examples: the predicted classes (the largest logit's place) or numbers, and the labels.
    ///
    /// # Panics
    ///
    /// If there are not as many labels as predictions, or a class is not one of those announced: labels that a test set keeps secret
    /// can't be scored.
    pub fn add<T: Into<f64> + Copy>(&mut self, predictions: &[T], labels: &[T]) {
        assert_eq!(predictions.len(), labels.len(), "predictions and labels");
        for (&prediction, &label) in predictions.iter().zip(labels) {
            match self {
                Self::Classes(confusion) => {
                    let (predicted, label) = (confusion.class(prediction.into()), confusion.class(label.into()));
                    confusion.add(predicted, label);
                }
                Self::Regression(correlation) => correlation.add(prediction.into(), label.into()),
            }
        }
    }

    /// The number of examples.
    pub fn count(&self) -> u64 {
        match self {
            Self::Classes(confusion) => confusion.count(),
            Self::Regression(correlation) => correlation.count(),
        }
    }

    /// The metrics that fit: of two classes `accuracy`, `f1` and `matthews`, of more the first and the last, of numbers the others.
    pub fn kinds(&self) -> &'static [ScoreKind] {
        match self {
            Self::Classes(confusion) if confusion.classes() == 2 => {
                &[ScoreKind::Accuracy, ScoreKind::F1, ScoreKind::Matthews]
            }
            Self::Classes(_) => &[ScoreKind::Accuracy, ScoreKind::Matthews],
            Self::Regression(_) => &[ScoreKind::Pearson, ScoreKind::Spearman],
        }
    }

    /// The values of these metrics by name; NaN without an example.
    ///
    /// # Panics
    ///
    /// If a metric is not among [`kinds`](Self::kinds).
    pub fn values(&self, kinds: &[ScoreKind]) -> BTreeMap<String, f64> {
        kinds.iter().map(|&kind| (kind.name().to_owned(), self.value(kind))).collect()
    }

    fn value(&self, kind: ScoreKind) -> f64 {
        assert!(self.kinds().contains(&kind), "{kind} does not fit these labels");
        match (self, kind) {
            _ if self.count() == 0 => f64::NAN,
            (Self::Classes(confusion), ScoreKind::Accuracy) => confusion.accuracy(),
            (Self::Classes(confusion), ScoreKind::F1) => confusion.f1(1),
            (Self::Classes(confusion), _) => confusion.matthews(),
            (Self::Regression(correlation), ScoreKind::Pearson) => correlation.pearson(),
            (Self::Regression(correlation), _) => correlation.spearman(),
        }
    }
}

#[cfg(test)]
mod tests;
