use std::collections::{BTreeMap, BTreeSet};

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    tensor::{DType, Tensor, TensorData},
};

use super::{Archive, HostTensor, LoadReport, check::Check};
use crate::ModelError;

/// How a matrix is stored on the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// The same axes: vectors, embeddings, and `Conv1D` weights (`[in, out]`).
    Same,
    /// `torch.nn.Linear` keeps `[out, in]`; ours are `[in, out]`.
    Transposed,
}

/// What becomes of a parameter whose tensor a checkpoint lacks or has in another shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// Both are errors.
    Required,
    /// One that lacks it leaves the parameter's initial numbers; another shape is an error.
    Optional,
    /// Both leave the initial numbers.
    Replaceable,
}

/// One of our parameters and its tensor on the other side.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The path of the parameter in the module.
    pub path: String,
    /// The name of the tensor as it is written, prefix and all.
    pub name: String,
    /// How the tensor is stored.
    pub layout: Layout,
    /// Whether a checkpoint must have it.
    pub demand: Demand,
}

impl Entry {
    /// An entry of a tensor that must be there.
    pub fn new(path: impl Into<String>, name: impl Into<String>, layout: Layout) -> Self {
        Self { path: path.into(), name: name.into(), layout, demand: Demand::Required }
    }
}

/// What a Hugging Face checkpoint of one architecture calls each of our parameters. Serves both directions.
///
/// On reading, `prefix` may be absent or present in front of any name, and a name may end as in old versions (`renamed`).
#[derive(Clone, Debug)]
pub struct TensorTable {
    /// What models with a head put in front of the names of their backbone, and what the bare backbone leaves out.
    pub prefix: &'static str,
    /// One for each parameter.
    pub entries: Vec<Entry>,
    /// Tensors that the other side has and we lack because they are zero, with their shapes: written as zeros, and
    /// refused on reading when they aren't.
    pub zeros: Vec<(String, Vec<usize>)>,
    /// `(copy, original)`: names without the prefix that may stand for one tied tensor. Written is the original; read is the
    /// copy where the original is missing.
    pub tied: Vec<(&'static str, &'static str)>,
    /// `(old, new)` ends of names.
    pub renamed: &'static [(&'static str, &'static str)],
    /// Whether a name without the prefix is a buffer that old versions stored and that holds nothing learned.
    pub is_buffer: fn(&str) -> bool,
    /// Whether a name, as it is stored, is outside the backbone, so that a model without such a head passes it over.
    pub is_foreign: fn(&str) -> bool,
}

/// Our paths, each with the stored name and the layout of its tensor.
pub(super) type Sources = BTreeMap<String, (String, Layout)>;

impl TensorTable {
    /// Fills the parameters of `module` from `archive`, as `f32`, on the device where they are; ids stay.
    ///
    /// # Errors
    ///
    /// [`ModelError::Weights`] with all tensors that do not fit; `module` is then dropped.
    ///
    /// # Panics
    ///
    /// When the table and the module's parameters are not one to one.
    pub fn load<M: Module>(&self, module: M, archive: &Archive) -> Result<(M, LoadReport), ModelError> {
        let shapes = shapes(&module);
        self.assert_covers(shapes.keys());
        let (sources, report) = Check::run(self, &shapes, archive)?;
        let module = module.map(&mut Fill { place: Place::default(), sources, archive });
        Ok((module, report))
    }

    /// The tensors of `module` under their Hugging Face names and layouts, as `f32` on the host.
    ///
    /// # Panics
    ///
    /// When the table and the module's parameters are not one to one.
    pub fn export<M: Module>(&self, module: &M) -> BTreeMap<String, HostTensor> {
        let mut found = read_parameters(module);
        self.assert_covers(found.keys());
        let mut tensors = BTreeMap::new();
        for Entry { path, name, layout, .. } in &self.entries {
            let Some(tensor) = found.remove(path) else { continue };
            let tensor = if *layout == Layout::Transposed { transpose(tensor) } else { tensor };
            tensors.insert(name.clone(), tensor);
        }
        for (name, shape) in &self.zeros {
            let zeros = HostTensor { shape: shape.clone(), values: vec![0.0; shape.iter().product()] };
            tensors.insert(name.clone(), zeros);
        }
        tensors
    }

    fn assert_covers<'a>(&self, paths: impl Iterator<Item = &'a String>) {
        let ours: BTreeSet<&String> = paths.collect();
        let table: BTreeSet<&String> = self.entries.iter().map(|entry| &entry.path).collect();
        assert_eq!(ours, table, "a tensor table must name each parameter of its model once");
    }
}

