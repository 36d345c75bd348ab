use super::*;

#[test]
fn scores_grow_and_terms_of_the_loss_shrink() {
    for (metric, grows) in [
        ("accuracy", true),
        ("rougeL", true),
        ("loss", false),
        ("perplexity", false),
        ("next_sentence", false),
        ("next_sentence_accuracy", true),
        ("inaccuracy", false),
    ] {
        assert_eq!((is_better(metric, 2.0, 1.0), is_better(metric, 1.0, 2.0)), (grows, !grows), "{metric}");
    }
}

#[test]
fn the_best_model_is_kept_exported_and_loaded() {
    let losses = [9.0, 3.0, 5.0, 4.0, 4.5, 6.0];
    let changes =
        [("train.max_steps", 6.into()), ("checkpoint.keep_last", 1.into()), ("checkpoint.save_every", 1.into())];
    for load_best in [true, false] {
        let mut toy = Toy::new(&changes);
        toy.set("train.load_best_at_end", load_best.into());
        let (learner, summary, models) = train_scripted(&toy, &losses);
        assert_eq!(toy.checkpoints(), [2, 6]);
        let best = summary.best.unwrap();
        assert_eq!((best.step, best.metric.as_str(), best.value), (2, "loss", 3.0));
        assert_eq!(fs::read(toy.path().join("best/model")).unwrap(), models[1]);
        assert_eq!(fs::read(toy.path().join("last/model")).unwrap(), models[5]);
        let (model, loss) = if load_best { (&models[1], 3.0) } else { (&models[5], 6.0) };
        assert_eq!((&weights(learner.model()), summary.valid["loss"]), (model, loss));
    }
}

#[test]
fn patience_ends_a_run_and_a_stopped_run_is_finished() {
    let mut toy = Toy::new(&[("train.early_stopping_patience", 2.into())]);
    let (_, summary, _) = train_scripted(&toy, &[5.0, 4.0, f64::NAN, 4.0, 1.0]);
    assert_eq!((summary.steps, summary.stopped_early, summary.interrupted), (4, true, false));
    assert_eq!(summary.best.unwrap().step, 2);
    toy.resume = true;
    assert!(toy.open(&mut toy.learner()).unwrap().is_finished());
}

#[test]
fn scores_grow_and_an_unknown_metric_is_named() {
    let toy = Toy::new(&[("train.metric_for_best", "accuracy".into())]);
    let mut learner = toy.learner();
    let mut run = toy.open(&mut learner).unwrap();
    let accuracy = |value: f64| Metrics { values: [("accuracy".to_owned(), value)].into(), ..loss(0.0) };
    for (step, value) in [0.5, 0.75, 0.6].into_iter().enumerate() {
        let step = step as u64;
        assert_eq!(run.next_step(), Some(step));
        let stats = learner.train_step(step, &[rows(step)], &Regression).unwrap();
        run.log_train(&stats, &mut learner).unwrap();
        run.log_eval(&accuracy(value)).unwrap();
        assert_eq!(run.save_due(), step < 2);
    }
    let error = run.log_eval(&loss(1.0)).unwrap_err().to_string();
    assert_eq!(error, "`train.metric_for_best` is `accuracy`, but the evaluation gives: loss");
    assert_eq!(run.state.best.as_ref().unwrap().step, 2);
}
