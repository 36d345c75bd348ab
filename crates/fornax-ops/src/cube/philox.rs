//! The generator of [`philox`](crate::philox) in kernels: the same noise at the same position.

use burn_cubecl::cubecl::{self, prelude::*};

use crate::{
    host::elementwise::Noise,
    philox::{KEY_STEPS, LANES, MULTIPLIERS, ROUNDS},
};

/// What dropout multiplies elements with, as [`Noise`] says it.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Factors {
    key_low: u32,
    key_high: u32,
    threshold: u32,
    scale: f32,
}

/// A kernel's argument for `noise`.
pub(super) fn factors(noise: &Noise) -> FactorsLaunch {
    let key = noise.key.value();
    FactorsLaunch::new(key as u32, (key >> 32) as u32, noise.threshold, noise.scale)
}

/// The factor for 32 random bits.
#[cube]
pub(super) fn factor(bits: u32, factors: &Factors) -> f32 {
    if bits < factors.threshold { 0.0f32.runtime() } else { factors.scale }
}

/// The four words of a block of the stream, of which word `w` belongs to the position `position(block) + LANES · w`.
#[cube]
pub(super) fn words(block_low: u32, block_high: u32, factors: &Factors) -> (u32, u32, u32, u32) {
    let mut a = block_low;
    let mut b = block_high;
    let mut c = 0u32.runtime();
    let mut d = 0u32.runtime();
    let mut key_a = factors.key_low;
    let mut key_b = factors.key_high;
    let first = comptime!(MULTIPLIERS[0]).runtime();
    let second = comptime!(MULTIPLIERS[1]).runtime();
    for _ in 0..ROUNDS {
        let (low_high, low) = (first.mul_hi(a), first * a);
        let (high_high, high) = (second.mul_hi(c), second * c);
        a = high_high ^ b ^ key_a;
        b = high;
        c = low_high ^ d ^ key_b;
        d = low;
        key_a += comptime!(KEY_STEPS[0]);
        key_b += comptime!(KEY_STEPS[1]);
    }
    (a, b, c, d)
}

/// The first position of a block.
#[cube]
pub(super) fn position(block: usize) -> usize {
    block / LANES * (4 * LANES) + block % LANES
}
