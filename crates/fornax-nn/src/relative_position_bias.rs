use std::ops::Range;

use burn::{
    module::{Module, Param},
    tensor::{Device, Int, Tensor, TensorData},
};
use fornax_ops::embedding;

use crate::parameters::constant;

/// What attention scores gain by how far the key is from the query: a number for each head and bucket of distances (Raffel
/// et al. 2020, section 2.1).
///
/// Small distances have a bucket each, larger ones share buckets that widen with the logarithm of the distance.
#[derive(Module, Debug)]
pub struct RelativePositionBias {
    /// `[num_buckets, num_heads]`
    pub weight: Param<Tensor<2>>,
    max_distance: usize,
    bidirectional: bool,
}

impl RelativePositionBias {
    /// A table of zeros. All distances from `max_distance` on share a bucket. If `bidirectional`, half of the buckets are for
    /// keys behind the query; else those keys are taken to be hidden, and share the bucket of distance 0.
    ///
    /// # Panics
    ///
    /// With fewer than 4 buckets, or when `max_distance` isn't above half of them: there would be no room for both kinds.
    pub fn new(
        num_buckets: usize,
        num_heads: usize,
        max_distance: usize,
        bidirectional: bool,
        device: &Device,
    ) -> Self {
        assert!(num_buckets >= 4, "relative positions: {num_buckets} buckets, of at least 4");
        assert!(max_distance > num_buckets / 2, "relative positions: {num_buckets} buckets up to {max_distance}");
        Self { weight: constant([num_buckets, num_heads], 0.0, device), max_distance, bidirectional }
    }

    /// The biases of the queries at these positions over the keys `0..key_len`.
    ///
    /// # Shapes
    ///
    /// Result: `[1, num_heads, queries, key_len]`
    ///
    /// # Panics
    ///
    /// Without queries or keys.
    pub fn forward(&self, queries: Range<usize>, key_len: usize) -> Tensor<4> {
        let query_len = queries.len();
        assert!(query_len > 0 && key_len > 0, "relative positions: {query_len} queries over {key_len} keys");
        // A matrix has one number for each distance, repeated along its diagonals. So it is enough to look up a vector of them,
        // from the first query's on and around to those of the queries after it: the gradient of a lookup of the whole
        // matrix would add as many rows as it has numbers into a few buckets, which devices do one after the other.
        let period = query_len + key_len;
        let distances = (0..period as i64).map(|i| if i < key_len as i64 { i } else { i - period as i64 });
        let buckets: Vec<i32> = distances.map(|distance| self.bucket(distance - queries.start as i64) as i32).collect();
        let weight = self.weight.val();
        let buckets = Tensor::<2, Int>::from_data(TensorData::new(buckets, [1, period]), &weight.device());
        let heads = weight.dims()[1];
        let by_distance = embedding(weight, buckets).swap_dims(1, 2).reshape([heads, 1, period]);
        // Rows of one number less than the period each begin one distance further to the left.
        let repeated = by_distance.expand([heads, query_len, period]).reshape([heads, query_len * period]);
        let rows = repeated.narrow(1, 0, query_len * (period - 1)).reshape([1, heads, query_len, period - 1]);
        rows.narrow(3, 0, key_len)
    }

    /// The row of the table for a key that stands `distance` behind its query, or before it where that is negative.
    fn bucket(&self, distance: i64) -> usize {
        let all = self.weight.dims()[0];
        let (num_buckets, first) = match self.bidirectional {
            true => (all / 2, if distance > 0 { all / 2 } else { 0 }),
            false => (all, 0),
        };
        let distance = if self.bidirectional || distance < 0 { distance.unsigned_abs() as usize } else { 0 };
        let exact = num_buckets / 2;
        if distance < exact {
            return first + distance;
        }
        // In f32 as the reference implementation does it, since which side of a border a distance falls on is rounding.
        let growth = (self.max_distance as f64 / exact as f64).ln() as f32;
        let wider = (distance as f32 / exact as f32).ln() / growth * (num_buckets - exact) as f32;
        first + (exact + wider as usize).min(num_buckets - 1)
    }
}

