use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// The densities and span lengths of T5 and UL2.
const PUBLISHED: [(f64, f64); 6] = [(0.15, 3.0), (0.15, 8.0), (0.15, 64.0), (0.5, 3.0), (0.5, 8.0), (0.5, 64.0)];

fn noise(noise_density: f64, mean_span_length: f64) -> NoiseSpans {
    NoiseSpans::new(noise_density, mean_span_length).unwrap()
}

fn sentinels(count: i32) -> Vec<i32> {
    (0..count).map(|n| 9_999 - n).collect()
}

#[test]
fn lengths_are_those_of_the_reference() {
    // Source, block and target of `random_spans_helper` of T5's `preprocessors.py`, for each of `PUBLISHED`.
    let reference = [
        [(64, 70, 14), (114, 126, 26), (512, 568, 114), (1024, 1137, 229)],
        [(64, 73, 13), (114, 131, 23), (512, 588, 100), (1024, 1178, 200)],
        // With shorter sources the reference counts no span there, and hides one.
        [(500, 586, 90), (512, 600, 92), (1000, 1172, 180), (1024, 1200, 184)],
        [(64, 94, 64), (114, 170, 114), (512, 766, 512), (1024, 1534, 1024)],
        [(64, 112, 64), (114, 201, 113), (512, 908, 512), (1024, 1818, 1024)],
        [(64, 124, 64), (114, 222, 114), (512, 1006, 512), (1024, 2014, 1024)],
    ];
    for ((density, mean), lengths) in PUBLISHED.into_iter().zip(reference) {
        for (source, block, target) in lengths {
            let found = noise(density, mean).longest_block(source).unwrap();
            assert_eq!(found, CorruptedLengths { block, source, target }, "{density}, {mean}");
        }
    }
    // There the reference takes a token off the block for a shorter target, and with it off the source.
    let found = noise(0.5, 8.0).longest_block(2048).unwrap();
    assert_eq!(found, CorruptedLengths { block: 3639, source: 2048, target: 2049 });
}

#[test]
fn every_size_of_the_encoder_is_met_exactly() {
    for (density, mean) in PUBLISHED {
        let noise = noise(density, mean);
        for size in 3..1100 {
            let lengths = noise.longest_block(size).unwrap();
            assert_eq!(lengths.source, size, "{density}, {mean}: {lengths:?}");
            let evened = density == 0.5 && noise.lengths(lengths.block + 1).source == size;
            assert!(noise.lengths(lengths.block + 1 + usize::from(evened)).source > size, "{lengths:?} is too short");
        }
        assert_eq!(noise.longest_block(2), None);
    }
}

#[test]
fn counts_are_rounded_as_in_the_reference() {
    let counts = |block| noise(0.15, 3.0).counts(block);
    // 1.5, 4.5 and 10.5 hidden tokens go to the even number, and so do 85 / 3 spans to 28.
    assert_eq!([10, 30, 70, 568].map(|block| counts(block).0), [2, 4, 10, 85]);
    assert_eq!(counts(568), (85, 28));
    // Neither none nor all.
    assert_eq!([0, 1, 2, 3].map(counts), [(0, 0), (0, 0), (1, 1), (1, 1)]);
    assert_eq!(noise(0.9, 9.0).counts(2), (1, 1));
    // Two hidden tokens of three, with one token before them.
    assert_eq!(noise(0.5, 1.0).counts(3), (2, 1));
}

type Draw = fn(NoiseSpans, usize, u64) -> Vec<Range<usize>>;
/// The two ways of hiding.
const DRAWS: [Draw; 2] = [NoiseSpans::draw, NoiseSpans::draw_rolled];

