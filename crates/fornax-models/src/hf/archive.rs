use std::{
    collections::BTreeMap,
    fs::File,
    io,
    ops::Range,
    path::{Component, Path, PathBuf},
};

use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};

use crate::ModelError;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The tensors of a Hugging Face folder, in one `safetensors` file or in the shards of an index, mapped into memory.
///
/// Opening reads headers alone; the numbers are paged in when a tensor is read.
#[derive(Debug)]
pub struct Archive {
    dir: PathBuf,
    maps: Vec<Mmap>,
    tensors: BTreeMap<String, Stored>,
}

/// Where one tensor lies.
#[derive(Debug)]
struct Stored {
    map: usize,
    bytes: Range<usize>,
    dtype: Dtype,
    shape: Vec<usize>,
}

impl Archive {
    /// Maps `model.safetensors`, or else the shards that `model.safetensors.index.json` names.
    ///
    /// # Errors
    ///
    /// When the folder has neither, has only pickled weights, lacks a shard or a tensor that the index names, or when a
    /// file is truncated.
    pub fn open(dir: &Path) -> Result<Self, ModelError> {
        let mut archive = Self { dir: dir.to_owned(), maps: Vec::new(), tensors: BTreeMap::new() };
        let (single, index) = (dir.join(SINGLE), dir.join(INDEX));
        if single.is_file() {
            archive.add_file(&single)?;
        } else if index.is_file() {
            archive.add_shards(&index)?;
        } else {
            return Err(no_weights(dir));
        }
        Ok(archive)
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Every tensor name, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The shape of a tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|t| t.shape.as_slice())
    }

    /// The stored element type of a tensor.
    pub fn dtype(&self, name: &str) -> Option<Dtype> {
        self.tensors.get(name).map(|t| t.dtype)
    }

    /// The numbers of a tensor in row-major order; `f16` and `bf16` are widened, which is exact. `None` when there is no
    /// such tensor or when it is stored in another type.
    pub fn read(&self, name: &str) -> Option<Vec<f32>> {
        let stored = self.tensors.get(name)?;
        let bytes = &self.maps[stored.map][stored.bytes.clone()];
        match stored.dtype {
            Dtype::F32 => Some(decode(bytes, f32::from_le_bytes)),
            Dtype::F16 => Some(decode(bytes, |b| f16::from_le_bytes(b).to_f32())),
            Dtype::BF16 => Some(decode(bytes, |b| bf16::from_le_bytes(b).to_f32())),
            _ => None,
        }
    }

    fn add_file(&mut self, path: &Path) -> Result<(), ModelError> {
        let map = map_file(path)?;
        let invalid = |source| ModelError::Safetensors { path: path.to_owned(), source };
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(invalid)?;
        let start = header + size_of::<u64>();
        for (name, info) in metadata.tensors() {
            let bytes = start + info.data_offsets.0..start + info.data_offsets.1;
            let stored = Stored { map: self.maps.len(), bytes, dtype: info.dtype, shape: info.shape.clone() };
            self.tensors.insert(name, stored);
        }
        self.maps.push(map);
        Ok(())
    }

    fn add_shards(&mut self, index: &Path) -> Result<(), ModelError> {
        #[derive(serde::Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }
        let text = std::fs::read(index).map_err(ModelError::io(index))?;
        let Index { weight_map } = serde_json::from_slice(&text).map_err(ModelError::json(index))?;
        let mut opened = BTreeMap::new();
        for (tensor, shard) in &weight_map {
            if !opened.contains_key(shard) {
                let path = self.dir.join(shard);
                // A name with `..` or a root would let an index read files outside its folder.
                if !is_file_name(shard) || !path.is_file() {
                    let (index, tensor) = (index.to_owned(), tensor.clone());
                    return Err(ModelError::MissingShard { index, tensor, shard: shard.clone() });
                }
                opened.insert(shard, self.maps.len());
                self.add_file(&path)?;
            }
            if self.tensors.get(tensor).map(|t| t.map) != opened.get(shard).copied() {
                let path = self.dir.join(shard);
                return Err(ModelError::NotInShard { index: index.to_owned(), tensor: tensor.clone(), shard: path });
            }
        }
        Ok(())
    }
}

fn decode<const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|b| number(*b)).collect()
}

fn is_file_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None))
}

#[allow(unsafe_code)]
fn map_file(path: &Path) -> Result<Mmap, ModelError> {
    let file = File::open(path).map_err(ModelError::io(path))?;
    // SAFETY: the map is only read. Rust can't rule out that another process truncates or rewrites the file meanwhile; we
    // ourselves never write a checkpoint in place (it is written beside and renamed), so a map keeps the bytes it was
    // opened on. Weights are plain numbers: changed bytes could give wrong values, never an invalid one.
    unsafe { Mmap::map(&file) }.map_err(ModelError::io(path))
}

fn no_weights(dir: &Path) -> ModelError {
    if !dir.is_dir() {
        let kind = if dir.exists() { io::ErrorKind::NotADirectory } else { io::ErrorKind::NotFound };
        return ModelError::Io { path: dir.to_owned(), source: kind.into() };
    }
    for pickle in ["pytorch_model.bin", "pytorch_model.bin.index.json"] {
        if dir.join(pickle).is_file() {
            return ModelError::Pickle { path: dir.join(pickle), dir: dir.to_owned() };
        }
    }
    ModelError::NotACheckpoint { dir: dir.to_owned(), lacks: format!("{SINGLE} nor {INDEX}") }
}
