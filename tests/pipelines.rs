//! Encoder-decoders, from their folders to what `fornax predict` and `fornax evaluate` print.

use std::{fs, path::Path};

use fornax_backend::test_device;
use fornax_models::{
    TieEmbeddings, TransformerConfig,
    hf::{TransformerText, save_transformer},
};
use fornax_tests::{Lab, Outcome, cpu};
use serde_json::{Value, json};

use crate::lab;

/// A lab with `t5/`, the T5 of the fixtures with a tokenizer of the words `t2` to `t42`; `run/last/`, a Transformer that was trained in
/// lower case; `lines.txt`; and pairs of a valid and a test set, `valid.src`, `valid.trg` and so on.
fn text_lab() -> Lab {
    let lab = lab();
    let fixture = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/t5/v1_1"));
    lab.write("t5/model.safetensors", fs::read(fixture.join("model.safetensors")).unwrap());
    let mut config: Value = serde_json::from_slice(&fs::read(fixture.join("config.json")).unwrap()).unwrap();
    config["task_specific_params"] = json!({
        "summarization": {"prefix": "t9 ", "num_beams": 4, "max_length": 6, "early_stopping": true},
        "translation_en_to_de": {"prefix": "t5 ", "max_length": 8},
        "translation_en_to_fr": {"prefix": "t6 ", "max_length": 8},
    });
    lab.write("t5/config.json", config.to_string());
    lab.write("t5/tokenizer.json", words(43));
    let config = TransformerConfig {
        source_vocab_size: 23,
        target_vocab_size: 23,
        max_positions: 10,
        hidden_size: 16,
        num_layers: 1,
        num_heads: 2,
        intermediate_size: 24,
        tie_embeddings: TieEmbeddings::None,
        ..TransformerConfig::default()
    };
    let last = lab.path("run/last");
    let text = TransformerText { start_token: Some(2), end_token: Some(1), lowercase: true };
    save_transformer(&config.init(7, &test_device()).unwrap(), &last, &text).unwrap();
    lab.write("run/last/tokenizer.json", words(23));
    lab.write("lines.txt", "t7 t3\nt12\nt9 t14 t14 t6 t20 t5\nt3 t7\n");
    lab.write("valid.src", "t7 T3\nt12\nt9 t14 t14\n");
    lab.write("valid.trg", "t4\nt8 T9\nt6\n");
    lab.write("test.src", "t3 t4\n");
    lab.write("test.trg", "t5 t5\n");
    lab
}

/// A `tokenizer.json` with a token a word.
fn words(tokens: u32) -> Vec<u8> {
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
               "special": true})
    };
    let name = |id| ["<pad>", "</s>"].get(id as usize).map_or_else(|| format!("t{id}"), |name| (*name).to_owned());
    let vocab: serde_json::Map<_, _> = (0..tokens).map(|id| (name(id), id.into())).collect();
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": [special(0, "<pad>"), special(1, "</s>")],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "t2"},
    });
    tokenizer.to_string().into_bytes()
}

const PAIRS: [&str; 4] = [
    "--set",
    "data.valid={source=[\"valid.src\"],target=[\"valid.trg\"]}",
    "--set",
    "data.test={source=[\"test.src\"],target=[\"test.trg\"]}",
];

fn run(lab: &Lab, command: &str, arguments: &[&str]) -> Outcome {
    lab.fornax(&[&[command, "--device", cpu()], arguments].concat())
}

