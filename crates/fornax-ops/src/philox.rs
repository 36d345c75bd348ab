//! Philox 4x32-10, a counter-based generator (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
//!
//! Block `i` of the stream of a key is computed from `i` and the key alone with 32-bit operations, so threads, and later
//! kernels on any GPU, produce the same stream without talking to each other.

use crate::RandomKey;

/// Blocks computed side by side, so that the compiler uses vector instructions.
pub(crate) const LANES: usize = 16;
/// Numbers in one group of [`LANES`] blocks.
pub(crate) const GROUP: usize = 4 * LANES;

pub(crate) const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
pub(crate) const KEY_STEPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
pub(crate) const ROUNDS: usize = 10;

/// Group `index` of the stream of `key`: word `w` of block `index * LANES + lane` stands at `w * LANES + lane`.
#[inline(always)]
pub(crate) fn group(key: RandomKey, index: u64) -> [u32; GROUP] {
    let mut counter = [[0u32; LANES]; 4];
    let [low, high, ..] = &mut counter;
    for ((low, high), block) in low.iter_mut().zip(high).zip(index * LANES as u64..) {
        *low = block as u32;
        *high = (block >> 32) as u32;
    }
    let key = [key.value() as u32, (key.value() >> 32) as u32];
    let words = rounds(counter, key);
    let mut out = [0; GROUP];
    for (word, chunk) in words.iter().zip(out.chunks_exact_mut(LANES)) {
        chunk.copy_from_slice(word);
    }
    out
}

#[inline(always)]
fn rounds<const N: usize>(mut c: [[u32; N]; 4], mut key: [u32; 2]) -> [[u32; N]; 4] {
    for _ in 0..ROUNDS {
        let mut next = [[0u32; N]; 4];
        for lane in 0..N {
            let low = u64::from(MULTIPLIERS[0]) * u64::from(c[0][lane]);
            let high = u64::from(MULTIPLIERS[1]) * u64::from(c[2][lane]);
            next[0][lane] = (high >> 32) as u32 ^ c[1][lane] ^ key[0];
            next[1][lane] = high as u32;
            next[2][lane] = (low >> 32) as u32 ^ c[3][lane] ^ key[1];
            next[3][lane] = low as u32;
        }
        c = next;
        key = [key[0].wrapping_add(KEY_STEPS[0]), key[1].wrapping_add(KEY_STEPS[1])];
    }
    c
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known-answer vectors that the authors publish with their reference implementation.
    #[test]
    fn agrees_with_the_published_vectors() {
        let cases: [([u32; 4], [u32; 2], [u32; 4]); 3] = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, expected) in cases {
            assert_eq!(rounds(counter.map(|word| [word]), key), expected.map(|word| [word]));
        }
    }

    #[test]
    fn groups_are_the_blocks_in_order() {
        let key = RandomKey::new(5);
        let halves = [key.value() as u32, (key.value() >> 32) as u32];
        let group = group(key, 3);
        for lane in 0..LANES {
            let block = rounds([[3 * LANES as u32 + lane as u32], [0], [0], [0]], halves);
            for word in 0..4 {
                assert_eq!(group[word * LANES + lane], block[word][0]);
            }
        }
    }
}
