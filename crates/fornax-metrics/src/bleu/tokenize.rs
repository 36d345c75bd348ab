use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

use super::BleuTokenizer;
use crate::text;

impl BleuTokenizer {
    /// The tokens of a text without white space at its end.
    pub(super) fn tokens(self, text: &str) -> Vec<String> {
        match self {
            Self::None => owned(text),
            Self::Char => text.chars().filter(|c| !text::is_space(*c)).map(String::from).collect(),
            Self::V13a => v13a(text),
            Self::International => international(text),
        }
    }
}

fn owned(text: &str) -> Vec<String> {
    text::words(text).map(str::to_owned).collect()
}

/// The replacements of `mteval-v13a.pl`, one after another.
fn v13a(text: &str) -> Vec<String> {
    let text = text.replace("<skipped>", "").replace("-\n", "").replace('\n', " ");
    // In this order: `&amp;lt;` ends as `<`.
    let text = text.replace("&quot;", "\"").replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">");
    let characters: Vec<char> = format!(" {text} ").chars().collect();
    let point = |c: char| matches!(c, '.' | ',');
    let characters = set_apart(&characters, |c| text::is_punctuation(c) && !matches!(c, '.' | ',' | '-' | '\''));
    let characters = replace_pairs(&characters, |a, b| !a.is_ascii_digit() && point(b), |a, b| [a, ' ', b, ' ']);
    let characters = replace_pairs(&characters, |a, b| point(a) && !b.is_ascii_digit(), |a, b| [' ', a, ' ', b]);
    let characters = replace_pairs(&characters, |a, b| a.is_ascii_digit() && b == '-', |a, b| [a, ' ', b, ' ']);
    owned(&String::from_iter(characters))
}

/// The replacements of `mteval-v14.pl --international-tokenization`. Nothing is put around the text, so that a point behind a number
/// at its very end stays with the number.
fn international(text: &str) -> Vec<String> {
    use GeneralCategoryGroup::{Number, Punctuation, Symbol};
    let is = |c: char, group| c.general_category_group() == group;
    let characters: Vec<char> = text.chars().collect();
    let characters = replace_pairs(&characters, |a, b| !is(a, Number) && is(b, Punctuation), |a, b| [a, ' ', b, ' ']);
    let characters = replace_pairs(&characters, |a, b| is(a, Punctuation) && !is(b, Number), |a, b| [' ', a, ' ', b]);
    owned(&String::from_iter(set_apart(&characters, |c| is(c, Symbol))))
}

/// Puts spaces around each character that fits.
fn set_apart(text: &[char], fits: impl Fn(char) -> bool) -> Vec<char> {
    text.iter().flat_map(|&c| if fits(c) { vec![' ', c, ' '] } else { vec![c] }).collect()
}

/// Replaces pairs of neighbours from left to right as `re.sub` does: a character of one pair is in no other.
fn replace_pairs(
    text: &[char],
    fits: impl Fn(char, char) -> bool,
    replacement: impl Fn(char, char) -> [char; 4],
) -> Vec<char> {
    let mut replaced = Vec::with_capacity(text.len());
    let mut rest = text;
    loop {
        match rest {
            [a, b, after @ ..] if fits(*a, *b) => {
                replaced.extend(replacement(*a, *b));
                rest = after;
            }
            [a, after @ ..] => {
                replaced.push(*a);
                rest = after;
            }
            [] => return replaced,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spaced(tokenizer: BleuTokenizer, text: &str) -> String {
        tokenizer.tokens(text).join(" ")
    }

    #[test]
    fn numbers_keep_their_points() {
        assert_eq!(
            spaced(BleuTokenizer::V13a, "It cost $1,234.50, or 3-4 times (more)."),
            "It cost $ 1,234.50 , or 3 - 4 times ( more ) ."
        );
        assert_eq!(
            spaced(BleuTokenizer::International, "It cost $1,234.50, or 3-4 times (more) in 1999."),
            "It cost $ 1,234.50 , or 3-4 times ( more ) in 1999."
        );
        assert_eq!(spaced(BleuTokenizer::Char, "a b\tc"), "a b c");
        assert_eq!(spaced(BleuTokenizer::None, " It's  (so). "), "It's (so).");
    }

    #[test]
    fn a_pair_takes_its_characters_with_it() {
        // Of three points the second is the end of a pair and can't begin another.
        assert_eq!(spaced(BleuTokenizer::V13a, "so... &quot;x&quot;"), "so . . . \" x \"");
        assert_eq!(spaced(BleuTokenizer::V13a, "a-\nb c\nd"), "ab c d");
    }
}
