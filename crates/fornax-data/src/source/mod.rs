//! Where text comes from. A source is a `burn_dataset::Dataset` of documents.

use burn_dataset::Dataset;

use crate::DataError;

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
