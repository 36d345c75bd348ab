use std::io::Write;

use anyhow::{Context, anyhow};
use fornax_cli::UsageContext;
use fornax_data::{Denoising, DenoisingKind, Tokenizer};
use fornax_models::{
    T5,
    generate::{Seq2SeqOptions, generate_seq2seq},
};
use fornax_train::Learner;

use crate::{
    Config, Data, ExampleConfig,
    outcome::{TaskAnswers, Writer},
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
    writer: &Writer<'_>,
    learner: &Learner<T5>,
    valid: &[TaskAnswers<'_>],
) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if !config.text.is_empty() {
        let written = match writer.data.denoising() {
            Some(denoising) => complete(&config.text, denoising, writer, learner)?,
            None => writer.answer_text(&config.text, learner)?,
        };
        writeln!(out, "\n{}\n  {written}", config.text)?;
    }
    for TaskAnswers { task, answers } in valid.iter().filter(|_| config.answers > 0) {
        writeln!(out, "\n{}", task.name)?;
        for row in answers.rows().take(config.answers) {
            writeln!(out, "  {}\n    {}\n    (reference: {})", row.source, row.answer, row.reference)?;
        }
    }
    Ok(())
}

/// The text with what the model writes for its sentinels, or at its end.
fn complete(text: &str, denoising: &Denoising, writer: &Writer<'_>, learner: &Learner<T5>) -> anyhow::Result<String> {
    let tokenizer = &writer.data.tokenizer;
    let source = source(text, tokenizer)?;
    let options = Seq2SeqOptions { precision: learner.precision(), ..writer.answering.last.clone() };
    let found = generate_seq2seq(&learner.valid(), std::slice::from_ref(&source), &options)?;
    let target = found.into_iter().flatten().next().map_or_else(Vec::new, |best| best.tokens);
    let signed = |ids: &[u32]| ids.iter().map(|&id| id as i32).collect::<Vec<_>>();
    let restored = denoising.restore(&signed(&source), &signed(&target));
    let restored: Vec<u32> = restored.into_iter().map(|id| id as u32).collect();
    Ok(tokenizer.decode(&restored, true)?.trim().to_owned())
}

/// The tokens of a source, with the one that ends it.
fn source(text: &str, tokenizer: &Tokenizer) -> anyhow::Result<Vec<u32>> {
    let mut ids = tokenizer.encode(text)?;
    ids.extend(tokenizer.end_of_text_id());
    Ok(ids)
}
