//! The gradient of a table whose rows were picked by ids.

use burn::{
    backend::TensorMetadata,
    tensor::{DType, Shape},
};
use burn_cubecl::{
    cubecl::{self, calculate_cube_count_elemwise, prelude::*},
    kernel::into_contiguous,
    ops::numeric::{empty_device_contiguous_dtype, zeros_client},
    tensor::CubeTensor,
};

use super::{UNITS, cubes};

/// The gradient of `rows` rows, `[rows, size]`, from that of the picked ones, `[tokens, size]`, of which `ids`, `[tokens]` in `i32`,
/// says the row. Rows of the same id are added up in the order of the tokens.
///
/// Burn's is deterministic too, but there a unit goes through all tokens, for one column each: as many units as a row has numbers. Here
/// there are as many for each id that is there; where that is one id, or two, it is no faster.
pub(crate) fn backward(gradient: CubeTensor, ids: CubeTensor, rows: usize) -> CubeTensor {
    let [gradient, ids] = [gradient, ids].map(into_contiguous);
    let [tokens, size] = gradient.shape().dims();
    let (client, device) = (gradient.client.clone(), gradient.device.clone());
    // A matrix of zeros might have gaps between its rows; a vector has none.
    let zeros = zeros_client(client.clone(), device.clone(), Shape::new([rows * size]), DType::F32);
    let out = CubeTensor::new_contiguous(client.clone(), device.clone(), [rows, size].into(), zeros.handle, DType::F32);
    if tokens * size * rows > 0 {
        let links = empty_device_contiguous_dtype(client.clone(), device, Shape::new([tokens, 2]), DType::I32);
        let cube_dim = CubeDim::new_1d(UNITS as u32);
        links_kernel::launch(
            &client,
            calculate_cube_count_elemwise(&client, tokens, cube_dim),
            cube_dim,
            ids.clone().into_buffer_arg(),
            links.clone().into_buffer_arg(),
            tokens,
        );
        sum_kernel::launch(
            &client,
            cubes(&client, tokens * size.div_ceil(UNITS)),
            cube_dim,
            gradient.into_buffer_arg(),
            ids.into_buffer_arg(),
            links.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            tokens,
            size,
        );
    }
    out
}

/// For each token, whether it is the first with its id, and which is the next one with it, else `tokens`: `[tokens, 2]`, a unit a
/// token. The steps of all units are at most the square of the tokens, of four bytes that lie in the cache.
#[cube(launch)]
fn links_kernel(ids: &[i32], links: &mut [i32], tokens: usize) {
    let token = ABSOLUTE_POS;
    if token < tokens {
        let id = ids[token];
        let mut before = token;
        while before > 0 && ids[before - 1] != id {
            before -= 1;
        }
        let mut next = token + 1;
        while next < tokens && ids[next] != id {
            next += 1;
        }
        links[2 * token] = select(before == 0, 1i32, 0i32);
        links[2 * token + 1] = next as i32;
    }
}

/// A cube some columns of a token; that of the first one with an id goes from each to the next.
#[cube(launch)]
fn sum_kernel(gradient: &[f32], ids: &[i32], links: &[i32], out: &mut [f32], tokens: usize, size: usize) {
    let blocks = size.div_ceil(UNITS);
    let (first, column) = (CUBE_POS / blocks, CUBE_POS % blocks * UNITS + UNIT_POS as usize);
    if first < tokens && column < size {
        if links[2 * first] == 1 {
            let mut sum = 0.0f32;
            let mut token = first;
            while token < tokens {
                sum += gradient[token * size + column];
                token = links[2 * token + 1] as usize;
            }
            out[ids[first] as usize * size + column] = sum;
        }
    }
}
