use std::collections::{BTreeSet, HashMap};

use tokenizers::decoders::fuse::Fuse;
use tokenizers::models::ModelWrapper;
use tokenizers::models::bpe::BPE;
use tokenizers::models::wordlevel::WordLevel;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, Model, SplitDelimiterBehavior};

use super::END_OF_TEXT;

/// Direct encoding where a token is a character or a byte.
#[derive(Clone)]
pub(super) enum Table {
    Characters(HashMap<char, u32>),
    Bytes(Box<[u32; 256]>),
}

impl Table {
    /// The table of a pipeline that [`characters`] or [`bytes`] could have made; nothing for any other.
    pub(super) fn of(pipeline: &tokenizers::Tokenizer) -> Option<Self> {
        if pipeline.get_normalizer().is_some() {
            return None;
        }
        let added = pipeline.get_added_vocabulary().get_vocab();
        let single = |(token, id): (String, u32)| {
            let mut characters = token.chars();
            characters.next().filter(|_| characters.next().is_none()).map(|character| (character, id))
        };
        // Without the added tokens, which are cut out of the text before the model sees it.
        let vocabulary = pipeline.get_model().get_vocab().into_iter().filter(|(token, _)| !added.contains_key(token));
        let characters: HashMap<char, u32> = vocabulary.map(single).collect::<Option<_>>()?;
        match (pipeline.get_model(), pipeline.get_pre_tokenizer()?) {
            (ModelWrapper::WordLevel(model), PreTokenizerWrapper::Split(split)) => {
                let has_unknown = model.token_to_id(&model.unk_token).is_some();
                (!has_unknown && Some(split) == every_character().as_ref()).then_some(Self::Characters(characters))
            }
            // No token is longer than a byte, so nothing can be merged.
            (ModelWrapper::BPE(_), PreTokenizerWrapper::ByteLevel(byte_level)) if !byte_level.add_prefix_space => {
                let mut ids = Box::new([0; 256]);
                for byte in 0..=255u8 {
                    ids[usize::from(byte)] = *characters.get(&byte_character(byte))?;
                }
                Some(Self::Bytes(ids))
            }
            _ => None,
        }
    }

    /// The ids of a text, or the first character that has none.
    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>, char> {
        match self {
            Self::Characters(ids) => {
                text.chars().map(|character| ids.get(&character).copied().ok_or(character)).collect()
            }
            Self::Bytes(ids) => Ok(text.bytes().map(|byte| ids[usize::from(byte)]).collect()),
        }
    }
}

/// One token for each of `characters`, in their order; a last one that ends a text if asked for.
pub(super) fn characters(characters: &BTreeSet<char>, end_of_text: bool) -> tokenizers::Result<tokenizers::Tokenizer> {
    let special = end_of_text.then(|| END_OF_TEXT.to_owned());
    let tokens = characters.iter().map(char::to_string).chain(special);
    let vocabulary = tokens.zip(0..).collect();
    // The name of a token that does not exist: an unknown character is then an error.
    let model = WordLevel::builder().vocab(vocabulary).unk_token("<unk>".into()).build()?;
    let mut pipeline = tokenizers::Tokenizer::new(model);
    pipeline.with_pre_tokenizer(every_character()).with_decoder(Some(Fuse::default()));
    add_end_of_text(&mut pipeline, end_of_text)?;
    Ok(pipeline)
}

/// One token for each byte, whose id is the byte; id 256 ends a text if asked for.
pub(super) fn bytes(end_of_text: bool) -> tokenizers::Result<tokenizers::Tokenizer> {
    let special = end_of_text.then(|| END_OF_TEXT.to_owned());
    let tokens = (0..=255).map(|byte| byte_character(byte).to_string()).chain(special);
    let vocabulary: tokenizers::models::bpe::Vocab = tokens.zip(0..).collect();
    let model = BPE::builder().vocab_and_merges(vocabulary, Vec::new()).build()?;
    let mut pipeline = tokenizers::Tokenizer::new(model);
    let byte_level = ByteLevel::new(false, false, false);
    pipeline.with_pre_tokenizer(Some(byte_level)).with_decoder(Some(byte_level));
    add_end_of_text(&mut pipeline, end_of_text)?;
    Ok(pipeline)
}

fn add_end_of_text(pipeline: &mut tokenizers::Tokenizer, wanted: bool) -> tokenizers::Result<()> {
    pipeline.add_special_tokens(wanted.then(|| AddedToken::from(END_OF_TEXT, true)))?;
    Ok(())
}

/// The pre-tokenizer that makes every character a word. `[\s\S]` is read alike by every regex library; a dot is not.
fn every_character() -> Option<Split> {
    Split::new(SplitPattern::Regex(r"[\s\S]".into()), SplitDelimiterBehavior::Isolated, false).ok()
}

/// How byte-level tokenizers spell a byte (GPT-2's `bytes_to_unicode`): visible Latin-1 as itself, the others in order from U+0100 on.
pub(super) fn byte_character(byte: u8) -> char {
    let visible = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if visible(byte) {
        return char::from(byte);
    }
    let hidden_before = (0..byte).filter(|&earlier| !visible(earlier)).count();
    char::from_u32(0x100 + hidden_before as u32).unwrap_or(char::REPLACEMENT_CHARACTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_spelled_as_the_byte_level_alphabet() {
        let ours: BTreeSet<char> = (0..=255).map(byte_character).collect();
        assert_eq!(ours.len(), 256);
        assert_eq!(ours, ByteLevel::alphabet().into_iter().collect());
        assert_eq!([b' ', b'\n', b'a', 0xad].map(byte_character), ['Ġ', 'Ċ', 'a', 'Ń']);
    }
}
