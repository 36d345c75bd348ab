use std::{fmt, marker::PhantomData};

use burn::{
    backend::{
        Autodiff, AutodiffBackend, Backend, BackendTensor, DispatchAutodiffContext, DispatchKindConversion,
        DispatchTensor,
        autodiff::{
            checkpoint::{base::Checkpointer, strategy::NoCheckpointing},
            grads::Gradients,
            ops::{Backward, Ops, OpsKind},
        },
        ops::FloatTensorOps,
        tensor::FloatTensor,
    },
    module::{Module, ModuleVisitor, Param},
    tensor::{Device, Tensor},
};
use fornax_backend::{BackendWork, with_backend};

use crate::Context;

/// A tensor that may belong to a graph.
type GraphTensor<B> = FloatTensor<Autodiff<B>>;

/// The most tensors that a block reads.
const MAX_INPUTS: usize = 3;

/// What a block reads: one tensor, or a tuple of two or three, on one device.
pub trait BlockInputs: 'static {
    /// Where the tensors lie.
    fn device(&self) -> Device;
    /// The tensors without their ranks, at most three.
    fn into_dispatch(self) -> Vec<DispatchTensor>;
    /// The inverse of [`into_dispatch`](Self::into_dispatch).
    fn from_dispatch(tensors: impl Iterator<Item = DispatchTensor>) -> Self;
}

/// `forward(block, inputs, context)`, of which the graph keeps `inputs` alone where [`Context::checkpoints_blocks`] says so:
/// what lies between is computed again in the backward pass (Chen et al. 2016, "Training Deep Nets with Sublinear Memory
/// Cost"), so that a step computes the block's forward pass twice.
///
/// The gradients are the same, those of the parameters of `block` and of `inputs`; noise is a function of `context`. Whatever
/// else `forward` captures gets none: what needs one must be in `block` or `inputs`.
///
/// A block none of whose inputs needs a gradient, such as the first one over frozen embeddings, keeps its activations.
pub fn checkpoint<M, I, F, const D: usize>(block: &M, inputs: I, context: &Context, forward: F) -> Tensor<D>
where
    M: Module + 'static,
    I: BlockInputs,
    F: Fn(&M, I, &Context) -> Tensor<D> + Send + 'static,
{
    let device = inputs.device();
    if !context.checkpoints_blocks() || !device.is_autodiff() {
        return forward(block, inputs, context);
    }
    with_backend(&device, Record { block, inputs, context, forward })
}

/// A forward pass whose activations are dropped.
struct Record<'a, M, I, F> {
    block: &'a M,
    inputs: I,
    context: &'a Context,
    forward: F,
}

impl<M, I, F, const D: usize> BackendWork<Tensor<D>> for Record<'_, M, I, F>
where
    M: Module + 'static,
    I: BlockInputs,
    F: Fn(&M, I, &Context) -> Tensor<D> + Send + 'static,
{
    fn run<B: Backend>(self) -> Tensor<D>
    where
        DispatchTensor: DispatchKindConversion<B> + DispatchKindConversion<Autodiff<B>>,
    {
        let Self { block, inputs, context, forward } = self;
        let inputs: Vec<_> = inputs.into_dispatch().into_iter().map(on_graph::<B>).collect();
        if !inputs.iter().any(|input| input.is_tracked()) {
            return forward(block, I::from_dispatch(inputs.into_iter().map(dispatch::<Autodiff<B>>)), context);
        }
        // Past the last input the first one stands in; it gets no gradient for that.
        let nodes = std::array::from_fn(|i| inputs.get(i).unwrap_or(&inputs[0]).node());
        let values: Vec<_> = inputs.into_iter().map(|input| input.into_primitive()).collect();
        let inputs = I::from_dispatch(values.iter().cloned().map(dispatch::<B>));
        let output = forward(&block.valid(), inputs, context).without_autodiff();
        let output = primitive::<B>(output.into_dispatch());
        let node = Node { block: block.clone(), context: *context, forward, inputs: PhantomData };
        let output = match node.prepare::<NoCheckpointing>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(step) => step.finish(values, output),
            OpsKind::UnTracked(step) => step.finish(output),
        };
        Tensor::from_dispatch(dispatch::<Autodiff<B>>(output))
    }
}

/// A block in the graph; its state is the values of the inputs.
struct Node<M, I, F> {
    block: M,
    context: Context,
    forward: F,
    inputs: PhantomData<fn(I)>,
}

impl<M: fmt::Debug, I, F> fmt::Debug for Node<M, I, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("block", &self.block).field("context", &self.context).finish_non_exhaustive()
    }
}

