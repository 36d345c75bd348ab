use std::path::PathBuf;
use std::sync::Arc;

use burn_dataset::Dataset;

use super::*;
use crate::dataset::{Patience, Places, assert_sources_exclude};
use crate::loader::{BatchSource, Loader, LoaderOptions};
use crate::store::tests::memory;
use crate::{DataError, Fill, IGNORE_TARGET, StepSize, Tokenizer, TokenizerConfig, TokenizerKind};

pub(crate) const FILL: Fill = Fill { pad_id: 0, start_id: 7 };

pub(crate) fn folder_with(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    folder
}

/// Bytes as tokens; 256 ends a text.
pub(crate) fn bytes() -> Tokenizer {
    let config = TokenizerConfig { kind: TokenizerKind::Byte, end_of_text: Some(true), ..TokenizerConfig::default() };
    Tokenizer::train(&config, &memory(&["a"])).unwrap()
}

/// The config's text with `DIR` for the folder; the error's text without it.
fn open(files: &[(&str, &str)], config: &str) -> Result<PairSplits, String> {
    let folder = folder_with(files);
    let dir = folder.path().display().to_string();
    let config: PairConfig = toml::from_str(&config.replace("DIR", &dir)).unwrap();
    let places = Places { data: Some(folder.path().into()), patience: Patience::none(), ..Places::default() };
    config.open_in(places).map_err(|error| {
        error.to_string().replace(&format!("{dir}{}", std::path::MAIN_SEPARATOR), "").replace(&dir, "DIR")
    })
}

fn texts(pairs: &TextPairs) -> Vec<(&str, &str)> {
    pairs.pairs().iter().map(|pair| (pair.source.as_str(), pair.target.as_str())).collect()
}

const PARALLEL: &str = "train = { source = ['DIR/a', 'DIR/b'], target = ['DIR/c', 'DIR/d'] }\n\
                        valid = { source = ['DIR/e'], target = ['DIR/f'] }\n";

#[test]
fn parallel_files_of_any_names_give_pairs_without_blank_ones() {
    let files = [
        ("a", " Eins \n\nZwei\nDrei"),
        ("b", "VIER\n"),
        ("c", "One\ntwo\n \nThree"),
        ("d", "Four\n"),
        ("e", "x\n"),
        ("f", "Y\n"),
    ];
    let splits = open(&files, PARALLEL).unwrap();
    assert_eq!(texts(&splits.train), [("Eins", "One"), ("Drei", "Three"), ("VIER", "Four")]);
    assert_eq!((splits.train.dropped(), splits.train.len(), splits.train.reference(2)), (2, 3, "Four"));
    assert_eq!(texts(&splits.valid), [("x", "Y")]);
    assert!(splits.test.is_none());
    let lower = open(&files, &format!("{PARALLEL}lowercase = true")).unwrap();
    assert_eq!(texts(&lower.train), texts(&splits.train), "references keep their case");
    let described = splits.train.describe();
    assert!(described.starts_with("train of ") && described.ends_with(": 3 pairs"), "{described}");
}

#[test]
fn what_is_measured_on_has_no_blank_side() {
    let files = [("a", "x\n"), ("b", "x\n"), ("c", "x\n"), ("d", "x\n"), ("e", "x\ny\n"), ("f", "x\n \n")];
    assert_eq!(open(&files, PARALLEL).unwrap_err(), "f:2: the target is blank; valid needs both sides of each pair");
    let swapped = PARALLEL.replace("['DIR/e'], target = ['DIR/f']", "['DIR/f'], target = ['DIR/e']");
    assert_eq!(open(&files, &swapped).unwrap_err(), "f:2: the source is blank; valid needs both sides of each pair");
    let blank = [("a", "x\n"), ("b", "x\n"), ("c", "\n"), ("d", " \n"), ("e", "x\n"), ("f", "x\n")];
    assert_eq!(
        open(&blank, PARALLEL).unwrap_err(),
        "no text in a, DIR/c, DIR/b, DIR/d: no pair has a text on both sides".replace("DIR/", "")
    );
}

