use std::path::Path;

use walkdir::WalkDir;

use super::Part;
use super::prose::doc_comments;
use crate::DataError;
use crate::source::files::relative_name;
use crate::source::text::{decode, hash_parts, read_bytes};

/// Pages of prose; change logs, licences and rules for contributors are lists and boilerplate.
const PAGES: [&str; 3] = ["README.md", "DESIGN.md", "FAQ.md"];

/// Folders that hold no text worth learning: tests, tables of characters, what is not part of the library.
const SKIPPED_FOLDERS: [&str; 7] = ["test", "tests", "unicode_tables", "benches", "bench", "examples", "fuzz"];

/// The files that the corpus takes from one crate, ordered by path.
#[derive(Debug)]
pub(super) struct Selected {
    pub(super) files: Vec<SelectedFile>,
}

#[derive(Debug)]
pub(super) struct SelectedFile {
    /// Below the crate's folder, with `/`.
    pub(super) path: String,
    pub(super) text: String,
}

impl Selected {
    pub(super) fn read(folder: &Path) -> Result<Self, DataError> {
        let mut files = Vec::new();
        let kept = |name: &std::ffi::OsStr| {
            let name = name.to_string_lossy();
            !name.starts_with('.') && !SKIPPED_FOLDERS.contains(&name.as_ref())
        };
        for entry in WalkDir::new(folder).into_iter().filter_entry(|it| it.depth() == 0 || kept(it.file_name())) {
            let entry = entry.map_err(|error| {
                let path = error.path().unwrap_or(folder).to_path_buf();
                DataError::Io { path, source: error.into() }
            })?;
            let path = relative_name(folder, entry.path());
            if !entry.file_type().is_file() || !(is_code(&path) || is_page(&path)) {
                continue;
            }
            let text = decode(entry.path(), &read_bytes(entry.path())?, 0)?;
            if !is_table(&text) && !text.trim().is_empty() {
                files.push(SelectedFile { path, text });
            }
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Self { files })
    }

    pub(super) fn digest(&self) -> String {
        hash_parts(self.files.iter().flat_map(|file| [file.path.as_str(), file.text.as_str()]))
    }
}

impl SelectedFile {
    pub(super) fn text_of(&self, part: Part) -> Option<String> {
        match (part, is_code(&self.path)) {
            (Part::Code, true) => Some(self.text.clone()),
            (Part::Code, false) => None,
            (Part::Prose, true) => Some(doc_comments(&self.text)).filter(|text| !text.is_empty()),
            (Part::Prose, false) => Some(self.text.clone()),
        }
    }
}

fn is_code(path: &str) -> bool {
    let is_test = ["/test.rs", "/tests.rs"].iter().any(|name| path.ends_with(name));
    path.starts_with("src/") && path.ends_with(".rs") && !is_test
}

fn is_page(path: &str) -> bool {
    PAGES.contains(&path.rsplit('/').next().unwrap_or(path))
}

/// Whether more than a fifth of the printed characters are digits.
fn is_table(text: &str) -> bool {
    let printed = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).count();
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    digits * 5 > printed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sources_and_pages_are_selected() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "README.md",
            "CHANGELOG.md",
            "build.rs",
            "src/lib.rs",
            "src/a/mod.rs",
            "src/a/README.md",
            "src/a/tests.rs",
            "src/tests/x.rs",
            "src/unicode_tables/x.rs",
            "src/data.bin",
            "tests/x.rs",
            "tests/README.md",
            ".hidden/README.md",
        ] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, format!("// {name}\r\n")).unwrap();
        }
        std::fs::write(folder.path().join("src/table.rs"), "const T: [u32; 4] = [11111, 22222, 33333, 44444];")
            .unwrap();
        let selected = Selected::read(folder.path()).unwrap();
        let paths: Vec<&str> = selected.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["README.md", "src/a/README.md", "src/a/mod.rs", "src/lib.rs"]);
        assert_eq!(selected.files[3].text, "// src/lib.rs\n");

        let before = selected.digest();
        std::fs::write(folder.path().join("CHANGELOG.md"), "new").unwrap();
        assert_eq!(Selected::read(folder.path()).unwrap().digest(), before);
        std::fs::write(folder.path().join("src/lib.rs"), "new").unwrap();
        assert_ne!(Selected::read(folder.path()).unwrap().digest(), before);
    }

    #[test]
    fn the_parts_of_a_file() {
        let file = |path: &str, text: &str| SelectedFile { path: path.into(), text: text.into() };
        let code = file("src/lib.rs", "//! About.\nfn f() {}\n");
        assert_eq!(code.text_of(Part::Code).unwrap(), code.text);
        assert_eq!(code.text_of(Part::Prose).unwrap(), "About.\n");
        assert_eq!(file("src/a.rs", "fn f() {}\n").text_of(Part::Prose), None);
        assert_eq!(file("README.md", "# A").text_of(Part::Code), None);
        assert_eq!(file("README.md", "# A").text_of(Part::Prose).unwrap(), "# A");
    }
}
