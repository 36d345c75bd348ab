use burn::{
    backend::{TensorMetadata, tensor::FloatTensor},
    tensor::Shape,
};

use super::{Kernels, memory::HostMemory, operation::Operation};
use crate::host::{
    matrix::{Into, Matrix, Product, multiply},
    norm::sum_rows,
};

/// `x · weight + bias` in `f32`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Linear;

/// What computes it on a backend; unless it says otherwise, the products of the host.
pub(crate) trait LinearKernel: HostMemory {
    /// The output, and input and weight as the backward pass wants them.
    fn affine(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Option<FloatTensor<Self>>,
    ) -> (FloatTensor<Self>, [FloatTensor<Self>; 2]) {
        on_host::affine::<Self>(x, weight, bias)
    }

    /// The gradients of input, weight and bias.
    fn affine_backward(
        saved: [FloatTensor<Self>; 2],
        gradient: FloatTensor<Self>,
        wanted: [bool; 3],
    ) -> [Option<FloatTensor<Self>>; 3] {
        on_host::affine_backward::<Self>(saved, gradient, wanted)
    }
}

impl<B: Kernels> Operation<B, 3> for Linear {
    /// Input and weight.
    type Saved = [FloatTensor<B>; 2];

    #[allow(clippy::expect_used)]
    fn forward(&self, [x, weight, bias]: [Option<FloatTensor<B>>; 3]) -> (FloatTensor<B>, Self::Saved) {
        let (x, weight) = x.zip(weight).expect("an input and a weight");
        B::affine(x, weight, bias)
    }

    fn backward(&self, saved: Self::Saved, gradient: FloatTensor<B>, wanted: [bool; 3]) -> [Option<FloatTensor<B>>; 3] {
        B::affine_backward(saved, gradient, wanted)
    }
}

/// `shape` with another last size.
pub(super) fn with_last(shape: &Shape, last: usize) -> Shape {
    let mut sizes = shape.to_vec();
    if let Some(size) = sizes.last_mut() {
        *size = last;
    }
    Shape::from(sizes)
}

/// A matrix, whichever of its axes is the one whose elements stand side by side.
pub(super) fn matrix<B: HostMemory>(tensor: &FloatTensor<B>) -> Option<Matrix<'_>> {
    let shape = tensor.shape();
    let (data, strides) = B::strided(tensor)?;
    Some(Matrix::with_strides(data, [shape[0], shape[1]], [strides[0], strides[1]]))
}

/// By the products of the host.
mod on_host {
    use super::*;

    const PRODUCT: Product = Product { alpha: 1.0, bf16: false, parallel: true };

    pub(super) fn affine<B: HostMemory>(
        x: FloatTensor<B>,
        weight: FloatTensor<B>,
        bias: Option<FloatTensor<B>>,
    ) -> (FloatTensor<B>, [FloatTensor<B>; 2]) {
        let weight = if matrix::<B>(&weight).is_some() { weight } else { B::contiguous(weight) };
        let (x, bias) = (B::contiguous(x), bias.map(B::contiguous));
        let [inputs, outputs] = [weight.shape()[0], weight.shape()[1]];
        let rows = x.shape().num_elements() / inputs.max(1);
        let output = B::create(with_last(&x.shape(), outputs), |out| {
            let Some(weight) = matrix::<B>(&weight) else { return };
            let into = bias.as_ref().map_or(Into::Overwrite, |bias| Into::Bias(B::slice(bias)));
            multiply(PRODUCT, Matrix::new(B::slice(&x), [rows, inputs]), weight, out, outputs, into);
        });
        (output, [x, weight])
    }

    pub(super) fn affine_backward<B: HostMemory>(
        [x, weight]: [FloatTensor<B>; 2],
        gradient: FloatTensor<B>,
        [of_x, of_weight, of_bias]: [bool; 3],
    ) -> [Option<FloatTensor<B>>; 3] {
        let gradient = B::contiguous(gradient);
        let [inputs, outputs] = [weight.shape()[0], weight.shape()[1]];
        let rows = x.shape().num_elements() / inputs.max(1);
        let slope = Matrix::new(B::slice(&gradient), [rows, outputs]);
        let input = Matrix::new(B::slice(&x), [rows, inputs]);
        let product = |shape: Shape, lhs: Matrix<'_>, rhs: Matrix<'_>| {
            B::create(shape, |out| multiply(PRODUCT, lhs, rhs, out, rhs.columns(), Into::Overwrite))
        };
        let x_gradient =
            matrix::<B>(&weight).filter(|_| of_x).map(|weight| product(x.shape(), slope, weight.transposed()));
        // In the order of the weight's own memory, so that adding it to another gradient of the weight costs no copy.
        let in_order = B::strided(&weight).is_some_and(|(_, strides)| strides[1] == 1);
        let weight_gradient = of_weight.then(|| match in_order {
            true => product(Shape::new([inputs, outputs]), input.transposed(), slope),
            false => B::float_swap_dims(product(Shape::new([outputs, inputs]), slope.transposed(), input), 0, 1),
        });
        let bias_gradient = of_bias.then(|| B::create(Shape::new([outputs]), |out| sum_rows(B::slice(&gradient), out)));
        [x_gradient, weight_gradient, bias_gradient]
    }
}

#[cfg(feature = "flex")]
impl LinearKernel for burn::backend::Flex {}

/// By ATen.
#[cfg(feature = "libtorch")]
mod on_libtorch {
    use burn::backend::{LibTorch, libtorch::TchTensor};
    use tch::{Kind, Tensor};

    use super::*;

    fn rows(tensor: &TchTensor, size: i64) -> Tensor {
        tensor.tensor.reshape([-1, size])
    }

    impl LinearKernel for LibTorch {
        fn affine(x: TchTensor, weight: TchTensor, bias: Option<TchTensor>) -> (TchTensor, [TchTensor; 2]) {
            let shape = with_last(&x.shape(), weight.shape()[1]);
            let flat = rows(&x, weight.tensor.size()[0]);
            let output = match bias {
                Some(bias) => bias.tensor.addmm(&flat, &weight.tensor),
                None => flat.mm(&weight.tensor),
            };
            let sizes: Vec<i64> = shape.iter().map(|size| *size as i64).collect();
            (TchTensor::new(output.view(&sizes[..])), [x, weight])
        }

        fn affine_backward(
            [x, weight]: [TchTensor; 2],
            gradient: TchTensor,
            wanted: [bool; 3],
        ) -> [Option<TchTensor>; 3] {
            let ([of_x, of_weight, of_bias], sizes) = (wanted, weight.tensor.size());
            let gradient = rows(&gradient, sizes[1]);
            let x_gradient = of_x.then(|| TchTensor::new(gradient.mm(&weight.tensor.tr()).view(&x.tensor.size()[..])));
            let weight_gradient = of_weight.then(|| {
                let input = rows(&x, sizes[0]);
                // In the order of the weight's own memory.
                TchTensor::new(match weight.tensor.is_contiguous() {
                    true => input.tr().mm(&gradient),
                    false => gradient.tr().mm(&input).tr(),
                })
            });
            let sum = |rows: &Tensor| rows.sum_dim_intlist([0i64].as_slice(), false, Kind::Float);
            [x_gradient, weight_gradient, of_bias.then(|| TchTensor::new(sum(&gradient)))]
        }
    }
}
