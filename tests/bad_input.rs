//! Whatever a user, a file or a disk does wrong: one clear error that names the file or key and the way out, the right exit
//! code, no panic, and nothing lost or left behind.

use std::fs;

use fornax_backend::Family;
use fornax_tests::{Lab, Outcome, cpu};

use crate::lab;

/// Arguments that are refused.
struct Case {
    /// After `gpt-lm`, or `fornax` where they begin with one of its commands.
    arguments: &'static [&'static str],
    code: i32,
    /// What the message says: the place, the two sides, the way out.
    says: &'static [&'static str],
}

const fn case(arguments: &'static [&'static str], code: i32, says: &'static [&'static str]) -> Case {
    Case { arguments, code, says }
}

/// Mistakes on the command line and in configs: exit code 2.
const USAGE: &[Case] = &[
    // Keys and values.
    case(&["unknown-key.toml"], 2, &["config unknown-key.toml", "`train.max_step`", "did you mean `max_steps`?"]),
    case(&["unknown-table.toml"], 2, &["config unknown-table.toml", "`trainer`", "did you mean `train`?"]),
    case(&["wrong-type.toml"], 2, &["config wrong-type.toml", "`train.seed`", "string \"many\", expected u64"]),
    case(&["no-toml.toml"], 2, &["config no-toml.toml", "line 2, column 8"]),
    case(&["no/such.toml"], 2, &["config no/such.toml", "No such file"]),
    case(&["texts"], 2, &["config texts: "]),
    case(&["tiny.toml", "--set", "train.sed=1"], 2, &["--set train.sed=1", "`train.sed`", "did you mean `seed`?"]),
    case(&["tiny.toml", "--set", "train.max_steps=many"], 2, &["--set train.max_steps=many", "\"many\", expected u64"]),
    case(&["tiny.toml", "--set", "train.seed"], 2, &["--set train.seed", "expected KEY=VALUE"]),
    case(&["tiny.toml", "--set", "train.seed.x=1"], 2, &["--set train.seed.x=1"]),
    case(&["tiny.toml", "--set", "schedule.name=step"], 2, &["schedule.name", "step", "cosine"]),
    case(&["tiny.toml", "--set", "tokenizer.kind=bpe"], 2, &["tokenizer.kind", "byte-bpe"]),
    case(&["tiny.toml", "--max-steps", "0"], 2, &["`train.max_steps`", "at least 1"]),
    case(&["tiny.toml", "--set", "train.micro_batch_size=0"], 2, &["`train.micro_batch_size`", "at least 1"]),
    case(&["tiny.toml", "--set", "train.micro_batch_size=autoo"], 2, &["`train.micro_batch_size`", "or \"auto\""]),
    case(
        &["tiny.toml", "--set", "train.micro_batch_size=auto"],
        2,
        &["--set train.micro_batch_size=auto", "needs train.batch_size"],
    ),
    case(
        &["tiny.toml", "--set", "train.gradient_checkpointing=true"],
        2,
        &["--set train.gradient_checkpointing=true", "unknown key; did you mean `checkpoint_blocks`?"],
    ),
    case(
        &["tiny.toml", "--set", "train.batch_size=64"],
        2,
        &["`train.batch_size`: is 64", "8 examples", "hint: set train.gradient_accumulation to 16"],
    ),
    // What the trial of a micro-batch finds wrong is this program's error.
    case(
        &[
            "tiny.toml",
            "--set",
            "train.micro_batch_size=auto",
            "--set",
            "train.batch_size=4",
            "--set",
            "model.num_heads=3",
        ],
        2,
        &["\"auto\": the smallest, 1, fails: ", "model.hidden_size = 16"],
    ),
    case(&["tiny.toml", "--set", "objective.seq_len=0"], 2, &["objective.seq_len", "at least 1"]),
    case(&["tiny.toml", "--set", "optimizer.lr=-1"], 2, &["`optimizer.lr`", "must be > 0, got -1"]),
    case(&["tiny.toml", "--set", "optimizer.betas=[0.9, 1.0]"], 2, &["`optimizer.betas`", "below 1, got 1"]),
    case(&["tiny.toml", "--set", "train.metric_for_best=f1"], 2, &["`train.metric_for_best`", "`f1`", "perplexity"]),
    case(&["tiny.toml", "--set", "sample.temperature=-1"], 2, &["[sample]", "temperature = -1", "at least 0"]),
    case(&["tiny.toml", "--set", "model.num_heads=3"], 2, &["model.hidden_size = 16", "model.num_heads = 3"]),
    case(&["tiny.toml", "--set", "model.dropout=1.0"], 2, &["model.dropout = 1", "below 1"]),
    case(&["tiny.toml", "--set", "model.vocab_size=100"], 2, &["model.vocab_size = 100", "tokenizer has 256 tokens"]),
    case(&["tiny.toml", "--set", "model.max_positions=8"], 2, &["model.max_positions = 8", "objective.seq_len is 16"]),
    case(
        &["tiny.toml", "--set", "train.micro_batch_size=4000"],
        2,
        &["micro_batch_size 4000 x gradient_accumulation 2", "hint: lower train.micro_batch_size"],
    ),
    case(
        &["tiny.toml", "--set", "data.files=[\"short.txt\"]"],
        2,
        &["short.txt", "one block of seq_len 16 needs 17", "hint: take more text or a smaller objective.seq_len"],
    ),
    case(&["tiny.toml", "--set", "schedule.decay_steps=0"], 2, &["`schedule.decay_steps`", "got 0"]),
    case(
        &["tiny.toml", "--set", "tokenizer.kind=byte-bpe", "--set", "tokenizer.vocab_size=10"],
        2,
        &["`tokenizer.vocab_size` is 10", "at least 257"],
    ),
    // Texts that are not what was meant.
    case(&["tiny.toml", "--set", "data.files=[]"], 2, &["`data.files` is []", "at least one file", "data.name"]),
    case(
        &["tiny.toml", "--set", "data.files=[\"texts\"]", "--set", "data.valid_files=[\"texts/a.txt\"]"],
        2,
        &["`data.valid_files` is texts/a.txt", "not in `data.files` too"],
    ),
    case(
        &["tiny.toml", "--set", "data.valid_files=[\"./texts/../text.txt\"]"],
        2,
        &["`data.valid_files` is ./texts/../text.txt", "not in `data.files` too"],
    ),
    // Keys that don't go together.
    case(
        &["tiny.toml", "--set", "data.extensions=[\"txt\"]"],
        2,
        &["`data.extensions`", "data.files = [text.txt]", "none of these is a folder"],
    ),
    case(&["no-data.toml", "--set", "data.folder=texts"], 2, &["`data.folder` is texts", "crates of the data set"]),
    case(
        &["no-data.toml", "--set", "data.valid_fraction=0.2"],
        2,
        &["`data.valid_fraction` is set, but neither `data.files` nor `data.name` is", "`rust-crates`"],
    ),
    case(
        &["tiny.toml", "--set", "data.files=[\"text.txt\"]", "--set", "data.name=rust-crates"],
        2,
        &["`data.files`", "data.name = \"rust-crates\""],
    ),
    case(&["tiny.toml", "--set", "data.part=prose"], 2, &["`data.part`", "data.files", "only `rust-crates` has parts"]),
    case(&["tiny.toml", "--set", "data.text_column=body"], 2, &["`data.text_column`", "only jsonl, tsv and csv"]),
    case(
        &["tiny.toml", "--set", "schedule.warmup_steps=2", "--set", "schedule.warmup_ratio=0.1"],
        2,
        &["`schedule.warmup_ratio`", "schedule.warmup_steps"],
    ),
    case(
        &["tiny.toml", "--set", "data.files=[]", "--set", "data.name=shakespeare"],
        2,
        &["unknown data set `shakespeare`", "rust-crates, tinyshakespeare"],
    ),
    // Flags.
    case(&["tiny.toml", "--devise", "flex"], 2, &["--devise", "--device"]),
    case(&["tiny.toml", "--overfit", "0"], 2, &["--overfit", "0 is not in"]),
    case(&["tiny.toml", "--overfit", "1000001"], 2, &["--overfit", "1000001 is not in 1..=1000000"]),
    case(&["tiny.toml", "--bench", "0"], 2, &["--bench", "0 is not in"]),
    case(&["tiny.toml", "--bench", "1000000000000"], 2, &["--bench", "1000000000000 is not in 1..=1000000"]),
    case(&["tiny.toml", "--bench", "18446744073709551615"], 2, &["--bench", "18446744073709551615 is not in"]),
    case(&["tiny.toml", "--bench", "1", "--dry-run"], 2, &["--bench", "--dry-run"]),
    case(&["tiny.toml", "--max-steps", "-1"], 2, &["-1"]),
    case(&["tiny.toml", "--resume"], 2, &["--run-dir"]),
    case(&["tiny.toml", "--resume", "--run-dir", "nowhere"], 2, &["no run to resume in `nowhere`", "hint: "]),
    case(
        &["tiny.toml", "--run-dir", "texts"],
        2,
        &["`texts` is no run folder and not empty", "hint: choose another --run-dir"],
    ),
    case(&["--resume", "--run-dir", "nowhere"], 2, &["no run to resume in `nowhere`", "hint: "]),
    case(&["tiny.toml", "--resume", "--run-dir", "texts"], 2, &["no run to resume in `texts`", "hint: "]),
    // Devices and precisions.
    case(&["tiny.toml", "--device", "gpu"], 2, &["unknown device `gpu`", "libtorch-cuda[:i]"]),
    case(&["tiny.toml", "--device", "cuda:x"], 2, &["unknown device `cuda:x`"]),
    case(&["tiny.toml", "--device", "flex:1"], 2, &["--device flex takes no index"]),
    case(&["tiny.toml", "--precision", "f8"], 2, &["unknown precision `f8`", "f32, bf16 or f16"]),
    // What the sample at the end is to continue, before anything is trained.
    case(
        &["tiny.toml", "--set", "tokenizer.kind=char", "--set", "sample.prompt=Ж", "--set", "sample.max_new_tokens=1"],
        2,
        &["sample.prompt", "'Ж' (U+0416)", "hint: "],
    ),
    case(&["tiny.toml", "--set", "sample.prompt=", "--set", "sample.max_new_tokens=1"], 2, &["sample.prompt is empty"]),
    // The tool.
    case(&["generate"], 2, &["--model"]),
    case(&["data", "get", "shakespeare"], 2, &["unknown data set `shakespeare`", "rust-crates, tinyshakespeare"]),
    case(&["data", "inspect", "unknown-key.toml"], 2, &["`train.max_step`", "did you mean `max_steps`?"]),
    case(&["tokenizer", "train", "text.txt", "--data", "rust-crates"], 2, &["--data"]),
    case(&["tokenizer", "train", "text.txt", "--kind", "bpe"], 2, &["bpe", "byte-bpe"]),
    case(&["tokenizer", "train", "text.txt", "--vocab-size", "10"], 2, &["`tokenizer.vocab_size` is 10", "257"]),
    case(&["train", "gpt-ml"], 2, &["gpt-ml", "gpt-lm"]),
];

