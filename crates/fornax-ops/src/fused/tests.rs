//! Fused against reference, forward and backward, on a device that has fused forms.

mod attention;

use burn::tensor::{FloatDType, Int, Tensor, TensorData};
use fornax_backend::{Precision, test_device};

use super::{is_fused, is_on_host, rounds};
use crate::{
    AdamWFactors, Context, CrossEntropy, LinearLogits, adamw_step, cross_entropy, dropout, embedding, gated, gelu,
    host::elementwise::Noise, linear, norm, relu, smoothed_cross_entropy_sum, testing::*,
};

/// Whether the device under test computes in memory of the host. On others each size may cost the compilation of a kernel.
fn on_host() -> bool {
    is_on_host(&test_device())
}

/// How far two numbers may be apart: a share of the largest one, and a distance.
#[derive(Clone, Copy)]
struct Tolerance(f64, f64);

/// Rounding of `f32`, in different orders of adding up. Some 40 terms up to 2 of which the sum leaves nothing are off by a few units
/// of 2.4e-7.
const ROUNDING: Tolerance = Tolerance(2e-5, 4e-6);
/// Factors of 8 bits: each is off by up to 0.2 %, and those of a gradient come from products of such. A sum of 40 products up to 2.25 of
/// which nothing is left is off by up to 40 times 4e-3, and by a tenth of that as a rule.
const BF16: Tolerance = Tolerance(2e-2, 2e-2);
/// Likewise, factors of 11 bits.
const F16: Tolerance = Tolerance(2.5e-3, 2.5e-3);

/// Output and gradients of two functions of the same inputs agree, but for rounding.
fn agree<const D: usize>(
    inputs: &[(Vec<f64>, [usize; D])],
    fused: impl Fn(&[Tensor<D>]) -> Tensor<D>,
    reference: impl Fn(&[Tensor<D>]) -> Tensor<D>,
) {
    agree_within(ROUNDING, inputs, fused, reference);
}

/// Output and gradients of two functions of the same inputs are within `tolerance` of each other.
fn agree_within<const D: usize>(
    tolerance: Tolerance,
    inputs: &[(Vec<f64>, [usize; D])],
    fused: impl Fn(&[Tensor<D>]) -> Tensor<D>,
    reference: impl Fn(&[Tensor<D>]) -> Tensor<D>,
) {
    let run = |function: &dyn Fn(&[Tensor<D>]) -> Tensor<D>| {
        let leaves: Vec<Tensor<D>> = inputs.iter().map(|(values, shape)| leaf(values, *shape)).collect();
        let output = function(&leaves);
        let gradients = weighted(output.clone(), 3).backward();
        let gradients = leaves.iter().map(|leaf| values(leaf.grad(&gradients).unwrap())).collect::<Vec<_>>();
        (output.dims(), values(output), gradients)
    };
    let (found, expected) = (run(&fused), run(&reference));
    assert_eq!(found.0, expected.0);
    assert_near(tolerance, "output", &found.1, &expected.1);
    for (index, (found, expected)) in found.2.iter().zip(&expected.2).enumerate() {
        assert_near(tolerance, &format!("gradient of input {index}"), found, expected);
    }
}

fn assert_near(Tolerance(share, distance): Tolerance, what: &str, found: &[f64], expected: &[f64]) {
    let largest = expected.iter().fold(0.0f64, |most, x| most.max(x.abs()));
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let near = (found - expected).abs() <= share * largest + distance;
        assert!(near, "{what} at {index}: {found} against {expected}");
    }
}

fn input<const D: usize>(shape: [usize; D], seed: u64) -> (Vec<f64>, [usize; D]) {
    (numbers(shape.iter().product(), seed), shape)
}

fn ints<const D: usize>(values: Vec<i64>, shape: [usize; D]) -> Tensor<D, Int> {
    Tensor::from_data(TensorData::new(values, shape), &autodiff_device())
}