#[test]
fn a_million_tokens_are_hidden_at_the_density_and_in_spans_of_the_length() {
    for ((density, mean), draw) in PUBLISHED.into_iter().flat_map(|it| DRAWS.map(|draw| (it, draw))) {
        let (mut tokens, mut hidden, mut spans) = (0.0, 0.0, 0.0);
        for example in 0..1280 {
            // Of as many lengths as lie between even spans of 64 tokens: what one length rounds, another rounds the other way.
            let block: Vec<i32> = (0..200 + example).collect();
            let ranges = draw(noise(density, mean), block.len(), keyed(&[3, example as u64]));
            let (source, target) = corrupt(&block, &ranges, &sentinels(400)).unwrap();
            let written = target.iter().filter(|&&id| id < 9_000).count();
            assert_eq!(source.iter().filter(|&&id| id < 9_000).count() + written, block.len());
            tokens += block.len() as f64;
            hidden += written as f64;
            spans += (target.len() - written) as f64;
        }
        assert!(tokens >= 1e6);
        assert!((hidden / tokens / density - 1.0).abs() < 0.01, "{} for {density}", hidden / tokens);
        assert!((hidden / spans / mean - 1.0).abs() < 0.01, "{} for {mean}", hidden / spans);
    }
}

#[test]
fn every_way_of_cutting_is_as_likely() {
    for (items, parts, ways) in [(7, 3, 15), (6, 1, 1), (6, 6, 1), (9, 5, 70), (30, 2, 29)] {
        let mut counts = BTreeMap::new();
        for i in 0..1000 * ways {
            let lengths = segments(items, parts, keyed(&[11, i]));
            assert!(lengths.len() == parts && lengths.iter().sum::<usize>() == items && !lengths.contains(&0));
            *counts.entry(lengths).or_insert(0.0) += 1.0;
        }
        assert_eq!(counts.len() as u64, ways, "{items} in {parts}");
        assert_as_likely(&counts.into_values().collect::<Vec<_>>());
    }
    assert!(segments(0, 0, 1).is_empty());
}

/// Asserts that all counts are of as likely cases.
fn assert_as_likely(counts: &[f64]) {
    let expected = counts.iter().sum::<f64>() / counts.len() as f64;
    let chi_square: f64 = counts.iter().map(|count| (count - expected).powi(2) / expected).sum();
    // Five standard deviations around the mean of a chi-square with `freedom` degrees of freedom.
    let freedom = counts.len() as f64 - 1.0;
    assert!((chi_square - freedom).abs() <= 5.0 * (2.0 * freedom).sqrt(), "{chi_square}: {counts:?}");
}

#[test]
fn a_single_span_is_anywhere_when_rolled_and_the_end_else() {
    // 15 of 100 tokens are one span, which has 86 places.
    let noise = noise(0.15, 64.0);
    let mut places = vec![0.0; 86];
    for i in 0..86_000 {
        let ranges = noise.draw_rolled(100, keyed(&[8, i]));
        assert!(ranges.len() == 1 && ranges[0].len() == 15);
        places[ranges[0].start] += 1.0;
        assert_eq!(noise.draw(100, keyed(&[8, i]))[0], 85..100);
    }
    assert_as_likely(&places);
}

#[test]
fn rolled_spans_are_all_ways_in_turn() {
    // Of 7 tokens 4 are hidden in 2 spans: 3 ways of cutting them, and 5 ways of putting two spans between and around 3 shown tokens
    // so that they touch neither in the block nor around its ends.
    let noise = noise(4.0 / 7.0, 2.0);
    assert_eq!(noise.counts(7), (4, 2));
    let mut counts = BTreeMap::new();
    for i in 0..30_000 {
        let ranges = noise.draw_rolled(7, keyed(&[9, i]));
        assert!(ranges[0].end < ranges[1].start, "{ranges:?}");
        let borders: Vec<usize> = ranges.iter().flat_map(|range| [range.start, range.end]).collect();
        *counts.entry(borders).or_insert(0.0) += 1.0;
    }
    assert_eq!(counts.len(), 15);
    assert_as_likely(&counts.into_values().collect::<Vec<_>>());
}

#[test]
fn hidden_and_shown_pieces_are_cut_by_themselves() {
    // Of 20 tokens 10 are hidden in 3 spans; the first shown and the first hidden piece would be as long if both had one key.
    let lengths = |i| {
        let ranges = noise(0.5, 3.0).draw(20, keyed(&[i]));
        (ranges[0].start as f64, ranges[0].len() as f64)
    };
    let drawn: Vec<(f64, f64)> = (0..20_000).map(lengths).collect();
    let mean = |of: &dyn Fn(&(f64, f64)) -> f64| drawn.iter().map(of).sum::<f64>() / drawn.len() as f64;
    let (shown, hidden) = (mean(&|it| it.0), mean(&|it| it.1));
    let covariance = mean(&|it| (it.0 - shown) * (it.1 - hidden));
    let variance = mean(&|it| (it.0 - shown).powi(2));
    // The correlation of 20,000 independent pairs has a standard deviation of 0.007.
    assert!((covariance / variance).abs() < 0.035, "{}", covariance / variance);
}

