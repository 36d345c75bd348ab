//! The mean of checkpoints, which is often a better model than the last of them (Vaswani et al. 2017, section 6.1).

use std::{collections::BTreeMap, path::Path};

use burn::tensor::TensorData;

use super::{Checkpoint, MODEL, NamedTensors};
use crate::TrainError;

/// The mean of the parameters of checkpoints, in `f32` and by path: what [`load_parameters`](crate::load_parameters) gives to a
/// model.
///
/// Sums are kept in `f64` on the host, and one checkpoint besides.
///
/// # Errors
///
/// [`TrainError::NothingToAverage`] without a checkpoint, [`TrainError::CheckpointsDiffer`] when two of them are of different
/// models, and what [`Checkpoint::model`] fails with.
pub fn average_checkpoints(checkpoints: &[Checkpoint]) -> Result<NamedTensors, TrainError> {
    let (first, others) = checkpoints.split_first().ok_or(TrainError::NothingToAverage)?;
    let mut sums = Sums::new(first)?;
    for checkpoint in others {
        sums.add(checkpoint)?;
    }
    Ok(sums.mean(checkpoints.len()))
}

struct Sums<'a> {
    first: &'a Path,
    /// Type, shape and sum by name.
    tensors: BTreeMap<String, (String, Vec<usize>, Vec<f64>)>,
}

impl<'a> Sums<'a> {
    fn new(first: &'a Checkpoint) -> Result<Self, TrainError> {
        let mut tensors = BTreeMap::new();
        for (name, data) in first.model()? {
            if !data.dtype().is_float() {
                let problem = format!("tensor `{name}` is {}, which has no mean", describe(&data));
                return Err(TrainError::Damaged { path: first.dir().join(MODEL), problem });
            }
            let sum = data.iter::<f64>().collect();
            tensors.insert(name, (describe(&data), data.shape().to_vec(), sum));
        }
        Ok(Self { first: first.dir(), tensors })
    }

    fn add(&mut self, checkpoint: &Checkpoint) -> Result<(), TrainError> {
        const ABSENT: &str = "missing";
        let differ = |name: &str, found: &str, wanted: &str| TrainError::CheckpointsDiffer {
            name: name.to_owned(),
            path: checkpoint.dir().join(MODEL),
            found: found.to_owned(),
            first: self.first.join(MODEL),
            wanted: wanted.to_owned(),
        };
        let mut more: BTreeMap<_, _> = checkpoint.model()?.into_iter().collect();
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
    use fornax_backend::Precision;
    use tempfile::TempDir;

    use super::*;
    use crate::{
        Checkpoints, Schedule, ScheduleConfig, State, export_parameters, load_parameters,
        testing::{Tiny, bits, values},
    };

    fn model(value: f32) -> NamedTensors {
        let matrix = [[value, 0.1, -value], [1.0, 2.0 * value, 1e-3]];
        vec![("bias".to_owned(), TensorData::from([value, -1.0, 0.5])), ("weight".to_owned(), TensorData::from(matrix))]
    }

    /// Checkpoints in a folder that lives as long as they are looked at.
    fn checkpoints_of(models: &[NamedTensors]) -> (TempDir, Vec<Checkpoint>) {
        let dir = tempfile::tempdir().unwrap();
        let schedule = Schedule::new(&ScheduleConfig::default(), 1e-3, 100).unwrap();
        let write = |(step, model): (u64, &NamedTensors)| {
            let mut state = State::fresh(1, "config".into(), Precision::F32, &schedule);
            state.step = step;
            Checkpoints::of_run(dir.path()).write(&mut state, || Ok(model.clone()), || Ok(vec![])).unwrap()
        };
        let checkpoints = (10..).step_by(10).zip(models).map(write).collect();
        (dir, checkpoints)
    }

    fn average(models: &[NamedTensors]) -> Result<NamedTensors, String> {
        average_checkpoints(&checkpoints_of(models).1).map_err(|error| error.to_string())
    }

    #[test]
    fn the_mean_goes_into_a_model() {
        let mean = average(&[model(1.0), model(2.0), model(6.0)]).unwrap();
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
        let mean = values(&average(&[tensor(1e8), tensor(0.3), tensor(-1e8)]).unwrap(), "weight")[0];
        assert!((mean - 0.1).abs() < 1e-7, "{mean}");
    }

    #[test]
    fn one_checkpoint_is_its_own_average_and_none_has_one() {
        assert_eq!(bits(&average(&[model(0.7)]).unwrap()), bits(&model(0.7)));
        assert!(average(&[]).unwrap_err().starts_with("there is no checkpoint to average"));
    }

    #[test]
    fn checkpoints_of_different_models_are_named_with_tensor_and_files() {
        let refused = |models: &[NamedTensors]| average(models).unwrap_err();
        let mut reshaped = model(1.0);
        reshaped[1].1 = TensorData::from([[0.0f32; 2]; 3]);
        let message = refused(&[model(1.0), reshaped]);
        assert!(message.starts_with("tensor `weight` is F32 [3, 2] in `"), "{message}");
        assert!(message.contains("step-000020/model.bpk`, but F32 [2, 3] in `"), "{message}");
        assert!(message.contains("step-000010/model.bpk`; hint: "), "{message}");
        let message = refused(&[model(1.0), model(1.0)[..1].to_vec()]);
        assert!(message.starts_with("tensor `weight` is missing in `"), "{message}");
        let more = [model(1.0), vec![("head".to_owned(), TensorData::from([1.0f32]))]].concat();
        let message = refused(&[model(1.0), more]);
        assert!(
            message.starts_with("tensor `head` is F32 [1] in `") && message.contains("but missing in"),
            "{message}"
        );
        let whole = vec![("ids".to_owned(), TensorData::from([1i64]))];
        assert!(refused(&[whole]).ends_with("is damaged: tensor `ids` is I64 [1], which has no mean"));
    }
}
