use burn::{
    backend::{TensorMetadata, tensor::FloatTensor},
    tensor::Shape,
};

use super::{
    ChunkedLoss, Kernels,
    linear_tiled::{Inputs, side},
    operation::Operation,
};
use crate::host::{
    PIECE,
    cross_entropy::{Sums, backward, forward},
    each,
    matrix::{Into, Matrix},
    norm::{add, sum_rows},
    tiled::{Factors, Side, Tiles, multiply_tiles},
};

/// The sums of a cross-entropy of `x · weight + bias`, `[4]`, by tiles: loss, negative log-likelihood, count, correct ones. None of the
/// sizes is 0.
///
/// The gradients are computed with the loss, while a chunk of logits is there.
#[derive(Clone, Debug)]
pub(super) struct TiledLoss(pub(super) ChunkedLoss);

/// Gradients of the loss, contiguous; that of the weight in the order of the weight's own memory.
struct Slopes<'a> {
    x: &'a mut [f32],
    weight: Option<&'a mut [f32]>,
    bias: Option<&'a mut [f32]>,
}

impl TiledLoss {
    fn factors(&self) -> Factors {
        if self.0.bf16 { Factors::Bf16 } else { Factors::F32 }
    }

    /// The sums, and their gradients where they are wanted.
    fn run<B: Kernels>(&self, inputs: &Inputs<B>, mut slopes: Option<Slopes<'_>>) -> FloatTensor<B> {
        let (ChunkedLoss { targets, smoothing, chunk, .. }, factors) = (&self.0, self.factors());
        let [size, classes] = [inputs.weight.shape()[0], inputs.weight.shape()[1]];
        let right = Tiles::new(inputs.weights(), factors, Side::Right, 1.0, true);
        let turned = slopes.as_ref().map(|_| {
            let turned = Tiles::new(inputs.weights().transposed(), factors, Side::Right, 1.0, true);
            (turned, side::<B>(&inputs.weight))
        });
        let into = inputs.bias.as_ref().map_or(Into::Overwrite, |bias| Into::Bias(B::slice(bias)));
        let chunk = (*chunk).min(targets.len());
        let (mut logits, mut log_sums) = (vec![0.0; chunk * classes], vec![0.0; chunk]);
        let mut sums = Sums::default();
        for (index, (x, targets)) in B::slice(&inputs.x).chunks(chunk * size).zip(targets.chunks(chunk)).enumerate() {
            let rows = targets.len();
            let (logits, log_sums) = (&mut logits[..rows * classes], &mut log_sums[..rows]);
            let x = Matrix::new(x, [rows, size]);
            let left = Tiles::new(x, factors, Side::Left, 1.0, true);
            multiply_tiles(&left, &right, logits, classes, into, true);
            drop(left);
            sums = sums + forward(logits, classes, targets, *smoothing, log_sums);
            if let Some((slopes, (turned, side))) = slopes.as_mut().zip(turned.as_ref()) {
                backward(logits, classes, targets, *smoothing, log_sums, 1.0);
                let at = index * chunk * size;
                let of_x = &mut slopes.x[at..at + rows * size];
                let of_weight = slopes.weight.as_deref_mut().map(|weight| (weight, *side));
                multiply_slopes(factors, x, Matrix::new(logits, [rows, classes]), of_x, turned, of_weight);
                if let Some(bias) = &mut slopes.bias {
                    let mut more = vec![0.0; classes];
                    sum_rows(logits, &mut more);
                    add(bias, &more);
                }
            }
        }
        let sums = [sums.loss, sums.negative_log_likelihood, sums.count, sums.correct];
        B::create(Shape::new([4]), |out| out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum as f32))
    }
}

/// The gradients of the chunk `x` and, added to it, of the weight, of whose product `slope` is the gradient.
fn multiply_slopes(
    factors: Factors,
    x: Matrix<'_>,
    slope: Matrix<'_>,
    of_x: &mut [f32],
    turned: &Tiles,
    of_weight: Option<(&mut [f32], Side)>,
) {
    let along = Tiles::new(slope, factors, Side::Left, 1.0, true);
    multiply_tiles(&along, turned, of_x, x.columns(), Into::Overwrite, true);
    drop(along);
    let Some((of_weight, side)) = of_weight else { return };
    let (left, right) = match side {
        Side::Left => (x.transposed(), slope),
        Side::Right => (slope.transposed(), x),
    };
    let columns = right.columns();
    let left = Tiles::new(left, factors, Side::Left, 1.0, true);
    let right = Tiles::new(right, factors, Side::Right, 1.0, true);
    multiply_tiles(&left, &right, of_weight, columns, Into::Add, true);
}

impl<B: Kernels> Operation<B, 3> for TiledLoss {
    /// The gradients of input, weight and bias, that of the weight turned where it stands on the right.
    type Saved = ([Option<FloatTensor<B>>; 3], Side);

    #[allow(clippy::expect_used)]
    fn forward(&self, inputs: [Option<FloatTensor<B>>; 3]) -> (FloatTensor<B>, Self::Saved) {
        let inputs = Inputs::<B>::new(inputs);
        let [size, classes] = [inputs.weight.shape()[0], inputs.weight.shape()[1]];
        let side = side::<B>(&inputs.weight);
        let zeros = |shape: Shape| B::create(shape, |out| out.fill(0.0));
        let mut x = zeros(inputs.x.shape());
        let of_weight = Shape::new(if side == Side::Left { [size, classes] } else { [classes, size] });
        let mut weight = self.0.of_weight.then(|| zeros(of_weight));
        let mut bias = inputs.bias.as_ref().map(|bias| zeros(bias.shape()));
        let slopes = Slopes {
            x: B::slice_mut(&mut x).expect("a tensor of its own"),
            weight: weight.as_mut().map(|weight| B::slice_mut(weight).expect("a tensor of its own")),
            bias: bias.as_mut().map(|bias| B::slice_mut(bias).expect("a tensor of its own")),
        };
        let sums = self.run(&inputs, Some(slopes));
        (sums, ([Some(x), weight, bias], side))
    }

    fn compute(&self, inputs: [Option<FloatTensor<B>>; 3]) -> FloatTensor<B> {
        self.run(&Inputs::<B>::new(inputs), None)
    }

    fn backward(
        &self,
        ([x, weight, bias], side): Self::Saved,
        gradient: FloatTensor<B>,
        [of_x, of_weight, of_bias]: [bool; 3],
    ) -> [Option<FloatTensor<B>>; 3] {
        let gradient = B::contiguous(gradient);
        let scale = B::slice(&gradient)[0];
        let scaled = |slope: Option<FloatTensor<B>>| slope.map(|slope| scaled::<B>(slope, scale));
        let turned = |weight| if side == Side::Left { weight } else { B::float_swap_dims(weight, 0, 1) };
        [scaled(x.filter(|_| of_x)), scaled(weight.filter(|_| of_weight)).map(turned), scaled(bias.filter(|_| of_bias))]
    }
}

/// `slope · scale`, in the same memory if nobody else has it.
fn scaled<B: Kernels>(mut slope: FloatTensor<B>, scale: f32) -> FloatTensor<B> {
    match B::slice_mut(&mut slope) {
        Some(numbers) => {
            each(numbers.chunks_mut(PIECE), |piece| piece.iter_mut().for_each(|number| *number *= scale));
            slope
        }
        None => B::float_mul_scalar(slope, scale.into()),
    }
}
