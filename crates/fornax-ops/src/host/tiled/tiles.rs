//! The order in which the kernels read their factors.

use std::{
    arch::x86_64::{
        __m512bh, __m512i, _mm512_castsi512_ps, _mm512_castsi512_si256, _mm512_cvtepu16_epi32, _mm512_cvtne2ps_pbh,
        _mm512_extracti64x4_epi64, _mm512_maskz_loadu_ps, _mm512_mul_ps, _mm512_permutexvar_epi16, _mm512_set1_ps,
        _mm512_setzero_ps, _mm512_setzero_si512, _mm512_shuffle_i32x4, _mm512_slli_epi32, _mm512_sub_ps,
        _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
    },
    fmt::{self, Debug, Formatter},
};

use super::{
    super::{each, matrix::Matrix},
    Factors,
};

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

/// A matrix in tiles: panels of two tiles' lines, in each of which the two tiles of a depth stand together, those of each part of
/// the numbers after another.
pub(crate) struct Tiles {
    tiles: Vec<Tile>,
    factors: Factors,
    lines: usize,
    depth: usize,
}

impl Debug for Tiles {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tiles").field("lines", &self.lines).field("depth", &self.depth).finish_non_exhaustive()
    }
}

impl Tiles {
    /// `alpha · matrix`. For CPUs of which [`multiplies_bf16`](fornax_backend::multiplies_bf16) holds.
    #[allow(unsafe_code)]
    pub(crate) fn new(matrix: Matrix<'_>, factors: Factors, side: Side, alpha: f32, parallel: bool) -> Self {
        let source = Source::new(matrix, factors, side, alpha);
        let mut all = Self::unwritten(&source);
        let fill = |(index, panel): (usize, &mut [Tile])| {
            for (at, step) in panel.chunks_exact_mut(2 * factors.parts()).enumerate() {
                source.step(index * 2 * LINES, at * DEPTH, side, step);
            }
        };
        let len = all.panel_len();
        let panels = all.tiles.chunks_mut(len).enumerate();
        match parallel {
            true => each(panels, fill),
            false => panels.for_each(fill),
        }
        all
    }

    /// The left side of a product with `matrix`, and the given side of one that sums over its rows: `turned · …` with the transpose
    /// on the left, or `… · matrix` with it on the right. Each number is read once.
    #[allow(unsafe_code)]
    pub(crate) fn both_ways(matrix: Matrix<'_>, factors: Factors, side: Side) -> (Self, Self) {
        let along = Source::new(matrix, factors, Side::Left, 1.0);
        let across = Source::new(matrix, factors, Side::Right, 1.0);
        let (mut left, mut other) = (Self::unwritten(&along), Self::unwritten(&across));
        let (len, other_len, step) = (left.panel_len(), other.panel_len(), 2 * factors.parts());
        let others = Shared(other.tiles.as_mut_ptr());
        let others = &others;
        // A panel of the left side has the rows of one depth of the other.
        each(left.tiles.chunks_mut(len).enumerate(), |(index, panel)| {
            for (at, tiles) in panel.chunks_exact_mut(step).enumerate() {
                along.step(index * 2 * LINES, at * DEPTH, Side::Left, tiles);
            }
            for panel in 0..across.lines.div_ceil(2 * LINES) {
                // SAFETY: of all tasks only this one writes to this depth of the other side's panels, and each panel has it, as both
                // sides round the number of rows up to the same multiple.
                let tiles =
                    unsafe { std::slice::from_raw_parts_mut(others.0.add(panel * other_len + index * step), step) };
                across.step(panel * 2 * LINES, index * DEPTH, side, tiles);
            }
        });
        (left, other)
    }

    #[allow(unsafe_code, clippy::uninit_vec)]
    fn unwritten(source: &Source<'_>) -> Self {
        let mut all = Self { tiles: Vec::new(), factors: source.factors, lines: source.lines, depth: source.depth };
        let len = source.lines.div_ceil(2 * LINES) * all.panel_len();
        all.tiles.reserve_exact(len);
        // SAFETY: the capacity is there, every bit pattern is a tile, and the callers write each one.
        unsafe { all.tiles.set_len(len) };
        all
    }

    pub(super) fn factors(&self) -> Factors {
        self.factors
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
        &self.tiles[index * self.panel_len()..][..self.panel_len()]
    }

    /// Tiles of a panel.
    fn panel_len(&self) -> usize {
        2 * self.factors.parts() * self.depth.div_ceil(DEPTH)
    }
}

/// Tiles that several threads write, each its own.
struct Shared(*mut Tile);

// SAFETY: see `Tiles::both_ways`.
#[allow(unsafe_code)]
unsafe impl Sync for Shared {}

/// A matrix as lines.
struct Source<'a> {
    data: &'a [f32],
    factors: Factors,
    lines: usize,
    depth: usize,
    line_stride: usize,
    depth_stride: usize,
    alpha: f32,
}

impl<'a> Source<'a> {
    fn new(matrix: Matrix<'a>, factors: Factors, side: Side, alpha: f32) -> Self {
        let (data, shape, strides) = matrix.parts();
        let (line, depth) = if side == Side::Left { (0, 1) } else { (1, 0) };
        Self {
            data,
            factors,
            lines: shape[line],
            depth: shape[depth],
            line_stride: strides[line],
            depth_stride: strides[depth],
            alpha,
        }
    }

