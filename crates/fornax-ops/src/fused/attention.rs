use std::sync::Arc;

use burn::{
    backend::{TensorMetadata, tensor::FloatTensor},
    tensor::Shape,
};

use super::{Kernels, memory::HostMemory, operation::Operation};
use crate::host::attention::{Attention, Bias, Gradients, Heads, Sizes};

/// Attention of separate query, key and value, or of one tensor that holds all three.
#[derive(Clone, Debug)]
pub(super) struct Attend(pub(super) Arc<Attention>);

/// A tensor `[batch, heads, seq, size]` whose last axis stands side by side in memory.
fn as_heads<B: HostMemory>(tensor: FloatTensor<B>) -> FloatTensor<B> {
    let size = tensor.shape()[3];
    let fits = B::strided(&tensor).is_some_and(|(_, strides)| strides[3] == 1 || size == 1);
    if fits { tensor } else { B::contiguous(tensor) }
}

#[allow(clippy::expect_used)]
fn heads<B: HostMemory>(tensor: &FloatTensor<B>) -> Heads<'_> {
    let (data, strides) = B::strided(tensor).expect("strides were checked by `as_heads`");
    Heads { data, strides: [strides[0], strides[1], strides[2]] }
}

fn bias<B: HostMemory>(tensor: &FloatTensor<B>) -> Bias<'_> {
    Bias { data: B::slice(tensor), per_row: tensor.shape()[0] > 1 }
}

/// `[batch, seq, heads, size]` in memory, seen as `[batch, heads, seq, size]`.
fn create_heads<B: HostMemory>([batch, heads, seq, size]: [usize; 4], fill: impl FnOnce(&mut [f32])) -> FloatTensor<B> {
    B::float_swap_dims(B::create(Shape::new([batch, seq, heads, size]), fill), 1, 2)
}

/// The three parts of `[batch, seq, 3 · heads · size]`.
fn parts<B: HostMemory>(packed: &FloatTensor<B>, sizes: Sizes) -> [Heads<'_>; 3] {
    let (data, width) = (B::slice(packed), sizes.heads * sizes.head_dim);
    let strides = [sizes.query_len * 3 * width, sizes.head_dim, 3 * width];
    [0, 1, 2].map(|part| Heads { data: &data[(part * width).min(data.len())..], strides })
}

/// `[batch, seq, heads · size]`, contiguous.
fn joined<B: HostMemory>(tensor: &FloatTensor<B>, sizes: Sizes) -> Heads<'_> {
    let Sizes { heads, query_len, value_dim, .. } = sizes;
    Heads { data: B::slice(tensor), strides: [query_len * heads * value_dim, value_dim, heads * value_dim] }
}

impl<B: Kernels> Operation<B, 4> for Attend {
    /// Query, key, value, bias, the output, and the logarithm of each query's sum of exponentials.
    type Saved = ([FloatTensor<B>; 3], Option<FloatTensor<B>>, FloatTensor<B>, Arc<[f32]>);

    #[allow(clippy::expect_used)]
    fn forward(&self, [query, key, value, bias_]: [Option<FloatTensor<B>>; 4]) -> (FloatTensor<B>, Self::Saved) {
        let inputs = [query, key, value].map(|tensor| as_heads::<B>(tensor.expect("query, key and value")));
        let bias_ = bias_.map(B::contiguous);
        let Sizes { batch, heads: count, query_len, value_dim, .. } = self.0.sizes;
        let mut log_sums = vec![0.0; batch * count * query_len];
        let output = create_heads::<B>([batch, count, query_len, value_dim], |out| {
            let [query, key, value] = inputs.each_ref().map(heads::<B>);
            self.0.forward(query, key, value, bias_.as_ref().map(bias::<B>), out, &mut log_sums);
        });
        (output.clone(), (inputs, bias_, output, log_sums.into()))
    }

