//! `fornax bench`, from the command line to a table, a file and a comparison with it.

use std::fs;

use fornax_backend::test_device;
use fornax_models::{BertConfig, hf};
use fornax_tests::{Outcome, cpu};
use serde_json::Value;

use crate::lab;

const PEER: &str =
    r#"echo '{"tokens_per_second": 100.0, "step_ms": 1.0, "peak_memory_bytes": 1000, "losses": [1.0, NaN]}'"#;

#[test]
fn runs_are_measured_beside_a_peer_saved_and_compared_with() {
    let lab = lab();
    let tiny = ["bench", "tiny", "--steps", "1", "--device", cpu()];
    let first =
        lab.fornax(&[&tiny, ["--rounds", "2", "--peer", PEER, "--json", "--save", "base.json"].as_slice()].concat());
    let report: Value = serde_json::from_str(&first.ok().stdout).unwrap();
    let row = &report["rows"][0];
    for (key, value) in [("case", "tiny"), ("device", cpu()), ("precision", "f32")] {
        assert_eq!(row[key], value, "{row}");
    }
    let number = |key: &str| row[key].as_f64().unwrap_or_else(|| panic!("{key}: {row}"));
    let runs: Vec<f64> = row["runs"].as_array().unwrap().iter().map(|run| run.as_f64().unwrap()).collect();
    assert_eq!((runs.len(), row["losses"].as_array().unwrap().len()), (2, 4));
    assert!((number("tokens_per_second") - f64::midpoint(runs[0], runs[1])).abs() < 1e-9 * runs[0]);
    assert!((number("of_peer") - number("tokens_per_second") / 100.0).abs() < 1e-9 * runs[0]);
    assert!(number("start_up_ms") > number("step_ms") && number("peak_memory_bytes") > 1e6);
    assert_eq!(report["peer"]["runs"], Value::from(vec![100.0, 100.0]));
    assert_eq!(report["peer"]["losses"], Value::from(vec![Some(1.0), None]));
    let saved: Value = serde_json::from_slice(&fs::read(lab.path("base.json")).unwrap()).unwrap();
    assert_eq!(saved, report);

    // In the same processes one row is known, one is not, and one can't be had.
    let more = ["--precision", "f32,f16", "--batch", "2", "--baseline", "base.json"];
    let second = lab.fornax(&[&tiny, more.as_slice()].concat());
    assert_eq!(second.code, Some(1), "{second:?}");
    assert!(second.stderr.contains("error: 1 of 2 failed"), "{second:?}");
    let line =
        |start: &str| second.stdout.lines().find(|line| line.contains(start)).unwrap_or_else(|| panic!("{second:?}"));
    let cells: Vec<_> = line(" f32 ").split_whitespace().collect();
    assert!(cells[0] == "tiny" && cells.last().unwrap().parse::<f64>().unwrap() > 0.0, "{cells:?}");
    assert!(line(" f16 ").contains("failed"));
    assert!(line("in f16, batch 2: ").contains("f16 "), "{second:?}");
    let other = lab.fornax(&[&tiny, ["--batch", "1", "--baseline", "base.json"].as_slice()].concat()).ok();
    let missing = format!("not in base.json: tiny on {} in f32, batch 1\n", cpu());
    assert!(other.stdout.ends_with(&missing), "{other:?}");
}

#[test]
fn what_can_not_be_run_or_read_is_told_before_anything_is_measured() {
    let lab = lab();
    lab.write("tokens.json", "{\"tokens\": 1}");
    let before = lab.contents();
    let peer = "sh -c 'echo loading >&2; echo out of memory >&2; exit 3'";
    for (arguments, code, says) in [
        (["gpt-11m"].as_slice(), 2, ["gpt-11m", "bert-base"].as_slice()),
        (&["tiny", "--steps", "0"], 2, &["--steps", "0 is not in"]),
        (&["tiny", "--rounds", "0"], 2, &["--rounds", "0 is not in"]),
        (&["tiny", "--device", "gpu"], 2, &["unknown device `gpu`"]),
        (&["sst2-minilm"], 2, &["--model DIR"]),
        (&["tiny", "--peer", "'"], 2, &["--peer", "quote"]),
        (&["tiny", "--device", "flex,flex"], 2, &["--device names flex twice"]),
        (&["all", "--model", "nowhere"], 2, &["--model nowhere: there is no such folder"]),
        (&["tiny", "--peer", peer], 1, &["--peer: exit status: 3: loading\nout of memory"]),
        (&["tiny", "--peer", "./nowhere"], 2, &["--peer: the program `./nowhere` can't be started"]),
        (&["tiny", "--peer", "echo fast"], 1, &["--peer: its last line is to be JSON", "\"fast\""]),
        (&["tiny", "--baseline", "nowhere.json"], 2, &["--baseline nowhere.json: No such file"]),
        (&["tiny", "--baseline", "tokens.json"], 2, &["--baseline tokens.json: no report of `fornax bench --save`"]),
        (&["tiny", "--save", "nowhere/a.json"], 2, &["--save nowhere/a.json: there is no folder `nowhere`"]),
    ] {
        let outcome = lab.fornax(&[&["bench"], arguments].concat());
        outcome.refused(&format!("{arguments:?}"), code, says);
    }
    assert!(lab.contents() == before);
}

