use super::Tokenizer;
use crate::DataError;

/// Text that appears token by token. A character whose bytes are spread over several tokens is held back until it is whole.
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    skip_special: bool,
    /// The tokens that the next text depends on: `ids[..shown]` have been given out, and what they look like depends on nothing before.
    ids: Vec<u32>,
    shown: usize,
}

impl<'a> TextStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, prompt: &[u32], skip_special: bool) -> Self {
        Self { tokenizer, skip_special, ids: prompt.to_vec(), shown: prompt.len() }
    }

    /// Takes the next token and gives the text that it completes, often none or more than one token's worth.
    ///
    /// # Errors
    ///
    /// If the tokenizer's decoder refuses a token.
    pub fn push(&mut self, id: u32) -> Result<String, DataError> {
        self.ids.push(id);
        let text = self.pending()?;
        // A replacement character at the end may be the beginning of a character still to come.
        if text.is_empty() || text.ends_with(char::REPLACEMENT_CHARACTER) {
            return Ok(String::new());
        }
        // Tokens given out earlier no longer matter: keep those of this turn, so that the next text knows what it follows.
        self.ids.drain(..self.shown);
        self.shown = self.ids.len();
        Ok(text)
    }

    /// The end of the text: what was held back, with U+FFFD for bytes that never became a character.
    ///
    /// # Errors
    ///
    /// If the tokenizer's decoder refuses a token.
    pub fn finish(self) -> Result<String, DataError> {
        self.pending()
    }

    fn pending(&self) -> Result<String, DataError> {
        let shown = self.tokenizer.decode(&self.ids[..self.shown], self.skip_special)?;
        let all = self.tokenizer.decode(&self.ids, self.skip_special)?;
        // Not `strip_prefix`: the end of what was shown changes if a prompt ends inside a character, or if a decoder tidies up
        // (WordPiece joins punctuation).
        let common: usize = all.chars().zip(shown.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
        Ok(all[common..].to_owned())
    }
}