/// Files that are not what they should be: exit code 1.
const FILES: &[Case] = &[
    case(&["tiny.toml", "--set", "data.files=[\"missing.txt\"]"], 1, &["missing.txt", "No such file"]),
    case(&["tiny.toml", "--set", "data.files=[\"empty.txt\"]"], 1, &["no text in", "empty.txt"]),
    case(&["tiny.toml", "--set", "data.files=[\"nothing\"]"], 1, &["no text in nothing", "there is no file"]),
    case(&["tiny.toml", "--set", "data.files=[\"latin1.txt\"]"], 1, &["latin1.txt", "not UTF-8 at byte 3", "iconv"]),
    case(&["tiny.toml", "--set", "data.files=[\"broken.jsonl\"]"], 1, &["broken.jsonl:2"]),
    case(
        &["tiny.toml", "--set", "data.files=[\"rows.jsonl\"]", "--set", "data.text_column=body"],
        1,
        &["rows.jsonl:1", "body"],
    ),
    case(
        &["tiny.toml", "--set", "tokenizer.kind=char", "--set", "data.files=[\"new-at-the-end.txt\"]"],
        1,
        &["new-at-the-end.txt", "'Ж' (U+0416)", "hint: "],
    ),
    case(&["tiny.toml", "--set", "tokenizer.from=broken.json"], 1, &["broken.json: not a usable tokenizer"]),
    case(&["tiny.toml", "--set", "tokenizer.from=missing.json"], 1, &["missing.json", "No such file"]),
    case(&["tiny.toml", "--set", "tokenizer.from=texts"], 1, &["texts: no tokenizer here", "tokenizer.json"]),
    case(
        &["tiny.toml", "--set", "model.from=texts"],
        1,
        &["model.from", "texts", "no Hugging Face checkpoint", "config.json"],
    ),
    case(&["tiny.toml", "--set", "model.from=nowhere"], 1, &["model.from", "nowhere"]),
    case(&["tiny.toml", "--set", "model.from=bert"], 1, &["model.from", "bert/config.json", "`bert`", "gpt2"]),
    // Root may write anywhere, but not below a file.
    case(&["tiny.toml", "--run-dir", "text.txt/run"], 1, &["cannot create the folder `text.txt/run`"]),
    case(&["tiny.toml", "--run-dir", "text.txt"], 1, &["cannot create the folder `text.txt`"]),
    case(&["generate", "--model", "nowhere", "--prompt", "a"], 1, &["nowhere"]),
    case(&["generate", "--model", "texts", "--prompt", "a"], 1, &["texts", "no tokenizer here"]),
    case(&["tokenizer", "train", "missing.txt"], 1, &["missing.txt", "No such file"]),
    case(&["tokenizer", "train", "empty.txt"], 1, &["no text in", "empty.txt"]),
    case(&["tokenizer", "train", "text.txt", "-o", "text.txt/t.json"], 1, &["text.txt/t.json"]),
    // Before anything is read or trained.
    case(&["tokenizer", "train", "missing.txt", "-o", "nowhere/t.json"], 1, &["no folder `nowhere`", "hint: make it"]),
    case(&["tokenizer", "train", "missing.txt", "-o", "texts"], 1, &["--output texts: this is a folder", "hint: "]),
];

