use burn::{
    module::{Module, Param},
    optim::GradientsParams,
    tensor::{Bool, Device, Tensor},
};

use fornax_ops::sums_squares;

use crate::parameters::{ParameterVisitor, visit};

/// What PyTorch adds to the norm before it divides by it.
const NORM_EPSILON: f64 = 1e-6;

/// Adds the gradients of one more micro-batch to those of the step. Where a backend works in place, nothing is copied.
pub(crate) fn accumulate<M: Module>(model: &M, sum: GradientsParams, more: GradientsParams) -> GradientsParams {
    visit(model, Add { sum, more }).sum
}

/// The global norm of all gradients of `model`, shape `[1]`, on the device; `None` without any gradient.
pub(crate) fn global_norm<M: Module>(model: &M, gradients: &GradientsParams) -> Option<Tensor<1>> {
    let sums = visit(model, Squares { gradients, sums: Vec::new() }).sums;
    (!sums.is_empty()).then(|| Tensor::cat(sums, 0).sum().sqrt())
}

/// The sum of all elements' squares, shape `[1]`, on the device.
///
/// Where there is no kernel for it, they are summed row by row and then over rows.
pub(crate) fn sum_of_squares<const D: usize>(tensor: Tensor<D>) -> Tensor<1> {
    if sums_squares(&tensor.device()) {
        return fornax_ops::sum_of_squares(tensor);
    }
    let squares = tensor.square();
    if D == 1 {
        return squares.sum();
    }
    let rows = squares.dims()[0];
    let columns = squares.shape().num_elements() / rows.max(1);
    squares.reshape([rows, columns]).sum_dim(1).sum()
}

/// What each gradient is multiplied by so that the global norm is at most `max_norm`: `min(1, max_norm / (norm + 1e-6))`
/// as in PyTorch. A `max_norm` of 0 sets no limit.
pub(crate) fn clip_scale(norm: &Tensor<1>, max_norm: f64) -> Tensor<1> {
    if max_norm == 0.0 {
        return norm.ones_like();
    }
    norm.clone().add_scalar(NORM_EPSILON).recip().mul_scalar(max_norm).clamp_max(1.0)
}

/// Watches for losses and gradients that are not finite without reading the device.
///
/// From the first bad step on it stays shut: that step and all later ones change nothing, so that the model is still
/// that of the last good step when the host finds out. The host needs one number then: for how many steps it was shut.
#[derive(Debug)]
pub(crate) struct Guard {
    /// 1 from the first bad step on, else 0.
    shut: Tensor<1>,
    /// The steps for which it was shut.
    shut_steps: Tensor<1>,
    /// 1 if the first bad step had a bad loss, 0 if only its gradient was bad.
    bad_loss: Tensor<1>,
}

impl Guard {
    /// How many [`scalars`](Self::scalars) there are.
    pub(crate) const SCALARS: usize = 2;

    pub(crate) fn new(device: &Device) -> Self {
        let zero = || Tensor::zeros([1], device);
        Self { shut: zero(), shut_steps: zero(), bad_loss: zero() }
    }

    /// Takes in loss and gradient norm of a step; true where the step must change nothing.
    pub(crate) fn observe(&mut self, loss: Tensor<1>, norm: Tensor<1>) -> Tensor<1, Bool> {
        let bad_loss = loss.is_finite().bool_not().float();
        let bad_norm = norm.is_finite().bool_not().float();
        let bad = bad_loss.clone().max_pair(bad_norm);
        let first = bad.clone() - bad * self.shut.clone();
        self.bad_loss = self.bad_loss.clone() + first.clone() * bad_loss;
        self.shut = self.shut.clone() + first;
        self.shut_steps = self.shut_steps.clone() + self.shut.clone();
        self.shut.clone().greater_elem(0.5)
    }

    /// What [`Verdict::new`] wants, to be read beside other values.
    pub(crate) fn scalars(&self) -> Vec<Tensor<1>> {
        vec![self.shut_steps.clone(), self.bad_loss.clone()]
    }
}

/// What the host reads from a [`Guard`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// All steps were finite.
    Good,
    /// The last `steps` steps changed nothing; the first of them is to blame.
    Bad { steps: usize, loss: bool },
}

impl Verdict {
    /// Interprets the values of [`Guard::scalars`].
    pub(crate) fn new(scalars: &[f64]) -> Self {
        match scalars {
            [steps, loss] if *steps > 0.0 => Self::Bad { steps: *steps as usize, loss: *loss > 0.0 },
            _ => Self::Good,
        }
    }
}

struct Add {
    sum: GradientsParams,
    more: GradientsParams,
}

impl ParameterVisitor for Add {
    fn visit<const D: usize>(&mut self, _path: &str, param: &Param<Tensor<D>>) {
        let Some(more) = self.more.remove::<D>(param.id) else { return };
        let sum = match self.sum.remove::<D>(param.id) {
            Some(sum) => sum + more,
            None => more,
        };
        self.sum.register(param.id, sum);
    }
}

struct Squares<'a> {
    gradients: &'a GradientsParams,
    sums: Vec<Tensor<1>>,
}

impl ParameterVisitor for Squares<'_> {
    fn visit<const D: usize>(&mut self, _path: &str, param: &Param<Tensor<D>>) {
        let Some(gradient) = self.gradients.get::<D>(param.id) else { return };
        self.sums.push(sum_of_squares(gradient));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Tiny;

    fn scalar(value: f32) -> Tensor<1> {
        Tensor::from_floats([value], &fornax_backend::test_device())
    }

    #[test]
    fn the_norm_is_that_of_all_gradients_together_and_clipping_brings_it_to_the_limit() {
        let device = fornax_backend::test_device();
        let model = Tiny::new(&device.clone().autodiff());
        let mut gradients = GradientsParams::new();
        gradients.register(model.weight.id, Tensor::<2>::from_floats([[1.0, -2.0, 3.0], [4.0, 0.0, 1.0]], &device));
        gradients.register(model.bias.id, Tensor::<1>::from_floats([3.0, -3.0, 0.0], &device));
        let norm = global_norm(&model, &gradients).unwrap();
        assert_eq!(norm.clone().into_scalar::<f32>(), 7.0);
        let scale = |limit| clip_scale(&norm, limit).into_scalar::<f32>();
        assert!((scale(3.5) - 0.5).abs() < 1e-6);
        assert_eq!((scale(8.0), scale(0.0)), (1.0, 1.0));
        assert!(global_norm(&model, &GradientsParams::new()).is_none());
    }

    #[test]
    fn the_guard_shuts_at_the_first_bad_step_and_counts_from_there() {
        let mut guard = Guard::new(&fornax_backend::test_device());
        let mut observe = |loss, norm| {
            let skip = guard.observe(scalar(loss), scalar(norm)).into_data().iter::<bool>().next().unwrap();
            let scalars =
                guard.scalars().into_iter().map(|value| value.into_scalar::<f32>().into()).collect::<Vec<f64>>();
            (skip, Verdict::new(&scalars))
        };
        assert_eq!(observe(1.0, 2.0), (false, Verdict::Good));
        assert_eq!(observe(1.0, f32::INFINITY), (true, Verdict::Bad { steps: 1, loss: false }));
        assert_eq!(observe(f32::NAN, f32::NAN), (true, Verdict::Bad { steps: 2, loss: false }));
        assert_eq!(observe(1.0, 1.0), (true, Verdict::Bad { steps: 3, loss: false }));
    }
}