impl<B, M, I, F, const D: usize> Backward<B, MAX_INPUTS> for Node<M, I, F>
where
    B: Backend,
    DispatchTensor: DispatchKindConversion<B> + DispatchKindConversion<Autodiff<B>>,
    M: Module + 'static,
    I: BlockInputs,
    F: Fn(&M, I, &Context) -> Tensor<D> + Send + 'static,
{
    type State = Vec<FloatTensor<B>>;

    /// The graph that this makes has leaves of its own: that of the whole model is locked while its nodes run.
    fn backward(self, ops: Ops<Self::State, MAX_INPUTS>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        let leaf = |(value, parent): (_, &Option<_>)| match parent {
            Some(_) => constant::<B>(value).require_grad(),
            None => constant::<B>(value),
        };
        let inputs: Vec<_> = ops.state.into_iter().zip(&ops.parents).map(leaf).collect();
        let block = self.block.valid().train();
        let given = I::from_dispatch(inputs.iter().cloned().map(dispatch::<Autodiff<B>>));
        let output = on_graph::<B>((self.forward)(&block, given, &self.context).into_dispatch());
        let product = Autodiff::<B>::float_mul(output, constant::<B>(gradient));
        let mut found = Autodiff::<B>::float_sum(product).backward();
        for (input, parent) in inputs.iter().zip(&ops.parents) {
            if let (Some(parent), Some(gradient)) = (parent, input.grad_remove(&mut found)) {
                gradients.register::<B>(parent.id, gradient);
            }
        }
        // The same parameters in the same order, as the graph of the whole model knows them and as this one does.
        let (known, computed) = (leaves::<B, M>(&self.block), leaves::<B, M>(&block));
        for (known, computed) in known.iter().zip(&computed) {
            if let Some(gradient) = computed.grad_remove(&mut found) {
                gradients.register::<B>(known.id(), gradient);
            }
        }
    }
}

/// The float parameters of `module` in visiting order.
fn leaves<B: Backend, M: Module>(module: &M) -> Vec<GraphTensor<B>>
where
    DispatchTensor: DispatchKindConversion<Autodiff<B>>,
{
    struct Leaves<B: Backend>(Vec<GraphTensor<B>>);

    impl<B: Backend> ModuleVisitor for Leaves<B>
    where
        DispatchTensor: DispatchKindConversion<Autodiff<B>>,
    {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.push(primitive::<Autodiff<B>>(param.val().into_dispatch()));
        }
    }

    let mut leaves = Leaves(Vec::new());
    module.visit(&mut leaves);
    leaves.0
}

/// A tensor of the graph: a constant where it is of none.
fn on_graph<B: Backend>(tensor: DispatchTensor) -> GraphTensor<B>
where
    DispatchTensor: DispatchKindConversion<B> + DispatchKindConversion<Autodiff<B>>,
{
    match tensor.autodiff {
        DispatchAutodiffContext::Enabled(_) => primitive::<Autodiff<B>>(tensor),
        DispatchAutodiffContext::Disabled => constant::<B>(primitive::<B>(tensor)),
    }
}

fn constant<B: Backend>(value: FloatTensor<B>) -> GraphTensor<B> {
    <Autodiff<B> as AutodiffBackend>::from_inner(value)
}

#[allow(clippy::panic)]
fn primitive<B: Backend>(tensor: DispatchTensor) -> FloatTensor<B>
where
    DispatchTensor: DispatchKindConversion<B>,
{
    match <DispatchTensor as DispatchKindConversion<B>>::try_into_backend(tensor) {
        Ok(tensor) => tensor.float(),
        Err(error) => panic!("checkpoint: inputs, block and output must be of one backend: {error}"),
    }
}

fn dispatch<B: Backend>(tensor: FloatTensor<B>) -> DispatchTensor
where
    DispatchTensor: DispatchKindConversion<B>,
{
    <DispatchTensor as DispatchKindConversion<B>>::from_backend(BackendTensor::Float(tensor))
}

impl<const D: usize> BlockInputs for Tensor<D> {
    fn device(&self) -> Device {
        Tensor::device(self)
    }

    fn into_dispatch(self) -> Vec<DispatchTensor> {
        vec![Tensor::into_dispatch(self)]
    }

    fn from_dispatch(mut tensors: impl Iterator<Item = DispatchTensor>) -> Self {
        next(&mut tensors)
    }
}

impl<const D1: usize, const D2: usize> BlockInputs for (Tensor<D1>, Tensor<D2>) {
    fn device(&self) -> Device {
        self.0.device()
    }

    fn into_dispatch(self) -> Vec<DispatchTensor> {
        vec![self.0.into_dispatch(), self.1.into_dispatch()]
    }

    fn from_dispatch(mut tensors: impl Iterator<Item = DispatchTensor>) -> Self {
        (next(&mut tensors), next(&mut tensors))
    }
}

impl<const D1: usize, const D2: usize, const D3: usize> BlockInputs for (Tensor<D1>, Tensor<D2>, Tensor<D3>) {
    fn device(&self) -> Device {
        self.0.device()
    }

    fn into_dispatch(self) -> Vec<DispatchTensor> {
        vec![self.0.into_dispatch(), self.1.into_dispatch(), self.2.into_dispatch()]
    }

    fn from_dispatch(mut tensors: impl Iterator<Item = DispatchTensor>) -> Self {
        (next(&mut tensors), next(&mut tensors), next(&mut tensors))
    }
}

