use std::ops::Range;
use std::sync::Arc;

use burn_dataset::Dataset;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::text::hash_parts;
use super::{Document, Source, human_bytes};
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
/// - Several documents: whole, those with the smallest hashes of their text are valid, about `valid_fraction` of them and at
///   least one. Order and names play no part, equal texts stay together, and a document that is added moves few others.
/// - One document, or several of such sizes that whole ones would give less than half or more than twice the bytes that
///   `valid_fraction` asks for, on either side: the first `1 - valid_fraction` of each document's **characters** is train, its
///   tail is valid, as nanoGPT does it.
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
    let measured: Vec<Result<Measures, DataError>> = (0..source.len())
        .into_par_iter()
        .map(|index| Ok(Measures::of(&source.get(index)?.text, valid_fraction)))
        .collect();
    let measures = measured.into_iter().collect::<Result<Vec<_>, _>>()?;
    let (train, valid) = match whole(&measures, valid_fraction) {
        Some(parts) => parts,
        None => tails(&measures).ok_or_else(|| {
            let characters: usize = measures.iter().map(|it| it.characters).sum();
            let reason = format!("{characters} characters give an empty part at valid_fraction {valid_fraction}");
            DataError::CannotSplit { what: source.describe(), reason }
        })?,
    };
    let part = |selection, split| Box::new(Share { source: source.clone(), selection, split, valid_fraction });
    Ok(Splits { train: part(train, Split::Train), valid: part(valid, Split::Valid) })
}

/// What decides on which side a document is.
struct Measures {
    sha256: [u8; 32],
    characters: usize,
    bytes: usize,
    /// Bytes before its tail.
    cut: usize,
}

impl Measures {
    fn of(text: &str, valid_fraction: f64) -> Self {
        let characters = text.chars().count();
        let train = (characters as f64 * (1.0 - valid_fraction)) as usize;
        let cut = text.char_indices().nth(train).map_or(text.len(), |(at, _)| at);
        Self { sha256: Sha256::digest(text.as_bytes()).into(), characters, bytes: text.len(), cut }
    }
}

/// Whole documents for train and valid; `None` where they don't give about the bytes that are asked for.
fn whole(measures: &[Measures], valid_fraction: f64) -> Option<(Selection, Selection)> {
    let documents = measures.len();
    if documents < 2 {
        return None;
    }
    let count = ((documents as f64 * valid_fraction).round() as usize).clamp(1, documents - 1);
    let mut sorted: Vec<_> = measures.iter().map(|it| it.sha256).collect();
    sorted.sort_unstable();
    let last_valid = sorted[count - 1];
    let (valid, train): (Vec<_>, Vec<_>) = (0..documents).partition(|&index| measures[index].sha256 <= last_valid);
    let bytes = |part: &[usize]| part.iter().map(|&index| measures[index].bytes as f64).sum::<f64>();
    let all = bytes(&train) + bytes(&valid);
    let fits = |part: &[usize], fraction: f64| (fraction / 2.0..=fraction * 2.0).contains(&(bytes(part) / all));
    // The other side too: at a half, nearly all and nearly nothing are within a factor of two of what was asked for.
    let balanced =
        !train.is_empty() && !valid.is_empty() && fits(&valid, valid_fraction) && fits(&train, 1.0 - valid_fraction);
    balanced.then_some((Selection::Documents(train), Selection::Documents(valid)))
}

/// The beginnings and the tails of all documents; `None` if either are empty.
fn tails(measures: &[Measures]) -> Option<(Selection, Selection)> {
    let kept = |range: fn(&Measures) -> Range<usize>| {
        let ranges = measures.iter().map(range).enumerate().filter(|(_, range)| !range.is_empty());
        Some(ranges.collect::<Vec<_>>()).filter(|ranges| !ranges.is_empty()).map(Selection::Pieces)
    };
    kept(|it| 0..it.cut).zip(kept(|it| it.cut..it.bytes))
}

/// A share of another source.
struct Share {
    source: Arc<dyn Source>,
    selection: Selection,
    split: Split,
    valid_fraction: f64,
}

enum Selection {
    /// Numbers of documents, ascending, and of each a range of its bytes, on character boundaries.
    Pieces(Vec<(usize, Range<usize>)>),
    /// Numbers of documents, ascending.
    Documents(Vec<usize>),
}

impl Dataset<Document, DataError> for Share {
    fn get(&self, index: usize) -> Result<Document, DataError> {
        match &self.selection {
            Selection::Documents(documents) => self.source.get(documents[index]),
            Selection::Pieces(pieces) => {
                let (number, range) = &pieces[index];
                let Document { name, text } = self.source.get(*number)?;
                let part = text.get(range.clone()).map(str::to_owned).ok_or_else(|| DataError::FileChanged {
                    path: name.as_str().into(),
                    expected: range.end as u64,
                    found: text.len() as u64,
                })?;
                Ok(Document { name: format!("{name} ({})", self.split), text: part })
            }
        }
    }

    fn len(&self) -> usize {
        match &self.selection {
            Selection::Documents(documents) => documents.len(),
            Selection::Pieces(pieces) => pieces.len(),
        }
    }
}

impl Source for Share {
    fn fingerprint(&self) -> Result<String, DataError> {
        let (source, split, fraction) =
            (self.source.fingerprint()?, self.split.to_string(), self.valid_fraction.to_string());
        // Of several documents either whole ones or tails can be meant, of one only its tail.
        let tails = matches!(self.selection, Selection::Pieces(_)) && self.source.len() > 1;
        let rule = tails.then_some("tails");
        Ok(hash_parts([source.as_str(), &split, &fraction].into_iter().chain(rule)))
    }