/// More rows than a piece has, and sizes around the width of vectors.
#[test]
fn activations() {
    if !on_host() {
        return;
    }
    for shape in [[1, 1], [3, 31], [200, 33], [700, 64]] {
        let x = [input(shape, 1)];
        agree(&x, |x| gelu(x[0].clone()), |x| gelu::gelu_reference(x[0].clone()));
        agree(&x, |x| gelu::gelu_tanh(x[0].clone()), |x| gelu::gelu_tanh_reference(x[0].clone()));
        agree(&x, |x| gelu::silu(x[0].clone()), |x| gelu::silu_reference(x[0].clone()));
        agree(&x, |x| relu(x[0].clone()), |x| burn::tensor::activation::relu(x[0].clone()));
    }
}

#[test]
fn gated_activations() {
    if !on_host() {
        return;
    }
    type Gate = fn(Tensor<2>, Tensor<2>) -> Tensor<2>;
    let forms: [(Gate, Gate); 4] = [
        (gated::swiglu, gated::swiglu_reference),
        (gated::geglu, gated::geglu_reference),
        (gated::geglu_tanh, gated::geglu_tanh_reference),
        (gated::reglu, |gate, up| burn::tensor::activation::relu(gate) * up),
    ];
    for (fused, reference) in forms {
        for shape in [[0, 31], [1, 1], [3, 31], [200, 33], [700, 64]] {
            let inputs = [input(shape, 1), input(shape, 2)];
            agree(&inputs, |x| fused(x[0].clone(), x[1].clone()), |x| reference(x[0].clone(), x[1].clone()));
        }
        // Both halves of one projection: views.
        let half = |x: &[Tensor<2>], half: usize| x[0].clone().narrow(1, half * 33, 33);
        let packed = [input([200, 66], 1)];
        agree(&packed, |x| fused(half(x, 0), half(x, 1)), |x| reference(half(x, 0), half(x, 1)));
    }
}

/// More rows than a piece has, and sizes around the width of vectors and the units of a cube.
#[test]
fn norms_and_dropout() {
    if !is_fused(&test_device()) {
        return;
    }
    let empty = on_host().then_some([0, 31]);
    for shape in [[1, 1], [3, 31], [200, 33], [700, 64], [65, 300]].into_iter().chain(empty) {
        let context = training(5);
        let noise = Noise::new(0.3, context.key());
        agree(
            &[input(shape, 1)],
            |x| dropout(x[0].clone(), 0.3, &context),
            |x| dropout::reference(x[0].clone(), noise),
        );

        let inputs = [input(shape, 1), input([1, shape[1]], 2), input([1, shape[1]], 3)];
        let vector = |x: &Tensor<2>| x.clone().reshape([shape[1]]);
        agree(
            &inputs,
            |x| norm::layer_norm(x[0].clone(), vector(&x[1]), Some(vector(&x[2])), 1e-5),
            |x| norm::layer_norm_reference(x[0].clone(), vector(&x[1]), Some(vector(&x[2])), 1e-5),
        );
        let added = [input(shape, 1), input(shape, 4), input([1, shape[1]], 2), input([1, shape[1]], 3)];
        let reference = |x: &[Tensor<2>]| {
            norm::layer_norm_reference(x[0].clone() + x[1].clone(), vector(&x[2]), Some(vector(&x[3])), 1e-5)
        };
        agree(
            &added,
            |x| norm::add_layer_norm(x[0].clone(), x[1].clone(), vector(&x[2]), Some(vector(&x[3])), 1e-5),
            reference,
        );
        // The first input is nobody else's, as the output of a layer is.
        agree(
            &added,
            |x| {
                let alone = x[0].clone().mul_scalar(1.0);
                norm::add_layer_norm(alone, x[1].clone(), vector(&x[2]), Some(vector(&x[3])), 1e-5)
            },
            reference,
        );
        // Inputs that are views.
        let turned = [input([shape[1], shape[0]], 1), input([shape[1], shape[0]], 4), input([1, shape[1]], 2)];
        agree(
            &turned,
            |x| norm::add_rms_norm(x[0].clone().transpose(), x[1].clone().transpose(), vector(&x[2]), 1e-6),
            |x| norm::rms_norm_reference((x[0].clone() + x[1].clone()).transpose(), vector(&x[2]), 1e-6),
        );
        let turned = [input([shape[1], shape[0]], 1), input([1, shape[1]], 2)];
        agree(
            &turned,
            |x| norm::rms_norm(x[0].clone().transpose(), vector(&x[1]), 1e-6),
            |x| norm::rms_norm_reference(x[0].clone().transpose(), vector(&x[1]), 1e-6),
        );
    }
}

