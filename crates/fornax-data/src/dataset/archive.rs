use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use zip::ZipArchive;
use zip::result::ZipError;

use super::descriptor::{Archive, PackedFile};
use super::download::{beside, lock};
use crate::DataError;

/// Unpacks the files of `archive`, which lies at `path`, into `folder`; those that are there already stay as they are.
///
/// Each is written into `<file>.part`, checked and renamed. A lock on `<archive>.lock` keeps two processes from doing it at once.
///
/// # Errors
/// A file that is no zip, is damaged or lacks one of the files; a file with another number of lines; a folder that can't be written.
pub(super) fn unpack(path: &Path, archive: &Archive, folder: &Path) -> Result<(), DataError> {
    std::fs::create_dir_all(folder).map_err(DataError::io(folder))?;
    let _lock = lock(&beside(&folder.join(&archive.name), "lock"))?;
    let damaged = |error: ZipError| DataError::Archive { path: path.into(), reason: error.to_string() };
    let file = File::open(path).map_err(DataError::io(path))?;
    let mut zip = ZipArchive::new(BufReader::new(file)).map_err(damaged)?;
    for packed in &archive.files {
        let target = folder.join(&packed.name);
        if target.is_file() {
            continue;
        }
        let mut content = zip.by_name(&packed.path).map_err(|error| match error {
            ZipError::FileNotFound => {
                DataError::Archive { path: path.into(), reason: format!("there is no `{}` in it", packed.path) }
            }
            other => damaged(other),
        })?;
        let part = beside(&target, "part");
        let mut out = File::create(&part).map_err(DataError::io(&part))?;
        let written = std::io::copy(&mut content, &mut out)
            .and_then(|_| out.sync_all())
            .map_err(|error| DataError::Archive { path: path.into(), reason: format!("`{}`: {error}", packed.path) })
            .and_then(|()| verify(&part, packed))
            .and_then(|()| std::fs::rename(&part, &target).map_err(DataError::io(&target)));
        if let Err(error) = written {
            let _ = std::fs::remove_file(&part);
            return Err(error);
        }
        tracing::info!("unpacked {} to {}", packed.path, target.display());
    }
    Ok(())
}

/// Compares a file's number of lines with what the data set says.
pub(super) fn verify(path: &Path, packed: &PackedFile) -> Result<(), DataError> {
    let found = count_lines(path)?;
    if found == packed.lines {
        return Ok(());
    }
    Err(DataError::LineCount { path: path.into(), expected: packed.lines, found })
}