    fn backward(
        &self,
        (inputs, bias_, output, log_sums): Self::Saved,
        gradient: FloatTensor<B>,
        wanted: [bool; 4],
    ) -> [Option<FloatTensor<B>>; 4] {
        let gradient = as_heads::<B>(gradient);
        let Sizes { batch, heads: count, kv_heads, query_len, key_len, head_dim, value_dim } = self.0.sizes;
        let mut bias_gradient = bias_gradient::<B>(bias_.as_ref().filter(|_| wanted[3]));
        let (mut key, mut value) = (None, None);
        let query = create_heads::<B>([batch, count, query_len, head_dim], |query| {
            key = Some(create_heads::<B>([batch, kv_heads, key_len, head_dim], |key| {
                value = Some(create_heads::<B>([batch, kv_heads, key_len, value_dim], |value| {
                    self.0.backward(
                        inputs.each_ref().map(heads::<B>),
                        bias_.as_ref().map(bias::<B>),
                        heads::<B>(&output),
                        heads::<B>(&gradient),
                        &log_sums,
                        Gradients::Apart([query, key, value]),
                        bias_gradient.as_deref_mut(),
                    );
                }));
            }));
        });
        let bias_gradient = bias_.zip(bias_gradient).map(|(bias, numbers)| from_numbers::<B>(bias.shape(), &numbers));
        [Some(query).filter(|_| wanted[0]), key.filter(|_| wanted[1]), value.filter(|_| wanted[2]), bias_gradient]
    }
}

impl<B: Kernels> Operation<B, 2> for Attend {
    /// As for separate tensors.
    type Saved = (FloatTensor<B>, Option<FloatTensor<B>>, FloatTensor<B>, Arc<[f32]>);

    #[allow(clippy::expect_used)]
    fn forward(&self, [packed, bias_]: [Option<FloatTensor<B>>; 2]) -> (FloatTensor<B>, Self::Saved) {
        let (packed, bias_) = (B::contiguous(packed.expect("a packed input")), bias_.map(B::contiguous));
        let sizes = self.0.sizes;
        let Sizes { batch, heads: count, query_len, value_dim, .. } = sizes;
        let mut log_sums = vec![0.0; batch * count * query_len];
        let output = B::create(Shape::new([batch, query_len, count * value_dim]), |out| {
            let [query, key, value] = parts::<B>(&packed, sizes);
            self.0.forward(query, key, value, bias_.as_ref().map(bias::<B>), out, &mut log_sums);
        });
        (output.clone(), (packed, bias_, output, log_sums.into()))
    }

    fn backward(
        &self,
        (packed, bias_, output, log_sums): Self::Saved,
        gradient: FloatTensor<B>,
        wanted: [bool; 2],
    ) -> [Option<FloatTensor<B>>; 2] {
        let (gradient, sizes) = (B::contiguous(gradient), self.0.sizes);
        let mut bias_gradient = bias_gradient::<B>(bias_.as_ref().filter(|_| wanted[1]));
        let of_packed = B::create(packed.shape(), |out| {
            self.0.backward(
                parts::<B>(&packed, sizes),
                bias_.as_ref().map(bias::<B>),
                joined::<B>(&output, sizes),
                joined::<B>(&gradient, sizes),
                &log_sums,
                Gradients::Packed(out),
                bias_gradient.as_deref_mut(),
            );
        });
        let bias_gradient = bias_.zip(bias_gradient).map(|(bias, numbers)| from_numbers::<B>(bias.shape(), &numbers));
        [Some(of_packed).filter(|_| wanted[0]), bias_gradient]
    }
}

/// Zeros to add the gradient of a bias to.
fn bias_gradient<B: HostMemory>(bias: Option<&FloatTensor<B>>) -> Option<Vec<f32>> {
    bias.map(|bias| vec![0.0; bias.shape().num_elements()])
}

fn from_numbers<B: HostMemory>(shape: Shape, numbers: &[f32]) -> FloatTensor<B> {
    B::create(shape, |out| out.copy_from_slice(numbers))
}
