use std::ops::Range;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::StepSize;
use crate::blocks::Tail;
use crate::loader::{BatchSource, Loader, LoaderOptions};
use crate::masked_batch::{MaskedBatch, MaskedBatches, MaskedExamples};
use crate::masked_blocks::MaskedBlocks;
use crate::store::tests::memory;
use crate::store::{StoreOptions, TokenStore};
use crate::tokenizer::TokenizerKind;
use crate::tokenizer::pieces_tests::{roberta, trained, wordpiece};

/// Ids below this are special in `wordpiece`; words come first, then continuations.
const SPECIALS: i32 = 5;
const WORDS: usize = 60;
const CONTINUATIONS: usize = 40;

fn masking(config: MaskingConfig) -> Masking {
    Masking::new(config, &wordpiece(WORDS, CONTINUATIONS), 17).unwrap()
}

fn whole_words() -> MaskingConfig {
    MaskingConfig { whole_words: true, ..MaskingConfig::default() }
}

/// Rows as in training: `[CLS]`, ordinary tokens as equally likely as a hash makes them, `[SEP]`.
fn row(seed: u64, tokens: usize) -> Vec<i32> {
    let token = |i: usize| SPECIALS + below(keyed(&[seed, i as u64]), (WORDS + CONTINUATIONS) as u64) as i32;
    [2].into_iter().chain((0..tokens).map(token)).chain([3]).collect()
}

/// The words of a row of `wordpiece` ids, by their definition.
fn words_of(ids: &[i32]) -> Vec<Range<usize>> {
    let ordinary = |i: usize| ids[i] >= SPECIALS;
    let continues = |i: usize| ids[i] >= SPECIALS + WORDS as i32;
    let begins = |i: usize| ordinary(i) && (!continues(i) || i == 0 || !ordinary(i - 1));
    let end = |i: usize| (i + 1..ids.len()).find(|&j| !ordinary(j) || begins(j)).unwrap_or(ids.len());
    (0..ids.len()).filter(|&i| begins(i)).map(|i| i..end(i)).collect()
}

/// What became of a million tokens.
#[derive(Default)]
struct Counts {
    tokens: f64,
    chosen: f64,
    mask: f64,
    kept: f64,
    random: Vec<f64>,
    /// Tokens of each word, squared and summed: how far tokens that are chosen together spread the number of those chosen.
    squares: f64,
}

fn count(masking: &Masking) -> Counts {
    let vocabulary = WORDS + CONTINUATIONS;
    let mut counts = Counts { random: vec![0.0; vocabulary], ..Counts::default() };
    for example in 0..2000 {
        let original = row(example, 500);
        let mut ids = original.clone();
        let targets = masking.apply(&mut ids, Some(3), example);
        counts.tokens += 500.0;
        counts.squares += words_of(&original).iter().map(|word| (word.len() as f64).powi(2)).sum::<f64>();
        for ((&before, &after), &target) in original.iter().zip(&ids).zip(&targets) {
            if target == IGNORE_TARGET {
                assert_eq!(before, after, "a token that is not predicted was changed");
                continue;
            }
            assert_eq!(before, target);
            counts.chosen += 1.0;
            match after {
                4 => counts.mask += 1.0,
                _ if after == before => counts.kept += 1.0,
                _ => counts.random[(after - SPECIALS) as usize] += 1.0,
            }
        }
    }
    counts
}

/// Asserts that `found` successes of `trials` fit to `probability` within five standard deviations, each `spread` times that of
/// independent trials: by chance, one assertion of 1.7 million fails.
fn assert_share(found: f64, trials: f64, probability: f64, spread: f64, what: &str) {
    let deviation = (trials * probability * (1.0 - probability)).sqrt() * spread;
    let expected = trials * probability;
    assert!((found - expected).abs() < 5.0 * deviation, "{what}: {found}, not {expected:.0} +- {deviation:.0}");
}

