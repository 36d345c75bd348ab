use std::collections::BTreeMap;

use serde::Deserialize;

use crate::DataError;
use crate::source::{CrateEntry, Format};

/// The newest `format_version` that this program reads.
const FORMAT_VERSION: u32 = 1;

/// What a `dataset.toml` says; `datasets/README.md` describes the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Descriptor {
    /// Of this file.
    pub format_version: u32,
    /// One line for lists.
    pub description: String,
    /// Under which terms the data may be used.
    pub licence: String,
    /// Where it comes from.
    pub homepage: String,
    /// How documents lie in the files.
    pub format: Format,
    /// From a role (`text`, `label`) to the name of the column that has it.
    #[serde(default)]
    pub columns: BTreeMap<String, String>,
    /// Which files are train, valid and test.
    #[serde(default)]
    pub splits: SplitFiles,
    /// All files.
    #[serde(default)]
    pub files: Vec<RemoteFile>,
    /// Archives that hold further files.
    #[serde(default)]
    pub archives: Vec<Archive>,
    /// The crates of the embedded corpus, instead of files.
    #[serde(default)]
    pub crates: Vec<CrateEntry>,
}

/// Names of files by split.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SplitFiles {
    /// What is learned from.
    pub train: Vec<String>,
    /// What is measured during training; empty: a share of train.
    pub valid: Vec<String>,
    /// What is measured at the end.
    pub test: Vec<String>,
    /// The share of train that is valid, where there are no valid files.
    pub valid_fraction: Option<f64>,
}

/// A file of a data set.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoteFile {
    /// Its name in the data set's folder.
    pub name: String,
    /// Where it can be downloaded.
    pub url: String,
    /// Of its bytes, in lower-case hexadecimal.
    pub sha256: String,
    /// Its size.
    pub bytes: u64,
}

/// A zip that holds files of a data set.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Archive {
    /// Its name in the data set's folder.
    pub name: String,
    /// Where it can be downloaded.
    pub url: String,
    /// Of its bytes, in lower-case hexadecimal.
    pub sha256: String,
    /// Its size.
    pub bytes: u64,
    /// What is taken out of it.
    pub files: Vec<PackedFile>,
}

/// A file of an archive.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackedFile {
    /// Its name in the data set's folder.
    pub name: String,
    /// Its path in the archive.
    pub path: String,
    /// Its lines that are not blank.
    pub lines: u64,
}

/// A file that a split can name.
#[derive(Clone, Copy, Debug)]
pub enum Entry<'a> {
    /// By itself.
    Plain(&'a RemoteFile),
    /// In an archive.
    Packed(&'a Archive, &'a PackedFile),
}

impl<'a> Entry<'a> {
    /// Its name in the data set's folder.
    pub fn name(&self) -> &'a str {
        match self {
            Self::Plain(file) => &file.name,
            Self::Packed(_, file) => &file.name,
        }
    }

    /// What is downloaded for it: URL and bytes.
    pub fn download(&self) -> (&'a str, u64) {
        match self {
            Self::Plain(file) => (&file.url, file.bytes),
            Self::Packed(archive, _) => (&archive.url, archive.bytes),
        }
    }
}

impl Archive {
    fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        self.files.iter().map(move |file| Entry::Packed(self, file))
    }

    /// The archive itself as a file.
    pub(super) fn remote(&self) -> RemoteFile {
        let Self { name, url, sha256, bytes, .. } = self.clone();
        RemoteFile { name, url, sha256, bytes }
    }
}