fn three_rounds(peer: &str) -> [&str; 11] {
    ["bench", "tiny", "--device", cpu(), "--steps", "1", "--rounds", "3", "--peer", peer, "--json"]
}

/// Printed are the figures of the first round, though another began.
#[track_caller]
fn assert_one_whole_round(outcome: &Outcome) {
    let report: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(report["rows"][0]["runs"].as_array().unwrap().len(), 1, "{report}");
    assert!(report["rows"][0]["of_peer"].as_f64().unwrap() > 0.0, "{report}");
}

#[test]
fn a_peer_that_fails_later_takes_no_round_before_with_it() {
    let lab = lab();
    let peer = r#"sh -c 'mkdir ran && echo "{\"tokens_per_second\": 100}"'"#;
    let outcome = lab.fornax(&three_rounds(peer));
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(
        outcome.stderr.contains("round 2; the figures are of the rounds before: --peer: exit status: "),
        "{outcome:?}"
    );
    assert_one_whole_round(&outcome);
}

#[cfg(unix)]
#[test]
fn a_signal_takes_no_whole_round_with_it() {
    let lab = lab();
    let peer = r#"sh -c 'mkdir ran || { touch second; exec sleep 600; }; echo "{\"tokens_per_second\": 100}"'"#;
    let running = lab.start_training("fornax", &three_rounds(peer)).until(|| lab.path("second").exists());
    let outcome = running.signal("INT").end();
    assert_eq!(outcome.code, Some(130), "{outcome:?}");
    assert!(
        outcome.stderr.ends_with(" INFO interrupted in round 2; the figures are of the rounds before\n"),
        "{outcome:?}"
    );
    assert_one_whole_round(&outcome);
}

#[cfg(unix)]
#[test]
fn a_signal_ends_a_peer_too() {
    let lab = lab();
    // The process that the shell becomes has to be gone: its number is in the file.
    let peer = "sh -c 'echo $$ > peer.pid; exec sleep 600'";
    let running = lab.start_training("fornax", &["bench", "tiny", "--peer", peer]);
    let started = || fs::read_to_string(lab.path("peer.pid")).is_ok_and(|pid| pid.ends_with('\n'));
    let outcome = running.until(started).signal("TERM").end();
    assert_eq!(outcome.code, Some(130), "{outcome:?}");
    assert!(!outcome.stderr.contains("error"), "{outcome:?}");
    let pid = fs::read_to_string(lab.path("peer.pid")).unwrap();
    let alive = std::process::Command::new("kill").args(["-0", pid.trim()]).output().unwrap();
    assert!(!alive.status.success(), "{pid}");
}

#[test]
fn a_device_that_is_not_there_is_a_row_with_its_reason() {
    let lab = lab();
    let absent = if fornax_backend::Family::Cuda.is_compiled() { "cuda:99" } else { "cuda" };
    let outcome = lab.fornax(&["bench", "tiny", "--steps", "1", "--device", &format!("{absent},{}", cpu()), "--json"]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let report: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert!(report["rows"][0]["error"].as_str().unwrap().contains(&format!("--device {absent}")), "{report}");
    assert!(report["rows"][0]["tokens_per_second"].is_null());
    assert!(report["rows"][1]["tokens_per_second"].as_f64().unwrap() > 0.0, "{report}");
}

#[test]
fn a_checkpoint_is_fine_tuned_on_sst2() {
    let lab = lab();
    let rows = |count: usize| {
        let row =
            |index: usize| format!("\n{} film\t{}", ["a dull", "a fine"][index % 2].repeat(index % 5 + 1), index % 2);
        format!("sentence\tlabel{}", (0..count).map(row).collect::<String>())
    };
    lab.write("data/sst2/train.tsv", rows(40));
    lab.write("data/sst2/dev.tsv", rows(4));
    // Fewer positions than the recipe's 128 tokens, and fewer than the longest sentence.
    let sizes = BertConfig {
        vocab_size: 300,
        max_positions: 8,
        hidden_size: 12,
        num_layers: 1,
        num_heads: 2,
        intermediate_size: 24,
        ..BertConfig::default()
    };
    let model = sizes.init_masked_lm(1, &test_device()).unwrap();
    hf::save_bert_for_masked_lm(&model, &lab.path("model"), Some(0)).unwrap();
    let tokenizer = ["--kind", "wordpiece", "--vocab-size", "120", "-o", "model/tokenizer.json"];
    lab.fornax(&[&["tokenizer", "train", "text.txt"], tokenizer.as_slice()].concat()).ok();

    let arguments = ["bench", "sst2-minilm", "--model", "model", "--steps", "2", "--device", cpu(), "--json"];
    let mut command = lab.command("fornax", &arguments);
    command.env("FORNAX_DATA", lab.path("data"));
    let report: Value = serde_json::from_str(&Outcome::of(command).ok().stdout).unwrap();
    let row = &report["rows"][0];
    assert_eq!((&row["batch"], row["losses"].as_array().unwrap().len()), (&Value::from(32), 5), "{row}");
    assert!((row["losses"][0].as_f64().unwrap() - 2f64.ln()).abs() < 0.1, "{row}");

    let no_model = lab.fornax(&["bench", "sst2-minilm", "--model", "data", "--device", cpu()]);
    assert_eq!(no_model.code, Some(1), "{no_model:?}");
    assert!(no_model.stdout.contains("batch 32: --model: data"), "{no_model:?}");
}
