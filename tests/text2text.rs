//! An encoder-decoder from text to text: `t5-text2text` pretrains on hidden spans, learns tasks, and leaves answers.

use std::{collections::BTreeMap, fmt::Write, ops::Range};

use fornax_tests::{Lab, Outcome, cpu};
use serde_json::Value;

use crate::{exactness::assert_same_run, lab};

/// Span corruption with dropout and accumulation.
const PRETRAIN: &str = r#"
[model]
hidden_size = 16
head_dim = 8
num_heads = 2
intermediate_size = 32
num_layers = 1
dropout = 0.1

[tokenizer]
vocab_size = 150
sentinels = 20

[data]
files = ["text.txt"]
format = "lines"

[objective]
seq_len = 24

[train]
max_steps = 20
micro_batch_size = 4
gradient_accumulation = 2
log_every = 1
eval_every = 5

[optimizer]
name = "adamw_scaled"
lr = 2e-2

[eval]
max_batches = 2

[checkpoint]
save_every = 5

[example]
text = "the iron <extra_id_0> slowly."
"#;

/// Whether a sentence is hot, said in a word.
const HEAT: &str = r#"
[[tasks]]
name = "heat"
files = ["train.tsv"]
valid_files = ["dev.tsv"]
test_files = ["test.tsv"]
source = "heat: {sentence}"
target = "label"
words = { 0 = "cold", 1 = "hot" }
metric = "exact_match"
"#;

/// The thing that a sentence is about, from parallel files.
const THING: &str = r#"
[[tasks]]
name = "thing"
files = ["train.sentence", "train.thing"]
valid_files = ["dev.sentence", "dev.thing"]
prefix = "thing: "
source = "{sentence}"
target = "thing"
metric = "f1"
"#;

/// A config with these tasks in the place of the text.
fn tasks(tasks: &[&str]) -> String {
    let (before, after) = PRETRAIN.split_once("[data]").unwrap();
    let (_, training) = after.split_once("[train]").unwrap();
    let (training, _) = training.split_once("[example]").unwrap();
    let data = "[data]\nmax_source_len = 24\nmax_target_len = 6\n";
    format!("{before}{data}{}\n[train]{training}[generate]\nnum_beams = 2\n", tasks.concat())
}

/// Every other sentence is hot; the rest of its words says nothing of that.
fn sentence(i: usize) -> (String, &'static str) {
    let thing = ["iron", "coal", "hammer", "anvil", "water"][i / 2 % 5];
    let ending = ["in the old furnace", "under a bright fire", "again", "and then slowly bends"][i / 10 % 4];
    (format!("the {thing} {} {ending}", ["cools", "glows"][i % 2]), thing)
}

fn table(range: Range<usize>) -> String {
    let lines = range.map(|i| format!("{}\t{}\n", sentence(i).0, i % 2));
    lines.fold("sentence\tlabel\n".to_owned(), |table, line| table + &line)
}

fn text_lab() -> Lab {
    let lab = lab();
    lab.write("pretrain.toml", PRETRAIN);
    lab.write("heat.toml", tasks(&[HEAT]));
    lab.write("both.toml", tasks(&[HEAT, THING]));
    for (name, range) in [("train", 0..160), ("dev", 160..176), ("test", 176..188)] {
        lab.write(&format!("{name}.tsv"), table(range.clone()));
        let (mut sentences, mut things) = (String::new(), String::new());
        for i in range {
            let (sentence, thing) = sentence(i);
            writeln!(sentences, "{sentence}").unwrap();
            writeln!(things, "{thing}").unwrap();
        }
        lab.write(&format!("{name}.sentence"), sentences);
        lab.write(&format!("{name}.thing"), things);
    }
    lab
}

fn train(lab: &Lab, config: &str, name: &str, more: &[&str]) -> Outcome {
    lab.train("t5-text2text", &[&[config, "--run-dir", name], more].concat()).ok()
}

