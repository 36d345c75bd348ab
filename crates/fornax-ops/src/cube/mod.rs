//! Kernels for the devices that CubeCL compiles for (Vulkan, Metal, WebGPU and others), in `f32`; attention reads 16 bits, too.
//!
//! A cube is a workgroup, its units are threads. Sums are added up in an order that shapes and device alone fix, without atomics,
//! so that results are the same in each run. Nothing needs planes (subgroups, warps), but folds over a row use them.

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
    cubecl::{self, calculate_cube_count_elemwise, ir::features::Plane, prelude::*},
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
    // A copy may have gaps between its rows.
    if tensor.can_mut() { tensor } else { into_contiguous(tensor.copy()) }
}

/// At least `count` cubes, over as many axes as the device's limits ask for; `CUBE_POS` counts through all of them.
fn cubes(client: &Client, count: usize) -> CubeCount {
    calculate_cube_count_elemwise(client, count, CubeDim::new_1d(1))
}

/// Whether a device adds up the numbers of the units of a plane (subgroup, warp) by itself, and all its planes are of one size, which
/// [`fold_planes`] counts on.
fn has_planes(client: &Client) -> bool {
    // Drivers on CPUs have planes, which CubeCL doesn't trust for speed.
    if cfg!(test) && std::env::var_os("FORNAX_ALLOW_SOFTWARE_GPU").is_some() {
        return true;
    }
    let properties = client.properties();
    let hardware = &properties.hardware;
    properties.features.plane.contains(Plane::Ops) && hardware.plane_size_min == hardware.plane_size_max
}

/// The sum of `value` over all units of a cube, which each of them gets. `scratch` has a place for each unit; `planes` as
/// [`has_planes`] says.
#[cube]
fn cube_sum(value: f32, scratch: &mut Shared<[f32]>, #[comptime] planes: bool) -> f32 {
    if planes { fold_planes(value, scratch, false) } else { fold(value, scratch, false) }
}

/// The largest `value`, likewise.
#[cube]
fn cube_max(value: f32, scratch: &mut Shared<[f32]>, #[comptime] planes: bool) -> f32 {
    if planes { fold_planes(value, scratch, true) } else { fold(value, scratch, true) }
}

/// By halves, with a barrier for each.
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

/// Two barriers: each plane leaves a number, and each unit goes through those of all planes.
#[cube]
fn fold_planes(value: f32, scratch: &mut Shared<[f32]>, #[comptime] largest: bool) -> f32 {
    // As in `fold`; and units of a plane that left a loop one after another are together again.
    sync_cube();
    let own = if largest { plane_max(value) } else { plane_sum(value) };
    if UNIT_POS_PLANE == 0 {
        scratch[PLANE_POS as usize] = own;
    }
    sync_cube();
    let mut result = scratch[0];
    for plane in 1..CUBE_DIM.div_ceil(PLANE_DIM) as usize {
        result = if largest { max(result, scratch[plane]) } else { result + scratch[plane] };
    }
    result
}

#[cfg(test)]
mod tests {
    use burn::{backend::DispatchDevice, tensor::DType};

    use super::*;

    /// Two folds of each kind one after another, so that they share the memory.
    #[cube(launch)]
    fn folds_kernel(x: &[f32], out: &mut [f32], #[comptime] planes: bool) {
        let unit = UNIT_POS as usize;
        let mut scratch = Shared::<[f32]>::new_slice(UNITS);
        let own = x[unit];
        let top = cube_max(own, &mut scratch, planes);
        let sum = cube_sum(own, &mut scratch, planes);
        let lowest = -cube_max(-own, &mut scratch, planes);
        let moved = cube_sum(own + top, &mut scratch, planes);
        out[4 * unit] = top;
        out[4 * unit + 1] = sum;
        out[4 * unit + 2] = lowest;
        out[4 * unit + 3] = moved;
    }

    /// Of small integers, so that no order of adding up rounds.
    #[test]
    fn units_fold_alone_and_by_planes() {
        let device = fornax_backend::test_device();
        let DispatchDevice::Cube(device) = device.as_dispatch() else { return };
        let client = device.client();
        let planes = has_planes(&client);
        let numbers: Vec<f32> = (0..UNITS).map(|i| (i * 37 % 101) as f32 - 60.0).collect();
        let top = numbers.iter().copied().fold(f32::MIN, f32::max);
        let lowest = numbers.iter().copied().fold(f32::MAX, f32::min);
        let sum: f32 = numbers.iter().sum();
        let expected = [top, sum, lowest, sum + UNITS as f32 * top].repeat(UNITS);
        for planes in [false, true].into_iter().take(if planes { 2 } else { 1 }) {
            let tensor = |handle, len: usize| {
                CubeTensor::new_contiguous(client.clone(), device.clone(), [len].into(), handle, DType::F32)
            };
            let out = client.empty(size_of_val(expected.as_slice()));
            folds_kernel::launch(
                &client,
                CubeCount::Static(1, 1, 1),
                CubeDim::new_1d(UNITS as u32),
                tensor(client.create_from_slice(f32::as_bytes(&numbers)), UNITS).into_buffer_arg(),
                tensor(out.clone(), expected.len()).into_buffer_arg(),
                planes,
            );
            assert_eq!(f32::from_bytes(&client.read_one_unchecked(out)), expected, "planes: {planes}");
        }
    }
}
