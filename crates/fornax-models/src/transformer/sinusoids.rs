use burn::tensor::{Device, Tensor, TensorData};

/// The vectors of positions `first..first + len` by [`Positions::Sinusoidal`](super::Positions::Sinusoidal).
///
/// Computed on the host in `f64`, because the sine of a large angle is coarse in `f32` and worse in shader languages: about
/// 20 ns for each two numbers, small beside a layer.
///
/// # Shapes
///
/// Result: `[1, len, hidden_size]`
pub(super) fn range(first: usize, len: usize, hidden_size: usize, device: &Device) -> Tensor<3> {
    let frequencies: Vec<f64> =
        (0..hidden_size).step_by(2).map(|column| 10_000_f64.powf(-(column as f64) / hidden_size as f64)).collect();
    let mut values = Vec::with_capacity(len * (hidden_size + 1));
    for position in first..first + len {
        let angles = frequencies.iter().map(|frequency| position as f64 * frequency);
        let pairs = angles.flat_map(|angle| [angle.sin() as f32, angle.cos() as f32]);
        values.extend(pairs.take(hidden_size));
    }
    Tensor::from_data(TensorData::new(values, [1, len, hidden_size]), device)
}

#[cfg(test)]
mod tests {
    use fornax_backend::test_device;

    use super::*;

    #[test]
    fn sines_and_cosines_alternate_and_slow_down() {
        let found: Vec<f32> = range(3, 2, 4, &test_device()).into_data().iter::<f32>().collect();
        // Columns 2 and 3 turn a hundred times slower: 10000^(2/4).
        let expected =
            [3.0_f64, 4.0].into_iter().flat_map(|p| [p.sin(), p.cos(), (p / 100.0).sin(), (p / 100.0).cos()]);
        for (found, expected) in found.iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-7, "{found} {expected}");
        }
        assert_eq!(found.len(), 8);
    }

    #[test]
    fn an_odd_width_ends_with_a_sine() {
        let found: Vec<f32> = range(1, 2, 3, &test_device()).into_data().iter::<f32>().collect();
        let slow = 10_000_f64.powf(-2.0 / 3.0);
        assert_eq!([found[2], found[5]], [slow.sin() as f32, (2.0 * slow).sin() as f32]);
        assert_eq!(found[3], 2.0_f64.sin() as f32);
    }
}
