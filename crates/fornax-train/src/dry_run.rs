//! `--dry-run`: what would be trained and what it would cost, told before it begins.

use std::fmt;

use burn::module::Module;

use crate::{BoxError, Learner, ParameterInfo, Task, TrainError, evaluate};

/// Bytes for each parameter, in `f32`.
const BYTES_PER_PARAMETER: usize = 4;

/// Bytes besides for each parameter that is trained: its gradient and two moments, in `f32`.
const BYTES_PER_TRAINED: usize = 12;

/// The cost of a training as far as it follows from sizes.
#[derive(Clone, Debug, PartialEq)]
pub struct Estimate {
    /// Numbers in the model's parameters.
    pub parameters: usize,
    /// Those of them that are trained.
    pub trained_parameters: usize,
    /// Tokens that a step reads, padding included.
    pub tokens_per_step: usize,
    /// Steps of the run.
    pub steps: u64,
    /// Steps of an epoch.
    pub steps_per_epoch: u64,
    /// Floating-point operations for one token, forward and backward, as if every parameter were trained.
    pub flops_per_token: f64,
    /// Bytes that a micro-batch keeps for the backward pass, roughly.
    pub activation_bytes: usize,
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.parameters * BYTES_PER_PARAMETER + self.trained_parameters * BYTES_PER_TRAINED;
        if self.trained_parameters < self.parameters {
            writeln!(f, "trained           {} of {} parameters", self.trained_parameters, self.parameters)?;
        }
        writeln!(f, "tokens a step     {}", self.tokens_per_step)?;
        writeln!(f, "steps             {}", self.steps)?;
        writeln!(f, "steps an epoch    {}", self.steps_per_epoch)?;
        writeln!(f, "GFLOP a step      {:.1}", self.flops_per_token * self.tokens_per_step as f64 / 1e9)?;
        writeln!(
            f,
            "memory, about     {} MiB: parameters, gradients and moments {}, activations {}",
            (state + self.activation_bytes) >> 20,
            state >> 20,
            self.activation_bytes >> 20
        )
    }
}

/// The parameters as a table for people: path, shape, count, `not trained` where that is so, and the sum.
pub fn parameter_table(parameters: &[ParameterInfo]) -> String {
    let width = parameters.iter().map(|parameter| parameter.path.len()).max().unwrap_or(0);
    let line = |parameter: &ParameterInfo| {
        let shape = format!("{:?}", parameter.shape);
        let mark = if parameter.trainable { "" } else { "  not trained" };
        format!("{:<width$}  {shape:<16}{:>12}{mark}\n", parameter.path, parameter.num_elements())
    };
    let total: usize = parameters.iter().map(ParameterInfo::num_elements).sum();
    let lines: String = parameters.iter().map(line).collect();
    format!("{lines}{:<width$}  {:<16}{total:>12}\n", "parameters", "")
}

/// What came of one step and one evaluation batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rehearsal {
    /// The loss of the step.
    pub loss: f64,
    /// The global norm of its gradient, before clipping.
    pub grad_norm: f64,
    /// The loss of the evaluation batch, after the step.
    pub valid_loss: Option<f64>,
}

impl fmt::Display for Rehearsal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "one step          loss {:.4}, gradient norm {:.4}", self.loss, self.grad_norm)?;
        match self.valid_loss {
            Some(loss) => writeln!(f, "one valid batch   loss {loss:.4} after that step"),
            None => Ok(()),
        }
    }
}

/// Makes one step on `batches` and evaluates the first batch of `valid`.
///
/// # Errors
///
/// As [`Learner::train_step`], [`Learner::take_window`] and [`evaluate`].
pub fn rehearse<M, T, E>(
    learner: &mut Learner<M>,
    batches: &[T::Batch],
    valid: impl IntoIterator<Item = Result<T::Batch, E>>,
    task: &T,
) -> Result<Rehearsal, TrainError>
where
    M: Module,
    T: Task<M>,
    E: Into<BoxError>,
{
    learner.train_step(0, batches, task)?;
    let window = learner.take_window()?;
    let metrics = evaluate(&learner.valid(), valid.into_iter().take(1), task, learner.precision(), |_| ())?;
    let (loss, grad_norm) = window.map_or((f64::NAN, f64::NAN), |window| (window.loss, window.grad_norm));
    Ok(Rehearsal { loss, grad_norm, valid_loss: metrics.get("loss") })
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::{
        parameters::parameters,
        testing::{Regression, Tiny, learner, optimizer, rows},
    };

    #[test]
    fn a_rehearsal_makes_one_step_and_evaluates_after_it() {
        let mut learner = learner(optimizer());
        let before =
            evaluate(&learner.valid(), [Ok::<_, Infallible>(rows(0))], &Regression, learner.precision(), |_| ());
        let before = before.unwrap().get("loss").unwrap();
        let valid = (0..3).map(|step| Ok::<_, Infallible>(rows(step)));
        let rehearsal = rehearse(&mut learner, &[rows(0)], valid, &Regression).unwrap();
        assert!((rehearsal.loss - before).abs() < 1e-6 && rehearsal.grad_norm > 0.0, "{rehearsal:?}");
        assert!(rehearsal.valid_loss.unwrap() < before, "{rehearsal:?} began at {before}");
        let text = rehearsal.to_string();
        assert!(
            text.starts_with("one step          loss 3.4516, gradient norm ") && text.contains("one valid batch"),
            "{text}"
        );
    }

    /// Of a model of which 2^20 numbers are trained.
    fn estimate(parameters: usize) -> Estimate {
        Estimate {
            parameters,
            trained_parameters: 1 << 20,
            tokens_per_step: 1000,
            steps: 5,
            steps_per_epoch: 2,
            flops_per_token: 6e6,
            activation_bytes: 3 << 20,
        }
    }

    #[test]
    fn the_table_adds_up_and_the_estimate_follows_from_the_sizes() {
        let learner = learner(optimizer());
        let table = parameter_table(&learner.parameters());
        assert_eq!(table.lines().last().unwrap().split_whitespace().collect::<Vec<_>>(), ["parameters", "9"]);
        let text = estimate(1 << 20).to_string();
        assert!(text.contains("GFLOP a step      6.0\n"), "{text}");
        assert!(text.ends_with("19 MiB: parameters, gradients and moments 16, activations 3\n"), "{text}");
        assert!(!table.contains("not trained") && !text.contains("trained"), "{table}{text}");
    }

    #[test]
    fn what_is_not_trained_is_marked_and_needs_no_gradient() {
        let mut model = Tiny::new(&fornax_backend::test_device().autodiff());
        model.weight = model.weight.set_require_grad(false);
        let parameters = parameters(&model);
        let table = parameter_table(&parameters);
        let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["weight", "[2,", "3]", "6", "not", "trained"]);
        assert_eq!((&lines[1][..], &lines[2][..]), (&["bias", "[3]", "3"][..], &["parameters", "9"][..]));
        let text = estimate(4 << 20).to_string();
        assert!(text.starts_with("trained           1048576 of 4194304 parameters\n"), "{text}");
        assert!(text.ends_with("31 MiB: parameters, gradients and moments 28, activations 3\n"), "{text}");
    }
}
