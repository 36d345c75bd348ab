//! The operations of Cube devices: kernels of [`cube`](crate::cube), queued among those that Burn fuses.

use burn::{
    backend::{
        Backend, BackendTypes, Cube, backend_extension,
        fusion::custom::TensorSpec,
        tensor::{FloatTensor, IntTensor},
    },
    tensor::Shape,
};
use burn_cubecl::CubeBackend;

use super::{
    CubeFused, Maybe,
    dropout::Dropout,
    norm::Norm,
    operation::{Apply, Operation},
};
use crate::{
    cube::{self, cross_entropy::Target},
    host::{elementwise::Noise, norm::Centre},
};

/// What the kernels compute, forward and backward; shapes as in [`cube`](crate::cube).
#[backend_extension(Cube, Fusion)]
pub(crate) trait CubeKernels: Backend {
    /// The output, and two numbers a row for the backward pass.
    #[fusion(meta = |x, gamma, _beta, _centre, _eps| (x.clone(), statistics(x, gamma)))]
    fn norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        #[extension_type] beta: Maybe<Self>,
        centre: Centre,
        eps: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// The gradient of `x`.
    #[fusion(meta = |x, _gamma, _statistics, _gradient, _centre| x.clone())]
    fn norm_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        statistics: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        centre: Centre,
    ) -> FloatTensor<Self>;

    /// The gradients of gamma and beta.
    #[fusion(meta = |_x, gamma, _statistics, _gradient| (gamma.clone(), gamma.clone()))]
    fn norm_parameters_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        statistics: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// The sums, and two numbers a row for the backward pass.
    #[fusion(meta = |logits, targets, _target| (like(logits, [4]), like(logits, [targets.shape[0], 2])))]
    fn cross_entropy(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
        target: Target,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// The gradient of the logits.
    #[fusion(meta = |logits, _targets, _saved, _gradient, _target| logits.clone())]
    fn cross_entropy_backward(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
        saved: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        target: Target,
    ) -> FloatTensor<Self>;

    #[fusion(meta = |x, _noise| x.clone())]
    fn drop_out(x: FloatTensor<Self>, noise: Noise) -> FloatTensor<Self>;
}

fn statistics(x: &TensorSpec, gamma: &TensorSpec) -> TensorSpec {
    like(x, [x.shape.num_elements() / gamma.shape.num_elements().max(1), 2])
}

/// Another shape in the same type.
fn like(tensor: &TensorSpec, shape: impl Into<Shape>) -> TensorSpec {
    TensorSpec::new(shape.into(), tensor.dtype)
}

impl CubeKernels for CubeBackend {
    fn norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: Maybe<Self>,
        centre: Centre,
        eps: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        cube::norm::forward(x, gamma, beta.option(), centre, eps)
    }

    fn norm_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        statistics: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        centre: Centre,
    ) -> FloatTensor<Self> {
        cube::norm::backward(x, gamma, statistics, gradient, centre)
    }

    fn norm_parameters_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        statistics: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        cube::norm::parameters_backward(x, gamma, statistics, gradient)
    }

    fn cross_entropy(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
        target: Target,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        cube::cross_entropy::forward(logits, targets, target)
    }

    fn cross_entropy_backward(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
        saved: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        target: Target,
    ) -> FloatTensor<Self> {
        cube::cross_entropy::backward(logits, targets, saved, gradient, target)
    }

    fn drop_out(x: FloatTensor<Self>, noise: Noise) -> FloatTensor<Self> {
        cube::dropout::apply(x, &noise)
    }
}

impl<A> CubeFused for A
where
    A: Apply<Inner = Cube> + BackendTypes<IntTensorPrimitive = IntTensor<Cube>>,
{
    fn cube_cross_entropy(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
        ignore: i32,
        smoothing: f32,
    ) -> FloatTensor<Self> {
        Self::apply(CrossEntropySums { targets, target: Target { ignore, smoothing } }, [Some(logits)])
    }
}

impl Operation<Cube, 3> for Norm {
    /// `x`, gamma, and mean and inverse deviation of each row.
    type Saved = [FloatTensor<Cube>; 3];

    #[allow(clippy::expect_used)]
    fn forward(&self, [x, gamma, beta]: [Option<FloatTensor<Cube>>; 3]) -> (FloatTensor<Cube>, Self::Saved) {
        let (x, gamma) = x.zip(gamma).expect("an input and gamma");
        let (output, statistics) = Cube::norm(x.clone(), gamma.clone(), beta.into(), self.centre, self.eps);
        (output, [x, gamma, statistics])
    }

    fn backward(
        &self,
        [x, gamma, statistics]: Self::Saved,
        gradient: FloatTensor<Cube>,
        [of_x, of_gamma, of_beta]: [bool; 3],
    ) -> [Option<FloatTensor<Cube>>; 3] {
        let parameters = (of_gamma || of_beta)
            .then(|| Cube::norm_parameters_backward(x.clone(), gamma.clone(), statistics.clone(), gradient.clone()));
        let (gamma_gradient, beta_gradient) = parameters.unzip();
        let x_gradient = of_x.then(|| Cube::norm_backward(x, gamma, statistics, gradient, self.centre));
        [x_gradient, gamma_gradient.filter(|_| of_gamma), beta_gradient.filter(|_| of_beta)]
    }
}

impl Operation<Cube, 1> for Dropout {
    type Saved = ();

    #[allow(clippy::expect_used)]
    fn forward(&self, [x]: [Option<FloatTensor<Cube>>; 1]) -> (FloatTensor<Cube>, ()) {
        (Cube::drop_out(x.expect("an input"), self.0), ())
    }

    fn backward(&self, (): (), gradient: FloatTensor<Cube>, _: [bool; 1]) -> [Option<FloatTensor<Cube>>; 1] {
        [Some(Cube::drop_out(gradient, self.0))]
    }
}

/// The sums of a cross-entropy, `[4]`: loss, negative log-likelihood, count, correct ones.
#[derive(Clone, Debug)]
struct CrossEntropySums {
    /// `[rows]`
    targets: IntTensor<Cube>,
    target: Target,
}

impl Operation<Cube, 1> for CrossEntropySums {
    /// The logits, and two numbers a row.
    type Saved = [FloatTensor<Cube>; 2];

    #[allow(clippy::expect_used)]
    fn forward(&self, [logits]: [Option<FloatTensor<Cube>>; 1]) -> (FloatTensor<Cube>, Self::Saved) {
        let logits = logits.expect("logits");
        let (sums, saved) = Cube::cross_entropy(logits.clone(), self.targets.clone(), self.target);
        (sums, [logits, saved])
    }

    fn backward(
        &self,
        [logits, saved]: Self::Saved,
        gradient: FloatTensor<Cube>,
        _: [bool; 1],
    ) -> [Option<FloatTensor<Cube>>; 1] {
        [Some(Cube::cross_entropy_backward(logits, self.targets.clone(), saved, gradient, self.target))]
    }
}
