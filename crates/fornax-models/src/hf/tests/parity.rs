//! Logits, loss, every gradient and five AdamW steps.

use std::collections::BTreeMap;

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId},
    optim::GradientsParams,
    tensor::{Device, Int, Tensor, TensorData},
};
use fornax_backend::test_device;
use fornax_ops::{AttentionMask, Context, RandomKey, cross_entropy_sum};

use super::{super::gpt2::gpt2_table, super::load_gpt2, FLOOR, Golden, assert_close, fixture, tolerance};
use crate::Gpt2;

const IGNORE: i64 = -100;

struct Case {
    name: &'static str,
    input_ids: Tensor<2, Int>,
    mask: AttentionMask,
    /// What follows each token: the labels, one to the left.
    targets: Tensor<1, Int>,
}

impl Case {
    fn all(golden: &Golden, device: &Device) -> [Self; 2] {
        let case = |name, padded: bool| {
            let (shape, labels) = golden.ints(&format!("{name}.labels"));
            let shifted: Vec<i32> =
                labels.chunks(shape[1]).flat_map(|row| row[1..].iter().copied().chain([IGNORE as i32])).collect();
            let (_, attend) = golden.ints(&format!("{name}.attention_mask"));
            let lengths: Vec<i32> = attend.chunks(shape[1]).map(|row| row.iter().sum()).collect();
            let mask = match padded {
                true => AttentionMask::KeyLengths(Tensor::from_data(TensorData::new(lengths, [shape[0]]), device)),
                false => AttentionMask::None,
            };
            let targets = Tensor::from_data(TensorData::new(shifted, [shape[0] * shape[1]]), device);
            Self { name, input_ids: golden.int_tensor(&format!("{name}.input_ids"), device), mask, targets }
        };
        [case("full", false), case("padded", true)]
    }

    fn logits(&self, model: &Gpt2) -> Tensor<3> {
        // Training mode: the fixtures have no dropout, so that it must equal evaluation.
        let context = Context::training(fornax_backend::Precision::F32, RandomKey::new(1));
        model.forward(self.input_ids.clone(), &self.mask, &context)
    }

    fn loss(&self, model: &Gpt2) -> Tensor<1> {
        let entropy = cross_entropy_sum(self.logits(model).flatten::<2>(0, 1), self.targets.clone(), IGNORE);
        entropy.sum / entropy.count
    }
}

fn scalar(tensor: Tensor<1>) -> f64 {
    tensor.into_data().iter::<f64>().sum()
}

#[test]
fn logits_and_loss_equal_those_of_transformers() {
    let device = test_device();
    let golden = Golden::open();
    let (model, _) = load_gpt2(&fixture("plain"), &device).unwrap();
    for case in Case::all(&golden, &device) {
        let logits: Vec<f32> = case.logits(&model).into_data().iter::<f32>().collect();
        let wanted = golden.floats(&format!("{}.logits", case.name));
        assert_close(&format!("{} logits", case.name), &logits, &wanted, tolerance(&device));
        let wanted = golden.json["cases"][case.name]["loss"].as_f64().unwrap();
        assert_close("loss", &[scalar(case.loss(&model)) as f32], &[wanted as f32], tolerance(&device));
    }
}

#[test]
fn every_gradient_equals_that_of_transformers() {
    let device = test_device().autodiff();
    let golden = Golden::open();
    let (model, _) = load_gpt2(&fixture("plain"), &device).unwrap();
    let table = gpt2_table(&model.config());
    let ids: BTreeMap<String, ParamId> = fornax_nn::parameters(&model).into_iter().map(|p| (p.path, p.id)).collect();
    for case in Case::all(&golden, &device) {
        let grads = GradientsParams::from_grads(case.loss(&model).backward(), &model);
        let mut visitor = Read { grads, values: BTreeMap::new() };
        model.visit(&mut visitor);
        let prefix = format!("{}.grad.", case.name);
        assert_eq!(table.entries.len(), golden.names().iter().filter(|n| n.starts_with(&prefix)).count());
        for (path, name, _) in &table.entries {
            let name = format!("{prefix}transformer.{name}");
            assert_close(&name, &visitor.values[&ids[path]], &golden.floats(&name), tolerance(&device));
        }
    }
}

#[test]
fn key_biases_have_no_gradient_beyond_the_floor() {
    let device = test_device().autodiff();
    let golden = Golden::open();
    let (model, _) = load_gpt2(&fixture("plain"), &device).unwrap();
    let wanted = golden.floats("padded.grad.transformer.h.0.attn.c_attn.bias");
    assert!(wanted[24..48].iter().all(|x| x.abs() < 1e-9), "zero in theory");
    let [_, padded] = Case::all(&golden, &device);
    let grads = GradientsParams::from_grads(padded.loss(&model).backward(), &model);
    let mut visitor = Read { grads, values: BTreeMap::new() };
    model.visit(&mut visitor);
    let path = "blocks.0.attention.query_key_value.bias";
    let id = fornax_nn::parameters(&model).into_iter().find(|p| p.path == path).unwrap().id;
    let found = &visitor.values[&id][24..48];
    assert!(found.iter().all(|x| x.abs() <= FLOOR), "{found:?}");
}

#[test]
fn five_adamw_losses_equal_those_of_torch() {
    let device = test_device().autodiff();
    let golden = Golden::open();
    for case in Case::all(&golden, &device) {
        let (mut model, _) = load_gpt2(&fixture("plain"), &device).unwrap();
        let mut adamw = AdamW { step: 0, moments: BTreeMap::new(), grads: BTreeMap::new() };
        let wanted: Vec<f64> = serde_json::from_value(golden.json["cases"][case.name]["adamw_losses"].clone()).unwrap();
        for (step, wanted) in wanted.into_iter().enumerate() {
            let loss = case.loss(&model);
            let name = format!("{} loss of step {step}", case.name);
            assert_close(&name, &[scalar(loss.clone()) as f32], &[wanted as f32], tolerance(&device));
            let grads = GradientsParams::from_grads(loss.backward(), &model);
            let mut visitor = Read { grads, values: BTreeMap::new() };
            model.visit(&mut visitor);
            adamw.grads = visitor.values;
            adamw.step += 1;
            model = model.map(&mut adamw);
        }
    }
}

/// Reads gradients to the host.
struct Read {
    grads: GradientsParams,
    values: BTreeMap<ParamId, Vec<f32>>,
}

impl ModuleVisitor for Read {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let grad = self.grads.remove::<D>(param.id).expect("each parameter has a gradient");
        self.values.insert(param.id, grad.into_data().iter::<f32>().collect());
    }
}

/// The textbook AdamW (Loshchilov and Hutter, 2019) on the host in f64, with the settings of the fixtures: it tests the
/// model's gradients along a trajectory, not an optimizer.
struct AdamW {
    step: i32,
    moments: BTreeMap<ParamId, Vec<(f64, f64)>>,
    grads: BTreeMap<ParamId, Vec<f32>>,
}

impl ModuleMapper for AdamW {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (lr, beta1, beta2, eps): (f64, f64, f64, f64) = (1e-3, 0.9, 0.999, 1e-8);
        let decay = if D > 1 { lr * 0.1 } else { 0.0 };
        let id = param.id;
        let data = param.val().into_data();
        let grads = &self.grads[&id];
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
