use burn::tensor::{Device, Int, Tensor};
use fornax_ops::{AttentionMask, Context};

/// A decoder that predicts the next token of a sequence: what [`generate`](super::generate) needs of a model.
pub trait CausalLm {
    /// Keys and values of the tokens seen so far.
    type Cache;

    /// The number of tokens; ids are below it.
    fn vocab_size(&self) -> usize;

    /// The longest sequence that the model takes.
    fn max_positions(&self) -> usize;

    /// Where the weights are.
    fn device(&self) -> Device;

    /// A cache without tokens.
    fn new_cache(&self) -> Self::Cache;

    /// Appends tokens to the cache and predicts what follows the last one.
    ///
    /// # Shapes
    ///
    /// - `input_ids`, `positions`: `[batch, seq]`, the new tokens and where each stands in its row.
    /// - `mask`: over the new tokens as queries and all cached tokens, the new ones included, as keys.
    /// - returns logits `[batch, vocab]` of the last column.
    fn next_logits(
        &self,
        input_ids: Tensor<2, Int>,
        positions: Tensor<2, Int>,
        mask: &AttentionMask,
        cache: &mut Self::Cache,
        context: &Context,
    ) -> Tensor<2>;
}
