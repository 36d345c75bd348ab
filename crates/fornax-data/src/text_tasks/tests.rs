use std::path::PathBuf;
use std::sync::Arc;

use super::*;
use crate::dataset::{Patience, Places};
use crate::loader::{BatchSource, Loader, LoaderOptions};
use crate::pairs::PairEncoder;
use crate::pairs::tests::{FILL, bytes, folder_with};
use crate::{Split, StepSize};

#[derive(serde::Deserialize)]
struct Config {
    tasks: Vec<TaskConfig>,
    #[serde(default)]
    mixture: MixtureConfig,
}

fn parse(text: &str) -> Config {
    toml::from_str(text).unwrap()
}

/// The config's text with `DIR` for the folder; the error's text without it.
fn open(files: &[(&str, &str)], config: &str) -> Result<TextTasks, String> {
    let folder = folder_with(files);
    let dir = folder.path().display().to_string();
    let places = Places { data: Some(folder.path().into()), patience: Patience::none(), ..Places::default() };
    TextTasks::open(&parse(&config.replace("DIR", &dir)).tasks, &places)
        .map_err(|error| error.to_string().replace(&format!("{dir}{}", std::path::MAIN_SEPARATOR), ""))
}

const SENTIMENT: &str = r#"
[[tasks]]
name = "sentiment"
files = ["DIR/train.tsv"]
valid_files = ["DIR/valid.tsv"]
test_files = ["DIR/test.tsv"]
source = "sst2 sentence: {sentence}"
target = "label"
words = { 0 = "negative", 1 = "positive" }
metric = "exact_match"
"#;

const TRANSLATION: &str = r#"
[[tasks]]
name = "translation"
files = ["DIR/train.de", "DIR/train.en"]
valid_files = ["DIR/valid.de", "DIR/valid.en"]
prefix = "translate German to English: "
source = "{de}"
target = "en"
metric = "sacrebleu"
"#;

const FILES: [(&str, &str); 7] = [
    ("train.tsv", "sentence\tlabel\ngood \t1\nbad\t0\nfine\t1\n"),
    ("valid.tsv", "sentence\tlabel\nso so\t0\n"),
    ("test.tsv", "index\tsentence\n0\twhat\n"),
    ("train.de", "eins\n\nzwei\n"),
    ("train.en", "one\nnothing\ntwo\n"),
    ("valid.de", "drei\n"),
    ("valid.en", "three\n"),
];

fn pairs_of(texts: &crate::pairs::TextPairs) -> Vec<(&str, &str)> {
    texts.pairs().iter().map(|pair| (pair.source.as_str(), pair.target.as_str())).collect()
}

#[test]
fn rows_become_sources_by_a_template_and_labels_become_words() {
    let tasks = open(&FILES, &format!("{SENTIMENT}{TRANSLATION}")).unwrap();
    let [sentiment, translation] = tasks.tasks() else { panic!("two tasks") };
    assert_eq!(
        pairs_of(&sentiment.train),
        [("sst2 sentence: good", "positive"), ("sst2 sentence: bad", "negative"), ("sst2 sentence: fine", "positive")]
    );
    assert_eq!(pairs_of(sentiment.valid.as_ref().unwrap()), [("sst2 sentence: so so", "negative")]);
    assert!(sentiment.test.is_none(), "its labels are secret");
    assert_eq!(sentiment.words().collect::<Vec<_>>(), ["negative", "positive"]);
    // The blank line is left out of what is learned from.
    assert_eq!(
        pairs_of(&translation.train),
        [("translate German to English: eins", "one"), ("translate German to English: zwei", "two")]
    );
    assert_eq!((translation.metric(), translation.words().count()), (TextMetric::Sacrebleu, 0));
    assert_eq!(sentiment.config().text_prefix().as_deref(), Some("sst2 sentence: "));
    assert_eq!(translation.config().text_prefix().as_deref(), Some("translate German to English: "));
}

#[test]
fn what_is_scored_needs_nothing_that_is_trained_on() {
    let config = format!("{SENTIMENT}{TRANSLATION}");
    let (all, measured) = (open(&FILES, &config).unwrap(), folder_with(&FILES[1..]));
    std::fs::remove_file(measured.path().join("train.de")).unwrap();
    let dir = measured.path().display().to_string();
    let configs = parse(&config.replace("DIR", &dir)).tasks;
    let places = Places { patience: Patience::none(), ..Places::default() };
    let scored = TextTasks::open_scored(&configs, &places).unwrap();
    let names: Vec<_> = scored.iter().map(|(metric, texts)| (texts.name(), *metric)).collect();
    let expected = [("valid of sentiment", TextMetric::ExactMatch), ("valid of translation", TextMetric::Sacrebleu)];
    assert_eq!(names, expected, "a test set without answers is none");
    for ((_, texts), task) in scored.iter().zip(all.tasks()) {
        assert_eq!(pairs_of(texts), pairs_of(task.valid.as_ref().unwrap()));
    }
    assert_eq!(task_named(&configs, "translation").unwrap(), &configs[1]);
    let error = task_named(&configs, "sentimant").unwrap_err();
    assert_eq!(error.to_string(), "unknown task `sentimant`; there is: sentiment, translation");
    assert_eq!(error.hint().as_deref(), Some("did you mean `sentiment`?"));
}

