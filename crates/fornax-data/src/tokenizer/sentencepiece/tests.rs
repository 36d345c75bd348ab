use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::model::Model;
use super::*;
use crate::Tokenizer;

/// What `tests/fixtures/generate_spiece.py` wrote.
#[derive(Deserialize)]
struct Golden {
    words: Vec<Case>,
    bytes: Vec<Case>,
    t5: Vec<Case>,
    lines: Vec<Lines>,
    added: Vec<WithAdded>,
}

/// Files beside `words/spiece.model`, and what comes of them.
#[derive(Deserialize)]
struct WithAdded {
    files: BTreeMap<String, Value>,
    vocab_size: usize,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    text: String,
    ids: Vec<u32>,
    decoded: String,
}

#[derive(Deserialize)]
struct Lines {
    file: String,
    /// The first eight digits of the sha256 of each line's ids.
    digests: String,
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/spiece").join(name)
}

fn golden() -> Golden {
    serde_json::from_slice(&std::fs::read(fixture("golden.json")).unwrap()).unwrap()
}

fn check_cases(tokenizer: &Tokenizer, cases: &[Case]) {
    assert!(cases.len() > 15);
    for Case { text, ids, decoded } in cases {
        assert_eq!(tokenizer.encode(text).unwrap(), *ids, "{text:?}");
        assert_eq!(tokenizer.encode_with_special(text, None, 1000).unwrap().ids, [ids.as_slice(), &[1]].concat());
        assert_eq!(tokenizer.decode(ids, true).unwrap(), *decoded, "{text:?}");
    }
}

/// The parts of a file that a test changes, in the wire format.
#[derive(Clone)]
struct File {
    pieces: Vec<(String, f32, u8)>,
    trainer: Vec<(u8, u8)>,
    normalizer: Vec<(u8, u8)>,
    charsmap: Vec<u8>,
}

impl File {
    fn words() -> Self {
        let model = Model::parse(&std::fs::read(fixture("words/spiece.model")).unwrap()).unwrap();
        let pieces = model.pieces.into_iter().map(|piece| (piece.text, piece.score, piece.kind as u8 + 1)).collect();
        Self { pieces, trainer: vec![(42, 1)], normalizer: Vec::new(), charsmap: model.normalizer.charsmap }
    }

    fn bytes(&self) -> Vec<u8> {
        let tagged = |field: u8, kind: u8| varint(usize::from(field) << 3 | usize::from(kind));
        let framed = |field: u8, bytes: &[u8]| [tagged(field, 2), varint(bytes.len()), bytes.to_vec()].concat();
        let numbers = |fields: &[(u8, u8)]| -> Vec<u8> {
            fields.iter().flat_map(|(field, value)| [tagged(*field, 0), vec![*value]].concat()).collect()
        };
        let piece = |(text, score, kind): &(String, f32, u8)| {
            let score = [tagged(2, 5), score.to_le_bytes().to_vec()].concat();
            framed(1, &[framed(1, text.as_bytes()), score, numbers(&[(3, *kind)])].concat())
        };
        let normalizer = [framed(2, &self.charsmap), numbers(&self.normalizer)].concat();
        let pieces = self.pieces.iter().flat_map(piece).collect();
        [pieces, framed(2, &numbers(&self.trainer)), framed(3, &normalizer)].concat()
    }
}

fn varint(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value > 0x7f {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// Opens `bytes` as a `spiece.model` in a folder of its own, with these files.
fn open_with(bytes: &[u8], files: &[(&str, &str)]) -> std::result::Result<Tokenizer, String> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("spiece.model"), bytes).unwrap();
    for (name, content) in files {
        std::fs::write(dir.path().join(name), content).unwrap();
    }
    Tokenizer::open(dir.path()).map_err(|error| {
        let error = error.to_string();
        assert!(error.contains("spiece.model: not a usable tokenizer: "), "{error}");
        error.replace(&format!("{}/", dir.path().display()), "").replace(WAY_OUT, "(...)")
    })
}

