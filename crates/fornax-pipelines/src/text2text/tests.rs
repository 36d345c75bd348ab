use std::{fs, path::PathBuf};

use fornax_backend::test_device;
use fornax_data::{dataset::Places, pairs::PairConfig};
use fornax_metrics::TextMetric;
use fornax_models::{
    T5Config, TransformerConfig,
    generate::EarlyStopping,
    hf::{TransformerText, save_transformer},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::testing::word_tokenizer;

/// `t2`, `t3`, ..., so that the word `t7` is token 7.
fn words(letter: &str, tokens: usize) -> String {
    word_tokenizer(&(2..tokens).map(|id| format!("{letter}{id}")).collect::<Vec<_>>())
}

fn text(letter: &str, ids: &[u64]) -> String {
    let words: Vec<String> = ids.iter().filter(|id| **id > 1).map(|id| format!("{letter}{id}")).collect();
    words.join(" ")
}

fn fixtures() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/t5"))
}

/// The T5 of the fixtures with a tokenizer, and with more keys in its `config.json`.
fn t5_folder(version: &str, keys: Value) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let from = fixtures().join(version);
    fs::copy(from.join("model.safetensors"), folder.path().join("model.safetensors")).unwrap();
    let mut config: Value = serde_json::from_slice(&fs::read(from.join("config.json")).unwrap()).unwrap();
    for (key, value) in keys.as_object().unwrap() {
        config[key] = value.clone();
    }
    write(&folder, "config.json", &config.to_string());
    write(&folder, "tokenizer.json", &words("t", 43));
    folder
}

/// A Transformer with the vocabularies `s2`... and `t2`..., or only the latter.
fn transformer_folder(separate: bool) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let config = TransformerConfig {
        source_vocab_size: if separate { 31 } else { 23 },
        target_vocab_size: 23,
        max_positions: 12,
        hidden_size: 16,
        num_layers: 1,
        num_heads: 2,
        intermediate_size: 24,
        tie_embeddings: if separate { fornax_models::TieEmbeddings::None } else { fornax_models::TieEmbeddings::All },
        ..TransformerConfig::default()
    };
    let model = config.init(7, &test_device()).unwrap();
    let text = TransformerText { start_token: Some(0), end_token: Some(1), lowercase: false };
    save_transformer(&model, folder.path(), &text).unwrap();
    write(&folder, "tokenizer.json", &words("t", 23));
    if separate {
        write(&folder, "source_tokenizer.json", &words("s", 31));
    }
    folder
}

fn write(folder: &TempDir, name: &str, text: &str) {
    fs::write(folder.path().join(name), text).unwrap();
}

/// Changes a key of `config.json`.
fn edit(folder: &TempDir, key: &str, value: Value) {
    let path = folder.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config[key] = value;
    write(folder, "config.json", &config.to_string());
}

fn open(folder: &TempDir) -> Result<Text2Text, String> {
    Text2Text::open(folder.path(), &test_device()).map_err(|error| error.to_string())
}

const TEXTS: [&str; 5] = ["t7 t3", "t12", "t9 t14 t14 t6 t20 t5", "t3 t7", "t8 t2 t11"];

