use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{DEFAULT_VALID_FRACTION, EMBEDDED, Places, SourceKeys, descriptor, open_format, open_splits};
use crate::DataError;
use crate::source::{
    CrateFolders, Format, FoundFile, Part, Source, Splits, agreed, find_files, list_paths, refuse_listed_twice,
    refuse_shared, split,
};

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
    /// A folder that holds the files of the data set `name`: the only place they are then taken from. Default: `$FORNAX_DATA`, the
    /// cache, or a download.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folder: Option<PathBuf>,
    /// The user's own files and folders, instead of `name`. Relative to the working folder. An empty list, as a shell's pattern
    /// gives it that matches nothing, is not the same as none: it is refused unless `name` or `part` says what is meant instead.
    #[serde(skip_serializing_if = "nothing")]
    pub files: Option<Vec<PathBuf>>,
    /// Files and folders to evaluate on. Default: a share of `files`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub valid_files: Vec<PathBuf>,
    /// The share to evaluate on when there are no valid files: whole documents, or the tail of each where that comes nearer (see
    /// [`split`]). Default: what the data set says, else 0.1, which is nanoGPT's.
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

fn nothing(files: &Option<Vec<PathBuf>>) -> bool {
    files.as_ref().is_none_or(Vec::is_empty)
}

