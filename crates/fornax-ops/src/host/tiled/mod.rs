//! Products of matrices by the instructions that multiply numbers in bfloat16 and add up in `f32`: the tiles of AMX where the CPU has
//! them, otherwise the dot products of AVX-512.
//!
//! The factors are rounded to bfloat16, or, with AMX, `f32` by other means: three numbers of 8 bits each, rounded one after another,
//! have the 24 bits of an `f32`. Of the nine products of two such sums the three smallest, less than 2⁻²⁵ of the whole, are left out.
//! Six products by AMX still take less time than one by vectors of `f32`.
//!
//! The kernels read the factors from [`Tiles`], into which the numbers are sorted first: one pass over each matrix, against as many as
//! its other side has tiles.

mod kernel;
mod tiles;

use std::cmp::min;

pub(crate) use self::tiles::{Side, Tiles};
use self::{
    kernel::{BLOCK, Blocks, Start},
    tiles::Tile,
};
use super::{
    each,
    matrix::{Into, Matrix, Product},
};

/// What a product multiplies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Factors {
    /// The numbers rounded to the nearest bfloat16.
    Bf16,
    /// The numbers themselves, as long as they are finite and below 3.38e38; a larger one may give a NaN where `f32` gives `∞`. With
    /// AMX alone.
    F32,
}

impl Factors {
    /// The numbers in bfloat16 that a factor is the sum of.
    fn parts(self) -> usize {
        match self {
            Self::Bf16 => 1,
            Self::F32 => 3,
        }
    }
}

/// Whether a product of matrices of `f32`, `[rows, inner, columns]`, is faster this way than by vectors.
pub(crate) fn pays_in_f32(sizes: [usize; 3]) -> bool {
    const LEAST: usize = 64;
    sizes.iter().all(|size| *size >= LEAST) && Blocks::detected() == Blocks::Amx
}

/// Blocks of rows of a task: what they read of the left side stays in the second-level cache.
const ROWS: usize = 4;
/// The most blocks of columns of a task.
const COLUMNS: usize = 16;
/// Tasks that a product should have at least, for a few threads to share.
const TASKS: usize = 8;

/// `out (+)= alpha · lhs · rhs`, as [`multiply`](super::matrix::multiply), for sizes of which none is 0.
pub(super) fn multiply(
    product: Product,
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
    out: &mut [f32],
    row_stride: usize,
    into: Into<'_>,
) {
    let factors = if product.bf16 { Factors::Bf16 } else { Factors::F32 };
    let lhs = Tiles::new(lhs, factors, Side::Left, product.alpha, product.parallel);
    let rhs = Tiles::new(rhs, factors, Side::Right, 1.0, product.parallel);
    multiply_tiles(&lhs, &rhs, out, row_stride, into, product.parallel);
}

/// `out (+)= lhs · rhs`, of a left and a right side.
///
/// # Panics
///
/// When the sides are not equally deep, or `out` ends before the product does.
pub(crate) fn multiply_tiles(
    lhs: &Tiles,
    rhs: &Tiles,
    out: &mut [f32],
    row_stride: usize,
    into: Into<'_>,
    parallel: bool,
) {
    let shape = [lhs.lines(), rhs.lines()];
    assert_eq!((lhs.depth(), lhs.factors()), (rhs.depth(), rhs.factors()), "matrix product: inner sizes");
    if shape.contains(&0) {
        return;
    }
    if lhs.depth() == 0 {
        return into.nothing(out, shape, row_stride);
    }
    assert!(row_stride >= shape[1] && (shape[0] - 1) * row_stride + shape[1] <= out.len(), "matrix product: out");
    let blocks = Blocks::detected();
    let out = Output { data: out.as_mut_ptr(), shape, row_stride, into };
    let [rows, columns] = shape.map(|lines| lines.div_ceil(BLOCK));
    if !parallel {
        return out.fill(blocks, lhs, rhs, [0, 0], [rows, columns]);
    }
    let width = (columns * rows.div_ceil(ROWS) / TASKS).clamp(1, COLUMNS);
    let tasks = (0..columns).step_by(width).flat_map(|column| (0..rows).step_by(ROWS).map(move |row| [row, column]));
    each(tasks, |[row, column]| {
        out.fill(blocks, lhs, rhs, [row, column], [min(row + ROWS, rows), min(column + width, columns)]);
    });
}

/// Where a product goes.
struct Output<'a> {
    data: *mut f32,
    shape: [usize; 2],
    row_stride: usize,
    into: Into<'a>,
}

// SAFETY: threads write disjoint blocks of the memory, which `multiply_tiles` borrows exclusively for as long as this lives.
#[allow(unsafe_code)]
unsafe impl Sync for Output<'_> {}