/// What `transformers` writes to token ids, as texts: the whole way from a text to a text, and the settings of a task.
#[test]
fn texts_are_those_of_transformers() {
    let golden: Value = serde_json::from_slice(&fs::read(fixtures().join("golden.json")).unwrap()).unwrap();
    let rows = |rows: &Value| -> Vec<String> {
        let ids = rows.as_array().unwrap().iter().map(|row| row.as_array().unwrap());
        ids.map(|row| text("t", &row.iter().map(|id| id.as_u64().unwrap()).collect::<Vec<_>>())).collect()
    };
    for version in ["v1_0", "v1_1"] {
        let golden = &golden["generation"][version];
        let search = &golden["beams"][0];
        assert_eq!((&search["early_stopping"], &search["length_penalty"]), (&json!(true), &json!(1.0)));
        let settings = json!({"num_beams": 4, "early_stopping": true, "num_return_sequences": 2});
        let keys = json!({"task_specific_params": {"summarization": settings}, "max_length": 21});
        let pipeline = open(&t5_folder(version, keys)).unwrap().with(Precision::F32, 3);
        let sources = rows(&golden["sources"]);
        let sources: Vec<&str> = sources.iter().map(String::as_str).collect();
        let texts = |answers: Vec<Vec<GeneratedText>>| -> Vec<String> {
            answers.into_iter().flatten().map(|answer| answer.text).collect()
        };
        let found = pipeline.run(&sources, &pipeline.options(None).unwrap()).unwrap();
        assert_eq!(texts(found), rows(&golden["greedy"]));
        let found = pipeline.run(&sources, &pipeline.options(Some("summarization")).unwrap()).unwrap();
        let scores: Vec<f64> = found.iter().flatten().map(|answer| answer.score).collect();
        for (found, wanted) in scores.iter().zip(search["scores"].as_array().unwrap()) {
            // Sums of up to 20 numbers of size 3 in f32.
            assert!((found - wanted.as_f64().unwrap()).abs() < 1e-4, "{scores:?}");
        }
        assert_eq!(texts(found), rows(&search["continuations"]));
    }
}

#[test]
fn answers_come_in_the_order_of_the_texts_however_they_are_batched() {
    for folder in [t5_folder("v1_1", json!({})), transformer_folder(false)] {
        let pipeline = |batch_size| open(&folder).unwrap().with(Precision::F32, batch_size);
        let mut options = pipeline(1).options(None).unwrap();
        options.decoding.max_new_tokens = 6;
        for (num_beams, temperature) in [(1, 0.0), (3, 0.0), (1, 1.0)] {
            options.decoding.num_beams = num_beams;
            options.decoding.temperature = temperature;
            options.decoding.num_return = if temperature > 0.0 { 2 } else { num_beams };
            let mut heard = Vec::new();
            let found = pipeline(2).run_part(&TEXTS, 0, &options, |texts| heard.push(texts)).unwrap().texts;
            assert_eq!(heard, [2, 2, 1]);
            for (number, (text, found)) in TEXTS.iter().zip(&found).enumerate() {
                let alone = &pipeline(1).run_part(&[text], number, &options, |_| {}).unwrap().texts[0];
                assert_eq!(found.len(), options.decoding.num_return);
                for (found, alone) in found.iter().zip(alone) {
                    assert_eq!(found.text, alone.text, "{text}");
                    assert!((found.score - alone.score).abs() < 1e-4 && found.score < 0.0, "{text}: {found:?}");
                }
            }
            assert_ne!(found[0], found[2]);
        }
        // The same text at another place has other draws.
        let draws = |first| pipeline(1).run_part(&TEXTS[..1], first, &options, |_| {}).unwrap();
        assert_ne!(draws(0), draws(1));
        assert_eq!(pipeline(1).run(&[], &options).unwrap(), [] as [Vec<GeneratedText>; 0]);
    }
}

#[test]
fn a_prefix_comes_first_and_lower_case_is_the_texts() {
    let folder = t5_folder("v1_0", json!({"prefix": "t5 "}));
    edit(&folder, "fornax_lowercase", json!(true));
    let pipeline = open(&folder).unwrap();
    let mut options = pipeline.options(None).unwrap();
    assert_eq!(options.prefix, "t5 ");
    let found = pipeline.run(&["T7 t3"], &options).unwrap();
    options.prefix = String::new();
    assert_eq!(found, pipeline.run(&["t5 t7 t3"], &options).unwrap());
    assert_ne!(found, pipeline.run(&["t7 t3"], &options).unwrap());
    let as_it_is = open(&folder).unwrap().with_lowercase(false);
    // A word that the tokenizer doesn't have is its first one.
    assert_eq!(as_it_is.run(&["T7 t3"], &options).unwrap(), pipeline.run(&["t2 t3"], &options).unwrap());
}