/// Source, reference and prediction of each line below the head.
fn predictions(lab: &Lab, run: &str, file: &str) -> Vec<[String; 3]> {
    let table = String::from_utf8(lab.run(run).read(&format!("predictions/{file}"))).unwrap();
    let mut lines =
        table.lines().map(|line| line.split('\t').map(str::to_owned).collect::<Vec<_>>().try_into().unwrap());
    assert_eq!(lines.next(), Some(["source", "reference", "prediction"].map(str::to_owned)));
    lines.collect()
}

fn exact_matches(rows: &[[String; 3]]) -> f64 {
    rows.iter().filter(|[_, reference, prediction]| reference == prediction).count() as f64 / rows.len() as f64
}

fn mean(losses: &[f64]) -> f64 {
    losses.iter().sum::<f64>() / losses.len() as f64
}

#[test]
fn hidden_spans_are_learned_and_the_example_is_filled_in() {
    let lab = text_lab();
    let outcome = train(&lab, "pretrain.toml", "run", &["--max-steps", "60"]);
    let run = lab.run("run");
    let losses = run.train_losses();
    // A text of thirty words: guessing by their frequency is worth more than this.
    assert!(mean(&losses[50..]) < mean(&losses[..5]) - 1.0, "{losses:?}");
    let names: Vec<String> = run.summary().valid.into_keys().collect();
    assert_eq!(names, ["loss", "perplexity", "token_accuracy"]);
    let (_, shown) = outcome.stdout.split_once("\nthe iron <extra_id_0> slowly.\n  ").unwrap();
    assert!(shown.starts_with("the iron") && shown.ends_with("slowly.\n") && !shown.contains("<extra"), "{shown:?}");
    assert!(!run.path("predictions").exists());
}

#[test]
fn the_modes_of_ul2_are_tokens_of_a_tokenizer_that_is_trained_for_it() {
    let lab = text_lab();
    let arguments = ["data", "inspect", "pretrain.toml", "--recipe", "t5-text2text", "--set", "objective.kind=ul2"];
    let shown = lab.fornax(&[&arguments[..], &["--set", "objective.seq_len=96"]].concat()).ok().stdout;
    // The first row's source begins with one of them, in one piece.
    let modes = ["[R]", "[S]", "[X]"].map(|mode| format!("\"{mode}\""));
    assert!(modes.iter().any(|mode| shown.contains(mode.as_str())), "{shown}");
}

#[test]
fn a_run_that_was_killed_is_the_run_that_was_not() {
    let lab = text_lab();
    for (config, learns) in [("pretrain.toml", "loss"), ("both.toml", "heat_exact_match")] {
        let (straight, run) = (format!("{config}-straight"), format!("{config}-run"));
        let metric = format!("train.metric_for_best={learns}");
        let arguments = [config, "--set", &metric, "--run-dir"];
        lab.train("t5-text2text", &[&arguments[..], &[&straight]].concat()).ok();
        let folder = lab.run(&run);
        let reached = || folder.train_steps().len() >= 8;
        // Where it is over before it is killed, what follows finds a finished run, which is the run that was not killed too.
        lab.start_training("t5-text2text", &[&arguments[..], &[&run]].concat()).until(reached).kill();
        lab.train("t5-text2text", &["--run-dir", &run, "--resume"]).ok();
        assert_same_run(&folder, &lab.run(&straight), 20);
        let best = folder.summary().best.unwrap();
        assert_eq!(best.metric, learns);
    }
    for file in ["heat-valid.tsv", "heat-test.tsv", "thing-valid.tsv"] {
        assert_eq!(predictions(&lab, "both.toml-run", file), predictions(&lab, "both.toml-straight", file));
    }
}

