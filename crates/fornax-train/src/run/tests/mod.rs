mod average;
mod best;
mod failure;
mod folder;
mod interruption;
mod saving;

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
            checkpoint_blocks: false,
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
            line.remove("data_ms");
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

/// `stop` is asked between the start of a step and its batch.
#[test]
fn the_wait_for_data_is_logged() {
    let toy = Toy::new(&[]);
    toy.train(|_| {
        std::thread::sleep(Duration::from_millis(20));
        false
    })
    .unwrap();
    for line in toy.lines().iter().filter(|line| line["split"] == "train") {
        let [data, step] = ["data_ms", "step_ms"].map(|key| line[key].as_f64().unwrap());
        assert!(20.0 <= data && data <= step, "{data} of {step} ms");
    }
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
fn a_checkpoint_is_written_at_the_end_of_each_epoch() {
    let changes = [("checkpoint.save_every", "epoch".into()), ("checkpoint.keep_last", 9.into())];
    // The best model would be kept besides.
    let toy = Toy::new(&[&changes[..], &[("train.eval_every", 0.into())]].concat());
    toy.train(|step| step == 11).unwrap();
    assert_eq!(toy.checkpoints(), [6]);
}
