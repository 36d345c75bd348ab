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
    bf16::{Side, Tiles, multiply_tiles},
    matrix::{Into, Matrix, Product, multiply},
    norm::sum_rows,
};

/// `x · weight + bias`, whose factors are rounded to bfloat16.
#[derive(Clone, Copy, Debug)]
pub(super) struct LinearBf16;

/// What the backward pass needs: half of the memory that the input takes.
#[derive(Clone, Debug)]
pub(super) struct Saved<T> {
    /// The shape of the input.
    shape: Shape,
    /// The input, for the product with the gradient that sums over its rows.
    across: Arc<Tiles>,
    weight: T,
}

/// The side that the input stands on in the gradient of `weight`, which is made in the order of the weight's own memory, so that adding
/// it to another gradient of the weight costs no copy.
fn side<B: HostMemory>(weight: &FloatTensor<B>) -> Side {
    let in_order = B::strided(weight).is_some_and(|(_, strides)| strides[1] == 1);
    if in_order { Side::Left } else { Side::Right }
}

impl<B: Kernels> Operation<B, 3> for LinearBf16 {
    type Saved = Saved<FloatTensor<B>>;

    #[allow(clippy::expect_used)]
    fn forward(&self, inputs: [Option<FloatTensor<B>>; 3]) -> (FloatTensor<B>, Self::Saved) {
        let Inputs { x, weight, bias, rows } = Inputs::<B>::new(inputs);
        let [inputs, outputs] = [weight.shape()[0], weight.shape()[1]];
        let (along, across) = Tiles::both_ways(Matrix::new(B::slice(&x), [rows, inputs]), side::<B>(&weight));
        let right = Tiles::new(matrix::<B>(&weight).expect("checked"), Side::Right, 1.0, true);
        let output = B::create(with_last(&x.shape(), outputs), |out| {
            let into = bias.as_ref().map_or(Into::Overwrite, |bias| Into::Bias(B::slice(bias)));
            multiply_tiles(&along, &right, out, outputs, into, true);
        });
        (output, Saved { shape: x.shape(), across: Arc::new(across), weight })
    }

    #[allow(clippy::expect_used)]
    fn compute(&self, inputs: [Option<FloatTensor<B>>; 3]) -> FloatTensor<B> {
        let Inputs { x, weight, bias, rows } = Inputs::<B>::new(inputs);
        let [inputs, outputs] = [weight.shape()[0], weight.shape()[1]];
        B::create(with_last(&x.shape(), outputs), |out| {
            let into = bias.as_ref().map_or(Into::Overwrite, |bias| Into::Bias(B::slice(bias)));
            let (x, weight) = (Matrix::new(B::slice(&x), [rows, inputs]), matrix::<B>(&weight).expect("checked"));
            multiply(Product { alpha: 1.0, bf16: true, parallel: true }, x, weight, out, outputs, into);
        })
    }

    #[allow(clippy::expect_used)]
    fn backward(
        &self,
        Saved { shape, across, weight }: Self::Saved,
        gradient: FloatTensor<B>,
        [of_x, of_weight, of_bias]: [bool; 3],
    ) -> [Option<FloatTensor<B>>; 3] {
        let gradient = B::contiguous(gradient);
        let [inputs, outputs] = [weight.shape()[0], weight.shape()[1]];
        let rows = shape.num_elements() / inputs;
        let product = |shape: Shape, lhs: &Tiles, rhs: &Tiles, columns: usize| {
            B::create(shape, |out| multiply_tiles(lhs, rhs, out, columns, Into::Overwrite, true))
        };
        let slope = Matrix::new(B::slice(&gradient), [rows, outputs]);
        let (along, slope) = match side::<B>(&weight) {
            Side::Left => Tiles::both_ways(slope, Side::Right),
            Side::Right => Tiles::both_ways(slope, Side::Left),
        };
        let x_gradient = of_x.then(|| {
            let weight = matrix::<B>(&weight).expect("checked").transposed();
            product(shape, &along, &Tiles::new(weight, Side::Right, 1.0, true), inputs)
        });
        let weight_gradient = of_weight.then(|| match side::<B>(&weight) {
            Side::Left => product(Shape::new([inputs, outputs]), &across, &slope, outputs),
            Side::Right => B::float_swap_dims(product(Shape::new([outputs, inputs]), &slope, &across, inputs), 0, 1),
        });
        let bias_gradient = of_bias.then(|| B::create(Shape::new([outputs]), |out| sum_rows(B::slice(&gradient), out)));
        [x_gradient, weight_gradient, bias_gradient]
    }
}

struct Inputs<B: HostMemory> {
    x: FloatTensor<B>,
    /// One that [`matrix`] can walk.
    weight: FloatTensor<B>,
    bias: Option<FloatTensor<B>>,
    /// Of `x`.
    rows: usize,
}

impl<B: HostMemory> Inputs<B> {
    #[allow(clippy::expect_used)]
    fn new([x, weight, bias]: [Option<FloatTensor<B>>; 3]) -> Self {
        let (x, weight) = x.zip(weight).expect("an input and a weight");
        let weight = if matrix::<B>(&weight).is_some() { weight } else { B::contiguous(weight) };
        let rows = x.shape().num_elements() / weight.shape()[0].max(1);
        Self { x: B::contiguous(x), weight, bias: bias.map(B::contiguous), rows }
    }
}
