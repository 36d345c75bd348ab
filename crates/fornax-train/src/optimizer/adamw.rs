use std::collections::HashMap;

use burn::{
    module::{Module, ModuleMapper, Param, ParamId},
    optim::GradientsParams,
    tensor::{Bool, Device, Tensor, TensorData, container::TensorContainer},
};

use crate::{
    NamedTensors, OptimizerConfig, TrainError,
    parameters::{ParameterVisitor, check_tensor, replace_value, to_tensor, visit},
};

/// The entry of an exported state that holds the number of updates.
const STEPS: &str = "steps";
const FIRST: &str = "first_moment";
const SECOND: &str = "second_moment";

/// AdamW (Loshchilov and Hutter 2019) with the semantics of `torch.optim.AdamW`, in `f32`:
///
/// ```text
/// p <- p (1 - lr weight_decay)
/// m <- beta1 m + (1 - beta1) g
/// v <- beta2 v + (1 - beta2) g^2
/// p <- p - lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
/// ```
///
/// The last line is computed as `p - lr sqrt(c2) / c1 * m / (sqrt(v) + eps sqrt(c2))`, which saves a pass over memory.
/// Decay is for parameters of two and more dimensions (embeddings included, as in nanoGPT), but for those whose path
/// ends in one of `exempt`.
///
/// Nothing is kept but the two moments, on the device of the parameters. Each parameter costs 14 elementwise passes
/// (one kernel where a backend fuses them), 13 without decay, and at most two temporaries of its own size.
#[derive(Debug)]
pub(crate) struct AdamW {
    betas: [f64; 2],
    eps: f64,
    weight_decay: f64,
    exempt: Vec<String>,
    steps: u64,
    first: TensorContainer<ParamId>,
    second: TensorContainer<ParamId>,
}

/// What one update is told besides the gradients. The tensors have shape `[1]`.
pub(crate) struct Update {
    /// The learning rate.
    pub(crate) lr: f64,
    /// What gradients are multiplied by.
    pub(crate) scale: Tensor<1>,
    /// Where true, parameters and moments stay as they are, whatever the gradients hold.
    pub(crate) skip: Tensor<1, Bool>,
}

impl AdamW {
    pub(crate) fn new(config: &OptimizerConfig) -> Self {
        Self {
            betas: config.betas,
            eps: config.eps,
            weight_decay: config.weight_decay,
            exempt: Vec::new(),
            steps: 0,
            first: TensorContainer::new(),
            second: TensorContainer::new(),
        }
    }

    /// Takes parameters whose path ends in `suffix` from weight decay.
    pub(crate) fn exempt_from_decay(&mut self, suffix: &str) {
        self.exempt.push(suffix.to_owned());
    }

    /// Moves the parameters of `model` that have a gradient; the others stay, without decay, as in PyTorch.
    pub(crate) fn step<M: Module>(&mut self, model: M, gradients: GradientsParams, update: &Update) -> M {
        self.steps += 1;
        let factors = Factors::new(self, update);
        model.map(&mut Mapper { path: Vec::new(), gradients, optimizer: self, factors, skip: update.skip.clone() })
    }

    /// The state on the host, bit for bit: `steps`, and `<path>.first_moment` and `<path>.second_moment` of each
    /// parameter of `model` that was ever moved.
    pub(crate) fn export<M: Module>(&self, model: &M) -> NamedTensors {
        let mut tensors = vec![(STEPS.to_owned(), TensorData::from([self.steps as i64]))];
        visit(model, Export { optimizer: self, tensors: &mut tensors });
        tensors
    }

    /// Continues from an exported state.
    ///
    /// # Errors
    ///
    /// When `tensors` lacks the number of updates or half of a parameter's moments, has a moment of another shape, or
    /// one of a parameter that `model` lacks. Nothing is changed then.
    pub(crate) fn load<M: Module>(
        &mut self,
        model: &M,
        tensors: NamedTensors,
        device: &Device,
    ) -> Result<(), TrainError> {
        let mut tensors: HashMap<_, _> = tensors.into_iter().collect();
        let steps = tensors.remove(STEPS).and_then(|data| data.iter::<i64>().next());
        let steps = steps.and_then(|steps| u64::try_from(steps).ok()).ok_or_else(|| missing(STEPS))?;
        let load = Load { tensors, device, first: TensorContainer::new(), second: TensorContainer::new(), error: None };
        let Load { tensors, first, second, error, .. } = visit(model, load);
        if let Some(error) = error {
            return Err(error);
        }
        if let Some(name) = tensors.into_keys().min() {
            return Err(TrainError::UnexpectedTensor { name });
        }
        (self.steps, self.first, self.second) = (steps, first, second);
        Ok(())
    }

