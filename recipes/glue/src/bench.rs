use std::io::Write;

use anyhow::Context;
use fornax_backend::OpenDevice;
use fornax_cli::Ending;
use fornax_models::BertForSequenceClassification;
use fornax_train::{Bench, Learner};

use crate::{Classify, Config, Data};

/// Times `steps` training steps and prints JSON. Tokens are those of the texts, padding left out.
pub(crate) fn run(
    steps: usize,
    config: &Config,
    device: &OpenDevice,
    data: &Data,
    mut learner: Learner<BertForSequenceClassification>,
) -> anyhow::Result<Ending> {
    let flops = learner.model().bert.config().training_flops_per_token(config.data.max_len);
    let bench = Bench::of(steps, &learner, device, flops);
    let mut batches = data.loader(0..bench.total_steps())?;
    let report = bench.run_learner(&mut learner, &Classify, |_| {
        let (_, micro_batches) = batches.next().context("the loader ended before the bench")??;
        anyhow::Ok(micro_batches)
    })?;
    writeln!(std::io::stdout(), "{}", serde_json::to_string(&report)?)?;
    Ok(Ending::Done)
}
