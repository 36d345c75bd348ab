use burn::tensor::{Device, Int, Tensor};
use fornax_nn::{KeysAndValues, KvCache};
use fornax_ops::Context;

use super::T5;
use crate::generate::Seq2SeqLm;

/// What a [`T5`] knows while it writes: of each decoder block, keys and values of the source, made once, and of the target so
/// far.
#[derive(Clone, Debug)]
pub struct T5State {
    source: Vec<KeysAndValues>,
    /// `[batch]`, the tokens of each source
    lengths: Tensor<1, Int>,
    target: Vec<KvCache>,
}

impl Seq2SeqLm for T5 {
    type State = T5State;

    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn max_source_positions(&self) -> Option<usize> {
        None
    }

    fn max_target_positions(&self) -> Option<usize> {
        None
    }

    fn device(&self) -> Device {
        self.token_embedding.weight.device()
    }

    fn encode(
        &self,
        input_ids: Tensor<2, Int>,
        lengths: Tensor<1, Int>,
        capacity: usize,
        context: &Context,
    ) -> T5State {
        let encoded = T5::encode(self, input_ids, lengths.clone(), context);
        T5State {
            source: self.decoder.keys_and_values(&encoded, &context.child(1)),
            lengths,
            target: vec![KvCache::new(capacity); self.decoder.blocks.len()],
        }
    }

    fn select(&self, state: &mut T5State, rows: &Tensor<1, Int>) {
        for (key, value) in &mut state.source {
            *key = key.clone().select(0, rows.clone());
            *value = value.clone().select(0, rows.clone());
        }
        state.lengths = state.lengths.clone().select(0, rows.clone());
        state.target.iter_mut().for_each(|cache| cache.select(rows));
    }

    fn reorder(&self, state: &mut T5State, rows: &Tensor<1, Int>) {
        state.target.iter_mut().for_each(|cache| cache.select(rows));
    }

    fn next_logits(&self, decoder_input_ids: Tensor<2, Int>, state: &mut T5State, context: &Context) -> Tensor<2> {
        let last = decoder_input_ids.dims()[1] - 1;
        let embedded = self.token_embedding.forward(decoder_input_ids);
        let lengths = state.lengths.clone();
        let (source, target, context_of_decoder) = (&state.source, &mut state.target, &context.child(1));
        let hidden = self.decoder.forward_cached(embedded, source, lengths, target, context_of_decoder);
        self.logits(hidden.narrow(1, last, 1), context).squeeze_dim(1)
    }
}
