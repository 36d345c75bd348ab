//! Command lines, what is printed, and what a run leaves, as the documentation says.

use std::{
    collections::BTreeSet,
    fs,
    io::Read,
    thread::sleep,
    time::{Duration, Instant},
};

use fornax_tests::{Lab, Outcome, cpu};
use serde_json::Value;

use crate::lab;

/// Runs `tiny.toml` in the folder `run`.
fn train(lab: &Lab, more: &[&str]) -> Outcome {
    lab.gpt_lm(&[&["tiny.toml", "--run-dir", "run"], more].concat()).ok()
}

fn generate(lab: &Lab, more: &[&str]) -> String {
    lab.fornax(&[&["generate", "--model", "run", "--device", cpu()], more].concat()).ok().stdout
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn the_help_says_what_the_documentation_says() {
    let lab = lab();
    for (name, program, arguments) in [
        ("gpt-lm", "gpt-lm", ["--help"].as_slice()),
        ("bert-mlm", "bert-mlm", &["--help"]),
        ("glue", "glue", &["--help"]),
        ("t5-text2text", "t5-text2text", &["--help"]),
        ("translate", "translate", &["--help"]),
        ("fornax", "fornax", &["--help"]),
        ("fornax-data", "fornax", &["data", "--help"]),
        ("fornax-tokenizer-train", "fornax", &["tokenizer", "train", "--help"]),
        ("fornax-generate", "fornax", &["generate", "--help"]),
        ("fornax-evaluate", "fornax", &["evaluate", "--help"]),
        ("fornax-predict", "fornax", &["predict", "--help"]),
        ("fornax-bench", "fornax", &["bench", "--help"]),
        ("fornax-train-gpt-lm", "fornax", &["train", "gpt-lm", "--help"]),
    ] {
        let help = Outcome::of(lab.command(program, arguments)).ok();
        assert_eq!(help.stderr, "");
        insta::assert_snapshot!(format!("help-{name}"), help.stdout);
    }
}

#[test]
fn a_dry_run_shows_the_model_and_leaves_nothing() {
    let lab = lab();
    let before = lab.contents();
    let outcome = lab.gpt_lm(&["tiny.toml", "--dry-run"]).ok();
    assert!(lab.contents() == before, "a dry run leaves nothing");
    let (table, rest) = outcome.stdout.split_once("\nfirst batch\n").unwrap();
    insta::assert_snapshot!("dry-run", table);
    assert!(rest.contains("one step ") && rest.contains("one valid batch "), "{rest}");
    // One row of a byte tokenizer: header, head line and one line a position.
    assert_eq!(rest.lines().filter(|line| line.trim_start().starts_with(|c: char| c.is_ascii_digit())).count(), 16);
}

#[test]
fn a_bench_prints_one_json_object() {
    let lab = lab();
    let before = lab.contents();
    let outcome = lab.gpt_lm(&["tiny.toml", "--bench", "2"]).ok();
    assert!(lab.contents() == before, "a bench leaves nothing");
    let report: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(outcome.stdout.lines().count(), 1);
    let mut expected = [
        "device",
        "precision",
        "parameters",
        "steps",
        "tokens_per_second",
        "step_ms",
        "mfu",
        "peak_memory_bytes",
        "losses",
    ];
    expected.sort_unstable();
    let mut found = keys(&report);
    found.sort_unstable();
    assert_eq!(found, expected);
    assert_eq!((&report["device"], &report["steps"]), (&Value::from(cpu()), &Value::from(2)));
    assert!(report["tokens_per_second"].as_f64().unwrap() > 0.0 && report["step_ms"].as_f64().unwrap() > 0.0);
    assert!(report["losses"].as_array().unwrap().iter().all(Value::is_f64));
}

/// The activations of twelve blocks take 48 MB, those of one 4 MB; the program itself takes as much as 60.
#[test]
fn checkpointed_blocks_take_less_memory_for_the_same_losses() {
    let lab = lab();
    let bench = |checkpoint_blocks: &str| {
        let sizes = ["model.hidden_size=64", "model.num_heads=2", "model.num_layers=12", "objective.seq_len=64"];
        let train = ["train.micro_batch_size=16", "train.gradient_accumulation=1", checkpoint_blocks];
        let sets = sizes.iter().chain(&train).flat_map(|set| ["--set", set]);
        let arguments: Vec<&str> = ["tiny.toml", "--bench", "1"].into_iter().chain(sets).collect();
        let report: Value = serde_json::from_str(&lab.gpt_lm(&arguments).ok().stdout).unwrap();
        (report["peak_memory_bytes"].as_u64().unwrap(), report["losses"].clone())
    };
    let (kept, losses) = bench("train.checkpoint_blocks=false");
    let (again, same_losses) = bench("train.checkpoint_blocks=true");
    assert_eq!(losses, same_losses);
    assert!(again + (20 << 20) < kept, "{again} bytes instead of {kept}");
}

/// As `| head` does.
#[cfg(unix)]
#[test]
fn a_reader_that_has_enough_is_no_error() {
    let lab = lab();
    for arguments in ["--dry-run", "--bench 1", "--run-dir run --max-steps 1 --set sample.max_new_tokens=3"] {
        let outcome = Outcome::of(lab.shell(&format!("PROGRAM tiny.toml {arguments} | true; PROGRAM --version")));
        assert!(!outcome.stderr.contains("error"), "{arguments}: {outcome:?}");
        assert!(outcome.stdout.starts_with("gpt-lm "), "{outcome:?}");
    }
}

#[test]
fn without_a_folder_or_a_device_both_are_chosen_and_named() {
    let lab = lab();
    let outcome = Outcome::of(lab.command("gpt-lm", &["tiny.toml", "--max-steps", "1"])).ok();
    let folders: Vec<_> = fs::read_dir(lab.path("runs")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let name = folders[0].to_str().unwrap();
    assert!(folders.len() == 1 && name.starts_with("gpt-lm-"), "{folders:?}");
    let device = lab.run(&format!("runs/{name}")).summary().device;
    assert!(outcome.stderr.contains(&format!("device {device}: ")), "{device}: {outcome:?}");
}

#[test]
fn a_run_that_stopped_early_says_so_and_stays_ended() {
    let lab = lab();
    // With such a learning rate no weight moves, so the second evaluation is no better than the first.
    train(&lab, &["--set", "optimizer.lr=1e-30", "--set", "train.early_stopping_patience=1"]);
    let run = lab.run("run");
    assert_eq!((run.summary().steps, run.summary().stopped_early), (10, true));
    let before = lab.contents();
    let again = lab.gpt_lm(&["--run-dir", "run", "--resume", "--max-steps", "30"]).ok();
    for text in ["`run` stopped early after 10 of 30 steps", "stays ended: nothing to do"] {
        assert!(again.stderr.contains(text), "{text}: {again:?}");
    }
    assert!(lab.contents() == before);
}

#[test]
fn files_of_very_different_sizes_are_both_trained_on() {
    let lab = lab();
    lab.write("small.txt", "a note of thirty-eight characters here");
    let files = "data.files=[\"small.txt\", \"text.txt\"]";
    let said = train(&lab, &["--max-steps", "1", "--set", files]).stderr;
    assert!(said.contains("the tail of each of 2 documents, ") && said.contains("valid_fraction 0.1"), "{said}");
}

#[test]
fn an_empty_list_of_files_with_a_data_set_is_none_and_resumes() {
    let lab = lab();
    let embedded = ["--set", "data.files=[]", "--set", "data.name=rust-crates", "--set", "data.part=prose"];
    train(&lab, &[&embedded, ["--max-steps", "1"].as_slice()].concat());
    let config = String::from_utf8(lab.run("run").read("config.toml")).unwrap();
    assert!(config.contains("name = \"rust-crates\"") && !config.contains("files"), "{config}");
    lab.gpt_lm(&["--run-dir", "run", "--resume", "--max-steps", "2"]).ok();
    assert_eq!(lab.run("run").summary().steps, 2);
    lab.gpt_lm(&["run/config.toml", "--run-dir", "again", "--max-steps", "1"]).ok();
}

#[test]
fn overfitting_one_batch_brings_its_loss_down() {
    let lab = lab();
    train(&lab, &["--overfit", "1", "--max-steps", "60", "--set", "model.dropout=0.0"]);
    let losses = lab.run("run").train_losses();
    assert!((losses[0] - 256f64.ln()).abs() < 0.1, "{losses:?}");
    // 128 tokens of text in a model of 16 columns: by then it knows the words of this batch, not yet all of it by heart.
    assert!(losses[59] < losses[0] / 2.0, "{losses:?}");
}

#[test]
fn off_a_terminal_a_log_is_plain_lines() {
    let lab = lab();
    let outcome = train(&lab, &["--set", "train.log_every=5"]);
    assert_eq!(outcome.stdout, "");
    assert!(!outcome.stderr.contains(['\r', '\u{1b}']), "{}", outcome.stderr);
    let lines = |start: &str| outcome.stderr.lines().filter(|line| line.starts_with(start)).count();
    for step in [5, 10, 15, 20] {
        assert_eq!(lines(&format!("step {step}/20  loss ")), 1, "{}", outcome.stderr);
        assert_eq!(lines(&format!("step {step}/20  valid  loss ")), 1, "{}", outcome.stderr);
    }
    assert_eq!(lines("run folder `run`, 20 steps"), 1, "{}", outcome.stderr);
    assert_eq!(lines("step 20: finished; run ("), 1, "{}", outcome.stderr);
}

#[test]
fn a_run_leaves_what_is_documented() {
    let lab = lab();
    train(&lab, &["--set", "train.log_every=10"]);
    let run = lab.run("run");
    let visible: Vec<_> = run.names("").into_iter().filter(|name| !name.starts_with('.')).collect();
    assert_eq!(
        visible,
        [
            "best",
            "checkpoints",
            "config.toml",
            "environment.json",
            "last",
            "metrics.jsonl",
            "summary.json",
            "tokenizer.json"
        ]
    );
    assert_eq!(run.names("checkpoints/step-000020"), ["model.bpk", "optimizer.bpk", "state.json"]);
    for folder in ["best", "last"] {
        let names: BTreeSet<_> = run.names(folder).into_iter().collect();
        for name in ["config.json", "model.safetensors", "tokenizer.json"] {
            assert!(names.contains(name), "{folder}: {names:?}");
        }
        assert_eq!(run.json(&format!("{folder}/config.json"))["model_type"], "gpt2");
    }
    // Two are kept, and the best.
    let best = run.summary().best.unwrap().step;
    let kept: BTreeSet<u64> = [15, 20, best].into();
    assert_eq!(run.checkpoints(), Vec::from_iter(kept));
    metrics_are_as_documented(&String::from_utf8(run.read("metrics.jsonl")).unwrap());
    summary_is_as_documented(&run.json("summary.json"));
    let environment = run.json("environment.json");
    for key in ["format_version", "fornax", "burn", "os", "device", "data_hash", "tokenizer_hash"] {
        assert!(!environment[key].is_null(), "{key} in {environment}");
    }
    let config = String::from_utf8(run.read("config.toml")).unwrap();
    assert!(
        config.starts_with("format_version = 1\n") && config.contains("betas = "),
        "with defaults filled in: {config}"
    );
}

fn metrics_are_as_documented(text: &str) {
    let shape = |line: &str| {
        let value: Value = serde_json::from_str(line).unwrap();
        // `serde_json` sorts keys; their order in the line is that of the text.
        let mut keys: Vec<String> = keys(&value).into_iter().map(str::to_owned).collect();
        keys.sort_by_key(|key| line.find(&format!("\"{key}\":")));
        (value["step"].as_u64().unwrap(), value["split"].as_str().unwrap().to_owned(), keys.join(" "))
    };
    let train = "step split loss lr grad_norm tokens tokens_per_second step_ms data_ms";
    let valid = "step split accuracy bits_per_byte loss perplexity";
    let line = |step, split: &str, keys: &str| (step, split.to_owned(), keys.to_owned());
    let expected = [
        line(5, "valid", &format!("format_version {valid}")),
        line(10, "train", train),
        line(10, "valid", valid),
        line(15, "valid", valid),
        line(20, "train", train),
        line(20, "valid", valid),
    ];
    assert_eq!(text.lines().map(shape).collect::<Vec<_>>(), expected);
}

fn summary_is_as_documented(summary: &Value) {
    let mut found = keys(summary);
    found.sort_unstable();
    let mut expected = [
        "format_version",
        "recipe",
        "device",
        "precision",
        "parameters",
        "steps",
        "epochs",
        "tokens",
        "seconds",
        "tokens_per_second",
        "peak_memory_bytes",
        "interrupted",
        "stopped_early",
        "train",
        "valid",
        "best",
    ];
    expected.sort_unstable();
    assert_eq!(found, expected);
    assert_eq!(summary["recipe"], "gpt-lm");
    assert_eq!((&summary["steps"], &summary["tokens"]), (&20.into(), &(20 * 8 * 16).into()));
    assert_eq!((&summary["device"], &summary["precision"]), (&cpu().into(), &"f32".into()));
    assert_eq!((&summary["interrupted"], &summary["stopped_early"]), (&false.into(), &false.into()));
    assert_eq!(keys(&summary["train"]), ["loss"]);
    assert_eq!(keys(&summary["best"]), ["metric", "step", "value"]);
    assert_eq!(keys(&summary["valid"]), ["accuracy", "bits_per_byte", "loss", "perplexity"]);
}

#[test]
fn a_trained_model_talks() {
    let lab = lab();
    lab.write("text.txt", "abcdefgh".repeat(700));
    let settings = ["--set", "model.dropout=0.0", "--set", "objective.sampling=random_offsets"];
    train(&lab, &[settings.as_slice(), &["--max-steps", "80"]].concat());
    let greedy = ["--temperature", "0", "--max-new-tokens", "6", "--prompt", "ab"];
    assert_eq!(generate(&lab, &greedy), "abcdefgh\n");
    assert_eq!(generate(&lab, &greedy), "abcdefgh\n");
    // Prompts of different lengths in one batch.
    let several = ["--prompt", "f", "--prompt", "abcdefghabc"];
    assert_eq!(
        generate(&lab, &[greedy.as_slice(), &several].concat()),
        "abcdefgh\n---\nfghabcd\n---\nabcdefghabcdefgha\n"
    );
    assert_eq!(generate(&lab, &[greedy.as_slice(), &["--stop", "f", "--stop", "e"]].concat()), "abcd\n");

    let half = lab.fornax(
        &[["generate", "--model", "run", "--device", cpu(), "--precision", "bf16"].as_slice(), &greedy].concat(),
    );
    match cpu() == "libtorch" || fornax_backend::multiplies_bf16() {
        true => assert_eq!(half.ok().stdout, "abcdefgh\n"),
        false => half.refused("bf16", 2, &["--precision bf16 is not supported by flex"]),
    }

    let drawn =
        |seed| generate(&lab, &["--prompt", "a", "--max-new-tokens", "40", "--temperature", "3", "--seed", seed]);
    assert_eq!(drawn("1"), drawn("1"));
    assert_ne!(drawn("1"), drawn("2"));
}

/// Byte-level tokenizers call a space `Ġ`.
#[test]
fn a_stop_may_be_the_text_of_a_token() {
    let lab = lab();
    lab.write("text.txt", "abcdefg ".repeat(700));
    let tokenizer = ["--set", "tokenizer.kind=byte-bpe", "--set", "tokenizer.vocab_size=257"];
    let settings = ["--set", "model.dropout=0.0", "--set", "objective.sampling=random_offsets", "--max-steps", "80"];
    train(&lab, &[tokenizer.as_slice(), &settings].concat());
    let greedy = ["--temperature", "0", "--max-new-tokens", "6", "--prompt", "de"];
    assert_eq!(generate(&lab, &greedy), "defg abc\n");
    assert_eq!(generate(&lab, &[greedy.as_slice(), &["--stop", " "]].concat()), "defg\n");
    assert_eq!(generate(&lab, &[greedy.as_slice(), &["--stop", "Ġ"]].concat()), "defg\n");
}

/// Some hundred thousand tokens are minutes of work; a reader that goes away after the first few ends it.
#[cfg(unix)]
#[test]
fn generation_ends_with_its_reader() {
    let lab = lab();
    train(&lab, &["--max-steps", "1"]);
    let arguments = ["generate", "--model", "run", "--device", cpu(), "--prompt", "a", "--max-new-tokens", "1000000"];
    let mut generating = lab.command("fornax", &arguments).spawn().unwrap();
    let mut read = [0; 10];
    generating.stdout.take().unwrap().read_exact(&mut read).unwrap();
    // Its end of the pipe is closed now.
    let start = Instant::now();
    let status = loop {
        match generating.try_wait().unwrap() {
            Some(status) => break status.code(),
            None if start.elapsed() > Duration::from_secs(30) => {
                generating.kill().unwrap();
                generating.wait().unwrap();
                panic!("it computes on");
            }
            None => sleep(Duration::from_millis(10)),
        }
    };
    assert_eq!(status, Some(0));
}

#[test]
fn a_prompt_that_is_nothing_to_the_tokenizer_begins_a_text() {
    let lab = lab();
    let settings = ["--set", "tokenizer.kind=wordpiece", "--set", "tokenizer.vocab_size=200"];
    let sample = ["--max-steps", "1", "--set", "sample.max_new_tokens=3"];
    let outcome = train(&lab, &[settings, sample].concat());
    assert!(outcome.stdout.starts_with("\n\n") && outcome.stdout.trim().len() > 2, "{outcome:?}");
    assert!(generate(&lab, &["--prompt", "", "--max-new-tokens", "3"]).trim().len() > 2);
}

#[test]
fn a_prompt_may_come_through_a_pipe() {
    let lab = lab();
    train(&lab, &["--max-steps", "2"]);
    let mut command =
        lab.command("fornax", &["generate", "--model", "run", "--device", cpu(), "--max-new-tokens", "1"]);
    lab.write("prompt", "an old smith");
    command.stdin(fs::File::open(lab.path("prompt")).unwrap());
    assert!(Outcome::of(command).ok().stdout.starts_with("an old smith"));
}

#[test]
fn exported_models_load_back() {
    let lab = lab();
    train(&lab, &["--max-steps", "60", "--set", "train.eval_every=20", "--set", "model.dropout=0.0"]);
    let first = lab.run("run");
    for folder in ["run/best", "run/last", "run"] {
        let arguments = ["generate", "--model", folder, "--device", cpu(), "--prompt", "a", "--max-new-tokens", "1"];
        lab.fornax(&arguments).ok();
        let (from, to) = (format!("model.from={folder}"), format!("from-{}", folder.replace('/', "-")));
        // Dropout is the config's, not the checkpoint's.
        let settings =
            ["tiny.toml", "--run-dir", &to, "--max-steps", "1", "--set", &from, "--set", "model.dropout=0.0"];
        lab.gpt_lm(&settings).ok();
        let (before, after) = (first.train_losses()[0], lab.run(&to).train_losses()[0]);
        assert!(after < before - 1.0, "{folder}: {after} is where training left off, not {before}");
    }
}

/// With dropout, which is the config's; the sizes that the config gives are not the checkpoint's.
#[test]
fn a_run_that_began_with_a_checkpoint_states_its_sizes_and_goes_on_without_it() {
    let lab = lab();
    train(&lab, &["--max-steps", "2", "--set", "model.dropout=0.0"]);
    let from = |to, more: &[&str]| {
        let model = ["--set", "model.from=run", "--set", "model.num_layers=3", "--set", "schedule.decay_steps=20"];
        lab.gpt_lm(&[&["tiny.toml", "--run-dir", to], model.as_slice(), more].concat()).ok()
    };
    let said = from("tuned", &["--max-steps", "10"]).stderr;
    assert!(said.contains("model.num_layers is 2, not 3"), "{said}");
    from("straight", &[]);
    let config = String::from_utf8(lab.run("tuned").read("config.toml")).unwrap();
    for line in ["num_layers = 2", "vocab_size = 256", "max_positions = 16", "dropout = 0.1"] {
        assert!(config.lines().any(|found| found == line), "{line} in {config}");
    }
    let exported = String::from_utf8(lab.run("tuned").read("last/config.json")).unwrap();
    assert!(exported.contains("\"resid_pdrop\": 0.1"), "{exported}");

    fs::remove_dir_all(lab.path("run")).unwrap();
    from("tuned", &["--resume"]);
    let (tuned, straight) = (lab.run("tuned"), lab.run("straight"));
    assert!(tuned.tensors(20) == straight.tensors(20), "parameters or moments differ");
    assert_eq!(tuned.read("config.toml"), straight.read("config.toml"));
}

#[test]
fn a_sample_and_the_command_for_more_end_a_training() {
    let lab = lab();
    let settings = ["--max-steps", "2", "--set", "sample.max_new_tokens=5", "--set", "sample.prompt='the '"];
    let outcome = train(&lab, &settings);
    assert!(outcome.stdout.starts_with("\nthe "), "{outcome:?}");
    assert!(
        outcome.stderr.contains("more: ") && outcome.stderr.contains("generate --model run --prompt 'the '\n"),
        "{outcome:?}"
    );
}

#[test]
fn the_tool_trains_as_the_recipe_does() {
    let lab = lab();
    train(&lab, &["--max-steps", "3"]);
    lab.fornax(&["train", "gpt-lm", "tiny.toml", "--run-dir", "tool", "--max-steps", "3", "--device", cpu()]).ok();
    assert_eq!(lab.run("tool").timeless(), lab.run("run").timeless());
}

#[test]
fn devices_are_listed_with_the_reason_why_not() {
    let outcome = lab().fornax(&["devices"]).ok();
    for name in ["flex", "libtorch", "libtorch-cuda", "cuda", "rocm", "metal", "vulkan", "wgpu"] {
        assert!(outcome.stdout.contains(name), "{name} in {}", outcome.stdout);
    }
    assert!(outcome.stdout.contains("auto takes "), "{}", outcome.stdout);
    for family in fornax_backend::Family::ALL.into_iter().filter(|family| !family.is_compiled()) {
        assert!(outcome.stdout.contains(&format!("--features {}", family.feature())), "{}", outcome.stdout);
    }
}

#[test]
fn data_sets_are_listed_and_a_batch_is_shown() {
    let lab = lab();
    let list = lab.fornax(&["data", "list"]).ok().stdout;
    for text in ["rust-crates", "needs no download", "tinyshakespeare", "not here", "licence: "] {
        assert!(list.contains(text), "{text} in {list}");
    }
    let train = lab.fornax(&["data", "inspect", "tiny.toml", "--rows", "2"]).ok().stdout;
    assert!(train.starts_with("train, step 0, micro-batch 0: 4 rows\n"), "{train}");
    assert_eq!(train.matches("micro-batch").count(), 2);
    assert_eq!(train.matches(": 16 positions, 16 targets").count(), 4);
    let valid = lab.fornax(&["data", "inspect", "tiny.toml", "--valid"]).ok().stdout;
    assert!(valid.starts_with("valid, step 0, micro-batch 0: 4 rows\n"), "{valid}");
    // The step that is named is the one that is shown.
    let beyond = lab.fornax(&["data", "inspect", "tiny.toml", "--valid", "--step", "999999"]).ok().stdout;
    let step = beyond.strip_prefix("valid, step ").and_then(|rest| rest.split_once(',')).unwrap().0;
    assert!(step.parse::<u64>().unwrap() < 20, "{beyond}");
    let named = lab.fornax(&["data", "inspect", "tiny.toml", "--valid", "--step", step]).ok().stdout;
    assert_eq!(beyond, named);
    // Positions, pieces and targets side by side: what is read at one is the target of the one before.
    let lines: Vec<&str> =
        valid.lines().filter(|line| line.trim_start().starts_with(|c: char| c.is_ascii_digit())).collect();
    let id = |line: &str| line.split_whitespace().nth(1).unwrap().to_owned();
    assert_eq!(lines.len(), 16);
    assert!(lines.windows(2).all(|pair| pair[0].contains(&format!(" {}  ", id(pair[1])))), "{valid}");
}

#[test]
fn tokenizers_of_every_kind_are_trained_and_used() {
    let lab = lab();
    for kind in ["byte-bpe", "wordpiece", "unigram", "char", "byte"] {
        let file = format!("{kind}.json");
        let arguments = ["tokenizer", "train", "text.txt", "--kind", kind, "--vocab-size", "300", "-o", &file];
        let said = lab.fornax(&arguments).ok().stdout;
        assert!(said.starts_with(&format!("{file}: {kind}, ")) && said.contains("trained on text.txt"), "{said}");
        let first = fs::read(lab.path(&file)).unwrap();
        lab.fornax(&arguments).ok();
        assert!(fs::read(lab.path(&file)).unwrap() == first, "{kind} is the same each time");
        let from = format!("tokenizer.from={file}");
        lab.gpt_lm(&["tiny.toml", "--run-dir", kind, "--max-steps", "1", "--set", &from]).ok();
    }
}

/// Sixty-six thousand words: their numbers don't fit into two bytes.
#[test]
fn a_vocabulary_larger_than_u16_works() {
    let lab = lab();
    let words: Vec<String> = (0..66_000).map(|index| format!("w{index}")).collect();
    let vocabulary: serde_json::Map<String, Value> =
        words.iter().enumerate().map(|(index, word)| (word.clone(), index.into())).collect();
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": { "type": "WhitespaceSplit" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "w0" },
    });
    lab.write("large.json", tokenizer.to_string());
    lab.write("words.txt", words[65_000..].join(" "));
    let settings = ["--set", "tokenizer.from=large.json", "--set", "data.files=[\"words.txt\"]"];
    let shown = lab.fornax(&[&["data", "inspect", "tiny.toml", "--valid"], settings.as_slice()].concat()).ok().stdout;
    assert!(shown.contains("65915"), "a word keeps its number: {shown}");
    let small = ["--max-steps", "1", "--set", "train.micro_batch_size=1", "--set", "eval.max_batches=1"];
    train(&lab, &[settings.as_slice(), &small].concat());
    let loss = lab.run("run").train_losses()[0];
    assert!((loss - 66_000f64.ln()).abs() < 0.1, "{loss}");
}
