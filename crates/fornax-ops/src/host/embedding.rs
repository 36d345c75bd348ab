//! Rows of a table.

use super::{PIECE, each};

/// Columns of a piece of the gradient.
const COLUMNS: usize = 64;
/// Rows of a piece of the output.
const ROWS: usize = 64;

/// `out[i] = table[ids[i]]`.
///
/// # Panics
///
/// When an id is out of range.
pub(crate) fn forward(table: &[f32], size: usize, ids: &[usize], out: &mut [f32]) {
    let run = |(ids, out): (&[usize], &mut [f32])| {
        for (id, out) in ids.iter().zip(out.chunks_exact_mut(size)) {
            out.copy_from_slice(&table[id * size..][..size]);
        }
    };
    each(ids.chunks(ROWS).zip(out.chunks_mut(ROWS * size)), run);
}

/// `table_gradient[ids[i]] += gradient[i]`, in the order of `i`: each task has columns of its own.
pub(crate) fn backward(gradient: &[f32], size: usize, ids: &[usize], table_gradient: &mut [f32]) {
    each(table_gradient.chunks_mut(PIECE), |piece| piece.fill(0.0));
    // Each row of the table in pieces of columns, so that a task owns the same columns of all rows.
    let mut columns: Vec<Vec<&mut [f32]>> = (0..size.div_ceil(COLUMNS)).map(|_| Vec::new()).collect();
    for row in table_gradient.chunks_exact_mut(size) {
        for (piece, columns) in row.chunks_mut(COLUMNS).zip(&mut columns) {
            columns.push(piece);
        }
    }
    each(columns.into_iter().enumerate(), |(piece, mut rows)| {
        for (id, gradient) in ids.iter().zip(gradient.chunks_exact(size)) {
            let row = &mut rows[*id];
            let start = piece * COLUMNS;
            super::norm::add(row, &gradient[start..start + row.len()]);
        }
    });
}