#[test]
fn a_million_tokens_are_masked_at_the_rates() {
    for config in [MaskingConfig::default(), whole_words()] {
        let counts = count(&masking(config));
        // Tokens of a word are chosen together.
        let spread = if config.whole_words { (counts.squares / counts.tokens).sqrt() } else { 1.0 };
        assert_share(counts.chosen, counts.tokens, 0.15, spread, "chosen");
        // A random token may be the one that was there.
        let same = 0.1 / counts.random.len() as f64;
        assert_share(counts.mask, counts.chosen, 0.8, 1.0, "mask");
        assert_share(counts.kept, counts.chosen, 0.1 + same, 1.0, "kept");
        assert_share(counts.random.iter().sum(), counts.chosen, 0.1 - same, 1.0, "random");
    }
}

#[test]
fn random_tokens_are_uniform_over_the_ordinary_vocabulary() {
    // Every chosen token replaced: 150,000 draws over 100 tokens.
    let config = MaskingConfig { mask_share: 0.0, random_share: 1.0, ..MaskingConfig::default() };
    let counts = count(&masking(config)).random;
    let expected = counts.iter().sum::<f64>() / counts.len() as f64;
    let chi_square: f64 = counts.iter().map(|count| (count - expected).powi(2) / expected).sum();
    // 99 degrees of freedom: a mean of 99 and a standard deviation of 14.
    assert!((99.0 - 5.0 * 14.1..99.0 + 5.0 * 14.1).contains(&chi_square), "{chi_square}");
}

proptest! {
    #[test]
    fn words_stay_whole_and_special_tokens_stand(
        ids in prop::collection::vec(0..SPECIALS + (WORDS + CONTINUATIONS) as i32, 0..80),
        rate in 0.01f64..1.0, whole_words: bool, epoch: Option<u64>, example: u64,
    ) {
        let masking = masking(MaskingConfig { rate, whole_words, ..MaskingConfig::default() });
        let mut masked = ids.clone();
        let targets = masking.apply(&mut masked, epoch, example);
        prop_assert_eq!(targets.len(), ids.len());
        for i in 0..ids.len() {
            prop_assert!(targets[i] == IGNORE_TARGET || targets[i] == ids[i]);
            prop_assert!(targets[i] != IGNORE_TARGET || masked[i] == ids[i]);
            prop_assert!(ids[i] >= SPECIALS || targets[i] == IGNORE_TARGET, "special token {} chosen", ids[i]);
            prop_assert!(masked[i] == ids[i] || masked[i] == 4 || masked[i] >= SPECIALS, "{} put", masked[i]);
        }
        if whole_words {
            for word in words_of(&ids) {
                let chosen = word.clone().filter(|&i| targets[i] != IGNORE_TARGET).count();
                prop_assert!(chosen == 0 || chosen == word.len(), "{chosen} pieces of the word at {word:?}");
            }
        }
        let maskable = ids.iter().any(|&id| id >= SPECIALS);
        prop_assert_eq!(targets.iter().any(|&target| target != IGNORE_TARGET), maskable);

        // Padding changes nothing before it.
        let mut padded = ids.clone();
        padded.resize(ids.len() + 9, 0);
        let padded_targets = masking.apply(&mut padded, epoch, example);
        prop_assert_eq!(&padded[..ids.len()], &masked);
        prop_assert_eq!(&padded_targets[..ids.len()], &targets);
        prop_assert!(padded_targets[ids.len()..].iter().all(|&target| target == IGNORE_TARGET));
    }

    #[test]
    fn a_row_without_a_choice_has_one_unit(seed: u64, example: u64) {
        // A hundred tokens at a rate of one in a million.
        let original = row(seed, 100);
        for whole_words in [false, true] {
            let mut ids = original.clone();
            let targets = masking(MaskingConfig { rate: 1e-6, whole_words, ..MaskingConfig::default() }).apply(&mut ids, None, example);
            let chosen: Vec<usize> = (0..ids.len()).filter(|&i| targets[i] != IGNORE_TARGET).collect();
            if whole_words {
                prop_assert!(words_of(&original).iter().any(|word| word.clone().eq(chosen.iter().copied())));
            } else {
                prop_assert_eq!(chosen.len(), 1);
            }
        }
    }
}

