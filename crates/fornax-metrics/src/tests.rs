//! All metrics against the values of their reference implementations, which `tests/fixtures/generate_metrics.py` wrote.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde::Deserialize;

use crate::*;

#[derive(Deserialize)]
struct Golden {
    texts: Vec<Text>,
    sets: Vec<Set>,
}

#[derive(Deserialize)]
struct Text {
    hypothesis: String,
    references: Vec<String>,
    rouge: BTreeMap<String, [f64; 3]>,
    verbatim: bool,
    exact_match: f64,
    f1: f64,
}

/// A set of texts by their numbers.
#[derive(Deserialize)]
struct Set {
    texts: Vec<usize>,
    bleu: BTreeMap<String, GoldenBleu>,
    chrf: BTreeMap<String, f64>,
}

#[derive(Deserialize)]
struct GoldenBleu {
    score: f64,
    precisions: [f64; 4],
    bp: f64,
    lengths: [u64; 2],
    matches: Option<[u64; 4]>,
    totals: Option<[u64; 4]>,
}

fn golden() -> Golden {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/metrics/golden.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Sums of a few numbers in the same order: rounding alone may differ.
#[track_caller]
fn assert_close(found: f64, expected: f64, what: &str) {
    assert!((found - expected).abs() <= 1e-9 * expected.abs(), "{what}: {found}, expected {expected}");
}

fn bleu_options(name: &str) -> BleuOptions {
    let plain = BleuOptions::default();
    match name {
        "default" => plain,
        "none" => BleuOptions { tokenizer: BleuTokenizer::None, ..plain },
        "char" => BleuOptions { tokenizer: BleuTokenizer::Char, ..plain },
        "intl" => BleuOptions { tokenizer: BleuTokenizer::International, ..plain },
        "lowercase" => BleuOptions { lowercase: true, ..plain },
        "effective" => BleuOptions { effective_order: true, ..plain },
        "unsmoothed" => BleuOptions { smoothing: Smoothing::None, ..plain },
        "floor" => BleuOptions { smoothing: Smoothing::Floor(0.1), ..plain },
        "add-k" => BleuOptions { smoothing: Smoothing::AddK(1.0), ..plain },
        "add-k effective" => BleuOptions { smoothing: Smoothing::AddK(0.5), effective_order: true, ..plain },
        other => panic!("{other}"),
    }
}

fn bleu(options: BleuOptions, texts: &[(&str, Vec<&str>)]) -> BleuScore {
    let mut bleu = Bleu::new(options).unwrap();
    texts.iter().for_each(|(hypothesis, references)| bleu.add(hypothesis, references).unwrap());
    bleu.finish().unwrap()
}

fn chrf(options: ChrfOptions, texts: &[(&str, Vec<&str>)]) -> f64 {
    let mut chrf = Chrf::new(options).unwrap();
    texts.iter().for_each(|(hypothesis, references)| chrf.add(hypothesis, references).unwrap());
    chrf.finish().unwrap()
}

fn texts_of<'a>(golden: &'a Golden, set: &Set) -> Vec<(&'a str, Vec<&'a str>)> {
    let texts = set.texts.iter().map(|number| &golden.texts[*number]);
    texts.map(|it| (it.hypothesis.as_str(), it.references.iter().map(String::as_str).collect())).collect()
}

#[test]
fn bleu_is_sacrebleus() {
    let golden = golden();
    for set in &golden.sets {
        assert_eq!(set.bleu.len(), 10);
        for (name, expected) in &set.bleu {
            let found = bleu(bleu_options(name), &texts_of(&golden, set));
            let what = format!("{name} of {:?}", set.texts);
            assert_eq!([found.hypothesis_length, found.reference_length], expected.lengths, "{what}");
            assert_eq!(expected.matches.unwrap_or(found.matches), found.matches, "{what}");
            assert_eq!(expected.totals.unwrap_or(found.totals), found.totals, "{what}");
            assert_close(found.score, expected.score, &what);
            assert_close(found.brevity_penalty, expected.bp, &what);
            (0..4).for_each(|order| assert_close(found.precisions[order], expected.precisions[order], &what));
        }
    }
}

