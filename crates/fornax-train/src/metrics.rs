//! `metrics.jsonl`: one object a line, append-only; each step stands once.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    TrainError,
    files::{self, FORMAT_VERSION},
};

/// A train line: what happened since the last one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrainLine {
    /// Completed steps.
    #[serde(skip)]
    pub step: u64,
    /// Mean loss per target over the logged window.
    pub loss: f64,
    /// The mean of the task's metric `nll`, where it has one: what `loss` would be of labels that are not smoothed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nll: Option<f64>,
    /// Learning rate of the last step.
    pub lr: f64,
    /// Global gradient norm of the last step, before clipping.
    pub grad_norm: f64,
    /// In `f16`, what the loss of the next step is multiplied by before it is differentiated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<f64>,
    /// Tokens read since the run began.
    pub tokens: u64,
    /// Over the window, without evaluation and saving.
    pub tokens_per_second: f64,
    /// Mean wall time of a step of the window, in milliseconds.
    pub step_ms: f64,
    /// Of [`step_ms`](Self::step_ms), the time until the host had the step's batch. The copy to the device is not in it.
    pub data_ms: f64,
}

/// The file, open for appending.
#[derive(Debug)]
pub(crate) struct MetricsFile {
    path: PathBuf,
    file: File,
    length: u64,
}

impl MetricsFile {
    /// Opens the file of a run that stands at `step`, creating it if there is none. Lines of later steps, and a last
    /// line that a killed process left half-written, are cut.
    pub(crate) fn open(path: &Path, step: u64) -> Result<Self, TrainError> {
        cut(path, step)?;
        let file = File::options().create(true).append(true).open(path).map_err(files::io_error("open", path))?;
        let length = file.metadata().map_err(files::io_error("read", path))?.len();
        Ok(Self { path: path.to_owned(), file, length })
    }

    pub(crate) fn train(&mut self, line: &TrainLine) -> Result<(), TrainError> {
        self.append(line.step, "train", line)
    }

    pub(crate) fn valid(&mut self, step: u64, metrics: &BTreeMap<String, f64>) -> Result<(), TrainError> {
        self.append(step, "valid", metrics)
    }

    /// Makes all lines durable: done before a checkpoint, so that no checkpoint is newer than the lines.
    pub(crate) fn sync(&self) -> Result<(), TrainError> {
        self.file.sync_all().map_err(files::io_error("sync", &self.path))
    }

    fn append(&mut self, step: u64, split: &str, values: &impl Serialize) -> Result<(), TrainError> {
        let line = self.line(step, split, values).map_err(io::Error::other);
        let written = line.and_then(|line| self.file.write_all(line.as_bytes()).map(|()| line.len()));
        match written {
            Ok(count) => self.length += count as u64,
            Err(source) => {
                let _ = self.file.set_len(self.length); // Half a line would be cut on resume anyway.
                return Err(TrainError::Io { action: "write", path: self.path.clone(), source });
            }
        }
        Ok(())
    }

    /// The first line of the file carries the format version.
    fn line(&self, step: u64, split: &str, values: &impl Serialize) -> serde_json::Result<String> {
        #[derive(Serialize)]
        struct Line<'a, T> {
            #[serde(skip_serializing_if = "Option::is_none")]
            format_version: Option<u64>,
            step: u64,
            split: &'a str,
            #[serde(flatten)]
            values: &'a T,
        }
        let format_version = (self.length == 0).then_some(FORMAT_VERSION);
        Ok(serde_json::to_string(&Line { format_version, step, split, values })? + "\n")
    }
}

/// The lines of a metrics file, oldest first.
///
/// # Errors
///
/// When the file can't be read or is of a newer format. A half-written line is left out.
pub fn read_metrics(path: &Path) -> Result<Vec<Map<String, Value>>, TrainError> {
    let bytes = fs::read(path).map_err(files::io_error("read", path))?;
    let lines: Vec<_> = whole_lines(&bytes).filter_map(|line| serde_json::from_slice(line).ok()).collect();
    check_first(path, lines.first())?;
    Ok(lines)
}

