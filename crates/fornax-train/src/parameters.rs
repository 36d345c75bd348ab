//! The float parameters of a module by path: dot-joined field names and indices, `blocks.0.attention.weight`.

use std::collections::{HashMap, HashSet};

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId},
    tensor::{DType, Device, Tensor, TensorData},
};

use crate::{NamedTensors, TrainError};

/// One parameter of a module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterInfo {
    /// Where it is.
    pub path: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Whether it gets a gradient.
    pub trainable: bool,
    /// What gradients are stored under.
    pub id: ParamId,
}

impl ParameterInfo {
    /// Its number of elements.
    pub fn num_elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// The parameters of `module` in visiting order. One that stands at several places is listed at the first.
pub fn parameters<M: Module>(module: &M) -> Vec<ParameterInfo> {
    visit(module, List(Vec::new())).0
}

/// Copies the parameters of `module` to the host, in visiting order and bit for bit.
///
/// Reads the device once for each.
pub fn export_parameters<M: Module>(module: &M) -> NamedTensors {
    visit(module, Export(Vec::new())).0
}

/// Gives the parameters of `module` the values of `tensors`, keeping ids, devices and what is trained.
///
/// # Errors
///
/// When a parameter is missing, has another shape, or `tensors` has one that `module` lacks.
pub fn load_parameters<M: Module>(module: M, tensors: NamedTensors) -> Result<M, TrainError> {
    let mut tensors = check_parameters(&module, tensors)?;
    Ok(module.map(&mut Loader { path: Vec::new(), tensors: &mut tensors }))
}

/// Checks names and shapes before anything is changed.
fn check_parameters<M: Module>(module: &M, tensors: NamedTensors) -> Result<HashMap<String, TensorData>, TrainError> {
    let tensors: HashMap<_, _> = tensors.into_iter().collect();
    let wanted = parameters(module);
    for ParameterInfo { path, shape, .. } in &wanted {
        let stored = tensors.get(path).ok_or_else(|| TrainError::MissingTensor { name: path.clone() })?;
        check_tensor(path, stored, shape)?;
    }
    if tensors.len() > wanted.len() {
        let wanted: HashSet<_> = wanted.iter().map(|parameter| parameter.path.as_str()).collect();
        let mut unknown: Vec<_> = tensors.keys().filter(|name| !wanted.contains(name.as_str())).cloned().collect();
        unknown.sort_unstable();
        return Err(TrainError::UnexpectedTensor { name: unknown.swap_remove(0) });
    }
    Ok(tensors)
}

/// Checks that a stored tensor has the wanted shape and is of floating point.
pub(crate) fn check_tensor(name: &str, stored: &TensorData, shape: &[usize]) -> Result<(), TrainError> {
    if stored.shape().as_slice() == shape && stored.dtype().is_float() {
        return Ok(());
    }
    Err(TrainError::TensorMismatch {
        name: name.to_owned(),
        stored: format!("{:?} {:?}", stored.dtype(), stored.shape().as_slice()),
        wanted: format!("F32 {shape:?}"),
    })
}

/// Puts a stored tensor onto `device`, as `f32`.
pub(crate) fn to_tensor<const D: usize>(stored: TensorData, device: &Device) -> Tensor<D> {
    Tensor::from_data(stored, (device, DType::F32))
}

/// Replaces the value of `param`, keeping its id and how it takes part in differentiation.
///
/// `change` gets the plain tensor and is its only owner where nobody else holds the parameter, so that a backend may
/// work in place.
pub(crate) fn replace_value<const D: usize>(
    param: Param<Tensor<D>>,
    change: impl FnOnce(Tensor<D>) -> Tensor<D>,
) -> Param<Tensor<D>> {
    let (id, value, mapper) = param.consume();
    if !value.is_autodiff() {
        return Param::from_mapped_value(id, change(value), mapper);
    }
    let trainable = value.is_require_grad();
    let strategy = value.gradient_checkpointing_strategy();
    let mut value = Tensor::from_inner(change(value.inner()));
    if let Some(strategy) = strategy {
        value = value.with_gradient_checkpointing_strategy(strategy);
    }
    Param::from_mapped_value(id, value.set_require_grad(trainable), mapper)
}

/// A visitor that is told the path, and meets each parameter once.
pub(crate) trait ParameterVisitor {
    /// Looks at one parameter.
    fn visit<const D: usize>(&mut self, path: &str, param: &Param<Tensor<D>>);
}

/// Sends `visitor` through `module` and returns it.
pub(crate) fn visit<M: Module, V: ParameterVisitor>(module: &M, visitor: V) -> V {
    let mut walk = Walk { path: Vec::new(), seen: HashSet::new(), visitor };
    module.visit(&mut walk);
    walk.visitor
}

struct Walk<V> {
    path: Vec<String>,
    seen: HashSet<ParamId>,
    visitor: V,
}

impl<V: ParameterVisitor> ModuleVisitor for Walk<V> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if self.seen.insert(param.id) {
            self.visitor.visit(&self.path.join("."), param);
        }
    }
}

