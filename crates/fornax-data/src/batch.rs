/// The target of a position that is not counted in the loss, as in Hugging Face and PyTorch.
pub const IGNORE_TARGET: i32 = -100;

/// A batch of equally long token sequences with a target for each position, on the host, row by row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenBatch {
    /// Token ids, `[batch, seq_len]`.
    pub input_ids: Vec<i32>,
    /// For each position the id to predict, or [`IGNORE_TARGET`]; `[batch, seq_len]`.
    pub targets: Vec<i32>,
    /// Rows.
    pub batch: usize,
    /// Positions a row.
    pub seq_len: usize,
    /// The example number of each row, for messages.
    pub examples: Vec<u64>,
}

impl TokenBatch {
    /// Positions that count in the loss: its denominator.
    pub fn target_count(&self) -> usize {
        self.targets.iter().filter(|&&target| target != IGNORE_TARGET).count()
    }

    /// Positions that run through the model, padding included.
    pub fn token_count(&self) -> usize {
        self.input_ids.len()
    }
}
