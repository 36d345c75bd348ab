use std::io::Write;

use fornax_cli::Ending;
use fornax_data::{BatchSource, inspect};
use fornax_models::Gpt2;
use fornax_train::{Learner, ParameterInfo, evaluate};

use crate::{Config, Data, NextToken};

/// Bytes for each parameter: itself, its gradient and two moments, in `f32`.
const BYTES_PER_PARAMETER: usize = 16;

/// Shows what would be trained and on what, and makes one step and one evaluation batch of it.
pub(crate) fn run(config: &Config, data: &Data, mut learner: Learner<Gpt2>) -> anyhow::Result<Ending> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", table(&learner.parameters()))?;
    let sizes = learner.model().config();
    let seq_len = config.objective.seq_len;
    let tokens = config.train.micro_batch_size * config.train.gradient_accumulation * seq_len;
    let flops = sizes.training_flops_per_token(seq_len) * tokens as f64;
    let state = learner.num_parameters() * BYTES_PER_PARAMETER;
    let activations = activation_bytes(&sizes, config.train.micro_batch_size, seq_len);
    writeln!(out, "tokens a step     {tokens}")?;
    writeln!(out, "steps             {}", config.train.total_steps(data.train.steps_per_epoch()))?;
    writeln!(out, "steps an epoch    {}", data.train.steps_per_epoch())?;
    writeln!(out, "GFLOP a step      {:.1}", flops / 1e9)?;
    writeln!(
        out,
        "memory, about     {} MiB: parameters, gradients and moments {}, activations {}",
        (state + activations) >> 20,
        state >> 20,
        activations >> 20
    )?;
    let batches = data.train.micro_batches(0)?;
    if let Some(batch) = batches.first() {
        writeln!(out, "\nfirst batch\n{}", inspect::render(batch, &data.tokenizer, 1))?;
    }
    learner.train_step(0, &batches, &NextToken)?;
    if let Some(window) = learner.take_window()? {
        writeln!(out, "one step          loss {:.4}, gradient norm {:.4}", window.loss, window.grad_norm)?;
    }
    let valid = data.valid_batches().take(1);
    let metrics = evaluate(&learner.valid(), valid, &NextToken, learner.precision(), |_| ())?;
    if let Some(loss) = metrics.get("loss") {
        writeln!(out, "one valid batch   loss {loss:.4} after that step")?;
    }
    Ok(Ending::Done)
}

fn table(parameters: &[ParameterInfo]) -> String {
    let width = parameters.iter().map(|parameter| parameter.path.len()).max().unwrap_or(0);
    let line = |parameter: &ParameterInfo| {
        let shape = format!("{:?}", parameter.shape);
        format!("{:<width$}  {shape:<16}{:>12}\n", parameter.path, parameter.num_elements())
    };
    let total: usize = parameters.iter().map(ParameterInfo::num_elements).sum();
    let lines: String = parameters.iter().map(line).collect();
    format!("{lines}{:<width$}  {:<16}{total:>12}\n", "parameters", "")
}

/// What a micro-batch keeps for the backward pass, roughly, in `f32`: some thirty vectors of `hidden_size` a token and layer,
/// four attention matrices a head, and the logits three times.
fn activation_bytes(sizes: &fornax_models::Gpt2Config, rows: usize, seq_len: usize) -> usize {
    let layer = 30 * seq_len * sizes.hidden_size + 4 * sizes.num_heads * seq_len * seq_len;
    4 * rows * (sizes.num_layers * layer + 3 * seq_len * sizes.vocab_size)
}
