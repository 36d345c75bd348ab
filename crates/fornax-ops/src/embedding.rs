use burn::tensor::{Int, Tensor, module};

/// The rows of `weight` that `ids` name.
///
/// # Shapes
///
/// - `weight`: `[vocab_size, hidden_size]`
/// - `ids`: `[batch, seq]`, each in `0..vocab_size`
/// - result: `[batch, seq, hidden_size]`
///
/// # Panics
///
/// On some backends, when an id is out of range; on others the result is undefined, so ids are checked on the host where
/// they enter.
pub fn embedding(weight: Tensor<2>, ids: Tensor<2, Int>) -> Tensor<3> {
    module::embedding(weight, ids)
}
