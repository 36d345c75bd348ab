use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::Document;
use crate::source::Texts;
use crate::tokenizer::{TokenizerConfig, TokenizerKind};

/// A source of the given texts, named "0", "1", ...
pub(crate) fn memory<S: AsRef<str>>(texts: &[S]) -> Texts {
    let named = texts.iter().enumerate();
    let documents = named.map(|(i, text)| Document { name: i.to_string(), text: text.as_ref().to_owned() });
    Texts::new("memory", documents.collect())
}

fn tokenizer(kind: TokenizerKind, end_of_text: bool, source: &Texts) -> Tokenizer {
    let config = TokenizerConfig { kind, end_of_text: Some(end_of_text), ..Default::default() };
    Tokenizer::train(&config, source).unwrap()
}

/// A store of ready-made tokens, each spelled as one character.
pub(crate) fn store_of(documents: &[Vec<u32>]) -> (tempfile::TempDir, Arc<TokenStore>) {
    // Private-use planes: every value is a character, and sorting by character is sorting by value.
    let spell = |ids: &Vec<u32>| ids.iter().filter_map(|id| char::from_u32(0xF_0000 + id)).collect::<String>();
    let texts: Vec<String> = documents.iter().map(spell).collect();
    let largest = documents.iter().flatten().max().copied().unwrap_or(0);
    let alphabet = memory(&[spell(&(0..=largest).collect())]);
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = tokenizer(TokenizerKind::Char, false, &alphabet);
    let store = TokenStore::build_or_open(&memory(&texts), &tokenizer, dir.path(), &StoreOptions::default()).unwrap();
    (dir, store.into())
}

fn all_tokens(store: &TokenStore) -> Vec<i32> {
    let mut tokens = vec![0; store.len() as usize];
    store.read(0, &mut tokens);
    tokens
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn tokens_and_documents_round_trip(documents in prop::collection::vec(prop::collection::vec(0u32..3000, 0..50), 1..20)) {
        prop_assume!(documents.iter().any(|document| !document.is_empty()));
        let (_dir, store) = store_of(&documents);
        prop_assert_eq!(all_tokens(&store), documents.concat().into_iter().map(|id| id as i32).collect::<Vec<_>>());
        prop_assert_eq!(store.document_count(), documents.len() as u64);
        let all = all_tokens(&store);
        for (index, document) in documents.iter().enumerate() {
            let range = store.document(index as u64);
            let found: Vec<u32> = all[range.start as usize..range.end as usize].iter().map(|id| *id as u32).collect();
            prop_assert_eq!(&found, document);
        }
    }
}

#[test]
fn documents_end_with_the_separator_but_empty_ones_do_not() {
    let source = memory(&["ab", "", "c"]);
    let tokenizer = tokenizer(TokenizerKind::Byte, true, &source);
    let dir = tempfile::tempdir().unwrap();
    let open = |separate_documents| {
        let options = StoreOptions { separate_documents };
        TokenStore::build_or_open(&source, &tokenizer, dir.path(), &options).unwrap()
    };
    let (a, b, c) = (i32::from(b'a'), i32::from(b'b'), i32::from(b'c'));
    let store = open(true);
    assert_eq!(all_tokens(&store), [a, b, 256, c, 256]);
    assert_eq!([0, 1, 2].map(|i| store.document(i)), [0..3, 3..3, 3..5]);
    assert_eq!(store.manifest().text_bytes, 3);
    assert_eq!(all_tokens(&open(false)), [a, b, c]);
}

#[test]
fn a_second_call_reuses_and_a_change_rebuilds() {
    let dir = tempfile::tempdir().unwrap();
    let source = memory(&["hello"]);
    let plain = tokenizer(TokenizerKind::Byte, false, &source);
    let open = |source: &Texts, tokenizer: &Tokenizer| {
        let store = TokenStore::build_or_open(source, tokenizer, dir.path(), &StoreOptions::default()).unwrap();
        (store.folder().to_owned(), std::fs::metadata(store.folder().join(TOKENS)).unwrap().modified().unwrap())
    };
    let first = open(&source, &plain);
    assert_eq!(open(&source, &plain), first);
    let others = [open(&memory(&["hellp"]), &plain).0, open(&source, &tokenizer(TokenizerKind::Byte, true, &source)).0];
    assert!(!others.contains(&first.0) && others[0] != others[1]);
    assert_eq!(open(&source, &plain), first, "the first store is still there");
}

