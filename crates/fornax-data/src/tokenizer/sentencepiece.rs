//! SentencePiece's `spiece.model` (Kudo & Richardson, 2018), as T5 and its kin come with it.

mod added;
mod charsmap;
mod model;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::HashSet;
use std::path::Path;

use serde_json::Value;
use tokenizers::decoders::DecoderWrapper;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::models::unigram::Unigram;
use tokenizers::normalizers::Precompiled;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, Result};

use super::sentinels;
use super::unigram::{self, SPACE};
use model::{Model, ModelKind, PieceKind};

/// T5's sentinels, where `tokenizer_config.json` does not name another number.
const SENTINELS: usize = 100;
const CONFIG: &str = "tokenizer_config.json";
/// What leads around a refusal.
const WAY_OUT: &str = "open it with `transformers` and put the tokenizer.json that `save_pretrained` writes beside it";

/// Opens a Unigram model with T5's conventions: `</s>` behind a text, and T5's sentinels behind the pieces unless the model has its
/// own. The `tokenizer_config.json` beside it may name the number of sentinels (`extra_ids`). Tokens that were added to the model later,
/// in the same file (`added_tokens_decoder`) or in `added_tokens.json`, come behind the sentinels and keep their ids.
///
/// The ids are those of `transformers`' `T5Tokenizer`. They differ from those of SentencePiece itself where a text
/// - spells out a special token, which SentencePiece takes for plain text, or a symbol of the user, around which it does not end words,
/// - has combining marks: SentencePiece applies the longest rule that fits, `tokenizers` the shortest one that begins a grapheme of
///   up to five bytes, or a character of a longer one,
/// - has white space that is no space after normalisation, or U+2581.
///
/// Unlike `T5Tokenizer`, a model with byte fallback (mT5) spells unknown characters in bytes, as SentencePiece does.
pub(super) fn open(path: &Path) -> Result<tokenizers::Tokenizer> {
    let model = Model::parse(&std::fs::read(path)?)?;
    check(&model)?;
    let config = config_beside(path)?;
    let mut pipeline = pipeline(model, sentinel_count(&config)?)?;
    added::add(&mut pipeline, added::read(path, &config)?)?;
    Ok(pipeline)
}

/// Refuses what the pipeline would get wrong.
fn check(model: &Model) -> Result<()> {
    let refuse = |what: String| Err(format!("{what}; {WAY_OUT}").into());
    if model.trainer.kind != ModelKind::Unigram {
        return refuse(format!("it is a {:?} model, and only Unigram models are read", model.trainer.kind));
    }
    let normalizer = &model.normalizer;
    let settings = [
        ("normalizer_spec.add_dummy_prefix", normalizer.add_dummy_prefix, true),
        ("normalizer_spec.remove_extra_whitespaces", normalizer.remove_extra_whitespaces, true),
        ("normalizer_spec.escape_whitespaces", normalizer.escape_whitespaces, true),
        ("trainer_spec.treat_whitespace_as_suffix", model.trainer.whitespace_as_suffix, false),
    ];
    for (name, found, expected) in settings {
        if found != expected {
            return refuse(format!("{name} is {found}, and only {expected} is read"));
        }
    }
    let mut seen = HashSet::new();
    for (id, piece) in model.pieces.iter().enumerate() {
        let text = piece.text.as_str();
        let wrong = match piece.kind {
            _ if text.is_empty() => "is empty",
            _ if !seen.insert(text) => "comes twice",
            _ if !piece.score.is_finite() => "has no finite score",
            // Words are looked up one by one.
            PieceKind::Normal if text.chars().skip(1).any(|c| c == SPACE) => "reaches over a space",
            PieceKind::Unused => "is marked as unused, which can't be kept up",
            _ => continue,
        };
        return refuse(format!("piece {id} ({text:?}) {wrong}"));
    }
    match model.pieces.iter().filter(|piece| piece.kind == PieceKind::Unknown).count() {
        1 => Ok(()),
        count => refuse(format!("it has {count} pieces for what is unknown instead of one")),
    }
}

