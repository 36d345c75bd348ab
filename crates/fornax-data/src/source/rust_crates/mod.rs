//! The corpus that needs no download: sources that cargo unpacked to build this very program.

mod folders;
mod prose;
mod select;

use burn_dataset::Dataset;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

pub use folders::CrateFolders;
use select::Selected;

use super::{Document, Source, Split, Splits, Texts};
use crate::DataError;

/// Which half of the corpus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// Rust source files. The default: it is the larger one, and a small model shows its progress on it soonest.
    #[default]
    Code,
    /// Documentation: the doc comments of each source file without their comment marks, and the README, DESIGN and FAQ pages.
    Prose,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Code => "code",
            Self::Prose => "prose",
        })
    }
}

/// One crate of the corpus, as `datasets/rust-crates/dataset.toml` lists it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CrateEntry {
    /// The crate's name.
    pub name: String,
    /// Its exact version, as in `Cargo.lock`.
    pub version: String,
    /// Its licence, as an SPDX expression.
    pub licence: String,
    /// Train or valid.
    pub split: Split,
    /// Of the selected files, see [`CrateEntry::digest`].
    pub sha256: String,
}

impl CrateEntry {
    /// The sha256 over the files that the corpus takes from the crate in `folder`: path, length and text of each, ordered by path.
    ///
    /// # Errors
    /// A file that can't be read or is not UTF-8.
    pub fn digest(folder: &std::path::Path) -> Result<String, DataError> {
        Ok(Selected::read(folder)?.digest())
    }
}

/// One split of the embedded corpus, in memory (some megabytes).
///
/// The corpus is a fixed list of crates that this crate itself is built from, whatever the platform and features, so that cargo has
/// unpacked them wherever this program was built. From each are taken the `.rs` files below `src` and the README, DESIGN and FAQ
/// pages; left out are tests (files and folders named `test` or `tests`), folders named `unicode_tables`, and files more than a
/// fifth of whose printed characters are digits (tables of numbers). Train and valid are divided by crate. Every machine gets the
/// same bytes, or an error.
#[derive(Debug)]
pub struct RustCrates {
    texts: Texts,
}

impl RustCrates {
    /// Finds, reads and verifies the crates, and returns their documents divided into train and valid.
    ///
    /// # Errors
    /// A crate that is in none of the folders, or whose files are not those of the list.
    pub fn open(entries: &[CrateEntry], part: Part, folders: &CrateFolders) -> Result<Splits, DataError> {
        let read: Vec<_> = entries.par_iter().map(|entry| folders.find(entry)).collect();
        let crates = read.into_iter().collect::<Result<Vec<_>, _>>()?;
        let share = |split: Split| {
            let mut documents = Vec::new();
            for (entry, (_, selected)) in entries.iter().zip(&crates).filter(|(entry, _)| entry.split == split) {
                let texts = selected.files.iter().filter_map(|file| Some((&file.path, file.text_of(part)?)));
                documents.extend(texts.map(|(path, text)| Document { name: format!("{}/{path}", entry.name), text }));
            }
            Box::new(Self { texts: Texts::new(format!("{split} of rust-crates ({part})"), documents) })
        };
        Ok(Splits { train: share(Split::Train), valid: share(Split::Valid) })
    }

    /// Where the crates of the corpus lie, verified, in the order of the list.
    ///
    /// # Errors
    /// As [`RustCrates::open`].
    pub fn locate(entries: &[CrateEntry], folders: &CrateFolders) -> Result<Vec<std::path::PathBuf>, DataError> {
        let found: Vec<_> = entries.par_iter().map(|entry| folders.find(entry)).collect();
        found.into_iter().map(|found| Ok(found?.0)).collect()
    }
}

impl Dataset<Document, DataError> for RustCrates {
    fn get(&self, index: usize) -> Result<Document, DataError> {
        self.texts.get(index)
    }

    fn len(&self) -> usize {
        self.texts.len()
    }
}

impl Source for RustCrates {
    fn fingerprint(&self) -> Result<String, DataError> {
        self.texts.fingerprint()
    }

    fn describe(&self) -> String {
        self.texts.describe()
    }
}