fn lines(outcome: Outcome) -> Vec<Value> {
    outcome.ok().stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn predict(lab: &Lab, arguments: &[&str]) -> Vec<Value> {
    lines(run(lab, "predict", arguments))
}

#[test]
fn an_encoder_decoder_writes_a_line_for_each_text() {
    let lab = text_lab();
    let printed = run(&lab, "predict", &["--model", "t5", "--file", "lines.txt", "--batch-size", "2"]);
    assert!(printed.stdout.starts_with("{\"text\":\"t7 t3\",\"generated_text\":\""), "{printed:?}");
    let from_file = lines(printed);
    let texts: Vec<_> = from_file.iter().map(|line| line["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["t7 t3", "t12", "t9 t14 t14 t6 t20 t5", "t3 t7"]);
    let given = predict(&lab, &[&["--model", "t5"], &texts[..]].concat());
    for (line, given) in from_file.iter().zip(&given) {
        assert_eq!(line.as_object().unwrap().keys().collect::<Vec<_>>(), ["generated_text", "score", "text"]);
        assert_eq!(line["generated_text"], given["generated_text"]);
        assert!(line["score"].as_f64().unwrap() < 0.0);
    }
    let several =
        predict(&lab, &["--model", "t5", "--num-beams", "3", "--num-return", "2", "--max-new-tokens", "4", "t7 t3"]);
    let several = several[0]["generated_texts"].as_array().unwrap();
    assert_eq!(several.len(), 2);
    assert!(several[0]["score"].as_f64() >= several[1]["score"].as_f64());
    assert!(several.iter().all(|one| one["generated_text"].as_str().unwrap().split(' ').count() <= 4));
    // What a run trained in lower case left, of which `last` is taken.
    assert_eq!(
        predict(&lab, &["--model", "run", "T7 T3"])[0]["generated_text"],
        predict(&lab, &["--model", "run/last", "t7 t3"])[0]["generated_text"]
    );
}

#[test]
fn tasks_have_the_settings_of_the_folder_and_flags_come_first() {
    let lab = text_lab();
    let text = |arguments: &[&str]| {
        let found = predict(&lab, &[&["--model", "t5"], arguments].concat());
        found[0]["generated_text"].as_str().unwrap().to_owned()
    };
    let by_hand = ["--prefix", "t9 ", "--num-beams", "4", "--max-new-tokens", "5", "t7 t3"];
    // `early_stopping` has no flag; with so few tokens all beams end at the limit.
    assert_eq!(text(&["--task", "summarization", "t7 t3"]), text(&by_hand));
    let german = text(&["--task", "translation_en_to_de", "t7 t3"]);
    assert_eq!(german, text(&["--prefix", "t5 ", "--max-new-tokens", "7", "t7 t3"]));
    assert_eq!(german, text(&["--task", "translation", "--prefix", "t5 ", "--max-new-tokens", "7", "t7 t3"]));
    let fewer = text(&["--task", "translation_en_to_de", "--max-new-tokens", "2", "t7 t3"]);
    assert!(german.starts_with(&fewer) && fewer.split(' ').count() <= 2, "{german:?}, {fewer:?}");
    assert_eq!(text(&["--task", "text2text-generation", "t7 t3"]), text(&["t7 t3"]));
}

#[test]
fn draws_follow_the_seed_and_not_the_batches() {
    let lab = text_lab();
    lab.write("same.txt", "t7 t3\n".repeat(20));
    let draws = |more: &[&str]| {
        let base =
            ["--model", "t5", "--file", "same.txt", "--temperature", "1", "--top-k", "20", "--max-new-tokens", "8"];
        let found = predict(&lab, &[&base, more].concat());
        found.iter().map(|line| line["generated_text"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let texts = draws(&[]);
    // With batches of one, texts are answered eight at a time.
    assert_eq!(texts, draws(&["--batch-size", "1"]));
    assert_ne!(texts, draws(&["--seed", "1"]));
    let distinct: std::collections::BTreeSet<_> = texts.iter().collect();
    assert!(distinct.len() > 10, "{texts:?}");
    // Beams of the task give way to draws.
    assert_eq!(draws(&["--task", "summarization", "--num-return", "1"]).len(), 20);
}

#[test]
fn pairs_are_scored_and_shown() {
    let lab = text_lab();
    let evaluate = |more: &[&str]| run(&lab, "evaluate", &[&["--model", "run"], &PAIRS[..], more].concat());
    let found =
        lines(evaluate(&["--metric", "exact_match,bleu,rouge", "--predictions", "out.tsv", "--max-new-tokens", "5"]));
    let of = |line: &Value| (line["set"].as_str().unwrap().to_owned(), line["examples"].as_u64().unwrap());
    assert_eq!(found.iter().map(of).collect::<Vec<_>>(), [("valid".into(), 3), ("test".into(), 1)]);
    let keys: Vec<_> = found[0].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["bleu", "exact_match", "examples", "rouge1", "rouge2", "rougeL", "set"]);
    let table = fs::read_to_string(lab.path("out.tsv")).unwrap();
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(rows[0], ["set", "source", "reference", "prediction"]);
    assert_eq!(rows.len(), 5);
    // The model reads lower case; the references are as they are.
    assert_eq!(rows[1][..3], ["valid", "t7 T3", "t4"]);
    assert_eq!(rows[2][..3], ["valid", "t12", "t8 T9"]);
    assert_eq!(rows[4][..3], ["test", "t3 t4", "t5 t5"]);
    for row in &rows[1..] {
        let predicted = predict(&lab, &["--model", "run", "--max-new-tokens", "5", row[1]]);
        assert_eq!(predicted[0]["generated_text"], row[3]);
    }
    // What the model writes is a perfect score when it is what was wanted.
    lab.write("wanted.trg", rows[1..4].iter().map(|row| format!("{}\n", row[3])).collect::<String>());
    let wanted = "data.valid={source=[\"valid.src\"],target=[\"wanted.trg\"]}";
    let line = lines(run(
        &lab,
        "evaluate",
        &["--model", "run", "--set", wanted, "--metric", "exact_match", "--max-new-tokens", "5"],
    ));
    assert_eq!(line[0]["exact_match"], 1.0);
    // What a run was scored on is what its model is scored on again.
    lab.write(
        "run/config.toml",
        "[data]\nsource = 'source'\ntarget = 'target'\nvalid = { source = ['valid.src'], target = ['valid.trg'] }\nmax_target_len = 9\n",
    );
    let again = lines(run(
        &lab,
        "evaluate",
        &["--model", "run", "--metric", "exact_match,bleu,rouge", "--max-new-tokens", "5"],
    ));
    assert_eq!(again, found[..1]);
    let default = lines(run(&lab, "evaluate", &["--model", "run"]));
    assert_eq!(default[0].as_object().unwrap().keys().collect::<Vec<_>>(), ["chrf", "examples", "sacrebleu", "set"]);
}

#[test]
fn mistakes_have_one_clear_error() {
    let lab = text_lab();
    lab.write("bart/config.json", "{\"model_type\": \"bart\"}");
    lab.write("bert/config.json", "{\"model_type\": \"bert\"}");
    for (more, code, says) in [
        (&["--model", "bart", "x"][..], 1, "model_type is `bart`; supported here: bert, roberta, distilbert"),
        (&["--model", "bart", "x"], 1, ", t5, fornax-transformer"),
        (&["--model", "nowhere", "x"], 1, "nowhere"),
        (
            &["--model", "bert", "--task", "translation", "x"],
            1,
            "model_type is `bert`; supported here: t5, fornax-transformer",
        ),
        (&["--model", "t5", "--task", "fill-mask", "x"], 1, "model_type is `t5`; supported here: bert"),
        (
            &["--model", "t5", "--task", "fil-mask", "x"],
            2,
            "has no `fil-mask`; it has summarization, translation_en_to_de",
        ),
        (&["--model", "bert", "--task", "fil-mask", "x"], 2, "there is text-classification, fill-mask"),
        (&["--model", "t5", "--task", "translation", "x"], 2, "translation_en_to_de, translation_en_to_fr; name one"),
        (
            &["--model", "t5", "--task", "translation_de_to_en", "x"],
            2,
            "has no `translation_de_to_en`; it has summarization",
        ),
        (&["--model", "t5", "--pairs", "x"], 2, "--pairs does nothing in text2text-generation"),
        (&["--model", "t5", "--pooling", "cls", "x"], 2, "--pooling does nothing in text2text-generation"),
        (&["--model", "t5", "--top-k", "3", "x"], 2, "--top-k does nothing without a --temperature above 0"),
        (&["--model", "t5", "--seed", "3", "x"], 2, "--seed does nothing without a --temperature above 0"),
        (
            &["--model", "t5", "--length-penalty", "2", "x"],
            2,
            "--length-penalty does nothing without --num-beams above 1",
        ),
        (&["--model", "t5", "--num-return", "2", "x"], 2, "num_return = 2: must be at least 1"),
        (&["--model", "t5", "--num-beams", "0", "x"], 2, "num_beams = 0"),
        (&["--model", "t5", "--temperature", "-1", "x"], 2, "temperature = -1: must be"),
        (
            &["--model", "t5", "--temperature", "1", "--num-beams", "2", "x"],
            2,
            "temperature = 1: must be 0 with num_beams",
        ),
        (&["--model", "t5", "--precision", "f16", "x"], 2, "T5 in precision f16: "),
        (&["--model", "run", "--max-source-len", "11", "x"], 2, "max_source_len = 11: must be"),
        (&["--model", "bert", "--num-beams", "2", "x"], 2, "--num-beams does nothing in feature-extraction"),
        (&["--model", "bert", "--prefix", "a", "x"], 2, "--prefix does nothing in feature-extraction"),
        (&["--model", "bert", "--temperature", "1", "x"], 2, "--temperature does nothing in feature-extraction"),
    ] {
        run(&lab, "predict", more).refused(&more.join(" "), code, &[says]);
    }
    let cut = run(&lab, "predict", &["--model", "run", &"t3 ".repeat(12)]).ok();
    assert!(cut.stderr.contains("1 of 1 texts were cut to max_source_len = 10 tokens"), "{cut:?}");
    let evaluate = |more: &[&str]| run(&lab, "evaluate", more);
    for (more, says) in [
        (&["--model", "run", "--task", "sst2"][..], "--task sst2: there is a choice among the tasks of a run"),
        (&["--model", "run", PAIRS[0], PAIRS[1], "--set", "data.lowercase=false"], "says in which case it reads"),
        (&["--model", "run", "--metric", "blue"], "there is exact_match, bleu, sacrebleu, chrf, rouge, f1"),
        (&["--model", "run"], "there are no pairs to score: name a data set with --set data.name=NAME"),
        (&["--model", "run", "--set", "data.max_target_len=5"], "data.max_target_len=5: this key is of training"),
        (&["--model", "run", "--set", "train.seed=5"], "only keys of [data] matter"),
        (&["--model", "run", "--set", "data.nane=multi30k"], "data.nane"),
        (&["--model", "run", "--set", "data.max_source_len=11", PAIRS[0], PAIRS[1]], "max_source_len = 11"),
        (&["--model", "run", "--predictions", "nowhere/out.tsv"], "--predictions: there is no folder nowhere"),
        (&["--model", "bert", "--metric", "bleu"], "--metric does nothing with a classifier"),
        (&["--model", "bert", "--num-beams", "2"], "--num-beams does nothing with a classifier"),
    ] {
        evaluate(more).refused(&more.join(" "), 2, &[says]);
    }
    evaluate(&["--model", "bart"]).refused("bart", 1, &["model_type is `bart`", "fornax-transformer"]);
}
