use burn::tensor::Tensor;

/// What a model says of the token after one target so far.
pub(super) struct NextLogits<'a> {
    /// One a token, all finite.
    pub(super) logits: &'a mut [f32],
    /// What is taken from a logit to make it a log-probability: `ln Σ exp(logit)`.
    pub(super) log_total: f64,
}

/// The logits of all rows of a step, on the host.
pub(super) struct Step {
    logits: Vec<f32>,
    log_totals: Vec<f32>,
    vocab_size: usize,
}

impl Step {
    /// Reads the logits, `[rows, vocab]`; their totals are made where they are, as exponentials of a vocabulary for each
    /// beam are slow on the host.
    pub(super) fn read(logits: Tensor<2>) -> Self {
        let vocab_size = logits.dims()[1];
        let largest = logits.clone().max_dim(1);
        let log_totals = (logits.clone() - largest.clone()).exp().sum_dim(1).log() + largest;
        Self { logits: floats(logits), log_totals: floats(log_totals), vocab_size }
    }

    /// The first row with a logit that is infinite or no number.
    pub(super) fn first_not_finite(&self) -> Option<usize> {
        self.logits.chunks_exact(self.vocab_size).position(|row| row.iter().any(|x| !x.is_finite()))
    }

    pub(super) fn rows(&mut self) -> Vec<NextLogits<'_>> {
        let rows = self.logits.chunks_exact_mut(self.vocab_size).zip(&self.log_totals);
        rows.map(|(logits, log_total)| NextLogits { logits, log_total: f64::from(*log_total) }).collect()
    }
}

fn floats(tensor: Tensor<2>) -> Vec<f32> {
    let data = tensor.into_data();
    // Number by number only where a backend computes in another type.
    data.try_to_vec::<f32>().unwrap_or_else(|_| data.iter::<f32>().collect())
}
