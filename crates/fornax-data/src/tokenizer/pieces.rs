//! What masking needs to know about a vocabulary: its special tokens and which pieces continue a word.

use tokenizers::Model;
use tokenizers::models::ModelWrapper;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;

use super::Tokenizer;
use super::table::byte_character;
use crate::DataError;

/// White space at which words begin in byte-level vocabularies.
const SPACES: [u8; 6] = *b" \n\r\t\x0b\x0c";

/// A token with a part to play, whatever its family calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpecialToken {
    /// Begins a sequence; what a classifier reads.
    Cls,
    /// Ends a sequence or one of its segments.
    Sep,
    /// Fills up a short row.
    Pad,
    /// Hides a token.
    Mask,
    /// Stands for what the vocabulary lacks.
    Unknown,
}

impl SpecialToken {
    const ALL: [Self; 5] = [Self::Cls, Self::Sep, Self::Pad, Self::Mask, Self::Unknown];

    /// The name in BERT's family and the name in RoBERTa's, in the order in which they are looked for.
    pub fn names(self) -> [&'static str; 2] {
        match self {
            Self::Cls => ["[CLS]", "<s>"],
            Self::Sep => ["[SEP]", "</s>"],
            Self::Pad => ["[PAD]", "<pad>"],
            Self::Mask => ["[MASK]", "<mask>"],
            Self::Unknown => ["[UNK]", "<unk>"],
        }
    }
}

impl Tokenizer {
    /// The id of a special token under whichever of its [`names`](SpecialToken::names) the vocabulary has.
    ///
    /// # Errors
    ///
    /// [`DataError::MissingSpecialToken`] if it has none of them.
    pub fn special_id(&self, token: SpecialToken) -> Result<u32, DataError> {
        let id = token.names().into_iter().find_map(|name| self.token_to_id(name));
        id.ok_or_else(|| DataError::MissingSpecialToken { names: token.names() })
    }

    /// For each id below [`vocab_size`](Self::vocab_size) whether it is a special token: one that the tokenizer's file marks as
    /// special, one with a [part to play](SpecialToken), or a [sentinel](Self::sentinel).
    pub fn is_special(&self) -> Vec<bool> {
        let mut special = vec![false; self.vocab_size];
        for (id, token) in self.pipeline.get_added_vocabulary().get_added_tokens_decoder() {
            special[*id as usize] = token.special;
        }
        let named = SpecialToken::ALL.into_iter().filter_map(|token| self.special_id(token).ok());
        for id in named.chain(self.sentinels.iter().copied()) {
            special[id as usize] = true;
        }
        special
    }

    /// For each id below [`vocab_size`](Self::vocab_size) whether it is a piece that continues the word before it; nothing for
    /// vocabularies that don't say so.
    ///
    /// In WordPiece these are the pieces with the prefix `##`. In byte-level BPE they are the pieces that don't begin with white space:
    /// a word is what stands between two spaces, the space before it and the punctuation after it included, as for RoBERTa in fairseq,
    /// and a line break belongs to the first word of its line. What follows a special token begins a word in any case.
    pub fn continues_word(&self) -> Option<Vec<bool>> {
        let mut continues = vec![false; self.vocab_size];
        match self.pipeline.get_model() {
            ModelWrapper::WordPiece(model) if !model.continuing_subword_prefix.is_empty() => {
                for (piece, id) in model.get_vocab() {
                    continues[id as usize] = piece.starts_with(&model.continuing_subword_prefix);
                }
            }
            ModelWrapper::BPE(model) if self.is_byte_level() => {
                let spaces = SPACES.map(byte_character);
                for (piece, id) in model.get_vocab() {
                    continues[id as usize] = !piece.starts_with(spaces);
                }
            }
            _ => return None,
        }
        for (continues, special) in continues.iter_mut().zip(self.is_special()) {
            *continues &= !special;
        }
        Some(continues)
    }

    /// The ids of all tokens that are not special, in order.
    pub(crate) fn ordinary_ids(&self) -> Vec<u32> {
        let special = self.is_special();
        let mut ids: Vec<u32> =
            self.pipeline.get_vocab(true).into_values().filter(|&id| !special[id as usize]).collect();
        ids.sort_unstable();
        // Two names of one id would make it twice as likely.
        ids.dedup();
        ids
    }

