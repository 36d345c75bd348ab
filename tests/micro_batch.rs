//! `train.micro_batch_size = "auto"`, from the command line to the config that a run keeps.

use fornax_tests::{Lab, Outcome};
use serde_json::Value;
use toml::Table;

use crate::lab;

/// A lab whose `auto.toml` leaves the micro-batch of 4 examples to trials.
fn auto_lab() -> Lab {
    let lab = lab();
    let sizes = "micro_batch_size = 4\ngradient_accumulation = 2";
    lab.write_config("auto.toml", &[(sizes, "batch_size = 4\nmicro_batch_size = \"auto\"")]);
    lab
}

/// How often micro-batches were tried.
fn trials(outcome: &Outcome) -> usize {
    outcome.stderr.matches("\"auto\": trying 1, 2, 4 of 4 examples").count()
}

/// Examples of a step, of a micro-batch, and micro-batches of a step, as the run in a folder has them.
fn sizes(lab: &Lab, run: &str) -> [i64; 3] {
    let config: Table = String::from_utf8(lab.run(run).read("config.toml")).unwrap().parse().unwrap();
    ["batch_size", "micro_batch_size", "gradient_accumulation"].map(|key| config["train"][key].as_integer().unwrap())
}

#[test]
fn a_run_has_numbers_and_keeps_them() {
    let lab = auto_lab();
    let first = lab.gpt_lm(&["auto.toml", "--run-dir", "run", "--max-steps", "3"]).ok();
    assert_eq!(trials(&first), 1, "{first:?}");
    let [batch_size, rows, number] = sizes(&lab, "run");
    assert_eq!((batch_size, rows * number), (4, 4));
    assert!([1, 2, 4].contains(&rows));
    let chosen = format!("train.micro_batch_size = {rows}, train.gradient_accumulation = {number}: ");
    assert!(first.stderr.contains(&chosen) && first.stderr.contains("a micro-batch of 1: "), "{first:?}");
    assert!(first.stderr.contains(" tokens/s, peak memory "), "{first:?}");

    // Neither the run's own config nor the one that it began with makes it try again.
    for (config, max_steps) in [(None, "5"), (Some("auto.toml"), "7")] {
        let more = ["--run-dir", "run", "--resume", "--max-steps", max_steps];
        let resumed = lab.gpt_lm(&config.into_iter().chain(more).collect::<Vec<_>>()).ok();
        assert_eq!(trials(&resumed), 0, "{resumed:?}");
        assert_eq!(sizes(&lab, "run"), [batch_size, rows, number]);
    }
    assert_eq!(lab.run("run").train_steps(), (1..=7).collect::<Vec<_>>());

    // It is the run that such numbers give.
    let numbers = format!("train.micro_batch_size={rows}");
    let more = format!("train.gradient_accumulation={number}");
    let given = ["auto.toml", "--run-dir", "given", "--max-steps", "3", "--set", &numbers, "--set", &more];
    assert_eq!(trials(&lab.gpt_lm(&given).ok()), 0);
    assert_eq!(lab.run("given").train_losses(), lab.run("run").train_losses()[..3]);

    let other = ["auto.toml", "--run-dir", "run", "--resume", "--set", "train.batch_size=8"];
    let refused = lab.gpt_lm(&other);
    refused.refused(
        "another batch",
        2,
        &["`run`: `train.batch_size` was 4, now 8\nhint: a resumed run may change train.max_steps"],
    );
    let other = lab.gpt_lm(&["--run-dir", "run", "--resume", "--set", "train.batch_size=8"]);
    other.refused("another batch of the run's config", 2, &["`run`: `train.batch_size` was 4, now 8\n"]);
    lab.gpt_lm(&["auto.toml", "--run-dir", "run"]).refused("a folder that is taken", 2, &["`run`", "--resume"]);
}

#[test]
fn an_evaluation_reads_the_same_examples_whatever_is_chosen() {
    let lab = lab();
    lab.write_config("numbers.toml", &[("dropout = 0.1", "dropout = 0.0"), ("max_batches = 4", "max_batches = 2")]);
    let valid = |run: &str, numbers: &[&str]| {
        let sets = numbers.iter().flat_map(|text| ["--set", text]);
        let more = ["--run-dir", run, "--max-steps", "1"];
        lab.gpt_lm(&["numbers.toml"].into_iter().chain(more).chain(sets).collect::<Vec<_>>()).ok();
        lab.run(run).json("summary.json")["valid"]["loss"].as_f64().unwrap()
    };
    let cut = |run, rows, number| {
        let rows = format!("train.micro_batch_size={rows}");
        valid(run, &["train.batch_size=8", &rows, &format!("train.gradient_accumulation={number}")])
    };
    let whole = cut("whole", 8, 1);
    // Sums of f32 in another order.
    assert!((cut("cut", 2, 4) / whole - 1.0).abs() < 1e-5);
    // Other examples have another loss.
    let fewer = valid("fewer", &["train.micro_batch_size=2", "train.gradient_accumulation=4"]);
    assert!((fewer / whole - 1.0).abs() > 1e-4, "{fewer} {whole}");
}

