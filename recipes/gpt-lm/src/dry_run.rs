use std::io::Write;

use fornax_cli::Ending;
use fornax_data::{BatchSource, inspect};
use fornax_models::Gpt2;
use fornax_ops::LinearLogits;
use fornax_train::{Estimate, Learner, parameter_table, rehearse};

use crate::{Config, Data, NextToken};

/// Shows what would be trained and on what, and makes one step and one evaluation batch of it.
pub(crate) fn run(config: &Config, data: &Data, mut learner: Learner<Gpt2>) -> anyhow::Result<Ending> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", parameter_table(&learner.parameters()))?;
    let sizes = learner.model().config();
    let (rows, seq_len) = (config.train.micro_batch_size, config.objective.seq_len);
    let steps_per_epoch = data.train.steps_per_epoch();
    let estimate = Estimate {
        parameters: learner.num_parameters(),
        trained_parameters: learner.num_trained_parameters(),
        tokens_per_step: rows * config.train.gradient_accumulation * seq_len,
        steps: config.train.total_steps(steps_per_epoch),
        steps_per_epoch,
        flops_per_token: sizes.training_flops_per_token(seq_len),
        activation_bytes: activation_bytes(config, &sizes),
    };
    write!(out, "{estimate}")?;
    let batches = data.train.micro_batches(0)?;
    if let Some(batch) = batches.first() {
        writeln!(out, "\nfirst batch\n{}", inspect::render(batch, &data.tokenizer, 1))?;
    }
    write!(out, "{}", rehearse(&mut learner, &batches, data.valid_batches(), &NextToken)?)?;
    Ok(Ending::Done)
}

/// What a micro-batch keeps for the backward pass, roughly, in `f32`: some thirty vectors of `hidden_size` a token and layer,
/// four attention matrices a head, and three times the logits that are there at once.
fn activation_bytes(config: &Config, sizes: &fornax_models::Gpt2Config) -> usize {
    let (rows, seq_len) = (config.train.micro_batch_size, config.objective.seq_len);
    let layer = 30 * seq_len * sizes.hidden_size + 4 * sizes.num_heads * seq_len * seq_len;
    let layers = config.train.kept_by_blocks(sizes.num_layers, layer, seq_len * sizes.hidden_size);
    4 * (rows * layers + 3 * LinearLogits::CHUNK.min(rows * seq_len * sizes.vocab_size))
}
