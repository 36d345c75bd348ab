//! Encoder-decoders learn to translate: from parallel files to the translations of a test set.

use std::{collections::BTreeSet, fs};

use fornax_tests::{Lab, RunFolder, cpu};
use serde_json::Value;

use crate::{exactness::assert_same_run, lab};

/// A Transformer of 13,000 parameters with one vocabulary, dropout and accumulation, on files whose lines belong together.
const JOINT: &str = r#"
[model]
positions = "learned"
hidden_size = 24
num_layers = 1
num_heads = 4
intermediate_size = 48
dropout = 0.1
norm_first = true
tie_embeddings = "all"

[tokenizer]
kind = "wordpiece"
vocab_size = 90

[data]
source = "one"
target = "two"
files = ["train.one", "train.two"]
valid_files = ["valid.one", "valid.two"]
test_files = ["test.one", "test.two"]
max_source_len = 12
max_target_len = 12

[objective]
label_smoothing = 0.1

[train]
max_steps = 20
micro_batch_size = 4
gradient_accumulation = 2
log_every = 1
eval_every = 5

[optimizer]
lr = 1e-2
weight_decay = 0.0

[schedule]
name = "noam"
warmup_steps = 10

[checkpoint]
save_every = 5

[generate]
batch_size = 8
max_new_tokens = 12
max_new_tokens_per_source_token = 0.0
"#;

/// What makes of [`JOINT`] a model with a vocabulary for each language.
const SEPARATE: [(&str, &str); 2] =
    [("\"all\"", "\"decoder\""), ("[data]", "[source_tokenizer]\nkind = \"byte-bpe\"\nvocab_size = 300\n\n[data]")];

/// Words of one language and those of the other.
const WORDS: [(&str, &str); 8] = [
    ("iron", "ferro"),
    ("coal", "carbo"),
    ("fire", "igni"),
    ("water", "aqua"),
    ("anvil", "incus"),
    ("smith", "faber"),
    ("glows", "candet"),
    ("cools", "friget"),
];

/// Pairs of three or four words, of which the second language writes the last one first. No two are the same, so those of a test are
/// none that were learned.
fn pairs(range: std::ops::Range<usize>) -> Vec<(String, String)> {
    let pair = |number: usize| {
        // Odd factors go through all combinations of eight words before any comes again.
        let (words, factor) = [(3, 37), (4, 1237)][number % 2];
        let combination = number / 2 * factor;
        let words: Vec<_> = (0..words).map(|place| WORDS[combination / 8usize.pow(place) % 8]).collect();
        let join = |words: Vec<&str>| words.join(" ");
        (join(words.iter().map(|word| word.0).collect()), join(words.iter().rev().map(|word| word.1).collect()))
    };
    range.map(pair).collect()
}

fn translation_lab() -> Lab {
    let lab = lab();
    for (name, range) in [("train", 0..400), ("valid", 400..424), ("test", 424..440)] {
        let pairs = pairs(range);
        lab.write(&format!("{name}.one"), pairs.iter().map(|pair| format!("{}\n", pair.0)).collect::<String>());
        lab.write(&format!("{name}.two"), pairs.iter().map(|pair| format!("{}\n", pair.1)).collect::<String>());
    }
    lab.write("joint.toml", JOINT);
    let separate = SEPARATE.iter().fold(JOINT.to_owned(), |config, (from, to)| config.replace(from, to));
    lab.write("separate.toml", separate);
    lab
}

fn translate(lab: &Lab, arguments: &[&str]) -> fornax_tests::Outcome {
    lab.train("translate", arguments).ok()
}

/// The lines of a table of translations, split at tabs.
fn table(run: &RunFolder, name: &str) -> Vec<Vec<String>> {
    let text = String::from_utf8(run.read(&format!("predictions/{name}"))).unwrap();
    text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
}

