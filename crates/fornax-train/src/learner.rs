use std::time::Instant;

use burn::{
    module::Module,
    optim::GradientsParams,
    tensor::{Device, Tensor},
};
use fornax_backend::Precision;
use fornax_ops::{Context, RandomKey};

use crate::{
    BatchSize, NamedTensors, OptimizerConfig, ParameterInfo, Schedule, ScheduleConfig, Sums, Task, Totals, TrainConfig,
    TrainError,
    accumulator::{Accumulator, count_of, read_scalars},
    gradients::{Guard, Verdict, accumulate, clip_scale, global_norm},
    loss_scale::{LOSS_SCALE, LossScale},
    optimizer::{Optimizer, Update},
    parameters,
};

/// What a [`Learner`] is told once.
#[derive(Clone, Debug)]
pub struct LearnerSettings {
    /// The optimizer.
    pub optimizer: OptimizerConfig,
    /// The learning rate of each step.
    pub schedule: Schedule,
    /// The root of the noise of training.
    pub seed: u64,
    /// The type of matrix products.
    pub precision: Precision,
    /// [`TrainConfig::checkpoint_blocks`]
    pub checkpoint_blocks: bool,
}

impl LearnerSettings {
    /// What the tables of a config say, for data whose epochs have so many steps.
    ///
    /// # Errors
    ///
    /// As [`Schedule::new`].
    pub fn new(
        train: &TrainConfig,
        optimizer: &OptimizerConfig,
        schedule: &ScheduleConfig,
        steps_per_epoch: u64,
        precision: Precision,
    ) -> Result<Self, TrainError> {
        let max_steps = train.total_steps(steps_per_epoch);
        let schedule = Schedule::new(schedule, optimizer.lr, max_steps)?;
        let &TrainConfig { seed, checkpoint_blocks, .. } = train;
        Ok(Self { optimizer: optimizer.clone(), schedule, seed, precision, checkpoint_blocks })
    }
}

/// Model and optimizer, and the one way in which a step moves them.
///
/// Between two logs the host never waits for the device: sums, gradient norm and the watch for values that are not
/// finite stay there until [`take_window`](Self::take_window) or [`check_finite`](Self::check_finite) reads them.
#[derive(Debug)]
pub struct Learner<M> {
    /// Empty only while the optimizer holds it.
    model: Option<M>,
    optimizer: Optimizer,
    schedule: Schedule,
    max_grad_norm: f64,
    seed: u64,
    precision: Precision,
    checkpoint_blocks: bool,
    device: Device,
    guard: Guard,
    /// In `f16` alone.
    loss_scale: Option<LossScale>,
    window: Accumulator,
    grad_norm: Option<Tensor<1>>,
    last_lr: f64,
    /// The steps since the guard was last read.
    unchecked: Vec<UncheckedStep>,
}

#[derive(Debug)]
struct UncheckedStep {
    step: u64,
    examples: Vec<String>,
}

/// What the host knows of a step without asking the device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepStats {
    /// The step, counted from 0.
    pub step: u64,
    /// Its learning rate.
    pub lr: f64,
    /// Tokens read.
    pub tokens: u64,
    /// Targets of the first term of the loss.
    pub targets: u64,
    /// Micro-batches.
    pub micro_batches: usize,
    /// When the host had the batch and began the step.
    pub begun: Instant,
}

/// The steps since the last log.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// Sums and counts.
    pub totals: Totals,
    /// The mean loss per target over all of them.
    pub loss: f64,
    /// The learning rate of the last one.
    pub lr: f64,
    /// The global norm of the last one's gradients, before clipping; in `f16` not finite where they overflowed.
    pub grad_norm: f64,
    /// In `f16`, what the loss of the next one is multiplied by before it is differentiated.
    pub loss_scale: Option<f64>,
}