    fn decays(&self, path: &str, rank: usize) -> bool {
        rank >= 2 && self.weight_decay != 0.0 && !self.exempt.iter().any(|suffix| path.ends_with(suffix.as_str()))
    }
}

/// The factors of one update, shape `[1]` on the device.
///
/// In a skipped update they are 1 and 0, and gradients are filled with 0: then `m * 1 + 0 * 0 = m`, and likewise for
/// the rest, so that nothing needs a second copy to fall back on.
struct Factors {
    keep_first: Tensor<1>,
    add_first: Tensor<1>,
    keep_second: Tensor<1>,
    add_second: Tensor<1>,
    rate: Tensor<1>,
    keep_value: Tensor<1>,
    eps: f64,
}

impl Factors {
    fn new(optimizer: &AdamW, update: &Update) -> Self {
        let [beta1, beta2] = optimizer.betas;
        let correction1 = 1.0 - beta1.powf(optimizer.steps as f64);
        let correction2 = 1.0 - beta2.powf(optimizer.steps as f64);
        let guarded = |value: Tensor<1>, skipped: f64| value.mask_fill(update.skip.clone(), skipped);
        let constant = |value: f64, skipped: f64| guarded(update.scale.full_like(value), skipped);
        let scale = || update.scale.clone();
        Self {
            keep_first: constant(beta1, 1.0),
            add_first: guarded(scale().mul_scalar(1.0 - beta1), 0.0),
            keep_second: constant(beta2, 1.0),
            add_second: guarded(scale().square().mul_scalar(1.0 - beta2), 0.0),
            rate: constant(update.lr * correction2.sqrt() / correction1, 0.0),
            keep_value: constant(1.0 - update.lr * optimizer.weight_decay, 1.0),
            eps: optimizer.eps * correction2.sqrt(),
        }
    }
}

struct Mapper<'a> {
    path: Vec<String>,
    gradients: GradientsParams,
    optimizer: &'a mut AdamW,
    factors: Factors,
    skip: Tensor<1, Bool>,
}

impl Mapper<'_> {
    /// Written so that each operation has an operand that nobody else owns, which `flex` and LibTorch overwrite.
    fn update<const D: usize>(&mut self, id: ParamId, value: Tensor<D>, gradient: Tensor<D>, decay: bool) -> Tensor<D> {
        let factor = |factor: &Tensor<1>| factor.clone().reshape([1; D]);
        let Factors { keep_first, add_first, keep_second, add_second, rate, keep_value, eps } = &self.factors;
        let first = self.optimizer.first.remove::<Tensor<D>>(&id).unwrap_or_else(|| value.zeros_like());
        let second = self.optimizer.second.remove::<Tensor<D>>(&id).unwrap_or_else(|| value.zeros_like());

        let gradient = gradient.mask_fill(self.skip.clone().reshape([1; D]), 0.0);
        let first = first.mul(factor(keep_first)).add(gradient.clone().mul(factor(add_first)));
        let second = second.mul(factor(keep_second)).add(gradient.square().mul(factor(add_second)));
        let step = first.clone().div(second.clone().sqrt().add_scalar(*eps)).mul(factor(rate));
        let value = if decay { value.mul(factor(keep_value)) } else { value };

        self.optimizer.first.register(id, first);
        self.optimizer.second.register(id, second);
        value.sub(step)
    }
}

impl ModuleMapper for Mapper<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let id = param.id;
        let Some(gradient) = self.gradients.remove::<D>(id) else { return param };
        let decay = self.optimizer.decays(&self.path.join("."), D);
        replace_value(param, |value| self.update(id, value, gradient, decay))
    }
}

struct Export<'a> {
    optimizer: &'a AdamW,
    tensors: &'a mut NamedTensors,
}

impl ParameterVisitor for Export<'_> {
    fn visit<const D: usize>(&mut self, path: &str, param: &Param<Tensor<D>>) {
        for (name, moments) in [(FIRST, &self.optimizer.first), (SECOND, &self.optimizer.second)] {
            if let Some(moment) = moments.get::<Tensor<D>>(&param.id) {
                self.tensors.push((format!("{path}.{name}"), moment.into_data()));
            }
        }
    }
}

