//! Products of matrices: in bfloat16 and, where that is faster, in `f32` by [`tiled`](super::tiled), otherwise by the crate `gemm`.

use gemm::Parallelism;

use super::{
    PIECE, collect, each,
    math::{sum, to_bf16},
    vectorised,
};

/// Below so many multiplications a product is not worth more than one thread.
const PARALLEL: usize = 1 << 20;
/// Up to so many rows a product is a pass over the other matrix, and its speed that of memory.
const FEW: usize = 4;
/// Numbers of the other matrix that a piece of such a product reads.
const FEW_PIECE: usize = 128 * 1024;
/// Columns that a piece has at most, of which each row reads 8 KiB in a line, so that the sums of all pieces are few beside the matrix.
const FEW_COLUMNS: usize = 2048;

/// A matrix in a slice: element `(row, column)` stands at `row · row_stride + column · column_stride`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Rows one after another, `row_stride` elements apart.
    ///
    /// # Panics
    ///
    /// When `data` ends before the matrix does.
    pub(crate) fn strided(data: &'a [f32], [rows, columns]: [usize; 2], row_stride: usize) -> Self {
        Self::with_strides(data, [rows, columns], [row_stride, 1])
    }

    /// With any distance between rows and between columns.
    ///
    /// # Panics
    ///
    /// When `data` ends before the matrix does.
    pub(crate) fn with_strides(data: &'a [f32], [rows, columns]: [usize; 2], strides: [usize; 2]) -> Self {
        let [row_stride, column_stride] = strides;
        let last = rows.saturating_sub(1) * row_stride + columns.saturating_sub(1) * column_stride;
        assert!(rows == 0 || columns == 0 || last < data.len(), "matrix: out of its slice");
        Self { data, rows, columns, row_stride, column_stride }
    }

    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    /// The slice, `[rows, columns]`, and the strides of both.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn parts(&self) -> (&'a [f32], [usize; 2], [usize; 2]) {
        (self.data, [self.rows, self.columns], [self.row_stride, self.column_stride])
    }

    /// Rows one after another without a gap.
    pub(crate) fn new(data: &'a [f32], shape: [usize; 2]) -> Self {
        Self::strided(data, shape, shape[1])
    }

    pub(crate) fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

/// How a product is computed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Product {
    /// What the product is multiplied with.
    pub(crate) alpha: f32,
    /// Whether the factors are rounded to bfloat16. Only where [`multiplies_bf16`](fornax_backend::multiplies_bf16).
    pub(crate) bf16: bool,
    /// Whether it may take all threads.
    pub(crate) parallel: bool,
}

/// What a product does with the numbers that its output holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Into<'a> {
    /// They are overwritten, unread.
    Overwrite,
    /// The product is added to them.
    Add,
    /// They are overwritten by the product plus this row.
    Bias(&'a [f32]),
}

impl Into<'_> {
    /// What a product that sums over nothing leaves.
    pub(super) fn nothing(self, out: &mut [f32], [rows, columns]: [usize; 2], row_stride: usize) {
        for row in out.chunks_mut(row_stride).take(rows) {
            match self {
                Self::Overwrite => row[..columns].fill(0.0),
                Self::Bias(bias) => row[..columns].copy_from_slice(bias),
                Self::Add => {}
            }
        }
    }
}

