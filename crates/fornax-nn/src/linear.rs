use burn::{
    module::{Module, Param},
    tensor::{Device, Tensor},
};
use fornax_ops::{Context, LinearLogits, linear};

use crate::{Lora, embedding::rows, parameters::constant};

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

    /// [`forward`](Self::forward) that is still to be computed, for the loss of a head.
    ///
    /// # Shapes
    ///
    /// `[..., input_size]` to `[rows, output_size]`
    ///
    /// # Panics
    ///
    /// With a [`Lora`], which no head has.
    pub fn linear_logits<const D: usize>(&self, x: Tensor<D>) -> LinearLogits {
        assert!(self.lora.is_none(), "a head with a low-rank adapter");
        LinearLogits { hidden: rows(x), weight: self.weight.val(), bias: self.bias.as_ref().map(Param::val) }
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
}
