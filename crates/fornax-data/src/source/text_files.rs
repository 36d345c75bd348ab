use std::path::PathBuf;

use burn_dataset::Dataset;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::files::list;
use super::text::{decode, hash_parts, hex, read_bytes};
use super::{Document, FoundFile, Source, human_bytes};
use crate::DataError;

/// Text files, one document each.
///
/// `open` reads every file once (UTF-8, size, hash); [`Dataset::get`] reads it again, so that no text stays in memory.
/// Blank files are left out. A file that is not UTF-8 is an error if it was asked for by name; in a folder it is skipped, and a
/// warning tells how many were.
#[derive(Debug)]
pub struct TextFiles {
    files: Vec<TextFile>,
    fingerprint: String,
}

#[derive(Debug)]
struct TextFile {
    path: PathBuf,
    /// Bytes of the normalised text.
    bytes: u64,
    sha256: String,
}

impl TextFiles {
    /// Checks and hashes the files, in parallel.
    ///
    /// # Errors
    /// A file that can't be read, one named file that is not UTF-8, or no text at all.
    pub fn open(files: Vec<FoundFile>) -> Result<Self, DataError> {
        let paths: Vec<PathBuf> = files.iter().map(|file| file.path.clone()).collect();
        let scans: Vec<_> = files.par_iter().map(scan).collect();
        let mut kept = Vec::new();
        let mut names = Vec::new();
        let mut skipped: Vec<DataError> = Vec::new();
        for (file, scan) in files.into_iter().zip(scans) {
            match scan {
                Ok(Some(text_file)) => {
                    names.push(file.name);
                    kept.push(text_file);
                }
                Ok(None) => {}
                Err(error @ DataError::NotUtf8 { .. }) if file.in_folder => skipped.push(error),
                Err(error) => return Err(error),
            }
        }
        if let Some(first) = skipped.first() {
            tracing::warn!("skipped {} of {} files that are not UTF-8 text, first {first}", skipped.len(), paths.len());
        }
        if kept.is_empty() {
            let reason = if skipped.is_empty() { "all files are blank" } else { "no file is UTF-8 text" };
            return Err(DataError::EmptyCorpus { paths: list(&paths), reason: reason.into() });
        }
        let parts = names.iter().zip(&kept).flat_map(|(name, file)| [name.as_str(), file.sha256.as_str()]);
        let fingerprint = hash_parts(parts);
        Ok(Self { files: kept, fingerprint })
    }
}

/// Size and hash of a file's text; `None` if it is blank.
fn scan(file: &FoundFile) -> Result<Option<TextFile>, DataError> {
    let text = decode(&file.path, &read_bytes(&file.path)?, 0)?;
    if text.trim().is_empty() {
        return Ok(None);
    }
    let mut hasher = Sha256::new();
    hasher.update(&text);
    Ok(Some(TextFile { path: file.path.clone(), bytes: text.len() as u64, sha256: hex(hasher) }))
}

impl Dataset<Document, DataError> for TextFiles {
    fn get(&self, index: usize) -> Result<Document, DataError> {
        let file = &self.files[index];
        let text = decode(&file.path, &read_bytes(&file.path)?, 0)?;
        if text.len() as u64 != file.bytes {
            return Err(DataError::FileChanged {
                path: file.path.clone(),
                expected: file.bytes,
                found: text.len() as u64,
            });
        }
        Ok(Document { name: file.path.display().to_string(), text })
    }

    fn len(&self) -> usize {
        self.files.len()
    }
}

impl Source for TextFiles {
    fn fingerprint(&self) -> Result<String, DataError> {
        Ok(self.fingerprint.clone())
    }

    fn describe(&self) -> String {
        let bytes = self.files.iter().map(|file| file.bytes).sum();
        match self.files.as_slice() {
            [file] => format!("{}, {}", file.path.display(), human_bytes(bytes)),
            files => format!("{} text files, {}", files.len(), human_bytes(bytes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::Path;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;
    use crate::source::{Format, find_files};

    fn open(paths: &[&Path]) -> Result<TextFiles, DataError> {
        let paths: Vec<PathBuf> = paths.iter().map(|path| path.to_path_buf()).collect();
        TextFiles::open(find_files(&paths, Format::Text, &[])?)
    }

    #[test]
    fn a_folder_of_plain_and_gzip_files() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.txt"), "\u{feff}eins\r\nzwei").unwrap();
        let mut gzip =
            GzEncoder::new(std::fs::File::create(folder.path().join("b.txt.gz")).unwrap(), Compression::fast());
        gzip.write_all("drei".as_bytes()).unwrap();
        gzip.finish().unwrap();
        std::fs::write(folder.path().join("blank.txt"), " \n").unwrap();
        std::fs::write(folder.path().join("image.png"), b"\x89PNG").unwrap();
        let source = open(&[folder.path()]).unwrap();
        assert_eq!(source.len(), 2);
        assert_eq!(source.get(0).unwrap().text, "eins\nzwei");
        assert_eq!(source.get(1).unwrap().text, "drei");
        assert_eq!(source.describe(), "2 text files, 13 B");
    }

    #[test]
    fn a_named_file_must_be_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image.png");
        std::fs::write(&path, b"\x89PNG").unwrap();
        assert!(matches!(open(&[&path]), Err(DataError::NotUtf8 { offset: 0, .. })));
        let error = open(&[folder.path()]).unwrap_err().to_string();
        assert!(error.contains("no file is UTF-8 text") && error.contains("image.png"), "{error}");
    }

    #[test]
    fn an_empty_corpus_names_its_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("empty.txt");
        std::fs::write(&path, "").unwrap();
        let error = open(&[&path]).unwrap_err().to_string();
        assert!(error.contains("empty.txt") && error.contains("blank"), "{error}");
    }

    #[test]
    fn the_fingerprint_follows_names_and_contents_but_not_the_place() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for folder in [&one, &two] {
            std::fs::write(folder.path().join("a.txt"), "text").unwrap();
        }
        let print = |folder: &Path| open(&[folder]).unwrap().fingerprint().unwrap();
        assert_eq!(print(one.path()), print(two.path()));
        std::fs::write(two.path().join("a.txt"), "test").unwrap();
        assert_ne!(print(one.path()), print(two.path()));
        std::fs::rename(two.path().join("a.txt"), two.path().join("b.txt")).unwrap();
        std::fs::write(two.path().join("b.txt"), "text").unwrap();
        assert_ne!(print(one.path()), print(two.path()));
    }

    #[test]
    fn a_file_that_changes_under_way_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        std::fs::write(&path, "text").unwrap();
        let source = open(&[&path]).unwrap();
        std::fs::write(&path, "more text").unwrap();
        assert!(matches!(source.get(0), Err(DataError::FileChanged { expected: 4, found: 9, .. })));
    }
}
