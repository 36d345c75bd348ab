use burn::tensor::TensorData;

use super::*;
use crate::{
    export_parameters,
    testing::{Tiny, assert_close, bits, optimizer, optimizers, update, values},
};

fn gradients(model: &Tiny, weight: &[f32], bias: &[f32]) -> GradientsParams {
    let device = fornax_backend::test_device();
    let mut gradients = GradientsParams::new();
    gradients.register(model.weight.id, Tensor::<2>::from_data(TensorData::new(weight.to_vec(), [2, 3]), &device));
    gradients.register(model.bias.id, Tensor::<1>::from_data(TensorData::new(bias.to_vec(), [3]), &device));
    gradients
}

/// The update rule in `f64`, written from the paper.
struct Reference {
    value: Vec<f64>,
    first: Vec<f64>,
    second: Vec<f64>,
    decay: f64,
}

impl Reference {
    fn new(value: Vec<f64>, decay: f64) -> Self {
        let zeros = vec![0.0; value.len()];
        Self { value, first: zeros.clone(), second: zeros, decay }
    }

    fn step(&mut self, t: i32, lr: f64, gradient: &[f64]) {
        let (beta1, beta2, eps) = (0.9f64, 0.95f64, 1e-8);
        for (i, g) in gradient.iter().enumerate() {
            self.value[i] *= 1.0 - lr * self.decay;
            self.first[i] = beta1 * self.first[i] + (1.0 - beta1) * g;
            self.second[i] = beta2 * self.second[i] + (1.0 - beta2) * g * g;
            let (first, second) = (self.first[i] / (1.0 - beta1.powi(t)), self.second[i] / (1.0 - beta2.powi(t)));
            self.value[i] -= lr * first / (second.sqrt() + eps);
        }
    }
}

#[test]
fn forty_steps_follow_the_rule_in_double_precision() {
    let mut model = Tiny::new(&fornax_backend::test_device().autodiff());
    let start = export_parameters(&model);
    let mut weight = Reference::new(values(&start, "weight"), 0.1);
    let mut bias = Reference::new(values(&start, "bias"), 0.0);
    let mut adamw = Optimizer::new(&optimizer());
    for t in 1..=40 {
        let (lr, scale) = (1e-2 / f64::from(t), 0.25);
        // Magnitudes from 1e-6 to 1, both signs, a zero.
        let noise = |i: i32| ((f64::from(t * 31 + i * 17)).sin() * 10f64.powi(-i)) as f32;
        let gradient: Vec<f32> = (0..6).map(noise).collect();
        let slope = [noise(3), 0.0, noise(1)];
        let scaled = |values: &[f32]| values.iter().map(|g| f64::from(*g) * scale).collect::<Vec<_>>();
        weight.step(t, lr, &scaled(&gradient));
        bias.step(t, lr, &scaled(&slope));
        let gradients = gradients(&model, &gradient, &slope);
        model = adamw.step(model, gradients, &update(lr, scale as f32, false));
    }
    let end = export_parameters(&model);
    assert_close(&values(&end, "weight"), &weight.value, 1e-6);
    assert_close(&values(&end, "bias"), &bias.value, 1e-6);
    let state = adamw.export(&model);
    assert_close(&values(&state, "steps"), &[40.0], 0.0);
    assert_close(&values(&state, "weight.first_moment"), &weight.first, 1e-6);
    assert_close(&values(&state, "bias.second_moment"), &bias.second, 1e-6);
    assert!(model.weight.is_require_grad() && model.bias.is_require_grad());
}

#[test]
fn a_skipped_step_leaves_every_bit_whatever_the_gradients_hold() {
    for config in optimizers() {
        let mut model = Tiny::new(&fornax_backend::test_device().autodiff());
        let mut optimizer = Optimizer::new(&config);
        // The second time there is a state; before the first update it is made of zeros.
        for _ in 0..2 {
            let state = optimizer.export(&model)[1..].to_vec();
            let before = bits(&export_parameters(&model));
            let bad = gradients(&model, &[f32::NAN, 1.0, f32::INFINITY, 0.0, -1.0, 2.0], &[f32::NEG_INFINITY; 3]);
            model = optimizer.step(model, bad, &update(0.1, f32::NAN, true));
            assert_eq!(bits(&export_parameters(&model)), before, "{config:?}");
            let after = optimizer.export(&model)[1..].to_vec();
            if state.is_empty() {
                assert!(after.iter().all(|(name, _)| values(&after, name).iter().all(|value| *value == 0.0)));
            } else {
                assert_eq!(bits(&after), bits(&state), "{config:?}");
            }
            let good = gradients(&model, &[1.0; 6], &[-1.0; 3]);
            model = optimizer.step(model, good, &update(0.1, 1.0, false));
            assert_ne!(bits(&export_parameters(&model)), before, "{config:?}");
        }
    }
}