    fn describe(&self) -> String {
        let all = self.source.len();
        let share = match &self.selection {
            Selection::Documents(documents) => format!("{} of {all} documents", documents.len()),
            Selection::Pieces(pieces) => match pieces.as_slice() {
                [(_, Range { start, end })] if all == 1 => format!("bytes {start}..{end}"),
                pieces => {
                    let bytes = pieces.iter().map(|(_, range)| range.len() as u64).sum();
                    let what = if self.split == Split::Train { "all but the tail" } else { "the tail" };
                    let why = "whole documents would not come near valid_fraction";
                    format!("{what} of each of {all} documents, {}: {why} {}", human_bytes(bytes), self.valid_fraction)
                }
            },
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
        assert!(matches!(split(source(&[]), 0.1), Err(DataError::CannotSplit { .. })));
        let equal = ["a".to_owned(), "a".to_owned()];
        assert!(matches!(split(source(&equal), 0.5), Err(DataError::CannotSplit { .. })));
        assert!(matches!(split(source(&equal), 1.0), Err(DataError::ConfigValue { .. })));
        assert!(matches!(split(source(&equal), f64::NAN), Err(DataError::ConfigValue { .. })));
    }

    fn share_of_bytes(splits: &Splits) -> f64 {
        let [train, valid] = [&splits.train, &splits.valid].map(|it| texts(it.as_ref()).concat().len() as f64);
        valid / (train + valid)
    }

    #[test]
    fn documents_of_very_different_sizes_give_their_tails() {
        let small = "a line of thirty-eight characters here";
        let large = "éa".repeat(60_000) + &"b".repeat(20_000);
        for (fraction, all) in [
            (0.1, [small.to_owned(), large.clone()]),
            (0.1, [large.clone(), small.to_owned()]),
            // Each of the two is within a factor of two of a half, or the other is.
            (0.5, [small.to_owned(), large.clone()]),
        ] {
            let splits = split(source(&all), fraction).unwrap();
            let share = share_of_bytes(&splits);
            assert!((fraction / 2.0..=fraction * 2.0).contains(&share), "{share} is not about {fraction}");
            let (train, valid) = (texts(splits.train.as_ref()), texts(splits.valid.as_ref()));
            for (index, whole) in all.iter().enumerate() {
                assert_eq!(&(train[index].clone() + &valid[index]), whole);
                let characters = (whole.chars().count() as f64 * (1.0 - fraction)) as usize;
                assert_eq!(train[index].chars().count(), characters);
            }
            assert_eq!(splits.train.get(0).unwrap().name, "0 (train)");
            let said = splits.valid.describe();
            assert!(said.starts_with("valid of test") && said.contains("(the tail of each of 2 documents, "), "{said}");
            assert!(said.contains(&format!("valid_fraction {fraction}")), "{said}");
            assert!(splits.train.describe().contains("(all but the tail of each of 2 documents, "));
        }
    }

    #[test]
    fn too_few_documents_for_the_fraction_give_their_tails() {
        let all = ["first ".repeat(100), "other ".repeat(100)];
        let splits = split(source(&all), 0.1).unwrap();
        assert_eq!((splits.train.len(), splits.valid.len()), (2, 2));
        assert!((share_of_bytes(&splits) - 0.1).abs() < 0.01);
        // Whole ones and tails of the same texts are never taken for each other.
        let halves = split(source(&all), 0.5).unwrap();
        assert_eq!((halves.train.len(), halves.valid.len()), (1, 1));
        let part =
            |selection| Share { source: Arc::from(source(&all)), selection, split: Split::Valid, valid_fraction: 0.1 };
        let whole = part(Selection::Documents(vec![0])).fingerprint().unwrap();
        assert_ne!(splits.valid.fingerprint().unwrap(), whole);
    }

    #[test]
    fn equal_texts_give_equal_tails() {
        let splits = split(source(&["same".to_owned(), "same".to_owned()]), 0.5).unwrap();
        assert_eq!(
            (texts(splits.train.as_ref()), texts(splits.valid.as_ref())),
            (vec!["sa".to_owned(); 2], vec!["me".to_owned(); 2])
        );
    }

    proptest! {
        /// Of about equal sizes, and enough of them for the fraction.
        #[test]
        fn several_documents_are_divided_whole(count in 2_usize..60, share in 0.0_f64..1.0, turn in 0_usize..60) {
            let wanted = 1 + (share * (count - 1) as f64) as usize;
            let fraction = wanted as f64 / count as f64;
            let mut all: Vec<String> = (0..count).map(|i| format!("document {i}")).collect();
            let splits = split(source(&all), fraction).unwrap();
            let (train, mut valid) = (texts(splits.train.as_ref()), texts(splits.valid.as_ref()));
            prop_assert_eq!(valid.len(), wanted);
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

        /// Whatever the sizes, about as much as was asked for is valid, and nothing is lost or on both sides.
        #[test]
        fn about_the_fraction_is_valid(sizes in prop::collection::vec(200_usize..20_000, 1..12), fraction in 0.05_f64..0.9) {
            let all: Vec<String> = sizes.iter().enumerate().map(|(i, size)| format!("{i} ").repeat(size / 2)).collect();
            let splits = split(source(&all), fraction).unwrap();
            let share = share_of_bytes(&splits);
            prop_assert!((fraction / 2.0..=fraction * 2.0).contains(&share), "{} is not about {}", share, fraction);
            let bytes = |texts: &[String]| texts.iter().map(String::len).sum::<usize>();
            let parts = [texts(splits.train.as_ref()), texts(splits.valid.as_ref())].concat();
            prop_assert_eq!(bytes(&parts), bytes(&all));
        }
    }
}
