use std::array;

use burn::{
    module::{Module, Param},
    tensor::{Device, Tensor},
};
use fornax_ops::{Context, linear};

use crate::parameters::constant;

/// A linear map with optional bias.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[input_size, output_size]`
    pub weight: Param<Tensor<2>>,
    /// `[output_size]`
    pub bias: Option<Param<Tensor<1>>>,
}

impl Linear {
    /// A map of zeros, to be filled by [`initialise`](crate::initialise) or from a checkpoint.
    pub fn new(input_size: usize, output_size: usize, bias: bool, device: &Device) -> Self {
        Self {
            weight: constant([input_size, output_size], 0.0, device),
            bias: bias.then(|| constant([output_size], 0.0, device)),
        }
    }

    /// `x · weight + bias`, computed in [`Context::precision`].
    ///
    /// # Shapes
    ///
    /// `[..., input_size]` to `[..., output_size]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>, context: &Context) -> Tensor<D> {
        linear(x, self.weight.val(), self.bias.as_ref().map(Param::val), context)
    }

    /// [`forward`](Self::forward), its result cut into `PARTS` equal pieces along the last axis.
    ///
    /// A cut costs a copy of what is cut, forward and backward, so it goes through the smaller of weight and result.
    ///
    /// # Shapes
    ///
    /// `[..., input_size]` to `PARTS` times `[..., output_size / PARTS]`
    ///
    /// # Panics
    ///
    /// When `PARTS` doesn't divide the output size.
    pub fn forward_split<const D: usize, const PARTS: usize>(
        &self,
        x: Tensor<D>,
        context: &Context,
    ) -> [Tensor<D>; PARTS] {
        let [input_size, output_size] = self.weight.dims();
        assert!(output_size.is_multiple_of(PARTS), "linear: {output_size} outputs in {PARTS} parts");
        let size = output_size / PARTS;
        let rows = x.shape().num_elements() / input_size;
        if rows < input_size {
            let whole = self.forward(x, context);
            return array::from_fn(|part| whole.clone().narrow(D - 1, part * size, size));
        }
        let (weight, bias) = (self.weight.val(), self.bias.as_ref().map(Param::val));
        array::from_fn(|part| {
            let weight = weight.clone().narrow(1, part * size, size);
            let bias = bias.clone().map(|bias| bias.narrow(0, part * size, size));
            linear(x.clone(), weight, bias, context)
        })
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;
    use fornax_backend::{Precision, test_device};

    use super::*;
    use crate::{Init, initialise};

    /// With fewer and with more rows than inputs, so that both ways are taken.
    #[test]
    fn parts_are_the_whole_with_equal_gradients() {
        let (device, context) = (test_device().autodiff(), Context::evaluation(Precision::F32));
        let layer = Linear::new(5, 6, true, &device);
        let layer = initialise(layer, 1, |_, _| Init::Normal { mean: 0.0, std: 1.0 });
        for rows in [3, 7] {
            let values: Vec<f32> = (0..rows * 5).map(|i| ((i * 7) as f32).sin()).collect();
            let x = Tensor::<2>::from_data(TensorData::new(values, [rows, 5]), &device).require_grad();
            let run = |y: Tensor<2>| {
                let grads = (y.clone() * y.clone()).sum().backward();
                let bias = layer.bias.as_ref().unwrap().val().grad(&grads).unwrap();
                let all = [x.grad(&grads).unwrap(), layer.weight.val().grad(&grads).unwrap(), bias.unsqueeze()];
                (y, all.map(|t| t.into_data()))
            };
            let parts = layer.forward_split::<2, 3>(x.clone(), &context);
            assert!(parts.iter().all(|part| part.dims() == [rows, 2]));
            let (whole, expected) = run(layer.forward(x.clone(), &context));
            let (joined, got) = run(Tensor::cat(parts.to_vec(), 1));
            joined.into_data().assert_approx_eq::<f32>(&whole.into_data(), Default::default());
            for (got, expected) in got.iter().zip(&expected) {
                got.assert_approx_eq::<f32>(expected, Default::default());
            }
        }
    }
}
