use std::path::{Path, PathBuf};

use tokenizers::models::bpe::BPE;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::roberta::RobertaProcessing;
use tokenizers::{AddedToken, Model};

use super::subwords::{BERT_SPECIALS, bert_pipeline, byte_level_pipeline};
use super::{END_OF_TEXT, Tokenizer, sentencepiece};
use crate::DataError;

impl Tokenizer {
    /// Opens a tokenizer: a file, or a folder with one of
    /// - `tokenizer.json` (Hugging Face, any kind; also a run folder),
    /// - `vocab.json` and `merges.txt` (GPT-2; RoBERTa if there is a `<mask>`), also with a common prefix as in `gpt2-vocab.json` and `gpt2-merges.txt`,
    /// - `vocab.txt` (BERT; taken as cased if a token has an upper-case letter),
    /// - `spiece.model` (T5: SentencePiece's Unigram models), also under any other name that ends in `.model`, with the tokens that
    ///   `tokenizer_config.json` or `added_tokens.json` beside it add.
    ///
    /// Padding, truncation and BPE dropout that the file asks for are switched off.
    ///
    /// # Errors
    ///
    /// If there is no such file, or it is none of these.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let file = if path.is_dir() { find(path)? } else { path.to_owned() };
        std::fs::metadata(&file).map_err(DataError::io(&file))?;
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let pipeline = match name.rsplit_once('.') {
            _ if name.ends_with("merges.txt") => gpt2(&partner(&file, "merges.txt", "vocab.json")?, &file),
            _ if name.ends_with("vocab.json") => gpt2(&file, &partner(&file, "vocab.json", "merges.txt")?),
            Some((_, "txt")) => bert(&file),
            Some((_, "model")) => sentencepiece::open(&file),
            _ => tokenizers::Tokenizer::from_file(&file),
        };
        let pipeline =
            pipeline.map_err(|error| DataError::InvalidTokenizer { path: file.clone(), reason: error.to_string() })?;
        Self::new(pipeline, &file)
    }
}

fn find(folder: &Path) -> Result<PathBuf, DataError> {
    for name in ["tokenizer.json", "vocab.json", "vocab.txt", "spiece.model"] {
        let file = folder.join(name);
        if file.is_file() {
            return Ok(file);
        }
    }
    let mut vocabularies = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(DataError::io(folder))? {
        let path = entry.map_err(DataError::io(folder))?.path();
        if path.to_string_lossy().ends_with("-vocab.json") {
            vocabularies.push(path);
        }
    }
    match vocabularies.len() {
        1 => Ok(vocabularies.remove(0)),
        _ => Err(DataError::NoTokenizer { folder: folder.into() }),
    }
}

/// The file that belongs to `file`, whose name ends in `other` instead of `ending`.
fn partner(file: &Path, ending: &str, other: &str) -> Result<PathBuf, DataError> {
    let name = file.file_name().unwrap_or_default().to_string_lossy().replace(ending, other);
    let partner = file.with_file_name(name);
    std::fs::metadata(&partner).map_err(DataError::io(&partner))?;
    Ok(partner)
}

/// GPT-2, or RoBERTa if the vocabulary has a `<mask>`.
fn gpt2(vocab: &Path, merges: &Path) -> tokenizers::Result<tokenizers::Tokenizer> {
    let model = BPE::from_file(&vocab.to_string_lossy(), &merges.to_string_lossy()).build()?;
    let id = |token: &str| model.token_to_id(token);
    if let (Some(cls), Some(sep), Some(_)) = (id("<s>"), id("</s>"), id("<mask>")) {
        let around = RobertaProcessing::new(("</s>".into(), sep), ("<s>".into(), cls)).add_prefix_space(false);
        let mut pipeline = byte_level_pipeline(model);
        pipeline.with_post_processor(Some(around));
        let specials = ["<s>", "<pad>", "</s>", "<unk>"].map(|token| AddedToken::from(token, true));
        // The space before a hidden word is a part of the word.
        let mask = AddedToken::from("<mask>", true).lstrip(true);
        pipeline.add_special_tokens(specials.into_iter().chain([mask]))?;
        return Ok(pipeline);
    }
    let has_end = id(END_OF_TEXT).is_some();
    let mut pipeline = byte_level_pipeline(model);
    pipeline.with_post_processor(Some(ByteLevel::new(true, false, true)));
    pipeline.add_special_tokens(has_end.then(|| AddedToken::from(END_OF_TEXT, true)))?;
    Ok(pipeline)
}

fn bert(vocab: &Path) -> tokenizers::Result<tokenizers::Tokenizer> {
    let model = WordPiece::from_file(&vocab.to_string_lossy()).unk_token("[UNK]".into()).build()?;
    for special in BERT_SPECIALS {
        if model.token_to_id(special).is_none() {
            return Err(format!("this is no BERT vocabulary: it has no {special}").into());
        }
    }
    let cased = model
        .get_vocab()
        .keys()
        .any(|token| !token.starts_with('[') && token.contains(|c: char| c.is_ascii_uppercase()));
    bert_pipeline(model, !cased)
}