#[test]
fn a_damaged_store_is_refused_and_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let source = memory(&["some text, twice: some text"]);
    let tokenizer = tokenizer(TokenizerKind::Byte, false, &source);
    let make = || TokenStore::build_or_open(&source, &tokenizer, dir.path(), &StoreOptions::default()).unwrap();
    let (folder, tokens) = (make().folder().to_owned(), all_tokens(&make()));

    type Change = fn(Vec<u8>) -> Vec<u8>;
    let damage: [(&str, Change, &str); 5] = [
        (TOKENS, |bytes| bytes[..10].to_vec(), "tokens.bin has 10 bytes, but manifest.json says 54"),
        (
            TOKENS,
            |mut bytes| {
                bytes[7] ^= 1;
                bytes
            },
            "the sha256 of tokens.bin",
        ),
        (
            DOCUMENTS,
            |mut bytes| {
                bytes[8] ^= 1;
                bytes
            },
            "the sha256 of documents.bin",
        ),
        ("manifest.json", |bytes| bytes[..40].to_vec(), "manifest.json can't be read"),
        ("manifest.json", |_| b"{}".to_vec(), "manifest.json can't be read"),
    ];
    for (name, change, reason) in damage {
        let path = folder.join(name);
        std::fs::write(&path, change(std::fs::read(&path).unwrap())).unwrap();
        let error = TokenStore::open(&folder).unwrap_err().to_string();
        assert!(error.contains(reason) && error.contains(folder.to_str().unwrap()), "{error}");
        assert_eq!(all_tokens(&make()), tokens, "{name}");
    }
    std::fs::remove_file(folder.join(DOCUMENTS)).unwrap();
    assert_eq!(all_tokens(&make()), tokens);
}

#[test]
fn a_newer_store_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let source = memory(&["text"]);
    let tokenizer = tokenizer(TokenizerKind::Byte, false, &source);
    let make = || TokenStore::build_or_open(&source, &tokenizer, dir.path(), &StoreOptions::default());
    let path = make().unwrap().folder().join("manifest.json");
    std::fs::write(&path, r#"{ "format_version": 9, "layout": "unheard of" }"#).unwrap();
    assert!(matches!(make(), Err(DataError::NewerFormat { found: 9, supported: 1, .. })));
    assert!(path.exists());
}

#[test]
fn an_empty_corpus_is_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = tokenizer(TokenizerKind::Byte, true, &memory(&[""]));
    for texts in [vec![], vec!["", ""]] {
        let error =
            TokenStore::build_or_open(&memory(&texts), &tokenizer, dir.path(), &StoreOptions::default()).unwrap_err();
        assert!(matches!(error, DataError::EmptyCorpus { .. }), "{error}");
    }
    assert!(
        std::fs::read_dir(dir.path()).unwrap().all(|entry| entry.unwrap().path().extension() == Some("lock".as_ref()))
    );
}

#[test]
fn large_vocabularies_take_four_bytes() {
    let (_dir, small) = store_of(&[(0..300).collect()]);
    assert_eq!(small.manifest().token_type, TokenType::U16);
    // 70,000 characters do not fit into one private-use plane: take all of the CJK and private-use ranges there are.
    let text: String =
        (0x4E00..0x9FFF).chain(0x2_0000..0x2_A6DF).chain(0xF_0000..0xF_3000).filter_map(char::from_u32).collect();
    let source = memory(&[&text]);
    let tokenizer = tokenizer(TokenizerKind::Char, false, &source);
    assert!(tokenizer.vocab_size() > 65_536);
    let dir = tempfile::tempdir().unwrap();
    let store = TokenStore::build_or_open(&source, &tokenizer, dir.path(), &StoreOptions::default()).unwrap();
    assert_eq!(store.manifest().token_type, TokenType::U32);
    assert_eq!(all_tokens(&store), (0..tokenizer.vocab_size() as i32).collect::<Vec<_>>());
    assert_eq!(TokenType::for_vocab_size(65_536), TokenType::U16);
    assert_eq!(TokenType::for_vocab_size(65_537), TokenType::U32);
}

#[test]
fn an_unknown_character_names_its_document() {
    let tokenizer = tokenizer(TokenizerKind::Char, false, &memory(&["abc"]));
    let dir = tempfile::tempdir().unwrap();
    let source = memory(&["ab", "cab", "abécd"]);
    let error = TokenStore::build_or_open(&source, &tokenizer, dir.path(), &StoreOptions::default()).unwrap_err();
    insta::assert_snapshot!(error, @"2: the character 'é' (U+00E9) is not in the tokenizer's vocabulary");
}

#[test]
fn threads_that_want_one_store_take_turns() {
    let dir = tempfile::tempdir().unwrap();
    let source = memory(&["words ".repeat(20_000)]);
    let tokenizer = tokenizer(TokenizerKind::Byte, false, &source);
    let make = || TokenStore::build_or_open(&source, &tokenizer, dir.path(), &StoreOptions::default()).unwrap();
    let lengths: Vec<u64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| make().len())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(lengths, [120_000; 4]);
}
