use std::sync::Arc;

use burn::{
    backend::{TensorMetadata, tensor::FloatTensor},
    tensor::Shape,
};

use super::{Kernels, operation::Operation};
use crate::host::norm::{Centre, Rows, backward};

/// Normalisation of rows; inputs are `x`, what is added to it before, gamma and beta.
#[derive(Clone, Debug)]
pub(super) struct Norm {
    pub(super) centre: Centre,
    pub(super) eps: f32,
}

impl<B: Kernels> Operation<B, 4> for Norm {
    /// `x` with what was added to it, gamma, and mean and inverse deviation of each row.
    type Saved = (FloatTensor<B>, FloatTensor<B>, Arc<[[f32; 2]]>);

    #[allow(clippy::expect_used)]
    fn forward(&self, [x, residual, gamma, beta]: [Option<FloatTensor<B>>; 4]) -> (FloatTensor<B>, Self::Saved) {
        let (x, gamma) = x.zip(gamma).expect("an input and gamma");
        let (x, gamma, beta) = (B::contiguous(x), B::contiguous(gamma), beta.map(B::contiguous));
        let (shape, size) = (x.shape(), gamma.shape().num_elements());
        let mut saved = vec![[0.0; 2]; shape.num_elements() / size.max(1)];
        let (gamma_numbers, beta) = (B::slice(&gamma), beta.as_ref().map(B::slice));
        let rows = Rows { gamma: gamma_numbers, beta, centre: self.centre, eps: self.eps };
        let (output, x) = match residual.map(B::contiguous) {
            None => (B::create(shape, |out| rows.forward(B::slice(&x), out, &mut saved)), x),
            Some(residual) => {
                // The sum takes the memory of `x` where nobody else has it, as is so with a layer's output.
                let mut sum = B::owned(x);
                let output = B::create(shape, |out| {
                    if let Some(sum) = B::slice_mut(&mut sum) {
                        rows.add_forward(sum, B::slice(&residual), out, &mut saved);
                    }
                });
                (output, sum)
            }
        };
        (output, (x, gamma, saved.into()))
    }

    fn backward(
        &self,
        (x, gamma, saved): Self::Saved,
        gradient: FloatTensor<B>,
        [of_x, of_residual, of_gamma, of_beta]: [bool; 4],
    ) -> [Option<FloatTensor<B>>; 4] {
        let gradient = B::contiguous(gradient);
        let mut sums = (Vec::new(), Vec::new());
        let x_gradient = B::create(x.shape(), |out| {
            sums = backward(B::slice(&x), B::slice(&gamma), &saved, self.centre, B::slice(&gradient), out);
        });
        let vector = |sum: &[f32]| B::create(Shape::new([sum.len()]), |out| out.copy_from_slice(sum));
        [
            of_x.then(|| x_gradient.clone()),
            of_residual.then_some(x_gradient),
            of_gamma.then(|| vector(&sums.0)),
            of_beta.then(|| vector(&sums.1)),
        ]
    }
}
