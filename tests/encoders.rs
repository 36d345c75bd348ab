//! Encoders from a text to predictions: `bert-mlm` pretrains, `glue` fine-tunes what it left, `fornax predict` answers.

use std::fmt::Write;

use fornax_tests::{Lab, cpu};
use serde_json::Value;

use crate::{exactness::assert_same_run, lab};

/// Masked-language modelling of whole words with next sentence prediction, dropout and accumulation.
const PRETRAIN: &str = r#"
[model]
hidden_size = 16
num_layers = 2
num_heads = 2
dropout = 0.1
max_positions = 32

[tokenizer]
kind = "wordpiece"
vocab_size = 120

[data]
files = ["text.txt"]
format = "lines"

[objective]
seq_len = 16
sentence_pairs = "next_sentence"
masking.whole_words = true

[train]
max_steps = 20
micro_batch_size = 4
gradient_accumulation = 2
log_every = 1
eval_every = 5

[optimizer]
lr = 1e-2

[eval]
max_batches = 4

[checkpoint]
save_every = 5

[example]
text = "the [MASK] bends."
top_k = 2
"#;

/// Classification of sentences by a word that they have.
const FINE_TUNE: &str = r#"
[model]
hidden_size = 16
num_layers = 2
num_heads = 2

[tokenizer]
kind = "wordpiece"
vocab_size = 120

[data]
files = ["train.tsv"]
valid_files = ["dev.tsv"]
test_files = ["test.tsv"]
text_column = "sentence"
labels = ["cold", "hot"]
max_len = 24

[train]
max_steps = 20
micro_batch_size = 4
gradient_accumulation = 2
log_every = 1
eval_every = 5
metric_for_best = "auto"

[optimizer]
lr = 1e-2

[checkpoint]
save_every = 5
"#;

fn encoder_lab() -> Lab {
    let lab = lab();
    lab.write("pretrain.toml", PRETRAIN);
    lab.write("fine-tune.toml", FINE_TUNE);
    lab.write("adapt.toml", format!("{FINE_TUNE}\n[model.lora]\nrank = 2\ndropout = 0.1\n"));
    lab.write("train.tsv", sentences(0..160, true));
    lab.write("dev.tsv", sentences(160..200, true));
    lab.write("test.tsv", sentences(200..210, false));
    lab
}

/// A table of sentences, every other one hot; by the words in which they differ they can be told apart.
fn sentences(range: std::ops::Range<usize>, labelled: bool) -> String {
    let mut table = if labelled { "sentence\tlabel\n".to_owned() } else { "sentence\n".to_owned() };
    for i in range {
        let (hot, thing) = (i % 2, ["iron", "coal", "hammer", "anvil", "water"][i / 2 % 5]);
        let ending = ["in the old furnace", "under a bright fire", "again", "and then slowly bends"][i / 10 % 4];
        let (verb, label) = if hot == 1 { ("glows", "\thot") } else { ("cools", "\tcold") };
        let label = if labelled { label } else { "" };
        writeln!(table, "the {thing} {verb} {ending}{label}").unwrap();
    }
    table
}