impl Descriptor {
    /// Reads and checks a descriptor; `name` is for messages.
    ///
    /// # Errors
    /// A newer `format_version`, a syntax error, an unknown key, or a split that names no file of the list.
    pub fn parse(name: &str, text: &str) -> Result<Self, DataError> {
        #[derive(Deserialize)]
        struct Version {
            format_version: u32,
        }
        let wrong = |message: String| DataError::Descriptor { name: name.into(), message };
        let Version { format_version } = toml::from_str(text).map_err(|error| wrong(error.to_string()))?;
        if format_version != FORMAT_VERSION {
            return Err(wrong(format!("format_version is {format_version}, this program reads {FORMAT_VERSION}")));
        }
        let descriptor: Self = toml::from_str(text).map_err(|error| wrong(error.to_string()))?;
        let SplitFiles { train, valid, test, .. } = &descriptor.splits;
        if train.is_empty() == descriptor.crates.is_empty() {
            return Err(wrong("either `splits.train` or `crates` must be given".into()));
        }
        for file in train.iter().chain(valid).chain(test) {
            descriptor.entry(name, file)?;
        }
        let archives: Vec<RemoteFile> = descriptor.archives.iter().map(Archive::remote).collect();
        for file in descriptor.files.iter().chain(&archives) {
            if file.sha256.len() != 64 || !file.sha256.bytes().all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f')) {
                return Err(wrong(format!("sha256 of `{}` must be 64 lower-case hexadecimal digits", file.name)));
            }
        }
        let names = descriptor.entries().map(|entry| entry.name()).chain(archives.iter().map(|it| it.name.as_str()));
        if let Some(bad) = names.into_iter().find(|it| it.is_empty() || it.starts_with('.') || it.contains(['/', '\\']))
        {
            return Err(wrong(format!("`{bad}` is no plain file name")));
        }
        Ok(descriptor)
    }

    /// All files, those by themselves first.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        self.files.iter().map(Entry::Plain).chain(self.archives.iter().flat_map(Archive::entries))
    }

    /// The file of this name, by itself or in an archive; `dataset` is for the message.
    pub(crate) fn entry(&self, dataset: &str, file: &str) -> Result<Entry<'_>, DataError> {
        self.entries().find(|entry| entry.name() == file).ok_or_else(|| DataError::Descriptor {
            name: dataset.into(),
            message: format!("a split names `{file}`, which is neither under [[files]] nor in one of [[archives]]"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
format_version = 1
description = "d"
licence = "l"
homepage = "h"
format = "tsv"
columns = { text = "sentence", label = "label" }
splits = { train = ["a.tsv"], valid = ["b.tsv"] }
[[files]]
name = "a.tsv"
url = "https://example.org/a.tsv"
sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
bytes = 1
[[files]]
name = "b.tsv"
url = "https://example.org/b.tsv"
sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
bytes = 1
"#;

    fn error(text: &str) -> String {
        Descriptor::parse("x", text).unwrap_err().to_string()
    }

    #[test]
    fn a_descriptor_is_read() {
        let descriptor = Descriptor::parse("x", GOOD).unwrap();
        assert_eq!(descriptor.format, Format::Tsv);
        assert_eq!(descriptor.columns["text"], "sentence");
        assert_eq!(descriptor.entry("x", "b.tsv").unwrap().download(), ("https://example.org/b.tsv", 1));
    }

    #[test]
    fn a_split_may_name_a_file_of_an_archive() {
        let archive = GOOD.replacen("[[files]]", "[[archives]]", 2);
        let archive = archive.replacen("a.tsv\"\nurl", "a.zip\"\nurl", 1).replacen("b.tsv\"\nurl", "b.zip\"\nurl", 1);
        let with =
            |name: &str| format!("bytes = 1\nfiles = [{{ name = \"{name}\", path = \"dir/{name}\", lines = 2 }}]");
        let text = archive.replacen("bytes = 1", &with("a.tsv"), 1);
        let at = text.rfind("bytes = 1").unwrap();
        let text = format!("{}{}", &text[..at], with("b.tsv"));
        let descriptor = Descriptor::parse("x", &text).unwrap();
        assert_eq!(descriptor.entries().map(|entry| entry.name()).collect::<Vec<_>>(), ["a.tsv", "b.tsv"]);
        let entry = descriptor.entry("x", "b.tsv").unwrap();
        assert_eq!(entry.download(), ("https://example.org/b.tsv", 1));
        assert!(matches!(entry, Entry::Packed(archive, file) if archive.name == "b.zip" && file.lines == 2));
        assert!(error(&text.replace("b.zip", "../b.zip")).contains("no plain file name"));
        assert!(error(&text.replace("lines", "rows")).contains("rows"));
        assert!(error(&text.replace("name = \"b.tsv\"", "name = \"c.tsv\"")).contains("`b.tsv`"));
    }

    #[test]
    fn mistakes_are_named() {
        let newer = error(&GOOD.replace("format_version = 1", "format_version = 2\nfuture = true"));
        assert_eq!(newer, "datasets/x/dataset.toml: format_version is 2, this program reads 1");
        assert!(error(&GOOD.replace("licence", "license")).contains("license"));
        assert!(error(&GOOD.replace("[\"b.tsv\"]", "[\"c.tsv\"]")).contains("`c.tsv`"));
        assert!(error(&GOOD.replace("sha256 = \"0", "sha256 = \"")).contains("64"));
        assert!(error(&GOOD.replace("b.tsv", "../b.tsv")).contains("no plain file name"));
        assert!(error(&GOOD.replace("train = [\"a.tsv\"], ", "")).contains("splits.train"));
    }
}
