use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{DEFAULT_VALID_FRACTION, EMBEDDED, Places, descriptor, open_format, open_splits};
use crate::DataError;
use crate::source::{Format, Part, Source, Splits, find_files, split};

/// The table `[data]`: a data set by name, or the user's own files. With neither, the embedded data set `rust-crates`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataConfig {
    /// A folder of `datasets/`. Default: `rust-crates`, the only one that needs no download, unless there are `files`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `code` or `prose` of `rust-crates`. Default: `code`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part: Option<Part>,
    /// A folder that holds the files of the data set `name`, looked into before `$FORNAX_DATA` and the cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folder: Option<PathBuf>,
    /// The user's own files and folders, instead of `name`. Relative to the working folder.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<PathBuf>,
    /// Files and folders to evaluate on. Default: a share of `files`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub valid_files: Vec<PathBuf>,
    /// The share to evaluate on when there are no valid files: the tail of a single document, else whole documents. Default: what
    /// the data set says, else 0.1, which is nanoGPT's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub valid_fraction: Option<f64>,
    /// How documents lie in `files`. Default: what their names say (`.jsonl`, `.tsv`, `.csv`, else `text`: a file is a document).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// The column or JSON key that holds the text. Default: `text`, the name that most public data sets use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_column: Option<String>,
    /// Which files to read from folders, as `["txt", "md"]`. Default: those that go with `format`; for text, all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extensions: Vec<String>,
}

impl DataConfig {
    /// Opens train and valid, with the places that the environment names. Downloads what is not here.
    ///
    /// # Errors
    /// Keys that exclude each other, or anything that keeps the text from being read.
    pub fn open(&self) -> Result<Splits, DataError> {
        self.open_in(Places::from_environment())
    }

    /// As [`DataConfig::open`], with these places.
    ///
    /// # Errors
    /// As [`DataConfig::open`].
    pub fn open_in(&self, places: Places) -> Result<Splits, DataError> {
        self.check()?;
        if self.files.is_empty() {
            let folder = self.folder.clone().or(places.folder);
            let name = self.name.as_deref().unwrap_or(EMBEDDED);
            let part = self.part.unwrap_or_default();
            return open_splits(name, part, self.valid_fraction, &Places { folder, ..places });
        }
        let format = self.format_of_files()?;
        let train = self.open_files(&self.files, format)?;
        if self.valid_files.is_empty() {
            return split(train, self.valid_fraction.unwrap_or(DEFAULT_VALID_FRACTION));
        }
        Ok(Splits { train, valid: self.open_files(&self.valid_files, format)? })
    }

    /// Opens what there is to learn a tokenizer from: all of `files`, or the train split of a named data set.
    ///
    /// # Errors
    /// As [`DataConfig::open`].
    pub fn open_for_tokenizer(&self) -> Result<Box<dyn Source>, DataError> {
        if self.files.is_empty() {
            return Ok(self.open()?.train);
        }
        self.check()?;
        self.open_files(&self.files, self.format_of_files()?)
    }

    /// Refuses keys that exclude each other or do nothing together; looks at no file.
    ///
    /// # Errors
    /// The first such pair, and the reason.
    pub fn check(&self) -> Result<(), DataError> {
        let conflict =
            |first, second: &str, reason| Err(DataError::ConfigConflict { first, second: second.into(), reason });
        if let Some(name) = &self.name {
            descriptor(name)?;
            let own = "a named data set has its own files";
            let second = format!("data.name = \"{name}\"");
            if !self.files.is_empty() {
                return conflict("data.files", &second, own);
            }
        }
        if self.files.is_empty() {
            return self.check_named();
        }
        if self.folder.is_some() {
            return conflict("data.folder", "data.files", "the folder belongs to a named data set");
        }
        if self.part.is_some() {
            return conflict("data.part", "data.files", "only `rust-crates` has parts");
        }
        if self.valid_fraction.is_some() && !self.valid_files.is_empty() {
            return conflict("data.valid_fraction", "data.valid_files", "either names what is evaluated on");
        }
        if let Some(both) = self.files.iter().find(|file| self.valid_files.contains(file)) {
            return Err(DataError::ConfigValue {
                key: "data.valid_files",
                value: both.display().to_string(),
                expected: "a file that is not in `data.files` too".into(),
            });
        }
        Ok(())
    }

