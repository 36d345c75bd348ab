use std::collections::HashMap;

use burn::{
    module::{Module, ModuleMapper, Param, ParamId},
    optim::GradientsParams,
    tensor::{Bool, DType, Device, Tensor, TensorData, container::TensorContainer},
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
