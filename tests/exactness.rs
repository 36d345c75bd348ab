//! A run that was killed, interrupted, resumed or repeated is the run that was not: bit for bit on the CPU, with dropout,
//! gradient accumulation, evaluations and checkpoints on the way.

use std::{collections::BTreeMap, time::Instant};

use fornax_tests::{Lab, RunFolder};

use crate::lab;

/// The config of these tests: steps long enough for a signal to arrive between the first and the last.
fn exact_lab() -> Lab {
    let lab = lab();
    lab.write_config("exact.toml", &[("seq_len = 16", "seq_len = 64"), ("hidden_size = 16", "hidden_size = 48")]);
    lab
}

fn arguments<'a>(folder: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [["exact.toml", "--run-dir", folder].as_slice(), more].concat()
}

fn straight(lab: &Lab, more: &[&str]) -> RunFolder {
    lab.gpt_lm(&arguments("straight", more)).ok();
    lab.run("straight")
}

#[track_caller]
pub(crate) fn assert_same_run(run: &RunFolder, straight: &RunFolder, steps: u64) {
    assert_eq!(run.train_steps(), (1..=steps).collect::<Vec<_>>(), "each step stands once");
    assert_eq!(run.timeless(), straight.timeless());
    assert!(run.tensors(steps) == straight.tensors(steps), "parameters or moments differ");
    for file in
        ["last/model.safetensors", "last/config.json", "best/model.safetensors", "tokenizer.json", "config.toml"]
    {
        assert!(run.read(file) == straight.read(file), "{file} differs");
    }
    let numbers = |run: &RunFolder| {
        let summary = run.summary();
        (summary.steps, summary.tokens, summary.interrupted, summary.train, summary.valid, summary.best)
    };
    assert_eq!(numbers(run), numbers(straight));
}

#[test]
fn ten_steps_kill_9_and_ten_more_are_twenty() {
    let lab = exact_lab();
    let straight = straight(&lab, &[]);
    let run = lab.run("run");
    // The files of a checkpoint are written beside the steps that follow it.
    let reached = || run.train_steps().len() >= 10 && !run.checkpoints().is_empty();
    assert!(lab.start(&arguments("run", &[])).until(reached).kill(), "the run was over before it was killed");
    assert!(!run.path("summary.json").exists(), "killed before its end");

    let resumed = lab.gpt_lm(&["--run-dir", "run", "--resume"]).ok();
    assert!(resumed.stderr.contains("resuming `run` after step "), "{resumed:?}");
    assert_same_run(&run, &straight, 20);
}

#[test]
fn a_run_killed_at_any_moment_is_the_run_that_was_not() {
    let lab = exact_lab();
    // A checkpoint after each step: most kills fall into a save.
    let cadences = ["--set", "checkpoint.save_every=1", "--set", "train.eval_every=4"];
    let begun = Instant::now();
    let straight = straight(&lab, &cadences);
    let whole = begun.elapsed();
    let run = lab.run("run");
    let running = lab.start(&arguments("run", &cadences));
    assert!(running.until(|| run.train_steps().len() >= 2).kill(), "the run was over before it was killed");
    for sixteenth in [3, 1, 5, 2, 4] {
        // Shares of the time that a whole run takes, so that kills come while it works on any machine.
        let running = lab.start(&arguments("run", &[&["--resume"], cadences.as_slice()].concat()));
        running.after(whole.mul_f64(f64::from(sixteenth) / 16.0)).kill();
    }
    lab.gpt_lm(&arguments("run", &[&["--resume"], cadences.as_slice()].concat())).ok();
    assert_same_run(&run, &straight, 20);
    let hidden: Vec<_> = run.names("checkpoints").into_iter().filter(|name| name.starts_with('.')).collect();
    assert!(hidden.is_empty(), "killed saves leave nothing behind: {hidden:?}");
}

#[cfg(unix)]
#[test]
fn signals_end_a_run_after_a_checkpoint_and_it_goes_on_from_there() {
    let lab = exact_lab();
    let straight = straight(&lab, &[]);
    for signal in ["INT", "TERM"] {
        let run = lab.run(signal);
        let running = lab.start(&arguments(signal, &[])).until(|| run.train_steps().len() >= 3);
        let outcome = running.signal(signal).end();
        assert_eq!(outcome.code, Some(130), "{outcome:#?}");
        assert!(outcome.stderr.contains("interrupted; continue with --resume"), "{outcome:#?}");
        let summary = run.summary();
        assert!(summary.interrupted && summary.error.is_none() && summary.steps < 20, "{summary:?}");
        assert_eq!(run.checkpoints().last(), Some(&summary.steps));
        assert_eq!(run.train_steps(), (1..=summary.steps).collect::<Vec<_>>());

        lab.gpt_lm(&arguments(signal, &["--resume"])).ok();
        assert_same_run(&run, &straight, 20);
    }
}

#[test]
fn two_runs_of_one_config_leave_equal_files() {
    let lab = exact_lab();
    let first = straight(&lab, &[]);
    lab.gpt_lm(&arguments("second", &[])).ok();
    let second = lab.run("second");
    assert_same_run(&second, &first, 20);
    for file in ["model.bpk", "optimizer.bpk"] {
        let file = format!("checkpoints/step-000020/{file}");
        assert!(first.read(&file) == second.read(&file), "{file} differs");
    }
    lab.gpt_lm(&arguments("other-seed", &["--seed", "7"])).ok();
    assert_ne!(lab.run("other-seed").train_losses(), first.train_losses());
}

/// In one run the same eight examples make a step, however they are cut; what differs is the order of sums in `f32`.
#[test]
fn micro_batches_add_up_to_the_large_batch() {
    let lab = exact_lab();
    let mut losses = BTreeMap::new();
    for (size, number) in [(8, 1), (4, 2), (2, 4)] {
        let (size, number) =
            (format!("train.micro_batch_size={size}"), format!("train.gradient_accumulation={number}"));
        let settings = ["--set", "model.dropout=0.0", "--set", &size, "--set", &number, "--max-steps", "10"];
        lab.gpt_lm(&arguments(&size, &settings)).ok();
        let run = lab.run(&size);
        assert_eq!(run.summary().tokens, 10 * 8 * 64);
        losses.insert(size.clone(), run.train_losses());
    }
    let whole = &losses["train.micro_batch_size=8"];
    assert!(whole[9] < whole[0] - 0.1, "it learns, or the comparison says little: {whole:?}");
    for (cut, losses) in &losses {
        for (loss, expected) in losses.iter().zip(whole) {
            // 1e-7 a sum, of which a step makes some hundred one after another, and ten steps build on each other.
            assert!((loss - expected).abs() <= 2e-5 * expected, "{cut}: {losses:?} are not {whole:?}");
        }
    }
}

#[test]
fn a_finished_run_says_so_stays_as_it_is_and_can_be_made_longer() {
    let lab = exact_lab();
    let run = straight(&lab, &["--max-steps", "10"]);
    let before = lab.contents();
    let again = lab.gpt_lm(&["--run-dir", "straight", "--resume"]).ok();
    assert!(again.stderr.contains("`straight` is a finished run of 10 steps: nothing to do"), "{again:?}");
    assert!(lab.contents() == before, "nothing is written");

    let first = run.timeless();
    lab.gpt_lm(&["--run-dir", "straight", "--resume", "--max-steps", "14"]).ok();
    let summary = run.summary();
    assert_eq!((summary.steps, summary.interrupted), (14, false));
    assert_eq!(run.train_steps(), (1..=14).collect::<Vec<_>>());
    assert_eq!(run.timeless()[..first.len()], first);
}
