//! Optimizers: what all of them share is here (the pass over the module, what decays, what is skipped), their state is in
//! `state.rs`, and each has a file with the rule by which it moves one tensor.

mod adafactor;
mod adamw;
mod config;
#[cfg(test)]
mod golden;
mod state;

pub(crate) use config::foreign_keys;
pub use config::{AdafactorConfig, AdamConfig, OptimizerConfig, OptimizerRule};

use burn::{
    module::{Module, ModuleMapper, Param},
    optim::GradientsParams,
    tensor::{Bool, Device, Tensor},
};

use self::{adafactor::Adafactor, adamw::AdamW, state::State};
use crate::{NamedTensors, TrainError, gradients::sum_of_squares, parameters::replace_value};

/// An optimizer with its state, which is kept in `f32` on the device of the parameters.
///
/// Weight decay is for parameters of two and more dimensions (embeddings included, as in nanoGPT), but for those whose
/// path ends in one of `exempt`.
#[derive(Debug)]
pub(crate) struct Optimizer {
    rule: Rule,
    weight_decay: f64,
    exempt: Vec<String>,
    /// The updates so far, skipped ones among them.
    steps: u64,
    state: State,
}

/// What one update is told besides the gradients. The tensors have shape `[1]`.
pub(crate) struct Update {
    /// The learning rate.
    pub(crate) lr: f64,
    /// What gradients are multiplied by.
    pub(crate) scale: Tensor<1>,
    /// Where true, parameters and state stay as they are, whatever the gradients hold.
    pub(crate) skip: Tensor<1, Bool>,
}

/// How tensors are moved.
#[derive(Debug)]
enum Rule {
    AdamW(AdamW),
    Adafactor(Adafactor),
}

/// A [`Rule`] in one update: its factors are on the device.
enum Step {
    AdamW(adamw::Step),
    Adafactor(adafactor::Step),
}

/// The tensors that an optimizer keeps for one parameter, in the order of [`Rule::slots`].
type Kept<const D: usize> = Vec<Tensor<D>>;

impl Optimizer {
    pub(crate) fn new(config: &OptimizerConfig) -> Self {
        let rule = match config.rule {
            OptimizerRule::Adamw(keys) => Rule::AdamW(AdamW::new(keys)),
            OptimizerRule::AdamwScaled(keys) => Rule::AdamW(AdamW::scaled(keys)),
            OptimizerRule::Adafactor(keys) => Rule::Adafactor(Adafactor::new(keys)),
        };
        Self { rule, weight_decay: config.weight_decay, exempt: Vec::new(), steps: 0, state: State::default() }
    }

    /// Takes parameters whose path ends in `suffix` from weight decay.
    pub(crate) fn exempt_from_decay(&mut self, suffix: &str) {
        self.exempt.push(suffix.to_owned());
    }

    /// Moves the parameters of `model` that have a gradient; the others stay, without decay, as in PyTorch.
    pub(crate) fn step<M: Module>(&mut self, model: M, gradients: GradientsParams, update: &Update) -> M {
        self.steps += 1;
        let step = self.rule.begin(self.steps, self.weight_decay, update);
        model.map(&mut Mapper { path: Vec::new(), gradients, optimizer: self, step })
    }

    /// The state on the host, bit for bit: `steps`, and `<path>.<slot>` for what is kept of each parameter of `model` that was
    /// ever moved.
    pub(crate) fn export<M: Module>(&self, model: &M) -> NamedTensors {
        state::export(self.steps, &self.state, &self.rule, model)
    }

    /// Continues from an exported state.
    ///
    /// # Errors
    ///
    /// When `tensors` lacks the number of updates or a part of what is kept of a parameter, has a tensor of another shape, or
    /// one that this optimizer doesn't keep or of a parameter that `model` lacks. Nothing is changed then.
    pub(crate) fn load<M: Module>(
        &mut self,
        model: &M,
        tensors: NamedTensors,
        device: &Device,
    ) -> Result<(), TrainError> {
        (self.steps, self.state) = state::load(tensors, &self.rule, model, device)?;
        Ok(())
    }

    fn decays(&self, path: &str, rank: usize) -> bool {
        rank >= 2 && self.weight_decay != 0.0 && !self.exempt.iter().any(|suffix| path.ends_with(suffix.as_str()))
    }
}

impl Rule {
    /// Name and shape of each tensor that is kept of a parameter of `shape`; they begin as zeros, and have as many dimensions.
    fn slots(&self, shape: &[usize]) -> Vec<(&'static str, Vec<usize>)> {
        match self {
            Self::AdamW(adamw) => adamw.slots(shape),
            Self::Adafactor(adafactor) => adafactor.slots(shape),
        }
    }

    /// The update `steps`, counted from 1.
    fn begin(&self, steps: u64, weight_decay: f64, update: &Update) -> Step {
        match self {
            Self::AdamW(adamw) => Step::AdamW(adamw.begin(steps, weight_decay, update)),
            Self::Adafactor(adafactor) => Step::Adafactor(adafactor.begin(steps, weight_decay, update)),
        }
    }
}

impl Step {
    /// Moves one parameter.
    fn apply<const D: usize>(
        &self,
        value: Tensor<D>,
        gradient: Tensor<D>,
        kept: Kept<D>,
        decay: bool,
    ) -> (Tensor<D>, Kept<D>) {
        match self {
            Self::AdamW(step) => step.apply(value, gradient, kept, decay),
            Self::Adafactor(step) => step.apply(value, gradient, kept, decay),
        }
    }
}

struct Mapper<'a> {
    path: Vec<String>,
    gradients: GradientsParams,
    optimizer: &'a mut Optimizer,
    step: Step,
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
        replace_value(param, |value| {
            let slots = self.optimizer.rule.slots(&value.dims());
            let kept = self.optimizer.state.take(id, &slots, &value.device());
            let (value, kept) = self.step.apply(value, gradient, kept, decay);
            self.optimizer.state.put(id, &slots, kept);
            value
        })
    }
}

/// A factor of shape `[1]` for tensors of `D` dimensions.
fn spread<const D: usize>(factor: &Tensor<1>) -> Tensor<D> {
    factor.clone().reshape([1; D])
}

/// The root mean square of all elements, shape `[1]`, on the device.
fn root_mean_square<const D: usize>(tensor: Tensor<D>) -> Tensor<1> {
    let elements = tensor.shape().num_elements();
    sum_of_squares(tensor).div_scalar(elements as f64).sqrt()
}

/// What the learning rate of a parameter is multiplied by where it follows the parameter's size (Shazeer and Stern 2018): its root
/// mean square, and at least 1e-3, so that one that begins at zero moves at all.
fn size_of<const D: usize>(value: &Tensor<D>) -> Tensor<1> {
    root_mean_square(value.clone()).clamp_min(1e-3)
}

#[cfg(test)]
mod tests;
