use std::sync::Arc;

use burn::{
    backend::{TensorMetadata, tensor::FloatTensor},
    tensor::Shape,
};

use super::{Kernels, operation::Operation};
use crate::host::norm::{Centre, backward, forward};

/// Normalisation of rows; inputs are `x`, gamma and beta.
#[derive(Clone, Debug)]
pub(super) struct Norm {
    pub(super) centre: Centre,
    pub(super) eps: f32,
}

impl<B: Kernels> Operation<B, 3> for Norm {
    /// `x`, gamma, and mean and inverse deviation of each row.
    type Saved = (FloatTensor<B>, FloatTensor<B>, Arc<[[f32; 2]]>);

    #[allow(clippy::expect_used)]
    fn forward(&self, [x, gamma, beta]: [Option<FloatTensor<B>>; 3]) -> (FloatTensor<B>, Self::Saved) {
        let (x, gamma) = x.zip(gamma).expect("an input and gamma");
        let (x, gamma, beta) = (B::contiguous(x), B::contiguous(gamma), beta.map(B::contiguous));
        let rows = x.shape().num_elements() / gamma.shape().num_elements().max(1);
        let mut saved = vec![[0.0; 2]; rows];
        let output = B::create(x.shape(), |out| {
            forward(
                B::slice(&x),
                B::slice(&gamma),
                beta.as_ref().map(B::slice),
                self.centre,
                self.eps,
                out,
                &mut saved,
            );
        });
        (output, (x, gamma, saved.into()))
    }

    fn backward(
        &self,
        (x, gamma, saved): Self::Saved,
        gradient: FloatTensor<B>,
        [of_x, of_gamma, of_beta]: [bool; 3],
    ) -> [Option<FloatTensor<B>>; 3] {
        let gradient = B::contiguous(gradient);
        let mut sums = (Vec::new(), Vec::new());
        let x_gradient = B::create(x.shape(), |out| {
            sums = backward(B::slice(&x), B::slice(&gamma), &saved, self.centre, B::slice(&gradient), out);
        });
        let vector = |sum: &[f32]| B::create(Shape::new([sum.len()]), |out| out.copy_from_slice(sum));
        [of_x.then_some(x_gradient), of_gamma.then(|| vector(&sums.0)), of_beta.then(|| vector(&sums.1))]
    }
}
