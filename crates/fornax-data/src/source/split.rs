use std::sync::Arc;

use burn_dataset::Dataset;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::text::hash_parts;
use super::{Document, Source};
use crate::DataError;

/// A part of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// What is learned from.
    Train,
    /// What is measured during training.
    Valid,
    /// What is measured at the end, where the data set has it.
    Test,
}

impl std::fmt::Display for Split {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Train => "train",
            Self::Valid => "valid",
            Self::Test => "test",
        })
    }
}

/// The two sources that training needs.
pub struct Splits {
    /// What is learned from.
    pub train: Box<dyn Source>,
    /// What is measured during training.
    pub valid: Box<dyn Source>,
}

impl std::fmt::Debug for Splits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Splits {{ train: {}, valid: {} }}", self.train.describe(), self.valid.describe())
    }
}

/// Divides a source into train and valid, always the same way.
///
/// - One document: the first `1 - valid_fraction` of its **characters** is train, the tail is valid, as nanoGPT does it.
/// - Several: by document, those with the smallest hashes of their text are valid, about `valid_fraction` of them and at least
///   one. Order and names play no part, equal texts stay together, and a document that is added moves few others.
///
/// Reads every text once.
///
/// # Errors
/// `valid_fraction` outside of (0, 1), or a source too small to give two parts that are not empty.
pub fn split(source: Box<dyn Source>, valid_fraction: f64) -> Result<Splits, DataError> {
    if !(valid_fraction > 0.0 && valid_fraction < 1.0) {
        return Err(DataError::ConfigValue {
            key: "data.valid_fraction",
            value: valid_fraction.to_string(),
            expected: "a number between 0 and 1, both excluded".into(),
        });
    }
    let source: Arc<dyn Source> = Arc::from(source);
    let (train, valid) = match source.len() {
        1 => by_characters(source.as_ref(), valid_fraction)?,
        _ => by_document(source.as_ref(), valid_fraction)?,
    };
    let part = |selection, split| Box::new(Share { source: source.clone(), selection, split, valid_fraction });
    Ok(Splits { train: part(train, Split::Train), valid: part(valid, Split::Valid) })
}

fn by_characters(source: &dyn Source, valid_fraction: f64) -> Result<(Selection, Selection), DataError> {
    let document = source.get(0)?;
    let characters = document.text.chars().count();
    let train = (characters as f64 * (1.0 - valid_fraction)) as usize;
    if train == 0 || train == characters {
        return Err(DataError::CannotSplit {
            what: source.describe(),
            reason: format!("{characters} characters give an empty part at valid_fraction {valid_fraction}"),
        });
    }
    let cut = document.text.char_indices().nth(train).map_or(document.text.len(), |(at, _)| at);
    Ok((Selection::Bytes { start: 0, end: cut }, Selection::Bytes { start: cut, end: document.text.len() }))
}

fn by_document(source: &dyn Source, valid_fraction: f64) -> Result<(Selection, Selection), DataError> {
    let hashes: Vec<Result<[u8; 32], DataError>> = (0..source.len())
        .into_par_iter()
        .map(|index| Ok(Sha256::digest(source.get(index)?.text.as_bytes()).into()))
        .collect();
    let hashes = hashes.into_iter().collect::<Result<Vec<_>, _>>()?;
    let count = ((hashes.len() as f64 * valid_fraction).round() as usize).min(hashes.len().saturating_sub(1)).max(1);
    let mut sorted = hashes.clone();
    sorted.sort_unstable();
    let last_valid = sorted.get(count - 1);
    let (valid, train): (Vec<_>, Vec<_>) = (0..hashes.len()).partition(|&index| Some(&hashes[index]) <= last_valid);
    if train.is_empty() || valid.is_empty() {
        return Err(DataError::CannotSplit {
            what: source.describe(),
            reason: format!("{} documents give an empty part at valid_fraction {valid_fraction}", hashes.len()),
        });
    }
    Ok((Selection::Documents(train), Selection::Documents(valid)))
}

/// A share of another source.
struct Share {
    source: Arc<dyn Source>,
    selection: Selection,
    split: Split,
    valid_fraction: f64,
}

