use burn::{
    module::{Module, ModuleMapper, Param},
    tensor::Tensor,
};

use crate::parameters::Path;

/// The same module, whose parameters at the paths that `frozen` picks are not trained: they get no gradient.
///
/// Paths are those of [`parameters`](crate::parameters).
pub fn freeze<M: Module>(module: M, frozen: impl Fn(&str) -> bool) -> M {
    module.map(&mut Freeze { frozen, path: Path::default() })
}

struct Freeze<F> {
    frozen: F,
    path: Path,
}

impl<F: Fn(&str) -> bool> ModuleMapper for Freeze<F> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if (self.frozen)(&self.path.to_string()) { param.set_require_grad(false) } else { param }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Distribution;
    use fornax_backend::{Precision, test_device};
    use fornax_ops::Context;

    use super::*;
    use crate::{Activation, FeedForward, Init, initialise};

    #[test]
    fn a_frozen_parameter_gets_no_gradient_and_the_others_do() {
        let device = test_device().autodiff();
        let layer = FeedForward::new(4, 8, true, Activation::Gelu, &device);
        let layer = initialise(layer, 1, |_, _| Init::Normal { mean: 0.0, std: 1.0 });
        let layer = freeze(layer, |path| path.starts_with("up."));
        let input = Tensor::<2>::random([3, 4], Distribution::Default, &device);
        let gradients = layer.forward(input, &Context::evaluation(Precision::F32)).sum().backward();
        assert!(layer.up.weight.val().grad(&gradients).is_none());
        assert!(layer.up.bias.as_ref().unwrap().val().grad(&gradients).is_none());
        assert!(layer.down.weight.val().grad(&gradients).is_some());
        assert!(layer.down.bias.as_ref().unwrap().val().grad(&gradients).is_some());
    }
}
