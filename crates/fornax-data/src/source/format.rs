use std::path::Path;

use serde::{Deserialize, Serialize};

/// How documents lie in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// The whole file is one document.
    Text,
    /// Each line that is not blank is a document.
    Lines,
    /// Runs of lines that are not blank are documents; blank lines separate them.
    Paragraphs,
    /// One JSON object a line; the text is the string in one of its keys.
    Jsonl,
    /// Columns between tabs, named by a header line; quotes are ordinary characters, as in the GLUE files.
    Tsv,
    /// Comma-separated values with a header line and quotes (RFC 4180).
    Csv,
}

impl Format {
    /// What a file's name says: `.jsonl .ndjson`, `.tsv` and `.csv` (each also with `.gz` behind it); anything else is text.
    pub fn of(path: &Path) -> Self {
        match extension(path).as_str() {
            "jsonl" | "ndjson" => Self::Jsonl,
            "tsv" => Self::Tsv,
            "csv" => Self::Csv,
            _ => Self::Text,
        }
    }

    /// Whether documents are taken from a named column.
    pub fn has_columns(self) -> bool {
        matches!(self, Self::Jsonl | Self::Tsv | Self::Csv)
    }

    /// The extensions that are read from a folder when the config names none; empty: all.
    pub(super) fn extensions(self) -> &'static [&'static str] {
        match self {
            Self::Jsonl => &["jsonl", "ndjson"],
            Self::Tsv => &["tsv"],
            Self::Csv => &["csv"],
            Self::Text | Self::Lines | Self::Paragraphs => &[],
        }
    }
}

/// How the rows of a table lie in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TableFormat {
    /// Columns between tabs, named by a header line; quotes are ordinary characters, as in the GLUE files.
    Tsv,
    /// Comma-separated values with a header line and quotes (RFC 4180).
    Csv,
    /// One JSON object a line.
    Jsonl,
    /// Parquet, plain or packed with Snappy, as the Hugging Face hub has it.
    Parquet,
}

impl TableFormat {
    /// What a file's name says: `.tsv`, `.csv`, `.jsonl` or `.ndjson` (each also with `.gz` behind it), `.parquet`.
    pub fn of(path: &Path) -> Option<Self> {
        let parquet = || path.extension().filter(|it| it.eq_ignore_ascii_case("parquet")).map(|_| Self::Parquet);
        Self::of_columns(Format::of(path)).or_else(parquet)
    }

    /// The same format, if it has columns.
    pub(crate) fn of_columns(format: Format) -> Option<Self> {
        match format {
            Format::Tsv => Some(Self::Tsv),
            Format::Csv => Some(Self::Csv),
            Format::Jsonl => Some(Self::Jsonl),
            Format::Text | Format::Lines | Format::Paragraphs => None,
        }
    }

    /// The extensions that are read from a folder.
    pub(crate) fn extensions(self) -> Vec<String> {
        let extensions = match self {
            Self::Tsv => Format::Tsv.extensions(),
            Self::Csv => Format::Csv.extensions(),
            Self::Jsonl => Format::Jsonl.extensions(),
            Self::Parquet => &["parquet"],
        };
        extensions.iter().map(ToString::to_string).collect()
    }
}

/// The format that all agree on, if they do and there is one.
pub(crate) fn agreed<F: PartialEq>(formats: impl IntoIterator<Item = F>) -> Option<F> {
    let mut formats = formats.into_iter();
    let first = formats.next()?;
    formats.all(|format| format == first).then_some(first)
}

/// The extension in lower case, looking through `.gz`: `jsonl` for `a.JSONL.gz`.
pub(crate) fn extension(path: &Path) -> String {
    let lower = |path: &Path| path.extension().map(|it| it.to_string_lossy().to_lowercase()).unwrap_or_default();
    match lower(path).as_str() {
        "gz" => path.file_stem().map(|stem| lower(Path::new(stem))).unwrap_or_default(),
        plain => plain.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_the_format() {
        for (name, format) in [
            ("a.txt", Format::Text),
            ("a", Format::Text),
            ("a.gz", Format::Text),
            ("a.JSONL.gz", Format::Jsonl),
            ("a.ndjson", Format::Jsonl),
            ("x/train.tsv", Format::Tsv),
            ("x/train.csv.gz", Format::Csv),
        ] {
            assert_eq!(Format::of(Path::new(name)), format, "{name}");
        }
    }
}
