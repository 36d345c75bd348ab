use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::source::Format;

/// How labelled examples lie in a file.
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
        match Format::of(path) {
            Format::Tsv => Some(Self::Tsv),
            Format::Csv => Some(Self::Csv),
            Format::Jsonl => Some(Self::Jsonl),
            _ => path.extension().filter(|it| it.eq_ignore_ascii_case("parquet")).map(|_| Self::Parquet),
        }
    }

    /// The extensions that are read from a folder.
    pub(super) fn extensions(self) -> Vec<String> {
        let extensions: &[&str] = match self {
            Self::Tsv => &["tsv"],
            Self::Csv => &["csv"],
            Self::Jsonl => &["jsonl", "ndjson"],
            Self::Parquet => &["parquet"],
        };
        extensions.iter().map(ToString::to_string).collect()
    }
}