/// The `tokenizer_config.json` in the same folder; null if there is none.
fn config_beside(path: &Path) -> Result<Value> {
    let path = path.with_file_name(CONFIG);
    let config = json(&path)?;
    match config["tokenizer_class"].as_str() {
        // Other classes put other tokens around a text, and some number the pieces in another way.
        Some(class) if !["T5Tokenizer", "T5TokenizerFast", "MT5Tokenizer", "MT5TokenizerFast"].contains(&class) => {
            Err(format!("{} says that it is a {class}, and only T5's is read; {WAY_OUT}", path.display()).into())
        }
        _ => Ok(config),
    }
}

/// The content of a file; null if there is none.
fn json(path: &Path) -> Result<Value> {
    match path.is_file() {
        true => {
            Ok(serde_json::from_slice(&std::fs::read(path)?).map_err(|error| format!("{}: {error}", path.display()))?)
        }
        false => Ok(Value::Null),
    }
}

fn sentinel_count(config: &Value) -> Result<usize> {
    match &config["extra_ids"] {
        Value::Null => Ok(SENTINELS),
        count => match count.as_u64().and_then(|count| usize::try_from(count).ok()).filter(|count| *count <= 1 << 16) {
            Some(count) => Ok(count),
            None => Err(format!("extra_ids in tokenizer_config.json is {count}; expected a number up to 65536").into()),
        },
    }
}

fn pipeline(model: Model, sentinel_count: usize) -> Result<tokenizers::Tokenizer> {
    let unknown = model.pieces.iter().position(|piece| piece.kind == PieceKind::Unknown);
    let id_of = |token: &str| model.pieces.iter().position(|piece| piece.text == token).map(|id| id as u32);
    let own_sentinels = !sentinels::find(id_of).is_empty();
    let names: Vec<String> = sentinels::names(if own_sentinels { 0 } else { sentinel_count }).collect();
    let pieces = model.pieces.iter().map(|piece| (piece.text.clone(), f64::from(piece.score)));
    // The score of a sentinel plays no part: as a special token it is taken out of a text before the model sees it.
    let vocabulary = pieces.chain(names.iter().map(|name| (name.clone(), 0.0))).collect();
    let byte_fallback = model.trainer.byte_fallback;
    let mut pipeline = tokenizers::Tokenizer::new(Unigram::from(vocabulary, unknown, byte_fallback)?);
    if !model.normalizer.charsmap.is_empty() {
        charsmap::check(&model.normalizer.charsmap)?;
        pipeline.with_normalizer(Some(Precompiled::from(&model.normalizer.charsmap)?))?;
    }
    let (words, metaspace) = unigram::words();
    let decoder: DecoderWrapper = match byte_fallback {
        true => Decoders::new(vec![ByteFallback::new().into(), metaspace.into()]).into(),
        false => metaspace.into(),
    };
    pipeline.with_pre_tokenizer(Some(words)).with_decoder(Some(decoder));
    if let Some(end) = usize::try_from(model.trainer.eos_id).ok().and_then(|id| model.pieces.get(id)) {
        let template = TemplateProcessing::builder()
            .try_single(format!("$A {}", end.text))?
            .try_pair(format!("$A {end} $B {end}", end = end.text))?
            .special_tokens(vec![(end.text.as_str(), model.trainer.eos_id as u32)])
            .build()?;
        pipeline.with_post_processor(Some(template));
    }
    let added = model.pieces.iter().filter_map(|piece| match piece.kind {
        PieceKind::Control | PieceKind::Unknown => Some(AddedToken::from(piece.text.as_str(), true)),
        PieceKind::UserDefined => Some(AddedToken::from(piece.text.as_str(), false).normalized(false)),
        _ => None,
    });
    pipeline.add_tokens(added.chain(names.iter().map(|name| AddedToken::from(name.as_str(), true))))?;
    Ok(pipeline)
}
