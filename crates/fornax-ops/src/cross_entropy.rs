use std::sync::Arc;

use burn::{
    backend::Dispatch,
    tensor::{IndexingUpdateOp, Int, IntDType, Tensor},
};

use crate::{
    fused::{CubeFused, HostFused, is_on_cube, is_on_host},
    slope::constant,
};

/// Sums over the targets of a batch, all `[1]` and all still on the device.
#[derive(Clone, Debug)]
pub struct CrossEntropy {
    /// The loss that is trained on, with gradient: `-Σ ln softmax(logits)[target]`, or what smoothing makes of it.
    pub sum: Tensor<1>,
    /// `-Σ ln softmax(logits)[target]`, without gradient: equals `sum` where nothing is smoothed. Its mean is what a perplexity
    /// is the exponential of.
    pub negative_log_likelihood: Tensor<1>,
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
/// with the loss and keeps it for the backward pass: one tensor of the logits' size. The fused form keeps a
/// number or two a row.
///
/// # Shapes
///
/// - `logits`: `[targets, classes]`
/// - `targets`: `[targets]`, each `ignore` or in `0..classes`
///
/// # Panics
///
/// When there are not as many targets as rows of logits, and on CPUs when a target is no class and not `ignore`; GPUs don't look, and give
/// any number.
pub fn cross_entropy_sum(logits: Tensor<2>, targets: Tensor<1, Int>, ignore: i64) -> CrossEntropy {
    smoothed_cross_entropy_sum(logits, targets, ignore, 0.0)
}

/// [`cross_entropy_sum`] with label smoothing (Szegedy et al. 2016): the target has the probability `1 - smoothing`, and
/// `smoothing` is spread evenly over all classes, the target among them, as in `torch.nn.functional.cross_entropy`.
///
/// Costs one more pass over the logits, two where there is a gradient. Logits are finite: one of `-∞` is a class with a probability
/// of 0 for a plain loss, but a smoothed loss is infinite with it, and in the reference form one with a gradient is NaN.
///
/// # Shapes
///
/// As [`cross_entropy_sum`].
///
/// # Panics
///
/// As [`cross_entropy_sum`], and when `smoothing` is not in `0..1`.
pub fn smoothed_cross_entropy_sum(
    logits: Tensor<2>,
    targets: Tensor<1, Int>,
    ignore: i64,
    smoothing: f64,
) -> CrossEntropy {
    let [rows, _] = logits.dims();
    assert_eq!([rows], targets.dims(), "cross_entropy_sum: rows of logits against targets");
    assert!((0.0..1.0).contains(&smoothing), "cross_entropy_sum: smoothing {smoothing} is not in 0..1");
    let device = logits.device();
    if is_on_host(&device) {
        return split(on_host(logits, targets, ignore, smoothing));
    }
    if is_on_cube(&device) {
        return split(on_cube(logits, targets, ignore, smoothing));
    }
    reference(logits, targets, ignore, smoothing)
}

impl std::ops::Add for CrossEntropy {
    type Output = Self;

