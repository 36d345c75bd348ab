use std::collections::BTreeSet;
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::source::Texts;
use crate::store::tests::memory;

/// Enough repetitive text for a few hundred merges, with ties and characters of one to four bytes.
fn corpus() -> Texts {
    let words = [
        "the",
        "then",
        "there",
        "low",
        "lower",
        "lowest",
        "newer",
        "naïve",
        "Ärger",
        "日本",
        "🦀",
        "x1",
        "x2",
        "fn main()",
    ];
    let line = |i: usize| (0..9).map(|j| words[(i * 7 + j * j * (i + 3)) % words.len()]).collect::<Vec<_>>().join(" ");
    memory(&(0..40).map(|i| format!("{}.\n  {}\n\n", line(i), line(i + 5))).collect::<Vec<_>>())
}

fn config(kind: TokenizerKind, vocab_size: usize) -> TokenizerConfig {
    TokenizerConfig { kind, vocab_size, ..TokenizerConfig::default() }
}

fn trained(kind: TokenizerKind, vocab_size: usize) -> Tokenizer {
    Tokenizer::train(&config(kind, vocab_size), &corpus()).unwrap()
}

const KINDS: [(TokenizerKind, usize); 5] = [
    (TokenizerKind::ByteBpe, 300),
    (TokenizerKind::Wordpiece, 65),
    (TokenizerKind::Unigram, 50),
    (TokenizerKind::Char, 0),
    (TokenizerKind::Byte, 0),
];

fn data_folder() -> Option<PathBuf> {
    let folder = std::env::var_os("FORNAX_DATA").map(PathBuf::from);
    if folder.is_none() {
        println!("skipped: FORNAX_DATA is not set");
    }
    folder
}

#[test]
fn training_twice_gives_the_same_tokenizer() {
    for (kind, vocab_size) in KINDS {
        let first = trained(kind, vocab_size);
        for _ in 0..5 {
            assert_eq!(trained(kind, vocab_size).hash(), first.hash(), "{kind}");
        }
    }
}

#[test]
fn saved_tokenizers_open_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    for (kind, vocab_size) in KINDS {
        let tokenizer = trained(kind, vocab_size);
        let folder = dir.path().join(kind.to_string());
        std::fs::create_dir(&folder).unwrap();
        tokenizer.save(&folder.join("tokenizer.json")).unwrap();
        let opened = Tokenizer::open(&folder).unwrap();
        assert_eq!(opened.hash(), tokenizer.hash(), "{kind}");
        assert_eq!(opened.table.is_some(), tokenizer.table.is_some());
        let text = "the lowest x1 naïve 日本";
        assert_eq!(opened.encode(text).unwrap(), tokenizer.encode(text).unwrap());
    }
}

#[test]
fn vocabularies_have_the_size_and_special_tokens_of_their_kind() {
    let bpe = trained(TokenizerKind::ByteBpe, 300);
    assert_eq!((bpe.vocab_size(), bpe.end_of_text_id()), (300, Some(0)));

    let wordpiece = trained(TokenizerKind::Wordpiece, 65);
    let specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
    assert_eq!(specials.map(|token| wordpiece.token_to_id(token)), [0, 1, 2, 3, 4].map(Some));
    assert_eq!(wordpiece.vocab_size(), 65);
    let text = wordpiece.decode(&wordpiece.encode("The LOWEST Naive").unwrap(), true).unwrap();
    assert_eq!(text, "the lowest naive");

    let unigram = trained(TokenizerKind::Unigram, 50);
    assert_eq!(["<pad>", "</s>", "<unk>"].map(|token| unigram.token_to_id(token)), [0, 1, 2].map(Some));
    assert_eq!((unigram.vocab_size(), unigram.end_of_text_id()), (50, Some(1)));
    assert_eq!(unigram.decode(&unigram.encode("the  lowest").unwrap(), true).unwrap(), "the lowest");
    assert_eq!(unigram.encode(" the lowest\n").unwrap(), unigram.encode("the lowest").unwrap());
    assert_eq!(unigram.encode("the Ω").unwrap().last(), Some(&2), "an unknown character is <unk>");

    let bytes = trained(TokenizerKind::Byte, 0);
    assert_eq!((bytes.vocab_size(), bytes.end_of_text_id()), (256, None));
    assert_eq!(bytes.encode("aÄ").unwrap(), [97, 0xC3, 0x84]);
}