#[test]
fn a_killed_and_resumed_training_is_the_one_that_was_not() {
    let lab = translation_lab();
    let more = ["--set", "generate.valid_examples=6", "--set", "train.metric_for_best=chrf"];
    for config in ["joint.toml", "separate.toml"] {
        let (straight, run) = (format!("{config}-straight"), format!("{config}-run"));
        translate(&lab, &[&[config, "--run-dir", &straight], &more[..]].concat());
        let folder = lab.run(&run);
        let reached = || folder.train_steps().len() >= 8;
        let given = [&[config, "--run-dir", &run], &more[..]].concat();
        // Where it is over before it is killed, what follows finds a finished run, which is the run that was not killed too.
        lab.start_training("translate", &given).until(reached).kill();
        translate(&lab, &["--run-dir", &run, "--resume"]);
        let straight = lab.run(&straight);
        assert_same_run(&folder, &straight, 20);
        assert_eq!(folder.summary().test, straight.summary().test);
        assert_eq!(table(&folder, "test.tsv"), table(&straight, "test.tsv"));
        assert_eq!(folder.summary().best.unwrap().metric, "chrf");
        let names: Vec<_> = straight.summary().valid.into_keys().collect();
        assert_eq!(names, ["bleu", "chrf", "loss", "perplexity", "sacrebleu", "token_accuracy"]);
    }
}

#[cfg(unix)]
#[test]
fn a_signal_during_the_last_measurement_leaves_and_it_is_made_again() {
    let lab = translation_lab();
    // Many beams on all that was trained on: long enough to be interrupted.
    let long = ["--set", "data.test_files=[\"train.one\", \"train.two\"]", "--set", "generate.num_beams=8"];
    let given = [&["joint.toml", "--run-dir", "run"], &long[..]].concat();
    let folder = lab.run("run");
    let measuring = || folder.path("predictions").exists();
    assert_eq!(lab.start_training("translate", &given).until(measuring).signal("INT").end().code, Some(130));
    let summary = folder.summary();
    assert!(summary.interrupted && summary.steps == 20 && summary.test.is_empty(), "{summary:?}");
    translate(&lab, &["--run-dir", "run", "--resume"]);
    let summary = folder.summary();
    assert!(!summary.interrupted && summary.test.contains_key("bleu_beam8"), "{summary:?}");
    assert_eq!(table(&folder, "test-beam8.tsv").len(), 401);
    assert_eq!(folder.train_steps(), (1..=20).collect::<Vec<_>>(), "nothing is trained again");
}

/// The checkpoint of the interruption, and those of the best models on the way, are none of those that are averaged.
#[cfg(unix)]
#[test]
fn a_run_that_was_interrupted_tests_the_average_of_one_that_was_not() {
    let lab = translation_lab();
    let settings = ["train.eval_every=4", "checkpoint.save_every=20", "checkpoint.keep_last=3", "test.average_last=3"];
    let set = settings.iter().flat_map(|setting| ["--set", setting]).collect::<Vec<_>>();
    let given = |folder| [&["joint.toml", "--run-dir", folder, "--max-steps", "40"], &set[..]].concat();
    let said = translate(&lab, &given("straight")).stderr;
    // Those of the steps 20 and 40; a third is not taken from the others.
    assert!(said.contains("2 of the last 3 checkpoints are averaged, the others are missing or damaged"), "{said}");
    let run = lab.run("run");
    let running = lab.start_training("translate", &given("run")).until(|| run.train_steps().len() >= 15);
    let outcome = running.signal("INT").end();
    assert_eq!(outcome.code, Some(130), "{outcome:?}");
    assert!(!run.path("averaged").exists());
    translate(&lab, &["--run-dir", "run", "--resume"]);
    let straight = lab.run("straight");
    for file in ["averaged/model.safetensors", "averaged/config.json", "predictions/test.tsv"] {
        assert!(run.read(file) == straight.read(file), "{file}");
    }
    assert!(run.read("averaged/model.safetensors") != run.read("last/model.safetensors"));

    // Beside a smoothed loss stands the plain one, which is what the lines of evaluations have.
    for line in straight.metrics() {
        assert_eq!(line.contains_key("nll"), line["split"] == "train", "{line:?}");
    }
}

/// In one run the same eight pairs make a step, however they are cut; what differs is padding and the order of sums in `f32`.
#[test]
fn micro_batches_add_up_to_the_large_batch() {
    let lab = translation_lab();
    let losses = [(8, 1), (4, 2), (2, 4)].map(|(size, number)| {
        let (size, number) =
            (format!("train.micro_batch_size={size}"), format!("train.gradient_accumulation={number}"));
        let cut = ["joint.toml", "--run-dir", &size, "--set", &size, "--set", &number];
        let rest = ["--set", "model.dropout=0.0", "--set", "data.group_by_length=false", "--max-steps", "10"];
        translate(&lab, &[&cut[..], &rest].concat());
        lab.run(&size).train_losses()
    });
    assert!(losses[0][9] < losses[0][0] - 0.1, "it learns, or the comparison says little: {losses:?}");
    for cut in &losses[1..] {
        for (loss, expected) in cut.iter().zip(&losses[0]) {
            // 1e-7 a sum, of which a step makes some hundred one after another, and ten steps build on each other.
            assert!((loss - expected).abs() <= 2e-5 * expected, "{losses:?}");
        }
    }
}