#[test]
fn the_words_of_labels_are_learned_and_answers_stand_beside_their_references() {
    let lab = text_lab();
    let settings = ["--max-steps", "150", "--set", "model.dropout=0.0", "--set", "train.eval_every=25"];
    let keep = ["--set", "train.metric_for_best=exact_match", "--set", "train.load_best_at_end=true"];
    let outcome = train(&lab, "heat.toml", "run", &[&settings[..], &keep].concat());
    let summary = lab.run("run").summary();
    assert!(summary.valid["exact_match"] > 0.95, "{summary:?}");
    assert_eq!(summary.best.as_ref().unwrap().metric, "exact_match");

    let valid = predictions(&lab, "run", "heat-valid.tsv");
    // Two batches of four: what an evaluation takes, from the beginning of the file.
    let sources: Vec<String> = (160..168).map(|i| format!("heat: {}", sentence(i).0)).collect();
    assert_eq!(valid.iter().map(|[source, ..]| source.clone()).collect::<Vec<_>>(), sources);
    let test = predictions(&lab, "run", "heat-test.tsv");
    assert_eq!(test.len(), 12);
    for (metrics, rows) in [(&summary.valid, &valid), (&summary.test, &test)] {
        let keys: Vec<&str> = metrics.keys().map(String::as_str).filter(|name| !name.contains("_beam2")).collect();
        assert_eq!(keys, ["exact_match", "heat_exact_match", "loss", "perplexity", "token_accuracy"]);
        assert_eq!((metrics["exact_match"], metrics["heat_exact_match"]), (exact_matches(rows), exact_matches(rows)));
    }
    let beams = predictions(&lab, "run", "heat-test-beam2.tsv");
    assert_eq!(summary.test["exact_match_beam2"], exact_matches(&beams));

    // The tool measures and answers as the run did, and puts the prefix of its only task before a text.
    let tool = |command: &str, more: &[&str]| {
        let outcome = lab.fornax(&[&[command, "--model", "run", "--device", cpu()], more].concat()).ok();
        outcome.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
    };
    for (rows, name, more) in [(&test, "exact_match", &["--num-beams", "1"][..]), (&beams, "exact_match_beam2", &[])] {
        let scored = tool("evaluate", more);
        let sets: Vec<_> = scored.iter().map(|line| (line["set"].as_str().unwrap(), &line["examples"])).collect();
        assert_eq!(sets, [("valid of heat", &16.into()), ("test of heat", &12.into())]);
        assert_eq!(scored[1][name], exact_matches(rows));
        let texts: Vec<&str> = rows.iter().map(|[source, ..]| source.strip_prefix("heat: ").unwrap()).collect();
        let answers: Vec<_> = tool("predict", &[more, &texts].concat());
        let answers: Vec<_> = answers.iter().map(|line| line["generated_text"].as_str().unwrap()).collect();
        assert_eq!(answers, rows.iter().map(|[.., answer]| answer.as_str()).collect::<Vec<_>>());
    }
    assert!(outcome.stdout.contains("\nheat\n  heat: the iron cools in the old furnace\n    cold\n"), "{outcome:?}");
    assert!(outcome.stderr.contains("predictions: "), "{outcome:?}");
}

