use super::*;

fn bert(texts: &[&str]) -> Tokenizer {
    let config = TokenizerConfig { kind: TokenizerKind::Wordpiece, vocab_size: 400, ..TokenizerConfig::default() };
    Tokenizer::train(&config, &memory(texts)).unwrap()
}

#[test]
fn an_encoded_set_gives_batches_as_long_as_their_longest_row() {
    let rte = "index\tsentence1\tsentence2\tlabel\n0\ta b\tc\tentailment\n1\tb\ta\tnot_entailment\n2\tc c c c\ta b c\tentailment\n";
    let test = "index\tsentence1\tsentence2\n0\ta\tb\n";
    let splits = open_task(GlueTask::Rte, &[("train.tsv", rte), ("dev.tsv", rte), ("test.tsv", test)]);
    let tokenizer = bert(&["a b c", "c b a"]);
    let id = |token: &str| tokenizer.token_to_id(token).unwrap() as i32;
    let (pad, cls, sep, a, b, c) = (id("[PAD]"), id("[CLS]"), id("[SEP]"), id("a"), id("b"), id("c"));
    let set = EncodedSet::build(&splits.train, &tokenizer, 8).unwrap();
    assert_eq!((set.len(), set.truncated(), set.tokens()), (3, 1, 6 + 5 + 8));
    assert_eq!(set.lengths(), [6, 5, 8]);
    assert_eq!(set.labels(), &Labels::Classes(vec![0, 1, 0]));

    let batch = set.batch(&[1, 0]);
    assert_eq!(batch.input_ids, [cls, b, sep, a, sep, pad, cls, a, b, sep, c, sep]);
    assert_eq!(batch.token_type_ids, [0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 1, 1]);
    assert_eq!((batch.lengths.as_slice(), &batch.labels), (&[5, 6][..], &Labels::Classes(vec![1, 0])));
    assert_eq!((batch.batch, batch.seq_len, batch.token_count()), (2, 6, 11));
    assert_eq!(batch.examples, [1, 0]);
    // Five tokens have room: of four and three, three and two are left.
    assert_eq!(set.batch(&[2]).input_ids, [cls, c, c, c, sep, a, b, sep]);

    let secret = EncodedSet::build(&splits.test[0], &tokenizer, 8).unwrap();
    assert_eq!(secret.labels(), &Labels::Classes(vec![IGNORE_TARGET]));
    assert_eq!(secret.index(0), 0);
    let error = EncodedSet::build(&splits.train, &tokenizer, 4).unwrap_err();
    assert!(matches!(error, DataError::ConfigValue { key: "data.max_len", .. }), "{error}");
}

#[test]
fn training_batches_visit_each_example_and_evaluation_sorts_by_length() {
    let row = |i: usize| format!("{}\t{}\n", "a ".repeat(1 + i * 7 % 30), i % 2);
    let table = format!("sentence\tlabel\n{}", (0..101).map(row).collect::<String>());
    let splits = open_task(GlueTask::Sst2, &[("train.tsv", &table), ("dev.tsv", &table)]);
    let set = Arc::new(EncodedSet::build(&splits.train, &bert(&["a b"]), 20).unwrap());
    for group_by_length in [true, false] {
        let size = StepSize { micro_batch_size: 4, gradient_accumulation: 2 };
        let batches = LabelledBatches::training(set.clone(), 3, size, group_by_length).unwrap();
        assert_eq!(batches.steps_per_epoch(), 13);
        let mut seen = Vec::new();
        for step in 13..26 {
            for batch in batches.micro_batches(step).unwrap() {
                assert_eq!(batch.input_ids.len(), batch.batch * batch.seq_len);
                assert_eq!(batch.lengths.iter().max().copied(), Some(batch.seq_len as i32));
                seen.extend(batch.examples);
            }
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..101).collect::<Vec<_>>());
        let first = batches.first_steps(1);
        assert_eq!(first.micro_batches(0).unwrap(), first.micro_batches(5).unwrap());
    }
    let batches = LabelledBatches::evaluation(set.clone(), 8, None).unwrap();
    let lengths: Vec<i32> = (0..batches.steps_per_epoch())
        .flat_map(|step| batches.micro_batches(step).unwrap().remove(0).lengths)
        .collect();
    assert_eq!(lengths.len(), 101);
    assert!(lengths.is_sorted());
    assert_eq!((lengths[0], lengths[100], set.truncated()), (3, 20, 40));
    // A part of the set is its beginning, not what is shortest in all of it.
    let beginning = LabelledBatches::evaluation(set.clone(), 8, Some(2)).unwrap();
    assert_eq!(beginning.steps_per_epoch(), 2);
    let batches: Vec<_> = beginning.first(2).map(Result::unwrap).collect();
    assert!(batches.iter().flat_map(|batch| &batch.lengths).is_sorted());
    let mut seen: Vec<u64> = batches.into_iter().flat_map(|batch| batch.examples).collect();
    seen.sort_unstable();
    assert_eq!(seen, (0..16).collect::<Vec<_>>());
    assert_eq!(LabelledBatches::evaluation(set, 8, Some(99)).unwrap().steps_per_epoch(), 13);
}

#[test]
fn scores_become_numbers_of_a_batch() {
    let csv = "text,label\na,1.5\nb a,0\n";
    let config = "files = ['DIR/a.csv']\nvalid_files = ['DIR/b.csv']\ntest_files = ['DIR/c.csv']\nregression = true";
    let splits = open_own(&[("a.csv", csv), ("b.csv", csv), ("c.csv", "text\na\n")], config).unwrap();
    let tokenizer = bert(&["a b"]);
    let set = EncodedSet::build(&splits.train, &tokenizer, 8).unwrap();
    assert_eq!(set.batch(&[1, 0]).labels, Labels::Scores(vec![0.0, 1.5]));
    let Labels::Scores(secret) = EncodedSet::build(&splits.test[0], &tokenizer, 8).unwrap().labels().clone() else {
        panic!("scores are numbers");
    };
    assert!(secret.len() == 1 && secret[0].is_nan());
}