impl DataConfig {
    /// What a command line that names one of these keys leaves out of a config file.
    pub const SOURCE_KEYS: SourceKeys = &[
        ("files", &["name", "part", "folder"]),
        ("name", &["part", "folder", "files", "valid_files", "valid_fraction", "format", "text_column", "extensions"]),
    ];

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
        if self.own_files().is_empty() {
            let name = self.name.as_deref().unwrap_or(EMBEDDED);
            if name == EMBEDDED {
                self.check_crates_folder()?;
            }
            let (part, places) = (self.part.unwrap_or_default(), places.in_folder(self.folder.as_ref()));
            return open_splits(name, part, self.valid_fraction, &places);
        }
        let format = self.format_of_files()?;
        let train = self.find(self.own_files(), format)?;
        if self.valid_files.is_empty() {
            self.check_extensions()?;
            return split(self.open_found(train, format)?, self.valid_fraction.unwrap_or(DEFAULT_VALID_FRACTION));
        }
        let valid = self.find(&self.valid_files, format)?;
        self.check_extensions()?;
        refuse_shared(&train, &valid)?;
        Ok(Splits { train: self.open_found(train, format)?, valid: self.open_found(valid, format)? })
    }

    /// Opens what there is to learn a tokenizer from: all of `files`, or the train split of a named data set.
    ///
    /// # Errors
    /// As [`DataConfig::open`].
    pub fn open_for_tokenizer(&self) -> Result<Box<dyn Source>, DataError> {
        if self.own_files().is_empty() {
            return Ok(self.open()?.train);
        }
        self.check()?;
        let format = self.format_of_files()?;
        let found = self.find(self.own_files(), format)?;
        self.check_extensions()?;
        self.open_found(found, format)
    }

    /// The user's own files and folders; empty where there are none.
    fn own_files(&self) -> &[PathBuf] {
        self.files.as_deref().unwrap_or_default()
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
            if !self.own_files().is_empty() {
                return conflict("data.files", &second, own);
            }
        }
        if self.own_files().is_empty() {
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
        refuse_listed_twice(self.own_files(), &self.valid_files)
    }

    /// The checks when there are no `files`.
    fn check_named(&self) -> Result<(), DataError> {
        if self.files.is_some() && self.name.is_none() && self.part.is_none() {
            return Err(DataError::ConfigValue {
                key: "data.files",
                value: "[]".into(),
                expected: "at least one file or folder, or data.name beside it for a data set".into(),
            });
        }
        let name = self.name.as_deref().unwrap_or(EMBEDDED);
        let (own, own_valid) = match self.name {
            Some(_) => {
                ("a named data set brings its own; it goes with data.files", "the data set has its own valid part")
            }
            None => (
                "it goes with data.files, and the embedded data set `rust-crates`, which is taken now, brings its own",
                "the embedded data set `rust-crates`, which is taken now, has its own valid part",
            ),
        };
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
                Some(("data.valid_fraction", own_valid))
            } else {
                None
            }
        });
        match (refused, &self.name) {
            (Some((first, reason)), Some(name)) => {
                Err(DataError::ConfigConflict { first, second: format!("data.name = \"{name}\""), reason })
            }
            (Some((key, reason)), None) => Err(DataError::ConfigAlone { key, reason }),
            (None, _) => Ok(()),
        }
    }

    /// Refuses a `folder` for the embedded data set that holds nothing of it: the crates would silently come from elsewhere.
    fn check_crates_folder(&self) -> Result<(), DataError> {
        match &self.folder {
            Some(folder) if !CrateFolders::new([folder.clone()]).hold_any(&descriptor(EMBEDDED)?.crates) => {
                Err(DataError::ConfigValue {
                    key: "data.folder",
                    value: folder.display().to_string(),
                    expected: format!(
                        "a folder with crates of the data set `{EMBEDDED}`, which needs none; own text goes into data.files"
                    ),
                })
            }
            _ => Ok(()),
        }
    }

    /// Refuses `extensions` where there is no folder to choose files from. The paths must exist.
    fn check_extensions(&self) -> Result<(), DataError> {
        let mut paths = self.own_files().iter().chain(&self.valid_files);
        if self.extensions.is_empty() || paths.any(|path| path.is_dir()) {
            return Ok(());
        }
        Err(DataError::ConfigConflict {
            first: "data.extensions",
            second: format!("data.files = [{}]", list_paths(self.own_files())),
            reason: "extensions choose what is read from folders, and none of these is a folder",
        })
    }

    /// The format that is given, else the one that all names agree on. Folders without a given format hold text.
    fn format_of_files(&self) -> Result<Format, DataError> {
        let of_names = || agreed(self.own_files().iter().chain(&self.valid_files).map(|path| Format::of(path)));
        let format = self.format.or_else(of_names).ok_or_else(|| DataError::ConfigValue {
            key: "data.files",
            value: "a mix of formats, judging by the names".into(),
            expected: "files of one format, or `data.format`".into(),
        })?;
        if self.text_column.is_some() && !format.has_columns() {
            return Err(DataError::ConfigConflict {
                first: "data.text_column",
                second: format!("data.format = \"{}\"", format!("{format:?}").to_lowercase()),
                reason: "only jsonl, tsv and csv have columns",
            });
        }
        Ok(format)
    }

    fn find(&self, paths: &[PathBuf], format: Format) -> Result<Vec<FoundFile>, DataError> {
        find_files(paths, format, &self.extensions)
    }

    fn open_found(&self, found: Vec<FoundFile>, format: Format) -> Result<Box<dyn Source>, DataError> {
        open_format(found, format, self.text_column.as_deref())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::Path;

    use super::*;

    /// Asserts that a table with both a source and what it leaves out is refused by name, but for `allowed`.
    pub(crate) fn assert_sources_exclude(
        keys: SourceKeys,
        values: &[(&str, &str)],
        allowed: &[(&str, &str)],
        check: impl Fn(&str) -> Result<(), DataError>,
    ) {
        let line = |key: &str| {
            let (_, value) = values.iter().find(|(known, _)| *known == key).unwrap();
            format!("{key} = {value}\n")
        };
        for (source, others) in keys {
            for other in *others {
                match check(&format!("{}{}", line(source), line(other))) {
                    Ok(()) => assert!(allowed.contains(&(source, other)), "{source} goes with {other}"),
                    Err(error) => assert!(error.to_string().contains(&format!("data.{other}")), "{source}: {error}"),
                }
            }
        }
    }

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
            ("valid_fraction = 0.2", "data.valid_fraction", "neither `data.files` nor `data.name` is: the embedded"),
            (
                "extensions = ['txt']",
                "data.extensions",
                "neither `data.files` nor `data.name` is: it goes with data.files",
            ),
            ("name = 'rust-crates'\nvalid_fraction = 0.2", "data.valid_fraction", "data.name = \"rust-crates\""),
            ("folder = 'nowhere'", "`data.folder` is nowhere", "crates of the data set `rust-crates`"),
            ("files = []", "`data.files` is []", "or data.name beside it"),
            ("files = []\nfolder = 'x'", "`data.files` is []", "or data.name beside it"),
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
    fn each_source_leaves_out_what_it_excludes() {
        let values = [
            ("name", "'wikitext-2'"),
            ("part", "'prose'"),
            ("folder", "'f'"),
            ("files", "['a']"),
            ("valid_files", "['b']"),
            ("valid_fraction", "0.1"),
            ("format", "'lines'"),
            ("text_column", "'text'"),
            ("extensions", "['txt']"),
        ];
        // A folder goes with a name, but with the one that it was given for.
        assert_sources_exclude(DataConfig::SOURCE_KEYS, &values, &[("name", "folder")], |text| parse(text).check());
    }

    #[test]
    fn a_config_survives_writing() {
        let config = parse("files = ['a.txt']\nvalid_fraction = 0.2\nformat = 'lines'");
        assert_eq!(parse(&toml::to_string(&config).unwrap()), config);
        assert_eq!(toml::to_string(&DataConfig::default()).unwrap(), "");
        // What an empty list undid is gone; what was meant instead stays.
        let undone = parse("files = []\nname = 'tinyshakespeare'");
        undone.check().unwrap();
        parse("files = []\npart = 'prose'").check().unwrap();
        assert_eq!(toml::to_string(&undone).unwrap(), "name = \"tinyshakespeare\"\n");
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
        let splits =
            open(folder.path(), "files = ['DIR']\nextensions = ['txt']\nformat = 'text'\nvalid_fraction = 0.5");
        assert_eq!((splits.train.len(), splits.valid.len()), (1, 1));
    }

    /// The message without the folder's path.
    fn refused_in(folder: &Path, text: &str) -> String {
        let dir = folder.display().to_string();
        refused(&text.replace("DIR", &dir)).replace(&dir, "DIR")
    }

    #[test]
    fn a_file_is_not_on_both_sides_by_whatever_path() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("txt")).unwrap();
        for name in ["txt/one.txt", "txt/two.txt", "a.txt"] {
            std::fs::write(folder.path().join(name), name).unwrap();
        }
        for (files, valid_files, named) in [
            ("DIR/txt", "DIR/txt/one.txt", "DIR/txt/one.txt"),
            ("DIR/txt/two.txt", "DIR/txt", "DIR/txt/two.txt"),
            ("DIR/a.txt", "DIR/txt/../a.txt", "DIR/txt/../a.txt"),
        ] {
            let error = refused_in(folder.path(), &format!("files = ['{files}']\nvalid_files = ['{valid_files}']"));
            let expected = format!("`data.valid_files` is {named}; expected a file that is not in `data.files` too");
            assert_eq!(error, expected);
        }
        let apart = open(folder.path(), "files = ['DIR/txt']\nvalid_files = ['DIR/a.txt']");
        assert_eq!((apart.train.len(), apart.valid.len()), (2, 1));
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(folder.path().join("a.txt"), folder.path().join("link.txt")).unwrap();
            let error = refused_in(folder.path(), "files = ['DIR/a.txt']\nvalid_files = ['DIR/link.txt']");
            assert!(error.contains("is DIR/link.txt; expected"), "{error}");
        }
    }

    #[test]
    fn extensions_need_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("more")).unwrap();
        std::fs::write(folder.path().join("a.txt"), "0123456789").unwrap();
        std::fs::write(folder.path().join("more/b.txt"), "valid").unwrap();
        let error = refused_in(folder.path(), "files = ['DIR/a.txt']\nextensions = ['txt']");
        assert!(error.starts_with("`data.extensions` and `data.files = [DIR/a.txt]` can't both be set"), "{error}");
        open(folder.path(), "files = ['DIR/a.txt']\nvalid_files = ['DIR/more']\nextensions = ['txt']");
    }

    #[test]
    fn a_folder_for_the_embedded_data_set_holds_its_crates() {
        let folder = tempfile::tempdir().unwrap();
        let folder_of = |text: &str| parse(&text.replace("DIR", &folder.path().display().to_string()));
        let config = folder_of("folder = 'DIR'");
        assert!(matches!(config.check_crates_folder(), Err(DataError::ConfigValue { key: "data.folder", .. })));
        let first = &descriptor(EMBEDDED).unwrap().crates[0];
        std::fs::create_dir(folder.path().join(format!("{}-{}", first.name, first.version))).unwrap();
        config.check_crates_folder().unwrap();
        // The crate there is not what it should be, and all others are in cargo's registry only.
        let error = config.open_in(Places::default()).unwrap_err();
        assert!(matches!(error, DataError::CrateChanged { .. } | DataError::CrateMissing { .. }), "{error}");
    }

    #[test]
    fn a_folder_for_a_named_data_set_is_the_only_place() {
        let root = tempfile::tempdir().unwrap();
        let (data, given) = (root.path().join("data"), root.path().join("given"));
        std::fs::create_dir_all(data.join("tinyshakespeare")).unwrap();
        std::fs::write(data.join("tinyshakespeare/input.txt"), "no Shakespeare").unwrap();
        let places =
            || Places { data: Some(data.clone()), patience: crate::dataset::Patience::none(), ..Places::default() };
        let config = parse("name = 'tinyshakespeare'");
        assert!(matches!(config.open_in(places()), Err(DataError::Checksum { .. })), "it is found");
        let config = DataConfig { folder: Some(given.clone()), ..config };
        let error = config.open_in(places()).unwrap_err().to_string();
        let expected = format!("{}: there is no `input.txt` of the data set `tinyshakespeare` in it", given.display());
        assert!(error.starts_with(&expected), "{error}");
    }
}
