//! One update of AdamW: a unit an element.

use burn::backend::TensorMetadata;
use burn_cubecl::{
    cubecl::{self, calculate_cube_count_elemwise, prelude::*},
    kernel::into_contiguous,
    tensor::CubeTensor,
};

use super::{UNITS, owned};
use crate::host::adamw::Factors;

/// Value, first and second moment after the update, in their own memory where nobody else has it. `scales`, `[2]`: of the
/// gradient, and of the rate; where that is zero, nothing changes.
pub(crate) fn step(
    state: [CubeTensor; 3],
    gradient: CubeTensor,
    scales: CubeTensor,
    factors: &Factors,
) -> [CubeTensor; 3] {
    let [value, first, second] = state.map(owned);
    let len = value.shape().num_elements();
    if len > 0 {
        let cube_dim = CubeDim::new_1d(UNITS as u32);
        kernel::launch(
            &value.client.clone(),
            calculate_cube_count_elemwise(&value.client, len, cube_dim),
            cube_dim,
            value.clone().into_buffer_arg(),
            first.clone().into_buffer_arg(),
            second.clone().into_buffer_arg(),
            into_contiguous(gradient).into_buffer_arg(),
            into_contiguous(scales).into_buffer_arg(),
            launched(factors),
            len,
        );
    }
    [value, first, second]
}

fn launched(factors: &Factors) -> RatesLaunch {
    let Factors { keep, add, decay, rate, eps } = *factors;
    RatesLaunch::new(keep[0], keep[1], add[0], add[1], decay, rate, eps)
}

/// [`Factors`] in a kernel.
#[derive(CubeType, CubeLaunch)]
struct Rates {
    keep_first: f32,
    keep_second: f32,
    add_first: f32,
    add_second: f32,
    decay: f32,
    rate: f32,
    eps: f32,
}

#[cube(launch)]
fn kernel(
    value: &mut [f32],
    first: &mut [f32],
    second: &mut [f32],
    gradient: &[f32],
    scales: &[f32],
    rates: &Rates,
    len: usize,
) {
    let (at, share) = (ABSOLUTE_POS, scales[1]);
    // A skipped update may have gradients that are no numbers.
    if at < len && share != 0.0f32 {
        let slope = gradient[at] * scales[0];
        let mean = rates.keep_first * first[at] + rates.add_first * slope;
        let square = rates.keep_second * second[at] + rates.add_second * slope * slope;
        first[at] = mean;
        second[at] = square;
        value[at] = rates.decay * value[at] - rates.rate * share * (mean / (square.sqrt() + rates.eps));
    }
}

#[cfg(test)]
mod tests {
    use burn::backend::DispatchDevice;
    use burn_cubecl::ops::numeric::full_client;

    use super::*;

    /// Parameter and moments stay where they are, so that a step needs no memory; what somebody else has too is left alone.
    #[test]
    fn tensors_of_nobody_else_are_moved_in_place() {
        let device = fornax_backend::test_device();
        let DispatchDevice::Cube(device) = device.as_dispatch() else { return };
        let full = |value: f32| full_client(device.client(), [300].into(), device.clone(), value);
        let numbers =
            |tensor: &CubeTensor| f32::from_bytes(&device.client().read_one_unchecked(tensor.handle.clone())).to_vec();
        let factors = Factors { keep: [0.5, 0.75], add: [0.5, 0.25], decay: 0.5, rate: 0.25, eps: 1.0 };
        let state = [full(4.0), full(1.0), full(4.0)];
        let memory = state.each_ref().map(|tensor| format!("{:?}", tensor.handle.memory));
        let shared = state[0].clone();
        let moved = step(state, full(8.0), full(0.5), &factors);
        let after = moved.each_ref().map(|tensor| format!("{:?}", tensor.handle.memory));
        assert_eq!(after[1..], memory[1..]);
        assert_ne!(after[0], memory[0]);
        assert_eq!(numbers(&shared), [4.0; 300]);
        // 0.5 · 1 + 0.5 · 4, 0.75 · 4 + 0.25 · 16, and 0.5 · 4 - 0.25 · 0.5 · 2.5 / (√7 + 1).
        assert_eq!(numbers(&moved[1]), [2.5; 300]);
        assert_eq!(numbers(&moved[2]), [7.0; 300]);
        let expected = 2.0 - 0.3125 / (7f32.sqrt() + 1.0);
        assert!(numbers(&moved[0]).iter().all(|value| (value - expected).abs() < 1e-6));
    }
}