#[test]
fn test_sets_count_where_they_have_targets() {
    let with = |test: &str| {
        let files = FILES.map(|(name, content)| (name, if name == "test.tsv" { test } else { content }));
        open(&files, SENTIMENT).map(|tasks| tasks.tasks()[0].test.clone())
    };
    let test = with("label\tsentence\n1\tyes\n").unwrap().unwrap();
    assert_eq!((test.name(), pairs_of(&test)), ("test of sentiment", vec![("sst2 sentence: yes", "positive")]));
    assert!(with("label\tsentence\n-1\tyes\n-1\tno\n").unwrap().is_none());
    assert_eq!(
        with("label\tsentence\n1\tyes\n-1\tno\n").unwrap_err(),
        "test.tsv:3: task `sentiment` has no word for the label `-1`; it has words for: 0, 1"
    );
    assert_eq!(
        with("label\tsentence\n1\tyes\n \tno\n").unwrap_err(),
        "test.tsv:3: the target is blank; test of sentiment needs both sides of each pair"
    );
}

#[test]
fn mistakes_in_tasks_are_named() {
    let both = format!("{SENTIMENT}{TRANSLATION}");
    for (from, to, message) in [
        (
            "1 = \"positive\"",
            "2 = \"positive\"",
            "train.tsv:2: task `sentiment` has no word for the label `1`; it has words for: 0, 2",
        ),
        ("{sentence}", "{sentense}", "train.tsv:1: there is no column `sentense`; there is: sentence, label"),
        ("\"label\"", "\"lable\"", "train.tsv:1: there is no column `lable`; there is: sentence, label"),
        ("\"en\"", "\"fr\"", "train.de, train.en: there is no column `fr`; there is: de, en"),
        (
            "{sentence}",
            "sentence",
            "task `sentiment`: `tasks.source` is \"sst2 sentence: sentence\"; expected at least one column in braces, as \"sentence: {sentence}\"",
        ),
        (
            "\"translation\"",
            "\"sentiment\"",
            "task `sentiment`: `tasks.name` is `sentiment` twice; expected a name of its own for each task",
        ),
        (
            "\"positive\"",
            "\"negative\"",
            "task `sentiment`: `tasks.words` is \"negative\" for both `0` and `1`; expected a word of its own for each label",
        ),
        (
            "\"positive\"",
            "\" positive\"",
            "task `sentiment`: `tasks.words` is \" positive\" for `1`; expected a word without spaces around it",
        ),
        (
            "metric = \"exact_match\"",
            "metric = \"exact_match\"\ndata = \"sst2\"",
            "task `sentiment`: `tasks.files` is set; expected either own files or tasks.data = \"sst2\"",
        ),
        (
            "files = [\"DIR/train.tsv\"]",
            "",
            "task `sentiment`: `tasks.data` is not set; expected a folder of datasets/, or tasks.files",
        ),
        (
            "DIR/valid.tsv",
            "DIR/train.tsv",
            "`tasks.valid_files` is train.tsv; expected a file that is not in `tasks.files` too",
        ),
        (
            "\"DIR/train.tsv\"",
            "\"DIR/train.tsv\", \"DIR/train.en\"",
            "task `sentiment`: `tasks.files` is a mix of formats, judging by the names; expected tsv, csv, jsonl or parquet files, all of one format, or parallel files such as train.de and train.en",
        ),
        (
            "\"DIR/train.en\"]",
            "\"DIR/train.en\", \"DIR/valid.en\"]",
            "task `translation`: `tasks.files` is files with the extensions de, en, en; expected as many files of one extension as of the other, as [\"train.de\", \"train.en\"]",
        ),
        (
            "metric = \"sacrebleu\"",
            "metric = \"sacrebleu\"\nweight = 0.0",
            "task `translation`: `tasks.weight` is 0; expected a number above 0",
        ),
    ] {
        let config = both.replacen(from, to, 1);
        assert_ne!(config, both, "{from}");
        assert_eq!(open(&FILES, &config).unwrap_err(), message);
    }
    let unknown = "[[tasks]]\nname = 'a'\ndata = 'sst3'\nsource = '{sentence}'\ntarget = 'label'\nmetric = 'f1'";
    assert!(open(&[], unknown).unwrap_err().starts_with("unknown data set `sst3`; there is: "));
    assert_eq!(
        TextTasks::open(&[], &Places::default()).unwrap_err().to_string(),
        "`tasks` is empty; expected at least one table [[tasks]]"
    );
    assert!(toml::from_str::<Config>(&SENTIMENT.replace("exact_match", "accuracy")).is_err());
    assert!(toml::from_str::<Config>(&SENTIMENT.replace("words", "label_words")).is_err());
}

