use burn::tensor::{Bool, Device, Tensor, TensorData};

use crate::{TrainError, parameters::on_host};

/// The scale of the first step.
const FIRST: f32 = 65_536.0;

/// The good steps in a row after which the scale doubles.
const PATIENCE: f32 = 2_000.0;

/// At this scale a gradient that overflows is no longer the scale's fault; `fairseq` gives up at 1e-4.
const LAST: f32 = 1.0 / 8_192.0;

/// The entry of an exported state that holds scale and good steps.
pub(crate) const LOSS_SCALE: &str = "loss_scale";

/// What the loss is multiplied by before it is differentiated, so that small gradients are not zero in `f16`
/// (Micikevicius et al. 2018, "Mixed Precision Training"), as in PyTorch's `GradScaler`: begins at 2^16, is halved by a step whose
/// gradients overflow, which changes no parameter, and doubles after 2,000 steps in a row that don't. Unlike there, a skipped step counts
/// for the bias correction of AdamW.
///
/// It is on the device, so that no step waits to be told whether the one before has overflowed. A power of two changes no digit of a
/// gradient.
#[derive(Debug)]
pub(crate) struct LossScale {
    /// `[1]`
    scale: Tensor<1>,
    /// `[1]`, since the scale last changed.
    good_steps: Tensor<1>,
}

impl LossScale {
    pub(crate) fn new(device: &Device) -> Self {
        Self { scale: Tensor::from_floats([FIRST], device), good_steps: Tensor::zeros([1], device) }
    }

    /// The loss to be differentiated.
    pub(crate) fn scaled(&self, loss: Tensor<1>) -> Tensor<1> {
        loss * self.scale.clone()
    }

    /// Of a number that grew with the loss, what it is without the scale.
    pub(crate) fn unscaled(&self, value: Tensor<1>) -> Tensor<1> {
        value / self.scale.clone()
    }

    /// Takes in the gradient norm of a step, and sets the scale of the next one; true where the gradients of this one overflowed, but
    /// may not at a smaller scale.
    pub(crate) fn observe(&mut self, norm: &Tensor<1>) -> Tensor<1, Bool> {
        let bad = norm.clone().is_finite().bool_not();
        let excused = bad.clone().bool_and(self.scale.clone().greater_elem(LAST));
        let good_steps = self.good_steps.clone().add_scalar(1.0).mask_fill(bad.clone(), 0.0);
        let grows = good_steps.clone().greater_equal_elem(PATIENCE);
        let scale = self.scale.clone();
        let halved = scale.clone().mul_scalar(0.5).clamp_min(LAST);
        let doubled = scale.clone().mul_scalar(2.0);
        self.scale = scale.mask_where(bad, halved).mask_where(grows.clone(), doubled);
        self.good_steps = good_steps.mask_fill(grows, 0.0);
        excused
    }

    /// The scale of the next step, to be read beside other values.
    pub(crate) fn scalar(&self) -> Tensor<1> {
        self.scale.clone()
    }

    /// The state on the host: scale and good steps.
    pub(crate) fn export(&self) -> TensorData {
        on_host(Tensor::cat(vec![self.scale.clone(), self.good_steps.clone()], 0).into_data())
    }

