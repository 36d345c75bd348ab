use std::{cell::Cell, fs, rc::Rc};

use fornax_backend::Precision;
use proptest::prelude::*;
use serde_json::Value;
use toml::Table;

use super::*;
use crate::{
    BatchSize, LearnerSettings, Options, Schedule, ScheduleConfig, Sums, Task, evaluate, read_metrics,
    testing::{Regression, Row, Tiny, bits, optimizer, rows},
};

const BASE: &str = "
    [model]
    hidden_size = 64
    [train]
    max_steps = 12
    seed = 7
    log_every = 3
    eval_every = 4
    [checkpoint]
    save_every = 5
    keep_last = 2
";

/// A run folder and everything that opens it.
struct Toy {
    dir: tempfile::TempDir,
    /// Where the run is, if not in `dir`.
    folder: Option<PathBuf>,
    config: Table,
    resume: bool,
    data_hash: &'static str,
    precision: Precision,
}

impl Toy {
    fn new(changes: &[(&str, Value)]) -> Self {
        let mut toy = Self {
            dir: tempfile::tempdir().unwrap(),
            folder: None,
            config: BASE.parse().unwrap(),
            resume: false,
            data_hash: "data",
            precision: Precision::F32,
        };
        for (key, value) in changes {
            toy.set(key, value.clone());
        }
        toy
    }

    fn set(&mut self, key: &str, value: Value) {
        let (table, key) = key.split_once('.').unwrap();
        let value = toml::Value::try_from(value).unwrap();
        self.config.get_mut(table).unwrap().as_table_mut().unwrap().insert(key.to_owned(), value);
    }

    fn path(&self) -> PathBuf {
        self.folder.as_deref().unwrap_or(self.dir.path()).join("run")
    }

    fn learner(&self) -> Learner<Tiny> {
        let total = self.config["train"]["max_steps"].as_integer().unwrap() as u64;
        let optimizer = optimizer();
        let settings = LearnerSettings {
            schedule: Schedule::new(&ScheduleConfig::default(), optimizer.lr, total).unwrap(),
            optimizer,
            seed: 7,
            precision: self.precision,
        };
        Learner::new(Tiny::new(&fornax_backend::test_device().autodiff()), settings).unwrap()
    }

    fn open(&self, learner: &mut Learner<Tiny>) -> Result<Run<Tiny>, TrainError> {
        let mut run = self.open_with_signals(learner)?;
        // The flags that signals set are shared by all runs of the process.
        run.interrupt = Interrupt::unarmed();
        Ok(run)
    }

    fn open_with_signals(&self, learner: &mut Learner<Tiny>) -> Result<Run<Tiny>, TrainError> {
        let options = Options { run_dir: Some(self.path()), resume: self.resume, ..Options::default() };
        let info = RunInfo {
            recipe: "toy".into(),
            device: "flex".into(),
            precision: self.precision.to_string(),
            data_hash: Some(self.data_hash.into()),
            tokenizer: Some(b"{}".to_vec()),
            steps_per_epoch: Some(6),
            ..RunInfo::default()
        };
        Ok(Run::open(&options, &self.config, info, learner)?.export_with(write_weights))
    }

    /// Opens and trains; `stop` is asked before each step whether the process dies there.
    fn train(&self, stop: impl Fn(u64) -> bool) -> Result<(Learner<Tiny>, Option<Summary>), TrainError> {
        let mut learner = self.learner();
        let mut run = self.open(&mut learner)?;
        while let Some(step) = run.next_step() {
            if stop(step) {
                return Ok((learner, None));
            }
            make_step(&mut run, &mut learner, step)?;
        }
        let summary = run.finish(&mut learner)?;
        Ok((learner, Some(summary)))
    }

    fn error(&self) -> String {
        self.train(|_| false).map(drop).unwrap_err().chain()
    }

    fn lines(&self) -> Vec<serde_json::Map<String, Value>> {
        read_metrics(&self.path().join("metrics.jsonl")).unwrap()
    }

    /// The metrics without the times, which differ from run to run.
    fn timeless(&self) -> Vec<serde_json::Map<String, Value>> {
        let mut lines = self.lines();
        for line in &mut lines {
            line.remove("tokens_per_second");
            line.remove("step_ms");
        }
        lines
    }

    fn checkpoints(&self) -> Vec<u64> {
        Checkpoints::of_run(&self.path()).steps().unwrap()
    }

    fn summary(&self) -> Summary {
        Summary::open(&self.path()).unwrap().unwrap()
    }
}

fn make_step(run: &mut Run<Tiny>, learner: &mut Learner<Tiny>, step: u64) -> Result<(), TrainError> {
    let stats = learner.train_step(step, &[rows(step), rows(step + 100)], &Regression)?;
    run.log_train(&stats, learner)?;
    if run.eval_due() {
        let batch = [Ok::<_, BoxError>(rows(1))];
        run.log_eval(&evaluate(&learner.valid(), batch, &Regression, Precision::F32, |_| {})?)?;
    }
    if run.save_due() {
        run.save(learner)?;
    }
    Ok(())
}

fn write_weights(model: &Tiny, dir: &Path) -> std::io::Result<()> {
    fs::write(dir.join("model"), weights(model))
}

fn weights(model: &Tiny) -> Vec<u8> {
    bits(&crate::export_parameters(model)).into_iter().flat_map(|(_, bytes)| bytes).collect()
}

fn loss(value: f64) -> Metrics {
    Metrics { values: [("loss".to_owned(), value)].into(), targets: 1, tokens: 1 }
}

