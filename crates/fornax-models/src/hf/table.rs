use std::collections::{BTreeMap, BTreeSet};

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    tensor::{DType, Tensor, TensorData},
};
use safetensors::Dtype;

use super::{Archive, HostTensor, LoadReport, TensorProblem};
use crate::ModelError;

/// How a matrix is stored on the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// The same axes: vectors, embeddings, and `Conv1D` weights (`[in, out]`).
    Same,
    /// `torch.nn.Linear` keeps `[out, in]`; ours are `[in, out]`.
    Transposed,
}

/// What a Hugging Face checkpoint of one architecture calls each of our parameters. Serves both directions.
#[derive(Clone, Debug)]
pub struct TensorTable {
    /// Written before every name; on reading it may be absent, as in checkpoints of the model without its head.
    pub prefix: &'static str,
    /// Our parameter path, its name without the prefix, its layout.
    pub entries: Vec<(String, String, Layout)>,
    /// Tensors that the other side has and we lack because they are zero, with their shapes: written as zeros, and
    /// refused on reading when they aren't.
    pub zeros: Vec<(String, Vec<usize>)>,
    /// `(copy, original)`: names (`copy` as it is, `original` without prefix) that may stand for one tied tensor.
    pub tied: Vec<(&'static str, &'static str)>,
    /// Whether a name without the prefix is a buffer that old versions stored and that holds nothing learned.
    pub is_buffer: fn(&str) -> bool,
}

/// Our paths, each with the name and layout that it has in an archive.
type Sources = BTreeMap<String, (String, Layout)>;

impl TensorTable {
    /// Fills every parameter of `module` from `archive`, as `f32`, on the device where it is; ids stay.
    ///
    /// # Errors
    ///
    /// [`ModelError::Weights`] with all tensors that do not fit; `module` is then dropped.
    ///
    /// # Panics
    ///
    /// When the table and the module's parameters are not one to one.
    pub fn load<M: Module>(&self, module: M, archive: &Archive) -> Result<(M, LoadReport), ModelError> {
        let (sources, report) = self.check(&shapes(&module), archive)?;
        let module = module.map(&mut Fill { place: Place::default(), sources, archive });
        Ok((module, report))
    }

    /// The tensors of `module` under their Hugging Face names and layouts, as `f32` on the host.
    ///
    /// # Panics
    ///
    /// When the table and the module's parameters are not one to one.
    pub fn export<M: Module>(&self, module: &M) -> BTreeMap<String, HostTensor> {
        let mut collect = Collect::default();
        module.visit(&mut collect);
        self.assert_covers(collect.tensors.keys());
        let mut tensors = BTreeMap::new();
        for (path, name, layout) in &self.entries {
            let Some(tensor) = collect.tensors.remove(path) else { continue };
            let tensor = if *layout == Layout::Transposed { transpose(tensor) } else { tensor };
            tensors.insert(format!("{}{name}", self.prefix), tensor);
        }
        for (name, shape) in &self.zeros {
            let zeros = HostTensor { shape: shape.clone(), values: vec![0.0; shape.iter().product()] };
            tensors.insert(format!("{}{name}", self.prefix), zeros);
        }
        tensors
    }