fn lab_of_mistakes() -> Lab {
    let lab = lab();
    lab.write_config("unknown-key.toml", &[("max_steps", "max_step")]);
    lab.write_config("unknown-table.toml", &[("[train]", "[trainer]")]);
    lab.write_config("no-data.toml", &[("[data]\nfiles = [\"text.txt\"]\n", "")]);
    lab.write_config("wrong-type.toml", &[("log_every = 1", "seed = \"many\"")]);
    lab.write("no-toml.toml", "[train]\nseed = = 1\n");
    lab.write("empty.txt", "");
    lab.write("short.txt", "too short");
    lab.write("latin1.txt", b"caf\xe9, and more text than a block needs");
    lab.write("new-at-the-end.txt", "abc ".repeat(200) + "Ж");
    lab.write("broken.jsonl", "{\"text\": \"fine\"}\n{\"text\": \n");
    lab.write("rows.jsonl", "{\"text\": \"one\"}\n{\"text\": \"two\"}\n");
    lab.write("broken.json", "{\"version\": \"1.0\"}");
    lab.write("texts/a.txt", "a text");
    lab.write("bert/config.json", "{\"model_type\": \"bert\"}");
    lab.write("bert/tokenizer.json", "{}");
    fs::create_dir(lab.path("nothing")).unwrap();
    lab
}