#[test]
fn several_tasks_are_measured_each_by_its_own_metric() {
    let lab = text_lab();
    let example = ["--set", "example.text=heat: the iron glows", "--set", "example.answers=0"];
    let outcome = train(&lab, "both.toml", "run", &[&["--max-steps", "2"], &example[..]].concat());
    let summary = lab.run("run").summary();
    let names = |metrics: BTreeMap<String, f64>| metrics.into_keys().collect::<Vec<_>>();
    let of_valid = ["heat_exact_match", "heat_exact_match_beam2", "loss", "perplexity", "thing_f1", "thing_f1_beam2"];
    assert_eq!(names(summary.valid), [&of_valid[..], &["token_accuracy"]].concat());
    let of_test = ["heat_exact_match", "heat_exact_match_beam2", "loss", "perplexity", "token_accuracy"];
    assert_eq!(names(summary.test), of_test, "one has a test set");
    let tables = ["heat-test-beam2", "heat-test", "heat-valid-beam2", "heat-valid", "thing-valid-beam2", "thing-valid"];
    assert_eq!(lab.run("run").names("predictions"), tables.map(|name| format!("{name}.tsv")));
    // Each task has its name for the tool, and none is meant without it.
    let prefixes = lab.run("run").json("last/config.json");
    assert_eq!(prefixes["task_specific_params"]["thing"]["prefix"], "thing: ");
    assert!(prefixes.get("prefix").is_none());
    let sets = |more: &[&str]| {
        let outcome = lab.fornax(&[&["evaluate", "--model", "run", "--device", cpu()], more].concat()).ok().stdout;
        let set = |line: &str| serde_json::from_str::<Value>(line).unwrap()["set"].as_str().unwrap().to_owned();
        outcome.lines().map(set).collect::<Vec<_>>()
    };
    let unnamed = lab.fornax(&["predict", "--model", "run", "--device", cpu(), "the iron glows"]).ok();
    assert!(
        unnamed.stderr.contains("texts are read as they are") && unnamed.stderr.contains("--task heat, --task thing")
    );
    assert_eq!(sets(&[]), ["valid of heat", "test of heat", "valid of thing"]);
    assert_eq!(sets(&["--task", "thing"]), ["valid of thing"]);
    for (arguments, says) in [
        (
            &["evaluate", "--task", "thin"][..],
            "unknown task `thin`; there is: heat, thing\nhint: did you mean `thing`?",
        ),
        (&["evaluate", "--prefix", "x: "], "--prefix does nothing with the tasks of a run"),
        (&["evaluate", "--set", "data.source=sentence"], "does nothing with the tasks of a run"),
        (&["predict", "--task", "thin", "x"], "has no `thin`; it has heat, thing"),
    ] {
        let more = ["--model", "run", "--device", cpu()];
        lab.fornax(&[arguments, &more].concat()).refused(says, 2, &[says]);
    }
    assert!(outcome.stdout.starts_with("\nheat: the iron glows\n  "), "{outcome:?}");
    assert!(outcome.stderr.contains("task heat: 160 examples, 50.00 % of what is drawn"), "{outcome:?}");
    let shared = lab.fornax(&["data", "inspect", "both.toml", "--recipe", "t5-text2text", "--valid"]).ok().stdout;
    assert!(shared.contains("valid of heat, step 0, micro-batch 0: 4 rows"), "{shared}");
    assert!(shared.contains("valid of thing, step 0, micro-batch 0: 4 rows"), "{shared}");
}

/// Weights that don't move, so that what a second run measures is what the first one left.
#[test]
fn an_export_loads_back_with_equal_loss_and_keeps_its_tokenizer() {
    let lab = text_lab();
    lab.write(
        "gated.toml",
        PRETRAIN.replace("[model]", "[model]\ngated = true\ntie_embeddings = false\nvocab_size = 160"),
    );
    for config in ["pretrain.toml", "gated.toml"] {
        let (first, second) = (format!("{config}-first"), format!("{config}-second"));
        train(&lab, config, &first, &["--max-steps", "6"]);
        let from = format!("model.from={first}");
        let still = ["--set", "optimizer.lr=1e-30", "--max-steps", "1", "--set", &from];
        let outcome = train(&lab, "pretrain.toml", &second, &[&still[..], &["--set", "model.hidden_size=64"]].concat());
        assert!(outcome.stderr.contains("model.hidden_size is 16, not 64"), "{outcome:?}");
        let (first, second) = (lab.run(&first), lab.run(&second));
        assert_eq!(second.summary().valid, first.summary().valid);
        assert!(second.read("last/model.safetensors") == first.read("last/model.safetensors"));
        assert!(second.read("tokenizer.json") == first.read("tokenizer.json"));
    }
    let config = lab.run("gated.toml-second").json("last/config.json");
    assert_eq!((&config["vocab_size"], &config["is_gated_act"]), (&160.into(), &true.into()));
    let special = lab.run("pretrain.toml-second").json("last/tokenizer_config.json");
    let expected = ("<pad>".into(), "</s>".into(), 20.into(), 24.into());
    assert_eq!(
        (&special["pad_token"], &special["eos_token"], &special["extra_ids"], &special["model_max_length"]),
        (&expected.0, &expected.1, &expected.2, &expected.3)
    );
}