#[test]
fn sources_and_targets_may_have_their_own_vocabularies() {
    let pipeline = open(&transformer_folder(true)).unwrap();
    let mut options = pipeline.options(None).unwrap();
    assert_eq!((options.max_source_len, options.decoding.start_token), (12, 0));
    // An untrained model that can't go on repeating its start token writes words.
    options.decoding.min_new_tokens = 6;
    options.decoding.no_repeat_ngram_size = Some(1);
    let found = pipeline.run(&["s30 s3", "s2 s2 s2"], &options).unwrap();
    assert_ne!(found[0], found[1]);
    for answer in found.iter().flatten() {
        let words: Vec<&str> = answer.text.split_whitespace().collect();
        assert!(words.iter().all(|word| word.starts_with('t')), "{}", answer.text);
        assert!((6..=12).contains(&words.len()), "as long as the model's positions: {}", answer.text);
    }
}

#[test]
fn what_is_too_long_is_cut() {
    let pipeline = open(&transformer_folder(false)).unwrap();
    let mut options = pipeline.options(None).unwrap();
    options.max_source_len = 4;
    let cut = pipeline.run(&["t3 t4 t5 t6 t7 t8"], &options).unwrap();
    assert_eq!(cut, pipeline.run(&["t3 t4 t5"], &options).unwrap());
    options.max_source_len = 7;
    assert_ne!(cut, pipeline.run(&["t3 t4 t5 t6 t7 t8"], &options).unwrap());
}

