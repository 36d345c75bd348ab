use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;

use crate::{Context, RandomKey, philox};

/// Numbers that one task draws; the result doesn't depend on it.
const CHUNK: usize = 1024 * philox::GROUP;

/// Dropout (Srivastava et al. 2014): in training each element is zeroed with probability `probability` and otherwise
/// scaled by `1 / (1 - probability)`; in evaluation, or with probability 0, `x` itself.
///
/// The noise is a function of [`Context::key`] and the element's position alone, equal on every backend and for every
/// number of threads. Callers give each place its own [`Context::child`].
///
/// The reference form draws the noise on the host and uploads as many bytes as `x` has: about a nanosecond an element and
/// thread. A fused form computes the same generator in its kernel.
///
/// # Panics
///
/// When `probability` is negative or not a number.
pub fn dropout<const D: usize>(x: Tensor<D>, probability: f64, context: &Context) -> Tensor<D> {
    assert!(probability >= 0.0, "dropout: probability is {probability}");
    if !context.is_training() || probability == 0.0 {
        return x;
    }
    let shape = x.shape();
    let factors = keep_factors(shape.num_elements(), probability, context.key());
    let factors = Tensor::from_data(TensorData::new(factors, shape), &x.device());
    x * factors
}

/// For each of `len` elements 0 or `1 / (1 - probability)`.
fn keep_factors(len: usize, probability: f64, key: RandomKey) -> Vec<f32> {
    let mut factors = vec![0.0; len];
    if probability >= 1.0 {
        return factors;
    }
    let scale = (1.0 / (1.0 - probability)) as f32;
    // An element is dropped when its 32 bits, as a fraction of 2³², are below the probability.
    let threshold = (probability * 2f64.powi(32)) as u32;
    let fill = |(chunk_index, chunk): (usize, &mut [f32])| {
        let first = (chunk_index * CHUNK / philox::GROUP) as u64;
        for (index, group) in chunk.chunks_mut(philox::GROUP).enumerate() {
            let bits = philox::group(key, first + index as u64);
            for (factor, bits) in group.iter_mut().zip(bits) {
                *factor = if bits < threshold { 0.0 } else { scale };
            }
        }
    };
    if len > CHUNK {
        factors.par_chunks_mut(CHUNK).enumerate().for_each(fill);
    } else {
        factors.chunks_mut(CHUNK).enumerate().for_each(fill);
    }
    factors
}
