use super::*;

#[test]
fn a_signal_ends_the_run_after_its_step_and_resuming_changes_nothing() {
    let (whole, mut toy) = (Toy::new(&[]), Toy::new(&[]));
    let (expected, _) = whole.train(|_| false).unwrap();
    let mut learner = toy.learner();
    let mut run = toy.open(&mut learner).unwrap();
    while let Some(step) = run.next_step() {
        if step == 6 {
            run.interrupt.request();
        }
        make_step(&mut run, &mut learner, step).unwrap();
    }
    let summary = run.finish(&mut learner).unwrap();
    assert_eq!((summary.interrupted, summary.steps, summary.exit_code()), (true, 7, 130));
    assert_eq!(toy.summary(), summary);
    assert_eq!(toy.checkpoints(), [4, 5, 7]);
    assert!(!toy.path().join("last").exists());
    toy.resume = true;
    let (found, summary) = toy.train(|_| false).unwrap();
    assert_eq!((toy.summary().interrupted, summary.unwrap().exit_code()), (false, 0));
    assert_eq!(weights(found.model()), weights(expected.model()));
    assert_eq!(toy.timeless(), whole.timeless());
}

#[test]
fn a_signal_in_the_last_step_leaves_what_is_to_be_measured_to_a_resumed_run() {
    let mut toy = Toy::new(&[]);
    let to_the_end = |toy: &Toy| {
        let mut learner = toy.learner();
        let mut run = toy.open(&mut learner).unwrap();
        while let Some(step) = run.next_step() {
            make_step(&mut run, &mut learner, step).unwrap();
        }
        (run, learner)
    };
    let (mut run, mut learner) = to_the_end(&toy);
    run.interrupt.request();
    run.settle(&mut learner).unwrap();
    assert!(run.is_interrupted() && run.finish(&mut learner).unwrap().interrupted);
    assert!(toy.path().join("last").exists());
    toy.resume = true;
    let (mut run, mut learner) = to_the_end(&toy);
    run.settle(&mut learner).unwrap();
    // While it is measured, the folder is one to be resumed.
    assert!(!run.is_interrupted() && toy.summary().interrupted);
    run.log_kept(&Metrics { values: [("loss".to_owned(), 0.25)].into(), targets: 1, tokens: 1 });
    assert!(!run.finish(&mut learner).unwrap().interrupted);
    assert_eq!((toy.summary().interrupted, toy.summary().valid["loss"]), (false, 0.25));
    // A run without such a measurement is at its end.
    let toy = Toy::new(&[]);
    let (run, mut learner) = to_the_end(&toy);
    run.interrupt.request();
    assert!(!run.finish(&mut learner).unwrap().interrupted);
}

/// The environment variable that makes a test be the child of itself.
#[cfg(unix)]
const CHILD: &str = "FORNAX_TEST_RUN";

/// This test program again, to run the test `name` as a child on the folder of `toy`.
#[cfg(unix)]
fn child(name: &str, toy: &Toy) -> std::process::Command {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("run::tests::interruption::{name}"), "--nocapture"]).env(CHILD, toy.dir.path());
    command.stderr(std::process::Stdio::null()).stdout(std::process::Stdio::null());
    command
}

/// Killed by the kernel, wherever it is, twelve times over.
#[cfg(unix)]
#[test]
fn kill_9_at_any_moment_changes_nothing() {
    let changes =
        [("train.max_steps", 150.into()), ("checkpoint.save_every", 1.into()), ("train.eval_every", 7.into())];
    let mut toy = Toy::new(&changes);
    if let Some(dir) = std::env::var_os(CHILD) {
        toy.folder = Some(dir.into());
        toy.resume = toy.path().exists();
        toy.train(|_| false).unwrap();
        return;
    }
    let whole = Toy::new(&changes);
    let (expected, _) = whole.train(|_| false).unwrap();
    let name = "kill_9_at_any_moment_changes_nothing";
    for attempt in 0..12 {
        let mut child = child(name, &toy).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(40 + attempt * 37 % 111));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(child(name, &toy).status().unwrap().success());
    let last = Checkpoints::of_run(&toy.path()).latest().unwrap();
    assert!(last.skipped.is_empty());
    let last = last.checkpoint.unwrap();
    assert_eq!(bits(&last.model().unwrap()), sorted(bits(&expected.export_parameters().unwrap())));
    assert_eq!(bits(&last.optimizer().unwrap()), sorted(bits(&expected.export_optimizer().unwrap())));
    assert_eq!(toy.timeless(), whole.timeless());
}

/// As a checkpoint file orders them.
#[cfg(unix)]
fn sorted(mut tensors: Vec<(String, Vec<u8>)>) -> Vec<(String, Vec<u8>)> {
    tensors.sort();
    tensors
}

#[cfg(unix)]
#[test]
fn sigterm_reaches_the_run() {
    let mut toy = Toy::new(&[]);
    if let Some(dir) = std::env::var_os(CHILD) {
        toy.folder = Some(dir.into());
        let mut learner = toy.learner();
        let mut run = toy.open_with_signals(&mut learner).unwrap();
        while let Some(step) = run.next_step() {
            if step == 6 {
                signal_hook::low_level::raise(signal_hook::consts::SIGTERM).unwrap();
            }
            make_step(&mut run, &mut learner, step).unwrap();
        }
        std::process::exit(run.finish(&mut learner).unwrap().exit_code());
    }
    assert_eq!(child("sigterm_reaches_the_run", &toy).status().unwrap().code(), Some(130));
    assert_eq!((toy.summary().steps, toy.summary().interrupted), (7, true));
}
