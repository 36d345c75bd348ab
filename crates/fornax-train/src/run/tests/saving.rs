use std::{path::PathBuf, sync::mpsc, thread};

use super::{super::save::Writing, *};

/// A checkpoint whose thread does nothing but wait for its outcome.
fn slow_disk(run: &mut Run<Tiny>, step: u64) -> mpsc::Sender<Result<PathBuf, TrainError>> {
    let (outcome, wait) = mpsc::channel();
    run.writing = Some(Writing { step, best: None, thread: thread::spawn(move || wait.recv().unwrap()) });
    outcome
}

fn train_on(run: &mut Run<Tiny>, learner: &mut Learner<Tiny>) -> Result<(), TrainError> {
    let step = run.next_step().unwrap();
    let stats = learner.train_step(step, &[rows(step)], &Regression)?;
    run.log_train(&stats, learner)
}

#[test]
fn training_goes_on_while_a_checkpoint_is_written_and_the_next_one_waits_for_it() {
    let toy = Toy::new(&[]);
    let mut learner = toy.learner();
    let mut run = toy.open(&mut learner).unwrap();
    train_on(&mut run, &mut learner).unwrap();
    let outcome = slow_disk(&mut run, 1);
    train_on(&mut run, &mut learner).unwrap();
    train_on(&mut run, &mut learner).unwrap();
    assert!(run.writing.is_some() && run.last_checkpoint.is_none());
    outcome.send(Ok("of step 1".into())).unwrap();
    run.save(&learner).unwrap();
    assert_eq!(run.last_checkpoint.as_deref(), Some(Path::new("of step 1")));
    assert!(run.writing.is_some(), "that of step 3 is on its way");
    drop(run);
    assert_eq!(toy.checkpoints(), [3], "a run that is dropped completes it");
}

#[test]
fn the_next_step_finds_a_checkpoint_that_could_not_be_written() {
    let toy = Toy::new(&[]);
    let mut learner = toy.learner();
    let mut run = toy.open(&mut learner).unwrap();
    train_on(&mut run, &mut learner).unwrap();
    let outcome = slow_disk(&mut run, 1);
    let failure = TrainError::Damaged { path: "step-000001".into(), problem: "no space left".into() };
    outcome.send(Err(failure)).unwrap();
    while !run.writing.as_ref().unwrap().thread.is_finished() {
        thread::yield_now();
    }
    let error = train_on(&mut run, &mut learner).unwrap_err().chain();
    drop(run);
    assert!(error.contains("no space left"), "{error}");
    assert_eq!(toy.summary().error, Some(error));
}

/// What retention keeps is decided when a checkpoint is complete, for the best model of the time when it was begun.
#[test]
fn a_best_checkpoint_stays_until_that_of_a_better_model_is_complete() {
    let toy = Toy::new(&[("checkpoint.keep_last", 1.into()), ("checkpoint.save_every", 1.into())]);
    let mut learner = toy.learner();
    let mut run = toy.open(&mut learner).unwrap();
    for value in [1.0, 2.0] {
        train_on(&mut run, &mut learner).unwrap();
        run.log_eval(&loss(value)).unwrap();
        run.save(&learner).unwrap();
    }
    // Not found complete by the step, as if the disk were slow.
    let writing = run.writing.take();
    train_on(&mut run, &mut learner).unwrap();
    run.log_eval(&loss(0.5)).unwrap();
    run.writing = writing;
    run.end_write().unwrap();
    assert_eq!(toy.checkpoints(), [1, 2]);
    run.save(&learner).unwrap();
    run.end_write().unwrap();
    assert_eq!(toy.checkpoints(), [3]);
}