fn run(lab: &Lab, arguments: &[&str]) -> Outcome {
    match arguments[0] {
        "generate" | "data" | "tokenizer" | "train" => lab.fornax(arguments),
        _ => lab.gpt_lm(arguments),
    }
}

/// Each is refused, and the folder is afterwards as it was.
fn refuse(cases: &[Case]) {
    let lab = lab_of_mistakes();
    let before = lab.contents();
    let mut faults = Vec::new();
    for Case { arguments, code, says } in cases {
        let outcome = run(&lab, arguments);
        let mut found = outcome.faults_as_refusal(*code, says);
        let after = lab.contents();
        let differs = after.keys().chain(before.keys()).find(|name| after.get(*name) != before.get(*name));
        found.extend(differs.map(|name| format!("it leaves {name}")));
        if !found.is_empty() {
            faults.push(format!("{}\n  {}\n{}", arguments.join(" "), found.join("\n  "), outcome.stderr));
        }
    }
    assert!(faults.is_empty(), "{} of {}\n\n{}", faults.len(), cases.len(), faults.join("\n"));
}

#[test]
fn bad_usage_is_refused_with_two() {
    refuse(USAGE);
}

#[test]
fn bad_files_are_refused_with_one() {
    refuse(FILES);
}

#[test]
fn devices_that_cannot_be_used_are_refused_with_two() {
    let lab = lab();
    let refused = |device: &str, says: &[&str]| {
        lab.gpt_lm(&["tiny.toml", "--run-dir", "run", "--device", device]).refused(device, 2, says);
        let arguments = ["generate", "--model", "texts", "--prompt", "a", "--device", device];
        assert_eq!(lab.fornax(&arguments).code.map(|code| code > 0), Some(true));
        assert!(!lab.path("run").exists(), "{device}");
    };
    for family in Family::ALL.into_iter().filter(|family| !family.is_cpu()) {
        let device = format!("{family}:99");
        if family.is_compiled() {
            // No driver, no GPU, or too few of them.
            refused(&device, &[&format!("error: --device {device}: ")]);
        } else {
            let feature = format!("needs a build with --features {}; this build has: ", family.feature());
            refused(&device, &[&feature, &fornax_backend::compiled_features()]);
        }
    }
    if Family::Flex.is_compiled() {
        let arguments = ["tiny.toml", "--run-dir", "run", "--device", "flex", "--precision", "f16"];
        lab.gpt_lm(&arguments).refused(
            "f16 on flex",
            2,
            &["--precision f16 is not supported by flex", "supported: f32"],
        );
        assert!(!lab.path("run").exists());
    }
}

