//! The order in which the kernels read their factors.

use std::{
    arch::x86_64::{
        __m512bh, __m512i, _mm512_cvtne2ps_pbh, _mm512_maskz_loadu_ps, _mm512_mul_ps, _mm512_permutexvar_epi16,
        _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_shuffle_i32x4, _mm512_unpackhi_epi32,
        _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
    },
    fmt::{self, Debug, Formatter},
};

use super::super::{each, matrix::Matrix};

/// Lines of a tile: rows of the left matrix, or columns of the right one.
pub(super) const LINES: usize = 16;
/// Numbers of a line in a tile, along the axis that a product sums over.
pub(super) const DEPTH: usize = 32;

/// 16 vectors of 16 pairs of bfloat16, 1 KiB. On the left, vector `i` is line `i`. On the right, vector `i` holds the numbers
/// `2i` and `2i + 1` of each line. What lies outside of the matrix is 0.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Tile([__m512i; LINES]);

/// The side of a product that a matrix stands on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Side {
    Left,
    Right,
}

/// A matrix in tiles: panels of two tiles' lines, in each of which the two tiles of a depth stand together.
pub(crate) struct Tiles {
    tiles: Vec<Tile>,
    lines: usize,
    depth: usize,
}

impl Debug for Tiles {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tiles").field("lines", &self.lines).field("depth", &self.depth).finish_non_exhaustive()
    }
}

impl Tiles {
    /// `alpha · matrix`, rounded. For CPUs of which [`multiplies_bf16`](fornax_backend::multiplies_bf16) holds.
    #[allow(unsafe_code)]
    pub(crate) fn new(matrix: Matrix<'_>, side: Side, alpha: f32, parallel: bool) -> Self {
        let source = Source::new(matrix, side, alpha);
        let mut all = Self::unwritten(&source);
        let fill = |(index, panel): (usize, &mut [Tile])| {
            for (at, tile) in panel.iter_mut().enumerate() {
                // SAFETY: the caller knows that the CPU has these instructions.
                *tile = unsafe { source.tile(index * 2 * LINES + at % 2 * LINES, at / 2 * DEPTH, side) };
            }
        };
        let panels = all.tiles.chunks_mut(panel_of(source.depth)).enumerate();
        match parallel {
            true => each(panels, fill),
            false => panels.for_each(fill),
        }
        all
    }

    /// The left side of a product with `matrix`, and the given side of one that sums over its rows: `turned · …` with the transpose
    /// on the left, or `… · matrix` with it on the right. Each number is read once.
    #[allow(unsafe_code)]
    pub(crate) fn both_ways(matrix: Matrix<'_>, side: Side) -> (Self, Self) {
        let (along, across) = (Source::new(matrix, Side::Left, 1.0), Source::new(matrix, Side::Right, 1.0));
        let (mut left, mut other) = (Self::unwritten(&along), Self::unwritten(&across));
        let (panel, step) = (panel_of(across.depth), panel_of(along.depth));
        let others = Shared(other.tiles.as_mut_ptr());
        let others = &others;
        // A panel of the left side has the rows of one depth of the other.
        each(left.tiles.chunks_mut(step).enumerate(), |(index, tiles)| {
            for (at, tile) in tiles.iter_mut().enumerate() {
                // SAFETY: the caller knows that the CPU has these instructions.
                *tile = unsafe { along.tile(index * 2 * LINES + at % 2 * LINES, at / 2 * DEPTH, Side::Left) };
            }
            for (line, at) in (0..across.lines.next_multiple_of(2 * LINES)).step_by(LINES).zip(0..) {
                let place = at / 2 * panel + 2 * index + at % 2;
                // SAFETY: as above; of all panels only this one writes to places of this depth, which is less than the other
                // side's, as both round the number of rows up to the same multiple.
                unsafe { *others.0.add(place) = across.tile(line, index * DEPTH, side) };
            }
        });
        (left, other)
    }

    #[allow(unsafe_code, clippy::uninit_vec)]
    fn unwritten(source: &Source<'_>) -> Self {
        let len = source.lines.div_ceil(2 * LINES) * panel_of(source.depth);
        let mut tiles = Vec::with_capacity(len);
        // SAFETY: the capacity is there, every bit pattern is a tile, and the callers write each one.
        unsafe { tiles.set_len(len) };
        Self { tiles, lines: source.lines, depth: source.depth }
    }

    pub(super) fn lines(&self) -> usize {
        self.lines
    }

    pub(super) fn depth(&self) -> usize {
        self.depth
    }

    #[cfg(test)]
    #[allow(unsafe_code)]
    pub(super) fn bits(&self) -> Vec<[u16; LINES * DEPTH]> {
        // SAFETY: as many bits, of which any pattern is fine.
        self.tiles.iter().map(|tile| unsafe { std::mem::transmute(*tile) }).collect()
    }

    /// The tiles of panel `index`.
    pub(super) fn panel(&self, index: usize) -> &[Tile] {
        let panel = panel_of(self.depth);
        &self.tiles[index * panel..][..panel]
    }
}

/// Tiles of a panel.
fn panel_of(depth: usize) -> usize {
    2 * depth.div_ceil(DEPTH)
}

/// Tiles that several threads write, each its own.
struct Shared(*mut Tile);

// SAFETY: see `Tiles::both_ways`.
#[allow(unsafe_code)]
unsafe impl Sync for Shared {}

/// A matrix as lines.
struct Source<'a> {
    data: &'a [f32],
    lines: usize,
    depth: usize,
    line_stride: usize,
    depth_stride: usize,
    alpha: f32,
}

