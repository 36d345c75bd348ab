//! The operations of Cube devices: kernels of [`cube`](crate::cube), queued among those that Burn fuses.

use std::ops::Range;

use burn::{
    backend::{
        Backend, BackendTypes, Cube, TensorMetadata, backend_extension,
        fusion::custom::TensorSpec,
        ops::FloatTensorOps,
        tensor::{FloatTensor, IntTensor},
    },
    tensor::{DType, FloatDType, Shape, Slice},
};
use burn_cubecl::CubeBackend;

use super::{
    AttentionInputs, CubeFused, Maybe, Rules,
    dropout::Dropout,
    norm::Norm,
    operation::{Apply, Operation},
    optimizer::AdamW,
};
use crate::{
    cube::{
        self,
        attention::{self, Inputs, Outcome},
        cross_entropy::Target,
    },
    host::{adamw::Factors, elementwise::Noise, norm::Centre},
};

/// What the kernels compute, forward and backward; shapes as in [`cube`](crate::cube).
#[backend_extension(Cube, Fusion)]
pub(crate) trait CubeKernels: Backend {
    /// The output, and two numbers a row for the backward pass.
    #[fusion(meta = |x, gamma, _beta, _centre, _eps| (x.clone(), statistics(x, gamma)))]
    fn norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        #[extension_type] beta: Maybe<Self>,
        centre: Centre,
        eps: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// The gradient of `x`.
    #[fusion(meta = |x, _gamma, _statistics, _gradient, _centre| x.clone())]
    fn norm_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        statistics: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        centre: Centre,
    ) -> FloatTensor<Self>;

    /// The gradients of gamma and beta.
    #[fusion(meta = |_x, gamma, _statistics, _gradient| (gamma.clone(), gamma.clone()))]
    fn norm_parameters_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        statistics: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// The sums, and two numbers a row for the backward pass.
    #[fusion(meta = |_logits, targets, _target| (numbers([4]), numbers([targets.shape[0], 2])))]
    fn cross_entropy(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
        target: Target,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// The gradient of the logits.
    #[fusion(meta = |logits, _targets, _saved, _gradient, _target| logits.clone())]
    fn cross_entropy_backward(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
        saved: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        target: Target,
    ) -> FloatTensor<Self>;

    /// The output, and a number a query for the backward pass.
    #[fusion(meta = |inputs, _rules| (
        with_last(&inputs.query, inputs.value.shape[3]),
        with_last(&inputs.query, 1),
    ))]
    fn attention(
        #[extension_type] inputs: AttentionInputs<Self>,
        rules: Rules,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// The gradient of the queries. `saved` as in [`Outcome`].
    #[fusion(meta = |inputs, _gradient, _saved, _rules| numbers(inputs.query.shape.clone()))]
    fn attention_query_backward(
        #[extension_type] inputs: AttentionInputs<Self>,
        gradient: FloatTensor<Self>,
        saved: FloatTensor<Self>,
        rules: Rules,
    ) -> FloatTensor<Self>;

    /// The gradients of keys and values, side by side on the last axis.
    #[fusion(meta = |inputs, _gradient, _saved, _rules| {
        with_last(&inputs.key, inputs.key.shape[3] + inputs.value.shape[3])
    })]
    fn attention_key_value_backward(
        #[extension_type] inputs: AttentionInputs<Self>,
        gradient: FloatTensor<Self>,
        saved: FloatTensor<Self>,
        rules: Rules,
    ) -> FloatTensor<Self>;

    /// The gradient of the bias, `[bias_rows, heads, query_len, key_len]`.
    #[fusion(meta = |inputs, _gradient, _saved, _rules, bias_rows| numbers(
        [*bias_rows, inputs.query.shape[1], inputs.query.shape[2], inputs.key.shape[2]],
    ))]
    fn attention_bias_backward(
        #[extension_type] inputs: AttentionInputs<Self>,
        gradient: FloatTensor<Self>,
        saved: FloatTensor<Self>,
        rules: Rules,
        bias_rows: usize,
    ) -> FloatTensor<Self>;

    #[fusion(meta = |x, _noise| x.clone())]
    fn drop_out(x: FloatTensor<Self>, noise: Noise) -> FloatTensor<Self>;

    /// The gradient of a table of `rows` rows.
    #[fusion(meta = |gradient, _ids, rows| numbers([*rows, gradient.shape[1]]))]
    fn table_backward(gradient: FloatTensor<Self>, ids: IntTensor<Self>, rows: usize) -> FloatTensor<Self>;

    /// Value and both moments after an update of AdamW.
    #[fusion(meta = |value, _first, _second, _gradient, _scales, _factors| (value.clone(), value.clone(), value.clone()))]
    fn adamw_step(
        value: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        scales: FloatTensor<Self>,
        factors: Factors,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

fn statistics(x: &TensorSpec, gamma: &TensorSpec) -> TensorSpec {
    numbers([x.shape.num_elements() / gamma.shape.num_elements().max(1), 2])
}

/// `f32`, which all kernels write.
fn numbers(shape: impl Into<Shape>) -> TensorSpec {
    TensorSpec::new(shape.into(), DType::F32)
}

/// With another last size.
fn with_last(tensor: &TensorSpec, last: usize) -> TensorSpec {
    let mut shape = tensor.shape.clone();
    let axes = shape.num_dims();
    shape[axes - 1] = last;
    numbers(shape)
}

impl From<AttentionInputs<CubeBackend>> for Inputs {
    fn from(AttentionInputs { query, key, value, bias, mask }: AttentionInputs<CubeBackend>) -> Self {
        Self { query, key, value, bias: bias.option(), mask: mask.option() }
    }
}

impl CubeKernels for CubeBackend {
    fn norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: Maybe<Self>,
        centre: Centre,
        eps: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        cube::norm::forward(x, gamma, beta.option(), centre, eps)
    }

    fn norm_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        statistics: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        centre: Centre,
    ) -> FloatTensor<Self> {
        cube::norm::backward(x, gamma, statistics, gradient, centre)
    }

    fn norm_parameters_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        statistics: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        cube::norm::parameters_backward(x, gamma, statistics, gradient)
    }

    fn cross_entropy(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
        target: Target,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        cube::cross_entropy::forward(logits, targets, target)
    }

    fn cross_entropy_backward(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
        saved: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        target: Target,
    ) -> FloatTensor<Self> {
        cube::cross_entropy::backward(logits, targets, saved, gradient, target)
    }

    fn attention(inputs: AttentionInputs<Self>, rules: Rules) -> (FloatTensor<Self>, FloatTensor<Self>) {
        attention::forward(inputs.into(), rules)
    }

    fn attention_query_backward(
        inputs: AttentionInputs<Self>,
        gradient: FloatTensor<Self>,
        saved: FloatTensor<Self>,
        rules: Rules,
    ) -> FloatTensor<Self> {
        attention::query_backward(inputs.into(), Outcome { gradient, saved }, rules)
    }

    fn attention_key_value_backward(
        inputs: AttentionInputs<Self>,
        gradient: FloatTensor<Self>,
        saved: FloatTensor<Self>,
        rules: Rules,
    ) -> FloatTensor<Self> {
        attention::key_value_backward(inputs.into(), Outcome { gradient, saved }, rules)
    }

    fn attention_bias_backward(
        inputs: AttentionInputs<Self>,
        gradient: FloatTensor<Self>,
        saved: FloatTensor<Self>,
        rules: Rules,
        bias_rows: usize,
    ) -> FloatTensor<Self> {
        attention::bias_backward(inputs.into(), Outcome { gradient, saved }, rules, bias_rows)
    }

    fn drop_out(x: FloatTensor<Self>, noise: Noise) -> FloatTensor<Self> {
        cube::dropout::apply(x, &noise)
    }

    fn table_backward(gradient: FloatTensor<Self>, ids: IntTensor<Self>, rows: usize) -> FloatTensor<Self> {
        cube::embedding::backward(gradient, ids, rows)
    }

    fn adamw_step(
        value: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        scales: FloatTensor<Self>,
        factors: Factors,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let [value, first, second] = cube::adamw::step([value, first, second], gradient, scales, &factors);
        (value, first, second)
    }
}