struct Load<'a> {
    tensors: HashMap<String, TensorData>,
    device: &'a Device,
    first: TensorContainer<ParamId>,
    second: TensorContainer<ParamId>,
    error: Option<TrainError>,
}

impl Load<'_> {
    /// The moments of one parameter; `None` for one that was never moved.
    fn take<const D: usize>(&mut self, path: &str, shape: &[usize]) -> Result<Option<[Tensor<D>; 2]>, TrainError> {
        let names = [FIRST, SECOND].map(|moment| format!("{path}.{moment}"));
        let [first, second] = match names.each_ref().map(|name| self.tensors.remove(name)) {
            [Some(first), Some(second)] => [first, second],
            [None, None] => return Ok(None),
            [None, _] => return Err(missing(&names[0])),
            [_, None] => return Err(missing(&names[1])),
        };
        check_tensor(&names[0], &first, shape)?;
        check_tensor(&names[1], &second, shape)?;
        Ok(Some([to_tensor(first, self.device), to_tensor(second, self.device)]))
    }
}

impl ParameterVisitor for Load<'_> {
    fn visit<const D: usize>(&mut self, path: &str, param: &Param<Tensor<D>>) {
        match self.take::<D>(path, &param.lazy_shape()) {
            Ok(None) => {}
            Ok(Some([first, second])) => {
                self.first.register(param.id, first);
                self.second.register(param.id, second);
            }
            Err(error) => self.error = self.error.take().or(Some(error)),
        }
    }
}