/// As [`open_with`], with this `tokenizer_config.json`.
fn open(bytes: &[u8], config: Option<&str>) -> std::result::Result<Tokenizer, String> {
    let files: Vec<_> = config.map(|config| (CONFIG, config)).into_iter().collect();
    open_with(bytes, &files)
}

fn reason(bytes: &[u8], config: Option<&str>) -> String {
    open(bytes, config).unwrap_err().replace("spiece.model: not a usable tokenizer: ", "")
}

#[test]
fn a_model_has_the_ids_of_t5_tokenizer() {
    let tokenizer = Tokenizer::open(&fixture("words")).unwrap();
    check_cases(&tokenizer, &golden().words);
    assert_eq!((tokenizer.vocab_size(), tokenizer.sentinel_count()), (176, 100));
    assert_eq!([0, 99, 100].map(|number| tokenizer.sentinel(number)), [Some(175), Some(76), None]);
    assert!(tokenizer.is_special()[76..].iter().all(|special| *special));
    assert_eq!(tokenizer.encode_with_special("a", Some("a"), 9).unwrap().ids, [4, 7, 1, 4, 7, 1]);
}

#[test]
fn byte_fallback_spells_unknown_characters_as_sentencepiece_does() {
    let tokenizer = Tokenizer::open(&fixture("bytes")).unwrap();
    check_cases(&tokenizer, &golden().bytes);
    assert_eq!(tokenizer.encode("the<sep>").unwrap().last(), tokenizer.token_to_id("<sep>").as_ref());
    assert!(!tokenizer.is_special()[tokenizer.token_to_id("<sep>").unwrap() as usize]);
}

#[test]
fn what_is_saved_is_a_tokenizer_json_with_the_same_ids() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["words", "bytes"] {
        let tokenizer = Tokenizer::open(&fixture(name)).unwrap();
        tokenizer.save_pretrained(dir.path(), 512).unwrap();
        let opened = Tokenizer::open(dir.path()).unwrap();
        assert_eq!(opened.to_json().unwrap(), tokenizer.to_json().unwrap());
        assert_eq!((opened.hash(), opened.sentinel_count()), (tokenizer.hash(), 100));
        let text = "\u{fb01}nds <extra_id_3> xyz";
        assert_eq!(opened.encode(text).unwrap(), tokenizer.encode(text).unwrap());
    }
    let config: Value =
        serde_json::from_slice(&std::fs::read(dir.path().join("tokenizer_config.json")).unwrap()).unwrap();
    assert_eq!(config["extra_ids"], 100);
}

