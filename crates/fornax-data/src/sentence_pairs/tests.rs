use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::IGNORE_TARGET;
use crate::masking::MaskingConfig;
use crate::store::StoreOptions;
use crate::store::tests::memory;
use crate::tokenizer::pieces_tests::wordpiece;

const SPECIALS: u64 = 5;

/// A store in which the word `w{i}` is the `i`-th of the text, so that a token tells its place; documents of the given lengths, each
/// followed by `[SEP]` unless empty.
fn store(lengths: &[usize], separate_documents: bool) -> (tempfile::TempDir, Arc<TokenStore>, Masking) {
    let mut next = 0;
    let texts = lengths.iter().map(|length| {
        next += length;
        (next - length..next).map(|i| format!("w{i}")).collect::<Vec<_>>().join(" ")
    });
    let texts: Vec<String> = texts.collect();
    let tokenizer = wordpiece(next, 0);
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions { separate_documents };
    let store = TokenStore::build_or_open(&memory(&texts), &tokenizer, dir.path(), &options).unwrap();
    let masking = Masking::new(MaskingConfig::default(), &tokenizer, 23).unwrap();
    (dir, store.into(), masking)
}

/// A row taken apart: the places in the text (counted without separators) that its two sentences come from, and its label.
struct Row {
    first: Vec<u64>,
    second: Vec<u64>,
    label: i32,
}

/// Takes a batch apart and checks its layout.
fn rows(batch: &MaskedBatch) -> Vec<Row> {
    let take = |row: usize| {
        let range = row * batch.seq_len..(row + 1) * batch.seq_len;
        let original: Vec<i32> = batch.input_ids[range.clone()]
            .iter()
            .zip(&batch.targets[range.clone()])
            .map(|(&id, &target)| if target == IGNORE_TARGET { id } else { target })
            .collect();
        let length = batch.lengths[row] as usize;
        let seps: Vec<usize> = (0..length).filter(|&i| original[i] == 3).collect();
        assert_eq!((original[0], seps.len(), seps[1]), (2, 2, length - 1), "{original:?}");
        assert!(original[length..].iter().all(|&id| id == 0), "padding");
        let types = &batch.token_type_ids[range];
        let second = seps[0] + 1..length;
        assert!((0..batch.seq_len).all(|i| types[i] == i32::from(second.contains(&i))), "{types:?}");
        let places = |range: Range<usize>| original[range].iter().map(|&id| id as u64 - SPECIALS).collect::<Vec<_>>();
        Row {
            first: places(1..seps[0]),
            second: places(second.start..length - 1),
            label: batch.sentence_labels.as_ref().unwrap()[row],
        }
    };
    (0..batch.batch).map(take).collect()
}

fn all(pairs: &SentencePairs, epoch: Option<u64>) -> Vec<Row> {
    let batch = pairs.batch(&(0..pairs.example_count()).collect::<Vec<_>>(), epoch);
    assert_eq!(batch.token_count(), batch.lengths.iter().sum::<i32>() as usize);
    rows(&batch)
}

/// The number of the document that has the place.
fn document_of(lengths: &[usize], place: u64) -> usize {
    let ends = lengths.iter().scan(0, |end, &length| {
        *end += length as u64;
        Some(*end)
    });
    ends.take_while(|&end| end <= place).count()
}