    fn is_byte_level(&self) -> bool {
        let byte_level = |it: &PreTokenizerWrapper| matches!(it, PreTokenizerWrapper::ByteLevel(_));
        match self.pipeline.get_pre_tokenizer() {
            Some(PreTokenizerWrapper::Sequence(parts)) => parts.as_ref().iter().any(byte_level),
            Some(single) => byte_level(single),
            None => false,
        }
    }

    /// What `tokenizer_config.json` says about special tokens; for BERT also that models take token types, which `transformers` leaves
    /// out otherwise.
    pub(super) fn pretrained_config(&self) -> serde_json::Map<String, serde_json::Value> {
        let name = |token| self.special_id(token).ok().and_then(|id| self.id_to_token(id));
        let mut config = serde_json::Map::new();
        let mut put = |key: &str, name: Option<String>| {
            if let Some(name) = name {
                config.insert(key.into(), name.into());
            }
        };
        put("pad_token", name(SpecialToken::Pad));
        put("unk_token", name(SpecialToken::Unknown));
        let end_of_text = self.end_of_text_id().and_then(|id| self.id_to_token(id));
        // BERT has no end of text: [SEP] only takes its place between our documents.
        put("eos_token", end_of_text.filter(|name| name != "[SEP]"));
        if let Some(mask) = name(SpecialToken::Mask) {
            put("mask_token", Some(mask));
            put("cls_token", name(SpecialToken::Cls));
            put("sep_token", name(SpecialToken::Sep));
            match name(SpecialToken::Cls).as_deref() {
                Some("[CLS]") => {
                    let inputs = ["input_ids", "token_type_ids", "attention_mask"];
                    config.insert("model_input_names".into(), inputs.to_vec().into());
                }
                begin => put("bos_token", begin.map(str::to_owned)),
            }
        }
        if self.sentinel_count() > 0 {
            // By this number `T5Tokenizer` knows how many there are.
            config.insert("extra_ids".into(), self.sentinel_count().into());
        }
        config
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::source::Texts;
    use crate::store::tests::memory;
    use crate::tokenizer::{TokenizerConfig, TokenizerKind};

    /// A WordPiece tokenizer with BERT's special tokens (ids 0..5: `[PAD] [UNK] [CLS] [SEP] [MASK]`), the words `w0 w1 ...` and the
    /// continuations `##x0 ##x1 ...`, in this order.
    pub(crate) fn wordpiece(words: usize, continuations: usize) -> Tokenizer {
        let specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(str::to_owned).into_iter();
        let words = (0..words).map(|i| format!("w{i}")).chain((0..continuations).map(|i| format!("##x{i}")));
        let vocabulary: Vec<String> = specials.chain(words).collect();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vocab.txt");
        std::fs::write(&path, vocabulary.join("\n")).unwrap();
        Tokenizer::open(&path).unwrap()
    }

    /// Byte-level BPE with RoBERTa's special tokens: its `vocab.json` and `merges.txt`, as far as `source` trains them.
    pub(crate) fn roberta(source: &Texts, vocab_size: usize) -> Tokenizer {
        let config = TokenizerConfig {
            kind: TokenizerKind::ByteBpe,
            vocab_size,
            end_of_text: Some(false),
            ..TokenizerConfig::default()
        };
        let trained: serde_json::Value =
            serde_json::from_str(&Tokenizer::train(&config, source).unwrap().to_json().unwrap()).unwrap();
        let mut vocabulary = trained["model"]["vocab"].as_object().unwrap().clone();
        for (id, token) in ["<s>", "<pad>", "</s>", "<unk>", "<mask>"].into_iter().enumerate() {
            vocabulary.insert(token.into(), (trained["model"]["vocab"].as_object().unwrap().len() + id).into());
        }
        let merges = trained["model"]["merges"].as_array().unwrap().iter();
        let merges: Vec<String> =
            merges.map(|pair| format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap())).collect();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("vocab.json"), serde_json::to_vec(&vocabulary).unwrap()).unwrap();
        std::fs::write(dir.path().join("merges.txt"), format!("#version: 0.2\n{}\n", merges.join("\n"))).unwrap();
        Tokenizer::open(dir.path()).unwrap()
    }

    pub(crate) fn trained(kind: TokenizerKind, text: &str) -> Tokenizer {
        let config = TokenizerConfig { kind, vocab_size: 300, ..TokenizerConfig::default() };
        Tokenizer::train(&config, &memory(&[text])).unwrap()
    }

    const TEXT: &str =
        "low lower lowest newer newest wide wider widest low lower lowest newer newest wide wider widest";

    #[test]
    fn both_families_have_their_special_tokens_under_their_names() {
        let bert = wordpiece(3, 2);
        assert_eq!(SpecialToken::ALL.map(|token| bert.special_id(token).unwrap()), [2, 3, 0, 4, 1]);
        assert_eq!(bert.is_special(), [vec![true; 5], vec![false; 5]].concat());
        assert_eq!(bert.ordinary_ids(), [5, 6, 7, 8, 9]);

        let roberta = roberta(&memory(&[TEXT]), 270);
        let first = roberta.vocab_size() as u32 - 5;
        assert_eq!(SpecialToken::ALL.map(|token| roberta.special_id(token).unwrap() - first), [0, 2, 1, 4, 3]);
        assert_eq!(roberta.ordinary_ids(), (0..first).collect::<Vec<_>>());
        assert_eq!(roberta.encode("low<mask>").unwrap().last(), Some(&(first + 4)));
        assert_eq!(roberta.encode("low <mask>").unwrap().len(), roberta.encode("low<mask>").unwrap().len());
    }

    #[test]
    fn a_missing_token_is_named() {
        let bytes = trained(TokenizerKind::Byte, TEXT);
        let error = bytes.special_id(SpecialToken::Mask).unwrap_err();
        insta::assert_snapshot!(error, @"the tokenizer has no token [MASK] (or <mask>)");
        assert!(error.hint().unwrap().contains("wordpiece"));
    }

    #[test]
    fn pieces_say_whether_they_continue_a_word() {
        assert_eq!(wordpiece(2, 3).continues_word().unwrap(), [vec![false; 7], vec![true; 3]].concat());

        let roberta = roberta(&memory(&[TEXT]), 300);
        let continues = roberta.continues_word().unwrap();
        let of =
            |text: &str| roberta.encode(text).unwrap().iter().map(|&id| continues[id as usize]).collect::<Vec<_>>();
        // Nothing of it is merged: six pieces of a byte each.
        assert_eq!(of("qx qx."), [true, true, false, true, true, true]);
        assert_eq!(of(" lower"), [false], "one piece with its space");
        assert_eq!(of("\n\t"), [false, false]);
        assert!(!continues[roberta.special_id(SpecialToken::Mask).unwrap() as usize]);

        for kind in [TokenizerKind::Unigram, TokenizerKind::Char] {
            assert_eq!(trained(kind, TEXT).continues_word(), None, "{kind}");
        }
    }

    #[test]
    fn a_saved_folder_names_the_special_tokens() {
        let written = |tokenizer: &Tokenizer| {
            let dir = tempfile::tempdir().unwrap();
            tokenizer.save_pretrained(dir.path(), 128).unwrap();
            assert_eq!(Tokenizer::open(dir.path()).unwrap().hash(), tokenizer.hash());
            let json = std::fs::read(dir.path().join("tokenizer_config.json")).unwrap();
            let config: serde_json::Value = serde_json::from_slice(&json).unwrap();
            let bert = tokenizer.token_to_id("[CLS]").is_some();
            assert_eq!(
                config["model_input_names"].as_array().is_some_and(|it| it.contains(&"token_type_ids".into())),
                bert
            );
            let tokens = config.as_object().unwrap().iter().filter(|(key, _)| key.ends_with("_token"));
            assert_eq!(
                (&config["model_max_length"], &config["tokenizer_class"]),
                (&128.into(), &"PreTrainedTokenizerFast".into())
            );
            tokens.map(|(key, value)| format!("{key} {}", value.as_str().unwrap())).collect::<Vec<_>>().join(", ")
        };
        let of = |kind| written(&trained(kind, TEXT));
        assert_eq!(
            written(&wordpiece(2, 1)),
            "cls_token [CLS], mask_token [MASK], pad_token [PAD], sep_token [SEP], unk_token [UNK]"
        );
        assert_eq!(
            written(&roberta(&memory(&[TEXT]), 270)),
            "bos_token <s>, cls_token <s>, eos_token </s>, mask_token <mask>, pad_token <pad>, sep_token </s>, unk_token <unk>"
        );
        assert_eq!(of(TokenizerKind::Unigram), "eos_token </s>, pad_token <pad>, unk_token <unk>");
        assert_eq!(of(TokenizerKind::ByteBpe), "eos_token <|endoftext|>");
        assert_eq!(of(TokenizerKind::Byte), "");
    }
}
