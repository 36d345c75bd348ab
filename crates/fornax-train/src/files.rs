//! Files that are complete or absent: written beside their place, synced, renamed.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

use crate::TrainError;

/// The newest layout of a run folder's files that this build reads, and the one it writes.
pub const FORMAT_VERSION: u64 = 1;

/// Ends the hidden name of something that is being written.
const STAGED: &str = ".new";
/// Ends the hidden name of a folder that is being replaced.
const DISPLACED: &str = ".old";
/// Ends the hidden name of a folder that is being deleted.
const DELETED: &str = ".gone";

/// Makes an [`io::Error`] say what was tried on which path.
pub(crate) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> TrainError {
    move |source| TrainError::Io { action, path: path.to_owned(), source }
}

/// A hidden name beside `path`, ending in `suffix`: on the same file system, so that a rename is one step.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}{suffix}"))
}

/// Creates a folder and those above it.
pub(crate) fn create_dir(path: &Path) -> Result<(), TrainError> {
    fs::create_dir_all(path).map_err(io_error("create the folder", path))
}

/// Refuses a folder in which nothing can be written, or one that is not there and can't be made. Leaves nothing behind.
///
/// # Errors
///
/// [`TrainError::Io`] with the folder.
pub fn check_writable(dir: &Path) -> Result<(), TrainError> {
    let action = if dir.is_dir() { "write into the folder" } else { "create the folder" };
    let there = dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("."));
    tempfile::tempfile_in(there).map(drop).map_err(io_error(action, dir))
}

/// Writes a whole file: after a crash it holds either its old or its new contents.
///
/// # Errors
///
/// [`TrainError::Io`]; what was there before is as it was.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    let staged = beside(path, STAGED);
    let written = File::create(&staged).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    let renamed = written.and_then(|()| fs::rename(&staged, path));
    if let Err(source) = renamed {
        let _ = fs::remove_file(&staged); // The error that matters is the first one.
        return Err(TrainError::Io { action: "write", path: path.to_owned(), source });
    }
    sync_parent(path)
}

/// Writes `value` as indented JSON with a final newline, as [`write_atomic`] does.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), TrainError> {
    let mut text = serde_json::to_string_pretty(value)
        .map_err(|error| TrainError::Damaged { path: path.to_owned(), problem: error.to_string() })?;
    text.push('\n');
    write_atomic(path, text.as_bytes())
}

/// Reads a JSON file that carries `format_version`; the version is checked before anything else is looked at.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, TrainError> {
    let text = fs::read_to_string(path).map_err(io_error("read", path))?;
    let damaged = |error: serde_json::Error| TrainError::Damaged { path: path.to_owned(), problem: error.to_string() };
    let value: serde_json::Value = serde_json::from_str(&text).map_err(damaged)?;
    check_version(path, value.get("format_version").and_then(serde_json::Value::as_u64))?;
    serde_json::from_value(value).map_err(damaged)
}

/// Refuses a file without a version or with a newer one.
pub(crate) fn check_version(path: &Path, found: Option<u64>) -> Result<(), TrainError> {
    match found {
        None => Err(TrainError::NoFormatVersion { path: path.to_owned() }),
        Some(found) if found > FORMAT_VERSION => {
            Err(TrainError::NewerFormat { path: path.to_owned(), found, supported: FORMAT_VERSION })
        }
        Some(_) => Ok(()),
    }
}

/// Makes a rename or a new name durable.
pub(crate) fn sync_parent(path: &Path) -> Result<(), TrainError> {
    path.parent().map_or(Ok(()), sync_dir)
}

/// Makes the names in a folder durable.
#[cfg(unix)]
fn sync_dir(dir: &Path) -> Result<(), TrainError> {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io_error("sync", dir))
}

/// Elsewhere folders can't be synced; the file system orders a rename itself.
#[cfg(not(unix))]
fn sync_dir(_dir: &Path) -> Result<(), TrainError> {
    Ok(())
}

/// Writes a whole folder: `fill` gets a hidden empty folder, whose files are then synced and which takes the place of
/// `path`. When anything fails, the hidden folder is removed and `path` is as it was.
pub(crate) fn write_dir(path: &Path, fill: impl FnOnce(&Path) -> Result<(), TrainError>) -> Result<(), TrainError> {
    let staged = beside(path, STAGED);
    remove_dir(&staged)?;
    create_dir(&staged)?;
    let written = fill(&staged).and_then(|()| sync_tree(&staged)).and_then(|()| replace_dir(&staged, path));
    if written.is_err() {
        let _ = fs::remove_dir_all(&staged); // The error that matters is the first one.
    }
    written
}

