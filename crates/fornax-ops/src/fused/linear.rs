use burn::{
    backend::{TensorMetadata, tensor::FloatTensor},
    tensor::{DType, FloatDType, Shape},
};

use super::{Kernels, memory::HostMemory, operation::Operation};
use crate::host::{
    PIECE, each,
    matrix::{Into, Matrix},
    norm::sum_rows,
};

/// `x · weight + bias`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Linear {
    /// Of the product.
    pub(crate) dtype: FloatDType,
    /// Of the result: that of the product or `f32`.
    pub(crate) output: FloatDType,
}

/// What computes it on a backend.
pub(crate) trait LinearKernel: HostMemory {
    /// The output, and input and weight as the backward pass wants them.
    fn affine(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Option<FloatTensor<Self>>,
        dtypes: Linear,
    ) -> (FloatTensor<Self>, [FloatTensor<Self>; 2]);

    /// The gradients of input, which is of the type `input`, and of weight and bias, in `f32`.
    fn affine_backward(
        saved: [FloatTensor<Self>; 2],
        input: DType,
        gradient: FloatTensor<Self>,
        wanted: [bool; 3],
    ) -> [Option<FloatTensor<Self>>; 3];
}

impl<B: Kernels> Operation<B, 3> for Linear {
    /// Input and weight, and the type that the input came in.
    type Saved = ([FloatTensor<B>; 2], DType);

    #[allow(clippy::expect_used)]
    fn forward(&self, [x, weight, bias]: [Option<FloatTensor<B>>; 3]) -> (FloatTensor<B>, Self::Saved) {
        let (x, weight) = x.zip(weight).expect("an input and a weight");
        let input = x.dtype();
        let (output, saved) = B::affine(x, weight, bias, *self);
        (output, (saved, input))
    }

    fn backward(
        &self,
        (saved, input): Self::Saved,
        gradient: FloatTensor<B>,
        wanted: [bool; 3],
    ) -> [Option<FloatTensor<B>>; 3] {
        B::affine_backward(saved, input, gradient, wanted)
    }
}

/// `shape` with another last size.
fn with_last(shape: &Shape, last: usize) -> Shape {
    let mut sizes = shape.to_vec();
    if let Some(size) = sizes.last_mut() {
        *size = last;
    }
    Shape::from(sizes)
}

/// A matrix, whichever of its axes is the one whose elements stand side by side.
fn matrix<B: HostMemory>(tensor: &FloatTensor<B>) -> Option<Matrix<'_>> {
    let shape = tensor.shape();
    let (data, strides) = B::strided(tensor)?;
    Some(Matrix::with_strides(data, [shape[0], shape[1]], [strides[0], strides[1]]))
}

/// [`LinearKernel`] by the products of [`HostMemory`].
#[cfg(feature = "flex")]
mod on_host {
    use burn::backend::Flex;

    use super::*;

    impl LinearKernel for Flex {
        #[allow(clippy::panic)]
        fn affine(
            x: FloatTensor<Self>,
            weight: FloatTensor<Self>,
            bias: Option<FloatTensor<Self>>,
            dtypes: Linear,
        ) -> (FloatTensor<Self>, [FloatTensor<Self>; 2]) {
            assert_eq!([dtypes.dtype, dtypes.output], [FloatDType::F32; 2], "flex computes linear maps in f32");
            let (x, weight) = (Self::contiguous(x), as_matrix(weight));
            let [inputs, outputs] = [weight.shape()[0], weight.shape()[1]];
            let rows = x.shape().num_elements() / inputs.max(1);
            let output = Self::create(with_last(&x.shape(), outputs), |out| {
                let Some(weight) = matrix::<Self>(&weight) else { return };
                let into = match bias.map(Self::contiguous) {
                    Some(bias) => {
                        let (bias, rows) = (Self::slice(&bias), (PIECE / outputs.max(1)).max(1));
                        each(out.chunks_mut(rows * outputs), |rows| {
                            rows.chunks_exact_mut(outputs).for_each(|row| row.copy_from_slice(bias));
                        });
                        Into::Add
                    }
                    None => Into::Overwrite,
                };
                Self::product(Matrix::new(Self::slice(&x), [rows, inputs]), weight, out, into);
            });
            (output, [x, weight])
        }