#[test]
fn chrf_is_sacrebleus() {
    let golden = golden();
    for set in &golden.sets {
        assert_eq!(set.chrf.len(), 4);
        for (name, expected) in &set.chrf {
            let options = match name.as_str() {
                "chrF2" => ChrfOptions::default(),
                "chrF2++" => ChrfOptions::plus_plus(),
                "lowercase" => ChrfOptions { lowercase: true, ..ChrfOptions::default() },
                "other" => ChrfOptions { char_order: 3, word_order: 1, beta: 1, lowercase: false },
                other => panic!("{other}"),
            };
            assert_close(chrf(options, &texts_of(&golden, set)), *expected, &format!("{name} of {:?}", set.texts));
        }
    }
}

#[test]
fn rouge_is_that_of_rouge_score() {
    let golden = golden();
    let mut all = Rouge::new();
    let mut sums = BTreeMap::<&str, [f64; 3]>::new();
    let parts = |scores: RougeScores| {
        let named = [
            ("rouge1", scores.rouge1),
            ("rouge2", scores.rouge2),
            ("rougeL", scores.rouge_l),
            ("rougeLsum", scores.rouge_lsum),
        ];
        named.map(|(name, score)| (name, [score.precision, score.recall, score.f]))
    };
    for text in &golden.texts {
        for (name, found) in parts(all.add(&text.hypothesis, &text.references).unwrap()) {
            let sums = sums.entry(name).or_default();
            for ((found, expected), sum) in found.into_iter().zip(text.rouge[name]).zip(sums) {
                assert_close(found, expected, &format!("{name} of {:?}", text.hypothesis));
                *sum += expected;
            }
        }
    }
    for (name, found) in parts(all.finish().unwrap()) {
        (0..3).for_each(|part| assert_close(found[part], sums[name][part] / golden.texts.len() as f64, name));
    }
}

#[test]
fn answers_are_scored_as_by_squads_script() {
    let golden = golden();
    let [mut squad, mut verbatim] = [Normalization::Squad, Normalization::None].map(ExactMatch::new);
    let mut f1 = TokenF1::new();
    for Text { hypothesis, references, .. } in &golden.texts {
        squad.add(hypothesis, references).unwrap();
        verbatim.add(hypothesis, references).unwrap();
    }
    for text in &golden.texts {
        assert_close(f1.add(&text.hypothesis, &text.references).unwrap(), text.f1, &text.hypothesis);
        let mut one = ExactMatch::new(Normalization::Squad);
        assert_eq!(
            one.add(&text.hypothesis, &text.references).unwrap(),
            text.exact_match == 1.0,
            "{:?}",
            text.hypothesis
        );
    }
    let mean = |part: fn(&Text) -> f64| golden.texts.iter().map(part).sum::<f64>() / golden.texts.len() as f64;
    assert_close(squad.finish().unwrap(), mean(|it| it.exact_match), "exact match");
    assert_close(verbatim.finish().unwrap(), mean(|it| f64::from(u8::from(it.verbatim))), "verbatim");
    assert_close(f1.finish().unwrap(), mean(|it| it.f1), "f1");
}

#[test]
fn nothing_to_score_is_an_error() {
    let mut chrf = Chrf::new(ChrfOptions::default()).unwrap();
    chrf.add("a", &["a"]).unwrap();
    let error = chrf.add("b", &[] as &[&str]).unwrap_err();
    assert_eq!(error.to_string(), "chrF: text 2 has no reference; give at least one, or leave the text out");
    assert_eq!(chrf.finish().unwrap(), 100.0, "a refused text does not count");
    assert!(matches!(
        Bleu::new(BleuOptions::default()).unwrap().finish(),
        Err(MetricError::NoTexts { metric: "BLEU" })
    ));
    assert!(Rouge::new().finish().is_err() && TokenF1::new().finish().is_err());
    let options = BleuOptions { smoothing: Smoothing::Floor(f64::NAN), ..BleuOptions::default() };
    assert_eq!(
        Bleu::new(options).unwrap_err().to_string(),
        "BLEU: the value of the smoothing is NaN; expected a number from 0 on"
    );
    assert!(Chrf::new(ChrfOptions { char_order: 0, ..ChrfOptions::default() }).is_err());
}