#[test]
fn the_one_unit_of_a_row_without_a_choice_is_any() {
    let masking = masking(MaskingConfig { rate: 1e-9, ..MaskingConfig::default() });
    let mut counts = [0; 10];
    for example in 0..10_000 {
        let targets = masking.apply(&mut row(example, 10), Some(0), example);
        counts[targets.iter().position(|&target| target != IGNORE_TARGET).unwrap() - 1] += 1;
    }
    // Each count has a standard deviation of 30 around 1,000.
    assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
}

#[test]
fn seed_epoch_and_example_each_change_the_mask() {
    let of = |seed, epoch, example| {
        let masking = Masking::new(MaskingConfig::default(), &wordpiece(WORDS, CONTINUATIONS), seed).unwrap();
        masking.apply(&mut row(0, 100), epoch, example)
    };
    let all = [of(1, Some(0), 0), of(2, Some(0), 0), of(1, Some(1), 0), of(1, None, 0), of(1, Some(0), 1)];
    for (i, a) in all.iter().enumerate() {
        assert!(all[i + 1..].iter().all(|b| a != b), "{i}");
    }
    assert_eq!(of(1, Some(0), 0), all[0]);
}

#[test]
fn words_of_byte_pairs_stay_whole_in_the_text() {
    let text = "the lowest newest wide river, lower than the widest (newer) river; \n\nlow\twide naïve 日本 rivers. "
        .repeat(30);
    let tokenizer = roberta(&memory(&[&text]), 290);
    let masking = Masking::new(whole_words(), &tokenizer, 5).unwrap();
    let original: Vec<i32> = tokenizer.encode(&text).unwrap().into_iter().map(|id| id as i32).collect();
    let mut several = 0;
    for example in 0..50 {
        let mut ids = original.clone();
        let targets = masking.apply(&mut ids, Some(0), example);
        let chosen: Vec<bool> = targets.iter().map(|&target| target != IGNORE_TARGET).collect();
        for (neighbours, &id) in chosen.windows(2).zip(&original[1..]) {
            let piece = tokenizer.decode(&[id as u32], false).unwrap();
            if !piece.starts_with([' ', '\n', '\t']) {
                assert_eq!(neighbours[0], neighbours[1], "{piece:?} was split off");
                several += usize::from(neighbours[1]);
            }
        }
    }
    assert!(several > 1000, "the text has no words of several pieces: {several}");
}

/// A store of `tokens` words of `wordpiece`, in documents of 70 that end with `[SEP]`.
fn store(tokens: usize) -> (tempfile::TempDir, Arc<TokenStore>) {
    let ids: Vec<i32> = row(1, tokens)[1..=tokens].to_vec();
    let spell = |&id: &i32| match (id - SPECIALS) as usize {
        word if word < WORDS => format!(" w{word}"),
        continuation => format!("x{}", continuation - WORDS),
    };
    // A continuation at the beginning of a document would be an unknown word.
    let texts: Vec<String> =
        ids.chunks(70).map(|ids| "w0".to_owned() + &ids.iter().map(spell).collect::<String>()).collect();
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = wordpiece(WORDS, CONTINUATIONS);
    let store = TokenStore::build_or_open(&memory(&texts), &tokenizer, dir.path(), &StoreOptions::default()).unwrap();
    (dir, store.into())
}

fn blocks(store: &Arc<TokenStore>, tail: Tail) -> MaskedBlocks {
    MaskedBlocks::new(store.clone(), masking(whole_words()), 32, tail).unwrap()
}

/// A row before it was masked.
fn unmasked(batch: &MaskedBatch) -> Vec<i32> {
    let pairs = batch.input_ids.iter().zip(&batch.targets);
    pairs.map(|(&id, &target)| if target == IGNORE_TARGET { id } else { target }).collect()
}