/// A weight as it is, and one that is another tensor's transpose, as in a tied head.
#[test]
fn linear_maps() {
    if !on_host() {
        return;
    }
    for [rows, inputs, outputs] in [[1, 1, 1], [5, 7, 3], [130, 33, 65]] {
        let tensors = [input([rows, inputs], 1), input([inputs, outputs], 2), input([1, outputs], 3)];
        let bias = |x: &Tensor<2>| Some(x.clone().reshape([outputs]));
        agree(
            &tensors,
            |x| linear(x[0].clone(), x[1].clone(), bias(&x[2]), &evaluation()),
            |x| linear::reference(x[0].clone(), x[1].clone(), bias(&x[2]), FloatDType::F32),
        );
        let tied = [input([rows, inputs], 1), input([outputs, inputs], 2)];
        agree(
            &tied,
            |x| linear(x[0].clone(), x[1].clone().transpose(), None, &evaluation()),
            |x| linear::reference(x[0].clone(), x[1].clone().transpose(), None, FloatDType::F32),
        );
        // An input that is a view.
        let turned = [input([inputs, rows], 1), input([inputs, outputs], 2)];
        agree(
            &turned,
            |x| linear(x[0].clone().transpose(), x[1].clone(), None, &evaluation()),
            |x| linear::reference(x[0].clone().transpose(), x[1].clone(), None, FloatDType::F32),
        );
    }
}

/// Rounded to bfloat16 or not, output and gradients are near each other.
#[test]
fn linear_maps_in_bf16() {
    if rounds(Precision::Bf16, &test_device()) != Some(true) {
        return;
    }
    let bf16 = Context::evaluation(Precision::Bf16);
    // No rows; few, which are multiplied otherwise without a graph; and those of tiles.
    for [rows, inputs, outputs] in [[0, 7, 3], [3, 70, 33], [5, 7, 3], [130, 33, 65], [700, 96, 160]] {
        let tensors = [input([rows, inputs], 1), input([inputs, outputs], 2), input([1, outputs], 3)];
        let bias = |x: &Tensor<2>| Some(x.clone().reshape([outputs]));
        let [x, weight, _] = &tensors;
        let (x, weight) = (leaf(&x.0, x.1), leaf(&weight.0, weight.1));
        let inference = linear(x.clone().detach(), weight.clone().detach(), None, &bf16);
        assert_near(ROUNDING, "inference", &values(inference), &values(linear(x, weight, None, &bf16)));
        agree_within(
            BF16,
            &tensors,
            |x| linear(x[0].clone(), x[1].clone(), bias(&x[2]), &bf16),
            |x| linear(x[0].clone(), x[1].clone(), bias(&x[2]), &evaluation()),
        );
        agree_within(
            BF16,
            &[input([rows, inputs], 1), input([outputs, inputs], 2)],
            |x| linear(x[0].clone(), x[1].clone().transpose(), None, &bf16),
            |x| linear(x[0].clone(), x[1].clone().transpose(), None, &evaluation()),
        );
    }
}

/// Rows that no id names, that one does, and that many do; sizes around the units of a cube.
#[test]
fn tables() {
    if !is_fused(&test_device()) {
        return;
    }
    for (rows, tokens, size) in [(41, 150, 70), (3, 1, 1), (2, 300, 33), (500, 260, 129)] {
        let ids: Vec<i64> = (0..tokens as i64).map(|i| i * i % rows as i64).collect();
        agree(
            &[input([rows, size], 1)],
            |x| embedding(x[0].clone(), ids.clone().into_ids()).reshape([tokens, size]),
            |x| burn::tensor::module::embedding(x[0].clone(), ids.clone().into_ids()).reshape([tokens, size]),
        );
    }
}

/// The same bits each time, though a thousand rows are added up that leave something else in another order.
#[test]
fn gradients_of_a_table_are_the_same_each_time() {
    let gradient = || {
        let table = leaf(&numbers(70, 1), [2, 35]);
        let rows = embedding(table.clone(), (0..1000).map(|i| i % 3 / 2).collect::<Vec<_>>().into_ids());
        values(table.grad(&weighted(rows, 3).backward()).unwrap())
    };
    assert_eq!(gradient(), gradient());
}

