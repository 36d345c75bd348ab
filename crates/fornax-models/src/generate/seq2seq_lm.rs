use burn::tensor::{Device, Int, Tensor};
use fornax_ops::Context;

/// An encoder and a decoder that writes a target, token by token, to a source that was read once.
pub trait Seq2SeqLm {
    /// What the decoder reads of the sources, and the keys and values of the target tokens seen so far.
    type State;

    /// The number of the target's tokens; ids are below it.
    fn vocab_size(&self) -> usize;

    /// The number of the source's tokens: as many as the target's, unless a model has two vocabularies.
    fn source_vocab_size(&self) -> usize {
        self.vocab_size()
    }

    /// The longest source; none where positions are relative.
    fn max_source_positions(&self) -> Option<usize>;

    /// The longest target, its start token included; none where positions are relative.
    fn max_target_positions(&self) -> Option<usize>;

    /// Where the weights are.
    fn device(&self) -> Device;

    /// Runs the encoder; the state then has seen no target token.
    ///
    /// # Shapes
    ///
    /// - `input_ids`: `[batch, source_len]`
    /// - `lengths`: `[batch]`, the tokens of each source; what follows them is padding
    /// - `capacity`: target tokens a row that the state must have room for, its start token included
    fn encode(
        &self,
        input_ids: Tensor<2, Int>,
        lengths: Tensor<1, Int>,
        capacity: usize,
        context: &Context,
    ) -> Self::State;

    /// Row `i` of the state becomes what row `rows[i]` was: the same source, the same target so far.
    ///
    /// # Shapes
    ///
    /// - `rows`: `[new_batch]`, each below the number of rows
    fn select(&self, state: &mut Self::State, rows: &Tensor<1, Int>);

    /// As [`select`](Self::select), when there are as many rows as before and row `i` and row `rows[i]` have the same source:
    /// beams that go on from other beams. What a model keeps of the sources can then stay where it is.
    ///
    /// # Shapes
    ///
    /// - `rows`: `[batch]`, each below the number of rows
    fn reorder(&self, state: &mut Self::State, rows: &Tensor<1, Int>) {
        self.select(state, rows);
    }

    /// Appends target tokens to every row and predicts what follows the last one. All rows have seen equally many.
    ///
    /// # Shapes
    ///
    /// - `decoder_input_ids`: `[batch, new]`
    /// - returns logits `[batch, vocab]` of the last column
    fn next_logits(&self, decoder_input_ids: Tensor<2, Int>, state: &mut Self::State, context: &Context) -> Tensor<2>;
}
