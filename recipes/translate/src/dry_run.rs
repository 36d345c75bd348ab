use std::io::Write;

use fornax_cli::Ending;
use fornax_data::{BatchSource, inspect};
use fornax_models::Transformer;
use fornax_ops::LinearLogits;
use fornax_train::{Estimate, Learner, parameter_table, rehearse};

use crate::{Config, Data, NextTargetToken, training_flops_per_token};

/// Shows what would be trained and on what, and makes one step and one evaluation batch of it.
pub(crate) fn run(config: &Config, data: &Data, mut learner: Learner<Transformer>) -> anyhow::Result<Ending> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", parameter_table(&learner.parameters()))?;
    let sizes = learner.model().config();
    let (source_len, target_len) = data.mean_lengths();
    let pairs = match config.data.tokens_per_batch {
        Some(tokens) => (tokens / source_len.max(target_len)).max(1),
        None => config.train.micro_batch_size,
    };
    let steps_per_epoch = data.train.steps_per_epoch();
    // Some thirty vectors of `hidden_size` a token and layer, half as many more for the attention to the source, four attention
    // matrices a head, and three times the logits that are there at once, in `f32`, of pairs of mean length.
    let attention = |queries: usize, keys: usize| 4 * sizes.num_heads * queries * keys;
    let encoder = 30 * source_len * sizes.hidden_size + attention(source_len, source_len);
    let decoder =
        45 * target_len * sizes.hidden_size + attention(target_len, target_len) + attention(target_len, source_len);
    let train = &config.train;
    let layers = train.kept_by_blocks(sizes.num_layers, encoder, source_len * sizes.hidden_size)
        + train.kept_by_blocks(sizes.num_decoder_layers(), decoder, target_len * sizes.hidden_size);
    let estimate = Estimate {
        parameters: learner.num_parameters(),
        trained_parameters: learner.num_trained_parameters(),
        tokens_per_step: pairs * config.train.gradient_accumulation * (source_len + target_len),
        steps: config.train.total_steps(steps_per_epoch),
        steps_per_epoch,
        flops_per_token: training_flops_per_token(&sizes, data),
        activation_bytes: 4
            * (pairs * layers + 3 * LinearLogits::CHUNK.min(pairs * target_len * sizes.target_vocab_size)),
    };
    write!(out, "{estimate}")?;
    let batches = data.train.micro_batches(0)?;
    if let Some(batch) = batches.first() {
        let (source, target) = (&data.tokenizers.source, &data.tokenizers.target);
        writeln!(out, "\nfirst batch\n{}", inspect::render_translation(batch, source, target, 1))?;
    }
    let task = NextTargetToken::new(&config.objective);
    write!(out, "{}", rehearse(&mut learner, &batches, data.valid_batches(), &task)?)?;
    Ok(Ending::Done)
}