#[test]
fn tables_and_files_of_languages_are_pairs_too() {
    let tsv = "en\tid\tde\none\t1\teins\n";
    let config =
        "files = ['DIR/a.tsv']\nvalid_files = ['DIR/b.tsv']\ntest_files = ['DIR/a.tsv']\nsource = 'de'\ntarget = 'en'";
    let splits = open(&[("a.tsv", tsv), ("b.tsv", tsv)], config).unwrap();
    assert_eq!((texts(&splits.train), texts(&splits.test.unwrap())), (vec![("eins", "one")], vec![("eins", "one")]));
    let config =
        "files = ['DIR/a.en', 'DIR/a.de']\nvalid_files = ['DIR/b.de', 'DIR/b.en']\nsource = 'de'\ntarget = 'en'";
    let files = [("a.en", "one"), ("a.de", "eins"), ("b.en", "two"), ("b.de", "zwei")];
    let splits = open(&files, config).unwrap();
    assert_eq!((texts(&splits.train), texts(&splits.valid)), (vec![("eins", "one")], vec![("zwei", "two")]));
    let swapped = open(&files, &config.replace("'de'\n", "'en'\n").replace("target = 'en'", "target = 'de'")).unwrap();
    assert_eq!(texts(&swapped.valid), [("two", "zwei")]);
}

#[test]
fn an_empty_row_of_a_table_is_a_pair_with_blank_sides() {
    let config = |name| format!("files = ['DIR/{name}']\nvalid_files = ['DIR/b.tsv']\nsource = 'de'\ntarget = 'en'");
    let valid = ("b.tsv", "de\ten\nzwei\ttwo\n");
    let objects = r#"{"de": "eins", "en": "one"}
{"de": null, "en": "nothing"}
{"de": "", "en": "nothing"}
{"de": "nichts", "en": null}
"#;
    for (name, content, dropped) in [("a.tsv", "de\ten\n\t\neins\tone\n\t\n", 2), ("a.jsonl", objects, 3)] {
        let train = open(&[(name, content), valid], &config(name)).unwrap().train;
        assert_eq!((texts(&train), train.dropped()), (vec![("eins", "one")], dropped), "{name}");
    }
    for (content, message) in [
        ("de\ten\neins\tone\n\t\n", "b.tsv:3: the target is blank; valid needs both sides of each pair"),
        ("de\ten\n\tone\n", "b.tsv:2: the source is blank; valid needs both sides of each pair"),
    ] {
        assert_eq!(open(&[("a.jsonl", objects), ("b.tsv", content)], &config("a.jsonl")).unwrap_err(), message);
    }
}

#[test]
fn of_a_folder_the_files_of_both_languages_are_taken_and_paired_by_name() {
    let folder = folder_with(&[
        ("b.de", "zwei\n"),
        ("a.de", "eins\n"),
        ("a.en", "one\n"),
        ("b.en.gz.part", "no end"),
        ("b.en", "two\n"),
        ("a.fr", "un\nde trop\n"),
        ("README.md", "# Sentences\n"),
        ("sizes.tsv", "file\tlines\n"),
    ]);
    let valid = folder_with(&[("rows.tsv", "de\ten\ndrei\tthree\n"), ("README.md", "# Rows\n")]);
    let config = |train: &std::path::Path, valid: &std::path::Path, more: &str| {
        let (train, valid) = (train.display(), valid.display());
        format!("files = ['{train}']\nvalid_files = ['{valid}']\nsource = 'de'\ntarget = 'en'\n{more}")
    };
    let splits = open(&[], &config(folder.path(), valid.path(), "")).unwrap();
    assert_eq!(texts(&splits.train), [("eins", "one"), ("zwei", "two")]);
    assert_eq!(texts(&splits.valid), [("drei", "three")]);
    let empty = folder_with(&[("README.md", "# Nothing\n")]);
    let error = open(&[], &config(empty.path(), valid.path(), "")).unwrap_err();
    assert!(error.ends_with("there is no table and no file with extension de or en"), "{error}");
    let error = open(&[], &config(valid.path(), valid.path(), "format = 'jsonl'")).unwrap_err();
    assert!(error.ends_with("there is no file with extension jsonl, ndjson"), "{error}");
    std::fs::rename(folder.path().join("b.en"), folder.path().join("c.en")).unwrap();
    let error = open(&[], &config(folder.path(), valid.path(), "")).unwrap_err();
    assert!(error.contains("b.de and ") && error.contains("c.en would be read side by side"), "{error}");
}

