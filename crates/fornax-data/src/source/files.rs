use std::collections::HashSet;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use super::Format;
use super::format::extension;
use crate::DataError;

/// A file to read, with a name that does not depend on where its folder lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its path below the folder that was asked for, with `/`; the bare file name if the file itself was asked for.
    pub name: String,
    /// Whether it was found in a folder rather than asked for by name.
    pub in_folder: bool,
}

/// Expands a list of files and folders into files.
///
/// A folder is read recursively through links, in the order of the relative paths; hidden files and folders (a leading dot) are
/// skipped. Only files whose extension is in `extensions` are taken (`txt` matches `a.txt` and `a.txt.gz`, in any case); with
/// an empty list those that go with the format: all for text, `jsonl` and `ndjson` for JSON lines, and so on.
/// A file that is named itself is always taken.
///
/// # Errors
/// A path that does not exist or can't be read; a loop of links; nothing found at all.
pub fn find_files(paths: &[PathBuf], format: Format, extensions: &[String]) -> Result<Vec<FoundFile>, DataError> {
    let wanted: Vec<String> = match extensions {
        [] => format.extensions().iter().map(ToString::to_string).collect(),
        given => given.iter().map(|it| it.trim_start_matches('.').to_lowercase()).collect(),
    };
    let mut found = Vec::new();
    for path in paths {
        let metadata = std::fs::metadata(path).map_err(DataError::io(path))?;
        if metadata.is_dir() {
            walk(path, &wanted, &mut found)?;
        } else {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            found.push(FoundFile { path: path.clone(), name, in_folder: false });
        }
    }
    if found.is_empty() {
        let filter = if wanted.is_empty() { String::new() } else { format!(" with extension {}", wanted.join(", ")) };
        return Err(DataError::EmptyCorpus { paths: list(paths), reason: format!("there is no file{filter}") });
    }
    Ok(found)
}

/// Refuses a path that stands in both `data.files` and `data.valid_files`; looks at no file.
pub(crate) fn refuse_listed_twice(files: &[PathBuf], valid_files: &[PathBuf]) -> Result<(), DataError> {
    match files.iter().find(|file| valid_files.contains(file)) {
        Some(both) => Err(on_both_sides(both, ["data.files", "data.valid_files"])),
        None => Ok(()),
    }
}

/// Refuses a file that is both learned from and evaluated on, by whatever path it was reached.
pub(crate) fn refuse_shared(train: &[FoundFile], valid: &[FoundFile]) -> Result<(), DataError> {
    let [train, valid] = [train, valid].map(|files| files.iter().map(|file| file.path.as_path()));
    refuse_shared_paths(train, valid, ["data.files", "data.valid_files"])
}

/// As [`refuse_shared`], of bare paths under these keys.
pub(crate) fn refuse_shared_paths<'a>(
    train: impl Iterator<Item = &'a Path>,
    mut valid: impl Iterator<Item = &'a Path>,
    keys: [&'static str; 2],
) -> Result<(), DataError> {
    let real = |path: &Path| std::fs::canonicalize(path).map_err(DataError::io(path));
    let learned: HashSet<PathBuf> = train.map(real).collect::<Result<_, _>>()?;
    valid.try_for_each(|path| match learned.contains(&real(path)?) {
        true => Err(on_both_sides(path, keys)),
        false => Ok(()),
    })
}

fn on_both_sides(path: &Path, [train_key, key]: [&'static str; 2]) -> DataError {
    let expected = format!("a file that is not in `{train_key}` too");
    DataError::ConfigValue { key, value: path.display().to_string(), expected }
}

/// The error of own files without any to evaluate on.
pub(crate) fn no_valid_files() -> DataError {
    let expected = "the files to evaluate on, which data.files needs beside it".to_owned();
    DataError::ConfigValue { key: "data.valid_files", value: "empty".into(), expected }
}

fn walk(root: &Path, wanted: &[String], found: &mut Vec<FoundFile>) -> Result<(), DataError> {
    let start = found.len();
    let visible = |name: &std::ffi::OsStr| !name.to_string_lossy().starts_with('.');
    let entries = WalkDir::new(root).follow_links(true).into_iter();
    for entry in entries.filter_entry(|entry| entry.depth() == 0 || visible(entry.file_name())) {
        let entry = entry.map_err(|error| {
            let path = error.path().unwrap_or(root).to_path_buf();
            DataError::Io { path, source: error.into() }
        })?;
        if !entry.file_type().is_file() || !(wanted.is_empty() || wanted.contains(&extension(entry.path()))) {
            continue;
        }
        found.push(FoundFile {
            path: entry.path().to_path_buf(),
            name: relative_name(root, entry.path()),
            in_folder: true,
        });
    }
    found[start..].sort_by(|a, b| a.name.cmp(&b.name));
    Ok(())
}

/// The path of `path` below `root`, with `/` on every platform.
pub(super) fn relative_name(root: &Path, path: &Path) -> String {
    let relative = path.strip_prefix(root).unwrap_or(path);
    relative.components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}

/// A short list of paths for messages.
pub(crate) fn list(paths: &[PathBuf]) -> String {
    const SHOWN: usize = 5;
    let mut text = paths.iter().take(SHOWN).map(|it| it.display().to_string()).collect::<Vec<_>>().join(", ");
    if paths.len() > SHOWN {
        text.push_str(&format!(" and {} more", paths.len() - SHOWN));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(root: &Path, format: Format, extensions: &[&str]) -> Vec<String> {
        let extensions: Vec<String> = extensions.iter().map(ToString::to_string).collect();
        let found = find_files(&[root.to_path_buf()], format, &extensions).unwrap();
        found.into_iter().map(|file| file.name).collect()
    }

    #[test]
    fn folders_are_sorted_filtered_and_without_hidden_files() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.txt", "a/z.TXT", "a.md", "c.txt.gz", ".hidden.txt", ".git/x.txt", "d.jsonl"] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
        assert_eq!(names(folder.path(), Format::Text, &[]), ["a.md", "a/z.TXT", "b.txt", "c.txt.gz", "d.jsonl"]);
        assert_eq!(names(folder.path(), Format::Text, &[".txt"]), ["a/z.TXT", "b.txt", "c.txt.gz"]);
        assert_eq!(names(folder.path(), Format::Jsonl, &[]), ["d.jsonl"]);
        let error = find_files(&[folder.path().into()], Format::Csv, &[]).unwrap_err().to_string();
        assert!(error.contains("no file with extension csv"), "{error}");
    }

    #[test]
    fn a_missing_path_is_named() {
        let error = find_files(&["nowhere/at all".into()], Format::Text, &[]).unwrap_err().to_string();
        assert!(error.starts_with("nowhere/at all: "), "{error}");
    }
}
