use burn::{
    module::{Module, ModuleVisitor, Param, ParamId},
    tensor::{Bool, Device, Int, Shape, Tensor},
};
use sha2::{Digest, Sha256};

/// What a parameter is called and how large it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterInfo {
    /// Field names and indices joined by dots: `blocks.0.attention.query_key_value.weight`.
    pub path: String,
    /// Sizes of its axes.
    pub shape: Vec<usize>,
    /// What optimizer state and records are keyed by; after [`initialise`](crate::initialise) a function of the path.
    pub id: ParamId,
}

impl ParameterInfo {
    /// How many numbers it holds.
    pub fn num_elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// The parameters of `module`, in visiting order; makes none that isn't made yet.
pub fn parameters<M: Module>(module: &M) -> Vec<ParameterInfo> {
    let mut list = List::default();
    module.visit(&mut list);
    list.found
}

#[derive(Default)]
struct List {
    path: Path,
    found: Vec<ParameterInfo>,
}

impl List {
    fn push(&mut self, shape: Shape, id: ParamId) {
        self.found.push(ParameterInfo { path: self.path.to_string(), shape: shape.to_vec(), id });
    }
}

impl ModuleVisitor for List {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.push(param.lazy_shape(), param.id);
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        self.push(param.lazy_shape(), param.id);
    }

    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        self.push(param.lazy_shape(), param.id);
    }
}

/// The place in a module tree where a visit stands.
#[derive(Default)]
pub(crate) struct Path(Vec<String>);

impl Path {
    pub(crate) fn enter(&mut self, name: &str) {
        self.0.push(name.to_owned());
    }

    pub(crate) fn exit(&mut self) {
        self.0.pop();
    }
}

impl std::fmt::Display for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

/// The id of the parameter at `path`: the first 64 bits of its SHA-256.
pub(crate) fn id_of(path: &str) -> ParamId {
    let hash: [u8; 32] = Sha256::digest(path.as_bytes()).into();
    let [a, b, c, d, e, f, g, h, ..] = hash;
    ParamId::from(u64::from_le_bytes([a, b, c, d, e, f, g, h]))
}

/// A trainable parameter that is made, filled with `value`, when it is first read.
pub fn constant<const D: usize>(shape: [usize; D], value: f64, device: &Device) -> Param<Tensor<D>> {
    Param::uninitialized(
        ParamId::new(),
        move |device, require_grad| {
            let tensor = Tensor::full(shape, value, device);
            if require_grad { tensor.require_grad() } else { tensor }
        },
        device.clone(),
        true,
        Shape::from(shape),
    )
}