#[test]
fn settings_are_those_of_the_files() {
    let task = json!({
        "prefix": "summarize: ", "max_length": 200, "min_length": 30, "num_beams": 4, "length_penalty": 2.0,
        "early_stopping": true, "no_repeat_ngram_size": 3,
    });
    let folder =
        t5_folder("v1_0", json!({"task_specific_params": {"summarization": task, "other": {}}, "num_beams": 2}));
    let pipeline = open(&folder).unwrap();
    assert_eq!(pipeline.tasks().collect::<Vec<_>>(), ["other", "summarization"]);
    let options = pipeline.options(Some("summarization")).unwrap();
    let decoding = Seq2SeqOptions {
        max_new_tokens: 199,
        min_new_tokens: 29,
        length_penalty: 2.0,
        early_stopping: EarlyStopping::FirstFinished,
        no_repeat_ngram_size: Some(3),
        ..Seq2SeqOptions::beams(4, 0, vec![1], 0)
    };
    let wanted = Text2TextOptions { prefix: "summarize: ".into(), max_source_len: 512, decoding };
    assert_eq!(options, wanted);
    assert_eq!(pipeline.options(Some("other")).unwrap(), pipeline.options(None).unwrap());
    assert_eq!(pipeline.options(None).unwrap().decoding.num_beams, 2, "config.json, without the other file");
    assert!(
        pipeline
            .options(Some("translation"))
            .unwrap_err()
            .to_string()
            .ends_with("config.json: `task_specific_params` has no `translation`; it has other, summarization")
    );

    let file = json!({
        "do_sample": true, "temperature": 0.7, "top_p": 0.9, "max_new_tokens": 9, "max_length": 4, "eos_token_id": [1, 5],
        "decoder_start_token_id": 3, "forced_bos_token_id": 6, "forced_eos_token_id": 5, "early_stopping": "never",
        "repetition_penalty": 1.3, "num_beams": null, "no_repeat_ngram_size": 0,
    });
    write(&folder, "generation_config.json", &file.to_string());
    let decoding = open(&folder).unwrap().options(None).unwrap().decoding;
    let wanted = Seq2SeqOptions {
        temperature: 0.7,
        top_k: Some(50),
        top_p: 0.9,
        forced_first_token: Some(6),
        forced_last_token: Some(5),
        early_stopping: EarlyStopping::Never,
        repetition_penalty: 1.3,
        ..Seq2SeqOptions::greedy(3, vec![1, 5], 9)
    };
    assert_eq!(decoding, wanted);
    write(&folder, "generation_config.json", r#"{"num_beams": "four"}"#);
    let error = open(&folder).unwrap_err();
    assert!(error.contains("generation_config.json: ") && error.contains("four"), "{error}");
}

#[test]
fn what_does_not_fit_is_refused() {
    let folder = transformer_folder(false);
    write(&folder, "tokenizer.json", &words("t", 24));
    let says = "model and tokenizer do not belong together: model.source_vocab_size = 23: the tokenizer has 24 tokens";
    assert_eq!(open(&folder).unwrap_err(), says);
    let folder = transformer_folder(true);
    write(&folder, "tokenizer.json", &words("t", 24));
    assert!(open(&folder).unwrap_err().contains("model.target_vocab_size = 23: the tokenizer has 24 tokens"));
    let folder = transformer_folder(false);
    edit(&folder, "decoder_start_token_id", Value::Null);
    assert!(open(&folder).unwrap_err().contains("config.json: `decoder_start_token_id` is not set: targets need"));
    let folder = transformer_folder(false);
    write(&folder, "config.json", r#"{"model_type": "bart"}"#);
    assert!(open(&folder).unwrap_err().ends_with("model_type is `bart`; supported here: t5, fornax-transformer"));
    let kind = crate::ModelKind::open(folder.path()).unwrap_err().to_string();
    assert!(kind.contains("model_type is `bart`; supported here: bert, roberta, "), "{kind}");
    assert!(kind.ends_with(", t5, fornax-transformer"), "{kind}");

    let pipeline = open(&transformer_folder(false)).unwrap();
    let error = |change: fn(&mut Text2TextOptions)| {
        let mut options = pipeline.options(None).unwrap();
        change(&mut options);
        pipeline.run(&["t3"], &options).unwrap_err().to_string()
    };
    assert_eq!(
        error(|options| options.max_source_len = 13),
        "max_source_len = 13: must be at least 2, a token and the end, and at most 12, which the model reads"
    );
    assert!(error(|options| options.max_source_len = 1).starts_with("max_source_len = 1: must be at least 2"));
    assert!(error(|options| options.decoding.num_return = 2).starts_with("num_return = 2: must be at least 1"));
    let t5 = open(&t5_folder("v1_0", json!({}))).unwrap().with(Precision::F16, 1);
    let error = t5.run(&["t3"], &t5.options(None).unwrap()).unwrap_err().to_string();
    assert!(error.starts_with("T5 in precision f16: "), "{error}");
}

#[test]
fn a_model_at_hand_answers_too() {
    let config = T5Config {
        vocab_size: 23,
        hidden_size: 8,
        head_dim: 4,
        num_heads: 2,
        intermediate_size: 8,
        num_layers: 1,
        ..T5Config::default()
    };
    let folder = transformer_folder(false);
    let tokenizer = Tokenizer::open(folder.path()).unwrap();
    let model = Text2TextModel::T5(Box::new(config.init(3, &test_device()).unwrap()));
    let pipeline = Text2Text::new(model, tokenizer, None).unwrap();
    let answers = pipeline.run(&["t3 t4"], &pipeline.options(None).unwrap()).unwrap();
    assert_eq!((answers.len(), answers[0].len()), (1, 1));
}

/// Pairs whose references are what the model writes, but for the last.
fn pairs(sources: &[&str], answers: &[&str]) -> (TempDir, PairConfig) {
    let folder = tempfile::tempdir().unwrap();
    let lines = |texts: &[&str]| texts.iter().map(|text| format!("{text}\n")).collect::<String>();
    write(&folder, "valid.src", &lines(sources));
    write(&folder, "valid.trg", &lines(answers));
    let config = PairConfig {
        valid_files: ["src", "trg"].map(|side| folder.path().join(format!("valid.{side}"))).into(),
        ..PairConfig::default()
    };
    (folder, PairConfig { source: "src".into(), target: "trg".into(), ..config })
}

#[test]
fn answers_stand_beside_their_references_and_are_scored() {
    let pipeline = open(&t5_folder("v1_1", json!({"max_length": 21}))).unwrap().with(Precision::F32, 2);
    let mut options = pipeline.options(None).unwrap();
    // So that there are words to be right about.
    options.decoding.min_new_tokens = 4;
    options.max_source_len = 6;
    let written = pipeline.run_part(&TEXTS, 0, &options, |_| {}).unwrap();
    assert_eq!(written.limits, Limits { texts: 5, cut: 1, unended: written.limits.unended }, "six words and the end");
    let best: Vec<&str> = written.texts.iter().map(|texts| texts[0].text.as_str()).collect();
    let (folder, config) = pairs(&TEXTS, &[&best[..4], &["t42 t42 t42 t42 t42"]].concat());
    let sets = config.open_scored_in(Places::default()).unwrap();
    let answers = pipeline.answer(&sets[0], usize::MAX, &options, |_| {}).unwrap();
    assert_eq!(answers.rows().map(|row| row.answer).collect::<Vec<_>>(), best);
    let scores = answers.scores(&[TextMetric::ExactMatch, TextMetric::Chrf]).unwrap();
    assert_eq!(scores["exact_match"], 0.8);
    assert!((50.0..100.0).contains(&scores["chrf"]), "{scores:?}");
    let table = answers.table();
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!((lines.len(), lines[0]), (6, "source\treference\tprediction"));
    assert_eq!(lines[1], format!("{}\t{}\t{}", TEXTS[0], best[0], best[0]));
    let beginning = pipeline.answer(&sets[0], 2, &options, |_| {}).unwrap();
    assert_eq!((beginning.len(), beginning.rows().last().unwrap().source), (2, TEXTS[1]));
    drop(folder);
}

#[test]
fn an_answer_that_reaches_its_limit_has_not_ended() {
    let pipeline = open(&t5_folder("v1_0", json!({}))).unwrap();
    let mut options = pipeline.options(None).unwrap();
    let ended = |options: &Text2TextOptions| pipeline.run(&TEXTS[..1], options).unwrap()[0][0].ended;
    options.decoding.forced_last_token = Some(1);
    options.decoding.max_new_tokens = 3;
    assert!(ended(&options), "by force");
    options.decoding.forced_last_token = None;
    options.decoding.min_new_tokens = 3;
    assert!(!ended(&options));
}

#[test]
fn a_folder_decodes_as_the_options_that_it_was_written_with() {
    let folder = t5_folder("v1_0", json!({"num_beams": 7}));
    let greedy = Seq2SeqOptions::greedy(0, vec![1], 33);
    let beams = Seq2SeqOptions {
        max_new_tokens_per_source_token: 1.5,
        min_new_tokens: 2,
        num_return: 3,
        length_penalty: 0.6,
        early_stopping: EarlyStopping::Never,
        no_repeat_ngram_size: Some(3),
        repetition_penalty: 1.2,
        forced_first_token: Some(5),
        forced_last_token: Some(1),
        ..Seq2SeqOptions::beams(4, 0, vec![1, 6], 12)
    };
    let draws = Seq2SeqOptions { temperature: 0.7, top_k: Some(9), top_p: 0.8, ..greedy.clone() };
    let all = Seq2SeqOptions { top_k: None, ..draws.clone() };
    for options in [greedy, beams, draws, all] {
        save_generation_config(&options, 0, folder.path()).unwrap();
        assert_eq!(open(&folder).unwrap().options(None).unwrap().decoding, options);
    }
    for len in [40, 1024] {
        write(&folder, "tokenizer_config.json", &format!("{{\"model_max_length\": {len}}}"));
        assert_eq!(open(&folder).unwrap().options(None).unwrap().max_source_len, len);
    }
    write(&folder, "tokenizer_config.json", r#"{"model_max_length": 1000000000000000019884624838656}"#);
    assert_eq!(open(&folder).unwrap().options(None).unwrap().max_source_len, 512);
}
