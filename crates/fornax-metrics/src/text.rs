//! Characters as Python sees them, in which the reference implementations are written.

/// White space for `str.split`: Unicode's, and the four separators U+001C to U+001F.
pub(crate) fn is_space(character: char) -> bool {
    character.is_whitespace() || matches!(character, '\x1c'..='\x1f')
}

/// The words between white space.
pub(crate) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_space).filter(|word| !word.is_empty())
}

/// What Python's `string.punctuation` holds.
pub(crate) fn is_punctuation(character: char) -> bool {
    character.is_ascii_punctuation()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_end_where_python_ends_them() {
        let found: Vec<&str> = words(" a\u{a0}b\u{3000}c\x1cd\x1fe\u{200b}f\u{85}g\n").collect();
        assert_eq!(found, ["a", "b", "c", "d", "e\u{200b}f", "g"]);
        assert_eq!(words(" \t").count(), 0);
        assert_eq!((0..128u8).filter(|byte| is_punctuation(char::from(*byte))).count(), 32);
    }
}
