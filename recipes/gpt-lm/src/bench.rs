use std::io::Write;

use anyhow::Context;
use fornax_backend::OpenDevice;
use fornax_cli::Ending;
use fornax_models::Gpt2;
use fornax_train::{Bench, Learner};

use crate::{Data, NextToken};

/// Times `steps` training steps and prints JSON.
pub(crate) fn run(
    steps: usize,
    device: &OpenDevice,
    data: &Data,
    mut learner: Learner<Gpt2>,
) -> anyhow::Result<Ending> {
    let flops = learner.model().config().training_flops_per_token(data.train.blocks().seq_len());
    let bench = Bench::of(steps, &learner, device, flops);
    let mut batches = data.loader(0..bench.total_steps())?;
    let report = bench.run_learner(&mut learner, &NextToken, |_| {
        let (_, micro_batches) = batches.next().context("the loader ended before the bench")??;
        anyhow::Ok(micro_batches)
    })?;
    writeln!(std::io::stdout(), "{}", serde_json::to_string(&report)?)?;
    Ok(Ending::Done)
}