#[test]
fn pairs_that_are_learned_and_measured_on_are_counted() {
    let files = [
        ("a", "eins\nzwei\nzwei\n"),
        ("b", "drei\n"),
        ("c", "one\ntwo\ntwo\n"),
        ("d", "three\n"),
        ("e", "zwei \neins\nDREI\nzwei\n"),
        ("f", "two\nuno\nthree\n two\n"),
    ];
    let splits = open(&files, PARALLEL).unwrap();
    // A source alone may have another target.
    assert_eq!((splits.valid.shared_with(&splits.train), splits.train.shared_with(&splits.valid)), (2, 2));
    assert_eq!(splits.train.shared_with(&splits.train), 4);
}

#[test]
fn the_fingerprint_of_all_sets_follows_each() {
    let with = |train: &str, valid: &str, test: Option<&str>| {
        let table = |text: &str| format!("de\ten\n{text}\tone\n");
        let (train, valid, held) = (table(train), table(valid), table(test.unwrap_or_default()));
        let files = [("a.tsv", train.as_str()), ("b.tsv", valid.as_str()), ("c.tsv", held.as_str())];
        let test = if test.is_some() { "test_files = ['DIR/c.tsv']\n" } else { "" };
        let config = format!("files = ['DIR/a.tsv']\nvalid_files = ['DIR/b.tsv']\n{test}source = 'de'\ntarget = 'en'");
        open(&files, &config).unwrap().fingerprint()
    };
    let all = [
        with("eins", "zwei", Some("drei")),
        with("1", "zwei", Some("drei")),
        with("eins", "2", Some("drei")),
        with("eins", "zwei", Some("3")),
        with("eins", "zwei", None),
        with("zwei", "eins", Some("drei")),
    ];
    for (number, one) in all.iter().enumerate() {
        assert!(all[number + 1..].iter().all(|other| other != one), "{number}");
    }
    assert_eq!(all[0], with("eins", "zwei", Some("drei")));
}

