//! The product of two panels.

use std::{
    arch::{
        asm,
        x86_64::{
            __cpuid_count, __m512bh, __m512i, _mm512_dpbf16_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_set1_epi32,
            _mm512_setzero_ps, _mm512_storeu_ps,
        },
    },
    sync::OnceLock,
};

use fornax_backend::multiplies_bf16;

use super::{
    Factors,
    tiles::{LINES, Tile},
};

/// Rows and columns of what a kernel computes at a time: two tiles' lines of each side.
pub(super) const BLOCK: usize = 2 * LINES;

/// What a block is before the product is added to it.
#[derive(Clone, Copy)]
pub(super) struct Start {
    pub(super) data: *const f32,
    /// From one row to the next; 0 where all rows are one.
    pub(super) row_stride: usize,
}

static ZEROS: [f32; BLOCK] = [0.0; BLOCK];

impl Start {
    pub(super) const ZERO: Self = Self { data: ZEROS.as_ptr(), row_stride: 0 };
}

/// The instructions that compute a block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Blocks {
    /// Tiles of AMX.
    Amx,
    /// Dot products of pairs, AVX-512.
    Avx512,
}

/// The state of the tile registers, which costs every switch of threads until it is let go.
pub(super) struct TileState(Blocks);

impl Drop for TileState {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        if self.0 == Blocks::Amx {
            // SAFETY: begun with this instruction set.
            unsafe { asm!("tilerelease", options(nostack, nomem)) };
        }
    }
}

/// What `ldtilecfg` reads: eight tiles of 16 rows and 64 bytes.
#[repr(C, align(64))]
struct TileConfig {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static TILES: TileConfig = TileConfig {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

impl Blocks {
    /// The best that this CPU has.
    pub(super) fn detected() -> Self {
        static AMX: OnceLock<bool> = OnceLock::new();
        // Numbers are rounded by AVX-512 for both.
        if *AMX.get_or_init(|| multiplies_bf16() && amx_is_ours()) { Self::Amx } else { Self::Avx512 }
    }

    /// All that this CPU has.
    #[cfg(test)]
    pub(super) fn all() -> Vec<Self> {
        let mut all = vec![Self::detected(), Self::Avx512];
        all.dedup();
        all
    }

    /// To be held while blocks are computed on this thread.
    #[allow(unsafe_code)]
    pub(super) fn begin(self) -> TileState {
        if self == Self::Amx {
            // SAFETY: `detected` has found the instructions and been granted the registers.
            unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const TILES, options(nostack, readonly)) };
        }
        TileState(self)
    }

    /// `target = start + lhs · rhs`.
    ///
    /// # Safety
    ///
    /// `start` and `target` have [`BLOCK`] rows and columns to read and to write, at their distances; `target` may be `start`.
    /// The thread holds what [`begin`](Self::begin) gave. Both panels are as deep, of such factors; [`Avx512`](Self::Avx512) knows
    /// bfloat16 alone.
    #[allow(unsafe_code)]
    pub(super) unsafe fn multiply(
        self,
        factors: Factors,
        lhs: &[Tile],
        rhs: &[Tile],
        start: Start,
        target: *mut f32,
        row_stride: usize,
    ) {
        debug_assert_eq!(lhs.len(), rhs.len());
        // SAFETY: as promised to this function.
        unsafe {
            match self {
                Self::Amx => amx(factors, lhs, rhs, start, target, row_stride),
                Self::Avx512 => avx512(lhs, rhs, start, target, row_stride),
            }
        }
    }
}

/// Whether the CPU has AMX for bfloat16 and the system lets this process use its registers.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn amx_is_ours() -> bool {
    /// `ARCH_REQ_XCOMP_PERM` and the number of the tile data among the extended states.
    const REQUEST: libc::c_long = 0x1023;
    const TILE_DATA: libc::c_long = 18;
    /// Bits of EDX of leaf 7.
    const AMX_BF16: u32 = 1 << 22;
    const AMX_TILE: u32 = 1 << 24;

    let has = __cpuid_count(7, 0).edx;
    // SAFETY: a request with two numbers, which changes nothing but the permission.
    has & AMX_BF16 != 0
        && has & AMX_TILE != 0
        && unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST, TILE_DATA) == 0 }
}

/// Other systems have other ways of asking, if any.
#[cfg(not(target_os = "linux"))]
fn amx_is_ours() -> bool {
    false
}

/// Each tile of the left side times each of the right: registers 4 and 5, 6 and 7, into 0 to 3.
macro_rules! products {
    () => {
        "tdpbf16ps tmm0, tmm4, tmm6
         tdpbf16ps tmm1, tmm4, tmm7
         tdpbf16ps tmm2, tmm5, tmm6
         tdpbf16ps tmm3, tmm5, tmm7"
    };
}

