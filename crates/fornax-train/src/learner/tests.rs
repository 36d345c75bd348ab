use std::{cell::RefCell, path::Path};

use super::*;
use crate::{
    Term, export_parameters,
    testing::{Regression, Row, Tiny, assert_close, bits, learner, optimizer, optimizers, rows, values},
};

/// `torch.optim.AdamW` (2.11, float64) on the same model, with `clip_grad_norm_(parameters, 1.0)` and the two
/// parameters in groups with weight decay 0.1 and 0, on `((x @ w + b - y) ** 2).sum() / 3` of `testing::rows`.
const TORCH_LOSSES: [f64; 5] =
    [3.4515624999999996, 3.2203894070739576, 3.179909130473065, 3.236802968549993, 3.3242116382790723];
const TORCH_NORMS: [f64; 5] =
    [4.46845424429224, 4.9142102484553725, 5.826259117454409, 7.1377576055050165, 8.707160910899951];
const TORCH_WEIGHT: [f64; 6] = [
    0.24110902822051894,
    -0.16936933510599078,
    0.3052770026211672,
    -0.48530312353215693,
    0.04665791779991364,
    0.738763960699304,
];
const TORCH_BIAS: [f64; 3] = [0.20845713320633938, 0.04604617850493215, 0.23179412520949447];

#[test]
fn five_steps_are_those_of_pytorch() {
    let mut learner = learner(optimizer());
    for step in 0..5 {
        let stats = learner.train_step(step, &[rows(step)], &Regression).unwrap();
        assert_eq!((stats.tokens, stats.targets, stats.lr), (6, 3, 0.05));
        let window = learner.take_window().unwrap().unwrap();
        assert_close(&[window.loss], &TORCH_LOSSES[step as usize..][..1], 2e-6);
        assert_close(&[window.grad_norm], &TORCH_NORMS[step as usize..][..1], 2e-6);
    }
    let parameters = learner.export_parameters().unwrap();
    assert_close(&values(&parameters, "weight"), &TORCH_WEIGHT, 2e-6);
    assert_close(&values(&parameters, "bias"), &TORCH_BIAS, 2e-6);
}

#[test]
fn unequal_micro_batches_add_up_to_the_large_batch() {
    let all: Vec<Row> = (0..3).flat_map(rows).take(8).collect();
    let parts = [all[..3].to_vec(), all[3..4].to_vec(), all[4..].to_vec()];
    let (mut whole, mut split) = (learner(optimizer()), learner(optimizer()));
    for step in 0..4 {
        whole.train_step(step, std::slice::from_ref(&all), &Regression).unwrap();
        split.train_step(step, &parts, &Regression).unwrap();
    }
    let (one, three) = (whole.take_window().unwrap().unwrap(), split.take_window().unwrap().unwrap());
    assert_eq!(one.totals.terms[0].count, three.totals.terms[0].count);
    assert_close(&[three.loss, three.grad_norm], &[one.loss, one.grad_norm], 1e-6);
    let (one, three) = (whole.export_parameters().unwrap(), split.export_parameters().unwrap());
    assert_close(&values(&three, "weight"), &values(&one, "weight"), 1e-6);
}

#[test]
fn a_bad_batch_changes_nothing_and_is_reported_with_its_step() {
    let mut learner = learner(optimizer());
    for step in 0..3 {
        learner.train_step(step, &[rows(step)], &Regression).unwrap();
    }
    learner.check_finite().unwrap();
    let before =
        (bits(&export_parameters(learner.model())), bits(&learner.optimizer.export(learner.model())[1..].to_vec()));
    let bad = vec![([f32::NAN, 17.0], [0.0; 3])];
    learner.train_step(3, &[rows(3), bad], &Regression).unwrap();
    learner.train_step(4, &[rows(4)], &Regression).unwrap();
    let after =
        (bits(&export_parameters(learner.model())), bits(&learner.optimizer.export(learner.model())[1..].to_vec()));
    assert_eq!(before, after);

    let message = learner.check_finite().unwrap_err().with_checkpoint(Some(Path::new("step-3"))).to_string();
    assert!(message.starts_with("the loss of step 3, counted from 0, is not finite"), "{message}");
    assert!(message.contains("[NaN, 17.0]") && message.contains("the last good checkpoint is `step-3`"), "{message}");
    let message = learner.check_finite().unwrap_err().with_checkpoint(None).to_string();
    assert!(message.contains("; there is no checkpoint yet; hint: "), "{message}");
    assert!(learner.export_parameters().is_err() && learner.export_optimizer().is_err());
    assert!(matches!(learner.take_window(), Err(TrainError::NonFinite { step: 3, .. })));
}

