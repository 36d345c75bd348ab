use super::*;

/// Of scikit-learn 1.9.1 and SciPy 1.17.1; sums are taken in another order here.
const ROUNDING: f64 = 1e-14;

fn classified(classes: usize, labels: &[i32], predictions: &[i32]) -> Scores {
    let mut scores = Scores::classes(classes);
    scores.add(predictions, labels);
    scores
}

fn regressed(predictions: &[f32], labels: &[f32]) -> Scores {
    let mut scores = Scores::regression();
    scores.add(predictions, labels);
    scores
}

fn assert_values(scores: &Scores, expected: &[(&str, f64)]) {
    let values = scores.values(scores.kinds());
    let names: Vec<&str> = values.keys().map(String::as_str).collect();
    assert_eq!(names, expected.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    for (name, wanted) in expected {
        assert!((values[*name] - wanted).abs() <= ROUNDING, "{name}: {} instead of {wanted}", values[*name]);
    }
}

/// The numbers 0..1000 of glibc's old generator, as the script that made the fixtures drew them.
fn draws() -> impl Iterator<Item = u64> {
    let next = |state: &u64| Some((state * 1_103_515_245 + 12_345) % (1 << 31));
    std::iter::successors(next(&1), next).map(|state| state / 65_536)
}

#[test]
fn two_and_more_classes_as_in_scikit_learn() {
    let (labels, predictions) = ([1, 0, 1, 1, 0, 1, 0, 0, 1, 1, 0, 1], [1, 0, 0, 1, 1, 1, 0, 1, 1, 0, 0, 1]);
    let expected = [("accuracy", 0.6666666666666666), ("f1", 0.7142857142857143), ("matthews", 0.3142857142857143)];
    assert_values(&classified(2, &labels, &predictions), &expected);
    let (labels, predictions) = ([0, 1, 2, 2, 1, 0, 2, 1, 0, 2], [0, 2, 2, 2, 1, 1, 2, 0, 0, 1]);
    let three = classified(3, &labels, &predictions);
    assert_values(&three, &[("accuracy", 0.6), ("matthews", 0.3939393939393939)]);

    let draws: Vec<u64> = draws().take(2000).collect();
    let (labels, predictions): (Vec<i32>, Vec<i32>) = draws
        .chunks(2)
        .map(|pair| {
            let (label, noise) = (pair[0] % 4, pair[1] % 10);
            (label as i32, if noise < 7 { label } else { (label + noise) % 4 } as i32)
        })
        .unzip();
    let four = classified(4, &labels, &predictions);
    assert_values(&four, &[("accuracy", 0.785), ("matthews", 0.7135601686791547)]);
}

#[test]
fn one_class_alone_as_in_scikit_learn() {
    for (labels, predictions, accuracy, f1, matthews) in [
        ([0, 1, 1, 0], [1, 1, 1, 1], 0.5, 0.6666666666666666, 0.0),
        ([0, 1, 1, 0], [0, 0, 0, 0], 0.5, 0.0, 0.0),
        ([1, 1, 1, 1], [0, 1, 1, 0], 0.5, 0.6666666666666666, 0.0),
        ([0, 0, 0, 0], [0, 1, 1, 0], 0.5, 0.0, 0.0),
        ([0, 0, 0, 0], [0, 0, 0, 0], 1.0, 0.0, 0.0),
        ([1, 1, 1, 1], [1, 1, 1, 1], 1.0, 1.0, 0.0),
        ([0, 1, 0, 1], [1, 0, 1, 0], 0.0, 0.0, -1.0),
    ] {
        let scores = classified(2, &labels, &predictions);
        assert_values(&scores, &[("accuracy", accuracy), ("f1", f1), ("matthews", matthews)]);
    }
}

#[test]
fn correlations_as_in_scipy() {
    let predictions = [2.5, 0.1, 4.75, 3.0, 3.0, 1.25, 4.75, 0.1, 2.0, 5.0];
    let labels = [3.0, 0.0, 5.0, 2.5, 3.2, 1.0, 4.0, 0.4, 3.2, 4.6];
    let expected = [("pearson", 0.9503330933614411), ("spearman", 0.8987899205536123)];
    assert_values(&regressed(&predictions, &labels), &expected);
    assert_values(&regressed(&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0]), &[("pearson", -1.0), ("spearman", -1.0)]);

    let draws: Vec<u64> = draws().take(2000).collect();
    let (predictions, labels): (Vec<f32>, Vec<f32>) = draws
        .chunks(2)
        .map(|pair| {
            let (a, b) = (pair[0] % 1000, pair[1] % 1000);
            ((a as f64 / 200.0) as f32, (((a + b) / 20) as f64 / 20.0) as f32)
        })
        .unzip();
    let expected = [("pearson", 0.7044986992095422), ("spearman", 0.699327735706184)];
    assert_values(&regressed(&predictions, &labels), &expected);
    // A large common part takes digits from the sums, but none from the moments.
    let shifted: Vec<f32> = predictions.iter().map(|value| value + 1e4).collect();
    let pearson = regressed(&shifted, &labels).values(&[ScoreKind::Pearson])["pearson"];
    assert!((pearson - 0.7044973408055578).abs() < 1e-12, "{pearson}");
}

#[test]
fn equal_predictions_correlate_with_nothing_and_nan_stays_nan() {
    for (predictions, labels) in [([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]), ([0.1, 0.2, 0.3], [4.0, 4.0, 4.0])] {
        assert_values(&regressed(&predictions, &labels), &[("pearson", 0.0), ("spearman", 0.0)]);
    }
    assert_values(&regressed(&[0.3; 7], &[0.1, 0.7, 0.1, 0.3, 0.2, 0.6, 0.9]), &[("pearson", 0.0), ("spearman", 0.0)]);
    let broken = regressed(&[1.0, f32::NAN, 3.0], &[1.0, 2.0, 3.0]);
    let values = broken.values(broken.kinds());
    assert!(values["pearson"].is_nan() && values["spearman"].is_nan(), "{values:?}");
    for scores in [Scores::classes(2), Scores::regression()] {
        assert!(scores.values(scores.kinds()).values().all(|value| value.is_nan()));
    }
}

#[test]
#[should_panic(expected = "class -100 of 2")]
fn a_secret_label_is_not_scored() {
    classified(2, &[-100], &[0]);
}

#[test]
#[should_panic(expected = "f1 does not fit these labels")]
fn f1_of_three_classes_is_refused() {
    Scores::classes(3).values(&[ScoreKind::F1]);
}