#[cfg(test)]
mod tests {
    use fornax_backend::test_device;

    use super::*;
    use crate::{Init, initialise, parameters};

    /// Small enough that the largest bucket is reached.
    fn layer(bidirectional: bool) -> RelativePositionBias {
        let layer = RelativePositionBias::new(8, 3, 6, bidirectional, &test_device().autodiff());
        initialise(layer, 1, |_, _| Init::Normal { mean: 0.0, std: 1.0 })
    }

    fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
        tensor.into_data().iter::<f32>().collect()
    }

    /// Where number `i` of a bias `[1, 3, queries, keys]` is in the table `[8, 3]`.
    fn place(layer: &RelativePositionBias, i: usize, queries: &Range<usize>, keys: usize) -> usize {
        let (head, query, key) = (i / keys / queries.len(), i / keys % queries.len(), i % keys);
        layer.bucket(key as i64 - (queries.start + query) as i64) * 3 + head
    }

    /// A square, a single query on a cache, several queries on a cache, fewer keys than queries.
    #[test]
    fn every_query_and_key_gets_the_number_of_their_distance_and_gives_its_gradient_back() {
        for bidirectional in [true, false] {
            let layer = layer(bidirectional);
            let table = numbers(layer.weight.val());
            for (queries, keys) in [(0..9, 9), (11..12, 12), (5..8, 8), (0..7, 2), (0..1, 1)] {
                let bias = layer.forward(queries.clone(), keys);
                assert_eq!(bias.dims(), [1, 3, queries.len(), keys]);
                let slopes: Vec<f32> = (0..bias.shape().num_elements()).map(|i| ((i * 7) as f32).sin()).collect();
                let mut wanted = [0.0; 24];
                for (i, (found, slope)) in numbers(bias.clone()).into_iter().zip(&slopes).enumerate() {
                    let place = place(&layer, i, &queries, keys);
                    assert_eq!(found, table[place], "{queries:?} {keys}: {i}");
                    wanted[place] += slope;
                }
                let slopes = Tensor::from_data(TensorData::new(slopes, bias.shape()), &bias.device());
                let found = layer.weight.val().grad(&(bias * slopes).sum().backward()).unwrap();
                for (found, wanted) in numbers(found).into_iter().zip(wanted) {
                    assert!((found - wanted).abs() < 1e-5, "{queries:?} {keys}: {found} against {wanted}");
                }
            }
        }
    }

    #[test]
    fn its_parameter_is_named_weight() {
        let found: Vec<_> = parameters(&layer(true)).into_iter().map(|p| (p.path, p.shape)).collect();
        assert_eq!(found, [("weight".to_owned(), vec![8, 3])]);
    }

    /// By hand: 4 buckets to a side, of which 2 are exact; or 8, of which 4 are.
    #[test]
    fn buckets_are_exact_and_then_wider() {
        let buckets = |bidirectional, distances: [i64; 8]| distances.map(|d| layer(bidirectional).bucket(d));
        assert_eq!(buckets(true, [0, -1, -2, -3, -4, -5, -6, -100]), [0, 1, 2, 2, 3, 3, 3, 3]);
        assert_eq!(buckets(true, [0, 1, 2, 3, 4, 5, 6, 100]), [0, 5, 6, 6, 7, 7, 7, 7]);
        assert_eq!(buckets(false, [0, -1, -2, -3, -4, -5, -6, -100]), [0, 1, 2, 3, 4, 6, 7, 7]);
        assert_eq!(buckets(false, [0, 1, 2, 3, 4, 5, 6, 100]), [0; 8]);
    }

    #[test]
    #[should_panic(expected = "8 buckets up to 4")]
    fn buckets_without_distances_are_refused() {
        RelativePositionBias::new(8, 3, 4, true, &test_device());
    }
}
