//! Operations, forward and backward, fused against reference, on the device that `FORNAX_TEST_DEVICE` names (`flex` without it):
//!
//! ```sh
//! cargo bench -p fornax-ops --no-default-features --features flex
//! ```
//!
//! Rows are 8 sequences of 256 tokens, 384 wide, in 6 heads, as in a GPT of 10 million parameters. A device without fused forms takes the
//! reference form in both rows. What is timed ends when all gradients are there.

use std::fmt::{self, Display, Formatter};

use burn::tensor::{Distribution, Int, Tensor, TensorData};
use divan::Bencher;
use fornax_backend::{Precision, keep_freed_memory, multiplies_bf16, test_device};
use fornax_ops::{AttentionMask, AttentionOptions, Context, LinearLogits, RandomKey, reference};

const BATCH: usize = 8;
const SEQ: usize = 256;
const ROWS: usize = BATCH * SEQ;
const HEADS: usize = 6;
const HEAD_DIM: usize = 64;
const WIDTH: usize = HEADS * HEAD_DIM;

fn main() {
    keep_freed_memory();
    divan::main();
}

/// Which form of an operation is timed.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    Fused,
    Reference,
}

const FORMS: [Form; 2] = [Form::Fused, Form::Reference];

impl Display for Form {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Fused { "fused" } else { "reference" })
    }
}

/// A form of an operation whose products have a precision.
#[derive(Clone, Copy)]
struct Product(Form, Precision);

const PRODUCTS: [Product; 3] = [
    Product(Form::Fused, Precision::F32),
    Product(Form::Reference, Precision::F32),
    Product(Form::Fused, Precision::Bf16),
];

impl Display for Product {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.0, self.1)
    }
}

impl Product {
    fn context(self) -> Context {
        Context::training(self.1, RandomKey::new(1))
    }

    /// Products in bf16 that the CPU doesn't have would be those of the reference form.
    fn is_there(self) -> bool {
        self.1 == Precision::F32 || multiplies_bf16()
    }
}

fn leaf<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &test_device().autodiff()).require_grad()
}

fn targets(classes: usize) -> Tensor<1, Int> {
    let targets: Vec<i64> = (0..ROWS).map(|i| (i * 7919 % classes) as i64).collect();
    Tensor::from_data(TensorData::new(targets, [ROWS]), &test_device().autodiff())
}

/// Times `operation` and its backward pass.
fn time<const D: usize>(bencher: Bencher<'_, '_>, operation: impl Fn() -> Tensor<D> + Sync) {
    let device = test_device();
    bencher.bench_local(|| {
        let gradients = operation().sum().backward();
        device.sync().map(|()| gradients)
    });
}

#[divan::bench(args = PRODUCTS)]
fn attention(bencher: Bencher<'_, '_>, form: Product) {
    if !form.is_there() {
        return;
    }
    let [query, key, value] = [(); 3].map(|()| leaf([BATCH, HEADS, SEQ, HEAD_DIM]));
    let options = AttentionOptions { causal: true, scale: 0.125, dropout: 0.0 };
    let function = if form.0 == Form::Fused { fornax_ops::attention } else { reference::attention };
    time(bencher, || {
        let [query, key, value] = [&query, &key, &value].map(Clone::clone);
        function(query, key, value, &AttentionMask::None, None, &options, &form.context())
    });
}

/// From the width to so many outputs.
fn linear_of(bencher: Bencher<'_, '_>, form: Product, outputs: usize) {
    if !form.is_there() {
        return;
    }
    let (x, weight, bias) = (leaf([ROWS, WIDTH]), leaf([WIDTH, outputs]), leaf([outputs]));
    time(bencher, || {
        let (x, weight, bias) = (x.clone(), weight.clone(), Some(bias.clone()));
        match form.0 {
            Form::Fused => fornax_ops::linear(x, weight, bias, &form.context()),
            Form::Reference => reference::linear(x, weight, bias, form.1.dtype()),
        }
    });
}

#[divan::bench(args = PRODUCTS)]
fn linear_to_the_same(bencher: Bencher<'_, '_>, form: Product) {
    linear_of(bencher, form, WIDTH);
}

#[divan::bench(args = PRODUCTS)]
fn linear_to_four_times_as_many(bencher: Bencher<'_, '_>, form: Product) {
    linear_of(bencher, form, 4 * WIDTH);
}

#[divan::bench(args = FORMS)]
fn layer_norm(bencher: Bencher<'_, '_>, form: Form) {
    let (x, gamma, beta) = (leaf([ROWS, WIDTH]), leaf([WIDTH]), leaf([WIDTH]));
    let function = if form == Form::Fused { fornax_ops::layer_norm } else { reference::layer_norm };
    time(bencher, || function(x.clone(), gamma.clone(), Some(beta.clone()), 1e-5));
}

