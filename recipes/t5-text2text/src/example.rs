use std::io::Write;

use anyhow::{Context, anyhow};
use fornax_cli::UsageContext;
use fornax_data::{DenoisingKind, Tokenizer};
use fornax_models::{T5, generate::Seq2SeqOptions};

use crate::{
    Config, Data, ExampleConfig,
    answers::{Answers, Row, decode, write_targets},
};

/// Refuses a text that can't be completed, before the training whose end it is for.
pub(crate) fn check(config: &Config, data: &Data) -> anyhow::Result<()> {
    let text = &config.example.text;
    if text.is_empty() {
        return Ok(());
    }
    let ids = data.tokenizer.encode(text).context("example.text").usage()?;
    let corrupts = config.objective.as_ref().is_some_and(|it| it.kind == DenoisingKind::SpanCorruption);
    match data.tokenizer.sentinel(0) {
        Some(sentinel) if corrupts && !ids.contains(&sentinel) => {
            let name = data.tokenizer.id_to_token(sentinel).unwrap_or_default();
            Err(anyhow!("example.text = {text:?}: has no {name} to fill in")).usage()
        }
        _ => Ok(()),
    }
}

/// Prints what the model makes of the text, and the first answers to each valid set.
pub(crate) fn print(
    config: &ExampleConfig,
    options: &Seq2SeqOptions,
    model: &T5,
    data: &Data,
    valid: &[Answers<'_>],
) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if !config.text.is_empty() {
        writeln!(out, "\n{}\n  {}", config.text, complete(&config.text, options, model, data)?)?;
    }
    for answers in valid.iter().filter(|_| config.answers > 0) {
        writeln!(out, "\n{}", answers.task.name)?;
        for Row { source, reference, answer } in answers.rows().take(config.answers) {
            writeln!(out, "  {source}\n    {answer}\n    (reference: {reference})")?;
        }
    }
    Ok(())
}

/// The text with what the model writes for its sentinels, or at its end; of tasks, the answer.
fn complete(text: &str, options: &Seq2SeqOptions, model: &T5, data: &Data) -> anyhow::Result<String> {
    let source = source(text, &data.tokenizer)?;
    let target = write_targets(model, std::slice::from_ref(&source), options)?.into_iter().flatten();
    let target: Vec<u32> = target.collect();
    let Some(denoising) = data.denoising() else { return Ok(decode(&data.tokenizer, &target)?) };
    let signed = |ids: &[u32]| ids.iter().map(|&id| id as i32).collect::<Vec<_>>();
    let restored = denoising.restore(&signed(&source), &signed(&target));
    let restored: Vec<u32> = restored.into_iter().map(|id| id as u32).collect();
    Ok(decode(&data.tokenizer, &restored)?)
}

/// The tokens of a source, with the one that ends it.
fn source(text: &str, tokenizer: &Tokenizer) -> anyhow::Result<Vec<u32>> {
    let mut ids = tokenizer.encode(text)?;
    ids.extend(tokenizer.end_of_text_id());
    Ok(ids)
}
