use burn::tensor::{Device, Int, Tensor};
use fornax_nn::{KeysAndValues, KvCache};
use fornax_ops::{AttentionMask, Context};

use super::Transformer;
use crate::generate::Seq2SeqLm;

/// What a [`Transformer`] keeps of a batch while it writes.
#[derive(Clone, Debug)]
pub struct TransformerState {
    /// `[batch]`, the tokens of each source
    pub(super) lengths: Tensor<1, Int>,
    /// With padding.
    pub(super) source_len: usize,
    /// One for each block of the decoder.
    pub(super) layers: Vec<LayerState>,
}

/// What one block of the decoder keeps.
#[derive(Clone, Debug)]
pub(super) struct LayerState {
    /// Of the target so far.
    pub(super) seen: KvCache,
    /// Of the source.
    pub(super) source: KeysAndValues,
}

impl Seq2SeqLm for Transformer {
    type State = TransformerState;

    fn vocab_size(&self) -> usize {
        self.config.target_vocab_size
    }

    fn source_vocab_size(&self) -> usize {
        self.config.source_vocab_size
    }

    fn max_source_positions(&self) -> Option<usize> {
        Some(self.config.max_positions)
    }

    fn max_target_positions(&self) -> Option<usize> {
        Some(self.config.max_positions)
    }

    fn device(&self) -> Device {
        self.source_embedding.weight.device()
    }

    fn encode(
        &self,
        input_ids: Tensor<2, Int>,
        lengths: Tensor<1, Int>,
        capacity: usize,
        context: &Context,
    ) -> TransformerState {
        let [_, source_len] = input_ids.dims();
        let source = self.source_hidden(input_ids, &AttentionMask::KeyLengths(lengths.clone()), &context.child(0));
        let layer = |block: &super::DecoderBlock| LayerState {
            seen: KvCache::new(capacity),
            source: block.cross_attention.keys_and_values(source.clone(), context),
        };
        TransformerState { lengths, source_len, layers: self.decoder.iter().map(layer).collect() }
    }

    fn select(&self, state: &mut TransformerState, rows: &Tensor<1, Int>) {
        state.lengths = state.lengths.clone().select(0, rows.clone());
        for LayerState { seen, source: (key, value) } in &mut state.layers {
            seen.select(rows);
            *key = key.clone().select(0, rows.clone());
            *value = value.clone().select(0, rows.clone());
        }
    }

    fn reorder(&self, state: &mut TransformerState, rows: &Tensor<1, Int>) {
        state.layers.iter_mut().for_each(|layer| layer.seen.select(rows));
    }

    fn next_logits(
        &self,
        decoder_input_ids: Tensor<2, Int>,
        state: &mut TransformerState,
        context: &Context,
    ) -> Tensor<2> {
        let last = decoder_input_ids.dims()[1] - 1;
        let hidden = self.hidden_cached(decoder_input_ids, state, &context.child(1));
        self.logits(hidden.narrow(1, last, 1), context).squeeze_dim(1)
    }
}