#[test]
fn a_language_of_reversed_words_is_learned_and_the_test_set_translated() {
    let lab = translation_lab();
    let settings = [
        "train.max_steps=400",
        "train.micro_batch_size=16",
        "train.gradient_accumulation=1",
        "train.log_every=50",
        "train.eval_every=200",
        "checkpoint.save_every=20",
        "schedule.warmup_steps=100",
        "model.dropout=0.0",
        "data.lowercase=true",
        "generate.num_beams=3",
        "test.average_last=2",
    ];
    // References keep their case, which the model can't write.
    let capital = |text: String| text[..1].to_uppercase() + &text[1..];
    let given: Vec<_> =
        pairs(424..440).into_iter().map(|(source, target)| [capital(source), capital(target)]).collect();
    for (side, name) in ["test.one", "test.two"].iter().enumerate() {
        lab.write(name, given.iter().map(|pair| format!("{}\n", pair[side])).collect::<String>());
    }
    let set = settings.iter().flat_map(|setting| ["--set", setting]).collect::<Vec<_>>();
    let outcome = translate(&lab, &[&["joint.toml", "--run-dir", "run"], &set[..]].concat());
    let run = lab.run("run");
    let test = run.summary().test;
    let names: Vec<_> = test.keys().map(String::as_str).collect();
    let scores = ["bleu", "bleu_beam3", "chrf", "chrf_beam3", "loss", "perplexity", "sacrebleu", "sacrebleu_beam3"];
    assert_eq!(names, [&scores[..], &["token_accuracy"]].concat());
    // The right words in the order of the source have a BLEU of 17.
    assert!(test["bleu"] > 60.0 && test["bleu_beam3"] > 60.0 && test["token_accuracy"] > 0.85, "{test:?}");
    assert!(test["sacrebleu"] < test["bleu"] - 5.0, "{test:?}");
    assert!((test["perplexity"] - test["loss"].exp()).abs() < 1e-6 * test["perplexity"], "{test:?}");

    // Each line beside its own reference, though they were translated in the order of their lengths.
    let lines = table(&run, "test.tsv");
    assert_eq!(lines[0], ["source", "reference", "prediction"]);
    assert_eq!(lines[1..].iter().map(|line| line[..2].to_vec()).collect::<Vec<_>>(), given);
    let right = lines[1..].iter().filter(|line| line[1].to_lowercase() == line[2]).count();
    assert!(right >= 8, "{lines:?}");
    assert_eq!(table(&run, "test-beam3.tsv").len(), 17);
    assert_eq!(outcome.stdout.matches("\ntranslation  ").count(), 3, "{outcome:?}");
    assert!(outcome.stdout.contains(&format!("reference    {}\n", given[0][1])), "{outcome:?}");

    // The mean of the last two checkpoints was tested.
    let folder =
        ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
    assert_eq!(run.names("averaged"), folder);
    assert!(run.read("averaged/model.safetensors") != run.read("last/model.safetensors"));

    // The tool translates as the recipe does, in lower case and with as many beams, and finds the same scores.
    lab.write("loud.txt", given.iter().map(|pair| pair[0].to_uppercase() + "\n").collect::<String>());
    for (file, more) in [("test.tsv", &["--num-beams", "1"][..]), ("test-beam3.tsv", &[])] {
        let predict = ["predict", "--device", cpu(), "--model", "run", "--file", "loud.txt"];
        let text = |line: &str| serde_json::from_str::<Value>(line).unwrap()["generated_text"].clone();
        let predicted: Vec<_> = lab.fornax(&[&predict, more].concat()).ok().stdout.lines().map(text).collect();
        let expected: Vec<_> = table(&run, file)[1..].iter().map(|line| line[2].clone()).collect();
        assert_eq!(predicted, expected, "{file}");

        let evaluate = ["evaluate", "--device", cpu(), "--model", "run", "--metric", "bleu,sacrebleu,chrf"];
        let scored = lab.fornax(&[&evaluate, more].concat()).ok().stdout;
        let line: Value = serde_json::from_str(scored.lines().last().unwrap()).unwrap();
        let suffix = if more.is_empty() { "_beam3" } else { "" };
        assert_eq!((&line["set"], &line["examples"]), (&"test".into(), &16.into()));
        for name in ["bleu", "sacrebleu", "chrf"] {
            assert_eq!(
                line[format!("{name}{suffix}")].as_f64(),
                Some(test[&format!("{name}{suffix}")]),
                "{name} {scored}"
            );
        }
    }

    // A model with one vocabulary keeps it, whatever the config would train for a new one.
    let on = translate(&lab, &["separate.toml", "--set", "model.from=run", "--dry-run"]).stdout;
    assert!(on.contains("source_embedding.weight") && !on.contains("target_embedding.weight"), "{on}");
}

