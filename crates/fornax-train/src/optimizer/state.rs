//! What an optimizer keeps of each parameter, on the device and as named host tensors.

use std::collections::{BTreeMap, HashMap};

use burn::{
    module::{Module, Param, ParamId},
    tensor::{DType, Device, Tensor, TensorData, container::TensorContainer},
};

use super::{Kept, Rule};
use crate::{
    NamedTensors, TrainError,
    parameters::{ParameterVisitor, check_tensor, on_host, to_tensor, visit},
};

/// The entry of an exported state that holds the number of updates.
const STEPS: &str = "steps";

/// The tensors of all parameters by slot.
#[derive(Debug, Default)]
pub(super) struct State(BTreeMap<&'static str, TensorContainer<ParamId>>);

impl State {
    /// Takes out what is kept of a parameter, so that nobody else owns it; zeros for what was never kept.
    pub(super) fn take<const D: usize>(
        &mut self,
        id: ParamId,
        slots: &[(&'static str, Vec<usize>)],
        device: &Device,
    ) -> Kept<D> {
        let take = |(name, shape): &(&'static str, Vec<usize>)| {
            let known = self.0.get_mut(name).and_then(|slot| slot.remove::<Tensor<D>>(&id));
            known.unwrap_or_else(|| Tensor::zeros(shape.clone(), (device, DType::F32)))
        };
        slots.iter().map(take).collect()
    }

    /// Puts back what [`take`](Self::take) took.
    pub(super) fn put<const D: usize>(&mut self, id: ParamId, slots: &[(&'static str, Vec<usize>)], kept: Kept<D>) {
        for ((name, _), tensor) in slots.iter().zip(kept) {
            self.0.entry(name).or_default().register(id, tensor);
        }
    }
}

/// See [`Optimizer::export`](super::Optimizer::export).
pub(super) fn export<M: Module>(steps: u64, state: &State, rule: &Rule, model: &M) -> NamedTensors {
    let mut tensors = vec![(STEPS.to_owned(), TensorData::from([steps as i64]))];
    visit(model, Export { state, rule, tensors: &mut tensors });
    tensors
}

/// See [`Optimizer::load`](super::Optimizer::load).
pub(super) fn load<M: Module>(
    tensors: NamedTensors,
    rule: &Rule,
    model: &M,
    device: &Device,
) -> Result<(u64, State), TrainError> {
    let mut tensors: HashMap<_, _> = tensors.into_iter().collect();
    let steps = tensors.remove(STEPS).and_then(|data| data.iter::<i64>().next());
    let steps = steps.and_then(|steps| u64::try_from(steps).ok()).ok_or_else(|| missing(STEPS))?;
    let Load { tensors, state, error, .. } =
        visit(model, Load { tensors, rule, device, state: State::default(), error: None });
    if let Some(error) = error {
        return Err(error);
    }
    match tensors.into_keys().min() {
        Some(name) => Err(TrainError::UnexpectedTensor { name }),
        None => Ok((steps, state)),
    }
}

struct Export<'a> {
    state: &'a State,
    rule: &'a Rule,
    tensors: &'a mut NamedTensors,
}

impl ParameterVisitor for Export<'_> {
    fn visit<const D: usize>(&mut self, path: &str, param: &Param<Tensor<D>>) {
        for (name, _) in self.rule.slots(&param.lazy_shape()) {
            if let Some(tensor) = self.state.0.get(name).and_then(|slot| slot.get::<Tensor<D>>(&param.id)) {
                self.tensors.push((format!("{path}.{name}"), on_host(tensor.into_data())));
            }
        }
    }
}

struct Load<'a> {
    tensors: HashMap<String, TensorData>,
    rule: &'a Rule,
    device: &'a Device,
    state: State,
    error: Option<TrainError>,
}

impl Load<'_> {
    /// Moves what is stored of one parameter into the state; nothing for one that was never moved.
    fn read<const D: usize>(&mut self, path: &str, param: &Param<Tensor<D>>) -> Result<(), TrainError> {
        let slots = self.rule.slots(&param.lazy_shape());
        let names: Vec<_> = slots.iter().map(|(slot, _)| format!("{path}.{slot}")).collect();
        let found: Vec<_> = names.iter().map(|name| self.tensors.remove(name)).collect();
        if found.iter().all(Option::is_none) {
            return Ok(());
        }
        let mut kept = Vec::with_capacity(slots.len());
        for ((name, stored), (_, shape)) in names.iter().zip(found).zip(&slots) {
            let stored = stored.ok_or_else(|| missing(name))?;
            check_tensor(name, &stored, shape)?;
            kept.push(to_tensor::<D>(stored, self.device));
        }
        self.state.put(param.id, &slots, kept);
        Ok(())
    }
}

impl ParameterVisitor for Load<'_> {
    fn visit<const D: usize>(&mut self, path: &str, param: &Param<Tensor<D>>) {
        if let Err(error) = self.read(path, param) {
            self.error = self.error.take().or(Some(error));
        }
    }
}

fn missing(name: &str) -> TrainError {
    TrainError::MissingTensor { name: name.to_owned() }
}