fn consecutive(places: &[u64]) -> bool {
    places.windows(2).all(|pair| pair[0] + 1 == pair[1])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn pairs_are_spans_of_documents(
        lengths in prop::collection::vec(0usize..60, 2..12), seq_len in 6usize..40, separate: bool, epoch: Option<u64>, next: bool,
    ) {
        prop_assume!(lengths.iter().filter(|&&length| length >= 2).count() >= 2);
        let (_dir, store, masking) = store(&lengths, separate);
        let kind = if next { PairKind::NextSentence } else { PairKind::SentenceOrder };
        let pairs = SentencePairs::new(store, kind, masking, seq_len).unwrap();
        let mut covered = BTreeSet::new();
        for (example, row) in all(&pairs, epoch).into_iter().enumerate() {
            let (document, chunk) = pairs.chunk(example as u64);
            let chunk_len = (chunk.end - chunk.start) as usize;
            prop_assert!(!row.first.is_empty() && !row.second.is_empty());
            prop_assert!(consecutive(&row.first) && consecutive(&row.second));
            prop_assert!(row.first.len() + row.second.len() + 3 <= seq_len);
            let documents = |places: &[u64]| places.iter().map(|&it| document_of(&lengths, it)).collect::<BTreeSet<_>>();
            let (a, b) = (documents(&row.first), documents(&row.second));
            prop_assert_eq!((a.len(), b.len()), (1, 1), "a sentence crosses a border");
            prop_assert!(a.contains(&(document as usize)));
            let (from, to) = (|places: &[u64]| places[0], |places: &[u64]| places[places.len() - 1] + 1);
            match (row.label, kind) {
                (0, _) => prop_assert_eq!(to(&row.first), from(&row.second)),
                (_, PairKind::SentenceOrder) => prop_assert_eq!(to(&row.second), from(&row.first)),
                (_, PairKind::NextSentence) => {
                    prop_assert_ne!(&a, &b, "B of a random pair comes from the same document");
                    let longest_other = (0..lengths.len()).filter(|it| *it as u64 != document).map(|it| lengths[it]).max();
                    prop_assert_eq!(row.second.len(), (chunk_len - row.first.len()).min(longest_other.unwrap()));
                }
            }
            if row.label == 0 || kind == PairKind::SentenceOrder {
                prop_assert_eq!(row.first.len() + row.second.len(), chunk_len);
                let places: Vec<u64> = row.first.into_iter().chain(row.second).collect();
                covered.extend(places);
            }
        }
        if kind == PairKind::SentenceOrder {
            let expected = lengths.iter().filter(|&&length| length >= 2).sum::<usize>();
            prop_assert_eq!(covered.len(), expected, "a document's token is in no chunk or in two");
        }
    }

    #[test]
    fn chunks_of_a_document_are_as_few_and_as_equal_as_can_be(length in 2usize..300, seq_len in 6usize..40) {
        let (_dir, store, masking) = store(&[1, length, 0], true);
        let pairs = SentencePairs::new(store, PairKind::SentenceOrder, masking, seq_len).unwrap();
        let chunks: Vec<Range<u64>> = (0..pairs.example_count()).map(|example| pairs.chunk(example).1).collect();
        prop_assert_eq!(chunks.len(), length.div_ceil(seq_len - 3));
        prop_assert!(chunks.windows(2).all(|pair| pair[0].end == pair[1].start));
        // The first document is a token and its separator.
        prop_assert_eq!((chunks[0].start, chunks[chunks.len() - 1].end), (2, 2 + length as u64));
        let lengths: Vec<u64> = chunks.iter().map(|chunk| chunk.end - chunk.start).collect();
        let (shortest, longest) = (lengths.iter().min().unwrap(), lengths.iter().max().unwrap());
        prop_assert!(longest - shortest <= 1 && *shortest >= 2 && *longest <= seq_len as u64 - 3);
    }
}

#[test]
fn half_of_the_pairs_follow() {
    let lengths = [60; 20];
    for kind in [PairKind::NextSentence, PairKind::SentenceOrder] {
        let (_dir, store, masking) = store(&lengths, true);
        let pairs = SentencePairs::new(store, kind, masking, 23).unwrap();
        assert_eq!(pairs.example_count(), 60);
        let labels: Vec<i32> = (0..200).flat_map(|epoch| all(&pairs, Some(epoch))).map(|row| row.label).collect();
        let following = labels.iter().filter(|&&label| label == 0).count();
        // 12,000 pairs: a standard deviation is 55.
        assert!((6000 - 275..6000 + 275).contains(&following), "{kind:?}: {following}");
    }
}