/// Lines that are not blank.
fn count_lines(path: &Path) -> Result<u64, DataError> {
    let mut reader = BufReader::with_capacity(1 << 16, File::open(path).map_err(DataError::io(path))?);
    let (mut count, mut line) = (0, Vec::new());
    while reader.read_until(b'\n', &mut line).map_err(DataError::io(path))? > 0 {
        count += u64::from(!line.iter().all(u8::is_ascii_whitespace));
        line.clear();
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::PathBuf;

    use sha2::{Digest, Sha256};
    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::*;
    use crate::dataset::descriptor::Entry;
    use crate::dataset::{Local, Patience, Places};

    const TRAIN: &str = "sentence\tlabel\nfine\t1\n\nbad\t0\n";

    /// A zip with a folder, the two files and one that nobody asks for.
    fn zip_file(path: &Path) {
        let mut zip = ZipWriter::new(File::create(path).unwrap());
        for (name, content) in [("SET/train.tsv", TRAIN), ("SET/original/README", "x"), ("SET/dev.tsv", "a\nb")] {
            zip.start_file(name, SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated))
                .unwrap();
            zip.write_all(content.as_bytes()).unwrap();
        }
        zip.finish().unwrap();
    }

    fn packed(name: &str, lines: u64) -> PackedFile {
        PackedFile { name: name.into(), path: format!("SET/{name}"), lines }
    }

    struct Lab {
        root: tempfile::TempDir,
        archive: Archive,
        places: Places,
    }

    impl Lab {
        /// `$FORNAX_DATA/set` has the zip.
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let zip = root.path().join("data/set/SET.zip");
            std::fs::create_dir_all(zip.parent().unwrap()).unwrap();
            zip_file(&zip);
            let archive = Archive {
                name: "SET.zip".into(),
                // Nobody listens on port 1 of this machine.
                url: "http://127.0.0.1:1/SET.zip".into(),
                sha256: format!("{:x}", Sha256::digest(std::fs::read(&zip).unwrap())),
                bytes: zip.metadata().unwrap().len(),
                files: vec![packed("train.tsv", 3), packed("dev.tsv", 2)],
            };
            let (data, cache) = (Some(root.path().join("data")), Some(root.path().join("cache")));
            let places = Places { folder: None, data, cache, patience: Patience::none() };
            Self { root, archive, places }
        }

        fn get(&self, number: usize) -> Result<PathBuf, DataError> {
            self.places.get_entry("set", Entry::Packed(&self.archive, &self.archive.files[number]))
        }

        fn cache(&self) -> PathBuf {
            self.root.path().join("cache/datasets/set")
        }

        fn cached(&self) -> Vec<String> {
            let entries = std::fs::read_dir(self.cache()).unwrap();
            let mut names: Vec<String> = entries.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        }
    }

    #[test]
    fn files_of_an_archive_are_unpacked_into_the_cache_once() {
        let lab = Lab::new();
        let entry = Entry::Packed(&lab.archive, &lab.archive.files[0]);
        assert_eq!(lab.places.local_entry("set", entry), Local::Absent);
        let path = lab.get(0).unwrap();
        assert_eq!(path, lab.cache().join("train.tsv"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), TRAIN);
        assert_eq!(lab.cached(), ["SET.zip.lock", "dev.tsv", "train.tsv"]);
        assert_eq!(lab.places.local_entry("set", entry), Local::Here(path.clone()));
        // From now on the archive is not needed, and what is there is not touched.
        std::fs::remove_file(lab.root.path().join("data/set/SET.zip")).unwrap();
        std::fs::write(&path, "three\nother\nlines").unwrap();
        assert_eq!(lab.get(0).unwrap(), path);
        assert_eq!(lab.get(1).unwrap(), lab.cache().join("dev.tsv"));
    }

    #[test]
    fn a_folder_that_is_given_holds_the_files_themselves() {
        let mut lab = Lab::new();
        lab.get(0).unwrap();
        let given = lab.root.path().join("data/set");
        lab.places.folder = Some(given.clone());
        // Neither the zip in it nor what was unpacked from it elsewhere counts.
        let error = lab.get(0).unwrap_err();
        assert!(
            matches!(&error, DataError::NotInFolder { folder, file, .. } if *folder == given && file == "train.tsv"),
            "{error}"
        );
        assert!(error.hint().unwrap().contains(&lab.archive.url));
        std::fs::write(given.join("train.tsv"), TRAIN).unwrap();
        assert_eq!(lab.get(0).unwrap(), given.join("train.tsv"));
    }

    #[test]
    fn a_file_with_other_lines_is_refused() {
        let mut lab = Lab::new();
        lab.archive.files[1].lines = 5;
        let error = lab.get(1).unwrap_err();
        assert!(
            error.to_string().ends_with("dev.tsv.part: has 2 lines that are not blank, the data set says 5"),
            "{error}"
        );
        assert_eq!(lab.cached(), ["SET.zip.lock", "train.tsv"]);
        let own = lab.root.path().join("data/set/dev.tsv");
        std::fs::write(&own, "one").unwrap();
        let error = lab.get(1).unwrap_err();
        assert!(matches!(&error, DataError::LineCount { path, expected: 5, found: 1 } if *path == own), "{error}");
        assert!(own.is_file() && error.hint().is_some());
    }

    #[test]
    fn a_damaged_or_foreign_archive_is_named() {
        let mut lab = Lab::new();
        lab.archive.files[0].path = "OTHER/train.tsv".into();
        let error = lab.get(0).unwrap_err().to_string();
        assert!(error.ends_with("SET.zip: not a usable archive: there is no `OTHER/train.tsv` in it"), "{error}");

        let zip = lab.root.path().join("data/set/SET.zip");
        std::fs::write(&zip, "no zip").unwrap();
        assert!(matches!(lab.get(0), Err(DataError::Checksum { .. })));
        lab.archive.sha256 = format!("{:x}", Sha256::digest("no zip"));
        assert!(matches!(lab.get(0), Err(DataError::Archive { .. })));

        std::fs::remove_file(&zip).unwrap();
        let error = lab.get(0).unwrap_err();
        assert!(matches!(&error, DataError::Download { url, .. } if *url == lab.archive.url), "{error}");
        assert!(!lab.cache().join("train.tsv").exists());
    }
}
