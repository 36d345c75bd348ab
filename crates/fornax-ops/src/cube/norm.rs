//! Layer and root-mean-square normalisation of rows: a cube a row.

use burn::backend::TensorMetadata;
use burn_cubecl::{
    cubecl::{self, prelude::*},
    kernel::into_contiguous,
    tensor::CubeTensor,
};

use super::{UNITS, create, cube_sum, cubes, has_planes};
use crate::host::norm::Centre;

/// Rows whose shares of the gradients of gamma and beta one unit adds up.
const ROWS: usize = 64;

/// `(x - mean) · inverse deviation · gamma + beta` of each row, and mean (0 if not centred) and inverse deviation of each,
/// `[rows, 2]`.
pub(crate) fn forward(
    x: CubeTensor,
    gamma: CubeTensor,
    beta: Option<CubeTensor>,
    centre: Centre,
    eps: f32,
) -> (CubeTensor, CubeTensor) {
    let (x, gamma, beta) = (into_contiguous(x), into_contiguous(gamma), beta.map(into_contiguous));
    let [rows, size] = sizes(&x, &gamma);
    let (out, statistics) = (create(&x, x.shape()), create(&x, [rows, 2]));
    let planes = has_planes(&x.client);
    if rows * size > 0 {
        forward_kernel::launch(
            &x.client.clone(),
            cubes(&x.client, rows),
            CubeDim::new_1d(UNITS as u32),
            x.into_buffer_arg(),
            gamma.into_buffer_arg(),
            beta.map(CubeTensor::into_buffer_arg).into(),
            out.clone().into_buffer_arg(),
            statistics.clone().into_buffer_arg(),
            rows,
            size,
            eps,
            centre == Centre::Mean,
            planes,
        );
    }
    (out, statistics)
}

/// The gradient of `x` from that of the output.
pub(crate) fn backward(
    x: CubeTensor,
    gamma: CubeTensor,
    statistics: CubeTensor,
    gradient: CubeTensor,
    centre: Centre,
) -> CubeTensor {
    let [x, gamma, statistics, gradient] = [x, gamma, statistics, gradient].map(into_contiguous);
    let [rows, size] = sizes(&x, &gamma);
    let (out, planes) = (create(&x, x.shape()), has_planes(&x.client));
    if rows * size > 0 {
        backward_kernel::launch(
            &x.client.clone(),
            cubes(&x.client, rows),
            CubeDim::new_1d(UNITS as u32),
            x.into_buffer_arg(),
            gamma.into_buffer_arg(),
            statistics.into_buffer_arg(),
            gradient.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            rows,
            size,
            centre == Centre::Mean,
            planes,
        );
    }
    out
}

/// The gradients of gamma and beta: first the shares of some rows each, then their sum.
pub(crate) fn parameters_backward(
    x: CubeTensor,
    gamma: CubeTensor,
    statistics: CubeTensor,
    gradient: CubeTensor,
) -> (CubeTensor, CubeTensor) {
    let [x, statistics, gradient] = [x, statistics, gradient].map(into_contiguous);
    let [rows, size] = sizes(&x, &gamma);
    let pieces = rows.div_ceil(ROWS);
    let client = x.client.clone();
    // A buffer without elements can't be bound.
    let shares = create(&x, [pieces.max(1), 2, size]);
    let (of_gamma, of_beta) = (create(&x, [size]), create(&x, [size]));
    if size > 0 {
        let columns = size.div_ceil(UNITS);
        if pieces > 0 {
            shares_kernel::launch(
                &client,
                cubes(&client, columns * pieces),
                CubeDim::new_1d(UNITS as u32),
                x.into_buffer_arg(),
                statistics.into_buffer_arg(),
                gradient.into_buffer_arg(),
                shares.clone().into_buffer_arg(),
                rows,
                size,
            );
        }
        sum_kernel::launch(
            &client,
            cubes(&client, columns),
            CubeDim::new_1d(UNITS as u32),
            shares.into_buffer_arg(),
            of_gamma.clone().into_buffer_arg(),
            of_beta.clone().into_buffer_arg(),
            pieces,
            size,
        );
    }
    (of_gamma, of_beta)
}

/// Number and size of the rows.
fn sizes(x: &CubeTensor, gamma: &CubeTensor) -> [usize; 2] {
    let size = gamma.shape().num_elements();
    [x.shape().num_elements() / size.max(1), size]
}

