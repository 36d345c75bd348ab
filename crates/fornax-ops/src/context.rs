use fornax_backend::Precision;

/// The key of a counter-based random stream: equal keys give equal noise on every backend.
///
/// A training step folds seed, step, micro-batch, layer and site into one key, so noise is a function of where it is
/// used and never of what ran before. Resuming needs the step number alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RandomKey(u64);

impl RandomKey {
    /// The root key of a run.
    pub fn new(seed: u64) -> Self {
        Self(mix(seed ^ 0x464f_524e_4158_0001))
    }

    /// The key of one part of what this key stands for: a step, a micro-batch, a layer, a site within a layer.
    #[must_use]
    pub fn fold(self, index: u64) -> Self {
        Self(mix(self.0.wrapping_add(mix(index.wrapping_add(0x9e37_79b9_7f4a_7c15)))))
    }

    /// The 64 bits that a generator is seeded with.
    pub fn value(self) -> u64 {
        self.0
    }
}

/// What every `forward` is told besides its input: training or evaluation, compute precision, random key.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    training: bool,
    precision: Precision,
    key: RandomKey,
    checkpoint_blocks: bool,
}

impl Context {
    /// Training: dropout is on, its noise a function of `key`.
    pub fn training(precision: Precision, key: RandomKey) -> Self {
        Self { training: true, precision, key, checkpoint_blocks: false }
    }

    /// Evaluation: no dropout.
    pub fn evaluation(precision: Precision) -> Self {
        Self { training: false, precision, key: RandomKey::new(0), checkpoint_blocks: false }
    }

    /// Whether [`checkpoint`](crate::checkpoint) drops the activations of a block and computes them again in the backward pass.
    #[must_use]
    pub fn with_checkpointed_blocks(self, checkpoint_blocks: bool) -> Self {
        Self { checkpoint_blocks, ..self }
    }

    /// The context of part `index` (a layer, a site within a layer).
    #[must_use]
    pub fn child(&self, index: u64) -> Self {
        Self { key: self.key.fold(index), ..*self }
    }

    /// Whether dropout is on.
    pub fn is_training(&self) -> bool {
        self.training
    }

    /// Whether the activations of a block are computed again in the backward pass.
    pub fn checkpoints_blocks(&self) -> bool {
        self.checkpoint_blocks
    }

    /// The type in which matrix products are computed.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The key of random noise at this place.
    pub fn key(&self) -> RandomKey {
        self.key
    }
}

/// A bijective mixer of 64 bits (the finaliser of SplitMix64, Steele et al. 2014).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn parts_have_keys_of_their_own() {
        let root = RandomKey::new(3);
        let mut seen = HashSet::from([root.value(), RandomKey::new(4).value()]);
        for part in (0..100).map(|i| root.fold(i)) {
            assert!(seen.insert(part.value()));
            assert!((0..100).all(|i| seen.insert(part.fold(i).value())), "order of folding matters");
        }
        let context = Context::training(Precision::F32, root);
        assert_eq!(context.child(2).child(5).key(), root.fold(2).fold(5));
        assert!(context.child(1).is_training() && !Context::evaluation(Precision::F32).child(1).is_training());
    }
}