#[test]
fn characters_are_numbered_in_order_and_others_are_errors() {
    let source = memory(&["hello\n", "World"]);
    let tokenizer = Tokenizer::train(&config(TokenizerKind::Char, 0), &source).unwrap();
    assert_eq!(tokenizer.vocab_size(), 8);
    assert_eq!(tokenizer.encode("\nWdehlor").unwrap(), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(
        tokenizer.encode("held!").unwrap_err().to_string(),
        "the character '!' (U+0021) is not in the tokenizer's vocabulary"
    );

    let with_end = TokenizerConfig { end_of_text: Some(true), ..config(TokenizerKind::Char, 0) };
    let tokenizer = Tokenizer::train(&with_end, &source).unwrap();
    assert_eq!(tokenizer.end_of_text_id(), Some(8));
    assert_eq!(tokenizer.encode("l<|endoftext|>o").unwrap(), [5, 8, 6]);
    assert!(matches!(tokenizer.encode("l<|endoftext|>?"), Err(DataError::UnknownCharacter { character: '?', .. })));
    assert_eq!(tokenizer.decode(&[5, 8, 6], false).unwrap(), "l<|endoftext|>o");
    assert_eq!(tokenizer.decode(&[5, 8, 6], true).unwrap(), "lo");
}

#[test]
fn the_table_gives_what_the_pipeline_gives() {
    let text = corpus_text();
    for kind in [TokenizerKind::Char, TokenizerKind::Byte] {
        let tokenizer = trained(kind, 0);
        assert!(tokenizer.table.is_some());
        let slow = tokenizer.pipeline.encode_fast(text.as_str(), false).unwrap();
        assert_eq!(tokenizer.encode(&text).unwrap(), slow.get_ids());
        assert_eq!(tokenizer.decode(slow.get_ids(), true).unwrap(), text);
    }
    assert!(trained(TokenizerKind::ByteBpe, 300).table.is_none());
}

fn corpus_text() -> String {
    use burn_dataset::Dataset;
    corpus().iter().map(|document| document.unwrap().text).collect()
}

#[test]
fn a_vocabulary_smaller_than_the_alphabet_is_refused_with_both_sizes() {
    for (kind, minimum) in
        [(TokenizerKind::ByteBpe, "257"), (TokenizerKind::Wordpiece, ""), (TokenizerKind::Unigram, "")]
    {
        let error = Tokenizer::train(&config(kind, 20), &corpus()).unwrap_err();
        assert!(matches!(error, DataError::ConfigValue { key: "tokenizer.vocab_size", .. }), "{error}");
        assert!(error.to_string().contains(&format!("is 20; expected at least {minimum}")), "{error}");
    }
}

#[test]
fn a_prompt_of_nothing_is_the_token_that_ends_a_text() {
    let wordpiece = trained(TokenizerKind::Wordpiece, 65);
    assert!(wordpiece.encode("\n").unwrap().is_empty());
    assert_eq!(wordpiece.encode_prompt("\n").unwrap(), [wordpiece.token_to_id("[SEP]").unwrap()]);
    assert_eq!(wordpiece.encode_prompt("low").unwrap(), wordpiece.encode("low").unwrap());
    let bytes = trained(TokenizerKind::Byte, 0);
    assert_eq!(bytes.encode_prompt("\n").unwrap(), [10]);
    assert!(bytes.encode_prompt("").unwrap().is_empty());
}

#[test]
fn an_empty_corpus_trains_nothing() {
    for (kind, vocab_size) in KINDS.into_iter().take(4) {
        let error = Tokenizer::train(&config(kind, vocab_size), &memory(&[""])).unwrap_err();
        assert!(matches!(error, DataError::EmptyCorpus { .. }), "{kind}: {error}");
    }
}

#[test]
fn preparing_twice_trains_once() {
    let dir = tempfile::tempdir().unwrap();
    let prepare =
        |vocab_size| Tokenizer::prepare(&config(TokenizerKind::ByteBpe, vocab_size), &corpus(), dir.path()).unwrap();
    let first = prepare(300);
    let files = || std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let written = std::fs::metadata(&files()[0]).unwrap().modified().unwrap();
    assert_eq!(prepare(300).hash(), first.hash());
    assert_eq!(std::fs::metadata(&files()[0]).unwrap().modified().unwrap(), written);
    prepare(301);
    assert_eq!(files().len(), 2);

    let from = TokenizerConfig { from: Some(files()[0].display().to_string()), ..config(TokenizerKind::Char, 0) };
    assert!(Tokenizer::prepare(&from, &memory(&[""]), dir.path()).unwrap().vocab_size() >= 300);
}

#[test]
fn stored_padding_and_truncation_are_cleared() {
    use tokenizers::{PaddingParams, PaddingStrategy, TruncationParams};
    let tokenizer = trained(TokenizerKind::ByteBpe, 300);
    let mut pipeline = tokenizer.pipeline.clone();
    pipeline.with_padding(Some(PaddingParams { strategy: PaddingStrategy::Fixed(40), ..Default::default() }));
    pipeline.with_truncation(Some(TruncationParams { max_length: 2, ..Default::default() })).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    pipeline.save(&path, false).unwrap();
    let opened = Tokenizer::open(&path).unwrap();
    assert_eq!(opened.encode("the lower x1 x2").unwrap(), tokenizer.encode("the lower x1 x2").unwrap());
    assert_eq!(opened.hash(), tokenizer.hash());
}

#[test]
fn what_is_no_tokenizer_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let error = |path: &Path| Tokenizer::open(path).unwrap_err().to_string();
    assert!(error(dir.path()).contains("neither tokenizer.json"));
    let path = dir.path().join("tokenizer.json");
    assert!(error(&path).contains("tokenizer.json"));
    std::fs::write(&path, "{}").unwrap();
    assert!(error(&path).contains("not a usable tokenizer"));
    let vocab = dir.path().join("vocab.json");
    std::fs::write(&vocab, "{}").unwrap();
    assert!(error(&vocab).contains("merges.txt"), "{}", error(&vocab));
}

