use burn::tensor::{IndexingUpdateOp, Int, IntDType, Tensor};

use crate::slope::constant;

/// Sums over the targets of a batch, all `[1]` and all still on the device.
#[derive(Clone, Debug)]
pub struct CrossEntropy {
    /// `-Σ ln softmax(logits)[target]`, with gradient.
    pub sum: Tensor<1>,
    /// How many targets count, as a float; exact up to 2²⁴.
    pub count: Tensor<1>,
    /// For how many of them the target has the largest logit (the first of equal ones is taken), as a float.
    pub correct: Tensor<1>,
}

/// Cross-entropy of `logits` against `targets`, summed over the targets other than `ignore`.
///
/// `ignore` may be any number, also one that is no class (-100). A batch without a target gives zeros.
///
/// The softmax is in `f32` and safe for finite logits of any size. The reference form computes the gradient in closed form
/// with the loss and keeps it for the backward pass: one tensor of the logits' size.
///
/// # Shapes
///
/// - `logits`: `[targets, classes]`
/// - `targets`: `[targets]`, each `ignore` or in `0..classes`
///
/// # Panics
///
/// When there are not as many targets as rows of logits.
pub fn cross_entropy_sum(logits: Tensor<2>, targets: Tensor<1, Int>, ignore: i64) -> CrossEntropy {
    let [rows, _] = logits.dims();
    assert_eq!([rows], targets.dims(), "cross_entropy_sum: rows of logits against targets");
    let ignored = targets.clone().equal_elem(ignore);
    let counted = ignored.clone().bool_not().float().reshape([rows, 1]);
    // The ignored value may be no valid index, so it is never gathered with.
    let targets = targets.mask_fill(ignored, 0).reshape([rows, 1]);

    let at = constant(&logits);
    let (maximum, best) = at.clone().max_dim_with_indices(1);
    let hits = best.cast(IntDType::from(targets.dtype())).equal(targets.clone()).float();
    let shifted = at - maximum;
    let own = shifted.clone().gather(1, targets.clone());
    let weights = shifted.exp();
    let total = weights.clone().sum_dim(1);
    let losses = total.clone().log() - own;

    let sum = (losses * counted.clone()).sum();
    let sum = if logits.is_tracked() {
        // The gradient of a row is softmax(logits), less 1 at the target.
        let minus_one = counted.clone().neg();
        let slope = (weights * (counted.clone() / total)).scatter(1, targets, minus_one, IndexingUpdateOp::Add);
        // By rows first: the sum of all numbers at once depends on the threads where there are many of them.
        let linear = (logits * slope).sum_dim(1).sum();
        (linear.clone() - constant(&linear)) + sum
    } else {
        sum
    };
    CrossEntropy { sum, correct: (hits * counted.clone()).sum(), count: counted.sum() }
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;
    use proptest::prelude::*;

    use super::*;
    use crate::testing::*;

    const CLASSES: usize = 7;

    fn reference(logits: &[f64], targets: &[i64], ignore: i64) -> [f64; 3] {
        let mut sums = [0.0; 3];
        for (row, &target) in logits.chunks(CLASSES).zip(targets).filter(|(_, target)| **target != ignore) {
            let total: f64 = row.iter().map(|x| x.exp()).sum();
            let own = row[target as usize];
            sums[0] += total.ln() - own;
            sums[1] += 1.0;
            sums[2] += f64::from(row.iter().all(|&x| x <= own));
        }
        sums
    }

    fn run(logits: &[f64], targets: &[i64], ignore: i64) -> ([f64; 3], Vec<f64>) {
        let leaf = leaf(logits, [targets.len(), CLASSES]);
        let targets = Tensor::from_data(TensorData::new(targets.to_vec(), [targets.len()]), &autodiff_device());
        let CrossEntropy { sum, count, correct } = cross_entropy_sum(leaf.clone(), targets, ignore);
        let sums = [sum.clone(), count, correct].map(|x| values(x)[0]);
        (sums, values(leaf.grad(&sum.backward()).unwrap()))
    }

    fn check(logits: &[f64], targets: &[i64], ignore: i64) {
        let (sums, gradient) = run(logits, targets, ignore);
        let expected = reference(logits, targets, ignore);
        assert_close("loss", &sums[..1], &expected[..1]);
        assert_eq!(sums[1..], expected[1..], "count and correct");
        let expected = differences(logits, |x| reference(x, targets, ignore)[0]);
        assert_close("gradient", &gradient, &expected);
    }

    #[test]
    fn equals_the_definition_and_ignores() {
        let logits = numbers(5 * CLASSES, 1);
        check(&logits, &[3, 0, 6, 1, 2], -100);
        check(&logits, &[3, -100, 6, -100, 2], -100);
        check(&logits, &[3, 0, 6, 0, 2], 0);
    }

    #[test]
    fn a_batch_without_targets_is_zero() {
        let (sums, gradient) = run(&numbers(2 * CLASSES, 1), &[-1, -1], -1);
        assert_eq!(sums, [0.0; 3]);
        assert!(gradient.iter().all(|&x| x == 0.0));
    }

    #[test]
    fn large_logits_are_safe_and_equal_ones_are_not_all_correct() {
        let mut logits = vec![-3e4; CLASSES];
        logits[2] = 3e4;
        let (sums, gradient) = run(&logits, &[4], -100);
        assert_eq!(sums, [6e4, 1.0, 0.0]);
        assert_eq!((gradient[2], gradient[4]), (1.0, -1.0));
        let (sums, _) = run(&vec![0.0; CLASSES * CLASSES], &[0, 1, 2, 3, 4, 5, 6], -100);
        assert_eq!(sums[2], 1.0);
    }

    #[test]
    fn a_logit_that_is_no_number_shows_in_the_loss() {
        // WGSL allows a compiler to assume that no NaN and no infinity occurs, so a GPU behind it promises nothing here.
        if std::env::var("FORNAX_TEST_DEVICE").is_ok_and(|device| device.starts_with("wgpu")) {
            eprintln!("skipped: WGSL does not define what a NaN does");
            return;
        }
        for bad in [f64::NAN, f64::INFINITY] {
            let mut logits = numbers(3 * CLASSES, 1);
            logits[CLASSES + 2] = bad;
            let (sums, gradient) = run(&logits, &[4, 0, 1], -100);
            assert!(sums[0].is_nan() && gradient.iter().any(|x| x.is_nan()), "{bad}: {sums:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn any_targets_give_the_reference(targets in prop::collection::vec(-1i64..7, 1..9), seed: u64) {
            check(&numbers(targets.len() * CLASSES, seed), &targets, -1);
        }
    }
}
