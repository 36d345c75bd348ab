use burn::{
    backend::Dispatch,
    tensor::{Tensor, activation},
};

use crate::{
    fused::{Curve, HostFused, is_on_host},
    gelu::{gelu_reference, gelu_tanh_reference, silu_reference},
};

/// `silu(gate) · up`, the gated linear unit of Swish (Shazeer 2020, "GLU Variants Improve Transformer"), as LLaMA uses it.
///
/// This and the other gates of that paper are one operation on CPUs, which keeps gate and up alone for the backward pass. Other
/// devices take the reference form, which keeps both factors of the product and the slope.
///
/// # Shapes
///
/// `gate`, `up`: the same; result as they
///
/// # Panics
///
/// When the shapes differ.
pub fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    gated(gate, up, Curve::Silu, silu_reference)
}

/// `gelu(gate) · up` with the exact GELU; all else as [`swiglu`].
pub fn geglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    gated(gate, up, Curve::Gelu, gelu_reference)
}

/// `gelu_tanh(gate) · up`, as T5 1.1 uses it; all else as [`swiglu`].
pub fn geglu_tanh<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    gated(gate, up, Curve::GeluTanh, gelu_tanh_reference)
}

/// `relu(gate) · up`; all else as [`swiglu`].
pub fn reglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    gated(gate, up, Curve::Relu, activation::relu)
}

/// The fused form, where there is one.
fn gated<const D: usize>(
    gate: Tensor<D>,
    up: Tensor<D>,
    curve: Curve,
    activation: fn(Tensor<D>) -> Tensor<D>,
) -> Tensor<D> {
    assert_eq!(gate.dims(), up.dims(), "gated activation: shapes of gate and up");
    if is_on_host(&gate.device()) {
        return Tensor::from_dispatch(Dispatch::fused_gated(gate.into_dispatch(), up.into_dispatch(), curve));
    }
    activation(gate) * up
}

/// [`swiglu`] in tensor operations.
pub fn swiglu_reference<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    silu_reference(gate) * up
}

/// [`geglu`] in tensor operations.
pub fn geglu_reference<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    gelu_reference(gate) * up
}

/// [`geglu_tanh`] in tensor operations.
pub fn geglu_tanh_reference<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    gelu_tanh_reference(gate) * up
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        gelu::tests::{exact, sigmoid_form, tanh_form},
        testing::*,
    };

    fn check(function: fn(Tensor<2>, Tensor<2>) -> Tensor<2>, reference: fn(f64) -> f64) {
        // No gate is 0, where ReLU has no slope.
        let gate: Vec<f64> = (0..33).map(|i| f64::from(i - 16) * 0.25 + 0.1).collect();
        let up = numbers(33, 1);
        let all = |gate: &[f64], up: &[f64]| gate.iter().zip(up).map(|(&x, y)| reference(x) * y).collect::<Vec<_>>();
        let (gate_leaf, up_leaf) = (leaf(&gate, [3, 11]), leaf(&up, [3, 11]));
        let output = function(gate_leaf.clone(), up_leaf.clone());
        assert_close("output", &values(output.clone()), &all(&gate, &up));
        let gradients = weighted(output, 2).backward();
        let of_gate = differences(&gate, |gate| weighted_f64(&all(gate, &up), 2));
        assert_close("gradient of gate", &values(gate_leaf.grad(&gradients).unwrap()), &of_gate);
        let of_up = differences(&up, |up| weighted_f64(&all(&gate, up), 2));
        assert_close("gradient of up", &values(up_leaf.grad(&gradients).unwrap()), &of_up);
    }

    #[test]
    fn all_equal_their_definitions() {
        check(swiglu, sigmoid_form);
        check(geglu, exact);
        check(geglu_tanh, tanh_form);
        check(reglu, |x| x.max(0.0));
    }

    /// As where one of the two projections is frozen, or there is no graph at all.
    #[test]
    fn each_input_may_be_a_constant() {
        let (gate, up) = (numbers(6, 1), numbers(6, 2));
        let constant = |numbers: &[f64]| tensor(numbers, [2, 3], &autodiff_device());
        let of_both = {
            let (gate, up) = (leaf(&gate, [2, 3]), leaf(&up, [2, 3]));
            let gradients = swiglu(gate.clone(), up.clone()).sum().backward();
            [gate, up].map(|leaf| values(leaf.grad(&gradients).unwrap()))
        };
        let gate_leaf = leaf(&gate, [2, 3]);
        let gradients = swiglu(gate_leaf.clone(), constant(&up)).sum().backward();
        assert_eq!(values(gate_leaf.grad(&gradients).unwrap()), of_both[0]);
        let up_leaf = leaf(&up, [2, 3]);
        let gradients = swiglu(constant(&gate), up_leaf.clone()).sum().backward();
        assert_eq!(values(up_leaf.grad(&gradients).unwrap()), of_both[1]);
        let tracked = values(swiglu(gate_leaf, up_leaf));
        assert_eq!(values(swiglu(constant(&gate), constant(&up))), tracked);
    }

    #[test]
    #[should_panic(expected = "shapes of gate and up")]
    fn inputs_of_different_shapes_are_refused() {
        let _ = geglu(leaf(&[1.0; 6], [2, 3]), leaf(&[1.0; 3], [1, 3]));
    }
}
