//! Multiplication with noise: a unit a block of the generator, which is four elements.

use burn::backend::TensorMetadata;
use burn_cubecl::{
    cubecl::{self, calculate_cube_count_elemwise, prelude::*},
    kernel::into_contiguous,
    tensor::CubeTensor,
};

use super::{
    UNITS, create,
    philox::{Factors, factor, factors, position, words},
};
use crate::{
    host::elementwise::Noise,
    philox::{GROUP, LANES},
};

/// `x` times the factor of each position.
pub(crate) fn apply(x: CubeTensor, noise: &Noise) -> CubeTensor {
    let x = into_contiguous(x);
    let (out, len) = (create(&x, x.shape()), x.shape().num_elements());
    if len > 0 {
        let cube_dim = CubeDim::new_1d(UNITS as u32);
        kernel::launch(
            &x.client.clone(),
            calculate_cube_count_elemwise(&x.client, len.div_ceil(GROUP) * (GROUP / 4), cube_dim),
            cube_dim,
            x.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            factors(noise),
            len,
        );
    }
    out
}

#[cube(launch)]
fn kernel(x: &[f32], out: &mut [f32], factors: &Factors, len: usize) {
    let first = position(ABSOLUTE_POS);
    if first < len {
        let (a, b, c, d) = words(ABSOLUTE_POS as u32, 0u32.runtime(), factors);
        scale(x, out, first, len, factor(a, factors));
        scale(x, out, first + LANES, len, factor(b, factors));
        scale(x, out, first + 2 * LANES, len, factor(c, factors));
        scale(x, out, first + 3 * LANES, len, factor(d, factors));
    }
}

#[cube]
fn scale(x: &[f32], out: &mut [f32], at: usize, len: usize, factor: f32) {
    if at < len {
        out[at] = x[at] * factor;
    }
}
