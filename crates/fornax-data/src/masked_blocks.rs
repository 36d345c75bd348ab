use std::sync::Arc;

use crate::DataError;
use crate::blocks::Tail;
use crate::masked_batch::{MaskedBatch, MaskedExamples};
use crate::masking::Masking;
use crate::store::TokenStore;

/// `[CLS]` before and `[SEP]` after the text.
const AROUND: usize = 2;

/// Sequences for masked language modelling: `[CLS]`, the next `seq_len - 2` tokens of a token store, `[SEP]`.
///
/// Blocks lie side by side, so that every token is in one block exactly (with [`Tail::Drop`]: but those of an unfinished last block).
/// Documents follow one another without regard to block borders, separated as the store was built: the FULL-SENTENCES of RoBERTa
/// (Liu et al., 2019), which found it better than sentence pairs.
#[derive(Clone, Debug)]
pub struct MaskedBlocks {
    store: Arc<TokenStore>,
    masking: Masking,
    seq_len: usize,
    len: u64,
}

impl MaskedBlocks {
    /// Blocks of `seq_len` positions. With [`Tail::Pad`] what fills no whole block becomes a last, shorter one; if it has nothing but
    /// separators, it has no target.
    ///
    /// # Errors
    ///
    /// If the store has fewer tokens than one block, or `seq_len` is below 3.
    pub fn new(store: Arc<TokenStore>, masking: Masking, seq_len: usize, tail: Tail) -> Result<Self, DataError> {
        if seq_len <= AROUND {
            return Err(DataError::ConfigValue {
                key: "objective.seq_len",
                value: seq_len.to_string(),
                expected: format!("at least {}: [CLS], a token and [SEP]", AROUND + 1),
            });
        }
        let body = (seq_len - AROUND) as u64;
        let len = match tail {
            Tail::Drop => store.len() / body,
            Tail::Pad => store.len().div_ceil(body),
        };
        if len == 0 {
            return Err(DataError::CorpusTooShort {
                corpus: store.manifest().source.clone(),
                tokens: store.len(),
                needed: body,
                seq_len,
            });
        }
        Ok(Self { store, masking, seq_len, len })
    }
}

impl MaskedExamples for MaskedBlocks {
    fn example_count(&self) -> u64 {
        self.len
    }

    fn batch(&self, examples: &[u64], epoch: Option<u64>) -> MaskedBatch {
        let body = self.seq_len - AROUND;
        let mut batch = MaskedBatch::empty(self.seq_len);
        for &example in examples {
            assert!(example < self.len, "block {example} of {}", self.len);
            let start = example * body as u64;
            let present = (self.store.len() - start).min(body as u64) as usize;
            let mut ids = vec![0; present + AROUND];
            ids[0] = self.masking.cls_id();
            self.store.read(start, &mut ids[1..=present]);
            ids[present + 1] = self.masking.sep_id();
            let end = ids.len();
            batch.push(ids, end, &self.masking, epoch, example);
        }
        batch
    }
}