        fn affine_backward(
            [x, weight]: [FloatTensor<Self>; 2],
            _: DType,
            gradient: FloatTensor<Self>,
            [of_x, of_weight, of_bias]: [bool; 3],
        ) -> [Option<FloatTensor<Self>>; 3] {
            let gradient = Self::contiguous(gradient);
            let [inputs, outputs] = [weight.shape()[0], weight.shape()[1]];
            let rows = x.shape().num_elements() / inputs.max(1);
            let slope = Matrix::new(Self::slice(&gradient), [rows, outputs]);
            let input = Matrix::new(Self::slice(&x), [rows, inputs]);
            let x_gradient = of_x.then(|| {
                Self::create(x.shape(), |out| {
                    if let Some(weight) = matrix::<Self>(&weight) {
                        Self::product(slope, weight.transposed(), out, Into::Overwrite);
                    }
                })
            });
            // In the order of the weight's own memory, so that adding it to another gradient of the weight costs no copy.
            let transposed = !weight.is_contiguous();
            let weight_gradient = of_weight.then(|| {
                if transposed {
                    Self::create(Shape::new([outputs, inputs]), |out| {
                        Self::product(slope.transposed(), input, out, Into::Overwrite);
                    })
                    .transpose(0, 1)
                } else {
                    Self::create(Shape::new([inputs, outputs]), |out| {
                        Self::product(input.transposed(), slope, out, Into::Overwrite);
                    })
                }
            });
            let bias_gradient =
                of_bias.then(|| Self::create(Shape::new([outputs]), |out| sum_rows(Self::slice(&gradient), out)));
            [x_gradient, weight_gradient, bias_gradient]
        }
    }

    /// A tensor that [`matrix`] can walk.
    fn as_matrix(weight: FloatTensor<Flex>) -> FloatTensor<Flex> {
        if matrix::<Flex>(&weight).is_some() { weight } else { Flex::contiguous(weight) }
    }
}

/// By ATen.
#[cfg(feature = "libtorch")]
mod on_libtorch {
    use burn::backend::{LibTorch, libtorch::TchTensor};
    use tch::{Kind, Tensor};

    use super::*;

    fn kind(dtype: FloatDType) -> Kind {
        match dtype {
            FloatDType::BF16 => Kind::BFloat16,
            FloatDType::F16 => Kind::Half,
            _ => Kind::Float,
        }
    }

    /// The tensor itself, so that Burn knows that it is still needed, or a copy in another type.
    fn cast(tensor: TchTensor, kind: Kind) -> TchTensor {
        if tensor.tensor.kind() == kind { tensor } else { TchTensor::new(tensor.tensor.to_kind(kind)) }
    }

    fn rows(tensor: &TchTensor, size: i64) -> Tensor {
        tensor.tensor.reshape([-1, size])
    }

    impl LinearKernel for LibTorch {
        fn affine(
            x: TchTensor,
            weight: TchTensor,
            bias: Option<TchTensor>,
            dtypes: Linear,
        ) -> (TchTensor, [TchTensor; 2]) {
            let (kind, output_kind) = (kind(dtypes.dtype), kind(dtypes.output));
            let shape = with_last(&x.shape(), weight.shape()[1]);
            let (x, weight) = (cast(x, kind), cast(weight, kind));
            let flat = rows(&x, weight.tensor.size()[0]);
            let output = match bias {
                Some(bias) => bias.tensor.to_kind(kind).addmm(&flat, &weight.tensor),
                None => flat.mm(&weight.tensor),
            };
            let sizes: Vec<i64> = shape.iter().map(|size| *size as i64).collect();
            (TchTensor::new(output.to_kind(output_kind).view(&sizes[..])), [x, weight])
        }

        fn affine_backward(
            [x, weight]: [TchTensor; 2],
            input: DType,
            gradient: TchTensor,
            [of_x, of_weight, of_bias]: [bool; 3],
        ) -> [Option<TchTensor>; 3] {
            let (kind, sizes) = (x.tensor.kind(), weight.tensor.size());
            let gradient = rows(&gradient, sizes[1]);
            let slope = gradient.to_kind(kind);
            let new = |tensor: Tensor| TchTensor::new(tensor.to_kind(Kind::Float));
            let x_gradient = of_x.then(|| {
                let gradient = slope.mm(&weight.tensor.tr()).view(&x.tensor.size()[..]);
                if input == DType::F32 { new(gradient) } else { TchTensor::new(gradient) }
            });
            let weight_gradient = of_weight.then(|| {
                let input = rows(&x, sizes[0]);
                // In the order of the weight's own memory.
                match weight.tensor.is_contiguous() {
                    true => new(input.tr().mm(&slope)),
                    false => new(slope.tr().mm(&input).tr()),
                }
            });
            let bias_gradient = of_bias.then(|| new(gradient.sum_dim_intlist([0i64].as_slice(), false, Kind::Float)));
            [x_gradient, weight_gradient, bias_gradient]
        }
    }
}
