use super::*;

#[test]
fn a_finished_run_says_so_and_stays_as_it_is() {
    let mut toy = Toy::new(&[("train.load_best_at_end", true.into())]);
    let (trained, summary) = toy.train(|_| false).unwrap();
    let summary = summary.unwrap();
    let metrics = fs::read(toy.path().join("metrics.jsonl")).unwrap();
    toy.resume = true;
    let mut learner = toy.learner();
    let mut run = toy.open(&mut learner).unwrap();
    assert!(run.is_finished());
    assert_eq!(run.next_step(), None);
    assert_eq!(run.finish(&mut learner).unwrap(), summary);
    assert_eq!(weights(learner.model()), weights(trained.model()));
    assert_eq!((toy.summary(), fs::read(toy.path().join("metrics.jsonl")).unwrap()), (summary, metrics));
}

#[test]
fn a_longer_run_keeps_the_schedule_that_it_began_with() {
    let mut toy = Toy::new(&[("train.log_every", 1.into())]);
    toy.train(|_| false).unwrap();
    let lrs = |toy: &Toy| -> Vec<f64> {
        toy.lines().iter().filter(|line| line["split"] == "train").map(|line| line["lr"].as_f64().unwrap()).collect()
    };
    let before = lrs(&toy);
    toy.resume = true;
    toy.set("train.max_steps", 15.into());
    let (_, summary) = toy.train(|_| false).unwrap();
    let after = lrs(&toy);
    assert_eq!((summary.unwrap().steps, after.len()), (15, 15));
    assert_eq!(after[..12], before);
    // The cosine over 12 steps ends at 0; one over 15 would not have.
    assert_eq!(after[12..], [0.0; 3]);
}

#[test]
fn what_does_not_belong_together_is_refused_by_name() {
    let mut toy = Toy::new(&[]);
    toy.resume = true;
    assert!(toy.error().starts_with("there is no run to resume in"));
    fs::create_dir(toy.path()).unwrap();
    fs::write(toy.path().join("thesis.txt"), "").unwrap();
    assert!(toy.error().starts_with("there is no run to resume in"));
    fs::remove_file(toy.path().join("thesis.txt")).unwrap();
    toy.resume = false;
    toy.train(|step| step == 7).unwrap();
    assert!(toy.error().contains("holds another run; hint: continue it with --resume"));
    toy.resume = true;
    toy.set("train.seed", 8.into());
    toy.set("model.hidden_size", 32.into());
    let error = toy.error();
    assert!(error.contains("`model.hidden_size` was 64, now 32; `train.seed` was 7, now 8;"), "{error}");
    assert!(error.contains("may change train.max_steps"), "{error}");
    toy.set("train.seed", 7.into());
    toy.set("model.hidden_size", 64.into());
    toy.data_hash = "other";
    assert!(toy.error().contains("the data differs"), "{}", toy.error());
    toy.data_hash = "data";
    toy.precision = Precision::Bf16;
    assert!(toy.error().contains("the value of --precision differs from that of the run in"), "{}", toy.error());
    assert!(toy.error().contains("the run has f32, now it is bf16; hint: "), "{}", toy.error());
    toy.precision = Precision::F32;

    let config = toy.path().join("config.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("hidden_size = 64", "hidden_size = 32")).unwrap();
    toy.set("model.hidden_size", 32.into());
    assert!(toy.error().contains("was edited after the checkpoint of step 5"), "{}", toy.error());
    fs::write(&config, text).unwrap();
    toy.set("model.hidden_size", 64.into());

    let mut learner = toy.learner();
    let _running = toy.open(&mut learner).unwrap();
    assert!(toy.error().contains("another process is using the run folder"));
}

#[test]
fn a_new_run_takes_an_empty_folder_only() {
    let toy = Toy::new(&[]);
    for stranger in ["tokenizer.json", ".env.new", "best", ".gitkeep"] {
        fs::create_dir_all(toy.path()).unwrap();
        fs::write(toy.path().join(stranger), "mine").unwrap();
        let error = toy.error();
        assert!(error.contains(&format!("is no run folder and not empty: it has `{stranger}`; hint: ")), "{error}");
        assert_eq!(fs::read_dir(toy.path()).unwrap().count(), 1);
        assert_eq!(fs::read_to_string(toy.path().join(stranger)).unwrap(), "mine");
        fs::remove_file(toy.path().join(stranger)).unwrap();
    }
    // What a process leaves that is killed before it has written its config.
    fs::write(toy.path().join(".lock"), "").unwrap();
    fs::write(toy.path().join(".config.toml.new"), "form").unwrap();
    toy.train(|_| false).unwrap();
    assert!(!toy.path().join(".config.toml.new").exists());
}

#[test]
fn a_resumed_run_leaves_what_others_keep_in_its_folder() {
    let mut toy = Toy::new(&[]);
    toy.train(|step| step == 7).unwrap();
    let others = [".env.new", ".notes.old", "checkpoints/.backup.gone", "checkpoints/.step-7.new"];
    for name in others {
        fs::write(toy.path().join(name), "mine").unwrap();
    }
    toy.resume = true;
    toy.train(|_| false).unwrap();
    for name in others {
        assert_eq!(fs::read_to_string(toy.path().join(name)).unwrap(), "mine");
    }
}

#[test]
fn a_damaged_environment_does_not_keep_a_run_from_going_on() {
    let mut toy = Toy::new(&[]);
    toy.train(|step| step == 7).unwrap();
    fs::write(toy.path().join("environment.json"), "damaged").unwrap();
    toy.resume = true;
    assert_eq!(toy.train(|_| false).unwrap().1.unwrap().steps, 12);
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let mut toy = Toy::new(&[]);
    fs::write(toy.path(), "a file in the way").unwrap();
    assert!(toy.error().starts_with(&format!("cannot create the folder `{}`", toy.path().display())));
    toy.resume = true;
    assert!(toy.error().starts_with("there is no run to resume"));
}

#[test]
fn a_damaged_checkpoint_is_skipped_and_without_any_other_the_run_is_not_started_over() {
    let (whole, mut toy) = (Toy::new(&[]), Toy::new(&[]));
    let (expected, _) = whole.train(|_| false).unwrap();
    toy.train(|step| step == 11).unwrap();
    let checkpoints = Checkpoints::of_run(&toy.path());
    let newest = *toy.checkpoints().last().unwrap();
    fs::write(checkpoints.path(newest).join("optimizer.bpk"), "damaged").unwrap();
    toy.resume = true;
    let (found, _) = toy.train(|_| false).unwrap();
    assert_eq!(weights(found.model()), weights(expected.model()));
    assert_eq!(toy.timeless(), whole.timeless());
    for step in toy.checkpoints() {
        fs::remove_file(checkpoints.path(step).join("model.bpk")).unwrap();
    }
    let error = toy.error();
    assert!(error.contains("no checkpoint of") && error.contains("step-000012/model.bpk"), "{error}");
}