/// Deletes a folder so that no crash leaves half of it under its name.
pub(crate) fn delete_dir(path: &Path) -> Result<(), TrainError> {
    let deleted = beside(path, DELETED);
    remove_dir(&deleted)?;
    fs::rename(path, &deleted).map_err(io_error("remove", path))?;
    remove_dir(&deleted)
}

/// The name that a hidden file or folder of this module stands for: `best` for `.best.new`; `None` for any other name.
pub(crate) fn hidden_original(name: &str) -> Option<&str> {
    let hidden = name.strip_prefix('.')?;
    if let Some(original) = [STAGED, DISPLACED].iter().find_map(|suffix| hidden.strip_suffix(suffix)) {
        return Some(original);
    }
    let deleted = hidden.strip_suffix(DELETED)?;
    let numbered = deleted.rsplit_once('.').filter(|(_, number)| number.bytes().all(|byte| byte.is_ascii_digit()));
    Some(numbered.map_or(deleted, |(original, _)| original))
}

/// Removes what a killed process left behind in `dir`: half-written files and folders go, a folder that was moved aside
/// for one that never came takes its place again. Only hidden names are looked at that stand for one that `is_ours`:
/// `.env.new` is somebody else's.
pub(crate) fn recover(dir: &Path, is_ours: impl Fn(&str) -> bool) -> Result<(), TrainError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(io_error("read", dir))?,
    };
    for entry in entries {
        let path = entry.map_err(io_error("read", dir))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(original) = hidden_original(&name).filter(|original| is_ours(original)) else { continue };
        let original = Some(path.with_file_name(original)).filter(|_| name.ends_with(DISPLACED));
        match original.filter(|original| !original.exists()) {
            Some(original) => fs::rename(&path, original).map_err(io_error("restore", &path))?,
            None if path.is_dir() => remove_dir(&path)?,
            None => fs::remove_file(&path).map_err(io_error("remove", &path))?,
        }
    }
    Ok(())
}

/// The SHA-256 of some bytes, in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Size and SHA-256 of a file, read in pieces.
pub(crate) fn digest_file(path: &Path) -> Result<(u64, String), TrainError> {
    let mut file = File::open(path).map_err(io_error("read", path))?;
    let (mut hasher, mut size) = (Sha256::new(), 0);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer).map_err(io_error("read", path))?;
        if count == 0 {
            return Ok((size, hex(&hasher.finalize())));
        }
        hasher.update(&buffer[..count]);
        size += count as u64;
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn remove_dir(path: &Path) -> Result<(), TrainError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path)(error)),
        _ => Ok(()),
    }
}

fn sync_tree(dir: &Path) -> Result<(), TrainError> {
    for entry in fs::read_dir(dir).map_err(io_error("read", dir))? {
        let path = entry.map_err(io_error("read", dir))?.path();
        if path.is_dir() {
            sync_tree(&path)?;
        } else {
            // Opened for writing because Windows syncs no other handle.
            File::options().write(true).open(&path).and_then(|f| f.sync_all()).map_err(io_error("sync", &path))?;
        }
    }
    sync_dir(dir)
}

fn replace_dir(staged: &Path, path: &Path) -> Result<(), TrainError> {
    let displaced = beside(path, DISPLACED);
    if remove_dir(&displaced).is_err() {
        make_way(&displaced, path)?;
    }
    let replaces = path.exists();
    if replaces {
        fs::rename(path, &displaced).map_err(io_error("replace", path))?;
    }
    if let Err(source) = fs::rename(staged, path) {
        if replaces {
            let _ = fs::rename(&displaced, path); // `recover` tries again.
        }
        return Err(TrainError::Io { action: "write", path: path.to_owned(), source });
    }
    sync_parent(path)?;
    if let Err(error) = remove_dir(&displaced) {
        tracing::warn!("an old folder is left behind: {}", error.chain());
    }
    Ok(())
}