#[test]
fn what_a_run_exports_goes_on_with_the_same_loss_and_both_tokenizers() {
    let lab = translation_lab();
    translate(&lab, &["separate.toml", "--run-dir", "run", "--set", "train.load_best_at_end=true"]);
    let run = lab.run("run");
    for folder in ["best", "last"] {
        let files: BTreeSet<_> = run.names(folder).into_iter().collect();
        let tokenizers = ["source_tokenizer.json", "tokenizer.json"].map(str::to_owned);
        assert!(tokenizers.iter().all(|name| files.contains(name)), "{folder}: {files:?}");
        for name in tokenizers {
            assert_eq!(run.read(&name), run.read(&format!("{folder}/{name}")), "{folder}/{name}");
        }
    }
    assert_ne!(run.read("source_tokenizer.json"), run.read("tokenizer.json"));
    let config = run.json("best/config.json");
    assert_eq!((&config["model_type"], &config["tie_embeddings"]), (&"fornax-transformer".into(), &"decoder".into()));
    let tokens = run.json("tokenizer.json")["model"]["vocab"].as_object().unwrap().len();
    assert_eq!(config["target_vocab_size"], tokens);
    for (key, token) in [("decoder_start_token_id", "[CLS]"), ("eos_token_id", "[SEP]"), ("pad_token_id", "[PAD]")] {
        assert_eq!(config[key], run.json("tokenizer.json")["model"]["vocab"][token], "{key}");
    }

    // A step too small to change a weight: what is evaluated is what was exported. The joint config's sizes and tokenizer give way.
    let still = ["--max-steps", "1", "--set", "optimizer.lr=1e-30", "--set", "schedule.name=constant"];
    let from = ["joint.toml", "--set", "model.from=run", "--run-dir", "on"];
    let outcome = translate(&lab, &[&from[..], &still].concat());
    assert!(
        outcome.stderr.contains("model.from = run: model.tie_embeddings is \"decoder\", not \"all\""),
        "{outcome:?}"
    );
    let on = lab.run("on");
    assert_eq!(on.summary().valid["loss"], run.summary().best.unwrap().value);
    assert_eq!(on.read("source_tokenizer.json"), run.read("source_tokenizer.json"));
    assert_eq!(table(&on, "test.tsv"), table(&run, "test.tsv"));

    // Resumed, it needs its own folder alone.
    fs::rename(lab.path("run"), lab.path("gone")).unwrap();
    translate(&lab, &["--run-dir", "on", "--resume", "--max-steps", "3"]);
    assert_eq!(on.summary().steps, 3);
}

#[test]
fn dry_runs_benches_and_inspections_show_pairs_and_leave_nothing() {
    let lab = translation_lab();
    let before = lab.contents();
    let dry = translate(&lab, &["separate.toml", "--dry-run"]).stdout;
    for shown in ["target_embedding.weight", "steps an epoch    50\n", "tokens of source", "one valid batch "] {
        assert!(dry.contains(shown), "{shown}: {dry}");
    }
    // Room for 400 pairs of the longest that there may be: instead of four, all are one batch.
    let sized = translate(&lab, &["joint.toml", "--dry-run", "--set", "data.tokens_per_batch=4800"]).stdout;
    // Not that it isn't the product of numbers that play no part.
    let both = ["joint.toml", "--dry-run", "--set", "data.tokens_per_batch=4800", "--set", "train.batch_size=7"];
    let refused = lab.train("translate", &both);
    refused.refused("a batch counted twice", 2, &["`train.batch_size`: can't be set beside data.tokens_per_batch"]);
    assert!(sized.contains("steps an epoch    1\n"), "{sized}");
    let report: Value = serde_json::from_str(&translate(&lab, &["joint.toml", "--bench", "2"]).stdout).unwrap();
    assert!(report["tokens_per_second"].as_f64().unwrap() > 0.0, "{report}");
    let shown = lab.fornax(&["data", "inspect", "separate.toml", "--recipe", "translate", "--valid"]).ok().stdout;
    assert!(shown.starts_with("valid, step 0, micro-batch 0: 4 pairs\nrow 0, example "), "{shown}");
    // Byte pairs on the left, whole words on the right: each side by its own tokenizer.
    assert!(shown.contains("<|endoftext|>") && shown.contains("[CLS]") && shown.contains("[SEP]"), "{shown}");
    assert!(lab.contents() == before, "nothing is left");
}