#[test]
fn bad_files_and_keys_are_named() {
    let files = [("a", "1\n2\n"), ("b", "1\n"), ("c", "1\n2\n"), ("d", "1\n"), ("e", "1\n"), ("f", "1\n2\n")];
    for (config, message) in [
        (PARALLEL, "e has 1 lines, f has 2"),
        (
            "train = { source = ['DIR/a', 'DIR/b'], target = ['DIR/c'] }",
            "`data.train` is 2 source and 1 target files; expected one target file for each source file",
        ),
        (
            "train = { source = ['DIR/a'], target = ['DIR/c'] }",
            "`data.valid` is not set; expected the files to evaluate on, which data.train needs beside it",
        ),
        (
            "train = { source = ['DIR/a'], target = ['DIR/c'] }\nvalid = { source = ['DIR/a'], target = ['DIR/f'] }",
            "`data.valid` is a; expected a file that is not in `data.train` too",
        ),
        ("", "`data.name` is not set; expected a data set with pairs, as \"multi30k\", or data.files, or data.train"),
        ("files = ['DIR/a.de', 'DIR/a.en']", "DIR/a.de: "),
        (
            "name = 'multi30k'\nformat = 'tsv'",
            "`data.format` and `data.name = \"multi30k\"` can't both be set: a named data set has its own files",
        ),
        (
            "name = 'multi30k'\ntrain = { source = ['a'] }",
            "`data.train` and `data.name = \"multi30k\"` can't both be set: a named data set has its own files",
        ),
        (
            "files = ['a']\nvalid = { source = ['a'] }",
            "`data.files` and `data.valid` can't both be set: either names the files",
        ),
        (
            "folder = 'x'\nfiles = ['a']",
            "`data.folder` is x; expected data.name beside it, for the folder belongs to a data set",
        ),
        (
            "source = 'en'\ntarget = 'en'",
            "`data.target` is en; expected another column or language than data.source = \"en\"",
        ),
        (
            "name = 'multi30k'\nsource = 'de'\ntarget = 'eng'",
            "train of the data set `multi30k`: there is no column `eng`; there is: de, en, fr",
        ),
        (
            "name = 'multi30k'\ntokens_per_batch = 9\ngroup_by_length = false",
            "`data.tokens_per_batch` and `data.group_by_length = false` can't both be set: batches of so many tokens are always of pairs of \
             about the same length",
        ),
        (
            "name = 'tinyshakespeare'",
            "datasets/tinyshakespeare/dataset.toml: its texts have no columns, so there are no pairs in it; `fornax data list` shows all data sets",
        ),
        (
            "name = 'multi40k'",
            "unknown data set `multi40k`; there is: rust-crates, tinyshakespeare, sst2, multi30k, wikitext-2",
        ),
    ] {
        let error = open(&files, config).unwrap_err();
        assert!(error.starts_with(&message.replace("DIR/", "")), "{config}: {error}");
    }
    let config: PairConfig =
        toml::from_str("name = 'multi30k'\nsource = 'de'\ntarget = 'en'\ntokens_per_batch = 4096").unwrap();
    assert_eq!(toml::from_str::<PairConfig>(&toml::to_string(&config).unwrap()).unwrap(), config);
    assert!(toml::from_str::<PairConfig>("train = { sources = [] }").is_err());
}

#[test]
fn each_source_leaves_out_what_it_excludes() {
    let side = "{ source = ['a'], target = ['b'] }";
    let values = [
        ("name", "'multi30k'"),
        ("folder", "'f'"),
        ("files", "['a']"),
        ("valid_files", "['b']"),
        ("test_files", "['c']"),
        ("format", "'tsv'"),
        ("train", side),
        ("valid", side),
        ("test", side),
    ];
    let check = |text: &str| toml::from_str::<PairConfig>(text).unwrap().check();
    assert_sources_exclude(PairConfig::SOURCE_KEYS, &values, &[("name", "folder")], check);
}

#[test]
fn a_folder_for_a_data_set_is_the_only_place() {
    let config = "name = 'multi30k'\nsource = 'de'\ntarget = 'en'\n";
    let folder = folder_with(&[]);
    let set = folder.path().join("multi30k");
    std::fs::create_dir(&set).unwrap();
    std::fs::write(set.join("train.de.gz"), "no captions").unwrap();
    let given = folder.path().join("given");
    let config: PairConfig = toml::from_str(&format!("{config}folder = '{}'", given.display())).unwrap();
    let places = Places { data: Some(folder.path().into()), patience: Patience::none(), ..Places::default() };
    for error in [config.open_in(places.clone()).unwrap_err(), config.open_scored_in(places.clone()).unwrap_err()] {
        let text = error.to_string();
        assert!(matches!(&error, DataError::NotInFolder { folder, .. } if *folder == given), "{text}");
        assert!(text.contains("data set `multi30k`"), "{text}");
    }
    let anywhere = PairConfig { folder: None, ..config };
    assert!(matches!(anywhere.open_in(places), Err(DataError::Checksum { .. })), "it is found");
}

