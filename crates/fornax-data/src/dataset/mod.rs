//! Data sets by name: what `datasets/<name>/dataset.toml` says, where the files are, and how they become sources.

mod archive;
mod config;
mod descriptor;
mod download;
mod places;

use std::path::PathBuf;

pub use config::DataConfig;
#[cfg(test)]
pub(crate) use config::tests::assert_sources_exclude;
pub use descriptor::{Archive, Descriptor, Entry, PackedFile, RemoteFile, SplitFiles};
pub use download::{Patience, download};
pub use places::{Local, Places};

use crate::source::{Format, Records, split};
use crate::source::{FoundFile, Part, RustCrates, Source, Split, Splits, TextFiles};
use crate::{DataError, source::CrateFolders};

/// The data set that needs no download.
pub const EMBEDDED: &str = "rust-crates";

/// The share of a data set that is valid where nobody says otherwise: nanoGPT's.
pub const DEFAULT_VALID_FRACTION: f64 = 0.1;

/// Keys of a table `[data]` that say where data comes from, each with the keys that only go with another of them.
pub type SourceKeys = &'static [(&'static str, &'static [&'static str])];

/// Where tokenizers and tokens are kept between runs: `$FORNAX_CACHE`, the user's cache folder, or a folder here.
pub fn cache_folder() -> PathBuf {
    Places::from_environment().cache.unwrap_or_else(|| PathBuf::from(".fornax-cache"))
}

/// Each folder of `datasets/`, compiled in so that a binary knows them wherever it runs. A new data set is one folder and one line.
const REGISTRY: [(&str, &str); 5] = [
    (EMBEDDED, include_str!("../../../../datasets/rust-crates/dataset.toml")),
    ("tinyshakespeare", include_str!("../../../../datasets/tinyshakespeare/dataset.toml")),
    ("sst2", include_str!("../../../../datasets/sst2/dataset.toml")),
    ("multi30k", include_str!("../../../../datasets/multi30k/dataset.toml")),
    ("wikitext-2", include_str!("../../../../datasets/wikitext-2/dataset.toml")),
];

/// What is known of one data set and which of its files are here.
#[derive(Clone, Debug)]
pub struct Listing {
    /// Its folder in `datasets/`.
    pub name: &'static str,
    /// What its `dataset.toml` says.
    pub descriptor: Descriptor,
    /// Where each of its files ([`Descriptor::entries`]) is; none for the embedded data set. Sizes are compared, contents are not
    /// read.
    pub files: Vec<Local>,
}

/// The names of all data sets.
pub fn names() -> impl Iterator<Item = &'static str> {
    REGISTRY.iter().map(|(name, _)| *name)
}

/// What `datasets/<name>/dataset.toml` says.
///
/// # Errors
/// An unknown name (the message lists all), or a descriptor that can't be understood.
pub fn descriptor(name: &str) -> Result<Descriptor, DataError> {
    match REGISTRY.iter().find(|(known, _)| *known == name) {
        Some((name, text)) => Descriptor::parse(name, text),
        None => Err(DataError::UnknownDataset { name: name.into(), known: names().collect::<Vec<_>>().join(", ") }),
    }
}

/// All data sets with what is here of them; nothing is downloaded or hashed.
///
/// # Errors
/// A descriptor that can't be understood.
pub fn list(places: &Places) -> Result<Vec<Listing>, DataError> {
    let listing = |name| {
        let descriptor = descriptor(name)?;
        let files = descriptor.entries().map(|entry| places.local_entry(name, entry)).collect();
        Ok(Listing { name, descriptor, files })
    };
    names().map(listing).collect()
}

/// Makes every file of the data set available and returns their paths, verified, in the order of its descriptor: what is here is
/// used, the rest is downloaded. For the embedded data set, the folders of its crates.
///
/// # Errors
/// An unknown name, a file with a wrong checksum (it is left alone), a failed download, a missing crate.
pub fn get(name: &str, places: &Places) -> Result<Vec<PathBuf>, DataError> {
    let descriptor = descriptor(name)?;
    if name == EMBEDDED {
        return RustCrates::locate(&descriptor.crates, &crate_folders(places));
    }
    descriptor.entries().map(|entry| places.get_entry(name, entry)).collect()
}

/// Opens one split, getting its files as [`get`] does. `part` matters to the embedded data set only.
///
/// # Errors
/// As [`get`], and a split that the data set does not have.
pub fn open(name: &str, split: Split, part: Part, places: &Places) -> Result<Box<dyn Source>, DataError> {
    let descriptor = descriptor(name)?;
    if split == Split::Test {
        if descriptor.splits.test.is_empty() {
            return Err(DataError::UnknownSplit { name: name.into(), split });
        }
        return open_files(name, &descriptor, &descriptor.splits.test, places);
    }
    let Splits { train, valid } = open_splits(name, part, None, places)?;
    Ok(if split == Split::Train { train } else { valid })
}

/// Opens train and valid of a data set: its own valid files, or a share of train (`valid_fraction`, else the descriptor's).
fn open_splits(name: &str, part: Part, valid_fraction: Option<f64>, places: &Places) -> Result<Splits, DataError> {
    let descriptor = descriptor(name)?;
    if name == EMBEDDED {
        return RustCrates::open(&descriptor.crates, part, &crate_folders(places));
    }
    let train = open_files(name, &descriptor, &descriptor.splits.train, places)?;
    if descriptor.splits.valid.is_empty() {
        let own = descriptor.splits.valid_fraction;
        return split(train, valid_fraction.or(own).unwrap_or(DEFAULT_VALID_FRACTION));
    }
    Ok(Splits { train, valid: open_files(name, &descriptor, &descriptor.splits.valid, places)? })
}

fn open_files(
    name: &str,
    descriptor: &Descriptor,
    files: &[String],
    places: &Places,
) -> Result<Box<dyn Source>, DataError> {
    let find = |wanted: &String| {
        let path = places.get_entry(name, descriptor.entry(name, wanted)?)?;
        Ok(FoundFile { path, name: wanted.clone(), in_folder: false })
    };
    let found = files.iter().map(find).collect::<Result<Vec<_>, _>>()?;
    open_format(found, descriptor.format, descriptor.columns.get("text").map(String::as_str))
}

fn open_format(files: Vec<FoundFile>, format: Format, column: Option<&str>) -> Result<Box<dyn Source>, DataError> {
    Ok(match format {
        Format::Text => Box::new(TextFiles::open(files)?),
        _ => Box::new(Records::open(files, format, column)?),
    })
}

fn crate_folders(places: &Places) -> CrateFolders {
    let folders = places.folders(EMBEDDED);
    if places.folder.is_some() { CrateFolders::new(folders) } else { CrateFolders::of_cargo(folders) }
}

#[cfg(test)]
mod tests;