#[test]
fn what_would_happen_is_shown_timed_and_learned_by_heart() {
    let lab = text_lab();
    let before = lab.contents();
    let recipe = |arguments: &[&str]| lab.train("t5-text2text", arguments).ok();
    let shown = recipe(&["pretrain.toml", "--dry-run"]).stdout;
    let (table, batch) = shown.split_once("\nfirst batch\n").unwrap();
    assert!(table.contains("decoder.blocks.0.cross_attention.query.weight   [16, 16]"), "{table}");
    assert!(table.contains("tokens a step     ") && batch.contains("<extra_id_0>"), "{shown}");
    assert!(batch.contains("one step ") && batch.contains("one valid batch "), "{batch}");
    let shown = recipe(&["both.toml", "--dry-run"]).stdout;
    assert!(shown.contains(" tokens of source, ") && !shown.contains("<extra_id_0>"), "{shown}");
    let report: Value = serde_json::from_str(&recipe(&["both.toml", "--bench", "2"]).stdout).unwrap();
    assert_eq!(report["steps"], 2);
    assert!(lab.contents() == before, "nothing is left");

    let settings = ["--overfit", "1", "--max-steps", "60", "--set", "model.dropout=0.0"];
    train(&lab, "pretrain.toml", "run", &[&settings[..], &["--set", "model.hidden_size=32"]].concat());
    let losses = lab.run("run").train_losses();
    assert!(losses[59] < 0.25 * losses[0], "{losses:?}");
}

#[test]
fn what_is_too_long_is_cut_and_counted() {
    let lab = text_lab();
    let outcome = train(&lab, "heat.toml", "run", &["--max-steps", "1", "--set", "data.max_source_len=6"]);
    assert!(
        outcome.stderr.contains("train of heat: 160 of 160 sources were cut to data.max_source_len = 6 tokens"),
        "{outcome:?}"
    );
    assert!(!outcome.stderr.contains("targets were cut"), "{outcome:?}");
}