#[test]
fn a_stream_shows_whole_characters_and_all_of_the_text() {
    let text = "the naïve 🦀🦀 日本, lower";
    for (kind, vocab_size) in [(TokenizerKind::Byte, 0), (TokenizerKind::ByteBpe, 300), (TokenizerKind::Unigram, 50)] {
        let tokenizer = trained(kind, vocab_size);
        let ids = tokenizer.encode(text).unwrap();
        let whole = tokenizer.decode(&ids, true).unwrap();
        for prompt in [0, 1] {
            let before = tokenizer.decode(&ids[..prompt], true).unwrap();
            let mut stream = tokenizer.text_stream(&ids[..prompt], true);
            let mut shown = String::new();
            for &id in &ids[prompt..] {
                let text = stream.push(id).unwrap();
                assert!(!text.contains(char::REPLACEMENT_CHARACTER), "{text:?}");
                shown += &text;
            }
            shown += &stream.finish().unwrap();
            assert_eq!(before + &shown, whole, "{kind}, prompt {prompt}");
        }
    }
    let bytes = trained(TokenizerKind::Byte, 0);
    let mut stream = bytes.text_stream(&[], true);
    assert_eq!(stream.push(0xC3).unwrap(), "");
    assert_eq!(stream.finish().unwrap(), "\u{fffd}", "half a character is shown at the end");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_text_round_trips_through_bytes_and_byte_pairs(text in "\\PC{0,40}[ \n\t]{0,5}\\PC{0,20}") {
        for tokenizer in [BYTES.clone(), PAIRS.clone()] {
            let ids = tokenizer.encode(&text).unwrap();
            prop_assert_eq!(&tokenizer.decode(&ids, false).unwrap(), &text);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn training_does_not_depend_on_hash_maps(words in prop::collection::vec("[abc]{1,9}", 5..60), vocab_size in 270usize..400) {
        let source = memory(&[words.join(" ")]);
        for (kind, vocab_size) in [(TokenizerKind::ByteBpe, vocab_size), (TokenizerKind::Wordpiece, vocab_size - 250), (TokenizerKind::Unigram, vocab_size - 250)] {
            let train = || Tokenizer::train(&config(kind, vocab_size), &source).unwrap().hash().to_owned();
            let first = train();
            for _ in 0..3 {
                prop_assert_eq!(&train(), &first, "{}", kind);
            }
        }
    }

    #[test]
    fn pieces_have_the_tokens_of_the_whole(seed in prop::collection::vec("[a-zé1. \n\t']{1,12}", 1..12)) {
        // Long enough to be cut: each seed is repeated over several piece lengths, and cuts fall where they may.
        let text = seed.concat().repeat(200_000 / seed.concat().len());
        let pieces = PAIRS.pieces(&text);
        let ids: Vec<u32> = PAIRS.encode_batch(&pieces).unwrap().concat();
        prop_assert_eq!(pieces.concat(), text.clone());
        prop_assert_eq!(ids, PAIRS.encode(&text).unwrap());
    }
}

static BYTES: std::sync::LazyLock<Tokenizer> = std::sync::LazyLock::new(|| trained(TokenizerKind::Byte, 0));
static PAIRS: std::sync::LazyLock<Tokenizer> = std::sync::LazyLock::new(|| trained(TokenizerKind::ByteBpe, 300));

#[test]
fn tiny_shakespeare_has_65_characters() {
    let Some(folder) = data_folder() else { return };
    let text = std::fs::read_to_string(folder.join("tinyshakespeare/input.txt")).unwrap();
    let tokenizer = Tokenizer::train(&config(TokenizerKind::Char, 0), &memory(&[&text])).unwrap();
    assert_eq!((tokenizer.vocab_size(), tokenizer.end_of_text_id()), (65, None));
    let ids = tokenizer.encode(&text).unwrap();
    assert_eq!(ids.len(), 1_115_394);
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 65);
    assert_eq!(tokenizer.decode(&ids[..15], true).unwrap(), "First Citizen:\n");
}

#[test]
fn training_on_real_text_gives_the_same_tokenizer_twice() {
    let Some(folder) = data_folder() else { return };
    let text = std::fs::read_to_string(folder.join("tinyshakespeare/input.txt")).unwrap();
    let source = memory(&[&text]);
    for kind in [TokenizerKind::ByteBpe, TokenizerKind::Wordpiece, TokenizerKind::Unigram] {
        let train = || Tokenizer::train(&config(kind, 1000), &source).unwrap();
        let (first, started) = (train(), std::time::Instant::now());
        assert_eq!(train().hash(), first.hash(), "{kind}");
        assert_eq!(first.vocab_size(), 1000, "{kind}");
        let tokens = first.encode(&text).unwrap().len();
        println!("{kind}: {tokens} tokens, trained in {:.1} s", started.elapsed().as_secs_f64());
        assert!(tokens * 2 < text.len(), "{kind}: {tokens}");
    }
}

#[test]
fn published_tokenizers_give_their_published_ids() {
    let Some(folder) = data_folder().map(|folder| folder.join("tokenizers")) else { return };
    for name in ["gpt2-vocab.json", "gpt2-merges.txt", ""] {
        let gpt2 = Tokenizer::open(&folder.join(name)).unwrap();
        assert_eq!(gpt2.encode("Hello world").unwrap(), [15496, 995]);
        assert_eq!((gpt2.vocab_size(), gpt2.end_of_text_id()), (50257, Some(50256)));
    }
    let uncased = Tokenizer::open(&folder.join("bert-base-uncased-vocab.txt")).unwrap();
    assert_eq!(uncased.encode("Hello, world!").unwrap(), [7592, 1010, 2088, 999]);
    use SpecialToken::{Cls, Mask, Pad, Sep, Unknown};
    assert_eq!([Cls, Sep, Pad, Mask, Unknown].map(|token| uncased.special_id(token).unwrap()), [101, 102, 0, 103, 100]);
    let lines = std::fs::read_to_string(folder.join("bert-base-uncased-vocab.txt")).unwrap();
    let continues: Vec<bool> = lines.lines().map(|line| line.starts_with("##")).collect();
    assert_eq!(uncased.continues_word().unwrap(), continues);
    let cased = Tokenizer::open(&folder.join("bert-base-cased-vocab.txt")).unwrap();
    assert_eq!(cased.encode("Hello, world!").unwrap(), [8667, 117, 1362, 106]);
    let neox = Tokenizer::open(&folder.join("gpt-neox-20B_tokenizer.json")).unwrap();
    assert_eq!(neox.encode("Hello world").unwrap(), [12092, 1533]);
    assert_eq!(neox.end_of_text_id(), Some(0));
}

/// The trainer has a piece of that name, whose score is not a number.
#[test]
fn unigram_trains_on_the_name_of_its_own_unknown_token() {
    let text = "the lowest <UNK> of all, x<UNK>y and \"<UNK>\" again; the lowest of the low";
    let config = TokenizerConfig { kind: TokenizerKind::Unigram, vocab_size: 60, ..TokenizerConfig::default() };
    let tokenizer = Tokenizer::train(&config, &memory(&[text])).unwrap();
    assert_eq!(tokenizer.decode(&tokenizer.encode("x<UNK>y").unwrap(), true).unwrap(), "x<UNK>y");
}

#[test]
fn extra_tokens_stand_before_the_sentinels() {
    for kind in [TokenizerKind::Unigram, TokenizerKind::ByteBpe, TokenizerKind::Wordpiece] {
        let extra_tokens = ["[R]", "[S]"].map(str::to_owned).into();
        let config =
            TokenizerConfig { kind, vocab_size: 310, sentinels: 3, extra_tokens, ..TokenizerConfig::default() };
        let text = "[R] the lowest of the low [R] [S] and all that is low";
        let tokenizer = Tokenizer::train(&config, &memory(&[text])).unwrap();
        let size = tokenizer.vocab_size() as u32;
        let ids =
            ["[R]", "[S]", "<extra_id_2>", "<extra_id_1>", "<extra_id_0>"].map(|name| tokenizer.token_to_id(name));
        assert_eq!(ids, [5, 4, 3, 2, 1].map(|behind| Some(size - behind)), "{kind}");
        assert!(size <= 310);
        assert_eq!(tokenizer.encode("[S]").unwrap().iter().filter(|id| **id == size - 4).count(), 1, "{kind}");
    }
}