#[allow(clippy::expect_used)]
fn next<const D: usize>(tensors: &mut impl Iterator<Item = DispatchTensor>) -> Tensor<D> {
    Tensor::from_dispatch(tensors.next().expect("as many tensors as `into_dispatch` gave"))
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use fornax_backend::{Precision, test_device};

    use super::*;
    use crate::{RandomKey, dropout};

    #[derive(Module, Debug)]
    struct Block {
        weight: Param<Tensor<2>>,
        bias: Param<Tensor<1>>,
    }

    impl Block {
        fn new(first: f32, device: &Device) -> Self {
            let row = |step: f32| [first, first + step, first - 2.0 * step];
            Self {
                weight: Param::from_data([row(0.3), row(-0.7), row(0.1)], device),
                bias: Param::from_data(row(0.2), device),
            }
        }

        fn forward(&self, (hidden, memory): (Tensor<2>, Tensor<3>), context: &Context) -> Tensor<2> {
            let mixed =
                (hidden.clone() * memory.squeeze_dim(0)).matmul(self.weight.val()) + self.bias.val().unsqueeze();
            hidden + dropout(mixed.tanh(), 0.5, context)
        }
    }

    /// Gradients of input, memory and parameters of two blocks with one memory, and how often a block was computed.
    fn gradients(frozen: bool, checkpoint_blocks: bool) -> (Vec<Vec<f32>>, usize) {
        let device = test_device().autodiff();
        let mut blocks = [0.2, -0.4].map(|first| Block::new(first, &device));
        if frozen {
            blocks[1].bias = blocks[1].bias.clone().set_require_grad(false);
        }
        let input = Tensor::<2>::from_data([[0.5, -1.0, 2.0], [1.5, 0.25, -0.75]], &device);
        let input = if frozen { input } else { input.require_grad() };
        let memory = Tensor::<3>::from_data([[[1.0, 0.5, -0.5], [0.25, -1.0, 2.0]]], &device).require_grad();
        let context = Context::training(Precision::F32, RandomKey::new(5)).with_checkpointed_blocks(checkpoint_blocks);
        let calls = Arc::new(AtomicUsize::new(0));
        let shared = memory.clone().mul_scalar(2.0);
        let mut hidden = input.clone();
        for (block, index) in blocks.iter().zip(0..) {
            let calls = calls.clone();
            hidden =
                checkpoint(block, (hidden, shared.clone()), &context.child(index), move |block, inputs, context| {
                    calls.fetch_add(1, Ordering::Relaxed);
                    block.forward(inputs, context)
                });
        }
        let weights = Tensor::<2>::from_data([[1.0, -2.0, 0.5], [3.0, 0.1, -1.0]], &device);
        let mut found = ((hidden * weights).sum() + shared.sum()).backward();
        let mut gradients = Vec::new();
        let mut push = |gradient: Option<Vec<f32>>| gradients.push(gradient.unwrap_or_default());
        push(input.grad_remove(&mut found).map(|gradient| gradient.into_data().iter().collect()));
        push(memory.grad_remove(&mut found).map(|gradient| gradient.into_data().iter().collect()));
        for Block { weight, bias } in &blocks {
            push(weight.val().grad_remove(&mut found).map(|gradient| gradient.into_data().iter().collect()));
            push(bias.val().grad_remove(&mut found).map(|gradient| gradient.into_data().iter().collect()));
        }
        (gradients, calls.load(Ordering::Relaxed))
    }

    #[test]
    fn gradients_of_inputs_and_parameters_are_those_of_kept_activations() {
        for frozen in [false, true] {
            let (kept, calls) = gradients(frozen, false);
            assert_eq!(calls, 2);
            assert_eq!(
                kept.iter().map(Vec::is_empty).collect::<Vec<_>>(),
                [frozen, false, false, false, false, frozen]
            );
            let (again, calls) = gradients(frozen, true);
            assert_eq!(calls, 4, "each block is computed once more");
            for (again, kept) in again.iter().zip(&kept) {
                assert_eq!(again.len(), kept.len());
                // What the memory gets is summed in another order.
                assert!(
                    again.iter().zip(kept).all(|(a, b)| (a - b).abs() <= 1e-6 * b.abs().max(1.0)),
                    "{again:?} {kept:?}"
                );
            }
        }
    }

    #[test]
    fn without_a_gradient_there_is_nothing_to_compute_again() {
        let device = test_device();
        let block = Block::new(0.2, &device);
        let inputs = (Tensor::<2>::ones([2, 3], &device), Tensor::<3>::ones([1, 2, 3], &device));
        let context = Context::evaluation(Precision::F32).with_checkpointed_blocks(true);
        let plain = block.forward(inputs.clone(), &context);
        let output = checkpoint(&block, inputs, &context, Block::forward);
        assert!(!output.is_autodiff());
        output.into_data().assert_eq(&plain.into_data(), true);
    }
}
