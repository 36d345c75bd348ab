//! What a `spiece.model` says, after `sentencepiece_model.proto` of SentencePiece.

use tokenizers::Result;

use super::wire::Message;

/// A SentencePiece model. Fields that have no part in encoding and decoding are left out.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) pieces: Vec<Piece>,
    pub(super) trainer: Trainer,
    pub(super) normalizer: Normalizer,
}

#[derive(Debug)]
pub(super) struct Piece {
    pub(super) text: String,
    /// A log probability.
    pub(super) score: f32,
    pub(super) kind: PieceKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PieceKind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

/// From `trainer_spec`.
#[derive(Debug)]
pub(super) struct Trainer {
    pub(super) kind: ModelKind,
    pub(super) whitespace_as_suffix: bool,
    pub(super) byte_fallback: bool,
    /// Negative for none.
    pub(super) eos_id: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ModelKind {
    Unigram,
    Bpe,
    Word,
    Char,
}

/// From `normalizer_spec`.
#[derive(Debug)]
pub(super) struct Normalizer {
    /// Rules for replacing characters, as a trie; empty for none.
    pub(super) charsmap: Vec<u8>,
    pub(super) add_dummy_prefix: bool,
    pub(super) remove_extra_whitespaces: bool,
    pub(super) escape_whitespaces: bool,
}

impl Default for Trainer {
    fn default() -> Self {
        Self { kind: ModelKind::Unigram, whitespace_as_suffix: false, byte_fallback: false, eos_id: 2 }
    }
}

impl Default for Normalizer {
    fn default() -> Self {
        Self { charsmap: Vec::new(), add_dummy_prefix: true, remove_extra_whitespaces: true, escape_whitespaces: true }
    }
}

impl Model {
    pub(super) fn parse(file: &[u8]) -> Result<Self> {
        let mut model = Self::default();
        let mut message = Message::of_file(file);
        while let Some(field) = message.next_field()? {
            match field.number {
                1 => model.pieces.push(Piece::parse(field.message()?)?),
                2 => model.trainer.read(field.message()?)?,
                3 => model.normalizer.read(field.message()?)?,
                _ => {}
            }
        }
        if model.pieces.is_empty() {
            return Err("it has no pieces, so it is no SentencePiece model".into());
        }
        Ok(model)
    }
}

impl Piece {
    fn parse(mut message: Message<'_>) -> Result<Self> {
        let mut piece = Self { text: String::new(), score: 0.0, kind: PieceKind::Normal };
        while let Some(field) = message.next_field()? {
            match field.number {
                1 => field.text()?.clone_into(&mut piece.text),
                2 => piece.score = field.float()?,
                3 => {
                    piece.kind = match field.int()? {
                        1 => PieceKind::Normal,
                        2 => PieceKind::Unknown,
                        3 => PieceKind::Control,
                        4 => PieceKind::UserDefined,
                        5 => PieceKind::Unused,
                        6 => PieceKind::Byte,
                        other => return Err(format!("piece {:?} has the unknown type {other}", piece.text).into()),
                    }
                }
                _ => {}
            }
        }
        Ok(piece)
    }
}

impl Trainer {
    fn read(&mut self, mut message: Message<'_>) -> Result<()> {
        while let Some(field) = message.next_field()? {
            match field.number {
                3 => {
                    self.kind = match field.int()? {
                        1 => ModelKind::Unigram,
                        2 => ModelKind::Bpe,
                        3 => ModelKind::Word,
                        4 => ModelKind::Char,
                        other => return Err(format!("trainer_spec.model_type is {other}, which is unknown").into()),
                    }
                }
                24 => self.whitespace_as_suffix = field.flag()?,
                35 => self.byte_fallback = field.flag()?,
                42 => self.eos_id = field.int()?,
                _ => {}
            }
        }
        Ok(())
    }
}

impl Normalizer {
    fn read(&mut self, mut message: Message<'_>) -> Result<()> {
        while let Some(field) = message.next_field()? {
            match field.number {
                2 => self.charsmap = field.bytes()?.to_vec(),
                3 => self.add_dummy_prefix = field.flag()?,
                4 => self.remove_extra_whitespaces = field.flag()?,
                5 => self.escape_whitespaces = field.flag()?,
                _ => {}
            }
        }
        Ok(())
    }
}