enum Selection {
    /// A range of bytes of the only document, on character boundaries.
    Bytes { start: usize, end: usize },
    /// Numbers of documents, ascending.
    Documents(Vec<usize>),
}

impl Dataset<Document, DataError> for Share {
    fn get(&self, index: usize) -> Result<Document, DataError> {
        match &self.selection {
            Selection::Documents(documents) => self.source.get(documents[index]),
            Selection::Bytes { start, end } => {
                let Document { name, text } = self.source.get(index)?;
                let part = text.get(*start..*end).map(str::to_owned).ok_or_else(|| DataError::FileChanged {
                    path: name.as_str().into(),
                    expected: *end as u64,
                    found: text.len() as u64,
                })?;
                Ok(Document { name: format!("{name} ({})", self.split), text: part })
            }
        }
    }

    fn len(&self) -> usize {
        match &self.selection {
            Selection::Documents(documents) => documents.len(),
            Selection::Bytes { .. } => 1,
        }
    }
}

impl Source for Share {
    fn fingerprint(&self) -> Result<String, DataError> {
        let (split, fraction) = (self.split.to_string(), self.valid_fraction.to_string());
        Ok(hash_parts([self.source.fingerprint()?.as_str(), &split, &fraction]))
    }

    fn describe(&self) -> String {
        let share = match &self.selection {
            Selection::Documents(documents) => format!("{} of {} documents", documents.len(), self.source.len()),
            Selection::Bytes { start, end } => format!("bytes {start}..{end}"),
        };
        format!("{} of {} ({share})", self.split, self.source.describe())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::source::Texts;

    fn source(texts: &[String]) -> Box<dyn Source> {
        let documents = texts.iter().enumerate();
        let documents = documents.map(|(i, text)| Document { name: i.to_string(), text: text.clone() }).collect();
        Box::new(Texts::new("test", documents))
    }

    fn texts(source: &dyn Source) -> Vec<String> {
        (0..source.len()).map(|index| source.get(index).unwrap().text).collect()
    }

    #[test]
    fn one_document_is_cut_by_characters() {
        let splits = split(source(&["ééééééééab".to_owned()]), 0.1).unwrap();
        assert_eq!(texts(splits.train.as_ref()), ["éééééééé".to_owned() + "a"]);
        assert_eq!(texts(splits.valid.as_ref()), ["b"]);
        assert_ne!(splits.train.fingerprint().unwrap(), splits.valid.fingerprint().unwrap());
    }

    #[test]
    fn too_small_a_source_is_refused() {
        assert!(matches!(split(source(&["a".to_owned()]), 0.1), Err(DataError::CannotSplit { .. })));
        let equal = ["same".to_owned(), "same".to_owned()];
        assert!(matches!(split(source(&equal), 0.5), Err(DataError::CannotSplit { .. })));
        assert!(matches!(split(source(&equal), 1.0), Err(DataError::ConfigValue { .. })));
        assert!(matches!(split(source(&equal), f64::NAN), Err(DataError::ConfigValue { .. })));
    }

    proptest! {
        #[test]
        fn several_documents_are_divided_whole(count in 2_usize..60, fraction in 0.01_f64..0.6, turn in 0_usize..60) {
            let mut all: Vec<String> = (0..count).map(|i| format!("document {i}")).collect();
            let splits = split(source(&all), fraction).unwrap();
            let (train, mut valid) = (texts(splits.train.as_ref()), texts(splits.valid.as_ref()));
            prop_assert_eq!(valid.len(), ((count as f64 * fraction).round() as usize).max(1));
            let mut union = [train, valid.clone()].concat();
            union.sort();
            let mut sorted = all.clone();
            sorted.sort();
            prop_assert_eq!(union, sorted);
            // The same documents in another order fall on the same sides.
            all.rotate_left(turn % count);
            let mut turned = texts(split(source(&all), fraction).unwrap().valid.as_ref());
            valid.sort();
            turned.sort();
            prop_assert_eq!(valid, turned);
        }
    }
}
