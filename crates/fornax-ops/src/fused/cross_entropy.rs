use std::sync::Arc;

use burn::{
    backend::{TensorMetadata, tensor::FloatTensor},
    tensor::Shape,
};

use super::{Kernels, operation::Operation};
use crate::host::cross_entropy::{backward, forward};

/// The sums of a cross-entropy, `[4]`: loss, negative log-likelihood, count, correct ones.
#[derive(Clone, Debug)]
pub(super) struct CrossEntropySums {
    /// Of each row; `None` is left out.
    pub(super) targets: Arc<[Option<usize>]>,
    pub(super) smoothing: f32,
}

impl<B: Kernels> Operation<B, 1> for CrossEntropySums {
    /// The logits and the logarithm of each row's sum of exponentials.
    type Saved = (FloatTensor<B>, Arc<[f32]>);

    #[allow(clippy::expect_used)]
    fn forward(&self, [logits]: [Option<FloatTensor<B>>; 1]) -> (FloatTensor<B>, Self::Saved) {
        let logits = B::contiguous(logits.expect("logits"));
        let classes = logits.shape()[1];
        let mut log_sums = vec![0.0; self.targets.len()];
        let sums = forward(B::slice(&logits), classes, &self.targets, self.smoothing, &mut log_sums);
        let sums = [sums.loss, sums.negative_log_likelihood, sums.count, sums.correct];
        let output = B::create(Shape::new([4]), |out| {
            out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum as f32);
        });
        (output, (logits, log_sums.into()))
    }

    fn backward(
        &self,
        (logits, log_sums): Self::Saved,
        gradient: FloatTensor<B>,
        _: [bool; 1],
    ) -> [Option<FloatTensor<B>>; 1] {
        let gradient = B::contiguous(gradient);
        let (scale, classes) = (B::slice(&gradient)[0], logits.shape()[1]);
        let mut slope = B::owned(logits);
        if let Some(numbers) = B::slice_mut(&mut slope) {
            backward(numbers, classes, &self.targets, self.smoothing, &log_sums, scale);
        }
        [Some(slope)]
    }
}