#[test]
fn one_batch_is_learned_by_heart() {
    let lab = translation_lab();
    let settings = ["--max-steps", "80", "--set", "model.dropout=0.0", "--set", "objective.label_smoothing=0.0"];
    translate(&lab, &[&["joint.toml", "--overfit", "1", "--run-dir", "run"], &settings[..]].concat());
    let losses = lab.run("run").train_losses();
    assert!(losses[0] > 3.0 && losses[79] < 0.1, "{losses:?}");
    assert!(lab.run("run").metrics().iter().all(|line| !line.contains_key("nll")), "nothing is smoothed");
}

#[test]
fn mistakes_are_named_with_the_way_out() {
    let lab = translation_lab();
    lab.write("short.two", "ferro\n");
    lab.write("blank.one", "iron\ncoal\n");
    lab.write("blank.two", "ferro\n\n");
    lab.write("key.toml", JOINT.replace("label_smoothing", "label_smooth"));
    let nowhere = ["--set", "data.valid_files=[\"nowhere.one\", \"nowhere.two\"]"];
    let cases: [(&[&str], i32, &[&str]); 13] = [
        (&["key.toml"], 2, &["`objective.label_smooth`", "did you mean `label_smoothing`?"]),
        (
            &["joint.toml", "--set", "objective.label_smoothing=1.0"],
            2,
            &["`objective.label_smoothing`", "below 1, got 1"],
        ),
        (
            &["separate.toml", "--set", "model.tie_embeddings=all"],
            2,
            &["model.tie_embeddings = \"all\"", "leave [source_tokenizer] out"],
        ),
        (
            &["joint.toml", "--set", "train.metric_for_best=bleu"],
            2,
            &["`train.metric_for_best`", "generate.valid_examples"],
        ),
        (&["joint.toml", "--set", "train.metric_for_best=f1"], 2, &["`f1`", "perplexity"]),
        (&["joint.toml", "--set", "test.average_last=3"], 2, &["`test.average_last`", "checkpoint.keep_last keeps 2"]),
        (
            &["joint.toml", "--set", "test.average_last=2", "--set", "train.load_best_at_end=true"],
            2,
            &["`test.average_last`", "train.load_best_at_end"],
        ),
        (&["joint.toml", "--set", "generate.num_beams=0"], 2, &["[generate]", "num_beams = 0", "at least 1"]),
        (&["joint.toml", "--set", "generate.batch_size=0"], 2, &["`generate.batch_size`", "at least 1"]),
        (
            &["joint.toml", "--set", "model.max_positions=8"],
            2,
            &["model.max_positions = 8", "data.max_source_len is 12"],
        ),
        (&["joint.toml", "--set", "tokenizer.kind=char"], 2, &["end_of_text = true"]),
        (
            &["joint.toml", "--set", "data.test_files=[\"test.one\", \"short.two\"]"],
            1,
            &["test.one", "16", "short.two", "1"],
        ),
        (&["joint.toml", "--set", "data.valid_files=[\"blank.one\", \"blank.two\"]"], 1, &["blank.two:2", "is blank"]),
    ];
    for (arguments, code, says) in cases {
        let arguments = [arguments, &["--run-dir", "run"]].concat();
        lab.train("translate", &arguments).refused(&arguments.join(" "), code, says);
        assert!(!lab.path("run").exists(), "{arguments:?} leaves a folder");
    }
    lab.train("translate", &[&["joint.toml"], &nowhere[..]].concat()).refused("nowhere", 1, &["nowhere.one"]);
    let outcome = lab.train("translate", &["--set", "data.name=wikitext-2", "--run-dir", "run"]);
    assert!(outcome.code != Some(0) && outcome.stderr.contains("wikitext-2"), "{outcome:?}");
}
