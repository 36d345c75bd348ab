/// A text with places for columns: `"premise: {sentence1} hypothesis: {sentence2}"`. `{{` and `}}` are braces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template {
    /// What stands before each column, in turn.
    before: Vec<String>,
    /// The columns, in turn; one may come twice.
    columns: Vec<String>,
    end: String,
}

impl Template {
    /// Reads a template; or says what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let (mut before, mut columns, mut literal) = (Vec::new(), Vec::new(), String::new());
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            literal.push_str(&rest[..at]);
            let brace = &rest[at..=at];
            rest = &rest[at + 1..];
            if let Some(behind) = rest.strip_prefix(brace) {
                literal.push_str(brace);
                rest = behind;
            } else if brace == "}" {
                return Err("a `{` before each `}`, or `}}` for a brace");
            } else {
                let (column, behind) = rest.split_once('}').ok_or("a `}` behind each `{`, or `{{` for a brace")?;
                if column.trim().is_empty() || column.contains('{') {
                    return Err("the name of a column between `{` and `}`");
                }
                before.push(std::mem::take(&mut literal));
                columns.push(column.trim().to_owned());
                rest = behind;
            }
        }
        literal.push_str(rest);
        match columns.is_empty() {
            true => Err("at least one column in braces, as \"sentence: {sentence}\""),
            false => Ok(Self { before, columns, end: literal }),
        }
    }

    /// The columns that it names, in turn.
    pub(super) fn columns(&self) -> &[String] {
        &self.columns
    }

    /// What stands before the only column, where nothing stands behind it.
    pub(super) fn prefix(&self) -> Option<&str> {
        match &self.before[..] {
            [prefix] if self.end.is_empty() => Some(prefix),
            _ => None,
        }
    }

    /// The text with `texts` in the places of [`columns`](Self::columns).
    pub(super) fn fill(&self, texts: &[String]) -> String {
        let mut filled = String::new();
        for (before, text) in self.before.iter().zip(texts) {
            filled.push_str(before);
            filled.push_str(text.trim());
        }
        filled + &self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_put_into_their_places() {
        let template = Template::parse("a: {x} b: { y }{x} {{z}} end").unwrap();
        assert_eq!(template.columns(), ["x", "y", "x"]);
        assert_eq!(template.fill(&[" 1 ", "{2}", "3"].map(str::to_owned)), "a: 1 b: {2}3 {z} end");
        assert_eq!(template.prefix(), None);
        assert_eq!(Template::parse("{x}.").unwrap().prefix(), None);
        assert_eq!(Template::parse("a {{b}}: {x}").unwrap().prefix(), Some("a {b}: "));
        assert_eq!(Template::parse("{é}ü").unwrap().fill(&["ß".into()]), "ßü");
    }

    #[test]
    fn mistakes_say_what_is_expected() {
        for (text, expected) in [
            ("a", "at least one column"),
            ("{{a}}", "at least one column"),
            ("{a", "a `}` behind"),
            ("a}", "a `{` before"),
            ("{}", "the name of a column"),
            ("{a{b}", "the name of a column"),
        ] {
            let error = Template::parse(text).unwrap_err();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
    }
}