#[test]
fn shares_follow_the_rule() {
    let task = |name: &str, weight: Option<f64>| {
        let text = format!(
            "[[tasks]]\nname = '{name}'\ndata = 'sst2'\nsource = '{{sentence}}'\ntarget = 'label'\nmetric = 'f1'"
        );
        TaskConfig { weight, ..parse(&text).tasks.remove(0) }
    };
    let (plain, weighted) = ([task("a", None), task("b", None)], [task("a", Some(1.0)), task("b", Some(3.0))]);
    let shares = |config: &str, tasks: &[TaskConfig], sizes: [u64; 2]| {
        let config: MixtureConfig = toml::from_str(config).unwrap();
        let shares = config.shares(&tasks.iter().collect::<Vec<_>>(), &sizes);
        shares
            .map(|shares| shares.iter().map(|share| (share * 1e4).round() / 1e4).collect::<Vec<_>>())
            .map_err(|it| it.to_string())
    };
    assert_eq!(shares("", &plain, [100, 300]).unwrap(), [0.25, 0.75]);
    assert_eq!(shares("size_limit = 100", &plain, [100, 300]).unwrap(), [0.5, 0.5]);
    assert_eq!(shares("", &plain, [524_288, 524_288 * 9]).unwrap(), [0.5, 0.5]);
    assert_eq!(shares("by = 'equal'", &plain, [100, 300]).unwrap(), [0.5, 0.5]);
    // The square roots of 1 and 9.
    assert_eq!(shares("by = 'temperature'\ntemperature = 2.0", &plain, [100, 900]).unwrap(), [0.25, 0.75]);
    assert_eq!(shares("by = 'temperature'\ntemperature = 1.0", &plain, [100, 300]).unwrap(), [0.25, 0.75]);
    assert_eq!(shares("by = 'weights'", &weighted, [100, 100]).unwrap(), [0.25, 0.75]);
    for (config, tasks, message) in [
        (
            "by = 'temperature'",
            &plain,
            "`mixture.temperature` is not set; expected a number from 1 on, as mixture.by = \"temperature\" needs it",
        ),
        ("by = 'temperature'\ntemperature = 0.5", &plain, "`mixture.temperature` is 0.5; expected a number from 1 on"),
        (
            "by = 'equal'\ntemperature = 2.0",
            &plain,
            "`mixture.temperature` and `mixture.by = \"equal\"` can't both be set: a temperature goes with mixture.by = \"temperature\"",
        ),
        (
            "by = 'weights'",
            &plain,
            "task `a`: `tasks.weight` is not set; expected a number above 0, as mixture.by = \"weights\" needs it",
        ),
        (
            "by = 'equal'",
            &weighted,
            "task `a`: `tasks.weight` is set; expected mixture.by = \"weights\" beside it, or no weight",
        ),
        ("size_limit = 0", &plain, "`mixture.size_limit` is 0; expected at least 1"),
    ] {
        assert_eq!(shares(config, tasks, [1, 1]).unwrap_err(), message);
    }
}

