use tokenizers::utils::truncation::{TruncationParams, TruncationStrategy, truncate_encodings};
use tokenizers::{Encoding, PostProcessor};

use super::{SpecialToken, Tokenizer};
use crate::DataError;

/// A text or a pair of texts as a model reads it, with the special tokens around.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedText {
    /// Token ids.
    pub ids: Vec<u32>,
    /// The token type of each: 0 and 1 for the texts of a pair where the tokenizer tells them apart, as BERT's does; else all 0.
    pub type_ids: Vec<u32>,
    /// Whether the text was cut.
    pub truncated: bool,
}

impl Tokenizer {
    /// The ids and token types of a text or a pair, with special tokens: as the tokenizer's own post-processor puts them (BERT:
    /// `[CLS] a [SEP] b [SEP]`, RoBERTa: `<s> a </s></s> b </s>`); where it has none that adds any, `[CLS]` or `<s>` if there is one,
    /// and `[SEP]` or the token that ends a text behind each.
    ///
    /// More than `max_len` tokens are cut on the right, those of the longer text first, as Hugging Face's `longest_first` does.
    ///
    /// # Errors
    ///
    /// If `max_len` leaves no room for the texts, a character has no token, or the tokenizer has no token to put behind a text.
    pub fn encode_with_special(
        &self,
        text: &str,
        pair: Option<&str>,
        max_len: usize,
    ) -> Result<EncodedText, DataError> {
        let specials = self.special_count(pair.is_some())?;
        let room =
            max_len.checked_sub(specials).filter(|room| *room > usize::from(pair.is_some())).ok_or_else(|| {
                DataError::ConfigValue {
                    key: "data.max_len",
                    value: max_len.to_string(),
                    expected: format!("more: {specials} tokens of each example are special tokens"),
                }
            })?;
        let plain = |text: &str| self.pipeline.encode_fast(text, false).map_err(|error| self.encode_error(text, error));
        let (first, second) = (plain(text)?, pair.map(plain).transpose()?);
        let failed =
            |error: tokenizers::Error| DataError::Encode { document: String::new(), reason: error.to_string() };
        let truncated = first.len() + second.as_ref().map_or(0, Encoding::len) > room;
        let params = TruncationParams {
            max_length: room,
            strategy: TruncationStrategy::LongestFirst,
            ..TruncationParams::default()
        };
        let (mut first, mut second) = truncate_encodings(first, second, &params).map_err(failed)?;
        // What was cut off; the post-processor would dress it up as well.
        first.take_overflowing();
        second.as_mut().map(Encoding::take_overflowing);
        if let Some(processor) = self.own_processor() {
            let encoding = processor.process(first, second, true).map_err(failed)?;
            let (ids, type_ids) = (encoding.get_ids().to_vec(), encoding.get_type_ids().to_vec());
            return Ok(EncodedText { ids, type_ids, truncated });
        }
        let separator = self.separator().ok_or(DataError::NoSeparator)?;
        let mut ids: Vec<u32> = self.opener().into_iter().chain(first.get_ids().iter().copied()).collect();
        ids.push(separator);
        let mut type_ids = vec![0; ids.len()];
        if let Some(second) = &second {
            ids.extend(second.get_ids().iter().copied().chain([separator]));
            type_ids.resize(ids.len(), 1);
        }
        Ok(EncodedText { ids, type_ids, truncated })
    }

    /// How many special tokens [`encode_with_special`](Self::encode_with_special) adds to a text or a pair.
    fn special_count(&self, pair: bool) -> Result<usize, DataError> {
        match self.own_processor() {
            Some(processor) => Ok(processor.added_tokens(pair)),
            None if self.separator().is_none() => Err(DataError::NoSeparator),
            None => Ok(usize::from(self.opener().is_some()) + 1 + usize::from(pair)),
        }
    }

    /// The post-processor, if it adds tokens: GPT-2's only trims offsets.
    fn own_processor(&self) -> Option<&impl PostProcessor> {
        self.pipeline.get_post_processor().filter(|processor| processor.added_tokens(false) > 0)
    }

    fn opener(&self) -> Option<u32> {
        self.special_id(SpecialToken::Cls).ok()
    }

    fn separator(&self) -> Option<u32> {
        self.special_id(SpecialToken::Sep).ok().or(self.end_of_text)
    }

