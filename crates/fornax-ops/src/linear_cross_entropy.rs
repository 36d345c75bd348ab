use burn::{
    backend::Dispatch,
    tensor::{Int, Tensor},
};

use fornax_backend::Precision;

use crate::{
    Context, CrossEntropy,
    cross_entropy::{classes_of, split},
    fused::{ChunkedLoss, HostFused, Maybe, multiplies_by_tiles},
    linear,
    slope::constant,
    smoothed_cross_entropy_sum,
};

/// Logits that are still to be computed: `hidden · weight + bias`.
///
/// A loss takes them a chunk of rows at a time, and its gradients with them, so that of the largest matrix of a language model never
/// more than a chunk exists.
#[derive(Clone, Debug)]
pub struct LinearLogits {
    /// `[rows, hidden_size]`
    pub hidden: Tensor<2>,
    /// `[hidden_size, classes]`
    pub weight: Tensor<2>,
    /// `[classes]`
    pub bias: Option<Tensor<1>>,
}

impl LinearLogits {
    /// The most logits that a loss has in memory at once, but for `f16` and a row that is longer: 128 MiB.
    pub const CHUNK: usize = 32 << 20;

    /// All of them, the product in [`Context::precision`].
    ///
    /// # Shapes
    ///
    /// Result: `[rows, classes]`
    ///
    /// # Panics
    ///
    /// When the shapes don't fit.
    pub fn compute(self, context: &Context) -> Tensor<2> {
        linear(self.hidden, self.weight, self.bias, context)
    }

    /// [`smoothed_cross_entropy_sum`] of them.
    ///
    /// With a graph, the gradients of the three tensors are computed along with the loss, chunk by chunk, and wait for the backward pass,
    /// which multiplies them with the gradient of the loss: as many products as computing all logits takes, and none twice. In `f16` all
    /// logits are computed at once.
    ///
    /// # Shapes
    ///
    /// - `targets`: `[rows]`, each `ignore` or in `0..classes`
    ///
    /// # Panics
    ///
    /// When the shapes don't fit, and when `smoothing` is not in `0..1`.
    pub fn cross_entropy_sum(
        self,
        targets: Tensor<1, Int>,
        ignore: i64,
        smoothing: f64,
        context: &Context,
    ) -> CrossEntropy {
        let chunk = (Self::CHUNK / self.weight.dims()[1].max(1)).next_multiple_of(32);
        self.cross_entropy_sum_in_chunks(targets, ignore, smoothing, context, chunk)
    }

    /// In chunks of at most `chunk` rows.
    pub(crate) fn cross_entropy_sum_in_chunks(
        self,
        targets: Tensor<1, Int>,
        ignore: i64,
        smoothing: f64,
        context: &Context,
        chunk: usize,
    ) -> CrossEntropy {
        let ([rows, size], [inputs, classes]) = (self.hidden.dims(), self.weight.dims());
        assert_eq!(size, inputs, "linear logits: last size of the hidden states against first size of the weight");
        assert_eq!([rows], targets.dims(), "cross_entropy_sum: rows of logits against targets");
        assert!((0.0..1.0).contains(&smoothing), "cross_entropy_sum: smoothing {smoothing} is not in 0..1");
        if let Some(bf16) =
            multiplies_by_tiles(context.precision(), &self.hidden.device(), [rows.min(chunk), inputs, classes])
        {
            let targets = classes_of(targets, classes, ignore);
            let of_weight = self.weight.is_tracked();
            let loss = ChunkedLoss { targets, smoothing: smoothing as f32, bf16, chunk, of_weight };
            let (hidden, weight) = (self.hidden.into_dispatch(), self.weight.into_dispatch());
            let sums = Dispatch::fused_linear_cross_entropy(hidden, weight, Maybe::new(self.bias), loss);
            return split(Tensor::from_dispatch(sums));
        }
        // The scale of a loss has to reach its gradients before they are rounded to `f16`, so they can't be computed along with it there.
        match rows <= chunk || context.precision() == Precision::F16 {
            true => smoothed_cross_entropy_sum(self.compute(context), targets, ignore, smoothing),
            false => self.by_tensors(&targets, ignore, smoothing, context, chunk),
        }
    }