    /// The tiles of the lines from `line` and the depths from `depth` on: two for each part of the numbers.
    #[allow(unsafe_code)]
    fn step(&self, line: usize, depth: usize, side: Side, tiles: &mut [Tile]) {
        for (at, line) in [line, line + LINES].into_iter().enumerate() {
            // SAFETY: only CPUs with these instructions get here.
            unsafe {
                match self.factors {
                    Factors::Bf16 => self.tile::<1>(line, depth, side, at, tiles),
                    Factors::F32 => self.tile::<3>(line, depth, side, at, tiles),
                }
            }
        }
    }

    /// The tiles of one of the two sets of lines, which go to every second place from `at` on. The matrix has at least one of the
    /// depths.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn tile<const PARTS: usize>(&self, line: usize, depth: usize, side: Side, at: usize, tiles: &mut [Tile]) {
        let lines = self.lines.saturating_sub(line).min(LINES);
        if lines == 0 {
            tiles.iter_mut().skip(at).step_by(2).for_each(|tile| *tile = Tile([_mm512_setzero_si512(); LINES]));
            return;
        }
        let depths = (self.depth - depth).min(DEPTH);
        let data = &self.data[line * self.line_stride + depth * self.depth_stride..];
        let (of_line, of_depth) = (self.line_stride, self.depth_stride);
        // Of several lines or depths, one axis stands side by side, or the numbers are brought together first.
        let along_depth = of_depth == 1;
        if along_depth {
            self.along_depth::<PARTS>(data, of_line, [lines, depths], at, tiles);
        } else if of_line == 1 {
            self.along_lines::<PARTS>(data, of_depth, [lines, depths], at, tiles);
        } else {
            let mut together = [0.0; LINES * DEPTH];
            for (i, row) in together.chunks_exact_mut(LINES).enumerate().take(depths) {
                row.iter_mut().enumerate().take(lines).for_each(|(j, x)| *x = data[j * of_line + i * of_depth]);
            }
            self.along_lines::<PARTS>(&together, LINES, [lines, depths], at, tiles);
        }
        if along_depth != (side == Side::Left) {
            tiles.iter_mut().skip(at).step_by(2).for_each(|tile| *tile = tile.transposed());
        }
    }

    /// Vector `i` is line `i`, whose numbers stand side by side.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn along_depth<const PARTS: usize>(
        &self,
        data: &[f32],
        line_stride: usize,
        [lines, depths]: [usize; 2],
        at: usize,
        tiles: &mut [Tile],
    ) {
        for i in 0..LINES {
            let numbers = if i < lines { &data[i * line_stride..][..depths] } else { &[] };
            let (low, high) = numbers.split_at(numbers.len().min(DEPTH / 2));
            for (part, numbers) in self.parts::<PARTS>(low, high).into_iter().enumerate() {
                tiles[2 * part + at].0[i] = numbers;
            }
        }
    }

    /// Vector `i` holds the numbers `2i` and `2i + 1` of each line; those of one depth stand side by side.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn along_lines<const PARTS: usize>(
        &self,
        data: &[f32],
        depth_stride: usize,
        [lines, depths]: [usize; 2],
        at: usize,
        tiles: &mut [Tile],
    ) {
        // Element `2i` of a vector from the first half of the rounded one, `2i + 1` from the second.
        let order: [u16; DEPTH] = std::array::from_fn(|i| (i / 2 + i % 2 * LINES) as u16);
        let order = vector_of(order);
        let row = |depth: usize| if depth < depths { &data[depth * depth_stride..][..lines] } else { &[] };
        for i in 0..LINES {
            for (part, numbers) in self.parts::<PARTS>(row(2 * i), row(2 * i + 1)).into_iter().enumerate() {
                tiles[2 * part + at].0[i] = _mm512_permutexvar_epi16(order, numbers);
            }
        }
    }

    /// Up to 16 numbers each, times alpha, rounded; then what the rounding left of them, and so on.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    #[allow(unsafe_code)]
    fn parts<const PARTS: usize>(&self, low: &[f32], high: &[f32]) -> [__m512i; PARTS] {
        let alpha = _mm512_set1_ps(self.alpha);
        let load = |numbers: &[f32]| {
            if numbers.is_empty() {
                return _mm512_setzero_ps();
            }
            let mask = u16::MAX >> (LINES - numbers.len().min(LINES));
            // SAFETY: the mask has as many bits as there are numbers.
            _mm512_mul_ps(unsafe { _mm512_maskz_loadu_ps(mask, numbers.as_ptr()) }, alpha)
        };
        let widened = |half| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half)));
        let (mut low, mut high) = (load(low), load(high));
        let mut parts = [_mm512_setzero_si512(); PARTS];
        for (index, part) in parts.iter_mut().enumerate() {
            *part = bits(_mm512_cvtne2ps_pbh(high, low));
            if index + 1 < PARTS {
                low = _mm512_sub_ps(low, widened(_mm512_castsi512_si256(*part)));
                high = _mm512_sub_ps(high, widened(_mm512_extracti64x4_epi64::<1>(*part)));
            }
        }
        parts
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