#[test]
fn a_restored_learner_continues_bit_for_bit() {
    for config in optimizers() {
        let learner = || learner(config.clone());
        let (mut whole, mut first) = (learner(), learner());
        for step in 0..6 {
            whole.train_step(step, &[rows(step)], &Regression).unwrap();
        }
        for step in 0..3 {
            first.train_step(step, &[rows(step)], &Regression).unwrap();
        }
        let window = serde_json::to_string(&first.window_totals().unwrap()).unwrap();
        let mut second = learner();
        second.load_parameters(first.export_parameters().unwrap()).unwrap();
        second.load_optimizer(first.export_optimizer().unwrap()).unwrap();
        second.load_window(serde_json::from_str(&window).unwrap());
        for step in 3..6 {
            second.train_step(step, &[rows(step)], &Regression).unwrap();
        }
        assert_eq!(bits(&whole.export_parameters().unwrap()), bits(&second.export_parameters().unwrap()));
        assert_eq!(bits(&whole.export_optimizer().unwrap()), bits(&second.export_optimizer().unwrap()));
        assert_eq!(whole.take_window().unwrap(), second.take_window().unwrap());
        assert_eq!(second.take_window().unwrap(), None);
    }
}

#[test]
fn a_frozen_parameter_stays_and_a_frozen_model_is_refused() {
    let settings = |learner: Learner<Tiny>| LearnerSettings {
        optimizer: optimizer(),
        schedule: learner.schedule,
        seed: 7,
        precision: Precision::F32,
        checkpoint_blocks: false,
    };
    let mut model = Tiny::new(&fornax_backend::test_device().autodiff());
    model.weight = model.weight.set_require_grad(false);
    let mut half = Learner::new(model.clone(), settings(learner(optimizer()))).unwrap();
    let before = half.export_parameters().unwrap();
    half.train_step(0, &[rows(0)], &Regression).unwrap();
    let after = half.export_parameters().unwrap();
    assert_eq!(values(&before, "weight"), values(&after, "weight"));
    assert_ne!(values(&before, "bias"), values(&after, "bias"));
    assert!(matches!(Learner::new(model.valid(), settings(half)), Err(TrainError::NotTrainable)));
}

/// Two terms, one of which has no target in some micro-batches; remembers the random keys.
struct TwoTerms(RefCell<Vec<u64>>);

impl Task<Tiny> for TwoTerms {
    type Batch = (usize, usize);

    fn size(&self, batch: &(usize, usize)) -> BatchSize {
        BatchSize { counts: vec![("a", batch.0), ("b", batch.1)], tokens: 1 }
    }

    fn describe(&self, _batch: &(usize, usize)) -> String {
        "row 5".to_owned()
    }

    fn loss(&self, model: &Tiny, batch: &(usize, usize), context: &Context) -> Sums {
        self.0.borrow_mut().push(context.key().value());
        let term = |name, count: usize, weight| Term { name, sum: model.bias.val().sum() * count as f64, weight };
        Sums { terms: vec![term("a", batch.0, 1.0), term("b", batch.1, 0.5)], metrics: vec![], predictions: None }
    }
}

#[test]
fn terms_have_their_own_counts_and_micro_batches_their_own_noise() {
    let mut learner = learner(optimizer());
    let task = TwoTerms(RefCell::default());
    learner.train_step(0, &[(2, 1), (5, 0)], &task).unwrap();
    let window = learner.take_window().unwrap().unwrap();
    // Both means are the sum of the bias, -0.05, and the gradient of their weighted sum is 1.5 for each element.
    assert_close(&[window.loss, window.grad_norm], &[-0.075, 1.5 * 3f64.sqrt()], 1e-6);
    let again = TwoTerms(RefCell::default());
    learner.train_step(0, &[(2, 0), (5, 0)], &again).unwrap();
    let keys = task.0.borrow();
    assert!(keys[0] != keys[1] && *keys == *again.0.borrow());

    let message = learner.train_step(9, &[(0, 0)], &task).unwrap_err().to_string();
    assert_eq!(message, "step 9, counted from 0, has no target (row 5)");
}

struct Miscounted;

impl Task<Tiny> for Miscounted {
    type Batch = ();

    fn size(&self, _batch: &()) -> BatchSize {
        BatchSize { counts: vec![("loss", 1)], tokens: 1 }
    }

    fn describe(&self, _batch: &()) -> String {
        String::new()
    }

    fn loss(&self, model: &Tiny, _batch: &(), _context: &Context) -> Sums {
        Sums {
            terms: vec![Term { name: "mlm", sum: model.bias.val().sum(), weight: 1.0 }],
            metrics: vec![],
            predictions: None,
        }
    }
}

#[test]
fn a_task_that_contradicts_itself_is_named() {
    let message = learner(optimizer()).train_step(0, &[()], &Miscounted).unwrap_err().to_string();
    assert_eq!(message, "the loss has the term `mlm`, but targets are counted for: loss");
}