/// A finished run of ten steps in `run`.
fn lab_with_run() -> Lab {
    let lab = lab();
    lab.gpt_lm(&["tiny.toml", "--run-dir", "run", "--max-steps", "10"]).ok();
    lab
}

#[test]
fn a_run_is_neither_overwritten_nor_resumed_as_another() {
    let lab = lab_with_run();
    let before = lab.contents();
    let refused = |arguments: &[&str], code, says: &[&str]| {
        lab.gpt_lm(arguments).refused(&arguments.join(" "), code, says);
        assert!(lab.contents() == before, "{arguments:?} changes something");
    };
    refused(&["tiny.toml", "--run-dir", "run"], 2, &["`run` holds another run", "hint: continue it with --resume"]);
    let changed = ["--set", "model.dropout=0.2", "--seed", "3", "--set", "optimizer.lr=0.1"];
    refused(
        &[&["tiny.toml", "--run-dir", "run", "--resume", "--max-steps", "20"], changed.as_slice()].concat(),
        2,
        &[
            "the config differs from that of the run in `run`",
            "`model.dropout` was 0.1, now 0.2",
            "`train.seed` was 42, now 3",
            "`optimizer.lr` was 0.01, now 0.1",
            "hint: a resumed run may change train.max_steps",
        ],
    );
    refused(&["--run-dir", "run", "--resume", "--overfit", "1"], 2, &["value of --overfit", "`run`", "hint: "]);
    let mut text = fs::read_to_string(lab.path("text.txt")).unwrap();
    text.push_str("one more line\n");
    fs::write(lab.path("text.txt"), text).unwrap();
    let before = lab.contents();
    lab.gpt_lm(&["--run-dir", "run", "--resume", "--max-steps", "20"]).refused(
        "another text",
        2,
        &["the data differs", "hint: "],
    );
    assert!(lab.contents() == before);
}

