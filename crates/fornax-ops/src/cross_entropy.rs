use burn::tensor::{Int, IntDType, Tensor};

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
/// The softmax is in `f32` and safe for logits of any size. The reference form keeps two tensors of the logits' size for
/// the backward pass.
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
    let counted = ignored.clone().bool_not().float();
    // The ignored value may be no valid index, so it is never gathered with.
    let targets = targets.mask_fill(ignored, 0).reshape([rows, 1]);

    let (maximum, best) = logits.clone().set_require_grad(false).max_dim_with_indices(1);
    let hits = best.cast(IntDType::from(targets.dtype())).equal(targets.clone()).float().reshape([rows]);
    // The maximum cancels out of the difference, so it needs no gradient.
    let shifted = logits - maximum;
    let log_total = shifted.clone().exp().sum_dim(1).log();
    let losses = (log_total - shifted.gather(1, targets)).reshape([rows]);

    CrossEntropy {
        sum: (losses * counted.clone()).sum(),
        correct: (hits * counted.clone()).sum(),
        count: counted.sum(),
    }
}