#[test]
fn decay_leaves_out_vectors_and_exempt_paths() {
    let device = fornax_backend::test_device().autodiff();
    for config in optimizers() {
        let moved = |exempt: Option<&str>| {
            let mut optimizer = Optimizer::new(&config);
            if let Some(suffix) = exempt {
                optimizer.exempt_from_decay(suffix);
            }
            let model = Tiny::new(&device);
            let gradients = gradients(&model, &[0.0; 6], &[0.0; 3]);
            export_parameters(&optimizer.step(model, gradients, &update(0.5, 1.0, false)))
        };
        let start = export_parameters(&Tiny::new(&device));
        let weight = values(&start, "weight");
        let size = (weight.iter().map(|value| value * value).sum::<f64>() / 6.0).sqrt();
        let rate = if matches!(config.rule, OptimizerRule::Adafactor(_)) { 0.5 * size } else { 0.5 };
        let shrunk: Vec<f64> = weight.iter().map(|value| value * (1.0 - 0.1 * rate)).collect();
        assert_close(&values(&moved(None), "weight"), &shrunk, 1e-6);
        assert_eq!(values(&moved(None), "bias"), values(&start, "bias"));
        assert_eq!(values(&moved(Some("weight")), "weight"), weight);
    }
}

/// A state of one step, and what a new optimizer says to it after a change.
fn refused(config: &OptimizerConfig, change: impl Fn(&mut NamedTensors)) -> String {
    let device = fornax_backend::test_device();
    let model = Tiny::new(&device.clone().autodiff());
    let mut optimizer = Optimizer::new(config);
    let once = gradients(&model, &[1.0; 6], &[1.0; 3]);
    let model = optimizer.step(model, once, &update(0.1, 1.0, false));
    let mut state = optimizer.export(&model);
    change(&mut state);
    Optimizer::new(config).load(&model, state, &device).unwrap_err().to_string()
}

#[test]
fn a_state_that_does_not_fit_is_refused_by_name() {
    let refused = |change: &dyn Fn(&mut NamedTensors)| refused(&optimizer(), change);
    assert_eq!(refused(&|state| drop(state.remove(0))), "tensor `steps` is missing");
    assert_eq!(refused(&|state| drop(state.pop())), "tensor `bias.second_moment` is missing");
    assert_eq!(
        refused(&|state| state[1].1 = TensorData::from([[0.0f32; 2]; 3])),
        "tensor `weight.first_moment`: stored is F32 [3, 2], the model wants F32 [2, 3]"
    );
    assert_eq!(
        refused(&|state| state[1].0 = "head.first_moment".to_owned()),
        "tensor `weight.first_moment` is missing"
    );
    let unknown = |state: &mut NamedTensors| state.push(("head.first_moment".to_owned(), state[1].1.clone()));
    assert_eq!(refused(&unknown), "the model has no place for the tensor `head.first_moment`");
}

#[test]
fn adafactor_keeps_rows_and_columns_and_tells_which_does_not_fit() {
    let rule = OptimizerRule::Adafactor(AdafactorConfig::default());
    let refused = |change: &dyn Fn(&mut NamedTensors)| refused(&OptimizerConfig { rule, ..optimizer() }, change);
    assert_eq!(refused(&|state| drop(state.remove(1))), "tensor `weight.second_moment_rows` is missing");
    assert_eq!(
        refused(&|state| state[2].1 = state[1].1.clone()),
        "tensor `weight.second_moment_columns`: stored is F32 [2, 1], the model wants F32 [1, 3]"
    );
    let moment = |state: &mut NamedTensors| state.push(("weight.first_moment".to_owned(), state[1].1.clone()));
    assert_eq!(refused(&moment), "the model has no place for the tensor `weight.first_moment`");
}
