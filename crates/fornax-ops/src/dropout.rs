use burn::{
    backend::Dispatch,
    tensor::{Tensor, TensorData},
};

use crate::{
    Context,
    fused::{Fused, is_fused},
    host::elementwise::Noise,
};

/// Dropout (Srivastava et al. 2014): in training each element is zeroed with probability `probability` and otherwise
/// scaled by `1 / (1 - probability)`; in evaluation, or with probability 0, `x` itself.
///
/// The noise is a function of [`Context::key`] and the element's position alone, equal on every backend and for every
/// number of threads. Callers give each place its own [`Context::child`].
///
/// The reference form draws the noise on the host and uploads as many bytes as `x` has: about a nanosecond an element and
/// thread. The fused form draws it where it is used, in the backward pass once more, and keeps nothing.
///
/// # Panics
///
/// When `probability` is negative or not a number.
pub fn dropout<const D: usize>(x: Tensor<D>, probability: f64, context: &Context) -> Tensor<D> {
    assert!(probability >= 0.0, "dropout: probability is {probability}");
    if !context.is_training() || probability == 0.0 {
        return x;
    }
    let noise = Noise::new(probability, context.key());
    if is_fused(&x.device()) {
        return Tensor::from_dispatch(Dispatch::fused_dropout(x.into_dispatch(), noise));
    }
    reference(x, noise)
}

/// [`dropout`] in tensor operations.
pub(crate) fn reference<const D: usize>(x: Tensor<D>, noise: Noise) -> Tensor<D> {
    let shape = x.shape();
    let factors = noise.factors(shape.num_elements());
    x.clone() * Tensor::from_data(TensorData::new(factors, shape), &x.device())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{RandomKey, host::PIECE, testing::*};

    #[test]
    fn is_absent_in_evaluation_and_at_rate_zero() {
        let x = leaf(&numbers(9, 1), [9]);
        assert_eq!(values(dropout(x.clone(), 0.5, &evaluation())), numbers(9, 1));
        assert_eq!(values(dropout(x.clone(), 0.0, &training(1))), numbers(9, 1));
        assert_eq!(values(dropout(x, 1.0, &training(1))), [0.0; 9]);
    }

    #[test]
    fn equal_keys_drop_the_same_and_the_gradient_too() {
        let x = leaf(&vec![2.0; 501], [3, 167]);
        let output = dropout(x.clone(), 0.3, &training(7));
        assert_eq!(values(output.clone()), values(dropout(x.clone(), 0.3, &training(7))));
        assert_ne!(values(output.clone()), values(dropout(x.clone(), 0.3, &training(8))));
        assert_ne!(values(output.clone()), values(dropout(x.clone(), 0.3, &training(7).child(0))));
        let gradient = values(x.grad(&output.clone().sum().backward()).unwrap());
        for (gradient, output) in gradient.iter().zip(values(output)) {
            assert!(*gradient == 0.0 || (gradient - 1.0 / 0.7).abs() < 1e-6);
            assert_eq!(2.0 * gradient, output);
        }
    }

    /// Above one chunk, so that several threads draw; the start is what a small tensor gets.
    #[test]
    fn noise_depends_on_the_position_alone() {
        let key = RandomKey::new(11);
        let large = Noise::new(0.25, key).factors(3 * PIECE + 77);
        let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(large, alone.install(|| Noise::new(0.25, key).factors(3 * PIECE + 77)));
        assert_eq!(large[..100], Noise::new(0.25, key).factors(100));
        assert_eq!(large[..PIECE + 1], Noise::new(0.25, key).factors(PIECE + 1));
        assert_ne!(large[..PIECE], large[PIECE..2 * PIECE]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        /// Five standard deviations of the binomial distribution.
        #[test]
        fn the_keep_rate_is_as_asked(seed: u64, probability in 0.01f64..0.99) {
            let factors = Noise::new(probability, RandomKey::new(seed)).factors(20_000);
            let kept = factors.iter().filter(|&&f| f != 0.0).count() as f64;
            let expected = 20_000.0 * (1.0 - probability);
            prop_assert!((kept - expected).abs() < 5.0 * (expected * probability).sqrt() + 1.0);
            prop_assert!(factors.iter().all(|&f| f == 0.0 || f == (1.0 / (1.0 - probability)) as f32));
        }
    }

    #[test]
    #[should_panic(expected = "probability is NaN")]
    fn a_probability_that_is_none_is_refused() {
        let _ = dropout(leaf(&[1.0], [1]), f64::NAN, &training(1));
    }
}