#[test]
fn files_of_a_run_that_are_damaged_or_newer_are_named() {
    for (file, from, to, code, says) in [
        ("config.toml", "format_version = 1", "format_version = 2", 1, ["config.toml` has format_version 2", "hint: "]),
        ("config.toml", "[train]", "[train", 1, ["config.toml` is damaged", "line "]),
        ("config.toml", "dropout = 0.1", "dropout = 0.3", 2, ["config.toml` was edited", "hint: "]),
        (
            "metrics.jsonl",
            "\"format_version\":1",
            "\"format_version\":2",
            1,
            ["metrics.jsonl` has format_version 2", "hint: "],
        ),
    ] {
        let lab = lab_with_run();
        let path = lab.path("run").join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{from} in {text}");
        fs::write(&path, text.replace(from, to)).unwrap();
        let outcome = lab.gpt_lm(&["--run-dir", "run", "--resume", "--max-steps", "20"]);
        outcome.refused(&format!("{file} with {to}"), code, &says);
        assert_eq!(lab.run("run").checkpoints(), [5, 10]);
        assert!(!lab.run("run").path("checkpoints/step-000015").exists());
    }
}

#[test]
fn a_truncated_checkpoint_is_skipped_by_name_and_the_one_before_is_used() {
    let straight = lab();
    straight.gpt_lm(&["tiny.toml", "--run-dir", "run", "--set", "schedule.name=constant"]).ok();
    for file in ["model.bpk", "optimizer.bpk", "state.json"] {
        let lab = lab();
        let constant = ["--set", "schedule.name=constant"];
        lab.gpt_lm(&[&["tiny.toml", "--run-dir", "run", "--max-steps", "10"], constant.as_slice()].concat()).ok();
        let run = lab.run("run");
        truncate(&run.checkpoint(10).join(file));
        let resumed = lab.gpt_lm(&["--run-dir", "run", "--resume", "--max-steps", "20"]).ok();
        for text in ["step-000010", "is skipped", file, "resuming `run` after step 5 of 20"] {
            assert!(resumed.stderr.contains(text), "{text}: {resumed:#?}");
        }
        assert_eq!(run.timeless(), straight.run("run").timeless());
        assert!(run.tensors(20) == straight.run("run").tensors(20));
    }
}

#[test]
fn without_any_usable_checkpoint_a_run_is_not_started_over() {
    let lab = lab_with_run();
    let run = lab.run("run");
    truncate(&run.checkpoint(5).join("optimizer.bpk"));
    truncate(&run.checkpoint(10).join("model.bpk"));
    let before = lab.contents();
    let outcome = lab.gpt_lm(&["--run-dir", "run", "--resume", "--max-steps", "20"]);
    outcome.refused("no checkpoint", 1, &["no checkpoint of `run` can be used", "step-000005", "step-000010"]);
    assert!(lab.contents() == before, "nothing is lost");

    for step in [5, 10] {
        let path = run.checkpoint(step).join("state.json");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("\"format_version\": 1", "\"format_version\": 2")).unwrap();
    }
    let outcome = lab.gpt_lm(&["--run-dir", "run", "--resume", "--max-steps", "20"]);
    outcome.refused("newer checkpoints", 1, &["step-000005", "step-000010", "\nhint: use the version of Fornax"]);
    let (_, error) = outcome.stderr.split_once("error: ").unwrap();
    assert_eq!(error.matches("hint: ").count(), 1, "at the end alone: {outcome:?}");
}

