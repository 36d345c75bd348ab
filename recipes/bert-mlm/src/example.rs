use std::{io::Write, path::Path};

use anyhow::{Context, anyhow};
use fornax_cli::UsageContext;
use fornax_data::{SpecialToken, Tokenizer};
use fornax_pipelines::FillMask;

use crate::{ExampleConfig, Pretraining};

/// Refuses a text without a mask, or with one that a model of `max_positions` does not read, before the training whose end it is
/// for.
pub(crate) fn check(config: &ExampleConfig, tokenizer: &Tokenizer, max_positions: usize) -> anyhow::Result<()> {
    if config.text.is_empty() {
        return Ok(());
    }
    let (mask, text) = (tokenizer.special_id(SpecialToken::Mask)?, with_own_mask(&config.text, tokenizer)?);
    let masks = |ids: Vec<u32>| ids.into_iter().filter(|id| *id == mask).count();
    let all = masks(tokenizer.encode(&text).context("example.text").usage()?);
    let read = tokenizer.encode_with_special(&text, None, max_positions).context("example.text").usage()?;
    let name = tokenizer.id_to_token(mask).unwrap_or_default();
    let problem = match masks(read.ids) {
        _ if all == 0 => format!("has no {name} to fill in"),
        read if read < all => {
            format!("a {name} lies behind the {max_positions} tokens that the model reads; shorten it")
        }
        _ => return Ok(()),
    };
    Err(anyhow!("example.text = {:?}: {problem}", config.text)).usage()
}

/// `text` with the tokenizer's own mask token for `[MASK]` and `<mask>`: a config says the same whatever family its model is of.
fn with_own_mask(text: &str, tokenizer: &Tokenizer) -> anyhow::Result<String> {
    let own = tokenizer.id_to_token(tokenizer.special_id(SpecialToken::Mask)?).unwrap_or_default();
    Ok(SpecialToken::Mask.names().iter().fold(text.to_owned(), |text, name| text.replace(name, &own)))
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
    let text = with_own_mask(&config.text, tokenizer)?;
    let answers = pipeline.run(&[&text], config.top_k)?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n{text}")?;
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
