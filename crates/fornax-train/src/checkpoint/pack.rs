//! Named host tensors in Burn's own container.

use std::{fs, path::Path};

use burn::tensor::TensorData;
use burn_pack::{Bytes, Reader, Writer};

use crate::{TrainError, files::io_error};

/// Named host tensors, as a checkpoint stores them: the state of a model keyed by parameter path, or that of an
/// optimizer keyed by parameter path and moment.
pub type NamedTensors = Vec<(String, TensorData)>;

/// Writes a burnpack file. The tensors are moved, not copied.
pub(super) fn write(path: &Path, tensors: NamedTensors) -> Result<(), TrainError> {
    let entries = tensors.into_iter().map(|(name, data)| {
        let (bytes, shape, dtype) = data.into_parts();
        burn_pack::Tensor::new(name, dtype, shape, None, bytes)
    });
    Writer::new(entries.collect()).write_to_file(path).map_err(pack_error("write", path))
}

/// Reads a burnpack file, in order of names.
///
/// All of it is read at once: the tensors of a file-backed reader would read the file when they are first used, when
/// the checkpoint may be gone, and panic if they can't.
pub(super) fn read(path: &Path) -> Result<NamedTensors, TrainError> {
    let bytes = fs::read(path).map_err(io_error("read", path))?;
    let tensors = Reader::from_bytes(Bytes::from_bytes_vec(bytes))
        .and_then(Reader::into_tensors)
        .map_err(pack_error("read", path))?;
    tensors
        .into_iter()
        .map(|tensor| {
            let (name, shape, dtype) = (tensor.name.clone(), tensor.shape.clone(), tensor.dtype);
            let bytes = tensor.into_bytes().map_err(pack_error("read", path))?;
            let data = TensorData::try_from_bytes(bytes, shape, dtype).map_err(|error| TrainError::Damaged {
                path: path.to_owned(),
                problem: format!("tensor `{name}`: {error}"),
            })?;
            Ok((name, data))
        })
        .collect()
}

fn pack_error(action: &'static str, path: &Path) -> impl FnOnce(burn_pack::Error) -> TrainError {
    move |source| TrainError::Pack { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Names, shapes and every bit survive, NaN included.
        #[test]
        fn tensors_come_back_bit_for_bit(shapes in prop::collection::vec((1usize..5, 1usize..7), 0..6), seed: u32) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("model.bpk");
            let tensors: NamedTensors = shapes.iter().enumerate().map(|(i, &(rows, columns))| {
                let values: Vec<f32> = (0..rows * columns)
                    .map(|j| f32::from_bits(seed.wrapping_mul(2_654_435_761).wrapping_add((i * 97 + j) as u32)))
                    .collect();
                (format!("blocks.{i}.weight"), TensorData::new(values, [rows, columns]))
            }).collect();
            write(&path, tensors.clone()).unwrap();
            let loaded = read(&path).unwrap();
            std::fs::remove_file(&path).unwrap();
            prop_assert_eq!(loaded.len(), tensors.len());
            for ((name, data), (expected_name, expected)) in loaded.iter().zip(&tensors) {
                prop_assert_eq!(name, expected_name);
                prop_assert_eq!(data.shape(), expected.shape());
                let bits = |data: &TensorData| data.as_slice::<f32>().unwrap().iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                prop_assert_eq!(bits(data), bits(expected));
            }
        }
    }
}