#[test]
fn hints_say_what_to_do() {
    let unknown = DataError::UnknownColumn {
        place: "a".into(),
        column: "sentense".into(),
        known: vec!["label".into(), "sentence".into()],
    };
    assert_eq!(unknown.hint().as_deref(), Some("did you mean `sentence`?"));
    let nothing_near = DataError::UnknownTask { name: "zzz".into(), known: vec!["sst2".into()] };
    assert_eq!(nothing_near.hint(), None);
}

/// Pairs of so many a's and b's.
fn pairs_of(lengths: &[(usize, usize)]) -> TextPairs {
    let column = |letter: &str, length: fn(&(usize, usize)) -> usize| {
        lengths.iter().map(|pair| letter.repeat(length(pair)) + "\n").collect::<String>()
    };
    let (source, target) = (column("a", |pair| pair.0), column("b", |pair| pair.1));
    let files =
        [("a", source.as_str()), ("b", "a\n"), ("c", target.as_str()), ("d", "b\n"), ("e", "x\n"), ("f", "y\n")];
    open(&files, &PARALLEL.replace(", 'DIR/b'", "").replace(", 'DIR/d'", "")).unwrap().train
}

fn encode(lengths: &[(usize, usize)], max_source_len: usize, max_target_len: usize) -> Arc<PairSet> {
    let tokenizer = bytes();
    let encoder = PairEncoder {
        source: &tokenizer,
        target: &tokenizer,
        lowercase: false,
        max_source_len,
        max_target_len,
        fill: FILL,
    };
    Arc::new(encoder.encode(&pairs_of(lengths)).unwrap())
}

#[test]
fn sides_have_their_own_tokenizers_ends_and_limits() {
    let letters = TokenizerConfig { kind: TokenizerKind::Char, end_of_text: Some(true), ..TokenizerConfig::default() };
    let letters = Tokenizer::train(&letters, &memory(&["ab"])).unwrap();
    let (id_b, end) = (letters.token_to_id("b").unwrap() as i32, letters.end_of_text_id().unwrap() as i32);
    let source = bytes();
    let encoder = PairEncoder {
        source: &source,
        target: &letters,
        lowercase: false,
        max_source_len: 4,
        max_target_len: 3,
        fill: FILL,
    };
    let set = encoder.encode(&pairs_of(&[(3, 1), (4, 2), (1, 3)])).unwrap();
    // With its end, a source of three has room, one of four has not; so with two and three on the other side.
    assert_eq!(set.lengths(), [(4, 2), (4, 3), (2, 3)]);
    assert_eq!((set.truncated().sources, set.truncated().targets), (1, 1));
    assert_eq!((set.len(), set.tokens()), (3, (10, 8)));
    assert_eq!((set.source(1), set.target(1)), (&[97, 97, 97, 256][..], &[id_b, id_b, end].map(|id| id as u32)[..]));
    let batch = set.batch(&[2, 0]);
    assert_eq!(batch.input_ids, [97, 256, 0, 0, 97, 97, 97, 256]);
    assert_eq!(batch.lengths, [2, 4]);
    assert_eq!(batch.decoder_input_ids, [7, id_b, id_b, 7, id_b, 0]);
    assert_eq!(batch.targets, [id_b, id_b, end, id_b, end, IGNORE_TARGET]);
    assert_eq!(batch.examples, [2, 0]);

    let error = PairEncoder { max_target_len: 1, ..encoder }.encode(&pairs_of(&[(1, 1)])).unwrap_err().to_string();
    assert_eq!(error, "`data.max_target_len` is 1; expected at least 2: a token and the end");
    let endless = TokenizerConfig { kind: TokenizerKind::Byte, end_of_text: Some(false), ..TokenizerConfig::default() };
    let endless = Tokenizer::train(&endless, &memory(&["a"])).unwrap();
    let error = PairEncoder { source: &endless, ..encoder }.encode(&pairs_of(&[(1, 1)])).unwrap_err();
    assert!(matches!(error, DataError::NoSeparator), "{error}");
    let other = PairEncoder { source: &letters, target: &letters, ..encoder };
    let files = [("a", "a\nax\n"), ("b", ""), ("c", "a\nb\n"), ("d", ""), ("e", "x\n"), ("f", "y\n")];
    let unknown = open(&files, &PARALLEL.replace(", 'DIR/b'", "").replace(", 'DIR/d'", "")).unwrap().train;
    let error = other.encode(&unknown).unwrap_err().to_string();
    assert_eq!(error, "train, pair 1: the character 'x' (U+0078) is not in the tokenizer's vocabulary");
}