    /// The id that fills up short rows: that of `[PAD]` or `<pad>`, else of the token that ends a text, else 0. A model does not look
    /// at it.
    pub fn filler_id(&self) -> u32 {
        self.special_id(SpecialToken::Pad).ok().or(self.end_of_text).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokenizers::models::wordlevel::WordLevel;
    use tokenizers::pre_tokenizers::whitespace::WhitespaceSplit;
    use tokenizers::processors::roberta::RobertaProcessing;

    use super::*;
    use crate::store::tests::memory;
    use crate::tokenizer::{TokenizerConfig, TokenizerKind};

    /// Letters a to f as words 3 to 8 behind three special tokens.
    fn letters(specials: [&str; 3], processor: Option<RobertaProcessing>) -> Tokenizer {
        let words = specials.into_iter().chain(["a", "b", "c", "d", "e", "f"]).map(str::to_owned);
        let model = WordLevel::builder().vocab(words.zip(0..).collect()).unk_token("?".into()).build().unwrap();
        let mut pipeline = tokenizers::Tokenizer::new(model);
        pipeline.with_pre_tokenizer(Some(WhitespaceSplit)).with_post_processor(processor);
        Tokenizer::new(pipeline, Path::new("letters")).unwrap()
    }

    fn encode(tokenizer: &Tokenizer, text: &str, pair: Option<&str>, max_len: usize) -> (Vec<u32>, Vec<u32>, bool) {
        let EncodedText { ids, type_ids, truncated } = tokenizer.encode_with_special(text, pair, max_len).unwrap();
        (ids, type_ids, truncated)
    }

    #[test]
    fn roberta_has_two_separators_and_one_type() {
        let processor = RobertaProcessing::new(("</s>".into(), 1), ("<s>".into(), 0));
        let tokenizer = letters(["<s>", "</s>", "<pad>"], Some(processor));
        assert_eq!(encode(&tokenizer, "a b", None, 10), (vec![0, 3, 4, 1], vec![0; 4], false));
        assert_eq!(encode(&tokenizer, "a", Some("b c"), 10), (vec![0, 3, 1, 1, 4, 5, 1], vec![0; 7], false));
        assert_eq!(encode(&tokenizer, "a b c", Some("d e f"), 8).0, [0, 3, 4, 1, 1, 6, 7, 1]);
        assert_eq!(tokenizer.filler_id(), 2);
    }

    #[test]
    fn without_a_post_processor_the_special_tokens_are_put_as_bert_does() {
        let tokenizer = letters(["[PAD]", "[CLS]", "[SEP]"], None);
        assert_eq!(encode(&tokenizer, "a b", None, 4), (vec![1, 3, 4, 2], vec![0; 4], false));
        let (ids, type_ids, truncated) = encode(&tokenizer, "a", Some("b c d e"), 7);
        assert_eq!((ids, type_ids, truncated), (vec![1, 3, 2, 4, 5, 6, 2], vec![0, 0, 0, 1, 1, 1, 1], true));
        assert_eq!(tokenizer.filler_id(), 0);
    }

    #[test]
    fn the_longer_text_is_cut_first() {
        let tokenizer = letters(["[PAD]", "[CLS]", "[SEP]"], None);
        let cut = |first: &str, second: &str, max_len| {
            let (ids, ..) = encode(&tokenizer, first, Some(second), max_len);
            ids
        };
        assert_eq!(cut("a b c d e", "f", 6), [1, 3, 4, 2, 8, 2]);
        assert_eq!(cut("f", "a b c d e", 6), [1, 8, 2, 3, 4, 2]);
        assert_eq!(cut("a b c", "d e f", 7), [1, 3, 4, 2, 6, 7, 2]);
        assert_eq!(cut("", "d e f", 5), [1, 2, 6, 7, 2]);
    }

    #[test]
    fn gpt2_ends_each_text_and_a_tokenizer_without_any_token_for_it_is_refused() {
        let train = |end_of_text| {
            let config = TokenizerConfig { kind: TokenizerKind::Byte, end_of_text, ..TokenizerConfig::default() };
            Tokenizer::train(&config, &memory(&["a"])).unwrap()
        };
        assert_eq!(encode(&train(Some(true)), "a", Some("b"), 9).0, [97, 256, 98, 256]);
        let error = train(None).encode_with_special("a", None, 9).unwrap_err();
        assert!(matches!(error, DataError::NoSeparator) && error.hint().is_some());
    }

    #[test]
    fn a_length_without_room_is_refused() {
        let tokenizer = letters(["[PAD]", "[CLS]", "[SEP]"], None);
        assert_eq!(encode(&tokenizer, "a b", None, 3).0, [1, 3, 2]);
        let error = tokenizer.encode_with_special("a", None, 2).unwrap_err().to_string();
        assert_eq!(error, "`data.max_len` is 2; expected more: 2 tokens of each example are special tokens");
        assert!(tokenizer.encode_with_special("a", Some("b"), 4).is_err());
        assert!(tokenizer.encode_with_special("a", Some("b"), 5).is_ok());
    }
}
