/// What can go wrong when texts are scored.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum MetricError {
    /// A text came without anything to compare it with.
    #[error("{metric}: text {number} has no reference; give at least one, or leave the text out")]
    NoReferences {
        /// The metric.
        metric: &'static str,
        /// The text, counted from 1.
        number: u64,
    },
    /// There was nothing to score.
    #[error("{metric}: there is no text to score; give at least one")]
    NoTexts {
        /// The metric.
        metric: &'static str,
    },
    /// A setting that makes no sense.
    #[error("{metric}: {option} is {value}; expected {expected}")]
    Option {
        /// The metric.
        metric: &'static str,
        /// The setting.
        option: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        expected: &'static str,
    },
}

/// Counts a text, and refuses one without references.
pub(crate) fn count_text<S>(metric: &'static str, texts: &mut u64, references: &[S]) -> Result<(), MetricError> {
    if references.is_empty() {
        return Err(MetricError::NoReferences { metric, number: *texts + 1 });
    }
    *texts += 1;
    Ok(())
}

/// Refuses to finish without texts.
pub(crate) fn check_texts(metric: &'static str, texts: u64) -> Result<(), MetricError> {
    if texts == 0 { Err(MetricError::NoTexts { metric }) } else { Ok(()) }
}