impl<A> CubeFused for A
where
    A: Apply<Inner = Cube> + BackendTypes<IntTensorPrimitive = IntTensor<Cube>>,
{
    fn cube_cross_entropy(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
        ignore: i32,
        smoothing: f32,
    ) -> FloatTensor<Self> {
        Self::apply(CrossEntropySums { targets, target: Target { ignore, smoothing } }, [Some(logits)])
    }

    fn cube_embedding(table: FloatTensor<Self>, ids: IntTensor<Self>) -> FloatTensor<Self> {
        Self::apply(Embedding { ids }, [Some(table)])
    }

    fn cube_attention(inputs: AttentionInputs<Self>, rules: Rules) -> FloatTensor<Self> {
        let AttentionInputs { query, key, value, bias, mask } = inputs;
        Self::apply(Attend { mask: mask.option(), rules }, [Some(query), Some(key), Some(value), bias.option()])
    }
}

impl AdamW for Cube {
    fn adamw(
        [value, first, second]: [FloatTensor<Self>; 3],
        gradient: FloatTensor<Self>,
        scales: FloatTensor<Self>,
        factors: Factors,
    ) -> [FloatTensor<Self>; 3] {
        Self::adamw_step(value, first, second, gradient, scales, factors).into()
    }
}

impl Operation<Cube, 4> for Norm {
    /// `x` with what was added to it, gamma, and mean and inverse deviation of each row.
    type Saved = [FloatTensor<Cube>; 3];