#[test]
fn nothing_is_tried_for_a_run_that_has_no_place() {
    let lab = auto_lab();
    for (run, code, says) in [
        ("text.txt", 1, "cannot create the folder `text.txt`: Not a directory"),
        ("text.txt/run", 1, "cannot create the folder `text.txt/run`: Not a directory"),
        (".", 2, "`.` is no run folder and not empty"),
    ] {
        let outcome = lab.gpt_lm(&["auto.toml", "--run-dir", run]);
        outcome.refused(run, code, &[says]);
        assert_eq!(trials(&outcome), 0, "{outcome:?}");
    }
}

#[test]
fn a_bench_tries_first_and_a_dry_run_does_not() {
    let lab = auto_lab();
    let before = lab.contents();
    let bench = lab.fornax(&["train", "gpt-lm", "auto.toml", "--device", fornax_tests::cpu(), "--bench", "1"]).ok();
    assert_eq!(trials(&bench), 1, "{bench:?}");
    let report: Value = serde_json::from_str(&bench.stdout).unwrap();
    assert_eq!(report["steps"], 1, "{bench:?}");
    let dry = lab.gpt_lm(&["auto.toml", "--dry-run"]).ok();
    assert!(dry.stderr.contains("\"auto\": a run would try 1, 2, 4; this takes the smallest"), "{dry:?}");
    assert_eq!((trials(&dry), lab.contents()), (0, before));
}

/// A classifier of sentences, whose micro-batch is left to trials.
const CLASSIFIER: &str = r#"
[model]
hidden_size = 16
num_layers = 1
num_heads = 2

[tokenizer]
kind = "wordpiece"
vocab_size = 40

[data]
files = ["train.tsv"]
valid_files = ["valid.tsv"]
text_column = "text"
labels = ["cold", "hot"]
max_len = 8

[train]
max_steps = 2
batch_size = 4
micro_batch_size = "auto"
metric_for_best = "auto"
"#;

#[test]
fn several_seeds_share_one_choice() {
    let lab = lab();
    lab.write("glue.toml", CLASSIFIER);
    lab.write("train.tsv", format!("text\tlabel\n{}", "it glows\thot\nit cools\tcold\n".repeat(8)));
    lab.write("valid.tsv", "text\tlabel\nit glows again\thot\nit cools again\tcold\n");
    let arguments = ["glue.toml", "--seeds", "1,2", "--run-dir", "seeds"];
    let outcome = lab.train("glue", &arguments).ok();
    assert_eq!(trials(&outcome), 1, "{outcome:?}");
    assert_eq!(sizes(&lab, "seeds/seed-1"), sizes(&lab, "seeds/seed-2"));
    let again = lab.train("glue", &[arguments.as_slice(), &["--resume"]].concat()).ok();
    assert_eq!(trials(&again), 0, "{again:?}");

    for (arguments, says) in [
        (["--seeds", "1,2"].as_slice(), "--seeds needs --run-dir"),
        (&["--seeds", "1,1", "--run-dir", "others"], "a seed is there twice"),
        (&["--seeds", "1,2", "--run-dir", "seeds"], "holds another run"),
    ] {
        let refused = lab.train("glue", &[&["glue.toml"], arguments].concat());
        refused.refused(says, 2, &[says]);
        assert_eq!(trials(&refused), 0, "{refused:?}");
    }
    let no_folder = lab.train("glue", &["glue.toml", "--seeds", "1,2", "--run-dir", "train.tsv"]);
    no_folder.refused("a file", 1, &["cannot create the folder `train.tsv`: Not a directory"]);
    assert_eq!(trials(&no_folder), 0, "{no_folder:?}");
}

#[cfg(unix)]
#[test]
fn a_signal_ends_the_trials_and_leaves_no_run() {
    let lab = auto_lab();
    let running = lab.start(&["auto.toml", "--run-dir", "run"]);
    let outcome = running.until(|| lab.cache("tokens").exists()).signal("INT").end();
    assert_eq!(outcome.code, Some(130), "{outcome:#?}");
    assert!(!outcome.stderr.contains("error") && !lab.path("run").exists(), "{outcome:#?}");
    assert!(
        outcome.stderr.ends_with(" INFO interrupted while micro-batches are tried: no run was begun\n"),
        "{outcome:#?}"
    );
}
