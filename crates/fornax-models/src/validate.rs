//! Checks that the configurations of models share; each names the key of the `[model]` table.

use std::fmt::Display;

use crate::ModelError;

/// The error for a value that describes no model.
pub(crate) fn refuse(key: &'static str, value: &dyn Display, reason: impl Into<String>) -> ModelError {
    ModelError::Config { key, value: value.to_string(), reason: reason.into() }
}

/// Sizes are at least 1.
pub(crate) fn sizes<const N: usize>(sizes: [(&'static str, usize); N]) -> Result<(), ModelError> {
    match sizes.into_iter().find(|(_, size)| *size == 0) {
        Some((key, size)) => Err(refuse(key, &size, "must be at least 1")),
        None => Ok(()),
    }
}

/// The heads share the width.
pub(crate) fn heads(hidden_size: usize, num_heads: usize) -> Result<(), ModelError> {
    match hidden_size.is_multiple_of(num_heads) {
        true => Ok(()),
        false => {
            Err(refuse("hidden_size", &hidden_size, format!("must be a multiple of model.num_heads = {num_heads}")))
        }
    }
}

/// A probability with which something is dropped.
pub(crate) fn dropout(key: &'static str, value: f64) -> Result<(), ModelError> {
    match (0.0..1.0).contains(&value) {
        true => Ok(()),
        false => Err(refuse(key, &value, "must be at least 0 and below 1")),
    }
}

/// What norms add to the variance.
pub(crate) fn norm_eps(value: f64) -> Result<(), ModelError> {
    match value > 0.0 && value.is_finite() {
        true => Ok(()),
        false => Err(refuse("norm_eps", &value, "must be above 0")),
    }
}