pub(super) fn transpose(tensor: HostTensor) -> HostTensor {
    let [rows, columns] = tensor.shape[..] else { return tensor };
    let values = (0..columns).flat_map(|c| (0..rows).map(move |r| r * columns + c)).map(|i| tensor.values[i]).collect();
    HostTensor { shape: vec![columns, rows], values }
}

/// Where a walk over a module stands.
#[derive(Default)]
struct Place(Vec<String>);

impl Place {
    fn enter(&mut self, name: &str) {
        self.0.push(name.to_owned());
    }

    fn exit(&mut self) {
        self.0.pop();
    }

    fn join(&self) -> String {
        self.0.join(".")
    }
}

struct Fill<'a> {
    place: Place,
    sources: Sources,
    archive: &'a Archive,
}

impl ModuleMapper for Fill<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.place.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.place.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some((name, layout)) = self.sources.get(&self.place.join()) else { return param };
        let (Some(shape), Some(values)) = (self.archive.shape(name), self.archive.read(name)) else { return param };
        let tensor = HostTensor { shape: shape.to_vec(), values };
        let tensor = if *layout == Layout::Transposed { transpose(tensor) } else { tensor };
        let data = TensorData::new(tensor.values, tensor.shape);
        let (id, device) = (param.id, param.lazy_device());
        param.transform_for_load(Tensor::from_data(data, (&device, DType::F32)), id)
    }
}

/// Every parameter by its path, on the host.
pub(super) fn read_parameters<M: Module>(module: &M) -> BTreeMap<String, HostTensor> {
    let mut collect = Collect::default();
    module.visit(&mut collect);
    collect.tensors
}

#[derive(Default)]
struct Collect {
    place: Place,
    tensors: BTreeMap<String, HostTensor>,
}

impl ModuleVisitor for Collect {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.place.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.place.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let data = param.val().into_data();
        let shape = data.shape().to_vec();
        // Number by number only where a backend keeps parameters in another type.
        let values = data.try_to_vec::<f32>().unwrap_or_else(|_| data.iter::<f32>().collect());
        let tensor = HostTensor { shape, values };
        self.tensors.insert(self.place.join(), tensor);
    }
}

/// The shape of each parameter by path, without reading any.
fn shapes<M: Module>(module: &M) -> BTreeMap<String, Vec<usize>> {
    fornax_nn::parameters(module).into_iter().map(|p| (p.path, p.shape)).collect()
}

#[cfg(test)]
mod tests {
    use fornax_backend::test_device;
    use fornax_nn::{Init, Linear, initialise};

    use super::*;
    use crate::hf::write_safetensors;

    fn table() -> TensorTable {
        TensorTable {
            prefix: "model.",
            entries: vec![
                Entry::new("weight", "model.dense.weight", Layout::Transposed),
                Entry::new("bias", "model.dense.bias", Layout::Same),
            ],
            zeros: Vec::new(),
            tied: Vec::new(),
            renamed: &[],
            is_buffer: |_| false,
            is_foreign: |_| false,
        }
    }

    fn layer(seed: u64) -> Linear {
        initialise(Linear::new(2, 3, true, &test_device()), seed, |_, _| Init::Normal { mean: 0.0, std: 1.0 })
    }

    #[test]
    fn matrices_are_transposed_both_ways() {
        let layer_1 = layer(1);
        let exported = table().export(&layer_1);
        let ours: Vec<f32> = layer_1.weight.val().into_data().iter::<f32>().collect();
        let theirs = &exported["model.dense.weight"];
        assert_eq!(theirs.shape, [3, 2]);
        assert_eq!(theirs.values, [0, 3, 1, 4, 2, 5].map(|i| ours[i]));

        let dir = tempfile::tempdir().unwrap();
        write_safetensors(&dir.path().join("model.safetensors"), &exported).unwrap();
        let (restored, report) = table().load(layer(2), &Archive::open(dir.path()).unwrap()).unwrap();
        assert_eq!(report.loaded, ["model.dense.weight", "model.dense.bias"]);
        assert_eq!(table().export(&restored), exported);
    }

    #[test]
    #[should_panic(expected = "name each parameter of its model once")]
    fn a_table_that_forgets_a_parameter_is_refused() {
        let mut table = table();
        table.entries.pop();
        table.export(&layer(1));
    }
}