/// What somebody else has too stays as it is; a rate multiplied with zero changes nothing.
#[test]
fn steps_of_adamw() {
    let device = test_device();
    if !is_fused(&device) {
        return;
    }
    let factors = AdamWFactors { keep: [0.9, 0.95], add: [0.1, 0.05], decay: 0.99, rate: 0.3, eps: 1e-3 };
    for shape in [[1, 1], [3, 31], [70, 129]] {
        let given = [1, 2, 3, 4].map(|seed| numbers(shape.iter().product(), seed));
        // A second moment is no sum of negative numbers.
        let positive: Vec<f64> = given[2].iter().map(|x| x.abs()).collect();
        let of = |values: &[f64]| tensor(values, shape, &device);
        let step = |gradient: Tensor<2>, scales: [f32; 2]| {
            let state = [of(&given[0]), of(&given[1]), of(&positive)];
            let kept = state[0].clone();
            let moved = adamw_step(state, gradient, Tensor::from_floats(scales, &device), factors).map(values);
            assert_eq!(values(kept), given[0]);
            moved
        };
        let mut expected = [given[0].clone(), given[1].clone(), positive.clone()];
        for i in 0..given[0].len() {
            let slope = 0.5 * given[3][i];
            let first = 0.9 * given[1][i] + 0.1 * slope;
            let second = 0.95 * positive[i] + 0.05 * slope * slope;
            expected[0][i] = 0.99 * given[0][i] - 0.3 * 2.0 * first / (second.sqrt() + 1e-3);
            (expected[1][i], expected[2][i]) = (first, second);
        }
        // Views, too.
        let turned = tensor(&given[3], shape, &device).transpose().mul_scalar(1.0).transpose();
        for gradient in [of(&given[3]), turned] {
            let moved = step(gradient, [0.5, 2.0]);
            for (name, (found, expected)) in ["value", "first", "second"].iter().zip(moved.iter().zip(&expected)) {
                assert_near(ROUNDING, name, found, expected);
            }
        }
        let bad = of(&given[3]) * f32::NAN;
        assert_eq!(step(bad, [f32::NAN, 0.0]), [given[0].clone(), given[1].clone(), positive.clone()]);
    }
}

#[test]
fn losses() {
    if !is_fused(&test_device()) {
        return;
    }
    for (rows, classes) in [(1, 2), (37, 33), (50, 700)] {
        let targets: Vec<i64> =
            (0..rows as i64).map(|i| if i % 5 == 4 { -100 } else { i * 7 % classes as i64 }).collect();
        let targets = ints(targets, [rows]);
        for smoothing in [0.0, 0.1] {
            let sums = |sums: cross_entropy::CrossEntropy| {
                let others = [sums.negative_log_likelihood, sums.count, sums.correct];
                Tensor::cat([vec![sums.sum], others.to_vec()].concat(), 0).reshape([1, 4])
            };
            agree(
                &[input([rows, classes], 1)],
                |x| sums(smoothed_cross_entropy_sum(x[0].clone(), targets.clone(), -100, smoothing)),
                |x| sums(cross_entropy::reference(x[0].clone(), targets.clone(), -100, smoothing)),
            );
        }
    }
}

