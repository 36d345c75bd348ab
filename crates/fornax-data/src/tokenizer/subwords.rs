//! What GPT-2's and BERT's tokenizers have around their model, loaded or trained.

use tokenizers::decoders::wordpiece::WordPiece as WordPieceDecoder;
use tokenizers::models::bpe::BPE;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, Model};

/// BERT's special tokens, in the order of their ids in a new vocabulary.
pub(super) const BERT_SPECIALS: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];

/// GPT-2: text is split by its regex and spelled in bytes.
pub(super) fn byte_level_pipeline(model: BPE) -> tokenizers::Tokenizer {
    let byte_level = ByteLevel::new(false, true, true);
    let mut pipeline = tokenizers::Tokenizer::new(model);
    pipeline.with_pre_tokenizer(Some(byte_level)).with_decoder(Some(byte_level));
    pipeline
}

/// BERT: cleaned and (if `lowercase`) lower-cased text without accents, split at spaces and punctuation; a post-processor that
/// Hugging Face users expect puts `[CLS]` and `[SEP]` around when it is asked for special tokens.
pub(super) fn bert_pipeline(model: WordPiece, lowercase: bool) -> tokenizers::Result<tokenizers::Tokenizer> {
    let id = |token: &str| model.token_to_id(token).unwrap_or_default();
    let template = TemplateProcessing::builder()
        .try_single("[CLS] $A [SEP]")?
        .try_pair("[CLS] $A [SEP] $B:1 [SEP]:1")?
        .special_tokens(vec![("[CLS]", id("[CLS]")), ("[SEP]", id("[SEP]"))])
        .build()?;
    let mut pipeline = tokenizers::Tokenizer::new(model);
    pipeline.with_normalizer(Some(BertNormalizer::new(true, true, None, lowercase)))?;
    pipeline
        .with_pre_tokenizer(Some(BertPreTokenizer))
        .with_decoder(Some(WordPieceDecoder::default()))
        .with_post_processor(Some(template));
    pipeline.add_special_tokens(BERT_SPECIALS.map(|token| AddedToken::from(token, true)))?;
    Ok(pipeline)
}
