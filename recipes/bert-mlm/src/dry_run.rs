use std::io::Write;

use fornax_cli::Ending;
use fornax_data::{BatchSource, inspect};
use fornax_ops::LinearLogits;
use fornax_train::{Estimate, Learner, parameter_table, rehearse};

use crate::{Config, Data, MaskedLm, Pretraining, training_flops_per_token};

/// Shows what would be trained and on what, and makes one step and one evaluation batch of it.
pub(crate) fn run<M: Pretraining>(config: &Config, data: &Data, mut learner: Learner<M>) -> anyhow::Result<Ending> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", parameter_table(&learner.parameters()))?;
    let sizes = learner.model().encoder().config();
    let (rows, seq_len) = (config.train.micro_batch_size, config.objective.seq_len);
    let steps_per_epoch = data.train.steps_per_epoch();
    // Some thirty vectors of `hidden_size` a token and layer, four attention matrices a head, and three times the logits that are there
    // at once, in `f32`.
    let layer = 30 * seq_len * sizes.hidden_size + 4 * sizes.num_heads * seq_len * seq_len;
    let layers = config.train.kept_by_blocks(sizes.num_layers, layer, seq_len * sizes.hidden_size);
    let predicted = (config.predicted_share() * seq_len as f64).ceil() as usize;
    let estimate = Estimate {
        parameters: learner.num_parameters(),
        trained_parameters: learner.num_trained_parameters(),
        tokens_per_step: rows * config.train.gradient_accumulation * seq_len,
        steps: config.train.total_steps(steps_per_epoch),
        steps_per_epoch,
        flops_per_token: training_flops_per_token(config, &sizes),
        activation_bytes: 4 * (rows * layers + 3 * LinearLogits::CHUNK.min(rows * predicted * sizes.vocab_size)),
    };
    write!(out, "{estimate}")?;
    let batches = data.train.micro_batches(0)?;
    if let Some(batch) = batches.first() {
        writeln!(out, "\nfirst batch\n{}", inspect::render_masked(batch, &data.tokenizer, 1))?;
    }
    write!(out, "{}", rehearse(&mut learner, &batches, data.valid_batches(), &MaskedLm::new(&config.objective))?)?;
    Ok(Ending::Done)
}
