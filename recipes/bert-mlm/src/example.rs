use std::{io::Write, path::Path};

use anyhow::Context;
use fornax_cli::UsageContext;
use fornax_data::{SpecialToken, Tokenizer};
use fornax_pipelines::FillMask;

use crate::{ExampleConfig, Pretraining};

/// Refuses a text without a mask, before the training whose end it is for.
pub(crate) fn check(config: &ExampleConfig, tokenizer: &Tokenizer) -> anyhow::Result<()> {
    let mask = tokenizer.special_id(SpecialToken::Mask)?;
    let ids = tokenizer.encode(&config.text).context("example.text").usage()?;
    let name = tokenizer.id_to_token(mask).unwrap_or_default();
    let refuse = || anyhow::bail!("example.text = {:?}: has no {name} to fill in", config.text);
    if config.text.is_empty() || ids.contains(&mask) { Ok(()) } else { refuse().usage() }
}

/// Prints what the model fills in, and the command that fills in more.
pub(crate) fn print<M: Pretraining>(
    config: &ExampleConfig,
    model: M,
    tokenizer: &Tokenizer,
    run_dir: &Path,
) -> anyhow::Result<()> {
    if config.text.is_empty() {
        return Ok(());
    }
    let pipeline = FillMask::new(model.into_masked_lm(), tokenizer.clone())?;
    let answers = pipeline.run(&[&config.text], config.top_k)?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n{}", config.text)?;
    for guesses in answers.iter().flatten() {
        for guess in guesses {
            writeln!(out, "  {:5.1} %  {}", 100.0 * guess.score, guess.token_str)?;
        }
    }
    tracing::info!(
        "more: cargo run --release -p fornax -- predict --model {} '... {} ...'",
        run_dir.display(),
        pipeline.mask_token()
    );
    Ok(())
}