impl<'a> Source<'a> {
    fn new(matrix: Matrix<'a>, side: Side, alpha: f32) -> Self {
        let (data, shape, strides) = matrix.parts();
        let (line, depth) = if side == Side::Left { (0, 1) } else { (1, 0) };
        Self {
            data,
            lines: shape[line],
            depth: shape[depth],
            line_stride: strides[line],
            depth_stride: strides[depth],
            alpha,
        }
    }

    /// The tile of the lines from `line` and the depths from `depth` on, of which the matrix has at least one depth.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn tile(&self, line: usize, depth: usize, side: Side) -> Tile {
        let lines = self.lines.saturating_sub(line).min(LINES);
        if lines == 0 {
            return Tile([_mm512_setzero_si512(); LINES]);
        }
        let depths = (self.depth - depth).min(DEPTH);
        let data = &self.data[line * self.line_stride + depth * self.depth_stride..];
        // Of several lines or depths, one axis stands side by side, or the numbers are brought together first.
        let (of_line, of_depth) = (self.line_stride, self.depth_stride);
        if of_depth == 1 {
            let tile = Tile(self.along_depth(data, of_line, lines, depths));
            return if side == Side::Left { tile } else { tile.transposed() };
        }
        let pairs = if of_line == 1 {
            self.along_lines(data, of_depth, lines, depths)
        } else {
            let mut together = [0.0; LINES * DEPTH];
            for (at, row) in together.chunks_exact_mut(LINES).enumerate().take(depths) {
                row.iter_mut().enumerate().take(lines).for_each(|(i, x)| *x = data[i * of_line + at * of_depth]);
            }
            self.along_lines(&together, LINES, lines, depths)
        };
        let tile = Tile(pairs);
        if side == Side::Right { tile } else { tile.transposed() }
    }

    /// Vector `i` is line `i`, whose numbers stand side by side.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn along_depth(&self, data: &[f32], line_stride: usize, lines: usize, depths: usize) -> [__m512i; LINES] {
        let mut vectors = [_mm512_setzero_si512(); LINES];
        for (line, vector) in vectors.iter_mut().enumerate().take(lines) {
            let numbers = &data[line * line_stride..][..depths];
            let (low, high) = numbers.split_at(depths.min(DEPTH / 2));
            *vector = self.rounded(low, high);
        }
        vectors
    }

    /// Vector `i` holds the numbers `2i` and `2i + 1` of each line; those of one depth stand side by side.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn along_lines(&self, data: &[f32], depth_stride: usize, lines: usize, depths: usize) -> [__m512i; LINES] {
        // Element `2i` of a vector from the first half of the rounded one, `2i + 1` from the second.
        let order: [u16; DEPTH] = std::array::from_fn(|i| (i / 2 + i % 2 * LINES) as u16);
        let order = vector_of(order);
        let mut vectors = [_mm512_setzero_si512(); LINES];
        for (pair, vector) in vectors.iter_mut().enumerate() {
            let row = |depth: usize| {
                if depth < depths { &data[depth * depth_stride..][..lines] } else { &[] }
            };
            *vector = _mm512_permutexvar_epi16(order, self.rounded(row(2 * pair), row(2 * pair + 1)));
        }
        vectors
    }

    /// Up to 16 numbers each, times alpha.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    #[allow(unsafe_code)]
    fn rounded(&self, low: &[f32], high: &[f32]) -> __m512i {
        let alpha = _mm512_set1_ps(self.alpha);
        let load = |numbers: &[f32]| {
            if numbers.is_empty() {
                return _mm512_setzero_ps();
            }
            let mask = u16::MAX >> (LINES - numbers.len().min(LINES));
            // SAFETY: the mask has as many bits as there are numbers.
            _mm512_mul_ps(unsafe { _mm512_maskz_loadu_ps(mask, numbers.as_ptr()) }, alpha)
        };
        bits(_mm512_cvtne2ps_pbh(load(high), load(low)))
    }
}

impl Tile {
    /// As a matrix of 16 x 16 pairs.
    #[target_feature(enable = "avx512f")]
    fn transposed(self) -> Self {
        let Self(mut a) = self;
        let mut b = a;
        for i in 0..8 {
            b[2 * i] = _mm512_unpacklo_epi32(a[2 * i], a[2 * i + 1]);
            b[2 * i + 1] = _mm512_unpackhi_epi32(a[2 * i], a[2 * i + 1]);
        }
        for i in (0..LINES).step_by(4) {
            a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
            a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
            a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
            a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
        }
        for i in 0..4 {
            b[i] = _mm512_shuffle_i32x4::<0x88>(a[i], a[4 + i]);
            b[4 + i] = _mm512_shuffle_i32x4::<0xdd>(a[i], a[4 + i]);
            b[8 + i] = _mm512_shuffle_i32x4::<0x88>(a[8 + i], a[12 + i]);
            b[12 + i] = _mm512_shuffle_i32x4::<0xdd>(a[8 + i], a[12 + i]);
        }
        for i in 0..4 {
            a[i] = _mm512_shuffle_i32x4::<0x88>(b[i], b[8 + i]);
            a[4 + i] = _mm512_shuffle_i32x4::<0x88>(b[4 + i], b[12 + i]);
            a[8 + i] = _mm512_shuffle_i32x4::<0xdd>(b[i], b[8 + i]);
            a[12 + i] = _mm512_shuffle_i32x4::<0xdd>(b[4 + i], b[12 + i]);
        }
        Self(a)
    }
}

#[allow(unsafe_code)]
fn vector_of(numbers: [u16; DEPTH]) -> __m512i {
    // SAFETY: both are 512 bits, of which any pattern is fine.
    unsafe { std::mem::transmute(numbers) }
}

#[allow(unsafe_code)]
fn bits(numbers: __m512bh) -> __m512i {
    // SAFETY: as above.
    unsafe { std::mem::transmute(numbers) }
}