    /// In operations on tensors. A chunk has a graph of its own, from its logits to its loss, which is gone before the next one.
    fn by_tensors(
        self,
        targets: &Tensor<1, Int>,
        ignore: i64,
        smoothing: f64,
        context: &Context,
        chunk: usize,
    ) -> CrossEntropy {
        let [of_hidden, of_weight] = [&self.hidden, &self.weight].map(Tensor::is_tracked);
        let of_bias = self.bias.as_ref().is_some_and(Tensor::is_tracked);
        let tracked = of_hidden || of_weight || of_bias;
        let (hidden, weight) = (constant(&self.hidden), constant(&self.weight));
        let bias = self.bias.as_ref().map(constant);
        let rows = hidden.dims()[0];
        let mut sums: Option<CrossEntropy> = None;
        let mut slopes = Slopes::default();
        for first in (0..rows).step_by(chunk) {
            let len = chunk.min(rows - first);
            let x = hidden.clone().narrow(0, first, len);
            let logits = linear(x.clone(), weight.clone(), bias.clone(), context);
            let logits = if tracked { logits.require_grad() } else { logits };
            let more =
                smoothed_cross_entropy_sum(logits.clone(), targets.clone().narrow(0, first, len), ignore, smoothing);
            if tracked && let Some(slope) = logits.grad(&more.sum.backward()) {
                slopes.add(x, &weight, Tensor::from_inner(slope), [of_hidden, of_weight, of_bias], context);
            }
            let more = CrossEntropy { sum: constant(&more.sum), ..more };
            sums = Some(match sums {
                None => more,
                Some(sums) => sums + more,
            });
        }
        // There is more than one chunk, or the plain form would do.
        #[allow(clippy::expect_used)]
        let sums = sums.expect("a chunk");
        match slopes.attached(self) {
            // Its value is 0.
            Some(linear) => CrossEntropy { sum: (linear.clone() - constant(&linear)) + sums.sum, ..sums },
            None => sums,
        }
    }
}

/// The gradients of a loss that is summed over chunks, of what takes one.
#[derive(Default)]
struct Slopes {
    hidden: Vec<Tensor<2>>,
    weight: Option<Tensor<2>>,
    bias: Option<Tensor<1>>,
}

impl Slopes {
    /// Those of one more chunk, of whose logits `slope` is the gradient.
    fn add(
        &mut self,
        x: Tensor<2>,
        weight: &Tensor<2>,
        slope: Tensor<2>,
        [of_hidden, of_weight, of_bias]: [bool; 3],
        context: &Context,
    ) {
        fn sum<const D: usize>(total: Option<Tensor<D>>, more: Tensor<D>) -> Option<Tensor<D>> {
            Some(match total {
                None => more,
                Some(total) => total + more,
            })
        }
        if of_hidden {
            self.hidden.push(linear(slope.clone(), weight.clone().transpose(), None, context));
        }
        if of_bias {
            self.bias = sum(self.bias.take(), slope.clone().sum_dim(0).squeeze_dim(0));
        }
        if of_weight {
            self.weight = sum(self.weight.take(), linear(x.transpose(), slope, None, context));
        }
    }

    /// A number with these gradients; none without any.
    fn attached(self, LinearLogits { hidden, weight, bias }: LinearLogits) -> Option<Tensor<1>> {
        // By rows first, as in the reference form of a cross-entropy.
        let product = |tensor: Tensor<2>, slope: Tensor<2>| (tensor * slope).sum_dim(1).sum();
        let of_hidden = (!self.hidden.is_empty()).then(|| product(hidden, Tensor::cat(self.hidden, 0)));
        let of_weight = self.weight.map(|slope| product(weight, slope));
        let of_bias = bias.zip(self.bias).map(|(bias, slope)| (bias * slope).sum());
        [of_hidden, of_weight, of_bias].into_iter().flatten().reduce(Tensor::add)
    }
}
