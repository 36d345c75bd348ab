/// The documentation in a Rust source file: `///` and `//!` lines and `/** */` and `/*! */` blocks, without their marks; a blank
/// line separates what is not adjacent. Comments are recognised at the start of a line only, so that strings can't be mistaken
/// for them (but for a string that spans lines and looks like one).
pub(super) fn doc_comments(source: &str) -> String {
    let mut prose = String::new();
    let mut in_block = false;
    let mut in_paragraph = false;
    for line in source.lines() {
        let line = line.trim();
        let text = if in_block {
            in_block = !line.contains("*/");
            let text = line.split("*/").next().unwrap_or_default();
            Some(text.strip_prefix('*').unwrap_or(text))
        } else if let Some(text) = line_comment(line) {
            Some(text)
        } else if let Some(text) = block_start(line) {
            in_block = !text.contains("*/");
            Some(text.split("*/").next().unwrap_or_default())
        } else {
            None
        };
        match text {
            Some(text) => {
                let text = text.strip_prefix(' ').unwrap_or(text).trim_end();
                if !in_paragraph && !prose.is_empty() && !prose.ends_with("\n\n") {
                    prose.push('\n');
                }
                if !(text.is_empty() && (prose.is_empty() || prose.ends_with("\n\n"))) {
                    prose.push_str(text);
                    prose.push('\n');
                }
                in_paragraph = true;
            }
            None => in_paragraph = false,
        }
    }
    let kept = prose.trim_end().len();
    prose.truncate(kept);
    if !prose.is_empty() {
        prose.push('\n');
    }
    prose
}

/// `////` is an ordinary comment.
fn line_comment(line: &str) -> Option<&str> {
    match line.strip_prefix("///") {
        Some(text) if !text.starts_with('/') => Some(text),
        Some(_) => None,
        None => line.strip_prefix("//!"),
    }
}

/// `/***` and `/**/` are ordinary comments.
fn block_start(line: &str) -> Option<&str> {
    match line.strip_prefix("/**") {
        Some(text) if !text.starts_with(['*', '/']) => Some(text),
        Some(_) => None,
        None => line.strip_prefix("/*!"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_stripped_and_code_is_dropped() {
        let source = r#"//! A crate.
//!
//! ```
//!     indented
//! ```

// Not this.
//// Nor this.
/// A function.
#[inline]
/// More of it.
fn f() { let s = "/// no"; } /// not at the start
/** A block. */
struct A;
/*!
 * Inner
 *
 * lines.
 */
/* Not this. */ /***/
/**/
"#;
        let expected =
            "A crate.\n\n```\n    indented\n```\n\nA function.\n\nMore of it.\n\nA block.\n\nInner\n\nlines.\n";
        assert_eq!(doc_comments(source), expected);
        assert_eq!(doc_comments("fn f() {}\n"), "");
    }
}