    fn add(self, more: Self) -> Self {
        Self {
            sum: self.sum + more.sum,
            negative_log_likelihood: self.negative_log_likelihood + more.negative_log_likelihood,
            count: self.count + more.count,
            correct: self.correct + more.correct,
        }
    }
}

/// The four sums by name.
pub(crate) fn split(sums: Tensor<1>) -> CrossEntropy {
    let [negative_log_likelihood, count, correct] = [1, 2, 3].map(|i| constant(&sums).narrow(0, i, 1));
    CrossEntropy { sum: sums.narrow(0, 0, 1), negative_log_likelihood, count, correct }
}

fn on_cube(logits: Tensor<2>, targets: Tensor<1, Int>, ignore: i64, smoothing: f64) -> Tensor<1> {
    let targets = targets.cast(IntDType::I32).into_dispatch();
    // What is no `i32` is no target either; nor is the smallest one.
    let ignore = i32::try_from(ignore).unwrap_or(i32::MIN);
    let sums = Dispatch::cube_cross_entropy(logits.into_dispatch(), targets, ignore, smoothing as f32);
    Tensor::from_dispatch(sums)
}

fn on_host(logits: Tensor<2>, targets: Tensor<1, Int>, ignore: i64, smoothing: f64) -> Tensor<1> {
    let targets = classes_of(targets, logits.dims()[1], ignore);
    Tensor::from_dispatch(Dispatch::fused_cross_entropy(logits.into_dispatch(), targets, smoothing as f32))
}

/// The class of each row that has one.
pub(crate) fn classes_of(targets: Tensor<1, Int>, classes: usize, ignore: i64) -> Arc<[Option<usize>]> {
    let class = |target: i64| {
        let class = usize::try_from(target).ok().filter(|class| *class < classes);
        assert!(class.is_some() || target == ignore, "cross_entropy_sum: target {target} of {classes} classes");
        class.filter(|_| target != ignore)
    };
    targets.into_data().iter::<i64>().map(class).collect()
}

/// [`smoothed_cross_entropy_sum`] in tensor operations.
pub fn reference(logits: Tensor<2>, targets: Tensor<1, Int>, ignore: i64, smoothing: f64) -> CrossEntropy {
    let [rows, classes] = logits.dims();
    let ignored = targets.clone().equal_elem(ignore);
    let counted = ignored.clone().bool_not().float().reshape([rows, 1]);
    // The ignored value may be no valid index, so it is never gathered with.
    let targets = targets.mask_fill(ignored, 0).reshape([rows, 1]);

    let at = constant(&logits);
    let (maximum, best) = at.clone().max_dim_with_indices(1);
    let hits = best.cast(IntDType::from(targets.dtype())).equal(targets.clone()).float();
    let shifted = at - maximum;
    let own = shifted.clone().gather(1, targets.clone());
    let mean = (smoothing > 0.0).then(|| shifted.clone().mean_dim(1));
    let weights = shifted.exp();
    let total = weights.clone().sum_dim(1);
    let losses = total.clone().log() - own.clone();

    let negative_log_likelihood = (losses.clone() * counted.clone()).sum();
    let sum = match mean {
        // `(1 - s) (ln total - own) + s (ln total - mean)`.
        Some(mean) => ((losses + (own - mean).mul_scalar(smoothing)) * counted.clone()).sum(),
        None => negative_log_likelihood.clone(),
    };
    let sum = if logits.is_tracked() {
        // The gradient of a row is softmax(logits), less the probabilities that it should have.
        let softmax = weights * (counted.clone() / total);
        let slope =
            if smoothing > 0.0 { softmax - counted.clone().mul_scalar(smoothing / classes as f64) } else { softmax };
        let at_target = counted.clone().mul_scalar(smoothing - 1.0);
        let slope = slope.scatter(1, targets, at_target, IndexingUpdateOp::Add);
        // By rows first: the sum of all numbers at once depends on the threads where there are many of them.
        let linear = (logits * slope).sum_dim(1).sum();
        (linear.clone() - constant(&linear)) + sum
    } else {
        sum
    };
    let correct = (hits * counted.clone()).sum();
    CrossEntropy { sum, negative_log_likelihood, correct, count: counted.sum() }
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;
    use proptest::prelude::*;

    use super::*;
    use crate::testing::*;

    const CLASSES: usize = 7;

    const TORCH_SUMS: [f64; 2] = [2.926687095663734, 2.7659728099494485];
    const TORCH_GRADIENT: [f64; CLASSES] = [
        0.08398171360082947,
        0.0076407126359845,
        -0.47388165675635724,
        0.04531649357857473,
        0.25283284926768723,
        0.021864852170542435,
        0.062245035502738785,
    ];

    /// Loss, negative log likelihood, count and correct, as the definitions say it: a cross-entropy against the smoothed
    /// distribution, class by class.
    fn expected_sums(logits: &[f64], targets: &[i64], ignore: i64, smoothing: f64) -> [f64; 4] {
        let mut sums = [0.0; 4];
        for (row, &target) in logits.chunks(CLASSES).zip(targets).filter(|(_, target)| **target != ignore) {
            let total: f64 = row.iter().map(|x| x.exp()).sum();
            let own = row[target as usize];
            for (class, x) in row.iter().enumerate() {
                let wanted = f64::from(class == target as usize) * (1.0 - smoothing) + smoothing / CLASSES as f64;
                sums[0] -= wanted * (x.exp() / total).ln();
            }
            sums[1] += total.ln() - own;
            sums[2] += 1.0;
            sums[3] += f64::from(row.iter().all(|&x| x <= own));
        }
        sums
    }

    fn run(logits: &[f64], targets: &[i64], ignore: i64, smoothing: f64) -> ([f64; 4], Vec<f64>) {
        let leaf = leaf(logits, [targets.len(), CLASSES]);
        let targets = Tensor::from_data(TensorData::new(targets.to_vec(), [targets.len()]), &autodiff_device());
        let CrossEntropy { sum, negative_log_likelihood, count, correct } =
            smoothed_cross_entropy_sum(leaf.clone(), targets, ignore, smoothing);
        assert!(!negative_log_likelihood.is_tracked());
        let sums = [sum.clone(), negative_log_likelihood, count, correct].map(|x| values(x)[0]);
        (sums, values(leaf.grad(&sum.backward()).unwrap()))
    }

    fn check(logits: &[f64], targets: &[i64], ignore: i64) {
        for smoothing in [0.0, 0.1, 0.75] {
            let (sums, gradient) = run(logits, targets, ignore, smoothing);
            let expected = expected_sums(logits, targets, ignore, smoothing);
            assert_close("loss", &sums[..2], &expected[..2]);
            assert_eq!(sums[2..], expected[2..], "count and correct");
            let expected = differences(logits, |x| expected_sums(x, targets, ignore, smoothing)[0]);
            assert_close("gradient", &gradient, &expected);
        }
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
        for smoothing in [0.0, 0.1] {
            let (sums, gradient) = run(&numbers(2 * CLASSES, 1), &[-1, -1], -1, smoothing);
            assert_eq!(sums, [0.0; 4]);
            assert!(gradient.iter().all(|&x| x == 0.0));
        }
    }

    /// `torch.nn.functional.cross_entropy` (2.11, float64) with `label_smoothing=0.1, ignore_index=-100, reduction="sum"`.
    #[test]
    fn smoothing_is_that_of_pytorch() {
        let logits = [[0.5, -1.0, 2.0, 0.0, 1.5, -0.5, 0.25], [1.0, 1.0, -2.0, 0.75, 0.0, 3.0, -1.5], [0.0; CLASSES]];
        let (sums, gradient) = run(logits.as_flattened(), &[2, -100, 6], -100, 0.1);
        assert_close("loss", &sums[..2], &TORCH_SUMS);
        assert_close("gradient", &gradient[..CLASSES], &TORCH_GRADIENT);
    }

    #[test]
    fn evaluation_gives_the_same_sums() {
        let logits = tensor::<2>(&numbers(3 * CLASSES, 1), [3, CLASSES], &autodiff_device());
        let targets = Tensor::from_data([4, -100, 1], &autodiff_device());
        let result = smoothed_cross_entropy_sum(logits, targets, -100, 0.1);
        let (sums, _) = run(&numbers(3 * CLASSES, 1), &[4, -100, 1], -100, 0.1);
        assert!(!result.sum.is_tracked());
        assert_eq!([values(result.sum), values(result.negative_log_likelihood)], [vec![sums[0]], vec![sums[1]]]);
    }

    #[test]
    #[should_panic(expected = "smoothing 1 is not in 0..1")]
    fn a_smoothing_that_leaves_the_target_nothing_is_refused() {
        run(&numbers(CLASSES, 1), &[0], -100, 1.0);
    }

    #[test]
    fn large_logits_are_safe_and_equal_ones_are_not_all_correct() {
        let mut logits = vec![-3e4; CLASSES];
        logits[2] = 3e4;
        let (sums, gradient) = run(&logits, &[4], -100, 0.0);
        assert_eq!(sums, [6e4, 6e4, 1.0, 0.0]);
        assert_eq!((gradient[2], gradient[4]), (1.0, -1.0));
        let (sums, _) = run(&logits, &[4], -100, 0.5);
        // Half of it on the target, 6e4 away, and half on all seven classes, six of which are.
        assert_close("smoothed", &sums[..1], &[3e4 + 3e4 * 6.0 / 7.0]);
        let (sums, _) = run(&vec![0.0; CLASSES * CLASSES], &[0, 1, 2, 3, 4, 5, 6], -100, 0.0);
        assert_eq!(sums[3], 1.0);
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
            let (sums, gradient) = run(&logits, &[4, 0, 1], -100, 0.0);
            assert!(sums[0].is_nan() && gradient.iter().any(|x| x.is_nan()), "{bad}: {sums:?}");
        }
    }