impl<M: Module> Learner<M> {
    /// A learner of `model`, which lives on an autodiff device.
    ///
    /// # Errors
    ///
    /// [`TrainError::NotTrainable`] when no parameter of `model` takes a gradient.
    pub fn new(model: M, settings: LearnerSettings) -> Result<Self, TrainError> {
        let device = model.devices().into_iter().next();
        let trainable = parameters::parameters(&model).iter().any(|parameter| parameter.trainable);
        let Some(device) = device.filter(|_| trainable) else { return Err(TrainError::NotTrainable) };
        let device = device.without_autodiff();
        Ok(Self {
            optimizer: Optimizer::new(&settings.optimizer),
            schedule: settings.schedule,
            max_grad_norm: settings.optimizer.max_grad_norm,
            seed: settings.seed,
            precision: settings.precision,
            checkpoint_blocks: settings.checkpoint_blocks,
            guard: Guard::new(&device),
            loss_scale: (settings.precision == Precision::F16).then(|| LossScale::new(&device)),
            window: Accumulator::default(),
            grad_norm: None,
            last_lr: 0.0,
            unchecked: Vec::new(),
            device,
            model: Some(model),
        })
    }

    /// Takes the parameters whose path ends in `suffix` from weight decay; biases and norms are already.
    #[must_use]
    pub fn exempt_from_decay(mut self, suffix: &str) -> Self {
        self.optimizer.exempt_from_decay(suffix);
        self
    }

    /// Makes one optimizer step, the `step`-th counted from 0, from the micro-batches of its batch.
    ///
    /// Each term of the loss is divided by its targets in the whole step before it is differentiated, so that micro-batches
    /// add up to the gradient of one large batch, whatever they hold. A term without any target in the step adds
    /// nothing.
    ///
    /// A loss or gradient that is not finite makes this step and all later ones change nothing;
    /// [`check_finite`](Self::check_finite) reports it. In `f16` a gradient that is not finite makes this step alone change nothing,
    /// and the next one scale its loss down, until that no longer helps.
    ///
    /// # Errors
    ///
    /// [`TrainError::NoTargets`] when there is nothing to learn from in the step, [`TrainError::UncountedTerm`] and
    /// [`TrainError::SumsChanged`] when `task` contradicts itself. The model is unchanged then.
    pub fn train_step<T: Task<M>>(
        &mut self,
        step: u64,
        batches: &[T::Batch],
        task: &T,
    ) -> Result<StepStats, TrainError> {
        let begun = Instant::now();
        let sizes: Vec<_> = batches.iter().map(|batch| task.size(batch)).collect();
        let whole = sum_sizes(&sizes);
        let examples: Vec<_> = batches.iter().map(|batch| task.describe(batch)).collect();
        if whole.counts.iter().all(|(_, count)| *count == 0) {
            return Err(TrainError::NoTargets { step, examples: examples.join("; ") });
        }
        let key = RandomKey::new(self.seed).fold(step);
        let mut gradients = GradientsParams::new();
        let mut total: Option<Tensor<1>> = None;
        for (index, (batch, size)) in batches.iter().zip(&sizes).enumerate() {
            let context = Context::training(self.precision, key.fold(index as u64))
                .with_checkpointed_blocks(self.checkpoint_blocks);
            let sums = task.loss(self.model(), batch, &context);
            let loss = normalised(&sums, &whole)?;
            self.window.add(sums, size)?;
            let scaled = match &self.loss_scale {
                Some(scale) => scale.scaled(loss.clone()),
                None => loss.clone(),
            };
            let more = GradientsParams::from_grads(scaled.backward(), self.model());
            gradients = accumulate(self.model(), gradients, more);
            let loss = loss.inner();
            total = Some(match total {
                Some(total) => total + loss,
                None => loss,
            });
        }
        let Some(loss) = total else { return Err(TrainError::NoTargets { step, examples: String::new() }) };
        self.unchecked.push(UncheckedStep { step, examples });
        let lr = self.schedule.lr(step);
        self.update(loss, gradients, lr);
        Ok(StepStats {
            step,
            lr,
            tokens: whole.tokens as u64,
            targets: whole.counts.first().map_or(0, |(_, count)| *count as u64),
            micro_batches: batches.len(),
            begun,
        })
    }