fn missing(name: &str) -> TrainError {
    TrainError::MissingTensor { name: name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Tiny, assert_close, bits, optimizer, values};

    fn update(lr: f64, scale: f32, skip: bool) -> Update {
        let device = fornax_backend::test_device();
        Update { lr, scale: Tensor::from_floats([scale], &device), skip: Tensor::from_data([skip], &device) }
    }

    fn gradients(model: &Tiny, weight: &[f32], bias: &[f32]) -> GradientsParams {
        let device = fornax_backend::test_device();
        let mut gradients = GradientsParams::new();
        gradients.register(model.weight.id, Tensor::<2>::from_data(TensorData::new(weight.to_vec(), [2, 3]), &device));
        gradients.register(model.bias.id, Tensor::<1>::from_data(TensorData::new(bias.to_vec(), [3]), &device));
        gradients
    }

    /// The update rule in `f64`, written from the paper.
    struct Reference {
        value: Vec<f64>,
        first: Vec<f64>,
        second: Vec<f64>,
        decay: f64,
    }

    impl Reference {
        fn new(value: Vec<f64>, decay: f64) -> Self {
            let zeros = vec![0.0; value.len()];
            Self { value, first: zeros.clone(), second: zeros, decay }
        }

        fn step(&mut self, t: i32, lr: f64, gradient: &[f64]) {
            let (beta1, beta2, eps) = (0.9f64, 0.95f64, 1e-8);
            for (i, g) in gradient.iter().enumerate() {
                self.value[i] *= 1.0 - lr * self.decay;
                self.first[i] = beta1 * self.first[i] + (1.0 - beta1) * g;
                self.second[i] = beta2 * self.second[i] + (1.0 - beta2) * g * g;
                let (first, second) = (self.first[i] / (1.0 - beta1.powi(t)), self.second[i] / (1.0 - beta2.powi(t)));
                self.value[i] -= lr * first / (second.sqrt() + eps);
            }
        }
    }

    #[test]
    fn forty_steps_follow_the_rule_in_double_precision() {
        let mut model = Tiny::new(&fornax_backend::test_device().autodiff());
        let start = crate::export_parameters(&model);
        let mut weight = Reference::new(values(&start, "weight"), 0.1);
        let mut bias = Reference::new(values(&start, "bias"), 0.0);
        let mut adamw = AdamW::new(&optimizer());
        for t in 1..=40 {
            let (lr, scale) = (1e-2 / f64::from(t), 0.25);
            // Magnitudes from 1e-6 to 1, both signs, a zero.
            let noise = |i: i32| ((f64::from(t * 31 + i * 17)).sin() * 10f64.powi(-i)) as f32;
            let gradient: Vec<f32> = (0..6).map(noise).collect();
            let slope = [noise(3), 0.0, noise(1)];
            let scaled = |values: &[f32]| values.iter().map(|g| f64::from(*g) * scale).collect::<Vec<_>>();
            weight.step(t, lr, &scaled(&gradient));
            bias.step(t, lr, &scaled(&slope));
            let gradients = gradients(&model, &gradient, &slope);
            model = adamw.step(model, gradients, &update(lr, scale as f32, false));
        }
        let end = crate::export_parameters(&model);
        assert_close(&values(&end, "weight"), &weight.value, 1e-6);
        assert_close(&values(&end, "bias"), &bias.value, 1e-6);
        let state = adamw.export(&model);
        assert_close(&values(&state, "steps"), &[40.0], 0.0);
        assert_close(&values(&state, "weight.first_moment"), &weight.first, 1e-6);
        assert_close(&values(&state, "bias.second_moment"), &bias.second, 1e-6);
        assert!(model.weight.is_require_grad() && model.bias.is_require_grad());
    }

    #[test]
    fn a_skipped_step_leaves_every_bit_whatever_the_gradients_hold() {
        let mut model = Tiny::new(&fornax_backend::test_device().autodiff());
        let mut adamw = AdamW::new(&optimizer());
        let good = gradients(&model, &[1.0; 6], &[-1.0; 3]);
        model = adamw.step(model, good, &update(0.1, 1.0, false));
        let before = (bits(&crate::export_parameters(&model)), adamw.export(&model)[1..].to_vec());
        let bad = gradients(&model, &[f32::NAN, 1.0, f32::INFINITY, 0.0, -1.0, 2.0], &[f32::NEG_INFINITY; 3]);
        model = adamw.step(model, bad, &update(0.1, f32::NAN, true));
        let after = (bits(&crate::export_parameters(&model)), adamw.export(&model)[1..].to_vec());
        assert_eq!(before.0, after.0);
        assert_eq!(bits(&before.1), bits(&after.1));
    }

    #[test]
    fn decay_leaves_out_vectors_and_exempt_paths() {
        let device = fornax_backend::test_device().autodiff();
        let moved = |exempt: Option<&str>| {
            let mut adamw = AdamW::new(&optimizer());
            if let Some(suffix) = exempt {
                adamw.exempt_from_decay(suffix);
            }
            let model = Tiny::new(&device);
            let gradients = gradients(&model, &[0.0; 6], &[0.0; 3]);
            crate::export_parameters(&adamw.step(model, gradients, &update(0.5, 1.0, false)))
        };
        let start = crate::export_parameters(&Tiny::new(&device));
        let shrunk: Vec<f64> = values(&start, "weight").iter().map(|value| value * 0.95).collect();
        assert_close(&values(&moved(None), "weight"), &shrunk, 1e-6);
        assert_eq!(values(&moved(None), "bias"), values(&start, "bias"));
        assert_eq!(values(&moved(Some("weight")), "weight"), values(&start, "weight"));
    }

    #[test]
    fn a_state_that_does_not_fit_is_refused_by_name() {
        let device = fornax_backend::test_device();
        let mut model = Tiny::new(&device.clone().autodiff());
        let mut adamw = AdamW::new(&optimizer());
        let once = gradients(&model, &[1.0; 6], &[1.0; 3]);
        model = adamw.step(model, once, &update(0.1, 1.0, false));
        let state = adamw.export(&model);
        let refused = |change: &dyn Fn(&mut NamedTensors)| {
            let mut changed = state.clone();
            change(&mut changed);
            AdamW::new(&optimizer()).load(&model, changed, &device).unwrap_err().to_string()
        };
        assert_eq!(refused(&|state| drop(state.remove(0))), "tensor `steps` is missing");
        assert_eq!(refused(&|state| drop(state.pop())), "tensor `bias.second_moment` is missing");
        assert_eq!(
            refused(&|state| state[1].1 = TensorData::from([[0.0f32; 2]; 3])),
            "tensor `weight.first_moment`: stored is F32 [3, 2], the model wants F32 [2, 3]"
        );
        assert_eq!(
            refused(&|state| state[1].0 = "head.first_moment".to_owned()),
            "tensor `weight.first_moment` is missing"
        );
        let unknown = |state: &mut NamedTensors| state.push(("head.first_moment".to_owned(), state[1].1.clone()));
        assert_eq!(refused(&unknown), "the model has no place for the tensor `head.first_moment`");
    }
}