    #[test]
    fn a_class_without_probability_is_none_for_a_plain_loss_alone() {
        // As above.
        if std::env::var("FORNAX_TEST_DEVICE").is_ok_and(|device| device.starts_with("wgpu")) {
            eprintln!("skipped: WGSL does not define what an infinity does");
            return;
        }
        let mut logits = numbers(CLASSES, 1);
        logits[2] = f64::NEG_INFINITY;
        let evaluated = |smoothing| {
            let (logits, targets) = (tensor::<2>(&logits, [1, CLASSES], &autodiff_device()), [4]);
            let targets = Tensor::from_data(targets, &autodiff_device());
            values(smoothed_cross_entropy_sum(logits, targets, -100, smoothing).sum)[0]
        };
        let others = [&logits[..2], &logits[3..]].concat();
        let total: f64 = others.iter().map(|x| x.exp()).sum();
        assert_close("plain", &[evaluated(0.0)], &[total.ln() - logits[4]]);
        assert_eq!(evaluated(0.1), f64::INFINITY);
        // With a gradient: the reference form is NaN, the fused one right.
        let fused = crate::fused::is_fused(&fornax_backend::test_device());
        assert_eq!(run(&logits, &[4], -100, 0.0).0[0].is_nan(), !fused);
        assert_eq!(run(&logits, &[4], -100, 0.1).0[0] == f64::INFINITY, fused);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn any_targets_give_the_reference(targets in prop::collection::vec(-1i64..7, 1..9), seed: u64) {
            check(&numbers(targets.len() * CLASSES, seed), &targets, -1);
        }
    }
}
