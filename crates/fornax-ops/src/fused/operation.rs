//! How an operation with a backward pass of its own becomes a node of the graph.

use std::fmt::Debug;

use burn::backend::{
    Autodiff, Backend,
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

/// Applies `operation` outside of a graph.
pub(crate) fn compute<B: Backend, O: Operation<B, N>, const N: usize>(
    operation: O,
    inputs: [Option<FloatTensor<B>>; N],
) -> FloatTensor<B> {
    operation.compute(inputs)
}

/// Applies `operation` in a graph. The first input is there.
#[allow(clippy::expect_used)]
pub(crate) fn record<B, C, O, const N: usize>(
    operation: O,
    inputs: [Option<FloatTensor<Autodiff<B, C>>>; N],
) -> FloatTensor<Autodiff<B, C>>
where
    B: Backend,
    C: CheckpointStrategy,
    O: Operation<B, N>,
{
    let first = inputs[0].as_ref().expect("the first input of an operation is there");
    // An absent input stands for the first one in the graph, but never gets a gradient.
    let nodes = inputs.each_ref().map(|input| input.as_ref().unwrap_or(first).node());
    let present = inputs.each_ref().map(Option::is_some);
    let inputs = inputs.map(|input| input.map(|tensor| tensor.into_primitive()));
    match Node(operation.clone()).prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(step) => {
            let (output, saved) = operation.forward(inputs);
            step.finish((saved, present), output)
        }
        OpsKind::UnTracked(step) => step.finish(operation.compute(inputs)),
    }
}