#[test]
fn blocks_hold_every_token_once_between_their_special_tokens() {
    let (_dir, store) = store(1000);
    let blocks_of = |tail| {
        let blocks = blocks(&store, tail);
        let batch = blocks.batch(&(0..blocks.example_count()).collect::<Vec<_>>(), None);
        let rows = unmasked(&batch);
        let mut text = Vec::new();
        for (row, &length) in rows.chunks(32).zip(&batch.lengths) {
            let (length, padding) = (length as usize, &row[length as usize..]);
            assert_eq!((row[0], row[length - 1]), (2, 3));
            assert!(padding.iter().all(|&id| id == 0));
            text.extend_from_slice(&row[1..length - 1]);
        }
        assert_eq!(batch.token_count(), text.len() + 2 * batch.batch);
        assert!(batch.token_type_ids.iter().all(|&token_type| token_type == 0));
        assert_eq!((batch.token_type_ids.len(), batch.sentence_labels.clone()), (rows.len(), None));
        let (positions, targets) = batch.masked_positions();
        assert_eq!(positions.len(), batch.target_count());
        assert!(positions.iter().zip(&targets).all(|(&position, &target)| batch.targets[position as usize] == target));
        assert!(positions.is_sorted() && !targets.contains(&IGNORE_TARGET));
        (text, batch)
    };
    let mut all = vec![0; store.len() as usize];
    store.read(0, &mut all);
    assert!(all.contains(&3), "documents are separated");
    let ((padded, batch), (full, _)) = (blocks_of(Tail::Pad), blocks_of(Tail::Drop));
    assert_eq!(padded, all);
    assert!(batch.lengths.last().is_some_and(|&length| length < 32), "the last block is full: choose another size");
    assert_eq!(full, all[..all.len() / 30 * 30]);
}

#[test]
fn the_grouping_into_batches_does_not_change_a_row() {
    let (_dir, store) = store(3000);
    let rows = |micro_batch_size, gradient_accumulation| {
        let size = StepSize { micro_batch_size, gradient_accumulation };
        let source = MaskedBatches::shuffled(blocks(&store, Tail::Drop), 4, size).unwrap();
        let steps = 0..24 / size.examples() * 8;
        let loader = Loader::start(Arc::new(source), steps, LoaderOptions { workers: 2, ahead: 2 }).unwrap();
        let batches: Vec<MaskedBatch> = loader.flat_map(|step| step.unwrap().1).collect();
        let concat = |of: fn(&MaskedBatch) -> &Vec<i32>| batches.iter().flat_map(of).copied().collect::<Vec<_>>();
        (
            concat(|it| &it.input_ids),
            concat(|it| &it.targets),
            batches.iter().flat_map(|it| it.examples.clone()).collect::<Vec<_>>(),
        )
    };
    let whole = rows(8, 1);
    assert_eq!(whole.2.len(), 192, "more than one epoch");
    assert_eq!(whole, rows(4, 2));
    assert_eq!(whole, rows(1, 8));
}

#[test]
fn training_masks_anew_each_epoch_and_evaluation_never() {
    let (_dir, store) = store(1000);
    let size = StepSize { micro_batch_size: 4, gradient_accumulation: 1 };
    let training = || MaskedBatches::shuffled(blocks(&store, Tail::Drop), 4, size).unwrap();
    let of_example = |source: &MaskedBatches, epoch: u64| {
        let steps = source.steps_per_epoch();
        let mut rows: Vec<(u64, Vec<i32>)> = (epoch * steps..(epoch + 1) * steps)
            .flat_map(|step| source.micro_batches(step).unwrap())
            .flat_map(|batch| {
                batch
                    .examples
                    .clone()
                    .into_iter()
                    .zip(batch.targets.chunks(32).map(<[i32]>::to_vec).collect::<Vec<_>>())
            })
            .collect();
        rows.sort();
        rows
    };
    let (first, second) = (of_example(&training(), 0), of_example(&training(), 1));
    let common: Vec<_> = first.iter().filter_map(|a| second.iter().find(|b| a.0 == b.0).map(|b| (a, b))).collect();
    let equal = common.iter().filter(|(a, b)| a.1 == b.1).count();
    assert!(common.len() > 20 && equal == 0, "{equal} of {} blocks have the same mask in both epochs", common.len());

    let evaluation = MaskedBatches::sequential(blocks(&store, Tail::Pad), 4).unwrap();
    assert_eq!(of_example(&evaluation, 0), of_example(&evaluation, 1));
    assert_eq!(of_example(&evaluation, 0).len() as u64, blocks(&store, Tail::Pad).example_count());
    let fixed = training().with_fixed_noise();
    assert!(of_example(&fixed, 0).iter().all(|a| of_example(&fixed, 1).iter().all(|b| a.0 != b.0 || a == b)));
    let overfit = training().first_steps(2);
    assert_eq!(overfit.micro_batches(1).unwrap(), overfit.micro_batches(7).unwrap());
}