fn truncate(path: &std::path::Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

#[test]
fn a_damaged_token_store_is_made_again_with_a_warning_and_a_newer_one_refused() {
    let lab = lab();
    lab.gpt_lm(&["tiny.toml", "--run-dir", "first"]).ok();
    let stores =
        || fs::read_dir(lab.cache("tokens")).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    assert_eq!(stores().count(), 2, "one for each split");
    for store in stores() {
        let path = store.join("tokens.bin");
        let mut bytes = fs::read(&path).unwrap();
        bytes[100] ^= 1;
        fs::write(path, bytes).unwrap();
    }
    let again = lab.gpt_lm(&["tiny.toml", "--run-dir", "second"]).ok();
    assert_eq!(again.stderr.matches("the token store is damaged").count(), 2, "{again:#?}");
    assert!(again.stderr.contains("making it again"), "{again:#?}");
    assert_eq!(lab.run("second").timeless(), lab.run("first").timeless());
    assert!(!lab.gpt_lm(&["tiny.toml", "--run-dir", "third"]).ok().stderr.contains("damaged"), "mended for good");

    for store in stores() {
        let path = store.join("manifest.json");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(path, text.replace("\"format_version\": 1", "\"format_version\": 9")).unwrap();
    }
    let newer = lab.gpt_lm(&["tiny.toml", "--run-dir", "fourth"]);
    newer.refused("newer store", 1, &["manifest.json: format_version is 9, this build reads up to 1", "hint: "]);
    assert!(!lab.path("fourth").exists());
}

#[test]
fn what_generation_cannot_use_is_refused() {
    let lab = lab();
    let settings = ["--set", "tokenizer.kind=char", "--max-steps", "1"];
    lab.gpt_lm(&[&["tiny.toml", "--run-dir", "run"], settings.as_slice()].concat()).ok();
    let before = lab.contents();
    for (arguments, says) in [
        (["--prompt=aЖ"].as_slice(), ["--prompt", "'Ж' (U+0416)"]),
        (&["--prompt="], ["prompt", "empty"]),
        (&["--prompt=a", "--stop=word"], ["--stop \"word\"", "no such token"]),
        (&["--prompt=a", "--temperature=-1"], ["temperature = -1", "at least 0"]),
        (&["--prompt=a", "--top-k=0"], ["top_k = 0", "at least 1"]),
        (&["--prompt=a", "--top-p=1.5"], ["top_p = 1.5", "at most 1"]),
    ] {
        let all = [&["generate", "--model", "run", "--device", cpu()], arguments].concat();
        lab.fornax(&all).refused(&arguments.join(" "), 2, &says);
    }
    assert!(lab.contents() == before);

    truncate(&lab.path("run/best/model.safetensors"));
    let outcome = lab.fornax(&["generate", "--model", "run", "--prompt", "a", "--device", cpu()]);
    outcome.refused("truncated model", 1, &["run/best/model.safetensors", "not a valid safetensors file"]);
}

/// The kernel lets no file of the process grow beyond a few kilobytes, which holds for root too: writing a checkpoint fails in
/// its middle, as on a full disk.
#[cfg(unix)]
#[test]
fn a_full_disk_during_a_save_keeps_the_checkpoint_before() {
    let lab = lab();
    let constant = ["--set", "schedule.name=constant"];
    lab.gpt_lm(&[&["tiny.toml", "--run-dir", "run", "--max-steps", "5"], constant.as_slice()].concat()).ok();
    let run = lab.run("run");
    let (kept, size) = (run.tensors(5), run.read("checkpoints/step-000005/model.bpk").len());
    // `ulimit -f` counts blocks of 512 bytes or, in some shells, of 1024.
    assert!(size > 16 << 10, "{size} bytes would fit");
    let script = "trap '' XFSZ; ulimit -f 16; exec PROGRAM --run-dir run --resume --max-steps 20";
    let outcome = Outcome::of(lab.shell(script));
    let says = [
        "cannot save a checkpoint in `run/checkpoints/step-000010`",
        "the checkpoint of step 5 is kept",
        "hint: make room",
    ];
    outcome.refused("full disk", 1, &says);
    assert_eq!(run.checkpoints(), [5]);
    assert_eq!(run.names("checkpoints"), ["step-000005"], "nothing half-written stays");
    assert!(run.tensors(5) == kept);
    assert!(run.summary().error.is_some_and(|error| error.contains("cannot save")));

    lab.gpt_lm(&["--run-dir", "run", "--resume", "--max-steps", "20"]).ok();
    assert_eq!(run.train_steps(), (1..=20).collect::<Vec<_>>());
    assert_eq!((run.summary().steps, run.summary().error), (20, None));
}

/// As above, with a log on the same disk: that it can't be written must not keep the run from ending as it should.
#[cfg(unix)]
#[test]
fn a_full_disk_under_the_log_too_changes_nothing() {
    let lab = lab();
    lab.gpt_lm(&["tiny.toml", "--run-dir", "run", "--max-steps", "5"]).ok();
    lab.write("log", " ".repeat(16 << 10));
    let script = "trap '' XFSZ; ulimit -f 16; exec PROGRAM --run-dir run --resume --max-steps 20 2>> log";
    let outcome = Outcome::of(lab.shell(script));
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let run = lab.run("run");
    assert!(run.summary().error.is_some_and(|error| error.contains("cannot save")));
    assert_eq!(run.names("checkpoints"), ["step-000005"]);
}

/// A terminal that is gone, of which a shell and the system both tell, ends a run as Ctrl-C does, but not one that is to outlive it.
#[cfg(target_os = "linux")]
#[test]
fn a_lost_terminal_ends_a_run_unless_that_is_ignored() {
    let lab = lab();
    // Whoever runs these tests may have it ignored. The first line of metrics is written when signals are handled.
    let lost = "env --default-signal=HUP PROGRAM tiny.toml --run-dir lost --max-steps 100000 & n=0; \
                until grep -q step lost/metrics.jsonl || [ $n -gt 2400 ]; do n=$((n+1)); sleep 0.05; done 2> /dev/null; \
                kill -HUP $!; kill -HUP $!; wait $!";
    let outcome = Outcome::of(lab.shell(lost));
    assert_eq!(outcome.code, Some(130), "{outcome:?}");
    assert!(lab.run("lost").summary().interrupted);

    let kept = "trap '' HUP; PROGRAM tiny.toml --run-dir kept --max-steps 5 & n=0; \
                until [ -e kept/summary.json ] || [ $n -gt 2400 ]; do kill -HUP $!; n=$((n+1)); sleep 0.05; done; wait $!";
    let outcome = Outcome::of(lab.shell(kept));
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(lab.run("kept").train_steps(), [1, 2, 3, 4, 5]);
}

#[test]
fn a_run_folder_in_use_is_refused() {
    let lab = lab();
    lab.write_config("long.toml", &[("seq_len = 16", "seq_len = 64")]);
    let run = lab.run("run");
    let running = lab.start(&["long.toml", "--run-dir", "run", "--max-steps", "2000"]);
    let running = running.until(|| !run.metrics().is_empty());
    let second = lab.gpt_lm(&["--run-dir", "run", "--resume"]);
    assert!(running.kill(), "the first run was over");
    second.refused("in use", 1, &["another process is using the run folder `run`", "hint: "]);
}

#[test]
fn a_run_that_diverges_stops_and_names_step_blocks_and_the_last_good_checkpoint() {
    let lab = lab();
    let settings = ["--set", "optimizer.lr=1e30", "--set", "checkpoint.save_every=1", "--set", "train.log_every=3"];
    let outcome = lab.gpt_lm(&[&["tiny.toml", "--run-dir", "run"], settings.as_slice()].concat());
    let not_finite = "of step 1, counted from 0, is not finite";
    let says = [not_finite, "blocks ", "the last good checkpoint is `run/checkpoints/step-000001`", "hint: "];
    outcome.refused("a learning rate of 1e30", 1, &says);
    let run = lab.run("run");
    assert_eq!(run.checkpoints(), [1], "no bad model is saved");
    assert!(run.summary().error.is_some_and(|error| error.contains("not finite")));

    let early = lab.gpt_lm(&["tiny.toml", "--run-dir", "early", "--set", "optimizer.lr=1e30"]);
    early.refused("before any checkpoint", 1, &[not_finite, "there is no checkpoint yet", "hint: "]);
}
