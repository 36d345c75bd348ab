//! The mean of checkpoints, which is often a better model than the last of them (Vaswani et al. 2017, section 6.1).

use std::{collections::BTreeMap, path::Path};

use burn::tensor::TensorData;

use super::{Checkpoint, Checkpoints, MODEL, NamedTensors};
use crate::TrainError;

/// The mean of the parameters of checkpoint folders, in `f32` and by path: what
/// [`load_parameters`](crate::load_parameters) gives to a model.
///
/// Each checkpoint is verified as for resuming. Sums are kept in `f64` on the host, and one checkpoint besides.
///
/// # Errors
///
/// [`TrainError::NothingToAverage`] without a folder, [`TrainError::CheckpointsDiffer`] when two of them are of different
/// models, and what [`Checkpoint::open`] and [`Checkpoint::model`] fail with.
pub fn average_checkpoints(folders: &[impl AsRef<Path>]) -> Result<NamedTensors, TrainError> {
    let (first, others) = folders.split_first().ok_or(TrainError::NothingToAverage)?;
    let mut sums = Sums::new(first.as_ref())?;
    for folder in others {
        sums.add(folder.as_ref())?;
    }
    Ok(sums.mean(folders.len()))
}

/// [`average_checkpoints`] of the `count` newest of the run in `run_dir`; a damaged one among them is an error, because
/// another in its place would make another model.
///
/// # Errors
///
/// As [`average_checkpoints`], and [`TrainError::TooFewCheckpoints`].
pub fn average_last(run_dir: &Path, count: usize) -> Result<NamedTensors, TrainError> {
    let checkpoints = Checkpoints::of_run(run_dir);
    let steps = checkpoints.steps()?;
    let Some(before) = steps.len().checked_sub(count) else {
        return Err(TrainError::TooFewCheckpoints { dir: run_dir.to_owned(), found: steps.len(), wanted: count });
    };
    let folders: Vec<_> = steps[before..].iter().map(|&step| checkpoints.path(step)).collect();
    average_checkpoints(&folders)
}

struct Sums<'a> {
    first: &'a Path,
    /// Type, shape and sum by name.
    tensors: BTreeMap<String, (String, Vec<usize>, Vec<f64>)>,
}

impl<'a> Sums<'a> {
    fn new(folder: &'a Path) -> Result<Self, TrainError> {
        let mut tensors = BTreeMap::new();
        for (name, data) in Checkpoint::open(folder)?.model()? {
            if !data.dtype().is_float() {
                let problem = format!("tensor `{name}` is {}, which has no mean", describe(&data));
                return Err(TrainError::Damaged { path: folder.join(MODEL), problem });
            }
            let sum = data.iter::<f64>().collect();
            tensors.insert(name, (describe(&data), data.shape().to_vec(), sum));
        }
        Ok(Self { first: folder, tensors })
    }

    fn add(&mut self, folder: &Path) -> Result<(), TrainError> {
        const ABSENT: &str = "missing";
        let differ = |name: &str, found: &str, wanted: &str| TrainError::CheckpointsDiffer {
            name: name.to_owned(),
            path: folder.join(MODEL),
            found: found.to_owned(),
            first: self.first.join(MODEL),
            wanted: wanted.to_owned(),
        };
        let mut more: BTreeMap<_, _> = Checkpoint::open(folder)?.model()?.into_iter().collect();
        for (name, (wanted, _, sum)) in &mut self.tensors {
            let data = more.remove(name).ok_or_else(|| differ(name, ABSENT, wanted))?;
            let found = describe(&data);
            if found != *wanted {
                return Err(differ(name, &found, wanted));
            }
            for (sum, value) in sum.iter_mut().zip(data.iter::<f64>()) {
                *sum += value;
            }
        }
        match more.into_iter().next() {
            Some((name, data)) => Err(differ(&name, &describe(&data), ABSENT)),
            None => Ok(()),
        }
    }

    fn mean(self, count: usize) -> NamedTensors {
        let mean = |sum: Vec<f64>| sum.into_iter().map(|sum| (sum / count as f64) as f32).collect::<Vec<_>>();
        self.tensors.into_iter().map(|(name, (_, shape, sum))| (name, TensorData::new(mean(sum), shape))).collect()
    }
}

