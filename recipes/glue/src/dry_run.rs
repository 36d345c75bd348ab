use std::io::Write;

use fornax_cli::Ending;
use fornax_data::{BatchSource, inspect};
use fornax_models::BertForSequenceClassification;
use fornax_train::{Estimate, Learner, parameter_table, rehearse};

use crate::{Classify, Config, Data};

/// Shows what would be trained and on what, and makes one step and one evaluation batch of it.
pub(crate) fn run(
    config: &Config,
    data: &Data,
    mut learner: Learner<BertForSequenceClassification>,
) -> anyhow::Result<Ending> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", parameter_table(&learner.parameters()))?;
    let sizes = learner.model().bert.config();
    let (rows, seq_len) = (config.train.micro_batch_size, config.data.max_len);
    let steps_per_epoch = data.train.steps_per_epoch();
    // Some thirty vectors of `hidden_size` a token and layer and four attention matrices a head, in `f32`, of the longest batch.
    let layer = 30 * seq_len * sizes.hidden_size + 4 * sizes.num_heads * seq_len * seq_len;
    let layers = config.train.kept_by_blocks(sizes.num_layers, layer, seq_len * sizes.hidden_size);
    let estimate = Estimate {
        parameters: learner.num_parameters(),
        trained_parameters: learner.num_trained_parameters(),
        tokens_per_step: rows * config.train.gradient_accumulation * seq_len,
        steps: config.train.total_steps(steps_per_epoch),
        steps_per_epoch,
        flops_per_token: sizes.training_flops_per_token(seq_len),
        activation_bytes: 4 * rows * layers,
    };
    write!(out, "{estimate}")?;
    let batches = data.train.micro_batches(0)?;
    if let Some(batch) = batches.first() {
        writeln!(out, "\nfirst batch\n{}", inspect::render_labelled(batch, &data.tokenizer, &data.splits.kind, 2))?;
    }
    let valid = data.valid.iter().flat_map(|set| set.first(1));
    write!(out, "{}", rehearse(&mut learner, &batches, valid, &Classify)?)?;
    Ok(Ending::Done)
}