    /// Clips the gradients and moves the parameters by them.
    fn update(&mut self, loss: Tensor<1>, gradients: GradientsParams, lr: f64) {
        let norm = global_norm(self.model(), &gradients).unwrap_or_else(|| loss.zeros_like());
        let (norm, scale, skip) = match &mut self.loss_scale {
            Some(loss_scale) => {
                let norm = loss_scale.unscaled(norm);
                let scale = loss_scale.unscaled(clip_scale(&norm, self.max_grad_norm));
                let overflow = loss_scale.observe(&norm);
                let bad = self.guard.observe(loss, norm.clone().mask_fill(overflow.clone(), 0.0));
                (norm, scale, bad.bool_or(overflow))
            }
            None => {
                let scale = clip_scale(&norm, self.max_grad_norm);
                (norm.clone(), scale, self.guard.observe(loss, norm))
            }
        };
        let update = Update { lr, scale, skip };
        self.model = self.model.take().map(|model| self.optimizer.step(model, gradients, &update));
        self.grad_norm = Some(norm);
        self.last_lr = lr;
        self.window.count_step();
    }

    /// Reads the sums since the last call and starts anew; `None` without a step since. The one read of a log.
    ///
    /// # Errors
    ///
    /// [`TrainError::NonFinite`], as [`check_finite`](Self::check_finite).
    pub fn take_window(&mut self) -> Result<Option<Window>, TrainError> {
        if self.window.steps() == 0 {
            return Ok(None);
        }
        let norm = self.grad_norm.clone().unwrap_or_else(|| Tensor::full([1], f32::NAN, &self.device));
        let loss_scale = self.loss_scale.iter().map(LossScale::scalar);
        let values = self.guard.scalars().into_iter().chain([norm]).chain(loss_scale);
        let (totals, values) = self.window.read(values.collect());
        let (verdict, values) = values.split_at(values.len().min(Guard::SCALARS));
        self.judge(Verdict::new(verdict))?;
        self.unchecked.clear();
        self.window = Accumulator::default();
        let grad_norm = values.first().copied().unwrap_or(f64::NAN);
        Ok(Some(Window {
            loss: totals.loss(),
            totals,
            lr: self.last_lr,
            grad_norm,
            loss_scale: values.get(1).copied(),
        }))
    }

    /// Reads the sums of the window without ending it, for the state of a checkpoint.
    ///
    /// # Errors
    ///
    /// [`TrainError::NonFinite`], as [`check_finite`](Self::check_finite).
    pub fn window_totals(&self) -> Result<Totals, TrainError> {
        let (totals, values) = self.window.read(self.guard.scalars());
        self.judge(Verdict::new(&values))?;
        Ok(totals)
    }

    /// Continues a window that a checkpoint kept.
    pub fn load_window(&mut self, totals: Totals) {
        self.window = Accumulator::restored(totals, &self.device);
    }

    /// Reads whether every loss and gradient so far was finite.
    ///
    /// # Errors
    ///
    /// [`TrainError::NonFinite`] with the first step that was not, and its examples. Model and optimizer are as that
    /// step found them, and stay so.
    pub fn check_finite(&self) -> Result<(), TrainError> {
        self.judge(Verdict::new(&read_scalars(self.guard.scalars())))
    }

    fn judge(&self, verdict: Verdict) -> Result<(), TrainError> {
        let Verdict::Bad { steps, loss } = verdict else { return Ok(()) };
        let first = self.unchecked.len().checked_sub(steps).and_then(|index| self.unchecked.get(index));
        Err(TrainError::NonFinite {
            what: if loss { "loss" } else { "gradient" },
            step: first.map_or(0, |first| first.step),
            examples: first.map_or_else(String::new, |first| first.examples.join("; ")),
            kept: String::new(),
        })
    }

    /// The model.
    #[allow(clippy::expect_used)]
    pub fn model(&self) -> &M {
        // `update` takes it out and puts it back within one expression.
        self.model.as_ref().expect("the model is with the optimizer")
    }

    /// The model for evaluation: the same weights, without differentiation. Drop it before the next step, which would
    /// copy the weights otherwise.
    pub fn valid(&self) -> M {
        self.model().valid()
    }