    /// The checks when there are no `files`.
    fn check_named(&self) -> Result<(), DataError> {
        let name = self.name.as_deref().unwrap_or(EMBEDDED);
        let second = format!("data.name = \"{name}\"");
        let own = "a named data set brings its own; it goes with data.files";
        let alone: [(&'static str, bool); 4] = [
            ("data.valid_files", !self.valid_files.is_empty()),
            ("data.format", self.format.is_some()),
            ("data.text_column", self.text_column.is_some()),
            ("data.extensions", !self.extensions.is_empty()),
        ];
        let splits = descriptor(name)?.splits;
        let refused = alone.into_iter().find(|(_, set)| *set).map(|(key, _)| (key, own)).or({
            if self.part.is_some() && name != EMBEDDED {
                Some(("data.part", "only `rust-crates` has parts"))
            } else if self.valid_fraction.is_some() && (name == EMBEDDED || !splits.valid.is_empty()) {
                Some(("data.valid_fraction", "the data set has its own valid part"))
            } else {
                None
            }
        });
        match refused {
            Some((first, reason)) => Err(DataError::ConfigConflict { first, second, reason }),
            None => Ok(()),
        }
    }

    /// The format that is given, else the one that all names agree on. Folders without a given format hold text.
    fn format_of_files(&self) -> Result<Format, DataError> {
        let mut formats = self.files.iter().chain(&self.valid_files).map(|path| Format::of(path));
        let format = match (self.format, formats.next()) {
            (Some(given), _) => given,
            (None, Some(first)) if formats.all(|format| format == first) => first,
            _ => {
                return Err(DataError::ConfigValue {
                    key: "data.files",
                    value: "a mix of formats, judging by the names".into(),
                    expected: "files of one format, or `data.format`".into(),
                });
            }
        };
        if self.text_column.is_some() && !format.has_columns() {
            return Err(DataError::ConfigConflict {
                first: "data.text_column",
                second: format!("data.format = \"{}\"", format!("{format:?}").to_lowercase()),
                reason: "only jsonl, tsv and csv have columns",
            });
        }
        Ok(format)
    }

    fn open_files(&self, paths: &[PathBuf], format: Format) -> Result<Box<dyn Source>, DataError> {
        let found = find_files(paths, format, &self.extensions)?;
        open_format(found, format, self.text_column.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn parse(text: &str) -> DataConfig {
        toml::from_str(text).unwrap()
    }

    fn refused(text: &str) -> String {
        parse(text).open_in(Places::default()).unwrap_err().to_string()
    }

    #[test]
    fn keys_that_exclude_each_other_are_named() {
        for (text, first, second) in [
            ("name = 'tinyshakespeare'\nfiles = ['a.txt']", "data.files", "data.name = \"tinyshakespeare\""),
            ("name = 'tinyshakespeare'\npart = 'code'", "data.part", "tinyshakespeare"),
            ("name = 'tinyshakespeare'\nvalid_files = ['a.txt']", "data.valid_files", "tinyshakespeare"),
            ("name = 'tinyshakespeare'\ntext_column = 'x'", "data.text_column", "tinyshakespeare"),
            ("valid_fraction = 0.2", "data.valid_fraction", "rust-crates"),
            ("files = ['a.txt']\npart = 'code'", "data.part", "data.files"),
            ("files = ['a.txt']\nfolder = 'x'", "data.folder", "data.files"),
            (
                "files = ['a.txt']\nvalid_files = ['b.txt']\nvalid_fraction = 0.2",
                "data.valid_fraction",
                "data.valid_files",
            ),
            ("files = ['a.txt']\ntext_column = 'x'", "data.text_column", "data.format = \"text\""),
            ("files = ['a.txt', 'b.txt']\nvalid_files = ['b.txt']", "data.valid_files", "b.txt"),
            ("files = ['a.txt', 'b.jsonl']", "data.files", "mix of formats"),
            ("name = 'shakespeare'", "shakespeare", "rust-crates, tinyshakespeare"),
        ] {
            let error = refused(text);
            assert!(error.contains(first) && error.contains(second), "{text}: {error}");
        }
        assert!(toml::from_str::<DataConfig>("file = ['a.txt']").unwrap_err().to_string().contains("unknown field"));
    }

    #[test]
    fn a_config_survives_writing() {
        let config = parse("files = ['a.txt']\nvalid_fraction = 0.2\nformat = 'lines'");
        assert_eq!(parse(&toml::to_string(&config).unwrap()), config);
        assert_eq!(toml::to_string(&DataConfig::default()).unwrap(), "");
    }

    fn open(folder: &Path, text: &str) -> Splits {
        parse(&text.replace("DIR", &folder.display().to_string())).open_in(Places::default()).unwrap()
    }

    #[test]
    fn own_files_are_split_or_come_in_two() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.txt"), "0123456789").unwrap();
        std::fs::write(folder.path().join("b.txt"), "valid").unwrap();
        std::fs::write(folder.path().join("c.jsonl"), "{\"body\": \"one\"}\n{\"body\": \"two\"}\n").unwrap();

        let splits = open(folder.path(), "files = ['DIR/a.txt']\nvalid_fraction = 0.3");
        assert_eq!(splits.train.get(0).unwrap().text, "0123456");
        assert_eq!(splits.valid.get(0).unwrap().text, "789");
        let splits = open(folder.path(), "files = ['DIR/a.txt']\nvalid_files = ['DIR/b.txt']");
        assert_eq!(splits.train.get(0).unwrap().text, "0123456789");
        assert_eq!(splits.valid.get(0).unwrap().text, "valid");
        let splits = open(folder.path(), "files = ['DIR/c.jsonl']\ntext_column = 'body'\nvalid_fraction = 0.5");
        assert_eq!((splits.train.len(), splits.valid.len()), (1, 1));
        let splits = open(folder.path(), "files = ['DIR']\nextensions = ['txt']\nformat = 'text'");
        assert_eq!((splits.train.len(), splits.valid.len()), (1, 1));
    }
}