    /// Maps our paths to names in the archive, after every tensor was found to fit.
    fn check(
        &self,
        shapes: &BTreeMap<String, Vec<usize>>,
        archive: &Archive,
    ) -> Result<(Sources, LoadReport), ModelError> {
        self.assert_covers(shapes.keys());
        let mut check = Check { table: self, archive, seen: BTreeSet::new(), problems: Vec::new() };
        let (mut sources, mut report) = (BTreeMap::new(), LoadReport::default());
        for (path, name, layout) in &self.entries {
            let mut wanted = shapes[path].clone();
            if *layout == Layout::Transposed {
                wanted.reverse();
            }
            if let Some(stored) = check.find(name, &wanted) {
                if archive.dtype(&stored) != Some(Dtype::F32) {
                    report.widened.push(stored.clone());
                }
                report.loaded.push(stored.clone());
                sources.insert(path.clone(), (stored, *layout));
            }
        }
        for (name, wanted) in &self.zeros {
            if let Some(stored) = check.find(name, wanted) {
                if archive.read(&stored).is_some_and(|values| values.iter().any(|x| *x != 0.0)) {
                    check.problems.push(TensorProblem::NotZero { name: stored.clone() });
                }
                report.ignored.push(stored);
            }
        }
        report.ignored.extend(check.leftovers());
        match check.problems.is_empty() {
            true => Ok((sources, report)),
            false => Err(ModelError::Weights { dir: archive.dir().to_owned(), problems: check.problems }),
        }
    }

    fn assert_covers<'a>(&self, paths: impl Iterator<Item = &'a String>) {
        let ours: BTreeSet<&String> = paths.collect();
        let table: BTreeSet<&String> = self.entries.iter().map(|(path, ..)| path).collect();
        assert_eq!(ours, table, "a tensor table must name each parameter of its model once");
    }
}

/// One pass over an archive: what was found, what is left, what does not fit.
struct Check<'a> {
    table: &'a TensorTable,
    archive: &'a Archive,
    seen: BTreeSet<String>,
    problems: Vec<TensorProblem>,
}

impl Check<'_> {
    /// The stored name of a tensor of the wanted shape, with or without the prefix.
    fn find(&mut self, name: &str, wanted: &[usize]) -> Option<String> {
        let full = format!("{}{name}", self.table.prefix);
        let stored = [full.as_str(), name].into_iter().find(|n| self.archive.shape(n).is_some());
        let Some(stored) = stored.map(str::to_owned) else {
            self.problems.push(TensorProblem::Missing { name: full, wanted: wanted.to_vec() });
            return None;
        };
        self.seen.insert(stored.clone());
        let found = self.archive.shape(&stored)?.to_vec();
        let dtype = self.archive.dtype(&stored)?;
        if found != wanted {
            self.problems.push(TensorProblem::Shape { name: stored, found, wanted: wanted.to_vec() });
            None
        } else if !matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            self.problems.push(TensorProblem::ElementType { name: stored, found: format!("{dtype:?}") });
            None
        } else {
            Some(stored)
        }
    }

    /// Sorts the tensors that nothing asked for into those without information, returned, and problems.
    fn leftovers(&mut self) -> Vec<String> {
        let mut ignored = Vec::new();
        for name in self.archive.names().filter(|name| !self.seen.contains(*name)) {
            let bare = name.strip_prefix(self.table.prefix).unwrap_or(name);
            if (self.table.is_buffer)(bare) {
                ignored.push(name.to_owned());
            } else if let Some((_, original)) = self.table.tied.iter().find(|(copy, _)| *copy == name) {
                let full = format!("{}{original}", self.table.prefix);
                let original = if self.archive.shape(&full).is_some() { full } else { (*original).to_owned() };
                if self.archive.shape(name) == self.archive.shape(&original)
                    && self.archive.read(name) == self.archive.read(&original)
                {
                    ignored.push(name.to_owned());
                } else {
                    self.problems.push(TensorProblem::NotTied { name: name.to_owned(), original });
                }
            } else {
                let found = self.archive.shape(name).unwrap_or_default().to_vec();
                self.problems.push(TensorProblem::Unexpected { name: name.to_owned(), found });
            }
        }
        ignored
    }
}

fn transpose(tensor: HostTensor) -> HostTensor {
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
                ("weight".to_owned(), "dense.weight".to_owned(), Layout::Transposed),
                ("bias".to_owned(), "dense.bias".to_owned(), Layout::Same),
            ],
            zeros: Vec::new(),
            tied: Vec::new(),
            is_buffer: |_| false,
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
