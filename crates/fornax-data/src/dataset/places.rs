use std::path::{Path, PathBuf};

use super::archive;
use super::descriptor::{Archive, Entry, PackedFile};
use super::{Patience, RemoteFile, download};
use crate::DataError;
use crate::source::file_sha256;

/// Where files of data sets are: in `folder` alone if there is one, else in `data`, then in `cache`, then they are downloaded.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// The folder that the config names; it holds the files themselves, and what is not in it is an error.
    pub folder: Option<PathBuf>,
    /// `$FORNAX_DATA`; it holds a folder for each data set.
    pub data: Option<PathBuf>,
    /// `$FORNAX_CACHE`, else the user's cache folder; `datasets/<name>` below it is where downloads go. `None`: there is none.
    pub cache: Option<PathBuf>,
    /// How long a download is tried.
    pub patience: Patience,
}

/// What is here of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Local {
    /// It is here and has the right size.
    Here(PathBuf),
    /// It is here with another size.
    Differs(PathBuf),
    /// It would be downloaded.
    Absent,
}

impl Places {
    /// As the environment says: `FORNAX_DATA`, `FORNAX_CACHE`, and the cache folder of the platform.
    pub fn from_environment() -> Self {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let of_user = || Some(directories::ProjectDirs::from("", "", "fornax")?.cache_dir().to_path_buf());
        Self {
            folder: None,
            data: variable("FORNAX_DATA"),
            cache: variable("FORNAX_CACHE").or_else(of_user),
            patience: Patience::default(),
        }
    }

    /// These places, with the folder of a config if it names one.
    pub(crate) fn in_folder(self, folder: Option<&PathBuf>) -> Self {
        Self { folder: folder.cloned().or(self.folder), ..self }
    }

    /// The folders that may hold the files of a data set, in the order of the search.
    pub fn folders(&self, name: &str) -> Vec<PathBuf> {
        if let Some(folder) = &self.folder {
            return vec![folder.clone()];
        }
        let data = self.data.as_ref().map(|data| data.join(name));
        data.into_iter().chain(self.cache_of(name)).collect()
    }

    fn cache_of(&self, name: &str) -> Option<PathBuf> {
        Some(self.cache.as_ref()?.join("datasets").join(name))
    }

    fn find(&self, name: &str, file: &str) -> Option<PathBuf> {
        self.folders(name).into_iter().map(|folder| folder.join(file)).find(|path| path.is_file())
    }

    /// Whether a file is here: by itself as [`local`](Self::local); of an archive, without a look at its size.
    pub fn local_entry(&self, name: &str, entry: Entry<'_>) -> Local {
        match entry {
            Entry::Plain(file) => self.local(name, file),
            Entry::Packed(_, file) => self.find(name, &file.name).map_or(Local::Absent, Local::Here),
        }
    }

    /// Whether a file is here; looks at its size, reads nothing.
    pub fn local(&self, name: &str, file: &RemoteFile) -> Local {
        match self.find(name, &file.name) {
            Some(path) if path.metadata().is_ok_and(|it| it.len() == file.bytes) => Local::Here(path),
            Some(path) => Local::Differs(path),
            None => Local::Absent,
        }
    }

    /// The path of a file with the right contents: the first that is found, else it is downloaded into the cache folder.
    ///
    /// # Errors
    /// A file that is found but has another checksum (it is not touched); one that is not in [`folder`](Self::folder), if that is given;
    /// a failed download.
    pub fn get(&self, name: &str, file: &RemoteFile) -> Result<PathBuf, DataError> {
        if let Some(path) = self.find(name, &file.name) {
            verify(&path, file)?;
            return Ok(path);
        }
        let path = self.download_folder(name, &file.name, &file.url)?.join(&file.name);
        download(file, &path, &self.patience)?;
        Ok(path)
    }

    /// The path of a file with the right contents: as [`get`](Self::get), or the first that is found, else taken out of its archive,
    /// all of whose files are unpacked into the cache folder.
    ///
    /// # Errors
    /// As [`get`](Self::get); a file of an archive with another number of lines; an archive that can't be unpacked.
    pub fn get_entry(&self, name: &str, entry: Entry<'_>) -> Result<PathBuf, DataError> {
        match entry {
            Entry::Plain(file) => self.get(name, file),
            Entry::Packed(archive, file) => self.get_packed(name, archive, file),
        }
    }

