//! From the bytes of a file to text, the same way for every source.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use flate2::read::MultiGzDecoder;
use sha2::{Digest, Sha256};

use crate::DataError;

pub(super) const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

pub(super) fn is_gzip(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gz"))
}

/// The whole content of a file, unpacked if its name ends in `.gz`.
pub(super) fn read_bytes(path: &Path) -> Result<Vec<u8>, DataError> {
    if !is_gzip(path) {
        return std::fs::read(path).map_err(DataError::io(path));
    }
    let file = File::open(path).map_err(DataError::io(path))?;
    let mut bytes = Vec::new();
    MultiGzDecoder::new(file).read_to_end(&mut bytes).map_err(DataError::io(path))?;
    Ok(bytes)
}

/// The whole text of a file, unpacked if its name ends in `.gz`.
pub(crate) fn read_text(path: &Path) -> Result<String, DataError> {
    decode(path, &read_bytes(path)?, 0)
}

/// Checks UTF-8, drops the byte order mark, makes `\r\n` into `\n`. `start` is where `bytes` begin in the file.
pub(super) fn decode(path: &Path, bytes: &[u8], start: u64) -> Result<String, DataError> {
    let text = std::str::from_utf8(bytes)
        .map_err(|error| DataError::NotUtf8 { path: path.into(), offset: start + error.valid_up_to() as u64 })?;
    let text = if start == 0 { text.strip_prefix('\u{feff}').unwrap_or(text) } else { text };
    Ok(if text.contains('\r') { text.replace("\r\n", "\n") } else { text.to_owned() })
}

pub(super) fn hex(hasher: Sha256) -> String {
    format!("{:x}", hasher.finalize())
}

/// The sha256 of a file's bytes as they lie on the disk, in hexadecimal.
pub(crate) fn file_sha256(path: &Path) -> Result<String, DataError> {
    let file = File::open(path).map_err(DataError::io(path))?;
    let mut reader = Hashing::new(file);
    std::io::copy(&mut reader, &mut std::io::sink()).map_err(DataError::io(path))?;
    Ok(reader.finish())
}

/// A hash over the parts in order; each is preceded by its length, so that ["ab", "c"] and ["a", "bc"] differ.
pub(crate) fn hash_parts<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hex(hasher)
}

/// A reader that hashes what passes through.
pub(super) struct Hashing<R> {
    inner: R,
    hasher: Sha256,
}

impl<R: Read> Hashing<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, hasher: Sha256::new() }
    }

    pub(super) fn finish(self) -> String {
        hex(self.hasher)
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_order_mark_and_line_ends_are_normalised() {
        let text = decode(Path::new("a.txt"), b"\xEF\xBB\xBFone\r\ntwo\rthree\n", 0).unwrap();
        assert_eq!(text, "one\ntwo\rthree\n");
        // In the middle of a file the same three bytes are a character of the text.
        assert_eq!(decode(Path::new("a.txt"), b"\xEF\xBB\xBFx", 7).unwrap(), "\u{feff}x");
    }

    #[test]
    fn bad_utf8_is_named_with_its_offset() {
        let error = decode(Path::new("dir/latin1.txt"), b"caf\xE9 au lait", 100).unwrap_err();
        assert_eq!(error.to_string(), "dir/latin1.txt: not UTF-8 at byte 103");
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        assert_ne!(hash_parts(["ab", "c"]), hash_parts(["a", "bc"]));
    }
}
