use burn_dataset::Dataset;

use super::text::hash_parts;
use super::{Document, Source, human_bytes};
use crate::DataError;

/// Documents in memory.
#[derive(Clone, Debug)]
pub struct Texts {
    label: String,
    documents: Vec<Document>,
    fingerprint: String,
}

impl Texts {
    /// Takes the documents as they are; `label` stands in [`Source::describe`].
    pub fn new(label: impl Into<String>, documents: Vec<Document>) -> Self {
        let parts = documents.iter().flat_map(|document| [document.name.as_str(), document.text.as_str()]);
        let fingerprint = hash_parts(parts);
        Self { label: label.into(), documents, fingerprint }
    }
}

impl Dataset<Document, DataError> for Texts {
    fn get(&self, index: usize) -> Result<Document, DataError> {
        Ok(self.documents[index].clone())
    }

    fn len(&self) -> usize {
        self.documents.len()
    }
}

impl Source for Texts {
    fn fingerprint(&self) -> Result<String, DataError> {
        Ok(self.fingerprint.clone())
    }

    fn describe(&self) -> String {
        let bytes = self.documents.iter().map(|document| document.text.len() as u64).sum();
        format!("{}: {} documents, {}", self.label, self.documents.len(), human_bytes(bytes))
    }
}
