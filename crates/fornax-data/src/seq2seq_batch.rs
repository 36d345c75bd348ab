use crate::IGNORE_TARGET;

/// Sources and the targets to be written to them, on the host, row by row; both are filled up to their longest row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seq2SeqBatch {
    /// What the encoder reads, `[batch, source_len]`.
    pub input_ids: Vec<i32>,
    /// The tokens of each source, `[batch]`; what follows them in the row is padding.
    pub lengths: Vec<i32>,
    /// What the decoder reads: the start token and all of the target but its last token, `[batch, target_len]`.
    pub decoder_input_ids: Vec<i32>,
    /// The token to predict at each position of the decoder, or [`IGNORE_TARGET`] at padding; `[batch, target_len]`.
    pub targets: Vec<i32>,
    /// Rows.
    pub batch: usize,
    /// Positions of the encoder.
    pub source_len: usize,
    /// Positions of the decoder.
    pub target_len: usize,
    /// The example number of each row, for messages.
    pub examples: Vec<u64>,
}

/// The tokens of a batch that are no text of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    /// Fills rows up.
    pub pad_id: i32,
    /// What the decoder reads first.
    pub start_id: i32,
}

impl Seq2SeqBatch {
    /// Puts pairs of source and target side by side. A target stands as the model is to write it, with the token that ends it.
    pub fn collate(pairs: &[(Vec<i32>, Vec<i32>)], examples: Vec<u64>, fill: Fill) -> Self {
        let longest = |lengths: &mut dyn Iterator<Item = usize>| lengths.max().unwrap_or(0);
        let source_len = longest(&mut pairs.iter().map(|(source, _)| source.len()));
        let target_len = longest(&mut pairs.iter().map(|(_, target)| target.len()));
        let row = |ids: &mut dyn Iterator<Item = i32>, len: usize, with: i32| -> Vec<i32> {
            ids.chain(std::iter::repeat(with)).take(len).collect()
        };
        let sources = pairs.iter().flat_map(|(source, _)| row(&mut source.iter().copied(), source_len, fill.pad_id));
        let shifted = pairs.iter().flat_map(|(_, target)| {
            let read = target.split_last().map_or(&[][..], |(_, before)| before);
            row(&mut std::iter::once(fill.start_id).chain(read.iter().copied()), target_len, fill.pad_id)
        });
        let targets = pairs.iter().flat_map(|(_, target)| row(&mut target.iter().copied(), target_len, IGNORE_TARGET));
        Self {
            input_ids: sources.collect(),
            lengths: pairs.iter().map(|(source, _)| source.len() as i32).collect(),
            decoder_input_ids: shifted.collect(),
            targets: targets.collect(),
            batch: pairs.len(),
            source_len,
            target_len,
            examples,
        }
    }

    /// Tokens to predict: the denominator of the loss.
    pub fn target_count(&self) -> usize {
        self.targets.iter().filter(|&&target| target != IGNORE_TARGET).count()
    }

    /// Tokens of sources and targets, padding left out.
    pub fn token_count(&self) -> usize {
        self.lengths.iter().map(|&length| length as usize).sum::<usize>() + self.target_count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_one_later_than_they_are_written() {
        let pairs = [(vec![5, 6, 7], vec![8, 1]), (vec![9], vec![10, 11, 12, 1])];
        let batch = Seq2SeqBatch::collate(&pairs, vec![4, 2], Fill { pad_id: 0, start_id: 3 });
        assert_eq!(batch.input_ids, [5, 6, 7, 9, 0, 0]);
        assert_eq!(batch.lengths, [3, 1]);
        assert_eq!(batch.decoder_input_ids, [3, 8, 0, 0, 3, 10, 11, 12]);
        assert_eq!(batch.targets, [8, 1, IGNORE_TARGET, IGNORE_TARGET, 10, 11, 12, 1]);
        assert_eq!([batch.batch, batch.source_len, batch.target_len], [2, 3, 4]);
        assert_eq!((batch.target_count(), batch.token_count()), (6, 10));
    }
}