impl Output<'_> {
    /// Computes the blocks from `first` to before `end`, both `[row, column]`.
    fn fill(&self, blocks: Blocks, lhs: &Tiles, rhs: &Tiles, first: [usize; 2], end: [usize; 2]) {
        let _state = blocks.begin();
        for column in first[1]..end[1] {
            for row in first[0]..end[0] {
                self.block(blocks, lhs.factors(), [lhs.panel(row), rhs.panel(column)], [row * BLOCK, column * BLOCK]);
            }
        }
    }

    #[allow(unsafe_code)]
    fn block(&self, blocks: Blocks, factors: Factors, [lhs, rhs]: [&[Tile]; 2], [row, column]: [usize; 2]) {
        let (rows, columns) = (min(BLOCK, self.shape[0] - row), min(BLOCK, self.shape[1] - column));
        // SAFETY: row and column are less than the shape, whose last element `multiply_tiles` has found in the slice.
        let target = unsafe { self.data.add(row * self.row_stride + column) };
        if [rows, columns] == [BLOCK; 2] {
            let start = match self.into {
                Into::Overwrite => Start::ZERO,
                Into::Add => Start { data: target, row_stride: self.row_stride },
                Into::Bias(bias) => Start { data: bias[column..][..BLOCK].as_ptr(), row_stride: 0 },
            };
            // SAFETY: `start` and `target` have as many rows and columns as a block, and no other thread touches this one.
            return unsafe { blocks.multiply(factors, lhs, rhs, start, target, self.row_stride) };
        }
        let mut whole = [0.0; BLOCK * BLOCK];
        for (i, line) in whole.chunks_exact_mut(BLOCK).enumerate().take(rows) {
            match self.into {
                Into::Overwrite => {}
                // SAFETY: as above, for a part of a block.
                Into::Add => line[..columns]
                    .copy_from_slice(unsafe { std::slice::from_raw_parts(target.add(i * self.row_stride), columns) }),
                Into::Bias(bias) => line[..columns].copy_from_slice(&bias[column..][..columns]),
            }
        }
        let data = whole.as_mut_ptr();
        // SAFETY: a whole block on the stack, and then the part of it that belongs to the product.
        unsafe {
            blocks.multiply(factors, lhs, rhs, Start { data, row_stride: BLOCK }, data, BLOCK);
            for (i, line) in whole.chunks_exact(BLOCK).enumerate().take(rows) {
                std::slice::from_raw_parts_mut(target.add(i * self.row_stride), columns)
                    .copy_from_slice(&line[..columns]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::math::to_bf16;

    /// Small integers: exact in bfloat16, and their sums in `f32` whatever the order. Sizes around those of tiles and blocks, all
    /// four orders of memory, one with a gap between both rows and columns, and all kernels that this CPU has.
    #[test]
    fn the_product_of_small_integers_is_exact() {
        if !fornax_backend::multiplies_bf16() {
            return;
        }
        for [m, k, n] in
            [[1, 1, 1], [5, 7, 3], [16, 32, 16], [33, 65, 47], [64, 64, 32], [130, 31, 100], [200, 70, 300]]
        {
            let numbers =
                |len: usize, factor: usize| -> Vec<f32> { (0..len).map(|i| (i * factor % 23) as f32 - 11.0).collect() };
            let (lhs, rhs, bias) = (numbers(2 * m * k * 2, 7919), numbers(2 * k * n * 2, 104_729), numbers(n, 31));
            for left in [[k, 1], [1, m], [2 * k + 1, 2]] {
                for right in [[n, 1], [1, k], [2 * n + 1, 2]] {
                    let lhs_at = |i: usize, j: usize| lhs[i * left[0] + j * left[1]];
                    let rhs_at = |i: usize, j: usize| rhs[i * right[0] + j * right[1]];
                    let row_stride = n + 3;
                    for into in [Into::Overwrite, Into::Add, Into::Bias(&bias)] {
                        for (parallel, bf16) in [(false, true), (true, true), (false, false), (true, false)] {
                            if !bf16 && Blocks::detected() != Blocks::Amx {
                                continue;
                            }
                            let mut out = vec![2.0; m * row_stride];
                            let (a, b) =
                                (Matrix::with_strides(&lhs, [m, k], left), Matrix::with_strides(&rhs, [k, n], right));
                            multiply(Product { alpha: 2.0, bf16, parallel }, a, b, &mut out, row_stride, into);
                            for (index, found) in out.iter().enumerate() {
                                let (i, j) = (index / row_stride, index % row_stride);
                                let start = match into {
                                    _ if j >= n => 2.0,
                                    Into::Overwrite => 0.0,
                                    Into::Add => 2.0,
                                    Into::Bias(bias) => bias[j],
                                };
                                let sum =
                                    (0..if j < n { k } else { 0 }).map(|x| lhs_at(i, x) * rhs_at(x, j)).sum::<f32>();
                                assert_eq!(*found, 2.0f32.mul_add(sum, start), "{m} x {k} x {n} at {i}, {j}: {into:?}");
                            }
                        }
                    }
                }
            }
        }
    }

    /// Numbers of all 24 bits, over twelve orders of magnitude: the error of a sum is that of adding up in `f32`, far below the 2⁻⁹ of a
    /// rounded factor.
    #[test]
    fn f32_keeps_its_bits() {
        if Blocks::detected() != Blocks::Amx {
            return;
        }
        let [m, k, n] = [40, 500, 70];
        let numbers = |len: usize, seed: u32| -> Vec<f32> {
            let number = |i: usize| {
                let bits = (i as u32).wrapping_mul(2_654_435_761).wrapping_add(seed).wrapping_mul(2_246_822_519);
                let size = 10f32.powi((bits >> 28) as i32 % 13 - 6);
                (bits & 0xff_ffff) as f32 / 16_777_216.0 * size * if bits & 1 << 24 == 0 { 1.0 } else { -1.0 }
            };
            (0..len).map(number).collect()
        };
        let (lhs, rhs) = (numbers(m * k, 1), numbers(k * n, 2));
        let mut out = vec![f32::NAN; m * n];
        let product = Product { alpha: 1.0, bf16: false, parallel: true };
        multiply(product, Matrix::new(&lhs, [m, k]), Matrix::new(&rhs, [k, n]), &mut out, n, Into::Overwrite);
        for (index, found) in out.iter().enumerate() {
            let terms = (0..k).map(|x| f64::from(lhs[index / n * k + x]) * f64::from(rhs[x * n + index % n]));
            let (exact, sizes) = terms.fold((0.0, 0.0), |(sum, sizes), term| (sum + term, sizes + term.abs()));
            assert!((f64::from(*found) - exact).abs() <= 2f64.powi(-22) * sizes, "{found} at {index}, not {exact}");
        }
    }

    /// Each of the two sides is the one that is made alone.
    #[test]
    fn both_ways_give_what_each_gives() {
        if !fornax_backend::multiplies_bf16() {
            return;
        }
        for [rows, columns] in [[1, 1], [33, 70], [64, 32], [100, 15]] {
            let numbers: Vec<f32> = (0..rows * columns).map(|i| (i * 7919 % 251) as f32 / 3.0).collect();
            let matrix = Matrix::new(&numbers, [rows, columns]);
            for side in [Side::Left, Side::Right] {
                for factors in [Factors::Bf16, Factors::F32] {
                    let tiles = |matrix, side| Tiles::new(matrix, factors, side, 1.0, false).bits();
                    let (along, across) = Tiles::both_ways(matrix, factors, side);
                    assert_eq!(along.bits(), tiles(matrix, Side::Left));
                    let alone = if side == Side::Left { matrix.transposed() } else { matrix };
                    assert_eq!(across.bits(), tiles(alone, side), "{rows} x {columns}, {side:?}, {factors:?}");
                }
            }
        }
    }

    /// Kernels differ in the order of adding up alone, and numbers are rounded to the nearest, of two to the even one.
    #[test]
    fn every_kernel_rounds_alike() {
        if !fornax_backend::multiplies_bf16() {
            return;
        }
        let one = |x: f32, blocks: Blocks| {
            let (lhs, rhs) = ([x], [1.0]);
            let lhs = Tiles::new(Matrix::new(&lhs, [1, 1]), Factors::Bf16, Side::Left, 1.0, false);
            let rhs = Tiles::new(Matrix::new(&rhs, [1, 1]), Factors::Bf16, Side::Right, 1.0, false);
            let mut out = [f32::NAN];
            let output = Output { data: out.as_mut_ptr(), shape: [1, 1], row_stride: 1, into: Into::Overwrite };
            output.fill(blocks, &lhs, &rhs, [0, 0], [1, 1]);
            out[0]
        };
        for blocks in Blocks::all() {
            let step = 2f32.powi(-7);
            for (x, rounded) in [
                (1.0 + step, 1.0 + step),
                (1.0 + 0.5 * step, 1.0),
                (1.0 + 1.5 * step, 1.0 + 2.0 * step),
                (1.0 + 0.51 * step, 1.0 + step),
                (-3e38, -3.004_055_3e38),
                (f32::INFINITY, f32::INFINITY),
            ] {
                assert_eq!(one(x, blocks), rounded, "{x} by {blocks:?}");
                assert_eq!(to_bf16(x), rounded, "{x}");
            }
            assert!(one(f32::NAN, blocks).is_nan() && to_bf16(-f32::NAN).is_nan());
        }
    }
}
