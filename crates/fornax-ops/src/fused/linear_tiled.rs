use std::sync::Arc;

use burn::{
    backend::{TensorMetadata, tensor::FloatTensor},
    tensor::Shape,
};

use super::{
    Kernels,
    linear::{matrix, with_last},
    memory::HostMemory,
    operation::Operation,
};
use crate::host::{
    matrix::{Into, Matrix, Product, multiply},
    norm::sum_rows,
    tiled::{Factors, Side, Tiles, multiply_tiles},
};

/// `x · weight + bias` by tiles.
#[derive(Clone, Copy, Debug)]
pub(super) struct TiledLinear(pub(super) Factors);

/// What the backward pass needs.
#[derive(Clone, Debug)]
pub(super) struct Saved<T> {
    input: Input<T>,
    weight: T,
}

/// The input for the product with the gradient that sums over its rows, in whichever form is smaller.
#[derive(Clone, Debug)]
enum Input<T> {
    /// Of `f32`, whose tiles would take half as much again.
    Numbers(T),
    /// Of bfloat16, which take half as much; and the shape.
    Tiles(Arc<Tiles>, Shape),
}

/// The side that the input stands on in the gradient of `weight`, which is made in the order of the weight's own memory, so that adding
/// it to another gradient of the weight costs no copy.
pub(super) fn side<B: HostMemory>(weight: &FloatTensor<B>) -> Side {
    let in_order = B::strided(weight).is_some_and(|(_, strides)| strides[1] == 1);
    if in_order { Side::Left } else { Side::Right }
}

impl<B: Kernels> Operation<B, 3> for TiledLinear {
    type Saved = Saved<FloatTensor<B>>;

    fn forward(&self, inputs: [Option<FloatTensor<B>>; 3]) -> (FloatTensor<B>, Self::Saved) {
        let inputs = Inputs::<B>::new(inputs);
        let x = Matrix::new(B::slice(&inputs.x), [inputs.rows, inputs.weight.shape()[0]]);
        let side = side::<B>(&inputs.weight);
        let (along, across) = match self.0 {
            Factors::F32 => (Tiles::new(x, Factors::F32, Side::Left, 1.0, true), None),
            Factors::Bf16 => {
                let (along, across) = Tiles::both_ways(x, Factors::Bf16, side);
                (along, Some(across))
            }
        };
        let right = Tiles::new(inputs.weights(), self.0, Side::Right, 1.0, true);
        let output = inputs.output(|out, into, columns| multiply_tiles(&along, &right, out, columns, into, true));
        let Inputs { x, weight, .. } = inputs;
        let input = match across {
            Some(across) => Input::Tiles(Arc::new(across), x.shape()),
            None => Input::Numbers(x),
        };
        (output, Saved { input, weight })
    }

    fn compute(&self, inputs: [Option<FloatTensor<B>>; 3]) -> FloatTensor<B> {
        let inputs = Inputs::<B>::new(inputs);
        let x = Matrix::new(B::slice(&inputs.x), [inputs.rows, inputs.weight.shape()[0]]);
        let product = Product { alpha: 1.0, bf16: self.0 == Factors::Bf16, parallel: true };
        inputs.output(|out, into, columns| multiply(product, x, inputs.weights(), out, columns, into))
    }

    #[allow(clippy::expect_used)]
    fn backward(
        &self,
        Saved { input, weight }: Self::Saved,
        gradient: FloatTensor<B>,
        [of_x, of_weight, of_bias]: [bool; 3],
    ) -> [Option<FloatTensor<B>>; 3] {
        let gradient = B::contiguous(gradient);
        let [inputs, outputs] = [weight.shape()[0], weight.shape()[1]];
        let shape = match &input {
            Input::Numbers(x) => x.shape(),
            Input::Tiles(_, shape) => shape.clone(),
        };
        let rows = shape.num_elements() / inputs.max(1);
        let product = |shape: Shape, lhs: &Tiles, rhs: &Tiles, columns: usize| {
            B::create(shape, |out| multiply_tiles(lhs, rhs, out, columns, Into::Overwrite, true))
        };
        let side = side::<B>(&weight);
        let other = if side == Side::Left { Side::Right } else { Side::Left };
        let slope = Matrix::new(B::slice(&gradient), [rows, outputs]);
        let (along, slope) = Tiles::both_ways(slope, self.0, other);
        let x_gradient = of_x.then(|| {
            let weight = matrix::<B>(&weight).expect("checked").transposed();
            product(shape, &along, &Tiles::new(weight, self.0, Side::Right, 1.0, true), inputs)
        });
        drop(along);
        let weight_gradient = of_weight.then(|| {
            let across = match input {
                Input::Tiles(across, _) => across,
                Input::Numbers(x) => {
                    let x = Matrix::new(B::slice(&x), [rows, inputs]);
                    let x = if side == Side::Left { x.transposed() } else { x };
                    Arc::new(Tiles::new(x, self.0, side, 1.0, true))
                }
            };
            match side {
                Side::Left => product(Shape::new([inputs, outputs]), &across, &slope, outputs),
                Side::Right => {
                    B::float_swap_dims(product(Shape::new([outputs, inputs]), &slope, &across, inputs), 0, 1)
                }
            }
        });
        let bias_gradient = of_bias.then(|| B::create(Shape::new([outputs]), |out| sum_rows(B::slice(&gradient), out)));
        [x_gradient, weight_gradient, bias_gradient]
    }
}

pub(super) struct Inputs<B: HostMemory> {
    /// Contiguous, as is the bias.
    pub(super) x: FloatTensor<B>,
    /// One that [`matrix`] can walk.
    pub(super) weight: FloatTensor<B>,
    pub(super) bias: Option<FloatTensor<B>>,
    /// Of `x`.
    rows: usize,
}

impl<B: HostMemory> Inputs<B> {
    #[allow(clippy::expect_used)]
    pub(super) fn new([x, weight, bias]: [Option<FloatTensor<B>>; 3]) -> Self {
        let (x, weight) = x.zip(weight).expect("an input and a weight");
        let weight = if matrix::<B>(&weight).is_some() { weight } else { B::contiguous(weight) };
        let rows = x.shape().num_elements() / weight.shape()[0].max(1);
        Self { x: B::contiguous(x), weight, bias: bias.map(B::contiguous), rows }
    }

    #[allow(clippy::expect_used)]
    pub(super) fn weights(&self) -> Matrix<'_> {
        matrix::<B>(&self.weight).expect("checked")
    }

    /// The output, which `fill` writes: its numbers, what they start from, and its columns.
    fn output(&self, fill: impl FnOnce(&mut [f32], Into<'_>, usize)) -> FloatTensor<B> {
        let columns = self.weight.shape()[1];
        B::create(with_last(&self.x.shape(), columns), |out| {
            fill(out, self.bias.as_ref().map_or(Into::Overwrite, |bias| Into::Bias(B::slice(bias))), columns);
        })
    }
}