#[test]
fn a_bleu_score_prints_as_sacrebleu_prints_it() {
    let score = bleu(BleuOptions::default(), &[("the cat sat on the mat", vec!["the cat sat on a mat today"])]);
    assert_eq!(
        score.to_string(),
        "BLEU = 45.48 83.3/60.0/50.0/33.3 (BP = 0.846 ratio = 0.857 hyp_len = 6 ref_len = 7)"
    );
}

fn sentence() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "the", "Cat", "3.5", "é", ",", "\n"]), 0..12)
        .prop_map(|words| words.join(" "))
}

proptest! {
    #[test]
    fn scores_stay_in_their_range_and_are_full_for_equal_texts(hypothesis in sentence(), reference in sentence()) {
        let mut rouge = Rouge::new();
        let scores = rouge.add(&hypothesis, &[&reference]).unwrap();
        let swapped = rouge.add(&reference, &[&hypothesis]).unwrap();
        for (score, swapped) in [(scores.rouge1, swapped.rouge1), (scores.rouge2, swapped.rouge2), (scores.rouge_l, swapped.rouge_l)] {
            prop_assert!([score.precision, score.recall, score.f].iter().all(|it| (0.0..=1.0).contains(it)));
            prop_assert_eq!((score.precision, score.recall), (swapped.recall, swapped.precision));
        }
        let f1 = |a: &str, b: &str| TokenF1::new().add(a, &[b]).unwrap();
        prop_assert_eq!(f1(&hypothesis, &reference), f1(&reference, &hypothesis));
        prop_assert_eq!(f1(&reference, &reference), 1.0);
        for options in [ChrfOptions::default(), ChrfOptions::plus_plus()] {
            prop_assert!((0.0..=100.0 + 1e-9).contains(&chrf(options, &[(&hypothesis, vec![&reference])])));
            let equal = chrf(options, &[(&reference, vec![&hypothesis, &reference])]);
            prop_assert!((equal - 100.0).abs() < 1e-9 || reference.trim().is_empty());
        }
        let score = bleu(BleuOptions::default(), &[(&hypothesis, vec![&reference])]).score;
        prop_assert!((0.0..=100.0 + 1e-9).contains(&score));
        let equal = bleu(BleuOptions { effective_order: true, ..BleuOptions::default() }, &[(&reference, vec![&reference])]);
        prop_assert!((equal.score - 100.0).abs() < 1e-9 || equal.hypothesis_length == 0);
    }

    #[test]
    fn bleu_counts_do_not_depend_on_the_order_of_texts_and_references(texts in prop::collection::vec((sentence(), sentence(), sentence()), 1..6)) {
        let forward: Vec<_> = texts.iter().map(|(h, a, b)| (h.as_str(), vec![a.as_str(), b.as_str()])).collect();
        let backward: Vec<_> = texts.iter().rev().map(|(h, a, b)| (h.as_str(), vec![b.as_str(), a.as_str()])).collect();
        prop_assert_eq!(bleu(BleuOptions::default(), &forward), bleu(BleuOptions::default(), &backward));
    }
}

#[test]
fn several_metrics_are_counted_at_once() {
    let mut scores = TextScores::new(&TextMetric::ALL).unwrap();
    scores.add("The cat sat on the mat.", &["the cat sat on the mat."]).unwrap();
    scores.add("A dog barks at night", &["A dog barks at night"]).unwrap();
    let values = scores.finish().unwrap();
    let names: Vec<&str> = TextMetric::ALL.iter().flat_map(|metric| metric.names()).copied().collect();
    assert!(names.iter().all(|name| values.contains_key(*name)) && values.len() == names.len(), "{values:?}");
    assert_eq!((values["exact_match"], values["rouge1"], values["f1"]), (0.5, 1.0, 1.0));
    assert!((values["bleu"] - 100.0).abs() < 1e-9, "case does not count");
    assert!(values["sacrebleu"] < 95.0 && values["chrf"] < 100.0, "case counts");
    assert!(TextScores::new(&[TextMetric::Rouge]).unwrap().finish().is_err(), "no text");
}