#[test]
fn a_mixture_gives_batches_of_its_tasks_and_resumes_anywhere() {
    let config = format!("{SENTIMENT}{TRANSLATION}[mixture]\nby = 'equal'");
    let tasks = open(&FILES, &config).unwrap();
    let tokenizer = bytes();
    let encoder = PairEncoder {
        source: &tokenizer,
        target: &tokenizer,
        lowercase: false,
        max_source_len: 64,
        max_target_len: 16,
        fill: FILL,
    };
    let size = StepSize { micro_batch_size: 3, gradient_accumulation: 2 };
    let mixture = Arc::new(TaskMixture::training(&tasks, &encoder, &parse(&config).mixture, 5, size, true).unwrap());
    assert_eq!((mixture.shares(), mixture.set().len(), mixture.steps_per_epoch()), (&[0.5, 0.5][..], 5, 1));
    assert_eq!([0, 2, 3, 4].map(|example| mixture.task_of(example)), [0, 0, 1, 1]);
    let run = |steps, workers| {
        let loader = Loader::start(mixture.clone(), steps, LoaderOptions { workers, ahead: 2 }).unwrap();
        loader.map(Result::unwrap).collect::<Vec<_>>()
    };
    let whole = run(0..200, 1);
    for resumed in [1, 99, 199] {
        assert_eq!(whole[resumed as usize..], run(resumed..200, 3));
    }
    let text = |ids: &[i32]| {
        let ids: Vec<u32> = ids.iter().filter(|id| **id > 0).map(|id| *id as u32).collect();
        tokenizer.decode(&ids, true).unwrap()
    };
    let mut of_translation = 0;
    for batch in whole.iter().flat_map(|(_, step)| step) {
        for (row, &example) in batch.examples.iter().enumerate() {
            let source = text(&batch.input_ids[row * batch.source_len..][..batch.lengths[row] as usize]);
            let target = text(&batch.targets[row * batch.target_len..][..batch.target_len]);
            let task = &tasks.tasks()[mixture.task_of(example)];
            assert!(pairs_of(&task.train).contains(&(source.as_str(), target.as_str())), "{source}: {target}");
            of_translation += mixture.task_of(example);
        }
    }
    // Of 1,200 draws half are 600, with a standard deviation of 17.
    assert!((530..670).contains(&of_translation), "{of_translation}");

    let scored = tasks.scored(Split::Valid, &encoder).unwrap();
    let shown: Vec<_> = scored.iter().map(|task| (task.name.as_str(), task.metric, task.texts.reference(0))).collect();
    assert_eq!(
        shown,
        [("sentiment", TextMetric::ExactMatch, "negative"), ("translation", TextMetric::Sacrebleu, "three")]
    );
    let batch = scored[1].batches(4, None).unwrap().micro_batches(0).unwrap().remove(0);
    assert_eq!(text(&batch.targets[..5]), "three");
    assert!(tasks.scored(Split::Test, &encoder).unwrap().is_empty());
}

#[test]
fn data_sets_are_tasks_too() {
    let Some(data) = std::env::var_os("FORNAX_DATA").map(PathBuf::from) else {
        println!("skipped: FORNAX_DATA is not set");
        return;
    };
    let places = Places { data: Some(data), patience: Patience::none(), ..Places::default() };
    let config = "[[tasks]]\nname = 'sst2'\ndata = 'sst2'\nsource = 'sst2 sentence: {sentence}'\ntarget = 'label'\n\
                  words = { 0 = 'negative', 1 = 'positive' }\nmetric = 'exact_match'\n\
                  [[tasks]]\nname = 'de-en'\ndata = 'multi30k'\nprefix = 'translate German to English: '\nsource = '{de}'\ntarget = 'en'\n\
                  metric = 'sacrebleu'\n";
    let tasks = TextTasks::open(&parse(config).tasks, &places).unwrap();
    let count = |task: &TextTask, split| task.texts(split).map(|texts| texts.pairs().len());
    let counts = |task| [Split::Train, Split::Valid, Split::Test].map(|split| count(task, split));
    assert_eq!(counts(&tasks.tasks()[0]), [Some(67_349), Some(872), None]);
    assert_eq!(counts(&tasks.tasks()[1]), [Some(29_000), Some(1_014), Some(1_000)]);
    let first = &tasks.tasks()[0].valid.as_ref().unwrap().pairs()[0];
    assert_eq!(
        (first.source.as_str(), first.target.as_str()),
        ("sst2 sentence: it 's a charming and often affecting journey .", "positive")
    );

    let tokenizer = bytes();
    let encoder = PairEncoder {
        source: &tokenizer,
        target: &tokenizer,
        lowercase: false,
        max_source_len: 512,
        max_target_len: 512,
        fill: FILL,
    };
    let size = StepSize { micro_batch_size: 32, gradient_accumulation: 1 };
    for task in parse(config).tasks {
        let alone = TextTasks::open(std::slice::from_ref(&task), &places).unwrap();
        let [grouped, drawn] = [true, false].map(|group| {
            let mixture = TaskMixture::training(&alone, &encoder, &MixtureConfig::default(), 1, size, group).unwrap();
            let (mut positions, mut tokens) = (0, 0);
            for batch in mixture.first(mixture.steps_per_epoch()).map(Result::unwrap) {
                positions += batch.batch * (batch.source_len + batch.target_len);
                tokens += batch.token_count();
            }
            positions as f64 / tokens as f64
        });
        println!("{}: {grouped:.3} positions a token, {drawn:.3} as drawn", task.name);
        assert!(grouped < 1.15 && drawn > 1.6, "{}: {grouped}, {drawn}", task.name);
    }
}
