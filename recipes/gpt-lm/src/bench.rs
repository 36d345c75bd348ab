use std::io::Write;

use anyhow::Context;
use fornax_backend::OpenDevice;
use fornax_cli::Ending;
use fornax_models::Gpt2;
use fornax_train::{Bench, Learner};

use crate::{Data, NextToken};

/// Steps before the clock starts, as many as the PyTorch program beside which Fornax is measured takes.
const WARMUP: usize = 3;

/// Times `steps` training steps and prints JSON.
pub(crate) fn run(
    steps: usize,
    device: &OpenDevice,
    data: &Data,
    mut learner: Learner<Gpt2>,
) -> anyhow::Result<Ending> {
    let seq_len = data.train.blocks().seq_len();
    let bench = Bench {
        warmup: WARMUP,
        steps,
        device: device.spec.to_string(),
        precision: learner.precision().to_string(),
        parameters: learner.num_parameters() as u64,
        flops_per_token: Some(learner.model().config().training_flops_per_token(seq_len)),
        peak_flops: device.peak_flops(learner.precision()),
    };
    let mut batches = data.loader(0..(WARMUP + steps) as u64)?;
    let report = bench.run_learner(&mut learner, &NextToken, |_| {
        let (_, micro_batches) = batches.next().context("the loader ended before the bench")??;
        anyhow::Ok(micro_batches)
    })?;
    writeln!(std::io::stdout(), "{}", serde_json::to_string(&report)?)?;
    Ok(Ending::Done)
}