proptest! {
    #[test]
    fn what_was_hidden_can_be_put_back(
        block in prop::collection::vec(0..9_000, 0..400), noise_density in 0.01f64..0.5, mean in 1.0f64..20.0, key: u64,
    ) {
        let noise = noise(noise_density, mean);
        let sentinels = sentinels(200);
        let lengths = noise.lengths(block.len());
        for draw in DRAWS {
            let ranges = draw(noise, block.len(), key);
            let (source, target) = corrupt(&block, &ranges, &sentinels).unwrap();
            // Both without the token that ends them.
            prop_assert_eq!((source.len() + 1, target.len() + 1), (lengths.source, lengths.target));
            prop_assert_eq!(restore(&source, &target, &sentinels), block.clone());
            // None touches another.
            prop_assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start), "{:?}", ranges);
        }

        let ranges = noise.draw(block.len(), key);
        let (source, target) = corrupt(&block, &ranges, &sentinels).unwrap();
        let borders: Vec<usize> = ranges.iter().flat_map(|range| [range.start, range.end]).collect();
        prop_assert!(borders.windows(2).all(|pair| pair[0] < pair[1]), "{:?}", ranges);
        prop_assert!(borders.first() != Some(&0), "begins with a hidden token");
        prop_assert!(block.len() < 2 || borders.last() == Some(&block.len()), "ends with a shown token");
        for (n, range) in ranges.iter().enumerate() {
            let at = |ids: &[i32]| ids.iter().position(|id| *id == sentinels[n]).unwrap();
            prop_assert_eq!(source[at(&source) - 1], block[range.start - 1]);
            prop_assert_eq!(&target[at(&target) + 1..][..range.len()], &block[range.clone()]);
        }
    }
}

#[test]
fn the_example_of_the_paper_reads_as_printed() {
    // Thank you for inviting me to your party last week, with "for inviting" and "last" hidden; the last sentinel of the paper's
    // figure is not in the reference.
    let (source, target) = corrupt(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], &[2..4, 8..9], &[90, 91]).unwrap();
    assert_eq!(source, [1, 2, 90, 5, 6, 7, 8, 91, 10]);
    assert_eq!(target, [90, 3, 4, 91, 9]);
}

#[test]
fn targets_that_lack_spans_leave_them_empty() {
    let sentinels = [90, 91, 92];
    let source = [1, 90, 2, 91, 3, 92];
    assert_eq!(restore(&source, &[90, 7, 91, 8, 8, 92, 9], &sentinels), [1, 7, 2, 8, 8, 3, 9]);
    assert_eq!(restore(&source, &[90, 7, 91, 92, 9], &sentinels), [1, 7, 2, 3, 9]);
    assert_eq!(restore(&source, &[91, 8], &sentinels), [1, 2, 8, 3]);
    assert_eq!(restore(&source, &[], &sentinels), [1, 2, 3]);
    // A sentinel out of turn is a token of the text.
    assert_eq!(restore(&[92, 90, 91], &[90, 92, 91, 5], &sentinels), [92, 92, 5]);
}

#[test]
fn too_few_sentinels_are_refused_with_both_numbers() {
    let ranges = noise(0.15, 3.0).draw(568, 4);
    assert!(corrupt(&[1; 568], &ranges, &sentinels(28)).is_ok());
    let error = corrupt(&[1; 568], &ranges, &sentinels(27)).unwrap_err();
    insta::assert_snapshot!(error, @"a block of 568 tokens has 28 hidden spans, but the tokenizer has 27 sentinel tokens");
    insta::assert_snapshot!(error.hint().unwrap(), @"lower objective.seq_len or objective.noise_density, raise objective.mean_span_length, or take a tokenizer with more of <extra_id_0>, <extra_id_1>, ...");
}