#[test]
fn cuts_documents_and_spans_of_random_pairs_are_uniform() {
    // Every document is a chunk of 20 tokens.
    let lengths = [20; 11];
    let (_dir, store, masking) = store(&lengths, true);
    let pairs = SentencePairs::new(store, PairKind::NextSentence, masking, 23).unwrap();
    let (mut cuts, mut documents, mut starts, mut randoms) = ([0; 19], [0; 11], [0; 11], 0);
    for epoch in 0..2000 {
        for (own, row) in all(&pairs, Some(epoch)).into_iter().enumerate() {
            cuts[row.first.len() - 1] += 1;
            if row.label == 1 {
                let other = document_of(&lengths, row.second[0]);
                documents[(other + 11 - own) % 11] += 1;
                if row.second.len() == 10 {
                    starts[row.second[0] as usize % 20] += 1;
                    randoms += 1;
                }
            }
        }
    }
    // 22,000 cuts in 19 places: 1158 with a standard deviation of 33 each.
    assert!(cuts.iter().all(|count| (993..1323).contains(count)), "{cuts:?}");
    // Counted from the own document on: never that one, about 1100 with a deviation of 32 for each of the ten others.
    assert!(documents[0] == 0 && documents[1..].iter().all(|count| (940..1260).contains(count)), "{documents:?}");
    // Spans of ten tokens in a document of 20: about 53 with a deviation of 7 for each of the eleven starts.
    assert!(starts.iter().all(|count| (18..88).contains(count)), "{starts:?} of {randoms}");
}

#[test]
fn another_epoch_cuts_anew_and_the_same_repeats() {
    let (_dir, store, masking) = store(&[60; 8], true);
    let pairs = SentencePairs::new(store, PairKind::NextSentence, masking, 33).unwrap();
    let numbers: Vec<u64> = (0..pairs.example_count()).collect();
    assert_eq!(pairs.batch(&numbers, Some(1)), pairs.batch(&numbers, Some(1)));
    assert_eq!(pairs.batch(&numbers, None), pairs.batch(&numbers, None));
    let pairs_of = |epoch| numbers.iter().map(|&example| pairs.pair(example, epoch)).collect::<Vec<_>>();
    let equal = |a: Vec<Pair>, b: Vec<Pair>| a.iter().zip(&b).filter(|(a, b)| a == b).count();
    // Two epochs agree in one pair of about 60.
    assert!(equal(pairs_of(Some(1)), pairs_of(Some(2))) < 4);
    assert!(equal(pairs_of(Some(0)), pairs_of(None)) < 4);

    // However the rows are grouped.
    let together = pairs.batch(&numbers, Some(3));
    for (row, &example) in numbers.iter().enumerate() {
        let alone = pairs.batch(&[example], Some(3));
        assert_eq!(alone.input_ids, together.input_ids[row * 33..(row + 1) * 33]);
        assert_eq!(alone.targets, together.targets[row * 33..(row + 1) * 33]);
        assert_eq!(alone.sentence_labels.unwrap()[0], together.sentence_labels.as_ref().unwrap()[row]);
    }
}

#[test]
fn the_longest_document_takes_all_of_the_next_where_none_is_so_long() {
    let lengths = [100, 4, 3];
    let (_dir, store, masking) = store(&lengths, false);
    let pairs = SentencePairs::new(store, PairKind::NextSentence, masking, 128).unwrap();
    let mut seen = 0;
    for epoch in 0..100 {
        let row = all(&pairs, Some(epoch)).remove(0);
        if row.label == 1 && row.first.len() < 96 {
            assert_eq!(row.second, [100, 101, 102, 103]);
            seen += 1;
        }
    }
    assert!(seen > 30, "{seen}");
}

#[test]
fn what_makes_no_pairs_is_refused() {
    let (_dir, store, masking) = store(&[30, 1, 0], true);
    let new = |kind, seq_len| SentencePairs::new(store.clone(), kind, masking.clone(), seq_len);
    insta::assert_snapshot!(new(PairKind::SentenceOrder, 5).unwrap_err(), @"`objective.seq_len` is 5; expected at least 6 for sentence pairs");
    let error = new(PairKind::NextSentence, 16).unwrap_err();
    insta::assert_snapshot!(error, @"the corpus (memory: 3 documents, 112 B) has 1 documents of 2 tokens or more, but sentence pairs need 2");
    assert!(error.hint().unwrap().contains("several documents"));
    assert_eq!(new(PairKind::SentenceOrder, 16).unwrap().example_count(), 3);
}

#[test]
fn kinds_read_as_they_are_written() {
    assert_eq!(serde_json::to_value(PairKind::NextSentence).unwrap(), "next_sentence");
    assert_eq!(serde_json::from_value::<PairKind>("sentence_order".into()).unwrap(), PairKind::SentenceOrder);
}