/// Trains with an evaluation after each step whose losses are given.
fn train_scripted(toy: &Toy, losses: &[f64]) -> (Learner<Tiny>, Summary, Vec<Vec<u8>>) {
    let (mut learner, mut models) = (toy.learner(), Vec::new());
    let mut run = toy.open(&mut learner).unwrap();
    while let Some(step) = run.next_step() {
        let stats = learner.train_step(step, &[rows(step)], &Regression).unwrap();
        run.log_train(&stats, &mut learner).unwrap();
        run.log_eval(&loss(losses[step as usize])).unwrap();
        models.push(weights(learner.model()));
        if run.save_due() {
            run.save(&learner).unwrap();
        }
    }
    let summary = run.finish(&mut learner).unwrap();
    (learner, summary, models)
}

#[test]
fn a_run_leaves_what_is_documented() {
    let toy = Toy::new(&[]);
    let (learner, summary) = toy.train(|_| false).unwrap();
    let summary = summary.unwrap();
    let mut names: Vec<_> =
        fs::read_dir(toy.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let expected = [
        ".lock",
        "best",
        "checkpoints",
        "config.toml",
        "environment.json",
        "last",
        "metrics.jsonl",
        "summary.json",
        "tokenizer.json",
    ];
    assert_eq!(names, expected);
    assert_eq!(open_config(&toy.path()).unwrap(), toy.config);
    let at = |split: &str| -> Vec<u64> {
        toy.lines().iter().filter(|line| line["split"] == split).map(|line| line["step"].as_u64().unwrap()).collect()
    };
    assert_eq!((at("train"), at("valid")), (vec![3, 6, 9, 12], vec![4, 8, 12]));
    assert_eq!(fs::read(toy.path().join("last/model")).unwrap(), weights(learner.model()));

    assert_eq!((summary.recipe.as_str(), summary.device.as_str(), summary.precision.as_str()), ("toy", "flex", "f32"));
    assert_eq!((summary.parameters, summary.steps, summary.epochs, summary.tokens), (9, 12, Some(2.0), 12 * 12));
    assert_eq!((summary.interrupted, summary.stopped_early, &summary.error), (false, false, &None));
    let lines = toy.lines();
    assert_eq!(summary.train["loss"], lines[lines.len() - 2]["loss"].as_f64().unwrap());
    assert_eq!(summary.valid["accuracy"], lines[lines.len() - 1]["accuracy"].as_f64().unwrap());
    assert!(summary.seconds > 0.0 && summary.tokens_per_second > 0.0);
    assert_eq!(toy.summary(), summary);
}

#[test]
fn the_logged_loss_is_the_mean_per_target_of_its_window() {
    let (each, window) = (Toy::new(&[("train.log_every", 1.into())]), Toy::new(&[("train.log_every", 4.into())]));
    for toy in [&each, &window] {
        toy.train(|_| false).unwrap();
    }
    let losses = |toy: &Toy| -> Vec<f64> {
        toy.lines().iter().filter(|line| line["split"] == "train").map(|line| line["loss"].as_f64().unwrap()).collect()
    };
    for (mean, chunk) in losses(&window).iter().zip(losses(&each).chunks(4)) {
        let expected = chunk.iter().sum::<f64>() / 4.0;
        assert!((mean - expected).abs() < 1e-5 * expected, "{mean} instead of {expected}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Killed before any step, with any debris in the folder, and resumed: parameters, optimizer and metrics are those
    /// of a run that was never killed.
    #[test]
    fn a_killed_run_continues_bit_for_bit(killed_at in 0u64..12, save_every in 1u64..6, log_every in 1u64..6) {
        let changes = [("checkpoint.save_every", save_every.into()), ("train.log_every", log_every.into())];
        let (whole, mut killed) = (Toy::new(&changes), Toy::new(&changes));
        let (expected, _) = whole.train(|_| false).unwrap();
        killed.train(|step| step == killed_at).unwrap();
        let path = killed.path();
        let mut metrics = fs::File::options().append(true).open(path.join("metrics.jsonl")).unwrap();
        std::io::Write::write_all(&mut metrics, b"{\"step\":99,\"spl").unwrap();
        fs::create_dir_all(path.join("checkpoints/.step-000099.new")).unwrap();
        fs::write(path.join("checkpoints/.step-000099.new/model.bpk"), "half").unwrap();
        fs::write(path.join(".summary.json.new"), "{").unwrap();

        killed.resume = true;
        let (found, summary) = killed.train(|_| false).unwrap();
        let state = |learner: &Learner<Tiny>| {
            (bits(&learner.export_parameters().unwrap()), bits(&learner.export_optimizer().unwrap()))
        };
        prop_assert_eq!(state(&found), state(&expected));
        prop_assert_eq!(killed.timeless(), whole.timeless());
        prop_assert_eq!(summary.unwrap().error, None);
        prop_assert!(!path.join("checkpoints/.step-000099.new").exists() && !path.join(".summary.json.new").exists());
    }
}

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

/// The environment variable that makes a test be the child of itself.
#[cfg(unix)]
const CHILD: &str = "FORNAX_TEST_RUN";

/// This test program again, to run the test `name` as a child on the folder of `toy`.
#[cfg(unix)]
fn child(name: &str, toy: &Toy) -> std::process::Command {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("run::tests::{name}"), "--nocapture"]).env(CHILD, toy.dir.path());
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
fn scores_grow_and_terms_of_the_loss_shrink() {
    for (metric, grows) in
        [("accuracy", true), ("rougeL", true), ("loss", false), ("perplexity", false), ("nsp", false)]
    {
        assert_eq!((is_better(metric, 2.0, 1.0), is_better(metric, 1.0, 2.0)), (grows, !grows), "{metric}");
    }
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