fn check_first(path: &Path, first: Option<&Map<String, Value>>) -> Result<(), TrainError> {
    first.map_or(Ok(()), |line| files::check_version(path, line.get("format_version").and_then(Value::as_u64)))
}

/// The lines that end in a newline.
fn whole_lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split_inclusive(|&byte| byte == b'\n').filter(|line| line.ends_with(b"\n"))
}

/// Rewrites the file without the lines after `step`, if there are any.
fn cut(path: &Path, step: u64) -> Result<(), TrainError> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        bytes => bytes.map_err(files::io_error("read", path))?,
    };
    let mut kept = Vec::with_capacity(bytes.len());
    for (number, line) in whole_lines(&bytes).enumerate() {
        match serde_json::from_slice::<Map<String, Value>>(line) {
            Ok(values) => {
                if number == 0 {
                    check_first(path, Some(&values))?;
                }
                if values.get("step").and_then(Value::as_u64).is_some_and(|at| at <= step) {
                    kept.extend_from_slice(line);
                }
            }
            Err(error) => tracing::warn!("line {} of `{}` is cut: {error}", number + 1, path.display()),
        }
    }
    if kept == bytes { Ok(()) } else { files::write_atomic(path, &kept) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn train_line(step: u64) -> TrainLine {
        TrainLine {
            step,
            loss: 2.5,
            nll: None,
            lr: 1e-3,
            grad_norm: 0.5,
            loss_scale: None,
            tokens: step * 64,
            tokens_per_second: 1e3,
            step_ms: 64.0,
            data_ms: 0.5,
        }
    }

    fn file_with(steps: &[u64]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut file = MetricsFile::open(&path, 0).unwrap();
        for &step in steps {
            file.train(&train_line(step)).unwrap();
            file.valid(step, &[("loss".to_owned(), 2.0), ("perplexity".to_owned(), 7.4)].into()).unwrap();
        }
        (dir, path)
    }

    #[test]
    fn lines_have_the_documented_fields_in_order() {
        let (_dir, path) = file_with(&[10]);
        assert_eq!(
            fs::read_to_string(path).unwrap(),
            "{\"format_version\":1,\"step\":10,\"split\":\"train\",\"loss\":2.5,\"lr\":0.001,\"grad_norm\":0.5,\
             \"tokens\":640,\"tokens_per_second\":1000.0,\"step_ms\":64.0,\"data_ms\":0.5}\n\
             {\"step\":10,\"split\":\"valid\",\"loss\":2.0,\"perplexity\":7.4}\n"
        );
    }

    #[test]
    fn the_plain_loss_stands_beside_a_smoothed_one() {
        let line = serde_json::to_string(&TrainLine { nll: Some(2.25), ..train_line(10) }).unwrap();
        assert!(line.starts_with("{\"loss\":2.5,\"nll\":2.25,\"lr\":"), "{line}");
    }

    #[test]
    fn a_first_line_of_a_newer_format_is_refused() {
        let (_dir, path) = file_with(&[10]);
        let text = fs::read_to_string(&path).unwrap().replace("\"format_version\":1", "\"format_version\":2");
        fs::write(&path, &text).unwrap();
        assert!(matches!(MetricsFile::open(&path, 10), Err(TrainError::NewerFormat { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }

    proptest! {
        /// Killed at any byte, resumed at any step, run again: each step stands once, in order, whole.
        #[test]
        fn each_step_stands_once(killed_at in 0.0f64..1.0, resumed_at in 0u64..6) {
            let (_dir, path) = file_with(&[1, 2, 3, 4, 5]);
            let bytes = fs::read(&path).unwrap();
            fs::write(&path, &bytes[..(bytes.len() as f64 * killed_at) as usize]).unwrap();
            let complete = read_metrics(&path).unwrap().len() as u64 / 2;
            let step = resumed_at.min(complete);
            let mut file = MetricsFile::open(&path, step).unwrap();
            for step in step + 1..=5 {
                file.train(&train_line(step)).unwrap();
                file.valid(step, &[("loss".to_owned(), 2.0), ("perplexity".to_owned(), 7.4)].into()).unwrap();
            }
            prop_assert_eq!(fs::read(&path).unwrap(), bytes);
        }
    }
}