/// Gives a displaced folder of `path` that can't be removed, as where another machine still reads it, a name out of the
/// way.
fn make_way(displaced: &Path, path: &Path) -> Result<(), TrainError> {
    let mut free = (1u32..).map(|number| beside(path, &format!(".{number}{DELETED}"))).filter(|name| !name.exists());
    free.next().map_or(Ok(()), |name| fs::rename(displaced, name)).map_err(io_error("rename", displaced))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_and_nothing_is_left_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        write_atomic(&path, b"one").unwrap();
        write_atomic(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(names(dir.path()), ["a.json"]);
    }

    #[test]
    fn a_folder_that_can_not_be_written_is_refused_and_nothing_is_left_in_one_that_can() {
        let dir = tempfile::tempdir().unwrap();
        check_writable(dir.path()).unwrap();
        check_writable(&dir.path().join("to/come")).unwrap();
        assert_eq!(names(dir.path()), [""; 0]);
        let file = dir.path().join("a.json");
        fs::write(&file, "").unwrap();
        for dir in [file.clone(), file.join("run")] {
            let error = check_writable(&dir).unwrap_err();
            assert_eq!(error.to_string(), format!("cannot create the folder `{}`", dir.display()));
        }
    }

    #[test]
    fn a_failed_folder_leaves_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("best");
        let fill = |text: &'static str| move |dir: &Path| write_atomic(&dir.join("model"), text.as_bytes());
        write_dir(&path, fill("old")).unwrap();
        let failed = write_dir(&path, |dir| {
            write_atomic(&dir.join("model"), b"half")?;
            Err(TrainError::ResumeNeedsRunDir)
        });
        assert!(matches!(failed, Err(TrainError::ResumeNeedsRunDir)));
        assert_eq!(fs::read(path.join("model")).unwrap(), b"old");
        write_dir(&path, fill("new")).unwrap();
        assert_eq!(fs::read(path.join("model")).unwrap(), b"new");
        assert_eq!(names(dir.path()), ["best"]);
    }

    /// The moments at which a replacement can be killed (while staging, between the renames, before the clean-up), and a
    /// deletion.
    #[test]
    fn recovery_keeps_one_whole_folder() {
        for (existing, expected) in [
            (vec!["best", ".best.new"], "best"),
            (vec![".best.old", ".best.new"], ".best.old"),
            (vec!["best", ".best.old"], "best"),
            (vec!["best", ".step-000100.gone"], "best"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            for name in existing {
                fs::create_dir(dir.path().join(name)).unwrap();
                fs::write(dir.path().join(name).join("model"), name).unwrap();
            }
            recover(dir.path(), |name| ["best", "step-000100"].contains(&name)).unwrap();
            assert_eq!(names(dir.path()), ["best"]);
            assert_eq!(fs::read_to_string(dir.path().join("best/model")).unwrap(), expected);
        }
    }

    #[test]
    fn recovery_leaves_what_is_not_ours() {
        let dir = tempfile::tempdir().unwrap();
        let strangers = [".bashrc.old", ".env.gone", ".env.new", ".new", ".old", "best.new"];
        for name in strangers {
            fs::write(dir.path().join(name), name).unwrap();
        }
        recover(dir.path(), |name| name == "best").unwrap();
        assert_eq!(names(dir.path()), strangers);
    }

    /// A file stands for a folder that can't be removed: no permission holds root back.
    #[test]
    fn an_old_folder_that_cannot_be_removed_is_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("best");
        let fill = |text: &'static str| move |dir: &Path| write_atomic(&dir.join("model"), text.as_bytes());
        for text in ["one", "two", "three"] {
            fs::write(dir.path().join(".best.old"), "stuck").unwrap();
            write_dir(&path, fill(text)).unwrap();
            assert_eq!(fs::read_to_string(path.join("model")).unwrap(), text);
        }
        assert_eq!(names(dir.path()), [".best.1.gone", ".best.2.gone", ".best.3.gone", "best"]);
        recover(dir.path(), |name| name == "best").unwrap();
        assert_eq!(names(dir.path()), ["best"]);
    }

    #[test]
    fn a_newer_format_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        fs::write(&path, r#"{"format_version": 99}"#).unwrap();
        let error = read_json::<serde_json::Value>(&path).unwrap_err().to_string();
        assert!(error.contains("format_version 99; this build reads up to 1"), "{error}");
        fs::write(&path, "{}").unwrap();
        assert!(matches!(read_json::<serde_json::Value>(&path), Err(TrainError::NoFormatVersion { .. })));
    }

    #[test]
    fn digests_are_those_of_sha256() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("abc");
        fs::write(&path, "abc").unwrap();
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest_file(&path).unwrap(), (3, expected.to_owned()));
        assert_eq!(sha256(b"abc"), expected);
    }
}
