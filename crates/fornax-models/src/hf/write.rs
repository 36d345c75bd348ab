use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
};

use safetensors::{
    Dtype,
    tensor::{Metadata, TensorInfo},
};

use crate::ModelError;

/// How many numbers are turned into bytes and written at once: so many that the calls cost nothing, so few that they stay in the
/// cache of a core.
const NUMBERS: usize = 1 << 14;

/// A tensor on the host: shape and row-major numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor {
    /// The length of each axis.
    pub shape: Vec<usize>,
    /// The numbers, the last axis fastest.
    pub values: Vec<f32>,
}

/// Writes `f32` tensors, sorted by name, as `transformers` does (`format: pt`, without which it refuses the file).
///
/// # Errors
///
/// When the file can't be written; a file that was there before is then left as it was.
pub fn write_safetensors(path: &Path, tensors: &BTreeMap<String, HostTensor>) -> Result<(), ModelError> {
    let mut end = 0;
    let infos = tensors.iter().map(|(name, tensor)| {
        let start = end;
        end += size_of_val(tensor.values.as_slice());
        (name.clone(), TensorInfo { dtype: Dtype::F32, shape: tensor.shape.clone(), data_offsets: (start, end) })
    });
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let invalid = |source| ModelError::Safetensors { path: path.to_owned(), source };
    let header = Metadata::new(Some(format), infos.collect()).map_err(invalid)?;
    let mut header = serde_json::to_vec(&header).map_err(ModelError::json(path))?;
    // The format wants the numbers to start at a multiple of eight bytes.
    header.resize(header.len().next_multiple_of(8), b' ');
    write_beside(path, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        let mut bytes = Vec::with_capacity(size_of::<[f32; NUMBERS]>());
        for numbers in tensors.values().flat_map(|tensor| tensor.values.chunks(NUMBERS)) {
            bytes.clear();
            bytes.extend(numbers.iter().flat_map(|x| x.to_le_bytes()));
            file.write_all(&bytes)?;
        }
        Ok(())
    })
}

/// Writes a file beside `path` and renames it there once its bytes are on the disk, so that a reader and a crash see the
/// old file or the new one.
pub fn write_beside(path: &Path, fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> Result<(), ModelError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let beside = path.with_file_name(name);
    let result = (|| {
        let mut file = BufWriter::new(File::create(&beside)?);
        fill(&mut file)?;
        file.into_inner()?.sync_all()?;
        std::fs::rename(&beside, path)?;
        // The rename itself is durable once the folder is synced; only Unix lets a folder be opened for that.
        match path.parent() {
            Some(dir) if cfg!(unix) => File::open(dir)?.sync_all(),
            _ => Ok(()),
        }
    })();
    result.map_err(|source| {
        // Best effort: the error that is reported is the first one.
        let _ = std::fs::remove_file(&beside);
        ModelError::Io { path: path.to_owned(), source }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_fails_leaves_the_old_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        write_beside(&path, |file| file.write_all(b"old")).unwrap();
        let error = write_beside(&path, |file| {
            file.write_all(b"half of the n")?;
            Err(io::ErrorKind::StorageFull.into())
        });
        assert!(error.unwrap_err().to_string().contains("config.json: no storage space"));
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