#[cube(launch)]
fn forward_kernel(
    x: &[f32],
    gamma: &[f32],
    beta: ComptimeOption<&[f32]>,
    out: &mut [f32],
    statistics: &mut [f32],
    rows: usize,
    size: usize,
    eps: f32,
    #[comptime] centred: bool,
    #[comptime] planes: bool,
) {
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let (unit, units) = (UNIT_POS as usize, CUBE_DIM as usize);
    let (start, share) = (row * size, 1.0f32 / f32::cast_from(size));
    let mut scratch = Shared::<[f32]>::new_slice(UNITS);

    let mut mean = 0.0f32;
    if centred {
        let mut sum = 0.0f32;
        for column in range_stepped(unit, size, units) {
            sum += x[start + column];
        }
        mean = cube_sum(sum, &mut scratch, planes) * share;
    }
    let mut squares = 0.0f32;
    for column in range_stepped(unit, size, units) {
        let distance = x[start + column] - mean;
        squares += distance * distance;
    }
    let variance = cube_sum(squares, &mut scratch, planes) * share;
    let inverse = 1.0f32 / (variance + eps).sqrt();

    for column in range_stepped(unit, size, units) {
        let scaled = (x[start + column] - mean) * inverse * gamma[column];
        #[comptime]
        let shifted = match &beta {
            ComptimeOption::Some(beta) => scaled + beta[column],
            ComptimeOption::None => scaled,
        };
        out[start + column] = shifted;
    }
    if unit == 0 {
        statistics[2 * row] = mean;
        statistics[2 * row + 1] = inverse;
    }
}

/// With `h = gradient · gamma` and `y` the scaled row: `(h - mean(h) - y mean(h y)) · inverse deviation`, without the first
/// mean where nothing is centred.
#[cube(launch)]
fn backward_kernel(
    x: &[f32],
    gamma: &[f32],
    statistics: &[f32],
    gradient: &[f32],
    out: &mut [f32],
    rows: usize,
    size: usize,
    #[comptime] centred: bool,
    #[comptime] planes: bool,
) {
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let (unit, units) = (UNIT_POS as usize, CUBE_DIM as usize);
    let (start, share) = (row * size, 1.0f32 / f32::cast_from(size));
    let (mean, inverse) = (statistics[2 * row], statistics[2 * row + 1]);
    let mut scratch = Shared::<[f32]>::new_slice(UNITS);

    let mut sum = 0.0f32;
    let mut products = 0.0f32;
    for column in range_stepped(unit, size, units) {
        let slope = gradient[start + column] * gamma[column];
        sum += slope;
        products += slope * (x[start + column] - mean) * inverse;
    }
    let mut first = 0.0f32;
    if centred {
        first = cube_sum(sum, &mut scratch, planes) * share;
    }
    let second = cube_sum(products, &mut scratch, planes) * share;
    for column in range_stepped(unit, size, units) {
        let scaled = (x[start + column] - mean) * inverse;
        out[start + column] = (gradient[start + column] * gamma[column] - first - scaled * second) * inverse;
    }
}

/// The gradients of gamma and beta from [`ROWS`] rows, `[pieces, 2, size]`: a unit a column, a cube some columns of a piece.
#[cube(launch)]
fn shares_kernel(x: &[f32], statistics: &[f32], gradient: &[f32], shares: &mut [f32], rows: usize, size: usize) {
    let columns = size.div_ceil(UNITS);
    let (piece, column) = (CUBE_POS / columns, CUBE_POS % columns * UNITS + UNIT_POS as usize);
    let first = piece * ROWS;
    if first < rows && column < size {
        let mut of_gamma = 0.0f32;
        let mut of_beta = 0.0f32;
        for row in first..min(first + ROWS, rows) {
            let slope = gradient[row * size + column];
            of_gamma += slope * (x[row * size + column] - statistics[2 * row]) * statistics[2 * row + 1];
            of_beta += slope;
        }
        shares[2 * piece * size + column] = of_gamma;
        shares[(2 * piece + 1) * size + column] = of_beta;
    }
}

/// The sums of all pieces, in their order.
#[cube(launch)]
fn sum_kernel(shares: &[f32], gamma: &mut [f32], beta: &mut [f32], pieces: usize, size: usize) {
    let column = CUBE_POS * UNITS + UNIT_POS as usize;
    if column < size {
        let mut of_gamma = 0.0f32;
        let mut of_beta = 0.0f32;
        for piece in 0..pieces {
            of_gamma += shares[2 * piece * size + column];
            of_beta += shares[(2 * piece + 1) * size + column];
        }
        gamma[column] = of_gamma;
        beta[column] = of_beta;
    }
}