    fn get_packed(&self, name: &str, archive: &Archive, file: &PackedFile) -> Result<PathBuf, DataError> {
        if let Some(path) = self.find(name, &file.name) {
            archive::verify(&path, file)?;
            return Ok(path);
        }
        let folder = self.download_folder(name, &file.name, &archive.url)?;
        archive::unpack(&self.get(name, &archive.remote())?, archive, &folder)?;
        Ok(folder.join(&file.name))
    }

    /// The folder of the cache for `file`, which was not found and comes from `url`.
    fn download_folder(&self, name: &str, file: &str, url: &str) -> Result<PathBuf, DataError> {
        if let Some(folder) = &self.folder {
            return Err(DataError::NotInFolder {
                folder: folder.clone(),
                file: file.to_owned(),
                name: name.to_owned(),
                url: url.to_owned(),
            });
        }
        self.cache_of(name).ok_or_else(|| DataError::Download {
            url: url.to_owned(),
            reason: "this user has no cache folder; set FORNAX_CACHE".into(),
            folder: self.data.clone().unwrap_or_else(|| "$FORNAX_DATA".into()).join(name),
        })
    }
}

/// Compares a file's contents with what the data set says.
pub(super) fn verify(path: &Path, file: &RemoteFile) -> Result<(), DataError> {
    let found = file_sha256(path)?;
    if found == file.sha256 {
        return Ok(());
    }
    Err(DataError::Checksum { path: path.into(), expected: file.sha256.clone(), found })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote() -> RemoteFile {
        RemoteFile {
            name: "a.txt".into(),
            // Nobody listens on port 1 of this machine.
            url: "http://127.0.0.1:1/a.txt".into(),
            sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad".into(),
            bytes: 3,
        }
    }

    fn places(root: &Path) -> Places {
        Places {
            folder: None,
            data: Some(root.join("data")),
            cache: Some(root.join("cache")),
            patience: Patience::none(),
        }
    }

    fn write(path: PathBuf, text: &str) -> PathBuf {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn the_first_place_wins() {
        let root = tempfile::tempdir().unwrap();
        let places = places(root.path());
        assert_eq!(places.local("set", &remote()), Local::Absent);
        for place in ["cache/datasets/set/a.txt", "data/set/a.txt"] {
            let path = write(root.path().join(place), "abc");
            assert_eq!(places.local("set", &remote()), Local::Here(path.clone()));
            assert_eq!(places.get("set", &remote()).unwrap(), path);
        }
    }

    #[test]
    fn a_folder_that_is_given_is_the_only_place() {
        let root = tempfile::tempdir().unwrap();
        let given = root.path().join("given");
        for place in ["cache/datasets/set/a.txt", "data/set/a.txt", "given/set/a.txt"] {
            write(root.path().join(place), "abc");
        }
        let places = places(root.path()).in_folder(Some(&given));
        assert_eq!(places.local("set", &remote()), Local::Absent);
        let error = places.get("set", &remote()).unwrap_err();
        let folder = given.display();
        assert_eq!(
            error.to_string(),
            format!(
                "{folder}: there is no `a.txt` of the data set `set` in it, and with `data.folder` no other place is looked into"
            )
        );
        let hint = error.hint().unwrap();
        assert!(
            hint.contains(&format!("put a.txt into {folder}")) && hint.contains("http://127.0.0.1:1/a.txt"),
            "{hint}"
        );
        let path = write(given.join("a.txt"), "abc");
        assert_eq!(places.get("set", &remote()).unwrap(), path);
        // A config that names no folder leaves the one that there is.
        assert_eq!(places.in_folder(None).folder, Some(given));
    }

    #[test]
    fn a_wrong_file_is_refused_and_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let path = write(root.path().join("data/set/a.txt"), "abcd");
        assert_eq!(places(root.path()).local("set", &remote()), Local::Differs(path.clone()));
        let error = places(root.path()).get("set", &remote()).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(&remote().sha256)
                && text.contains("88d4266fd4e6338d13b845fcf289579d209c897823b9217da3e161936f031589"),
            "{text}"
        );
        assert_eq!(std::fs::read_to_string(path).unwrap(), "abcd");
    }

    #[test]
    fn offline_the_error_says_what_to_do() {
        let root = tempfile::tempdir().unwrap();
        let error = places(root.path()).get("set", &remote()).unwrap_err();
        let hint = error.hint().unwrap();
        assert!(error.to_string().contains("http://127.0.0.1:1/a.txt"), "{error}");
        let folder = root.path().join("cache").join("datasets").join("set");
        assert!(hint.contains(&folder.display().to_string()) && hint.contains("rust-crates"), "{hint}");
        assert!(!folder.join("a.txt").exists());
    }
}
