//! Kernels for the devices that CubeCL compiles for (Vulkan, Metal, WebGPU and others), in `f32`.
//!
//! A cube is a workgroup, its units are threads. Sums are added up in an order that the shapes alone fix, without atomics, so
//! that results are the same in each run. Nothing needs subgroups.

// Each buffer and size of a kernel is an argument of its own.
#![allow(clippy::too_many_arguments)]
// What the compiler of kernels decides itself is marked on a statement of its own, which pattern and condition can't share.
#![allow(clippy::collapsible_if, clippy::let_and_return)]

pub(crate) mod adamw;
pub(crate) mod attention;
pub(crate) mod cross_entropy;
pub(crate) mod dropout;
pub(crate) mod embedding;
pub(crate) mod norm;
mod philox;

use burn::tensor::{DType, Shape};
use burn_cubecl::{
    cubecl::{self, calculate_cube_count_elemwise, prelude::*},
    kernel::into_contiguous,
    ops::numeric::empty_device_contiguous_dtype,
    tensor::CubeTensor,
};

/// Units of a cube that works on a row; a power of two, which [`fold`] needs, that every device has.
const UNITS: usize = 128;

/// A tensor beside `like`, of which a kernel will write every number.
fn create(like: &CubeTensor, shape: impl Into<Shape>) -> CubeTensor {
    empty_device_contiguous_dtype(like.client.clone(), like.device.clone(), shape.into(), DType::F32)
}

/// A contiguous tensor that a kernel may write to: the same one if nobody else has it, or a copy.
fn owned(tensor: CubeTensor) -> CubeTensor {
    let tensor = into_contiguous(tensor);
    if tensor.can_mut() { tensor } else { tensor.copy() }
}

/// At least `count` cubes, over as many axes as the device's limits ask for; `CUBE_POS` counts through all of them.
fn cubes(client: &Client, count: usize) -> CubeCount {
    calculate_cube_count_elemwise(client, count, CubeDim::new_1d(1))
}

/// The sum of `value` over all units of a cube, which each of them gets. `scratch` has a place for each unit.
#[cube]
fn cube_sum(value: f32, scratch: &mut Shared<[f32]>) -> f32 {
    fold(value, scratch, false)
}

/// The largest `value`, likewise.
#[cube]
fn cube_max(value: f32, scratch: &mut Shared<[f32]>) -> f32 {
    fold(value, scratch, true)
}

#[cube]
fn fold(value: f32, scratch: &mut Shared<[f32]>, #[comptime] largest: bool) -> f32 {
    let unit = UNIT_POS as usize;
    // All units have read the result of the one before.
    sync_cube();
    scratch[unit] = value;
    let mut width = CUBE_DIM as usize / 2;
    while width > 0 {
        sync_cube();
        if unit < width {
            let (own, other) = (scratch[unit], scratch[unit + width]);
            scratch[unit] = if largest { max(own, other) } else { own + other };
        }
        width /= 2;
    }
    sync_cube();
    scratch[0]
}