struct List(Vec<ParameterInfo>);

impl ParameterVisitor for List {
    fn visit<const D: usize>(&mut self, path: &str, param: &Param<Tensor<D>>) {
        self.0.push(ParameterInfo {
            path: path.to_owned(),
            shape: param.lazy_shape().to_vec(),
            trainable: param.is_require_grad(),
            id: param.id,
        });
    }
}

struct Export(NamedTensors);

/// The same numbers in memory of their own. On wgpu, what a tensor gives is read when it is first looked at, and by then a later step may
/// have been made in its place.
pub(crate) fn on_host(data: TensorData) -> TensorData {
    TensorData::from_bytes_vec(data.as_bytes().to_vec(), data.shape().clone(), data.dtype())
}

impl ParameterVisitor for Export {
    fn visit<const D: usize>(&mut self, path: &str, param: &Param<Tensor<D>>) {
        self.0.push((path.to_owned(), on_host(param.base().into_data())));
    }
}

struct Loader<'a> {
    path: Vec<String>,
    tensors: &'a mut HashMap<String, TensorData>,
}

impl ModuleMapper for Loader<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        match self.tensors.remove(&self.path.join(".")) {
            Some(stored) => replace_value(param, |value| to_tensor(stored, &value.device())),
            None => param,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Tiny, bits};

    #[test]
    fn parameters_are_listed_in_order_with_path_and_shape() {
        let model = Tiny::new(&fornax_backend::test_device().autodiff());
        let found: Vec<_> = parameters(&model).into_iter().map(|p| (p.path, p.shape, p.trainable)).collect();
        assert_eq!(found, [("weight".to_owned(), vec![2, 3], true), ("bias".to_owned(), vec![3], true)]);
        assert!(!parameters(&model.valid())[0].trainable);
    }

    #[test]
    fn values_come_back_bit_for_bit_and_stay_trainable() {
        let device = fornax_backend::test_device().autodiff();
        let odd = f32::from_bits(0x3f80_0001);
        let mut other = Tiny::new(&device);
        other.bias = Param::from_data([odd, -0.0, f32::MIN_POSITIVE], &device);
        let stored = export_parameters(&other);
        let model = Tiny::new(&device);
        let id = model.bias.id;
        let model = load_parameters(model, stored.clone()).unwrap();
        assert_eq!(bits(&export_parameters(&model)), bits(&stored));
        assert_eq!(model.bias.id, id);
        let gradients = (model.bias.val() * 2.0).sum().backward();
        assert_eq!(model.bias.val().grad(&gradients).unwrap().into_data().try_to_vec::<f32>().unwrap(), [2.0; 3]);
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        let model = Tiny::new(&fornax_backend::test_device().autodiff());
        let stored = export_parameters(&model);
        let refused = |tensors: NamedTensors| load_parameters(model.clone(), tensors).unwrap_err().to_string();
        assert_eq!(refused(stored[..1].to_vec()), "tensor `bias` is missing");
        let mut renamed = stored.clone();
        renamed.push(("lm_head".to_owned(), TensorData::from([1.0f32])));
        assert_eq!(refused(renamed), "the model has no place for the tensor `lm_head`");
        let mut reshaped = stored;
        reshaped[1].1 = TensorData::from([0.0f32; 4]);
        assert_eq!(refused(reshaped), "tensor `bias`: stored is F32 [4], the model wants F32 [3]");
    }
}
