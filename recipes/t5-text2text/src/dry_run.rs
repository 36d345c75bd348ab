use std::io::Write;

use fornax_cli::Ending;
use fornax_data::{BatchSource, inspect};
use fornax_models::{T5, T5Config};
use fornax_ops::LinearLogits;
use fornax_train::{Estimate, Learner, TrainConfig, parameter_table, rehearse};

use crate::{
    Config, Data, TextToText,
    data::{EvalSet, Lengths},
};

/// Shows what would be trained and on what, and makes one step and one evaluation batch of it.
pub(crate) fn run(config: &Config, data: &Data, mut learner: Learner<T5>) -> anyhow::Result<Ending> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", parameter_table(&learner.parameters()))?;
    let (sizes, rows, mean) = (learner.model().config(), config.train.micro_batch_size, data.mean_lengths());
    let steps_per_epoch = data.train.steps_per_epoch();
    let estimate = Estimate {
        parameters: learner.num_parameters(),
        trained_parameters: learner.num_trained_parameters(),
        tokens_per_step: rows * config.train.gradient_accumulation * (mean.source + mean.target),
        steps: config.train.total_steps(steps_per_epoch),
        steps_per_epoch,
        flops_per_token: sizes.training_flops_per_token(mean.source, mean.target),
        activation_bytes: activation_bytes(&config.train, &sizes, rows, data.longest()),
    };
    write!(out, "{estimate}")?;
    let batches = data.train.micro_batches(0)?;
    if let Some(batch) = batches.first() {
        writeln!(out, "\nfirst batch\n{}", inspect::render_seq2seq(batch, &data.tokenizer, 1))?;
    }
    let valid = data.valid.iter().flat_map(EvalSet::iter);
    write!(out, "{}", rehearse(&mut learner, &batches, valid, &TextToText)?)?;
    Ok(Ending::Done)
}

/// What so many pairs keep for the backward pass, in `f32`, roughly: some thirty vectors of `hidden_size` a token and block, half as many
/// again for cross-attention, four attention matrices a head, and three times the logits that are there at once.
fn activation_bytes(train: &TrainConfig, sizes: &T5Config, rows: usize, Lengths { source, target }: Lengths) -> usize {
    let encoder = 30 * source * sizes.hidden_size + 4 * sizes.num_heads * source * source;
    let decoder = 45 * target * sizes.hidden_size + 4 * sizes.num_heads * target * (target + source);
    let layers = train.kept_by_blocks(sizes.num_layers, encoder, source * sizes.hidden_size)
        + train.kept_by_blocks(sizes.num_decoder_layers(), decoder, target * sizes.hidden_size);
    4 * (rows * layers + 3 * LinearLogits::CHUNK.min(rows * target * sizes.vocab_size))
}
