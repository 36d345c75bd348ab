use std::array;

use burn::{
    module::{Module, Param},
    tensor::{Device, Tensor},
};
use fornax_ops::{Context, linear};

use crate::{Lora, parameters::constant};

/// A linear map with optional bias.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[input_size, output_size]`
    pub weight: Param<Tensor<2>>,
    /// `[output_size]`
    pub bias: Option<Param<Tensor<1>>>,
    /// Added to the weight, while it is trained in its place.
    pub lora: Option<Lora>,
}

impl Linear {
    /// A map of zeros, to be filled by [`initialise`](crate::initialise) or from a checkpoint.
    pub fn new(input_size: usize, output_size: usize, bias: bool, device: &Device) -> Self {
        Self {
            weight: constant([input_size, output_size], 0.0, device),
            bias: bias.then(|| constant([output_size], 0.0, device)),
            lora: None,
        }
    }

    /// `x · weight + bias`, computed in [`Context::precision`].
    ///
    /// # Shapes
    ///
    /// `[..., input_size]` to `[..., output_size]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>, context: &Context) -> Tensor<D> {
        let bias = self.bias.as_ref().map(Param::val);
        match &self.lora {
            None => linear(x, self.weight.val(), bias, context),
            Some(lora) => linear(x.clone(), self.weight.val(), bias, context) + lora.forward(x, context),
        }
    }

    /// The same map with a [`Lora`] beside its weight.
    #[must_use]
    pub fn with_lora(self, rank: usize, scale: f64, dropout: f64) -> Self {
        let [input_size, output_size] = self.weight.dims();
        let lora = Lora::new(input_size, output_size, rank, scale, dropout, &self.weight.lazy_device());
        Self { lora: Some(lora), ..self }
    }

    /// The same map with its [`Lora`], if it has one, added to the weight.
    #[must_use]
    pub fn merge_lora(self) -> Self {
        match self.lora {
            None => self,
            Some(lora) => Self { weight: self.weight.map(|weight| weight + lora.difference()), lora: None, ..self },
        }
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
        if rows < input_size || self.lora.is_some() {
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
    use crate::{Init, initialise, initialise_some};

    /// A layer with an adapter whose factors are drawn.
    fn adapted(dropout: f64) -> Linear {
        let layer = Linear::new(5, 6, true, &test_device());
        let layer = initialise(layer, 1, |_, _| Init::Normal { mean: 0.0, std: 1.0 }).with_lora(2, 1.5, dropout);
        let drawn = |path: &str| path.starts_with("lora").then_some(Init::Normal { mean: 0.0, std: 1.0 });
        initialise_some(layer, 2, |path, _| drawn(path))
    }

    fn input(rows: usize) -> Tensor<2> {
        let values: Vec<f32> = (0..rows * 5).map(|i| ((i * 7) as f32).sin()).collect();
        Tensor::from_data(TensorData::new(values, [rows, 5]), &test_device())
    }

    fn assert_near(a: Tensor<2>, b: Tensor<2>) {
        let difference = (a - b).abs().max().into_scalar::<f32>();
        assert!(difference < 1e-5, "{difference}");
    }

    #[test]
    fn a_merged_adapter_is_the_adapter() {
        let (layer, context) = (adapted(0.0), Context::evaluation(Precision::F32));
        let (plain, merged) = (Linear { lora: None, ..layer.clone() }, layer.clone().merge_lora());
        assert!(merged.lora.is_none() && merged.weight.id == layer.weight.id);
        for rows in [3, 7] {
            let whole = layer.forward(input(rows), &context);
            assert_near(merged.forward(input(rows), &context), whole.clone());
            assert_near(Tensor::cat(layer.forward_split::<2, 3>(input(rows), &context).to_vec(), 1), whole.clone());
            let added = (whole - plain.forward(input(rows), &context)).abs().max().into_scalar::<f32>();
            assert!(added > 0.1, "{added}");
        }
        // As it begins, with one factor zero, it adds nothing.
        let begun = plain.clone().with_lora(2, 1.5, 0.0);
        let begun =
            initialise_some(begun, 2, |path, _| (path == "lora.a").then_some(Init::Normal { mean: 0.0, std: 1.0 }));
        assert_near(begun.forward(input(3), &context), plain.forward(input(3), &context));
        assert_near(plain.clone().merge_lora().forward(input(3), &context), plain.forward(input(3), &context));
    }

    #[test]
    fn dropout_falls_on_the_adapter_alone() {
        let (layer, plain) = (adapted(0.5), adapted(0.0));
        let context = Context::training(Precision::F32, fornax_ops::RandomKey::new(1));
        let base = |layer: &Linear| Linear { lora: None, ..layer.clone() }.forward(input(3), &context);
        assert_near(base(&layer), base(&plain));
        let differ = (layer.forward(input(3), &context) - plain.forward(input(3), &context)).abs().max();
        assert!(differ.into_scalar::<f32>() > 0.1);
        let evaluation = Context::evaluation(Precision::F32);
        assert_near(layer.forward(input(3), &evaluation), plain.forward(input(3), &evaluation));
    }

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
