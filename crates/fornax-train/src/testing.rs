//! A model of nine numbers and a task for the tests of this crate.

use burn::{
    module::{Module, Param},
    tensor::{Device, Tensor, TensorData},
};
use fornax_backend::Precision;
use fornax_ops::Context;

use crate::{
    AdafactorConfig, AdamConfig, BatchSize, Learner, LearnerSettings, NamedTensors, OptimizerConfig, OptimizerRule,
    Schedule, ScheduleConfig, ScheduleName, Sums, Task, Term, optimizer::Update,
};

/// `x weight + bias`.
#[derive(Module, Debug)]
pub(crate) struct Tiny {
    pub(crate) weight: Param<Tensor<2>>,
    pub(crate) bias: Param<Tensor<1>>,
}

impl Tiny {
    pub(crate) fn new(device: &Device) -> Self {
        Self {
            weight: Param::from_data([[0.5f32, -0.25, 0.125], [-0.75, 0.3, 0.9]], device),
            bias: Param::from_data([0.1f32, -0.2, 0.05], device),
        }
    }
}

/// Input and output of one example.
pub(crate) type Row = ([f32; 2], [f32; 3]);

/// Squared error, summed over rows; `correct` counts the rows with an error below 4.
pub(crate) struct Regression;

impl Task<Tiny> for Regression {
    type Batch = Vec<Row>;

    fn size(&self, batch: &Vec<Row>) -> BatchSize {
        BatchSize { counts: vec![("squares", batch.len())], tokens: 2 * batch.len() }
    }

    fn describe(&self, batch: &Vec<Row>) -> String {
        format!("rows from {:?}", batch.first().map(|row| row.0))
    }

    fn loss(&self, model: &Tiny, batch: &Vec<Row>, _context: &Context) -> Sums {
        let device = model.weight.val().device();
        let input: Vec<f32> = batch.iter().flat_map(|row| row.0).collect();
        let output: Vec<f32> = batch.iter().flat_map(|row| row.1).collect();
        let input = Tensor::<2>::from_data(TensorData::new(input, [batch.len(), 2]), &device);
        let output = Tensor::<2>::from_data(TensorData::new(output, [batch.len(), 3]), &device);
        let error = input.matmul(model.weight.val()) + model.bias.val().unsqueeze() - output;
        let squares = error.square().sum_dim(1);
        let correct = squares.clone().lower_elem(4.0).float().sum();
        Sums {
            terms: vec![Term { name: "squares", sum: squares.clone().sum(), weight: 1.0 }],
            metrics: vec![("correct", correct)],
            predictions: Some(squares.flatten::<1>(0, 1)),
        }
    }
}

/// The batch of a step; nothing in it repeats from step to step.
pub(crate) fn rows(step: u64) -> Vec<Row> {
    let step = step as f32;
    vec![
        ([1.0 + step, -2.0], [1.0, 0.0, -1.0]),
        ([0.5, 0.25 * step], [0.5, -0.5, 2.0]),
        ([-1.5, 1.0], [0.0, 1.5, -0.25]),
    ]
}

/// Optimizer settings that the reference values of the tests were made with.
pub(crate) fn optimizer() -> OptimizerConfig {
    let rule = OptimizerRule::Adamw(AdamConfig { betas: [0.9, 0.95], eps: 1e-8 });
    OptimizerConfig { lr: 0.05, weight_decay: 0.1, max_grad_norm: 1.0, rule }
}

pub(crate) fn learner(optimizer: OptimizerConfig) -> Learner<Tiny> {
    let schedule = ScheduleConfig { name: ScheduleName::Constant, ..ScheduleConfig::default() };
    let settings = LearnerSettings {
        schedule: Schedule::new(&schedule, optimizer.lr, 100).unwrap(),
        optimizer,
        seed: 7,
        precision: Precision::F32,
        checkpoint_blocks: false,
    };
    Learner::new(Tiny::new(&fornax_backend::test_device().autodiff()), settings).unwrap()
}

/// One of each kind, for what holds of all of them.
pub(crate) fn optimizers() -> Vec<OptimizerConfig> {
    let adam = AdamConfig { betas: [0.9, 0.95], eps: 1e-8 };
    let adafactor = |beta1| AdafactorConfig { beta1, ..AdafactorConfig::default() };
    let rules = [
        OptimizerRule::Adamw(adam),
        OptimizerRule::AdamwScaled(adam),
        OptimizerRule::Adafactor(adafactor(None)),
        OptimizerRule::Adafactor(adafactor(Some(0.9))),
    ];
    rules.map(|rule| OptimizerConfig { rule, ..optimizer() }).into()
}

/// What an optimizer is told of a step.
pub(crate) fn update(lr: f64, scale: f32, skip: bool) -> Update {
    let device = fornax_backend::test_device();
    Update { lr, scale: Tensor::from_floats([scale], &device), skip: Tensor::from_data([skip], &device) }
}

/// Names and bits.
pub(crate) fn bits(tensors: &NamedTensors) -> Vec<(String, Vec<u8>)> {
    tensors.iter().map(|(name, data)| (name.clone(), data.as_bytes().to_vec())).collect()
}

/// The values of one tensor.
pub(crate) fn values(tensors: &NamedTensors, name: &str) -> Vec<f64> {
    let (_, data) = tensors.iter().find(|(found, _)| found == name).unwrap();
    data.iter::<f64>().collect()
}

/// Asserts closeness relative to the largest of the expected values.
pub(crate) fn assert_close(found: &[f64], expected: &[f64], tolerance: f64) {
    let scale = expected.iter().fold(0.0f64, |scale, value| scale.max(value.abs()));
    assert_eq!(found.len(), expected.len());
    for (found, wanted) in found.iter().zip(expected) {
        assert!((found - wanted).abs() <= tolerance * scale, "{found} instead of {wanted}");
    }
}