    /// The device, without autodiff.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The learning rate of each step.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// Continues with the schedule that a run began with.
    pub fn set_schedule(&mut self, schedule: Schedule) {
        self.schedule = schedule;
    }

    /// The type of matrix products.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The parameters in visiting order.
    pub fn parameters(&self) -> Vec<ParameterInfo> {
        parameters::parameters(self.model())
    }

    /// The number of parameters' elements, those that are not trained among them.
    pub fn num_parameters(&self) -> usize {
        self.parameters().iter().map(ParameterInfo::num_elements).sum()
    }

    /// The number of elements of the parameters that are trained: fewer than all with frozen layers or LoRA.
    pub fn num_trained_parameters(&self) -> usize {
        self.parameters().iter().filter(|parameter| parameter.trainable).map(ParameterInfo::num_elements).sum()
    }

    /// Copies the parameters to the host, by path and bit for bit.
    ///
    /// # Errors
    ///
    /// [`TrainError::NonFinite`], so that a model that has met a bad step is never saved.
    pub fn export_parameters(&self) -> Result<NamedTensors, TrainError> {
        self.check_finite()?;
        Ok(parameters::export_parameters(self.model()))
    }

    /// Gives the parameters the values of `tensors`.
    ///
    /// # Errors
    ///
    /// When names or shapes don't agree with the model's. The model is unchanged then.
    pub fn load_parameters(&mut self, tensors: NamedTensors) -> Result<(), TrainError> {
        let model = parameters::load_parameters(self.model().clone(), tensors)?;
        self.model = Some(model);
        Ok(())
    }

    /// Copies the state of the optimizer to the host, its number of updates and the scale of the loss included.
    ///
    /// # Errors
    ///
    /// [`TrainError::NonFinite`], as [`export_parameters`](Self::export_parameters).
    pub fn export_optimizer(&self) -> Result<NamedTensors, TrainError> {
        self.check_finite()?;
        let mut tensors = self.optimizer.export(self.model());
        tensors.extend(self.loss_scale.iter().map(|scale| (LOSS_SCALE.to_owned(), scale.export())));
        Ok(tensors)
    }

    /// Continues from an exported state of the optimizer.
    ///
    /// # Errors
    ///
    /// When names or shapes don't agree with the model's. The optimizer is unchanged then.
    pub fn load_optimizer(&mut self, mut tensors: NamedTensors) -> Result<(), TrainError> {
        let Self { model: Some(model), optimizer, device, loss_scale, .. } = self else { return Ok(()) };
        let loaded = match loss_scale {
            Some(_) => {
                let at = tensors.iter().position(|(name, _)| name == LOSS_SCALE);
                Some(LossScale::load(at.map(|at| tensors.swap_remove(at).1), device)?)
            }
            None => None,
        };
        optimizer.load(model, tensors, device)?;
        *loss_scale = loaded;
        Ok(())
    }
}

/// Targets and tokens of all micro-batches.
fn sum_sizes(sizes: &[BatchSize]) -> BatchSize {
    let mut whole = BatchSize::default();
    for size in sizes {
        whole.tokens += size.tokens;
        for (name, count) in &size.counts {
            match whole.counts.iter_mut().find(|(known, _)| known == name) {
                Some((_, sum)) => *sum += count,
                None => whole.counts.push((name, *count)),
            }
        }
    }
    whole
}

/// The share of one micro-batch in the loss of its step.
fn normalised(sums: &Sums, whole: &BatchSize) -> Result<Tensor<1>, TrainError> {
    let mut loss: Option<Tensor<1>> = None;
    for term in &sums.terms {
        let share = match count_of(whole, term.name)? {
            0 => continue,
            count => term.sum.clone().mul_scalar(term.weight / count as f64),
        };
        loss = Some(match loss {
            Some(loss) => loss + share,
            None => share,
        });
    }
    loss.ok_or_else(|| TrainError::UncountedTerm {
        term: "(none)".to_owned(),
        counted: whole.counts.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", "),
    })
}

#[cfg(test)]
mod tests;
