use super::*;
use crate::{NamedTensors, testing::values};

fn toy(save_every: Value, keep_last: usize, eval_every: u64) -> Toy {
    Toy::new(&[
        ("checkpoint.save_every", save_every),
        ("checkpoint.keep_last", keep_last.into()),
        ("train.eval_every", eval_every.into()),
    ])
}

/// A run at its end, and the parameters after each of its steps.
fn trained(toy: &Toy) -> (Run<Tiny>, Vec<NamedTensors>) {
    let (mut learner, mut models) = (toy.learner(), Vec::new());
    let mut run = toy.open(&mut learner).unwrap();
    while let Some(step) = run.next_step() {
        make_step(&mut run, &mut learner, step).unwrap();
        models.push(learner.export_parameters().unwrap());
    }
    run.settle(&mut learner).unwrap();
    (run, models)
}

/// Trains up to a signal in the last of so many steps.
fn interrupt_after(toy: &mut Toy, steps: u64) {
    let mut learner = toy.learner();
    let mut run = toy.open(&mut learner).unwrap();
    while let Some(step) = run.next_step() {
        if step + 1 == steps {
            run.interrupt.request();
        }
        make_step(&mut run, &mut learner, step).unwrap();
    }
    assert!(run.finish(&mut learner).unwrap().interrupted && toy.checkpoints().contains(&steps));
    toy.resume = true;
}

/// Of the weights after some steps, counted from 1.
fn mean_after(models: &[NamedTensors], steps: &[u64]) -> Vec<f64> {
    let models: Vec<_> = steps.iter().map(|&step| values(&models[step as usize - 1], "weight")).collect();
    let sum = |index: usize| models.iter().map(|model| model[index]).sum::<f64>();
    (0..models[0].len()).map(|index| f64::from((sum(index) / steps.len() as f64) as f32)).collect()
}

fn weight(mean: &NamedTensors) -> Vec<f64> {
    values(mean, "weight")
}

#[test]
fn those_that_were_due_and_the_last_are_averaged_whatever_else_was_saved() {
    let toy = toy(5.into(), 3, 4);
    let (mut run, models) = trained(&toy);
    assert_eq!(toy.checkpoints(), [5, 8, 10, 12], "the evaluation of step 8 found the best model");
    assert_eq!(weight(&run.average_last(2).unwrap()), mean_after(&models, &[10, 12]));
    assert_eq!(weight(&run.average_last(3).unwrap()), mean_after(&models, &[5, 10, 12]));
    // More than there are.
    assert_eq!(weight(&run.average_last(9).unwrap()), mean_after(&models, &[5, 10, 12]));
}

#[test]
fn the_ends_of_epochs_are_averaged() {
    let toy = toy("epoch".into(), 2, 5);
    let (mut run, models) = trained(&toy);
    assert_eq!(weight(&run.average_last(2).unwrap()), mean_after(&models, &[6, 12]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn a_run_that_was_interrupted_has_the_mean_of_one_that_was_not(
        after in 1u64..12,
        save_every in 0u64..6,
        eval_every in 1u64..6,
        keep_last in 1usize..5,
    ) {
        let (whole, mut interrupted) =
            (toy(save_every.into(), keep_last, eval_every), toy(save_every.into(), keep_last, eval_every));
        let (mut run, models) = trained(&whole);
        let expected = run.average_last(keep_last).unwrap();
        let due: Vec<u64> = (1..=12).filter(|&step: &u64| step == 12 || (save_every > 0 && step.is_multiple_of(save_every))).collect();
        prop_assert_eq!(weight(&expected), mean_after(&models, &due[due.len().saturating_sub(keep_last)..]));
        interrupt_after(&mut interrupted, after);
        let (mut run, _) = trained(&interrupted);
        prop_assert_eq!(bits(&run.average_last(keep_last).unwrap()), bits(&expected));
    }
}

#[test]
fn a_damaged_one_is_left_out_and_no_other_takes_its_place() {
    let toy = toy(5.into(), 3, 4);
    let (mut run, models) = trained(&toy);
    let damage = |step: u64| {
        let path = Checkpoints::of_run(&toy.path()).path(step).join("model.bpk");
        fs::write(path, "damaged").unwrap();
    };
    damage(10);
    assert_eq!(weight(&run.average_last(2).unwrap()), mean_after(&models, &[12]));
    assert_eq!(weight(&run.average_last(3).unwrap()), mean_after(&models, &[5, 12]));
    damage(12);
    let message = run.average_last(2).unwrap_err().to_string();
    for text in ["no checkpoint of `", "step-000012/model.bpk` is damaged: it has 7 bytes", "step-000010/model.bpk`"] {
        assert!(message.contains(text), "{message}");
    }
    assert_eq!(toy.summary().error.unwrap(), message);
    assert!(run.average_last(0).unwrap_err().to_string().starts_with("there is no checkpoint to average"));
}

#[test]
fn a_run_that_goes_on_has_no_mean_of_its_old_end() {
    let mut toy = toy(4.into(), 2, 0);
    let (mut run, _) = trained(&toy);
    let mut learner = toy.learner();
    learner.load_parameters(run.average_last(2).unwrap()).unwrap();
    run.export_averaged(&learner).unwrap();
    assert!(toy.path().join("averaged").read_dir().unwrap().count() > 0);
    drop(run);
    toy.resume = true;
    drop(trained(&toy));
    assert!(!toy.path().join("averaged").exists());
}