/// Chunks that leave a rest, sizes that take tiles and such that don't, a weight that is another tensor's transpose.
#[test]
fn losses_of_linear_logits() {
    let bf16 = rounds(Precision::Bf16, &test_device()) == Some(true);
    let precisions = [(Precision::F32, ROUNDING), (Precision::Bf16, BF16)];
    for (precision, tolerance) in &precisions[..if bf16 { 2 } else { 1 }] {
        for ([rows, size, classes], chunk) in
            [([1, 1, 2], 5), ([37, 5, 33], 8), ([150, 70, 130], 64), ([150, 70, 130], 300)]
        {
            let wanted = |i: i64| if i % 5 == 4 { -100 } else { i * 7 % classes as i64 };
            let targets = ints((0..rows as i64).map(wanted).collect(), [rows]);
            for (tied, smoothing) in [(false, 0.0), (true, 0.1)] {
                let weight = if tied { [classes, size] } else { [size, classes] };
                let logits = |x: &[Tensor<2>]| {
                    let weight = if tied { x[1].clone().transpose() } else { x[1].clone() };
                    LinearLogits { hidden: x[0].clone(), weight, bias: x.get(2).map(|x| x.clone().flatten(0, 1)) }
                };
                let mut inputs = vec![input([rows, size], 1), input(weight, 2)];
                inputs.extend(tied.then(|| input([1, classes], 3)));
                // Rounded logits may have another largest one.
                let sums = |sums: CrossEntropy| {
                    let parts = [sums.sum, sums.negative_log_likelihood, sums.count];
                    Tensor::cat(parts.to_vec(), 0).reshape([1, 3])
                };
                let context = Context::evaluation(*precision);
                agree_within(
                    *tolerance,
                    &inputs,
                    |x| sums(logits(x).cross_entropy_sum_in_chunks(targets.clone(), -100, smoothing, &context, chunk)),
                    |x| {
                        let LinearLogits { hidden, weight, bias } = logits(x);
                        let logits = linear::reference(hidden, weight, bias, FloatDType::F32);
                        sums(cross_entropy::reference(logits, targets.clone(), -100, smoothing))
                    },
                );
            }
        }
    }
}

/// Without a graph, and how many are right.
#[test]
fn evaluation_of_linear_logits() {
    let device = test_device();
    for ([rows, size, classes], chunks) in [([150, 70, 130], [64, 151]), ([37, 5, 33], [8, 36])] {
        let targets = Tensor::from_data(TensorData::new((0..rows as i64).collect::<Vec<_>>(), [rows]), &device) % 7;
        let tensors = [([rows, size], 1), ([size, classes], 2)]
            .map(|(shape, seed)| tensor(&numbers(shape.iter().product(), seed), shape, &device));
        let logits = || {
            let [hidden, weight] = tensors.clone();
            LinearLogits { hidden, weight, bias: None }
        };
        let expected = cross_entropy::reference(logits().compute(&evaluation()), targets.clone(), 3, 0.0);
        for chunk in chunks {
            let found = logits().cross_entropy_sum_in_chunks(targets.clone(), 3, 0.0, &evaluation(), chunk);
            assert_eq!(values(found.correct), values(expected.correct.clone()));
            assert_eq!(values(found.count), values(expected.count.clone()));
            assert_near(ROUNDING, "loss", &values(found.sum), &values(expected.sum.clone()));
        }
    }
}

/// A frozen head, or a head on a frozen model: the other gradient is the same as if both were trained.
#[test]
fn linear_logits_of_which_a_part_is_frozen() {
    for ([rows, size, classes], chunk) in [([150, 70, 130], 64), ([37, 5, 33], 8)] {
        let targets = ints((0..rows as i64).map(|i| i * 7 % classes as i64).collect(), [rows]);
        let tensors = [input([rows, size], 1), input([size, classes], 2), input([1, classes], 3)];
        let gradients = |trained: [bool; 3]| {
            let leaves: Vec<Tensor<2>> = tensors.iter().map(|(values, shape)| leaf(values, *shape)).collect();
            let parts = |index: usize| leaves[index].clone().set_require_grad(trained[index]);
            let logits = LinearLogits { hidden: parts(0), weight: parts(1), bias: Some(parts(2).flatten(0, 1)) };
            let loss = logits.cross_entropy_sum_in_chunks(targets.clone(), -100, 0.1, &evaluation(), chunk).sum;
            let gradients = loss.backward();
            leaves.iter().map(|leaf| leaf.grad(&gradients).map(values)).collect::<Vec<_>>()
        };
        let all = gradients([true; 3]);
        assert!(all.iter().all(Option::is_some));
        for index in 0..3 {
            let found = gradients(std::array::from_fn(|other| other == index));
            assert_eq!(found[index], all[index], "input {index} alone");
        }
    }
}

trait IntoIds {
    fn into_ids(self) -> Tensor<2, Int>;
}

impl IntoIds for Vec<i64> {
    fn into_ids(self) -> Tensor<2, Int> {
        let len = self.len();
        ints(self, [1, len])
    }
}