#[test]
fn sentinels_are_those_of_the_config_or_of_the_model() {
    let file = File::words();
    let layout = |bytes: &[u8], config: &str| {
        let tokenizer = open(bytes, Some(config)).unwrap();
        (tokenizer.vocab_size(), tokenizer.sentinel_count(), tokenizer.sentinel(0))
    };
    let bytes = file.bytes();
    assert_eq!(layout(&bytes, "{}"), (176, 100, Some(175)));
    assert_eq!(layout(&bytes, r#"{"extra_ids": 5, "tokenizer_class": "T5TokenizerFast"}"#), (81, 5, Some(80)));
    assert_eq!(layout(&bytes, r#"{"extra_ids": 0}"#), (76, 0, None));
    let mut mt5 = file;
    mt5.pieces.extend(["▁<extra_id_1>", "▁<extra_id_0>"].map(|name| (name.to_owned(), 0.0, 4)));
    assert_eq!(layout(&mt5.bytes(), "{}"), (78, 2, Some(77)));
    let same = r#"{"added_tokens_decoder": {"0": {"content": "<pad>"}, "175": {"content": "<extra_id_0>"}}}"#;
    assert_eq!(layout(&bytes, same).0, 176);
}

#[test]
fn added_tokens_keep_their_ids() {
    let bytes = std::fs::read(fixture("words/spiece.model")).unwrap();
    let golden = golden().added;
    assert_eq!(golden.len(), 2);
    for WithAdded { files, vocab_size, cases } in golden {
        let files: Vec<_> = files.iter().map(|(name, content)| (name.as_str(), content.to_string())).collect();
        let files: Vec<_> = files.iter().map(|(name, content)| (*name, content.as_str())).collect();
        let tokenizer = open_with(&bytes, &files).unwrap();
        assert_eq!(tokenizer.vocab_size(), vocab_size);
        for Case { text, ids, decoded } in cases {
            assert_eq!(tokenizer.encode(&text).unwrap(), ids, "{text:?}");
            assert_eq!(tokenizer.decode(&ids, true).unwrap(), decoded, "{text:?}");
        }
    }
    // A token in both files has the flags of the newer one, and sentinels may be among what is added.
    let config = r#"{"extra_ids": 0, "added_tokens_decoder": {"77": {"content": "<sep>", "special": true}}}"#;
    let older = r#"{"<sep>": 77, "<extra_id_0>": 76, "word": 78}"#;
    let both = open_with(&bytes, &[(CONFIG, config), ("added_tokens.json", older)]).unwrap();
    assert_eq!((both.vocab_size(), both.sentinel_count(), both.sentinel(0)), (79, 1, Some(76)));
    assert_eq!(both.is_special()[77..], [true, false]);
}

#[test]
fn added_tokens_whose_ids_can_not_be_are_refused() {
    let bytes = File::words().bytes();
    let refused = |config: &str, older: &str| {
        let error = open_with(&bytes, &[(CONFIG, config), ("added_tokens.json", older)]).unwrap_err();
        error.replace("spiece.model: not a usable tokenizer: ", "")
    };
    insta::assert_snapshot!(refused("{}", r#"{"<x>": 177}"#), @r#""<x>" has the id 177 in added_tokens.json, but the first free one behind the model, its sentinels and other added tokens is 176; (...)"#);
    insta::assert_snapshot!(refused("{}", r#"{"<x>": 76}"#), @r#""<x>" has the id 76 in added_tokens.json, but the first free one behind the model, its sentinels and other added tokens is 176; (...)"#);
    insta::assert_snapshot!(refused("{}", r#"{"<x>": 176, "<y>": 176}"#), @r#""<y>" has the id 176 in added_tokens.json, but the first free one behind the model, its sentinels and other added tokens is 177; (...)"#);
    insta::assert_snapshot!(refused("{}", r#"{"<extra_id_0>": 176}"#), @r#""<extra_id_0>" has the id 176 in added_tokens.json and 175 in the model; (...)"#);
    insta::assert_snapshot!(refused("{}", r#"{"<x>": -1}"#), @r#"added_tokens.json has -1 for "<x>"; expected an id"#);
    insta::assert_snapshot!(refused(r#"{"added_tokens_decoder": {"a": {"content": "<x>"}}}"#, "{}"), @r#"tokenizer_config.json: added_tokens_decoder has {"content":"<x>"} for a; expected a token for an id"#);
    insta::assert_snapshot!(refused(r#"{"added_tokens_decoder": {"176": {}}}"#, "{}"), @"tokenizer_config.json: added_tokens_decoder has {} for 176; expected a token for an id");
    insta::assert_snapshot!(refused(r#"{"added_tokens_decoder": {"176": {"content": "<x>"}}}"#, r#"{"<x>": 177}"#), @r#""<x>" has the id 177 in added_tokens.json and 176 in the model; (...)"#);
    insta::assert_snapshot!(refused("{}", "["), @"added_tokens.json: EOF while parsing a list at line 1 column 1");
}

#[test]
fn a_trained_tokenizer_has_the_sentinels_that_its_config_asks_for() {
    use crate::store::tests::memory;
    use crate::{TokenizerConfig, TokenizerKind};
    let source = memory(&["the old house, the old river, the old bridge and the older garden ".repeat(20)]);
    let config = |kind, vocab_size| TokenizerConfig { kind, vocab_size, sentinels: 100, ..TokenizerConfig::default() };
    let dir = tempfile::tempdir().unwrap();
    for (kind, vocab_size) in [
        (TokenizerKind::Unigram, 140),
        (TokenizerKind::ByteBpe, 370),
        (TokenizerKind::Wordpiece, 150),
        (TokenizerKind::Char, 0),
        (TokenizerKind::Byte, 0),
    ] {
        let with = Tokenizer::train(&config(kind, vocab_size), &source).unwrap();
        let plain = TokenizerConfig { sentinels: 0, vocab_size: vocab_size.saturating_sub(100), ..config(kind, 0) };
        let without = Tokenizer::train(&plain, &source).unwrap();
        let last = with.vocab_size() as u32 - 1;
        assert!(vocab_size == 0 || with.vocab_size() <= vocab_size, "{kind}");
        assert_eq!((with.sentinel_count(), without.sentinel_count()), (100, 0), "{kind}");
        assert_eq!((with.sentinel(0), with.sentinel(99)), (Some(last), Some(last - 99)), "{kind}");
        assert_eq!(without.vocab_size() as u32, last - 99, "{kind}");
        let text = "the older house";
        assert_eq!(with.encode(text).unwrap(), without.encode(text).unwrap(), "{kind}");
        assert!(with.encode("the <extra_id_7> garden").unwrap().contains(&(last - 7)), "{kind}");
        if kind == TokenizerKind::Unigram {
            let words = ["the", "garden"].map(|word| with.encode(word).unwrap());
            let with_sentinel = [words[0].as_slice(), &[last - 7], &words[1]].concat();
            assert_eq!(with.encode("the <extra_id_7> garden").unwrap(), with_sentinel);
        }
        assert_eq!(with.decode(&with.encode("<extra_id_7>").unwrap(), true).unwrap(), "", "{kind}");
        with.save(&dir.path().join("tokenizer.json")).unwrap();
        let opened = Tokenizer::open(dir.path()).unwrap();
        assert_eq!((opened.hash(), opened.sentinel(7)), (with.hash(), Some(last - 7)), "{kind}");
    }
    let error = Tokenizer::train(&config(TokenizerKind::Unigram, 101), &source).unwrap_err().to_string();
    assert!(error.starts_with("`tokenizer.vocab_size` is 101; expected at least 12"), "{error}");
}

#[test]
fn a_config_of_another_kind_is_refused() {
    let bytes = File::words().bytes();
    let refused = |config| reason(&bytes, Some(config));
    insta::assert_snapshot!(refused(r#"{"tokenizer_class": "AlbertTokenizer"}"#), @"tokenizer_config.json says that it is a AlbertTokenizer, and only T5's is read; (...)");
    insta::assert_snapshot!(refused(r#"{"extra_ids": -1}"#), @"extra_ids in tokenizer_config.json is -1; expected a number up to 65536");
    insta::assert_snapshot!(refused(r#"{"added_tokens_decoder": {"5": {"content": "<x>"}}}"#), @r#""<x>" has the id 5 in tokenizer_config.json, but the first free one behind the model, its sentinels and other added tokens is 176; (...)"#);
    insta::assert_snapshot!(refused("{"), @"tokenizer_config.json: EOF while parsing an object at line 1 column 1");
}

#[test]
fn what_the_pipeline_would_get_wrong_is_refused() {
    let refused = |change: &dyn Fn(&mut File)| {
        let mut file = File::words();
        change(&mut file);
        reason(&file.bytes(), None)
    };
    insta::assert_snapshot!(refused(&|file| file.trainer.push((3, 2))), @"it is a Bpe model, and only Unigram models are read; (...)");
    insta::assert_snapshot!(refused(&|file| file.trainer.push((24, 1))), @"trainer_spec.treat_whitespace_as_suffix is true, and only false is read; (...)");
    insta::assert_snapshot!(refused(&|file| file.normalizer.push((3, 0))), @"normalizer_spec.add_dummy_prefix is false, and only true is read; (...)");
    insta::assert_snapshot!(refused(&|file| file.pieces[5].0 = "▁old▁house".into()), @r#"piece 5 ("▁old▁house") reaches over a space; (...)"#);
    insta::assert_snapshot!(refused(&|file| file.pieces[5].1 = f32::NAN), @r#"piece 5 ("e") has no finite score; (...)"#);
    insta::assert_snapshot!(refused(&|file| file.pieces[6].2 = 5), @r#"piece 6 ("l") is marked as unused, which can't be kept up; (...)"#);
    insta::assert_snapshot!(refused(&|file| file.pieces[6].0.clear()), @r#"piece 6 ("") is empty; (...)"#);
    insta::assert_snapshot!(refused(&|file| file.pieces[6].0 = "</s>".into()), @r#"piece 6 ("</s>") comes twice; (...)"#);
    insta::assert_snapshot!(refused(&|file| file.pieces[2].2 = 3), @"it has 0 pieces for what is unknown instead of one; (...)");
}

#[test]
fn damaged_files_are_refused_with_their_place() {
    insta::assert_snapshot!(reason(b"", None), @"it has no pieces, so it is no SentencePiece model");
    insta::assert_snapshot!(reason(b"version https://git-lfs.github.com/spec/v1\n", None), @"byte 0: wire type 6 is none of a SentencePiece model");
    insta::assert_snapshot!(reason(&[0x0a, 0x03, 0x0a, 0x01, 0xff], None), @"byte 2: field 1 is not UTF-8");
    insta::assert_snapshot!(reason(&[0x0a, 0x02, 0x10, 0x00], None), @"byte 2: field 2 is not a float");
    insta::assert_snapshot!(reason(&[0x08; 2], None), @"byte 0: field 1 is not bytes");
    insta::assert_snapshot!(reason(&[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], None), @"byte 1: a number of more than ten bytes");
    let bytes = File::words().bytes();
    insta::assert_snapshot!(reason(&bytes[..bytes.len() - 9], None), @"byte 1085: 1050 bytes are announced, but 1041 are left");
}

#[test]
fn no_damage_makes_it_panic() {
    let bytes = std::fs::read(fixture("words/spiece.model")).unwrap();
    let text = "\u{fb01}nds e\u{301} \u{1f980} \u{3000}the old\u{a0}house";
    for at in (0..bytes.len()).step_by(5) {
        let mut damaged = bytes.clone();
        damaged[at] = [0, 0x7f, 0xff, bytes[at] ^ 1][at % 4];
        if let Ok(tokenizer) = open(&damaged, None) {
            tokenizer.encode(text).unwrap();
        }
        if let Ok(tokenizer) = open(&bytes[..at], None) {
            tokenizer.encode(text).unwrap();
        }
    }
}

#[test]
fn t5_has_its_published_ids() {
    let Some(folder) = std::env::var_os("FORNAX_DATA").map(PathBuf::from) else {
        println!("skipped: FORNAX_DATA is not set");
        return;
    };
    let tokenizer = Tokenizer::open(&folder.join("tokenizers/t5-spiece.model")).unwrap();
    assert_eq!((tokenizer.vocab_size(), tokenizer.sentinel_count()), (32100, 100));
    assert_eq!((tokenizer.sentinel(0), tokenizer.sentinel(99)), (Some(32099), Some(32000)));
    let golden = golden();
    check_cases(&tokenizer, &golden.t5);
    for Lines { file, digests } in golden.lines {
        let bytes = std::fs::read(folder.join(&file)).unwrap();
        let mut text = String::new();
        match file.ends_with(".gz") {
            true => flate2::read::GzDecoder::new(bytes.as_slice()).read_to_string(&mut text).unwrap(),
            false => bytes.as_slice().read_to_string(&mut text).unwrap(),
        };
        let lines: Vec<&str> = text.split('\n').filter(|line| !line.trim().is_empty()).collect();
        let digests: Vec<&str> = digests.split(' ').collect();
        assert!(digests.len() >= 275 && lines.len() >= digests.len(), "{file}");
        for (line, digest) in lines.into_iter().zip(digests) {
            let ids: Vec<String> = tokenizer.encode(line).unwrap().iter().map(u32::to_string).collect();
            assert_eq!(format!("{:x}", Sha256::digest(ids.join(" ")))[..8], *digest, "{file}: {line}");
        }
    }
}
