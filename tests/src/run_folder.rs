use std::{
    fs,
    path::{Path, PathBuf},
};

use fornax_train::{Checkpoint, Checkpoints, NamedTensors, Summary, read_metrics};
use serde_json::{Map, Value};

/// What a run left, for tests to look at.
#[derive(Clone, Debug)]
pub struct RunFolder(PathBuf);

impl RunFolder {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A file's bytes.
    pub fn read(&self, name: &str) -> Vec<u8> {
        let path = self.path(name);
        fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// A JSON file.
    pub fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&self.read(name)).unwrap()
    }

    /// The names in a folder of the run, sorted.
    pub fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(folder)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// The lines of `metrics.jsonl`; none while there is no such file.
    pub fn metrics(&self) -> Vec<Map<String, Value>> {
        let path = self.path("metrics.jsonl");
        if path.exists() { read_metrics(&path).unwrap() } else { Vec::new() }
    }

    /// The metrics without times, which differ from run to run.
    pub fn timeless(&self) -> Vec<Map<String, Value>> {
        let mut lines = self.metrics();
        for line in &mut lines {
            line.remove("tokens_per_second");
            line.remove("step_ms");
            line.remove("data_ms");
        }
        lines
    }

    /// The steps of the train lines, in the order of the file.
    pub fn train_steps(&self) -> Vec<u64> {
        self.split("train").map(|line| line["step"].as_u64().unwrap()).collect()
    }

    /// The losses of the train lines.
    pub fn train_losses(&self) -> Vec<f64> {
        self.split("train").map(|line| line["loss"].as_f64().unwrap()).collect()
    }

    fn split(&self, split: &str) -> impl Iterator<Item = Map<String, Value>> {
        let split = split.to_owned();
        self.metrics().into_iter().filter(move |line| line["split"] == split.as_str())
    }

    /// The summary, which must be there.
    pub fn summary(&self) -> Summary {
        Summary::open(&self.0).unwrap().expect("the run has a summary")
    }

    /// The steps that have a checkpoint folder.
    pub fn checkpoints(&self) -> Vec<u64> {
        Checkpoints::of_run(&self.0).steps().unwrap()
    }

    /// The folder of a checkpoint.
    pub fn checkpoint(&self, step: u64) -> PathBuf {
        Checkpoints::of_run(&self.0).path(step)
    }

    /// Every tensor of a checkpoint that verifies, those of the model and those of the optimizer, by name and as bits.
    pub fn tensors(&self, step: u64) -> Vec<(String, Vec<u8>)> {
        let checkpoint = Checkpoint::open(&self.checkpoint(step)).unwrap();
        let mut tensors = bits("model", checkpoint.model().unwrap());
        tensors.extend(bits("optimizer", checkpoint.optimizer().unwrap()));
        tensors.sort();
        assert!(tensors.len() > 2, "a checkpoint has tensors");
        tensors
    }
}

impl AsRef<Path> for RunFolder {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

fn bits(file: &str, tensors: NamedTensors) -> Vec<(String, Vec<u8>)> {
    tensors.into_iter().map(|(name, data)| (format!("{file} {name}"), data.as_bytes().to_vec())).collect()
}