#[test]
fn lower_case_is_the_models_and_references_keep_theirs() {
    let files = [("a", "AAa\n"), ("b", ""), ("c", "Bb\n"), ("d", ""), ("e", "x\n"), ("f", "y\n")];
    let texts = open(&files, &PARALLEL.replace(", 'DIR/b'", "").replace(", 'DIR/d'", "")).unwrap().train;
    let tokenizer = bytes();
    let ids = |lowercase| {
        let config = PairConfig { lowercase, ..PairConfig::default() };
        config.encoder(&tokenizer, &tokenizer, FILL).encode(&texts).unwrap().batch(&[0])
    };
    assert_eq!(ids(false).input_ids[..3], [65, 65, 97]);
    let lower = ids(true);
    assert_eq!((&lower.input_ids[..3], &lower.targets[..2]), (&[97; 3][..], &[98; 2][..]));
    assert_eq!(texts.reference(0), "Bb");
}

fn odd_lengths(pairs: usize) -> Vec<(usize, usize)> {
    (0..pairs).map(|i| (1 + i * 7 % 30, 1 + i * 5 % 23)).collect()
}

#[test]
fn training_visits_each_pair_once_an_epoch_and_resumes_anywhere() {
    let set = encode(&odd_lengths(101), 100, 100);
    let size = StepSize { micro_batch_size: 4, gradient_accumulation: 2 };
    let sources = [
        PairConfig::default().training_batches(set.clone(), 3, size).unwrap(),
        PairBatches::training(set.clone(), 3, size, false).unwrap(),
        PairConfig { tokens_per_batch: Some(96), ..PairConfig::default() }
            .training_batches(set.clone(), 3, size)
            .unwrap(),
    ];
    for (number, batches) in sources.into_iter().enumerate() {
        let (batches, steps) = (Arc::new(batches), 13);
        let steps = if number == 2 { batches.steps_per_epoch() } else { steps };
        assert_eq!(batches.steps_per_epoch(), steps);
        let run = |steps, workers| {
            let loader = Loader::start(batches.clone(), steps, LoaderOptions { workers, ahead: 2 }).unwrap();
            loader.map(Result::unwrap).collect::<Vec<_>>()
        };
        let whole = run(0..2 * steps, 1);
        for resumed in [1, steps - 1, steps, steps + 3] {
            assert_eq!(whole[resumed as usize..], run(resumed..2 * steps, 3));
        }
        for epoch in whole.chunks(steps as usize) {
            let mut seen: Vec<u64> =
                epoch.iter().flat_map(|(_, step)| step).flat_map(|it| it.examples.clone()).collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..101).collect::<Vec<_>>());
        }
        assert_ne!(whole[0].1, whole[steps as usize].1);
        if number == 2 {
            let over = |batch: &crate::Seq2SeqBatch| batch.batch * batch.source_len.max(batch.target_len) > 96;
            assert!(!whole.iter().flat_map(|(_, step)| step).any(over));
        }
    }
    let first = PairBatches::by_tokens(set, 3, 96, 1).unwrap().first_steps(2);
    assert_eq!(first.micro_batches(1).unwrap(), first.micro_batches(7).unwrap());
    assert_ne!(first.micro_batches(0).unwrap(), first.micro_batches(1).unwrap());
}

