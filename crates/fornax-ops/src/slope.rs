use burn::tensor::Tensor;

/// `value`, whose derivative with respect to `x` is `slope`, element by element; both are computed without gradient.
///
/// For functions whose derivative is cheap once the value is known. Automatic differentiation would keep a tensor for
/// each step and compute `exp` a second time in the backward pass; this keeps the slope alone. Without a graph, `slope` is
/// not computed.
///
/// `x` must be finite: the graph is reached through `x - x`.
pub(crate) fn with_slope<const D: usize>(
    x: Tensor<D>,
    value: Tensor<D>,
    slope: impl FnOnce() -> Tensor<D>,
) -> Tensor<D> {
    if !x.is_tracked() {
        return value;
    }
    let zero = x.clone() - constant(&x);
    zero * slope() + value
}

/// The value of `x` outside the graph.
pub(crate) fn constant<const D: usize>(x: &Tensor<D>) -> Tensor<D> {
    x.clone().set_require_grad(false)
}
