use burn::{
    backend::Dispatch,
    tensor::{Int, IntDType, Tensor, module},
};

use crate::fused::{CubeFused, HostFused, is_on_cube, is_on_host};

/// The rows of `weight` that `ids` name.
///
/// # Shapes
///
/// - `weight`: `[vocab_size, hidden_size]`
/// - `ids`: `[batch, seq]`, each in `0..vocab_size`
/// - result: `[batch, seq, hidden_size]`
///
/// # Panics
///
/// On some backends, when an id is out of range; on others the result is undefined, so ids are checked on the host where
/// they enter.
pub fn embedding(weight: Tensor<2>, ids: Tensor<2, Int>) -> Tensor<3> {
    let ([batch, seq], [vocab_size, hidden_size]) = (ids.dims(), weight.dims());
    if is_on_cube(&weight.device()) {
        let ids = ids.reshape([batch * seq]).cast(IntDType::I32);
        let rows = Dispatch::cube_embedding(weight.into_dispatch(), ids.into_dispatch());
        return Tensor::<2>::from_dispatch(rows).reshape([batch, seq, hidden_size]);
    }
    if !is_on_host(&weight.device()) {
        return module::embedding(weight, ids);
    }
    let row = |id: i64| {
        let row = usize::try_from(id).ok().filter(|row| *row < vocab_size);
        assert!(row.is_some(), "embedding: id {id} of {vocab_size}");
        row.unwrap_or(0)
    };
    let ids = ids.into_data().iter::<i64>().map(row).collect();
    let rows = Dispatch::fused_embedding(weight.into_dispatch(), ids);
    Tensor::<2>::from_dispatch(rows).reshape([batch, seq, hidden_size])
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;

    use super::*;
    use crate::testing::*;

    #[test]
    fn rows_are_picked_and_gradients_of_equal_ids_add_up() {
        let weight = leaf(&numbers(5 * 3, 1), [5, 3]);
        let ids = Tensor::from_data(TensorData::new(vec![4i64, 0, 4, 2], [2, 2]), &autodiff_device());
        let output = embedding(weight.clone(), ids);
        let (table, picked) = (numbers(15, 1), values(output.clone()));
        for (row, id) in picked.chunks(3).zip([4, 0, 4, 2]) {
            assert_eq!(row, &table[id * 3..id * 3 + 3]);
        }
        let gradient = values(weight.grad(&weighted(output, 6).backward()).unwrap());
        let weights = numbers(12, 6);
        for column in 0..3 {
            let expected = [weights[3 + column], 0.0, weights[9 + column], 0.0, weights[column] + weights[6 + column]];
            let got: Vec<f64> = (0..5).map(|id| gradient[id * 3 + column]).collect();
            assert_close("gradient", &got, &expected);
        }
    }
}