/// Type and shape.
fn describe(data: &TensorData) -> String {
    format!("{:?} {:?}", data.dtype(), data.shape().as_slice())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use fornax_backend::Precision;
    use tempfile::TempDir;

    use super::*;
    use crate::{
        Schedule, ScheduleConfig, State, export_parameters, load_parameters,
        testing::{Tiny, bits, values},
    };

    fn model(value: f32) -> NamedTensors {
        let matrix = [[value, 0.1, -value], [1.0, 2.0 * value, 1e-3]];
        vec![("bias".to_owned(), TensorData::from([value, -1.0, 0.5])), ("weight".to_owned(), TensorData::from(matrix))]
    }

    fn run_with(models: &[NamedTensors]) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        let schedule = Schedule::new(&ScheduleConfig::default(), 1e-3, 100).unwrap();
        for (step, model) in (10..).step_by(10).zip(models) {
            let mut state = State::fresh(1, "config".into(), Precision::F32, &schedule);
            state.step = step;
            Checkpoints::of_run(dir.path()).write(&mut state, || Ok(model.clone()), || Ok(vec![])).unwrap();
        }
        dir
    }

    fn refused(run: &TempDir, count: usize) -> String {
        average_last(run.path(), count).unwrap_err().to_string()
    }

    #[test]
    fn the_newest_are_averaged_and_go_into_a_model() {
        let run = run_with(&[model(100.0), model(1.0), model(2.0), model(6.0)]);
        let mean = average_last(run.path(), 3).unwrap();
        assert_eq!(values(&mean, "bias"), [3.0, -1.0, 0.5]);
        let third = |sum: f64| f64::from((sum / 3.0) as f32);
        let same = |value: f32| third(3.0 * f64::from(value));
        assert_eq!(values(&mean, "weight"), [3.0, same(0.1), -3.0, 1.0, 6.0, same(1e-3)]);
        let loaded = load_parameters(Tiny::new(&fornax_backend::test_device()), mean.clone()).unwrap();
        assert_eq!(values(&export_parameters(&loaded), "weight"), values(&mean, "weight"));
    }

    /// A hundred million added to a tenth in `f32` would swallow it.
    #[test]
    fn the_sum_is_kept_in_double_precision() {
        let tensor = |value: f32| vec![("weight".to_owned(), TensorData::from([value]))];
        let run = run_with(&[tensor(1e8), tensor(0.3), tensor(-1e8)]);
        let mean = values(&average_last(run.path(), 3).unwrap(), "weight")[0];
        assert!((mean - 0.1).abs() < 1e-7, "{mean}");
    }

    #[test]
    fn one_checkpoint_is_its_own_average_and_folders_may_be_of_several_runs() {
        let (run, other) = (run_with(&[model(0.3), model(0.7)]), run_with(&[model(0.1)]));
        assert_eq!(bits(&average_last(run.path(), 1).unwrap()), bits(&model(0.7)));
        let folders = [&run, &other].map(|run| Checkpoints::of_run(run.path()).path(10));
        let mean = values(&average_checkpoints(&folders).unwrap(), "bias")[0];
        assert_eq!(mean, f64::from(((f64::from(0.3f32) + f64::from(0.1f32)) / 2.0) as f32));
    }

    #[test]
    fn checkpoints_of_different_models_are_named_with_tensor_and_files() {
        let mut reshaped = model(1.0);
        reshaped[1].1 = TensorData::from([[0.0f32; 2]; 3]);
        let message = refused(&run_with(&[model(1.0), reshaped]), 2);
        assert!(message.starts_with("tensor `weight` is F32 [3, 2] in `"), "{message}");
        assert!(message.contains("step-000020/model.bpk`, but F32 [2, 3] in `"), "{message}");
        assert!(message.contains("step-000010/model.bpk`; hint: "), "{message}");
        let message = refused(&run_with(&[model(1.0), model(1.0)[..1].to_vec()]), 2);
        assert!(message.starts_with("tensor `weight` is missing in `"), "{message}");
        let more = [model(1.0), vec![("head".to_owned(), TensorData::from([1.0f32]))]].concat();
        let message = refused(&run_with(&[model(1.0), more]), 2);
        assert!(
            message.starts_with("tensor `head` is F32 [1] in `") && message.contains("but missing in"),
            "{message}"
        );
        let whole = run_with(&[vec![("ids".to_owned(), TensorData::from([1i64]))]]);
        assert!(refused(&whole, 1).ends_with("is damaged: tensor `ids` is I64 [1], which has no mean"));
    }

    #[test]
    fn too_few_and_damaged_ones_are_errors() {
        let run = run_with(&[model(1.0), model(2.0)]);
        let message = refused(&run, 3);
        assert!(message.contains("has 2 checkpoints, but 3 are to be averaged; hint: "), "{message}");
        assert!(refused(&run, 0).starts_with("there is no checkpoint to average"));
        fs::write(Checkpoints::of_run(run.path()).path(20).join(MODEL), "damaged").unwrap();
        let message = refused(&run, 2);
        assert!(message.contains("step-000020/model.bpk` is damaged: it has 7 bytes"), "{message}");
    }
}