    /// Continues from an exported state.
    ///
    /// # Errors
    ///
    /// [`TrainError::MissingTensor`] when it isn't the two numbers that [`export`](Self::export) gives.
    pub(crate) fn load(stored: Option<TensorData>, device: &Device) -> Result<Self, TrainError> {
        let values: Vec<f32> = stored.iter().flat_map(|data| data.iter::<f32>()).collect();
        let [scale, good_steps] = values[..] else {
            return Err(TrainError::MissingTensor { name: LOSS_SCALE.to_owned() });
        };
        Ok(Self { scale: Tensor::from_floats([scale], device), good_steps: Tensor::from_floats([good_steps], device) })
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::DType;
    use fornax_backend::{Precision, test_device};
    use fornax_ops::Context;

    use super::*;
    use crate::{
        BatchSize, Learner, LearnerSettings, Sums, Task, Term,
        testing::{Regression, Tiny, bits, learner, optimizer, rows},
    };

    fn half_learner() -> Learner<Tiny> {
        let schedule = *learner(optimizer()).schedule();
        let (optimizer, precision) = (optimizer(), Precision::F16);
        let settings = LearnerSettings { optimizer, schedule, seed: 7, precision, checkpoint_blocks: false };
        Learner::new(Tiny::new(&test_device().autodiff()), settings).unwrap()
    }

    /// The sum of the weights times 8, through `f16`: its gradients overflow at scales of 8,192 and more. With `hopeless` they do
    /// at any scale, though the loss is 0. (By a product that is too large, on which all devices agree: some take `x - x` for 0 where
    /// `x` is infinite, or the root of 0 for one with a slope.)
    struct Steep {
        hopeless: bool,
    }

    impl Task<Tiny> for Steep {
        type Batch = ();

        fn size(&self, (): &()) -> BatchSize {
            BatchSize { counts: vec![("sum", 1)], tokens: 1 }
        }

        fn describe(&self, (): &()) -> String {
            "all weights".to_owned()
        }

        fn loss(&self, model: &Tiny, (): &(), _context: &Context) -> Sums {
            let weight = model.weight.val();
            let (weight, factor) = match self.hopeless {
                true => ((weight.clone() - weight.detach()).mul_scalar(f32::MAX), 80_000.0),
                false => (weight, 8.0),
            };
            let sum = weight.cast(DType::F16).cast(DType::F32).sum().mul_scalar(factor);
            Sums { terms: vec![Term { name: "sum", sum, weight: 1.0 }], metrics: Vec::new(), predictions: None }
        }
    }

    #[test]
    fn the_scale_is_halved_by_a_bad_step_and_doubles_after_2000_good_ones() {
        let norm = |value: f32| Tensor::from_floats([value], &test_device());
        let mut scale = LossScale::new(&test_device());
        let mut observe = |value| {
            let skips = scale.observe(&norm(value)).into_data().iter::<bool>().next().unwrap();
            (skips, scale.scalar().into_scalar::<f32>())
        };
        assert_eq!(observe(f32::INFINITY), (true, 32_768.0));
        for _ in 0..1_999 {
            assert_eq!(observe(1.0), (false, 32_768.0));
        }
        assert_eq!(observe(1.0), (false, 65_536.0));
        for _ in 0..1_000 {
            observe(1.0);
        }
        assert_eq!(observe(f32::NAN), (true, 32_768.0));
        for _ in 0..1_999 {
            observe(1.0);
        }
        assert_eq!(observe(1.0), (false, 65_536.0), "good steps are counted from the last bad one");
        for _ in 0..29 {
            assert!(observe(f32::NAN).0);
        }
        assert_eq!(observe(f32::NAN), (false, LAST), "no smaller scale would help");
    }

    /// The scale is a power of two.
    #[test]
    fn a_model_without_f16_in_it_is_trained_bit_for_bit_as_in_f32() {
        let (mut half, mut full) = (half_learner(), learner(optimizer()));
        for step in 0..5 {
            half.train_step(step, &[rows(step), rows(step + 50)], &Regression).unwrap();
            full.train_step(step, &[rows(step), rows(step + 50)], &Regression).unwrap();
        }
        assert_eq!(bits(&half.export_parameters().unwrap()), bits(&full.export_parameters().unwrap()));
        let (half, full) = (half.take_window().unwrap().unwrap(), full.take_window().unwrap().unwrap());
        assert_eq!((half.loss, half.grad_norm), (full.loss, full.grad_norm));
        assert_eq!((half.loss_scale, full.loss_scale), (Some(65_536.0), None));
    }

    /// Whether the device has numbers that overflow as they do here.
    fn knows_f16() -> bool {
        let known = Precision::F16.is_supported(&test_device());
        if !known {
            eprintln!("skipped: the device has no f16");
        }
        known
    }

    #[test]
    fn a_step_that_overflows_changes_the_scale_alone_and_a_resumed_run_goes_on_with_it() {
        if !knows_f16() {
            return;
        }
        let steep = Steep { hopeless: false };
        let mut whole = half_learner();
        let untouched = bits(&whole.export_parameters().unwrap());
        for step in 0..4 {
            whole.train_step(step, &[()], &steep).unwrap();
            assert_eq!(bits(&whole.export_parameters().unwrap()), untouched);
        }
        let mut resumed = half_learner();
        resumed.load_parameters(whole.export_parameters().unwrap()).unwrap();
        resumed.load_optimizer(whole.export_optimizer().unwrap()).unwrap();
        for learner in [&mut whole, &mut resumed] {
            for step in 4..6 {
                learner.train_step(step, &[()], &steep).unwrap();
            }
            assert_eq!(learner.take_window().unwrap().unwrap().loss_scale, Some(4_096.0));
        }
        let moved = bits(&whole.export_parameters().unwrap());
        assert_ne!(moved, untouched);
        assert_eq!(moved, bits(&resumed.export_parameters().unwrap()));
        assert_eq!(bits(&whole.export_optimizer().unwrap()), bits(&resumed.export_optimizer().unwrap()));
        let missing = whole.load_optimizer(learner(optimizer()).export_optimizer().unwrap()).unwrap_err().to_string();
        assert!(missing.contains("`loss_scale`"), "{missing}");
    }

    #[test]
    fn a_gradient_that_no_scale_helps_ends_the_run() {
        if !knows_f16() {
            return;
        }
        let mut learner = half_learner();
        for step in 0..29 {
            learner.train_step(step, &[()], &Steep { hopeless: true }).unwrap();
        }
        learner.check_finite().unwrap();
        learner.train_step(29, &[()], &Steep { hopeless: true }).unwrap();
        let error = learner.check_finite().unwrap_err().to_string();
        assert!(error.starts_with("the gradient of step 29, counted from 0, is not finite"), "{error}");
    }
}