/// `out (+)= alpha · lhs · rhs`, where the rows of `out` are `row_stride` elements apart.
///
/// # Panics
///
/// When the shapes don't fit or `out` ends before the product does.
pub(crate) fn multiply(
    product: Product,
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
    out: &mut [f32],
    row_stride: usize,
    into: Into<'_>,
) {
    let (m, n, k) = (lhs.rows, rhs.columns, lhs.columns);
    assert_eq!(k, rhs.rows, "matrix product: inner sizes");
    if m == 0 || n == 0 {
        return;
    }
    assert!(row_stride >= n && (m - 1) * row_stride + n <= out.len(), "matrix product: out of its slice");
    if let Into::Bias(bias) = into {
        assert_eq!(bias.len(), n, "matrix product: bias");
    }
    if k == 0 {
        return into.nothing(out, [m, n], row_stride);
    }
    let parallel = product.parallel && m.saturating_mul(n).saturating_mul(k) >= PARALLEL;
    if m <= FEW && product.parallel && product.alpha == 1.0 {
        let done = match product.bf16 {
            true => multiply_few::<true>(lhs, rhs, out, row_stride, into),
            false => multiply_few::<false>(lhs, rhs, out, row_stride, into),
        };
        if done {
            return;
        }
    }
    #[cfg(target_arch = "x86_64")]
    if product.bf16 || parallel && super::tiled::pays_in_f32([m, k, n]) {
        return super::tiled::multiply(Product { parallel, ..product }, lhs, rhs, out, row_stride, into);
    }
    if let Into::Bias(bias) = into {
        let rows = (PIECE / n).max(1) * row_stride;
        each(out.chunks_mut(rows).take(m.div_ceil(rows / row_stride)), |rows| {
            rows.chunks_mut(row_stride).for_each(|row| row[..n].copy_from_slice(bias));
        });
    }
    let parallelism = if parallel { Parallelism::Rayon(0) } else { Parallelism::None };
    // SAFETY: the constructors of `Matrix` and the line above have checked that the last element of each matrix lies in its
    // slice; sizes of slices fit `isize`. `out` is borrowed exclusively, so it overlaps with nothing.
    #[allow(unsafe_code)]
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            row_stride as isize,
            into != Into::Overwrite,
            lhs.data.as_ptr(),
            lhs.column_stride as isize,
            lhs.row_stride as isize,
            rhs.data.as_ptr(),
            rhs.column_stride as isize,
            rhs.row_stride as isize,
            1.0f32,
            product.alpha,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// The product of a few rows, where one axis of `rhs` stands side by side: each number of `rhs` is read once, in the order of memory, on
/// all threads, and rounded to bfloat16 or not.
fn multiply_few<const BF16: bool>(
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
    out: &mut [f32],
    row_stride: usize,
    into: Into<'_>,
) -> bool {
    if lhs.column_stride != 1 || (rhs.column_stride != 1 && rhs.row_stride != 1) {
        return false;
    }
    let n = rhs.columns;
    let mut rows: Vec<&mut [f32]> = out.chunks_mut(row_stride.max(1)).take(lhs.rows).map(|row| &mut row[..n]).collect();
    match into {
        Into::Overwrite => rows.iter_mut().for_each(|row| row.fill(0.0)),
        Into::Bias(bias) => rows.iter_mut().for_each(|row| row.copy_from_slice(bias)),
        Into::Add => {}
    }
    if rhs.column_stride == 1 {
        sum_rows_of::<BF16>(lhs, rhs, &mut rows);
    } else {
        dot_columns_of::<BF16>(lhs, rhs, &mut rows);
    }
    true
}

/// A factor as it is, or the nearest bfloat16.
#[inline(always)]
fn factor<const BF16: bool>(x: f32) -> f32 {
    if BF16 { to_bf16(x) } else { x }
}

/// Adds the rows of `rhs`, each times a number of `lhs`: pieces of some columns of some rows, whose sums are added in their order.
fn sum_rows_of<const BF16: bool>(lhs: Matrix<'_>, rhs: Matrix<'_>, out: &mut [&mut [f32]]) {
    let (k, n) = (rhs.rows, rhs.columns);
    let width = n.min(FEW_COLUMNS);
    let depth = (FEW_PIECE / width).max(1);
    let firsts = || (0..n).step_by(width).flat_map(|column| (0..k).step_by(depth).map(move |row| [row, column]));
    let count = out.len();
    let pieces = collect(firsts(), |[first, column]| {
        let width = width.min(n - column);
        let mut sums = vec![0.0; count * width];
        vectorised(
            #[inline(always)]
            || {
                for at in first..(first + depth).min(k) {
                    let weights = &rhs.data[at * rhs.row_stride + column..][..width];
                    for (row, sums) in sums.chunks_exact_mut(width).enumerate() {
                        let x = factor::<BF16>(lhs.data[row * lhs.row_stride + at]);
                        for (sum, weight) in sums.iter_mut().zip(weights) {
                            *sum = x.mul_add(factor::<BF16>(*weight), *sum);
                        }
                    }
                }
            },
        );
        sums
    });
    for ([_, column], sums) in firsts().zip(pieces) {
        let width = sums.len() / count;
        for (out, sums) in out.iter_mut().zip(sums.chunks_exact(width)) {
            super::norm::add(&mut out[column..column + width], sums);
        }
    }
}

/// Adds the dot products of the rows of `lhs` and the columns of `rhs`, in pieces of columns.
fn dot_columns_of<const BF16: bool>(lhs: Matrix<'_>, rhs: Matrix<'_>, out: &mut [&mut [f32]]) {
    let k = rhs.rows;
    let columns = (FEW_PIECE / k.max(1)).max(1);
    let mut pieces: Vec<Vec<&mut [f32]>> = (0..rhs.columns.div_ceil(columns)).map(|_| Vec::new()).collect();
    for out in out.iter_mut() {
        out.chunks_mut(columns).zip(&mut pieces).for_each(|(part, piece)| piece.push(part));
    }
    each(pieces.into_iter().enumerate(), |(piece, mut outs)| {
        vectorised(
            #[inline(always)]
            || {
                for (row, out) in outs.iter_mut().enumerate() {
                    let x = &lhs.data[row * lhs.row_stride..][..k];
                    for (column, out) in out.iter_mut().enumerate() {
                        let weights = &rhs.data[(piece * columns + column) * rhs.column_stride..][..k];
                        *out += sum(k, |i| factor::<BF16>(x[i]) * factor::<BF16>(weights[i]));
                    }
                }
            },
        );
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shapes around the limits of the ways that a product may take, both axes of the second matrix side by side.
    #[test]
    fn all_ways_give_the_product() {
        for [m, k, n] in [
            [1, 1, 1],
            [1, 37, 300],
            [4, 70, 257],
            [5, 70, 257],
            [2, 3, 0],
            [120, 110, 90],
            [3, 700, 500],
            [2, 130, 4100],
        ] {
            let number = |i: usize| (i * 7919 % 23) as f32 - 11.0;
            let lhs: Vec<f32> = (0..m * k).map(number).collect();
            let rhs: Vec<f32> = (0..k * n).map(|i| number(i + 5)).collect();
            for turned in [false, true] {
                let at = |i: usize, j: usize| if turned { rhs[j * k + i] } else { rhs[i * n + j] };
                let matrix = match turned {
                    true => Matrix::new(&rhs, [n, k]).transposed(),
                    false => Matrix::new(&rhs, [k, n]),
                };
                let bias = vec![2.0; n];
                for bf16 in [false, true] {
                    if bf16 && !fornax_backend::multiplies_bf16() {
                        continue;
                    }
                    for (into, before) in [(Into::Overwrite, f32::NAN), (Into::Add, 2.0), (Into::Bias(&bias), f32::NAN)]
                    {
                        let mut out = vec![before; m * n];
                        let product = Product { alpha: 1.0, bf16, parallel: true };
                        multiply(product, Matrix::new(&lhs, [m, k]), matrix, &mut out, n, into);
                        for (index, found) in out.iter().enumerate() {
                            let (row, column) = (index / n, index % n);
                            let start = if into == Into::Overwrite { 0.0 } else { 2.0 };
                            // Small integers: exact in any order.
                            let wanted = start + (0..k).map(|i| lhs[row * k + i] * at(i, column)).sum::<f32>();
                            assert_eq!(*found, wanted, "{m} x {k} x {n}, {into:?}, turned: {turned}");
                        }
                    }
                }
            }
        }
    }
}