/// The left tiles of a part, whose index in a step it is.
macro_rules! left {
    ($first:literal, $second:literal) => {
        concat!(
            "tileloadd tmm4, [{lhs} + {line} + ",
            $first,
            " * 1024]
             tileloadd tmm5, [{lhs} + {line} + ",
            $second,
            " * 1024]"
        )
    };
}

/// The right ones.
macro_rules! right {
    ($first:literal, $second:literal) => {
        concat!(
            "tileloadd tmm6, [{rhs} + {line} + ",
            $first,
            " * 1024]
             tileloadd tmm7, [{rhs} + {line} + ",
            $second,
            " * 1024]"
        )
    };
}

/// Sums four tiles over the depth, by a step of so many bytes.
macro_rules! sum_up {
    ($lhs:ident, $rhs:ident, $start:ident, $target:ident, $row_stride:ident, $bytes:literal, [$($step:expr),*]) => {
        asm!(
            "tileloadd tmm0, [{start} + {start_stride}]",
            "tileloadd tmm1, [{start} + {start_stride} + 64]",
            "tileloadd tmm2, [{start_below} + {start_stride}]",
            "tileloadd tmm3, [{start_below} + {start_stride} + 64]",
            "2:",
            $($step,)*
            concat!("add {lhs}, ", $bytes),
            concat!("add {rhs}, ", $bytes),
            "dec {steps}",
            "jnz 2b",
            "tilestored [{target} + {stride}], tmm0",
            "tilestored [{target} + {stride} + 64], tmm1",
            "tilestored [{target_below} + {stride}], tmm2",
            "tilestored [{target_below} + {stride} + 64], tmm3",
            lhs = inout(reg) $lhs.as_ptr() => _,
            rhs = inout(reg) $rhs.as_ptr() => _,
            steps = inout(reg) size_of_val($lhs) / $bytes => _,
            line = in(reg) 64usize,
            start = in(reg) $start.data,
            start_below = in(reg) $start.data.wrapping_add(LINES * $start.row_stride),
            start_stride = in(reg) size_of::<f32>() * $start.row_stride,
            target = in(reg) $target,
            target_below = in(reg) $target.wrapping_add(LINES * $row_stride),
            stride = in(reg) size_of::<f32>() * $row_stride,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        )
    };
}

/// # Safety
///
/// As [`Blocks::multiply`].
#[allow(unsafe_code)]
unsafe fn amx(factors: Factors, lhs: &[Tile], rhs: &[Tile], start: Start, target: *mut f32, row_stride: usize) {
    // SAFETY: reads the panels, which are a whole number of steps long, and the start, and writes the target.
    unsafe {
        match factors {
            Factors::Bf16 => {
                sum_up!(lhs, rhs, start, target, row_stride, 2048, [left!(0, 1), right!(0, 1), products!()])
            }
            // Parts 1, 2, 3 of the left side with parts 1, 2, 3 of the right one, but for the products of two that are small.
            Factors::F32 => sum_up!(
                lhs,
                rhs,
                start,
                target,
                row_stride,
                6144,
                [
                    left!(0, 1),
                    right!(0, 1),
                    products!(),
                    right!(4, 5),
                    products!(),
                    right!(2, 3),
                    products!(),
                    left!(2, 3),
                    products!(),
                    right!(0, 1),
                    products!(),
                    left!(4, 5),
                    products!()
                ]
            ),
        }
    }
}

/// For factors in bfloat16: a tile of sums at a time, a vector for each of its rows.
///
/// # Safety
///
/// As [`Blocks::multiply`], on a CPU with these instructions.
#[target_feature(enable = "avx512f,avx512bf16")]
#[allow(unsafe_code)]
unsafe fn avx512(lhs: &[Tile], rhs: &[Tile], start: Start, target: *mut f32, row_stride: usize) {
    for (row, column) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let mut sums = [_mm512_setzero_ps(); LINES];
        // SAFETY: rows and columns of a block.
        unsafe {
            for (i, sum) in sums.iter_mut().enumerate() {
                let at = (row * LINES + i) * start.row_stride + column * LINES;
                *sum = _mm512_loadu_ps(start.data.add(at));
            }
            for (lhs, rhs) in lhs.chunks_exact(2).zip(rhs.chunks_exact(2)) {
                let lhs: *const i32 = (&raw const lhs[row]).cast();
                let rhs: *const __m512i = (&raw const rhs[column]).cast();
                for pair in 0..LINES {
                    let right = pairs(_mm512_loadu_si512(rhs.add(pair)));
                    for (i, sum) in sums.iter_mut().enumerate() {
                        let left = pairs(_mm512_set1_epi32(*lhs.add(i * LINES + pair)));
                        *sum = _mm512_dpbf16_ps(*sum, left, right);
                    }
                }
            }
            for (i, sum) in sums.iter().enumerate() {
                let at = (row * LINES + i) * row_stride + column * LINES;
                _mm512_storeu_ps(target.add(at), *sum);
            }
        }
    }
}

#[allow(unsafe_code)]
fn pairs(vector: __m512i) -> __m512bh {
    // SAFETY: 512 bits, of which any pattern is fine.
    unsafe { std::mem::transmute(vector) }
}
