//! A model along a golden training run: logits, loss, every gradient and five AdamW steps.

use std::collections::BTreeMap;

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId},
    optim::GradientsParams,
    tensor::{Tensor, TensorData},
};
use fornax_backend::{Precision, test_device};
use fornax_ops::{Context, RandomKey};

use super::{
    super::{Entry, HostTensor, Layout, TensorTable, table::transpose},
    Golden, assert_close, tolerance, values,
};

/// What labels of tokens without a target are.
pub(super) const IGNORE: i64 = -100;

/// What a model gives for a golden batch: logits, by what they are called there, and the mean loss.
pub(super) struct Outcome {
    pub(super) logits: Vec<(&'static str, Tensor<2>)>,
    pub(super) loss: Tensor<1>,
}

/// Training mode: the fixtures have no dropout, so that it must equal evaluation.
pub(super) fn training() -> Context {
    Context::training(Precision::F32, RandomKey::new(1))
}

fn scalar(tensor: Tensor<1>) -> f32 {
    tensor.into_data().iter::<f64>().sum::<f64>() as f32
}

pub(super) fn assert_logits_and_loss(golden: &Golden, case: &str, outcome: Outcome) {
    let tolerance = tolerance(&test_device());
    for (name, logits) in outcome.logits {
        let name = format!("{case}.{name}");
        assert_close(&name, &values(logits), &golden.floats(&name), tolerance);
    }
    let wanted = golden.json["cases"][case]["loss"].as_f64().unwrap();
    assert_close(&format!("{case}.loss"), &[scalar(outcome.loss)], &[wanted as f32], tolerance);
}

/// The gradient of each parameter, and no other in the golden file.
pub(super) fn assert_gradients<M: Module>(
    golden: &Golden,
    case: &str,
    model: &M,
    loss: Tensor<1>,
    table: &TensorTable,
) {
    let prefix = format!("{case}.grad.");
    assert_eq!(table.entries.len(), golden.names().iter().filter(|n| n.starts_with(&prefix)).count());
    let ids: BTreeMap<String, ParamId> = fornax_nn::parameters(model).into_iter().map(|p| (p.path, p.id)).collect();
    let mut found = gradients(model, loss);
    for Entry { path, name, layout, .. } in &table.entries {
        let name = format!("{prefix}{name}");
        let gradient = found.remove(&ids[path]).unwrap();
        let gradient = if *layout == Layout::Transposed { transpose(gradient) } else { gradient };
        assert_close(&name, &gradient.values, &golden.floats(&name), tolerance(&test_device()));
    }
}

pub(super) fn assert_adamw_losses<M: Module>(
    golden: &Golden,
    case: &str,
    mut model: M,
    loss_of: impl Fn(&M) -> Tensor<1>,
) {
    let mut adamw = AdamW { step: 0, moments: BTreeMap::new(), grads: BTreeMap::new() };
    let wanted: Vec<f64> = serde_json::from_value(golden.json["cases"][case]["adamw_losses"].clone()).unwrap();
    assert_eq!(wanted.len(), 5);
    for (step, wanted) in wanted.into_iter().enumerate() {
        let loss = loss_of(&model);
        let name = format!("{case}: loss of step {step}");
        assert_close(&name, &[scalar(loss.clone())], &[wanted as f32], tolerance(&test_device()));
        adamw.grads = gradients(&model, loss);
        adamw.step += 1;
        model = model.map(&mut adamw);
    }
}

/// The gradient of each parameter on the host.
pub(super) fn gradients<M: Module>(model: &M, loss: Tensor<1>) -> BTreeMap<ParamId, HostTensor> {
    let grads = GradientsParams::from_grads(loss.backward(), model);
    let mut read = Read { grads, values: BTreeMap::new() };
    model.visit(&mut read);
    read.values
}

struct Read {
    grads: GradientsParams,
    values: BTreeMap<ParamId, HostTensor>,
}

impl ModuleVisitor for Read {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let grad = self.grads.remove::<D>(param.id).expect("each parameter has a gradient");
        let host = HostTensor { shape: grad.dims().to_vec(), values: values(grad) };
        self.values.insert(param.id, host);
    }
}

/// The textbook AdamW (Loshchilov and Hutter, 2019) on the host in f64, with the settings of the fixtures: it tests the
/// model's gradients along a trajectory, not an optimizer.
struct AdamW {
    step: i32,
    moments: BTreeMap<ParamId, Vec<(f64, f64)>>,
    grads: BTreeMap<ParamId, HostTensor>,
}

impl ModuleMapper for AdamW {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (lr, beta1, beta2, eps): (f64, f64, f64, f64) = (1e-3, 0.9, 0.999, 1e-8);
        let decay = if D > 1 { lr * 0.1 } else { 0.0 };
        let id = param.id;
        let data = param.val().into_data();
        let grads = &self.grads[&id].values;
        let moments = self.moments.entry(id).or_insert_with(|| vec![(0.0, 0.0); grads.len()]);
        let updated = data.iter::<f64>().zip(grads).zip(moments).map(|((x, g), (m, v))| {
            let g = f64::from(*g);
            *m = beta1 * *m + (1.0 - beta1) * g;
            *v = beta2 * *v + (1.0 - beta2) * g * g;
            let (m, v) = (*m / (1.0 - beta1.powi(self.step)), *v / (1.0 - beta2.powi(self.step)));
            (x * (1.0 - decay) - lr * m / (v.sqrt() + eps)) as f32
        });
        let data = TensorData::new(updated.collect::<Vec<f32>>(), data.shape().clone());
        let device = param.lazy_device();
        param.transform_for_load(Tensor::from_data(data, &device), id)
    }
}