#[test]
fn mistakes_have_one_clear_error() {
    let lab = text_lab();
    lab.write("blank.tsv", "sentence\tlabel\nthe iron\t1\nthe coal\t \n");
    lab.write("all-blank.tsv", "sentence\tlabel\nthe iron\t\n");
    lab.write("warm.tsv", "sentence\tlabel\nthe iron\t2\n");
    lab.write("nothing.toml", "[train]\nmax_steps = 1\n");
    lab.write("two.toml", format!("{PRETRAIN}{HEAT}"));
    lab.write("text-and-tasks.toml", tasks(&[HEAT]).replace("[data]", "[data]\nname = \"tinyshakespeare\""));
    lab.write("mixed-text.toml", format!("{PRETRAIN}\n[mixture]\nby = \"equal\"\n"));
    for (name, from, to) in [
        ("column", "{sentence}", "{sentense}"),
        ("target", "target = \"label\"", "target = \"lable\""),
        ("blank", "dev.tsv", "blank.tsv"),
        ("all-blank", "train.tsv", "all-blank.tsv"),
        ("word", "train.tsv", "warm.tsv"),
        ("no-valid", "valid_files = [\"dev.tsv\"]", ""),
        ("slash", "name = \"heat\"", "name = \"../heat\""),
        ("metric", "\"exact_match\"", "\"exactly\""),
    ] {
        let config = tasks(&[HEAT]);
        assert!(config.contains(from), "{from}");
        lab.write(&format!("{name}.toml"), config.replace(from, to));
    }
    let cases: &[(&[&str], i32, [&str; 2])] = &[
        (&["nothing.toml"], 2, ["`objective` is not set", "[[tasks]]"]),
        (&["two.toml"], 2, ["`tasks` and `objective` can't both be set", "model.from"]),
        (&["text-and-tasks.toml"], 2, ["`tasks` and `data` can't both be set", "tasks.files"]),
        (&["mixed-text.toml"], 2, ["`mixture` and `objective`", "[[tasks]]"]),
        (&["column.toml"], 1, ["train.tsv:1", "no column `sentense`; there is: sentence, label"]),
        (&["target.toml"], 1, ["train.tsv:1", "no column `lable`"]),
        (&["blank.toml"], 1, ["blank.tsv:3", "the target is blank"]),
        (&["all-blank.toml"], 1, ["all-blank.tsv", "no pair has a text on both sides"]),
        (&["word.toml"], 1, ["warm.tsv:2", "no word for the label `2`"]),
        (&["no-valid.toml"], 2, ["task `heat`: `tasks.valid_files` is not set", "data set with a valid split"]),
        (&["slash.toml"], 2, ["`tasks.name` is \"../heat\"", "letters, digits"]),
        (&["metric.toml"], 2, ["tasks[0].metric", "exactly"]),
        (
            &["heat.toml", "--set", "train.metric_for_best=sacrebleu"],
            2,
            ["`sacrebleu`", "exact_match, heat_exact_match"],
        ),
        (
            &["both.toml", "--set", "train.metric_for_best=exact_match"],
            2,
            ["`exact_match`", "heat_exact_match, thing_f1"],
        ),
        (&["heat.toml", "--set", "data.max_target_len=1"], 2, ["`data.max_target_len` is 1", "at least 2"]),
        (&["heat.toml", "--set", "generate.num_beams=0"], 2, ["[generate]", "num_beams = 0"]),
        (&["heat.toml", "--set", "mixture.by=weights"], 2, ["`tasks.weight` is not set", ""]),
        (&["pretrain.toml", "--precision", "f16"], 2, ["T5 in precision f16", "use bf16"]),
        (&["pretrain.toml", "--set", "tokenizer.sentinels=0"], 2, ["the tokenizer has 0 sentinel tokens", "hint: "]),
        (&["pretrain.toml", "--set", "tokenizer.kind=char"], 2, ["", ""]),
        (&["pretrain.toml", "--set", "objective.seq_len=2"], 2, ["`objective.seq_len` is 2", "at least 3"]),
        (&["pretrain.toml", "--set", "objective.noise_density=2"], 2, ["`objective.noise_density` is 2", ""]),
        (&["pretrain.toml", "--set", "example.text=no sentinel"], 2, ["example.text", "has no <extra_id_0>"]),
        (&["pretrain.toml", "--set", "model.vocab_size=20"], 2, ["model.vocab_size = 20", "the tokenizer has"]),
        (&["pretrain.toml", "--set", "model.end_token=7"], 2, ["model.end_token = 7", "texts end with token 1"]),
        (&["pretrain.toml", "--set", "model.from=nowhere"], 1, ["model.from", "nowhere"]),
        (&["pretrain.toml", "--set", "data.max_source=3"], 2, ["`data.max_source`", "did you mean `max_source_len`?"]),
        (&["pretrain.toml", "--set", "tokenizer.vocab=3"], 2, ["`tokenizer.vocab`", "unknown key"]),
    ];
    for (arguments, code, says) in cases {
        let all = [*arguments, &["--run-dir", "run"]].concat();
        lab.train("t5-text2text", &all).refused(&arguments.join(" "), *code, says);
    }
    assert!(!lab.path("run").exists(), "nothing is left");
}
