//! How an operation with a backward pass of its own becomes a node of the graph.

use std::fmt::Debug;

use burn::backend::{
    Autodiff, AutodiffBackend, Backend,
    autodiff::{
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind},
    },
    tensor::FloatTensor,
};

/// A function of `N` float tensors, some of which may be absent, that knows its derivative.
pub(crate) trait Operation<B: Backend, const N: usize>: Clone + Debug + Send + 'static {
    /// What the backward pass needs.
    type Saved: Clone + Debug + Send + 'static;

    fn forward(&self, inputs: [Option<FloatTensor<B>>; N]) -> (FloatTensor<B>, Self::Saved);

    /// The output alone, where there will be no backward pass.
    fn compute(&self, inputs: [Option<FloatTensor<B>>; N]) -> FloatTensor<B> {
        self.forward(inputs).0
    }

    /// The gradients of the inputs that are `wanted`, which absent ones never are, each in the element type of its input.
    fn backward(&self, saved: Self::Saved, gradient: FloatTensor<B>, wanted: [bool; N]) -> [Option<FloatTensor<B>>; N];
}

#[derive(Debug)]
struct Node<O>(O);

/// What a node keeps: the saved tensors, and which inputs are there.
type State<S, const N: usize> = (S, [bool; N]);

impl<B: Backend, O: Operation<B, N>, const N: usize> Backward<B, N> for Node<O> {
    type State = State<O::Saved, N>;

    fn backward(self, ops: Ops<Self::State, N>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        let (saved, present) = ops.state;
        let wanted = std::array::from_fn(|i| present[i] && ops.parents[i].is_some());
        for (found, parent) in self.0.backward(saved, gradient, wanted).into_iter().zip(&ops.parents) {
            if let (Some(found), Some(parent)) = (found, parent) {
                gradients.register::<B>(parent.id, found);
            }
        }
    }
}

/// A backend that fused operations are applied on, outside of a graph or in one.
pub(crate) trait Apply: Backend {
    /// The one that computes.
    type Inner: Backend;

    fn apply<O: Operation<Self::Inner, N>, const N: usize>(
        operation: O,
        inputs: [Option<FloatTensor<Self>>; N],
    ) -> FloatTensor<Self>;

    /// The tensor outside of the graph.
    fn lower(tensor: FloatTensor<Self>) -> FloatTensor<Self::Inner>;

    /// A tensor without a gradient.
    fn lift(tensor: FloatTensor<Self::Inner>) -> FloatTensor<Self>;
}

/// [`Apply`] for a backend that computes itself.
macro_rules! applied_by {
    ($backend:ty) => {
        impl Apply for $backend {
            type Inner = Self;

            fn apply<O: Operation<Self, N>, const N: usize>(
                operation: O,
                inputs: [Option<FloatTensor<Self>>; N],
            ) -> FloatTensor<Self> {
                operation.compute(inputs)
            }

            fn lower(tensor: FloatTensor<Self>) -> FloatTensor<Self> {
                tensor
            }

            fn lift(tensor: FloatTensor<Self>) -> FloatTensor<Self> {
                tensor
            }
        }
    };
}

#[cfg(feature = "cube")]
applied_by!(burn::backend::Cube);
#[cfg(feature = "flex")]
applied_by!(burn::backend::Flex);
#[cfg(feature = "libtorch")]
applied_by!(burn::backend::LibTorch);

impl<B: Backend, C: CheckpointStrategy> Apply for Autodiff<B, C> {
    type Inner = B;

    /// The first input is there.
    #[allow(clippy::expect_used)]
    fn apply<O: Operation<B, N>, const N: usize>(
        operation: O,
        inputs: [Option<FloatTensor<Self>>; N],
    ) -> FloatTensor<Self> {
        let first = inputs[0].as_ref().expect("the first input of an operation is there");
        // An absent input stands for the first one in the graph, but never gets a gradient.
        let nodes = inputs.each_ref().map(|input| input.as_ref().unwrap_or(first).node());
        let present = inputs.each_ref().map(Option::is_some);
        let inputs = inputs.map(|input| input.map(Self::lower));
        match Node(operation.clone()).prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(step) => {
                let (output, saved) = operation.forward(inputs);
                step.finish((saved, present), output)
            }
            OpsKind::UnTracked(step) => step.finish(operation.compute(inputs)),
        }
    }

    fn lower(tensor: FloatTensor<Self>) -> FloatTensor<B> {
        tensor.into_primitive()
    }

    fn lift(tensor: FloatTensor<B>) -> FloatTensor<Self> {
        Self::from_inner(tensor)
    }
}