fn predict(lab: &Lab, arguments: &[&str]) -> Vec<Value> {
    let outcome = lab.fornax(&[&["predict", "--device", cpu()], arguments].concat()).ok();
    outcome.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn killed_and_resumed_trainings_are_those_that_were_not() {
    let lab = encoder_lab();
    for (recipe, config) in [("bert-mlm", "pretrain.toml"), ("glue", "fine-tune.toml"), ("glue", "adapt.toml")] {
        let (straight, run) = (format!("{config}-straight"), format!("{config}-run"));
        lab.train(recipe, &[config, "--run-dir", &straight]).ok();
        let folder = lab.run(&run);
        let reached = || folder.train_steps().len() >= 8;
        // Where it is over before it is killed, what follows finds a finished run, which is the run that was not killed too.
        lab.start_training(recipe, &[config, "--run-dir", &run]).until(reached).kill();
        lab.train(recipe, &["--run-dir", &run, "--resume"]).ok();
        assert_same_run(&folder, &lab.run(&straight), 20);
    }
}

/// Family, activation and token types are in no size: a run has to keep them too.
#[test]
fn a_run_from_another_family_goes_on_without_the_folder_that_it_began_with() {
    let lab = encoder_lab();
    lab.write("distil.toml", PRETRAIN.replace("sentence_pairs = \"next_sentence\"", "").replace("0.1", "0.0"));
    lab.write("pairs.toml", FINE_TUNE.replace("labels =", "text_pair_column = \"sentence\"\nlabels ="));
    let family = ["--set", "model.family=distilbert", "--set", "model.activation=relu"];
    lab.train("bert-mlm", &[&["distil.toml", "--run-dir", "distil"], &family[..]].concat()).ok();
    for (recipe, config) in [("bert-mlm", "distil.toml"), ("glue", "pairs.toml")] {
        let (straight, run) = (format!("{recipe}-straight"), format!("{recipe}-run"));
        let from = |run: &str| lab.train(recipe, &[config, "--set", "model.from=distil", "--run-dir", run]);
        from(&straight).ok();
        let given = [config, "--set", "model.from=distil", "--run-dir", &run];
        let folder = lab.run(&run);
        lab.start_training(recipe, &given).until(|| !folder.checkpoints().is_empty()).kill();
        std::fs::rename(lab.path("distil"), lab.path("gone")).unwrap();
        lab.train(recipe, &["--run-dir", &run, "--resume"]).ok();
        std::fs::rename(lab.path("gone"), lab.path("distil")).unwrap();
        assert_same_run(&folder, &lab.run(&straight), 20);
        let config: Value = serde_json::from_slice(&folder.read("best/config.json")).unwrap();
        assert_eq!((&config["model_type"], &config["activation"]), (&"distilbert".into(), &"relu".into()));
    }
    lab.write("pair.txt", "the coal glows\tthe coal cools\n");
    let answers = predict(&lab, &["--model", "glue-run", "--pairs", "--file", "pair.txt"]);
    assert_eq!(answers.len(), 1, "a model without token types answers pairs too");
}

#[test]
fn pretraining_fine_tuning_and_prediction_follow_one_another() {
    let lab = encoder_lab();
    let pretrained = lab.train("bert-mlm", &["pretrain.toml", "--run-dir", "pretrained"]).ok();
    let valid = lab.run("pretrained").summary().valid;
    let names: Vec<&str> = valid.keys().map(String::as_str).collect();
    assert_eq!(names, ["accuracy", "loss", "masked_lm", "next_sentence", "next_sentence_accuracy", "perplexity"]);
    assert!((valid["loss"] - valid["masked_lm"] - valid["next_sentence"]).abs() < 1e-6, "{valid:?}");
    assert!((valid["perplexity"] - valid["masked_lm"].exp()).abs() < 1e-6 * valid["perplexity"], "{valid:?}");
    assert_eq!(pretrained.stdout.lines().filter(|line| line.contains(" %  ")).count(), 2, "{pretrained:?}");

    let masks = predict(&lab, &["--model", "pretrained", "--top-k", "3", "the [MASK] glows.", "[MASK] [MASK]"]);
    assert_eq!(masks.iter().map(|it| it["masks"].as_array().unwrap().len()).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(masks[0]["masks"][0].as_array().unwrap().len(), 3);

    let from = ["fine-tune.toml", "--set", "model.from=pretrained", "--run-dir", "tuned", "--max-steps", "60"];
    let tuned = lab.train("glue", &[&from[..], &["--set", "model.hidden_size=32"]].concat()).ok();
    assert!(tuned.stderr.contains("model.from = pretrained: model.hidden_size is 16, not 32"), "{tuned:?}");
    let summary = lab.run("tuned").summary();
    // The words that matter are in every sentence; a model that learned anything tells them all.
    assert!(summary.valid["accuracy"] > 0.95 && summary.valid["matthews"] > 0.9, "{summary:?}");
    assert_eq!(summary.best.as_ref().unwrap().metric, "accuracy");
    assert!(tuned.stdout.contains("cold") && tuned.stdout.contains("hot"), "a confusion matrix: {tuned:?}");

    let predictions = String::from_utf8(lab.run("tuned").read("predictions/test.tsv")).unwrap();
    let expected: String = (0..10).map(|i| format!("{i}\t{}\n", ["cold", "hot"][i % 2])).collect();
    assert_eq!(predictions, format!("index\tprediction\n{expected}"));
    let answers = predict(&lab, &["--model", "tuned", "the iron glows again", "the iron cools again"]);
    assert_eq!((&answers[0]["label"], &answers[1]["label"]), (&"hot".into(), &"cold".into()));
    assert!(answers.iter().all(|answer| answer["score"].as_f64().unwrap() > 0.5), "{answers:?}");
    lab.write("lines.txt", "the coal glows\nthe coal cools\n");
    let answers = predict(&lab, &["--model", "tuned/best", "--file", "lines.txt", "--top-k", "2"]);
    assert_eq!(answers[1]["scores"][0]["label"], "cold");
    assert_eq!(answers[1]["scores"].as_array().unwrap().len(), 2);
    let own =
        [("data.files", "train"), ("data.valid_files", "dev")].map(|(key, name)| format!("{key}=[\"{name}.tsv\"]"));
    let labels = ["data.text_column=sentence", "data.labels=[\"cold\", \"hot\"]"];
    let arguments = ["evaluate", "--model", "tuned", "--device", cpu(), "--set", &own[0], "--set", &own[1]];
    let arguments = [&arguments[..], &["--set", labels[0], "--set", labels[1]]].concat();
    let scored: Value = serde_json::from_str(&lab.fornax(&arguments).ok().stdout).unwrap();
    assert_eq!((&scored["set"], &scored["examples"]), (&"valid".into(), &40.into()));
    assert_eq!(scored["accuracy"].as_f64(), summary.best.as_ref().map(|best| best.value), "the best model is scored");
    assert!(scored["f1"].as_f64().unwrap() > 0.9 && scored["matthews"].as_f64().unwrap() > 0.9, "{scored}");
    let vectors = predict(&lab, &["--model", "tuned", "--task", "feature-extraction", "the coal"]);
    assert_eq!(vectors[0]["embedding"].as_array().unwrap().len(), 16);
}

#[test]
fn a_classifier_with_mean_pooling_is_one_and_a_labelled_test_set_is_scored() {
    let lab = encoder_lab();
    let settings = ["--set", "model.pooling=mean", "--set", "data.test_files=[\"dev.tsv\"]"];
    lab.train("glue", &[&["fine-tune.toml", "--run-dir", "run"], &settings[..]].concat()).ok();
    let summary = lab.run("run").summary();
    assert_eq!((summary.test.len(), &summary.test), (4, &summary.valid), "both sets are the same file");
    let config: Value = serde_json::from_slice(&lab.run("run").read("best/config.json")).unwrap();
    assert_eq!(config["fornax_pooling"], "mean");
    let answers = predict(&lab, &["--model", "run", "the iron glows again"]);
    assert!(["hot", "cold"].contains(&answers[0]["label"].as_str().unwrap()), "{answers:?}");
}

#[test]
fn gathered_positions_and_frozen_layers_change_nothing_else() {
    let lab = encoder_lab();
    let losses = |name: &str, more: &[&str]| {
        lab.train("bert-mlm", &[&["pretrain.toml", "--run-dir", name, "--max-steps", "5"], more].concat()).ok();
        lab.run(name).train_losses()
    };
    let (gathered, all) = (losses("gathered", &[]), losses("all", &["--set", "objective.gather=false"]));
    for (gathered, all) in gathered.iter().zip(&all) {
        // The same sum in another order.
        assert!((gathered - all).abs() < 1e-5 * all, "{gathered} is not {all}");
    }

    let settings = ["fine-tune.toml", "--max-steps", "6", "--set", "model.from=gathered"];
    lab.train("glue", &[&settings[..], &["--run-dir", "frozen", "--set", "model.frozen_layers=2"]].concat()).ok();
    let before = lab.run("gathered").tensors(5);
    let after = lab.run("frozen").tensors(6);
    let find = |tensors: &[(String, Vec<u8>)], name: &str| {
        tensors.iter().find(|(found, _)| found.ends_with(name)).map(|(_, bits)| bits.clone()).unwrap()
    };
    for name in ["bert.token_embedding.weight", "bert.blocks.1.feed_forward.down.weight"] {
        assert!(find(&before, name) == find(&after, name), "{name} is frozen");
    }
    lab.train("glue", &[&settings[..], &["--run-dir", "free"]].concat()).ok();
    let free = lab.run("free").tensors(6);
    assert!(
        find(&before, "bert.blocks.1.feed_forward.down.weight")
            != find(&free, "bert.blocks.1.feed_forward.down.weight")
    );
}

/// The encoder of a LoRA training stays as it is, bit for bit; what is exported has the adapters in its weights and beside them.
#[test]
fn adapters_leave_the_encoder_alone_and_are_merged_into_what_is_exported() {
    let lab = encoder_lab();
    lab.train("bert-mlm", &["pretrain.toml", "--run-dir", "pretrained", "--max-steps", "5"]).ok();
    let settings =
        ["fine-tune.toml", "--set", "model.from=pretrained", "--set", "model.lora.rank=2", "--run-dir", "lora"];
    lab.train("glue", &settings).ok();
    let (before, after) = (lab.run("pretrained").tensors(5), lab.run("lora").tensors(20));
    let encoder: Vec<_> =
        before.iter().filter(|(name, _)| name.contains("bert.") && name.starts_with("model")).collect();
    assert!(encoder.len() > 30, "{:?}", before.iter().map(|(name, _)| name).collect::<Vec<_>>());
    for (name, bits) in encoder {
        let (_, found) = after.iter().find(|(found, _)| found == name).unwrap();
        assert!(found == bits, "{name} is not as it was");
    }
    let adapters = after.iter().filter(|(name, _)| name.starts_with("model") && name.contains(".lora.")).count();
    assert_eq!(adapters, 2 * 2 * 2, "two factors for two layers of two blocks");
    let run = lab.run("lora");
    assert_eq!(run.names("best/adapter"), ["adapter_config.json", "adapter_model.safetensors"]);
    // What predicts is the exported folder; what was measured is the model with its adapters.
    lab.write("dev.txt", sentences(160..200, false).lines().skip(1).collect::<Vec<_>>().join("\n"));
    let answers = predict(&lab, &["--model", "lora/last", "--file", "dev.txt"]);
    let right = answers.iter().enumerate().filter(|(i, it)| it["label"] == ["cold", "hot"][i % 2]).count();
    assert!((right as f64 / 40.0 - run.summary().valid["accuracy"]).abs() < 1e-9, "{right} of 40");
}

/// Gradients and moments are those of what is trained; the table of a model that is trained as a whole has no mark.
#[test]
fn a_dry_run_tells_what_is_not_trained() {
    let lab = encoder_lab();
    let shown = |more: &[&str]| {
        let outcome = lab.train("glue", &[&["fine-tune.toml", "--dry-run"], more].concat()).ok();
        let (table, _) = outcome.stdout.split_once("\nfirst batch\n").unwrap();
        table.to_owned()
    };
    let all = shown(&[]);
    assert!(!all.contains("trained"), "{all}");
    for more in [["--set", "model.frozen_layers=1"], ["--set", "model.lora.rank=2"]] {
        let table = shown(&more);
        let count = |line: &str| -> usize {
            line.split(']').nth(1).unwrap().split_whitespace().next().unwrap().parse().unwrap()
        };
        let parameters = || table.lines().filter(|line| line.contains(']'));
        let total: usize = parameters().map(count).sum();
        let trained: usize = parameters().filter(|line| !line.ends_with("  not trained")).map(count).sum();
        assert!(0 < trained && trained < total, "{table}");
        assert!(table.contains(&format!("\ntrained           {trained} of {total} parameters\n")), "{table}");
    }
}

#[test]
fn several_seeds_give_a_mean_and_a_spread() {
    let lab = encoder_lab();
    let arguments = ["fine-tune.toml", "--seeds", "1,2", "--run-dir", "seeds", "--max-steps", "4"];
    let outcome = lab.train("glue", &arguments).ok();
    assert!(outcome.stdout.contains("seeds 1, 2\n"), "{outcome:?}");
    let report: Value = serde_json::from_slice(&lab.run("seeds").read("seeds.json")).unwrap();
    let values: Vec<f64> = serde_json::from_value(report["valid"]["loss"]["values"].clone()).unwrap();
    let each = ["seeds/seed-1", "seeds/seed-2"].map(|name| lab.run(name).summary().valid["loss"]);
    assert_eq!(values, each);
    assert!((report["valid"]["loss"]["mean"].as_f64().unwrap() - (each[0] + each[1]) / 2.0).abs() < 1e-9);
    assert_ne!(each[0], each[1]);

    // What was begun is gone on with, without naming the config again.
    for name in ["seeds/seed-1/summary.json", "seeds/seeds.json"] {
        std::fs::remove_file(lab.path(name)).unwrap();
    }
    lab.train("glue", &["--seeds", "1,2", "--run-dir", "seeds", "--resume"]).ok();
    assert_eq!(serde_json::from_slice::<Value>(&lab.run("seeds").read("seeds.json")).unwrap(), report);
}

/// The recipe's own config names its data; `--set` puts other data in its place.
#[test]
fn ones_own_text_takes_the_place_of_the_data_of_the_built_in_config() {
    let lab = encoder_lab();
    let sizes =
        ["model.hidden_size=16", "model.intermediate_size=16", "tokenizer.vocab_size=120", "objective.seq_len=16"];
    let own = ["data.files=[\"text.txt\"]", "data.format=lines", "example.text=the [MASK]"];
    let settings: Vec<&str> = sizes.iter().chain(&own).flat_map(|key| ["--set", key]).collect();
    let outcome = lab.train("bert-mlm", &[&["--run-dir", "own", "--max-steps", "1"], &settings[..]].concat()).ok();
    assert!(outcome.stderr.contains("data.files is given, so data.part = \"prose\""), "{outcome:?}");
    let settings = ["data.files=[\"train.tsv\"]", "data.valid_files=[\"dev.tsv\"]", "data.text_column=sentence"];
    let sizes = ["data.labels=[\"cold\", \"hot\"]", "model.hidden_size=16", "tokenizer.vocab_size=120"];
    let settings: Vec<&str> = settings.iter().chain(&sizes).flat_map(|key| ["--set", key]).collect();
    lab.train("glue", &[&["--run-dir", "tables", "--max-steps", "1"], &settings[..]].concat()).ok();
    assert_eq!(lab.run("tables").summary().best.unwrap().metric, "accuracy", "settings of the built-in config");
}

/// What comes before a line without an answer is printed, and the line is named.
#[test]
fn answers_before_a_bad_line_are_not_lost() {
    let lab = encoder_lab();
    lab.train("bert-mlm", &["pretrain.toml", "--run-dir", "mlm", "--max-steps", "1"]).ok();
    lab.train("glue", &["fine-tune.toml", "--run-dir", "tuned", "--max-steps", "1"]).ok();
    let predict = |model: &str, more: &[&str]| {
        lab.fornax(&[&["predict", "--device", cpu(), "--model", model, "--file", "lines.txt"], more].concat())
    };
    lab.write("lines.txt", format!("{}the iron\nthe [MASK] again\n", "the [MASK]\n".repeat(5)));
    let outcome = predict("mlm", &[]);
    assert_eq!(outcome.stdout.lines().count(), 5, "{outcome:?}");
    assert!(outcome.stderr.ends_with("error: lines.txt:6: \"the iron\" has no [MASK]\n"), "{outcome:?}");
    assert_eq!(outcome.code, Some(2));
    lab.write("lines.txt", "one\ttwo\none\ttwo\tthree\n");
    let outcome = predict("tuned", &["--pairs"]);
    assert!(outcome.stdout.starts_with("{\"text\":\"one\",\"text_pair\":\"two\",\"label\":"), "{outcome:?}");
    assert!(outcome.stderr.contains("\nerror: lines.txt:2: --pairs: ") && outcome.code == Some(2), "{outcome:?}");
    lab.write("lines.txt", "glows ".repeat(60));
    let outcome = predict("tuned", &[]).ok();
    assert!(outcome.stderr.contains("1 of 1 texts were cut to the 24 tokens"), "{outcome:?}");
}

#[test]
fn an_example_of_one_family_is_filled_in_by_another() {
    let lab = encoder_lab();
    lab.write("roberta.toml", PRETRAIN.replace("sentence_pairs = \"next_sentence\"", ""));
    let letters = ('!'..='~').chain(['Ġ', 'Ċ']).map(String::from);
    let tokens =
        ["<s>", "<pad>", "</s>", "<unk>"].map(str::to_owned).into_iter().chain(letters).chain(["<mask>".into()]);
    let vocab: serde_json::Map<_, _> = tokens.zip(0..).map(|(token, id)| (token, Value::from(id))).collect();
    lab.write("letters/vocab.json", Value::Object(vocab).to_string());
    lab.write("letters/merges.txt", "#version: 0.2\n");
    let train = |name: &str, settings: &[&str]| {
        let arguments = [&["roberta.toml", "--run-dir", name, "--max-steps", "1"], settings].concat();
        let outcome = lab.train("bert-mlm", &arguments).ok();
        assert!(outcome.stdout.contains("\nthe <mask> bends.\n"), "{outcome:?}");
        assert_eq!(outcome.stdout.lines().filter(|line| line.contains(" %  ")).count(), 2, "{outcome:?}");
    };
    train("roberta", &["--set", "tokenizer.from=letters", "--set", "model.family=roberta"]);
    train("from", &["--set", "model.from=roberta"]);
    train("own", &["--set", "model.from=roberta", "--set", "example.text=the <mask> bends."]);
}

#[test]
fn mistakes_have_one_clear_error() {
    let lab = encoder_lab();
    lab.write("columns.tsv", "sentence\tlabel\nthe iron\thot\nthe iron\n");
    lab.write("labels.tsv", "sentence\tlabel\nthe iron\twarm\n");
    lab.write("header.tsv", "text\tlabel\nthe iron\thot\n");
    lab.write("latin.tsv", b"sentence\tlabel\nthe ir\xf6n\thot\n");
    lab.write("nothing.tsv", "sentence\tlabel\n");
    lab.write("no-model/config.json", "{\"model_type\": \"gpt2\"}");
    lab.write("pickle/config.json", "{\"model_type\": \"bert\"}");
    lab.write("pickle/pytorch_model.bin", "");
    lab.write("pickle/vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe");
    let glue = |more: &[&str]| lab.train("glue", &[&["fine-tune.toml", "--run-dir", "run"], more].concat());
    for (more, code, says) in [
        (["--set", "data.files=[\"columns.tsv\"]"], 1, ["columns.tsv:3", "1 column"]),
        (["--set", "data.files=[\"labels.tsv\"]"], 1, ["labels.tsv:2", "warm"]),
        (["--set", "data.files=[\"header.tsv\"]"], 1, ["header.tsv:1", "`sentence`"]),
        (["--set", "data.files=[\"latin.tsv\"]"], 1, ["latin.tsv", "not UTF-8 at byte 21"]),
        (["--set", "data.files=[\"nothing.tsv\"]"], 1, ["nothing.tsv", ""]),
        (["--set", "data.folder=nowhere"], 2, ["`data.folder`", "`data.files`"]),
        (["--set", "data.max_len=2"], 2, ["data.max_len", "2"]),
        (["--set", "train.metric_for_best=pearson"], 2, ["`pearson`", "accuracy, f1, matthews, loss"]),
        (["--set", "model.frozen_layers=3"], 2, ["model.frozen_layers = 3", "the model has 2 layers"]),
        (["--set", "model.from=nowhere"], 1, ["model.from", "nowhere"]),
        (["--set", "model.from=no-model"], 1, ["no-model", "model_type is `gpt2`"]),
        (["--set", "model.from=pickle"], 1, ["pytorch_model.bin", "pickled weights are not read"]),
        (["--seeds", "1,1"], 2, ["--seeds", "twice"]),
    ] {
        glue(&more).refused(&more.join(" "), code, &says);
    }
    let far = format!("example.text=the [MASK] {}[MASK]", "glows ".repeat(32));
    let mlm = |more: &[&str]| lab.train("bert-mlm", &[&["pretrain.toml", "--run-dir", "run"], more].concat());
    for (more, code, says) in [
        (["--set", "objective.masking.rate=1.5"], 2, ["objective.masking.rate", "1.5"]),
        (["--set", "tokenizer.kind=byte"], 2, ["[CLS]", ""]),
        (["--set", "example.text=no mask"], 2, ["example.text", "[MASK]"]),
        (["--set", &far], 2, ["example.text", "a [MASK] lies behind the 32 tokens that the model reads"]),
        (["--set", "model.family=roberta"], 2, ["model.family = roberta", "the tokenizer's is 0"]),
        (["--set", "model.type_vocab_size=1"], 2, ["model.type_vocab_size = 1", "objective.sentence_pairs"]),
        (["--set", "objective.seq_len=64"], 2, ["model.max_positions = 32", "objective.seq_len is 64"]),
        (["--set", "train.metric_for_best=f1"], 2, ["`f1`", "next_sentence_accuracy"]),
    ] {
        mlm(&more).refused(&more.join(" "), code, &says);
    }
    assert!(!lab.path("run").exists(), "nothing is left");
    let predict = |more: &[&str]| lab.fornax(&[&["predict", "--device", cpu()], more].concat());
    lab.train("bert-mlm", &["pretrain.toml", "--run-dir", "mlm", "--max-steps", "1"]).ok();
    predict(&["--model", "mlm", "no mask here"]).refused("no mask", 2, &["no mask here", "has no [MASK]"]);
    let untrained = ["--model", "mlm", "--task", "text-classification", "x"];
    predict(&untrained).refused("no head", 1, &["no trained head for text-classification", "classifier.weight"]);
    predict(&["--model", "mlm", "--file", "nowhere.txt"]).refused("no file", 2, &["nowhere.txt"]);
    for (more, says) in [
        (&["--pairs"][..], "--pairs does nothing in fill-mask"),
        (&["--pooling", "cls"], "--pooling does nothing in fill-mask"),
        (&["--task", "text-classification", "--pooling", "mean"], "--pooling does nothing in text-classification"),
        (&["--task", "feature-extraction", "--top-k", "2"], "--top-k does nothing in feature-extraction"),
        (&["--batch-size", "0"], "--batch-size"),
        (&["--top-k", "0"], "--top-k"),
    ] {
        predict(&[&["--model", "mlm", "the [MASK]"], more].concat()).refused(&more.join(" "), 2, &[says]);
    }
}

/// Evaluation batches are sorted by length; a part of them is still the beginning of the file.
#[test]
fn a_limited_evaluation_scores_the_beginning_of_the_valid_file() {
    let lab = encoder_lab();
    let table = sentences(160..200, true);
    let beginning: Vec<&str> = table.lines().take(1 + 2 * 4).collect();
    lab.write("beginning.tsv", beginning.join("\n"));
    let valid = |name: &str, settings: &[&str]| {
        let all = [&["fine-tune.toml", "--run-dir", name, "--max-steps", "2"], settings].concat();
        lab.train("glue", &all).ok();
        lab.run(name).summary().valid
    };
    let limited = valid("limited", &["--set", "eval.max_batches=2"]);
    assert_eq!(limited, valid("cut", &["--set", "data.valid_files=[\"beginning.tsv\"]"]));
    assert_ne!(limited, valid("all", &[]));
}

#[test]
fn evaluate_reads_only_what_it_scores_as_long_as_in_training() {
    let lab = encoder_lab();
    let short = FINE_TUNE.replace("max_len = 24", "max_len = 5");
    lab.write("short.toml", short.replace("[model]", "[model]\nmax_positions = 24"));
    lab.train("glue", &["short.toml", "--run-dir", "tuned"]).ok();
    let wordy: String = (0..100).map(|i| format!("ore {i} {} slag\thot\n", i * 7919)).collect();
    lab.write("wordy.tsv", format!("{}{wordy}", sentences(0..160, true)));
    let other = ["--set", "data.files=[\"wordy.tsv\"]", "--set", "tokenizer.vocab_size=400"];
    lab.train("glue", &[&["fine-tune.toml", "--run-dir", "other", "--max-steps", "1"], &other[..]].concat()).ok();
    let summary = lab.run("tuned").summary();
    std::fs::remove_file(lab.path("train.tsv")).unwrap();
    let keys = ["data.valid_files=[\"dev.tsv\"]", "data.text_column=sentence", "data.labels=[\"cold\", \"hot\"]"];
    let evaluate = |model: &str, more: &[&str]| {
        let keys = keys.iter().flat_map(|key| ["--set", key]).collect::<Vec<_>>();
        lab.fornax(&[&["evaluate", "--model", model, "--device", cpu()], &keys[..], more].concat())
    };
    let loss = |model: &str, more: &[&str]| {
        let line: Value = serde_json::from_str(&evaluate(model, more).ok().stdout).unwrap();
        line["loss"].as_f64().unwrap()
    };
    let of_run = summary.valid["loss"];
    assert!((loss("tuned/last", &[]) - of_run).abs() < 1e-5, "{} is not {of_run}", loss("tuned/last", &[]));
    assert!((loss("tuned/last", &["--set", "data.max_len=24"]) - of_run).abs() > 1e-5, "a given length is taken");

    for (more, says) in [
        (["--set", "data.max_len=25"], "the model reads at most 24"),
        (["--set", "optimizer.lr=1"], "only keys of [data] matter"),
        (["--batch-size", "0"], "--batch-size"),
    ] {
        evaluate("tuned", &more).refused(&more.join(" "), 2, &[says]);
    }

    // A tokenizer of another model, with more tokens than this one has rows for.
    std::fs::copy(lab.path("other/best/tokenizer.json"), lab.path("tuned/best/tokenizer.json")).unwrap();
    let says = ["tuned/best: model and tokenizer do not belong together", "the tokenizer has"];
    evaluate("tuned", &[]).refused("another tokenizer", 2, &says);
}
