//! Tokens that `transformers` users add to a published model: `[R]`, `<sep>`, words of their own.

use std::path::Path;

use serde_json::Value;
use tokenizers::{AddedToken, Result};

use super::{CONFIG, WAY_OUT, json};

/// Where older versions of `transformers` write them, without flags.
const OLDER: &str = "added_tokens.json";

/// A token and its id in one of the files.
pub(super) struct Added {
    id: u32,
    token: AddedToken,
    file: &'static str,
}

/// The tokens in `added_tokens_decoder` of `tokenizer_config.json`, which is `config`, and in `added_tokens.json` beside `model`, by
/// their ids.
pub(super) fn read(model: &Path, config: &Value) -> Result<Vec<Added>> {
    let mut found = Vec::new();
    for (id, token) in config["added_tokens_decoder"].as_object().into_iter().flatten() {
        let wrong = || format!("{CONFIG}: added_tokens_decoder has {token} for {id}; expected a token for an id");
        let name = token["content"].as_str().ok_or_else(wrong)?;
        let flag = |key: &str, default: bool| token[key].as_bool().unwrap_or(default);
        let special = flag("special", false);
        let token = AddedToken::from(name, special)
            .lstrip(flag("lstrip", false))
            .rstrip(flag("rstrip", false))
            .single_word(flag("single_word", false))
            .normalized(flag("normalized", !special));
        found.push(Added { id: id.parse().map_err(|_| wrong())?, token, file: CONFIG });
    }
    let older = json(&model.with_file_name(OLDER))?;
    for (name, id) in older.as_object().into_iter().flatten() {
        let parsed = id.as_u64().and_then(|id| u32::try_from(id).ok());
        let id = parsed.ok_or_else(|| format!("{OLDER} has {id} for {name:?}; expected an id"))?;
        found.push(Added { id, token: AddedToken::from(name.as_str(), false), file: OLDER });
    }
    // Stable: of a token in both files the flags count.
    found.sort_by_key(|added| added.id);
    Ok(found)
}

/// Adds those that `pipeline` lacks.
///
/// # Errors
/// A token that would get another id than its file says: one of the model or a sentinel has it, or ids before it are no token's.
pub(super) fn add(pipeline: &mut tokenizers::Tokenizer, tokens: Vec<Added>) -> Result<()> {
    let mut next = pipeline.get_vocab_size(true) as u32;
    for Added { id, token, file } in tokens {
        let name = &token.content;
        match pipeline.token_to_id(name) {
            Some(found) if found == id => continue,
            Some(found) => {
                return Err(format!("{name:?} has the id {id} in {file} and {found} in the model; {WAY_OUT}").into());
            }
            None if id != next => {
                return Err(format!(
                    "{name:?} has the id {id} in {file}, but the first free one behind the model, its sentinels and other added \
                     tokens is {next}; {WAY_OUT}"
                )
                .into());
            }
            None => next += 1,
        }
        pipeline.add_tokens([token])?;
    }
    Ok(())
}