#[test]
fn shares_that_are_none_are_refused_by_key() {
    let error = |config: MaskingConfig| config.validate().unwrap_err().to_string();
    let default = MaskingConfig::default();
    insta::assert_snapshot!(error(MaskingConfig { rate: 1.5, ..default }), @"`objective.masking.rate` is 1.5; expected a share above 0 and up to 1");
    for rate in [0.0, -0.1, f64::NAN] {
        assert!(error(MaskingConfig { rate, ..default }).contains("objective.masking.rate"));
    }
    assert!(error(MaskingConfig { mask_share: -0.1, ..default }).contains("objective.masking.mask_share"));
    assert!(error(MaskingConfig { random_share: f64::NAN, ..default }).contains("objective.masking.random_share"));
    insta::assert_snapshot!(error(MaskingConfig { random_share: 0.3, ..default }), @"`objective.masking.random_share` is 0.3; expected at most 1 together with objective.masking.mask_share = 0.8");
    for (mask_share, random_share) in [(0.7, 0.3), (1.0, 0.0), (0.0, 1.0), (0.57, 0.43)] {
        MaskingConfig { mask_share, random_share, rate: 1.0, ..default }.validate().unwrap();
    }
    assert!(Masking::new(MaskingConfig { rate: 2.0, ..default }, &wordpiece(1, 1), 0).is_err());
}

#[test]
fn the_table_reads_as_written() {
    let config: MaskingConfig = toml::from_str("rate = 0.3\nwhole_words = true").unwrap();
    assert_eq!(config, MaskingConfig { rate: 0.3, whole_words: true, ..MaskingConfig::default() });
    assert!(toml::from_str::<MaskingConfig>("mask_rate = 0.3").is_err());
}

#[test]
fn a_tokenizer_that_can_not_mask_says_what_it_lacks() {
    let bytes = trained(TokenizerKind::Byte, "text");
    let error = Masking::new(MaskingConfig::default(), &bytes, 0).unwrap_err();
    insta::assert_snapshot!(error, @"the tokenizer has no token [CLS] (or <s>)");
    // Unigram has <pad> and </s>.
    let unigram = trained(TokenizerKind::Unigram, "low lower lowest low lower lowest");
    let error = Masking::new(whole_words(), &unigram, 0).unwrap_err();
    insta::assert_snapshot!(error, @"`objective.masking.whole_words` is true; expected false: this tokenizer's vocabulary doesn't say which pieces continue a word, as WordPiece and byte-level BPE do");
}

#[test]
fn blocks_without_room_or_text_are_refused() {
    let (_dir, store) = store(20);
    let new = |seq_len, tail| MaskedBlocks::new(store.clone(), masking(MaskingConfig::default()), seq_len, tail);
    insta::assert_snapshot!(new(2, Tail::Drop).unwrap_err(), @"`objective.seq_len` is 2; expected at least 3: [CLS], a token and [SEP]");
    insta::assert_snapshot!(new(64, Tail::Drop).unwrap_err(), @"the corpus (memory: 1 documents, 69 B) has 22 tokens, but one block of seq_len 64 needs 62");
    assert_eq!(new(64, Tail::Pad).unwrap().batch(&[0], None).lengths, [24]);
    assert_eq!(new(3, Tail::Drop).unwrap().example_count(), store.len());
}