#[test]
fn evaluation_goes_by_length_and_its_outputs_go_back_into_order() {
    let lengths = odd_lengths(50);
    let set = encode(&lengths, 100, 100);
    let batches = PairBatches::evaluation(set.clone(), 8, None).unwrap();
    assert_eq!(batches.steps_per_epoch(), 7);
    let all: Vec<_> = batches.first(7).map(Result::unwrap).collect();
    assert!(all.is_sorted_by_key(|batch| batch.source_len.max(batch.target_len)));
    let mut outputs: Vec<(u64, i32)> =
        all.iter().flat_map(|batch| batch.examples.iter().copied().zip(batch.lengths.iter().copied())).collect();
    outputs.sort_unstable();
    let expected: Vec<(u64, i32)> = (0..).zip(lengths.iter().map(|pair| pair.0 as i32 + 1)).collect();
    assert_eq!(outputs, expected);

    let beginning = PairBatches::evaluation(set.clone(), 8, Some(2)).unwrap();
    let mut seen: Vec<u64> = beginning.first(beginning.steps_per_epoch()).flat_map(|it| it.unwrap().examples).collect();
    seen.sort_unstable();
    assert_eq!(seen, (0..16).collect::<Vec<_>>());
    assert!(PairBatches::evaluation(set, 0, None).is_err());
}

#[test]
fn multi30k_has_its_pairs() {
    let Some(data) = std::env::var_os("FORNAX_DATA").map(PathBuf::from) else {
        println!("skipped: FORNAX_DATA is not set");
        return;
    };
    let places = Places { data: Some(data), patience: Patience::none(), ..Places::default() };
    let config = "name = 'multi30k'\nsource = 'de'\ntarget = 'en'";
    let config: PairConfig = toml::from_str(config).unwrap();
    let splits = config.open_in(places.clone()).unwrap();
    let test = splits.test.as_ref().unwrap();
    assert_eq!(
        [&splits.train, &splits.valid, test].map(|set| (set.len(), set.dropped())),
        [(29_000, 0), (1_014, 0), (1_000, 0)]
    );
    assert_eq!(splits.train.pairs()[0].source, "Zwei junge weiße Männer sind im Freien in der Nähe vieler Büsche.");
    assert_eq!(splits.train.pairs()[0].target, "Two young, White males are outside near many bushes.");
    assert_eq!(test.reference(0), "A man in an orange hat starring at something.");
    let scored = config.open_scored_in(places).unwrap();
    assert_eq!(scored.iter().map(TextPairs::name).collect::<Vec<_>>(), ["valid", "test"]);
    assert_eq!(scored[1].fingerprint(), test.fingerprint());
    println!(
        "{} of valid and {} of test are in train",
        splits.valid.shared_with(&splits.train),
        test.shared_with(&splits.train)
    );

    let tokenizer = bytes();
    let encoder = PairEncoder {
        source: &tokenizer,
        target: &tokenizer,
        lowercase: false,
        max_source_len: 128,
        max_target_len: 128,
        fill: FILL,
    };
    let set = Arc::new(encoder.encode(&splits.train).unwrap());
    assert!((1..2_000).contains(&set.truncated().sources));
    let batches = PairBatches::by_tokens(set, 1, 4_096, 1).unwrap();
    let (mut tokens, mut positions, mut seen) = (0, 0, 0);
    for batch in batches.first(batches.steps_per_epoch()).map(Result::unwrap) {
        assert!(batch.batch * batch.source_len.max(batch.target_len) <= 4_096);
        tokens += batch.token_count();
        positions += batch.batch * (batch.source_len + batch.target_len);
        seen += batch.batch;
    }
    let full = tokens as f64 / positions as f64;
    println!("{} batches of 4,096 tokens, {full:.3} of their positions are tokens", batches.steps_per_epoch());
    // In random order about half are.
    assert!(seen == 29_000 && full > 0.9, "{full}");
}