    #[allow(clippy::expect_used)]
    fn forward(&self, [x, residual, gamma, beta]: [Option<FloatTensor<Cube>>; 4]) -> (FloatTensor<Cube>, Self::Saved) {
        let (x, gamma) = x.zip(gamma).expect("an input and gamma");
        // A kernel of Burn's, which may join the one before it: the sum has to be written for the backward pass anyway.
        let x = match residual {
            Some(residual) => Cube::float_add(x, residual),
            None => x,
        };
        let (output, statistics) = Cube::norm(x.clone(), gamma.clone(), beta.into(), self.centre, self.eps);
        (output, [x, gamma, statistics])
    }

    fn backward(
        &self,
        [x, gamma, statistics]: Self::Saved,
        gradient: FloatTensor<Cube>,
        [of_x, of_residual, of_gamma, of_beta]: [bool; 4],
    ) -> [Option<FloatTensor<Cube>>; 4] {
        let parameters = (of_gamma || of_beta)
            .then(|| Cube::norm_parameters_backward(x.clone(), gamma.clone(), statistics.clone(), gradient.clone()));
        let (gamma_gradient, beta_gradient) = parameters.unzip();
        let x_gradient =
            (of_x || of_residual).then(|| Cube::norm_backward(x, gamma, statistics, gradient, self.centre));
        [
            x_gradient.clone().filter(|_| of_x),
            x_gradient.filter(|_| of_residual),
            gamma_gradient.filter(|_| of_gamma),
            beta_gradient.filter(|_| of_beta),
        ]
    }
}

impl Operation<Cube, 1> for Dropout {
    type Saved = ();

    #[allow(clippy::expect_used)]
    fn forward(&self, [x]: [Option<FloatTensor<Cube>>; 1]) -> (FloatTensor<Cube>, ()) {
        (Cube::drop_out(x.expect("an input"), self.0), ())
    }

    fn backward(&self, (): (), gradient: FloatTensor<Cube>, _: [bool; 1]) -> [Option<FloatTensor<Cube>>; 1] {
        [Some(Cube::drop_out(gradient, self.0))]
    }
}

/// Rows of a table.
#[derive(Clone, Debug)]
struct Embedding {
    /// `[tokens]`
    ids: IntTensor<Cube>,
}

impl Operation<Cube, 1> for Embedding {
    /// How many rows the table has.
    type Saved = usize;

    #[allow(clippy::expect_used)]
    fn forward(&self, [table]: [Option<FloatTensor<Cube>>; 1]) -> (FloatTensor<Cube>, usize) {
        let table = table.expect("a table");
        let rows = table.shape()[0];
        (Cube::float_select(table, 0, self.ids.clone()), rows)
    }

    fn backward(&self, rows: usize, gradient: FloatTensor<Cube>, _: [bool; 1]) -> [Option<FloatTensor<Cube>>; 1] {
        [Some(Cube::table_backward(gradient, self.ids.clone(), rows))]
    }
}

