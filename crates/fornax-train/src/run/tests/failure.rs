use super::*;

/// The task of the other tests, which gives NaN from a step on.
struct Diverging(Rc<Cell<bool>>);

impl Task<Tiny> for Diverging {
    type Batch = Vec<Row>;

    fn size(&self, batch: &Vec<Row>) -> BatchSize {
        Regression.size(batch)
    }

    fn describe(&self, _batch: &Vec<Row>) -> String {
        "examples 17, 4".to_owned()
    }

    fn loss(&self, model: &Tiny, batch: &Vec<Row>, context: &fornax_ops::Context) -> Sums {
        let mut sums = Regression.loss(model, batch, context);
        if self.0.get() {
            sums.terms[0].sum = sums.terms[0].sum.clone().mul_scalar(f32::NAN);
        }
        sums
    }
}

/// Both reads find it: the one of a log, and the one of a save between two logs.
#[test]
fn a_loss_that_is_not_finite_ends_the_run_with_step_examples_and_last_checkpoint() {
    for (log_every, logged) in [(3, 2), (100, 0)] {
        let toy = Toy::new(&[("train.log_every", log_every.into())]);
        let mut learner = toy.learner();
        let mut run = toy.open(&mut learner).unwrap();
        let diverges = Rc::new(Cell::new(false));
        let error = loop {
            let step = run.next_step().unwrap();
            diverges.set(step == 7);
            let stats = learner.train_step(step, &[rows(step)], &Diverging(diverges.clone())).unwrap();
            let logged = run.log_train(&stats, &mut learner);
            let saved = logged.and_then(|()| if run.save_due() { run.save(&learner) } else { Ok(()) });
            if let Err(error) = saved {
                break error;
            }
        };
        drop(run);
        let message = error.to_string();
        assert!(
            message.starts_with("the loss of step 7, counted from 0, is not finite (examples 17, 4); "),
            "{message}"
        );
        assert!(message.contains("checkpoints/step-000005`"), "{message}");
        assert_eq!(toy.checkpoints(), [5]);
        assert_eq!(toy.lines().len(), logged);
        assert_eq!(toy.summary().error, Some(message));
    }
}

#[test]
fn a_failed_save_ends_the_run_and_loses_nothing() {
    let mut toy = Toy::new(&[]);
    let (whole, checkpoints) = (Toy::new(&[]), toy.path().join("checkpoints"));
    let mut learner = toy.learner();
    let mut run = toy.open(&mut learner).unwrap();
    let error = loop {
        let step = run.next_step().unwrap();
        if step == 9 {
            // Something in the way of the folder that the next checkpoint is staged in.
            fs::write(checkpoints.join(".step-000010.new"), "").unwrap();
        }
        if let Err(error) = make_step(&mut run, &mut learner, step) {
            break error.to_string();
        }
    };
    drop(run);
    assert!(error.contains("step-000010") && error.contains("the checkpoint of step 8 is kept in"), "{error}");
    assert_eq!(toy.summary().error, Some(error));
    assert_eq!(toy.checkpoints(), [5, 8]);
    toy.resume = true;
    let (found, _) = toy.train(|_| false).unwrap();
    assert_eq!(weights(found.model()), weights(whole.train(|_| false).unwrap().0.model()));
}

#[test]
fn a_failed_export_keeps_the_old_one() {
    let mut toy = Toy::new(&[("train.max_steps", 2.into()), ("train.log_every", 1.into())]);
    toy.train(|_| false).unwrap();
    let before = fs::read(toy.path().join("last/model")).unwrap();
    toy.resume = true;
    toy.set("train.max_steps", 4.into());
    let mut learner = toy.learner();
    let mut run = toy.open(&mut learner).unwrap().export_with(|_, _| Err("no such layout"));
    while let Some(step) = run.next_step() {
        let stats = learner.train_step(step, &[rows(step)], &Regression).unwrap();
        run.log_train(&stats, &mut learner).unwrap();
    }
    let error = run.finish(&mut learner).unwrap_err();
    assert!(error.chain().ends_with("last`: no such layout"), "{}", error.chain());
    assert_eq!(fs::read(toy.path().join("last/model")).unwrap(), before);
    assert!(toy.checkpoints().contains(&4));
}

#[test]
fn an_error_of_the_recipe_leaves_a_summary() {
    let toy = Toy::new(&[]);
    toy.train(|step| step == 5).unwrap();
    assert_eq!(toy.summary().error.as_deref(), Some("ended by an error after step 5"));
    assert_eq!(toy.summary().train["loss"], toy.lines()[0]["loss"].as_f64().unwrap());
}
