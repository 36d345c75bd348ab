//! Where text comes from. A source is a `burn_dataset::Dataset` of documents.
//!
//! | source | one document is |
//! |---|---|
//! | [`TextFiles`] | a whole file |
//! | [`Records`] | a line, a paragraph, a JSON object's column or a table row's column |
//! | [`RustCrates`] | a source file (or its documentation) of the embedded corpus |
//! | [`Texts`] | a string in memory |
//!
//! What all of them do to bytes: a `.gz` file is unpacked, a UTF-8 byte order mark at the start is dropped, `\r\n` becomes `\n`
//! (a lone `\r` stays), and anything that is not UTF-8 is refused. Nothing else is changed.

mod files;
mod format;
mod records;
mod rows;
mod rust_crates;
mod split;
mod table;
mod text;
mod text_files;
mod texts;

use burn_dataset::Dataset;

use crate::DataError;

pub use files::{FoundFile, find_files};
pub use format::{Format, TableFormat};
pub use records::Records;
pub use rust_crates::{CrateEntry, CrateFolders, Part, RustCrates};
pub use split::{Split, Splits, split};
pub use table::Column;
pub use text_files::TextFiles;
pub use texts::Texts;

pub(crate) use files::{list as list_paths, no_valid_files, refuse_listed_twice, refuse_shared, refuse_shared_paths};
pub(crate) use format::{agreed, extension};
pub(crate) use rows::{TextRow, TextRows, WantedColumns};
#[cfg(test)]
pub(crate) use table::parquet_files;
pub(crate) use table::{Cells, Holds, Table};
pub(crate) use text::{file_sha256, hash_parts, read_text};

/// One text with a name for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Where it came from: a file path, `file:line`, or `crate/path`.
    pub name: String,
    /// The text.
    pub text: String,
}

/// An ordered set of documents that can say whether it changed.
pub trait Source: Dataset<Document, DataError> {
    /// A hash of everything that the documents' texts depend on, in hexadecimal; equal fingerprints mean equal texts.
    fn fingerprint(&self) -> Result<String, DataError>;

    /// One line for logs: what and how much.
    fn describe(&self) -> String;
}

/// `1.2 MB` and the like, for [`Source::describe`].
pub(crate) fn human_bytes(bytes: u64) -> String {
    indicatif::DecimalBytes(bytes).to_string()
}
