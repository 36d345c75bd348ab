//! Against the reference implementations: what `tests/fixtures/generate_optimizers.py` wrote with pinned versions.

use std::{collections::BTreeMap, fs};

use burn::{
    module::{Module, Param},
    optim::GradientsParams,
    tensor::{Device, Tensor, TensorData},
};
use serde::Deserialize;

use super::{Optimizer, OptimizerConfig};
use crate::{
    Schedule, ScheduleConfig, export_parameters,
    testing::{assert_close, update, values},
};

/// Values by name, row by row.
type Values = BTreeMap<String, Vec<f32>>;

#[derive(Deserialize)]
struct Fixture {
    start: Values,
    gradients: Vec<Values>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    optimizer: OptimizerConfig,
    schedule: ScheduleConfig,
    /// By the number of steps made.
    after: BTreeMap<u64, BTreeMap<String, Vec<f64>>>,
}

#[derive(Module, Debug)]
struct Three {
    matrix: Param<Tensor<2>>,
    vector: Param<Tensor<1>>,
    cube: Param<Tensor<3>>,
}

fn tensor<const D: usize>(values: &Values, name: &str, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values[name].clone(), shape), device)
}

impl Three {
    fn new(values: &Values, device: &Device) -> Self {
        Self {
            matrix: Param::from_tensor(tensor(values, "matrix", [4, 3], device)),
            vector: Param::from_tensor(tensor(values, "vector", [5], device)),
            cube: Param::from_tensor(tensor(values, "cube", [2, 3, 4], device)),
        }
    }

    fn gradients(&self, values: &Values, device: &Device) -> GradientsParams {
        let mut gradients = GradientsParams::new();
        gradients.register(self.matrix.id, tensor::<2>(values, "matrix", [4, 3], device));
        gradients.register(self.vector.id, tensor::<1>(values, "vector", [5], device));
        gradients.register(self.cube.id, tensor::<3>(values, "cube", [2, 3, 4], device));
        gradients
    }
}

/// A step rounds a dozen times in `f32`, each by at most 6e-8: of values and moments, 1e-6 of a tensor's largest is what six
/// steps may add up to. A GPU's roots and quotients are only good to a few units in the last place.
#[test]
fn six_steps_end_where_the_references_end() {
    let device = fornax_backend::test_device();
    let tolerance = if device == Device::flex() { 1e-6 } else { 1e-5 };
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/optimizers.json");
    let fixture: Fixture = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!((fixture.cases.len(), fixture.gradients.len()), (7, 6));
    for case in &fixture.cases {
        case.optimizer.validate().unwrap();
        let schedule = Schedule::new(&case.schedule, case.optimizer.lr, 100_000).unwrap();
        let mut optimizer = Optimizer::new(&case.optimizer);
        let mut model = Three::new(&fixture.start, &device.clone().autodiff());
        for (step, gradients) in (0..).zip(&fixture.gradients) {
            // Handed over at another size, as after clipping: a power of two, so that nothing is rounded.
            let gradients = gradients.iter().map(|(name, values)| {
                let values = values.iter().map(|value| value * 4.0).collect();
                (name.clone(), values)
            });
            let gradients = model.gradients(&gradients.collect(), &device);
            model = optimizer.step(model, gradients, &update(schedule.lr(step), 0.25, false));
            let Some(expected) = case.after.get(&(step + 1)) else { continue };
            let found = [export_parameters(&model), optimizer.export(&model)].concat();
            assert_eq!(found.len(), expected.len() + 1, "all but the number of steps: {:?}", case.optimizer);
            for (name, expected) in expected {
                eprintln!("{:?}, step {step}, {name}", case.optimizer.rule);
                assert_close(&values(&found, name), expected, tolerance);
            }
        }
    }
}
