//! Cross-entropy of rows of logits: a cube a row.

use burn::backend::TensorMetadata;
use burn_cubecl::{
    cubecl::{self, prelude::*},
    kernel::into_contiguous,
    tensor::CubeTensor,
};

use super::{UNITS, create, cube_max, cube_sum, cubes, has_planes};

/// What a row adds to the sums: loss, negative log-likelihood, count, correct ones.
const TERMS: usize = 4;

/// The targets of an `[i32]` tensor other than `ignore`, and how much of their probability is spread over all classes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) ignore: i32,
    pub(crate) smoothing: f32,
}

/// The four sums, `[4]`, and of each row the largest logit and the logarithm of the sum of exponentials beside it, `[rows, 2]`.
pub(crate) fn forward(logits: CubeTensor, targets: CubeTensor, target: Target) -> (CubeTensor, CubeTensor) {
    let (logits, targets) = (into_contiguous(logits), into_contiguous(targets));
    let [rows, classes] = logits.shape().dims();
    let client = logits.client.clone();
    let planes = has_planes(&client);
    // A buffer without elements can't be bound.
    let shapes = [vec![TERMS], vec![TERMS, rows.max(1)], vec![rows, 2]];
    let [sums, terms, saved] = shapes.map(|shape| create(&logits, shape));
    let cube_dim = CubeDim::new_1d(UNITS as u32);
    if rows > 0 {
        row_kernel::launch(
            &client,
            cubes(&client, rows),
            cube_dim,
            logits.into_buffer_arg(),
            targets.into_buffer_arg(),
            terms.clone().into_buffer_arg(),
            saved.clone().into_buffer_arg(),
            rows,
            classes,
            target.ignore,
            target.smoothing,
            planes,
        );
    }
    sum_kernel::launch(
        &client,
        cubes(&client, TERMS),
        cube_dim,
        terms.into_buffer_arg(),
        sums.clone().into_buffer_arg(),
        rows,
        planes,
    );
    (sums, saved)
}

/// The gradient of the logits: `softmax - (1 - s) [target] - s / classes`, times the first number of `gradient`, and zeros
/// where there is no target.
pub(crate) fn backward(
    logits: CubeTensor,
    targets: CubeTensor,
    saved: CubeTensor,
    gradient: CubeTensor,
    target: Target,
) -> CubeTensor {
    let [logits, targets, saved, gradient] = [logits, targets, saved, gradient].map(into_contiguous);
    let [rows, classes] = logits.shape().dims();
    let out = create(&logits, logits.shape());
    if rows * classes > 0 {
        backward_kernel::launch(
            &logits.client.clone(),
            cubes(&logits.client, rows),
            CubeDim::new_1d(UNITS as u32),
            logits.into_buffer_arg(),
            targets.into_buffer_arg(),
            saved.into_buffer_arg(),
            gradient.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            rows,
            classes,
            target.ignore,
            target.smoothing,
        );
    }
    out
}

#[cube(launch)]
fn row_kernel(
    logits: &[f32],
    targets: &[i32],
    terms: &mut [f32],
    saved: &mut [f32],
    rows: usize,
    classes: usize,
    ignore: i32,
    smoothing: f32,
    #[comptime] planes: bool,
) {
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let (unit, units, start) = (UNIT_POS as usize, CUBE_DIM as usize, row * classes);
    let counts = targets[row] != ignore;
    // The ignored one may be no class.
    let target = select(counts, targets[row], 0) as usize;
    let mut scratch = Shared::<[f32]>::new_slice(UNITS);

    let mut top = logits[start];
    for class in range_stepped(unit, classes, units) {
        top = max(top, logits[start + class]);
    }
    let top = cube_max(top, &mut scratch, planes);
    let own = logits[start + target] - top;

    let mut weights = 0.0f32;
    let mut distances = 0.0f32;
    let mut earlier = 0.0f32;
    for class in range_stepped(unit, classes, units) {
        let logit = logits[start + class];
        weights += (logit - top).exp();
        distances += logit - top;
        if logit == top && class < target {
            earlier = 1.0f32;
        }
    }
    let log_sum = cube_sum(weights, &mut scratch, planes).ln();
    let mean = cube_sum(distances, &mut scratch, planes) / f32::cast_from(classes);
    let earlier = cube_sum(earlier, &mut scratch, planes);

    if unit == 0 {
        let likelihood = log_sum - own;
        let mut loss = likelihood;
        if smoothing > 0.0f32 {
            loss += smoothing * (own - mean);
        }
        let best = own == 0.0f32 && earlier == 0.0f32;
        terms[row] = select(counts, loss, 0.0f32);
        terms[rows + row] = select(counts, likelihood, 0.0f32);
        terms[2 * rows + row] = select(counts, 1.0f32, 0.0f32);
        terms[3 * rows + row] = select(counts && best, 1.0f32, 0.0f32);
        saved[2 * row] = top;
        saved[2 * row + 1] = log_sum;
    }
}

/// A cube a term.
#[cube(launch)]
fn sum_kernel(terms: &[f32], sums: &mut [f32], rows: usize, #[comptime] planes: bool) {
    let term = CUBE_POS;
    if term >= TERMS {
        terminate!();
    }
    let mut scratch = Shared::<[f32]>::new_slice(UNITS);
    let mut sum = 0.0f32;
    for row in range_stepped(UNIT_POS as usize, rows, CUBE_DIM as usize) {
        sum += terms[term * rows + row];
    }
    let sum = cube_sum(sum, &mut scratch, planes);
    if UNIT_POS == 0 {
        sums[term] = sum;
    }
}

#[cube(launch)]
fn backward_kernel(
    logits: &[f32],
    targets: &[i32],
    saved: &[f32],
    gradient: &[f32],
    out: &mut [f32],
    rows: usize,
    classes: usize,
    ignore: i32,
    smoothing: f32,
) {
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let (start, top, log_sum) = (row * classes, saved[2 * row], saved[2 * row + 1]);
    let target = targets[row];
    let scale = select(target == ignore, 0.0f32, gradient[0]);
    let spread = smoothing / f32::cast_from(classes);
    for class in range_stepped(UNIT_POS as usize, classes, CUBE_DIM as usize) {
        let softmax = (logits[start + class] - top - log_sum).exp();
        let wanted = select(class as i32 == target, 1.0f32 - smoothing, 0.0f32) + spread;
        out[start + class] = (softmax - wanted) * scale;
    }
}
