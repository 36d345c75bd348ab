//! Products of matrices, by the crate `gemm`.

use gemm::Parallelism;

/// Below so many multiplications a product is not worth more than one thread.
const PARALLEL: usize = 1 << 20;

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

/// What a product does with the numbers that its output holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Into {
    /// They are overwritten, unread.
    Overwrite,
    /// The product is added to them.
    Add,
}

/// `out (+)= alpha · lhs · rhs`, where the rows of `out` are `row_stride` elements apart. `threads`: 1, or 0 for all.
///
/// # Panics
///
/// When the shapes don't fit or `out` ends before the product does.
pub(crate) fn multiply(
    alpha: f32,
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
    out: &mut [f32],
    row_stride: usize,
    into: Into,
    threads: usize,
) {
    let (m, n, k) = (lhs.rows, rhs.columns, lhs.columns);
    assert_eq!(k, rhs.rows, "matrix product: inner sizes");
    if m == 0 || n == 0 {
        return;
    }
    assert!((m - 1) * row_stride + n <= out.len(), "matrix product: out of its slice");
    let parallelism = match threads {
        0 if m.saturating_mul(n).saturating_mul(k) >= PARALLEL => Parallelism::Rayon(0),
        _ => Parallelism::None,
    };
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
            into == Into::Add,
            lhs.data.as_ptr(),
            lhs.column_stride as isize,
            lhs.row_stride as isize,
            rhs.data.as_ptr(),
            rhs.column_stride as isize,
            rhs.row_stride as isize,
            1.0f32,
            alpha,
            false,
            false,
            false,
            parallelism,
        );
    }
}