/// The sums of a cross-entropy, `[4]`: loss, negative log-likelihood, count, correct ones.
#[derive(Clone, Debug)]
struct CrossEntropySums {
    /// `[rows]`
    targets: IntTensor<Cube>,
    target: Target,
}

impl Operation<Cube, 1> for CrossEntropySums {
    /// The logits, and two numbers a row.
    type Saved = [FloatTensor<Cube>; 2];

    #[allow(clippy::expect_used)]
    fn forward(&self, [logits]: [Option<FloatTensor<Cube>>; 1]) -> (FloatTensor<Cube>, Self::Saved) {
        let logits = logits.expect("logits");
        let (sums, saved) = Cube::cross_entropy(logits.clone(), self.targets.clone(), self.target);
        (sums, [logits, saved])
    }

    fn backward(
        &self,
        [logits, saved]: Self::Saved,
        gradient: FloatTensor<Cube>,
        _: [bool; 1],
    ) -> [Option<FloatTensor<Cube>>; 1] {
        [Some(Cube::cross_entropy_backward(logits, self.targets.clone(), saved, gradient, self.target))]
    }
}

/// Attention with a mask of [`KeyMask`](super::KeyMask).
#[derive(Clone, Debug)]
struct Attend {
    mask: Option<IntTensor<Cube>>,
    rules: Rules,
}

impl Operation<Cube, 4> for Attend {
    /// All inputs, of which query, key and value are as the kernels read them, the output, and the logarithm of each query's sum of
    /// exponentials.
    type Saved = (AttentionInputs<Cube>, [FloatTensor<Cube>; 2]);

    #[allow(clippy::expect_used)]
    fn forward(&self, [query, key, value, bias]: [Option<FloatTensor<Cube>>; 4]) -> (FloatTensor<Cube>, Self::Saved) {
        // Here and not before, so that the gradients that leave are in `f32`.
        let rounded = |tensor: FloatTensor<Cube>| match self.rules.operands {
            FloatDType::F32 => tensor,
            operands => Cube::float_cast(tensor, operands),
        };
        let [query, key, value] = [query, key, value].map(|tensor| rounded(tensor.expect("query, key and value")));
        let inputs = AttentionInputs { query, key, value, bias: bias.into(), mask: self.mask.clone().into() };
        let (output, log_sums) = Cube::attention(inputs.clone(), self.rules);
        (output.clone(), (inputs, [output, log_sums]))
    }

    fn backward(
        &self,
        (inputs, [output, log_sums]): Self::Saved,
        gradient: FloatTensor<Cube>,
        [of_query, of_key, of_value, of_bias]: [bool; 4],
    ) -> [Option<FloatTensor<Cube>>; 4] {
        let products = Cube::float_sum_dim(Cube::float_mul(output, gradient.clone()), 3);
        let saved = Cube::float_cat(vec![log_sums, products], 3);
        let outcome = || (inputs.clone(), gradient.clone(), saved.clone());
        let query = of_query.then(|| {
            let (inputs, gradient, saved) = outcome();
            Cube::attention_query_backward(inputs, gradient, saved, self.rules)
        });
        let both = (of_key || of_value).then(|| {
            let (inputs, gradient, saved) = outcome();
            Cube::attention_key_value_backward(inputs, gradient, saved, self.rules)
        });
        let part = |wanted: bool, columns: Range<usize>| {
            let both = both.clone().filter(|_| wanted)?;
            let axes: [Slice; 4] = [Slice::full(), Slice::full(), Slice::full(), columns.into()];
            Some(Cube::float_slice(both, &axes))
        };
        let [size, value_size] = [&inputs.key, &inputs.value].map(|tensor| tensor.shape()[3]);
        let (key, value) = (part(of_key, 0..size), part(of_value, size..size + value_size));
        let bias = inputs.bias.clone().option().filter(|_| of_bias).map(|bias| {
            let (inputs, gradient, saved) = outcome();
            Cube::attention_bias_backward(inputs, gradient, saved, self.rules, bias.shape()[0])
        });
        [query, key, value, bias]
    }
}
