use std::{io::Write, ops::ControlFlow, path::Path};

use anyhow::Context;
use fornax_data::Tokenizer;
use fornax_models::{
    Gpt2,
    generate::{SamplingOptions, generate},
};

use crate::SampleConfig;

/// Refuses what can't be sampled, before the training whose end it is for.
pub(crate) fn check(config: &SampleConfig, tokenizer: &Tokenizer) -> anyhow::Result<()> {
    sampling_options(config, tokenizer).validate(tokenizer.vocab_size()).context("[sample]")?;
    let prompt = tokenizer.encode_prompt(&config.prompt).context("sample.prompt")?;
    anyhow::ensure!(
        config.max_new_tokens == 0 || !prompt.is_empty(),
        "sample.prompt is empty for this tokenizer, which has no end-of-text token to begin with either: {:?}; hint: give at least \
         one token, or sample.max_new_tokens=0",
        config.prompt
    );
    Ok(())
}

/// Prints what the model says after the prompt, and the command that prints more.
pub(crate) fn print(config: &SampleConfig, model: &Gpt2, tokenizer: &Tokenizer, run_dir: &Path) -> anyhow::Result<()> {
    if config.max_new_tokens == 0 {
        return Ok(());
    }
    let options = sampling_options(config, tokenizer);
    let prompt = tokenizer.encode_prompt(&config.prompt)?;
    let mut text = tokenizer.text_stream(&prompt, true);
    let mut out = std::io::stdout().lock();
    write!(out, "\n{}", config.prompt)?;
    let mut failure = None;
    generate(model, std::slice::from_ref(&prompt), &options, &mut |_, token| {
        let shown = text.push(token).map_err(anyhow::Error::from).and_then(|piece| {
            write!(out, "{piece}")?;
            Ok(out.flush()?)
        });
        failure = shown.err();
        if failure.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    if let Some(error) = failure {
        return Err(error);
    }
    writeln!(out, "{}", text.finish()?)?;
    tracing::info!(
        "more: cargo run --release -p fornax -- generate --model {} --prompt {}",
        shell_word(&run_dir.display().to_string()),
        shell_word(&config.prompt)
    );
    Ok(())
}

fn sampling_options(config: &SampleConfig, tokenizer: &Tokenizer) -> SamplingOptions {
    SamplingOptions {
        max_new_tokens: config.max_new_tokens,
        temperature: config.temperature,
        top_k: config.top_k,
        stop_tokens: tokenizer.end_of_text_id().into_iter().collect(),
        ..SamplingOptions::default()
    }
}

/// The text as one word of a shell's command line; line breaks in the form that bash and zsh read.
fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else if text.contains(char::is_control) {
        let escaped = |c: char| match c {
            '\n' => "\\n".to_owned(),
            '\t' => "\\t".to_owned(),
            '\\' | '\'' => format!("\\{c}"),
            c if c.is_control() => format!("\\u{:04x}", u32::from(c)),
            c => c.to_string(),
        };
        format!("$'{}'", text.chars().map(escaped).collect::<String>())
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::shell_word;

    #[test]
    fn a_shell_reads_back_what_was_meant() {
        assert_eq!(shell_word("runs/gpt-lm-1"), "runs/gpt-lm-1");
        assert_eq!(shell_word("impl "), "'impl '");
        assert_eq!(shell_word("it's"), r"'it'\''s'");
        assert_eq!(shell_word("\n"), r"$'\n'");
        assert_eq!(shell_word("it's ü\t\r"), r"$'it\'s ü\t\u000d'");
    }
}