/// As after the layers of BERT: nobody else has the first input. Making it is timed too.
#[divan::bench(args = FORMS)]
fn add_layer_norm(bencher: Bencher<'_, '_>, form: Form) {
    let [x, residual] = [(); 2].map(|()| leaf([ROWS, WIDTH]));
    let (gamma, beta) = (leaf([WIDTH]), leaf([WIDTH]));
    time(bencher, || {
        let (x, residual) = (x.clone().mul_scalar(0.9), residual.clone());
        let (gamma, beta) = (gamma.clone(), Some(beta.clone()));
        match form {
            Form::Fused => fornax_ops::add_layer_norm(x, residual, gamma, beta, 1e-5),
            Form::Reference => reference::layer_norm(x + residual, gamma, beta, 1e-5),
        }
    });
}

#[divan::bench(args = FORMS)]
fn rms_norm(bencher: Bencher<'_, '_>, form: Form) {
    let (x, gamma) = (leaf([ROWS, WIDTH]), leaf([WIDTH]));
    let function = if form == Form::Fused { fornax_ops::rms_norm } else { reference::rms_norm };
    time(bencher, || function(x.clone(), gamma.clone(), 1e-6));
}

#[divan::bench(args = FORMS)]
fn gelu(bencher: Bencher<'_, '_>, form: Form) {
    let x = leaf([ROWS, 4 * WIDTH]);
    let function = if form == Form::Fused { fornax_ops::gelu } else { reference::gelu };
    time(bencher, || function(x.clone()));
}

#[divan::bench(args = FORMS)]
fn gelu_tanh(bencher: Bencher<'_, '_>, form: Form) {
    let x = leaf([ROWS, 4 * WIDTH]);
    let function = if form == Form::Fused { fornax_ops::gelu_tanh } else { reference::gelu_tanh };
    time(bencher, || function(x.clone()));
}

/// As in a feed-forward layer of T5 1.1.
#[divan::bench(args = FORMS)]
fn geglu_tanh(bencher: Bencher<'_, '_>, form: Form) {
    let (gate, up) = (leaf([ROWS, 4 * WIDTH]), leaf([ROWS, 4 * WIDTH]));
    let function = if form == Form::Fused { fornax_ops::geglu_tanh } else { reference::geglu_tanh };
    time(bencher, || function(gate.clone(), up.clone()));
}

#[divan::bench(args = FORMS)]
fn swiglu(bencher: Bencher<'_, '_>, form: Form) {
    let (gate, up) = (leaf([ROWS, 4 * WIDTH]), leaf([ROWS, 4 * WIDTH]));
    let function = if form == Form::Fused { fornax_ops::swiglu } else { reference::swiglu };
    time(bencher, || function(gate.clone(), up.clone()));
}

#[divan::bench(args = FORMS)]
fn cross_entropy(bencher: Bencher<'_, '_>, form: Form) {
    const CLASSES: usize = 8192;
    let (logits, targets) = (leaf([ROWS, CLASSES]), targets(CLASSES));
    time(bencher, || match form {
        Form::Fused => fornax_ops::smoothed_cross_entropy_sum(logits.clone(), targets.clone(), -100, 0.1).sum,
        Form::Reference => reference::smoothed_cross_entropy_sum(logits.clone(), targets.clone(), -100, 0.1).sum,
    });
}

/// Of a vocabulary like GPT-2's, whose logits take more than a chunk.
#[divan::bench(args = PRODUCTS)]
fn linear_cross_entropy(bencher: Bencher<'_, '_>, form: Product) {
    const CLASSES: usize = 50_304;
    if !form.is_there() {
        return;
    }
    let (hidden, table, targets) = (leaf([ROWS, WIDTH]), leaf([CLASSES, WIDTH]), targets(CLASSES));
    time(bencher, || {
        let (hidden, weight, targets) = (hidden.clone(), table.clone().transpose(), targets.clone());
        match form.0 {
            Form::Fused => {
                let logits = LinearLogits { hidden, weight, bias: None };
                logits.cross_entropy_sum(targets, -100, 0.0, &form.context()).sum
            }
            Form::Reference => {
                let logits = reference::linear(hidden, weight, None, form.1.dtype());
                reference::smoothed_cross_entropy_sum(logits, targets, -100, 0.0).sum
            }
        }
    });
}

/// The noise is drawn in both, on the host.
#[divan::bench]
fn dropout(bencher: Bencher<'_, '_>) {
    let (x, context) = (leaf([ROWS, WIDTH]), Context::training(Precision::F32, RandomKey::new(1)));
    time(bencher, || fornax_ops::dropout(x.clone(), 0.1, &context));
}

#[divan::bench(args = FORMS)]
fn embedding(bencher: Bencher<'_, '_>, form: Form) {
    let (table, ids) = (leaf([8192, WIDTH]), targets(8192).reshape([BATCH, SEQ]));
    let function = if form == Form::Fused { fornax_ops::embedding } else { burn::tensor::module::embedding };
    time(bencher, || function(table.clone(), ids.clone()));
}
