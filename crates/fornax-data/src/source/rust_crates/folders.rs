use std::path::{Path, PathBuf};

use super::CrateEntry;
use super::select::Selected;
use crate::DataError;

/// The folders in which a crate's unpacked sources may lie, in the order of the search.
#[derive(Clone, Debug)]
pub struct CrateFolders {
    roots: Vec<PathBuf>,
}

impl CrateFolders {
    /// These folders, each holding `<name>-<version>` or `<name>`.
    pub fn new(roots: impl IntoIterator<Item = PathBuf>) -> Self {
        let mut kept: Vec<PathBuf> = Vec::new();
        for root in roots {
            if !kept.contains(&root) {
                kept.push(root);
            }
        }
        Self { roots: kept }
    }

    /// `first`, then vendor folders (`vendor` in the working folder, in a parent of it or in the workspace that this program was
    /// built from, and those that cargo's config names), then cargo's registries: under `$CARGO_HOME` now and when this program was
    /// built, and under `~/.cargo`.
    pub fn of_cargo(first: impl IntoIterator<Item = PathBuf>) -> Self {
        let here = std::env::current_dir().unwrap_or_default();
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).map(Path::to_path_buf);
        let homes = cargo_homes();
        let mut roots: Vec<PathBuf> = first.into_iter().collect();
        for folder in here.ancestors().map(Path::to_path_buf).chain(workspace) {
            roots.push(folder.join("vendor"));
            roots.extend(configured(&folder.join(".cargo")));
        }
        roots.extend(homes.iter().flat_map(|home| configured(home)));
        roots.extend(homes.iter().flat_map(|home| registries(home)));
        // Left in the list even if it is not there, so that the error shows it.
        let shown: Vec<PathBuf> = homes.iter().take(1).map(|home| home.join("registry").join("src")).collect();
        Self::new(roots.into_iter().filter(|root| root.is_dir()).chain(shown))
    }

    /// Whether any of these crates lies in the folders; contents are not looked at.
    pub(crate) fn hold_any(&self, entries: &[CrateEntry]) -> bool {
        let holds = |root: &PathBuf| entries.iter().any(|it| crate_in(root, &it.name, &it.version).is_some());
        self.roots.iter().any(holds)
    }

    /// The digest of this version of a crate, if it is anywhere.
    #[cfg(test)]
    pub(crate) fn digest_of(&self, name: &str, version: &str) -> Option<String> {
        let folder = self.roots.iter().find_map(|root| crate_in(root, name, version))?;
        CrateEntry::digest(&folder).ok()
    }

    /// The crate's folder and the files taken from it.
    pub(super) fn find(&self, entry: &CrateEntry) -> Result<(PathBuf, Selected), DataError> {
        let mut wrong = None;
        for root in &self.roots {
            let Some(folder) = crate_in(root, &entry.name, &entry.version) else {
                continue;
            };
            let selected = Selected::read(&folder)?;
            let found = selected.digest();
            if found == entry.sha256 {
                return Ok((folder, selected));
            }
            wrong.get_or_insert(DataError::CrateChanged {
                name: entry.name.clone(),
                version: entry.version.clone(),
                path: folder,
                expected: entry.sha256.clone(),
                found,
            });
        }
        Err(wrong.unwrap_or_else(|| DataError::CrateMissing {
            name: entry.name.clone(),
            version: entry.version.clone(),
            searched: self.roots.iter().map(|root| root.display().to_string()).collect::<Vec<_>>().join(", "),
        }))
    }
}

/// The folder of a crate in a registry (`name-version`) or a vendor folder (`name`, the version is in its manifest).
fn crate_in(root: &Path, name: &str, version: &str) -> Option<PathBuf> {
    let versioned = root.join(format!("{name}-{version}"));
    let plain = root.join(name);
    if versioned.is_dir() { Some(versioned) } else { (manifest_version(&plain)? == version).then_some(plain) }
}

fn cargo_homes() -> Vec<PathBuf> {
    let now = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let built = option_env!("CARGO_HOME").map(PathBuf::from);
    let default = directories::BaseDirs::new().map(|dirs| dirs.home_dir().join(".cargo"));
    now.into_iter().chain(built).chain(default).filter(|home| !home.as_os_str().is_empty()).collect()
}

/// One folder a registry: the index of crates.io and its mirrors.
fn registries(home: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(home.join("registry").join("src")) else {
        return Vec::new();
    };
    let mut folders: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    folders.sort();
    folders
}

/// The folders that `config.toml` in a `.cargo` folder names: `[source.NAME] directory = "..."`, relative to the parent of `.cargo`.
fn configured(dot_cargo: &Path) -> Vec<PathBuf> {
    let Ok(text) = std::fs::read_to_string(dot_cargo.join("config.toml")) else {
        return Vec::new();
    };
    let Ok(config) = text.parse::<toml::Table>() else {
        return Vec::new();
    };
    let base = dot_cargo.parent().unwrap_or(dot_cargo);
    let sources = config.get("source").and_then(toml::Value::as_table);
    let directories = sources.into_iter().flat_map(|it| it.values()).filter_map(|it| it.get("directory")?.as_str());
    directories.map(|directory| base.join(directory)).collect()
}

fn manifest_version(folder: &Path) -> Option<String> {
    let manifest: toml::Table = std::fs::read_to_string(folder.join("Cargo.toml")).ok()?.parse().ok()?;
    Some(manifest.get("package")?.get("version")?.as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Split;

    fn write(path: &Path, text: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn entry(sha256: &str) -> CrateEntry {
        CrateEntry {
            name: "anvil".into(),
            version: "1.2.0".into(),
            licence: "MIT".into(),
            split: Split::Train,
            sha256: sha256.into(),
        }
    }

    #[test]
    fn a_crate_is_found_by_folder_name_or_by_manifest() {
        let (registry, vendor, old) =
            (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write(&registry.path().join("anvil-1.2.0/src/lib.rs"), "fn strike() {}");
        write(&vendor.path().join("anvil/src/lib.rs"), "fn strike() {}");
        write(&vendor.path().join("anvil/Cargo.toml"), "[package]\nname = \"anvil\"\nversion = \"1.2.0\"\n");
        write(&old.path().join("anvil/Cargo.toml"), "[package]\nname = \"anvil\"\nversion = \"1.1.0\"\n");
        let entry = entry(&CrateEntry::digest(&registry.path().join("anvil-1.2.0")).unwrap());
        let find = |roots: &[&Path]| CrateFolders::new(roots.iter().map(|root| root.to_path_buf())).find(&entry);
        assert_eq!(find(&[old.path(), registry.path()]).unwrap().0, registry.path().join("anvil-1.2.0"));
        assert_eq!(find(&[old.path(), vendor.path()]).unwrap().0, vendor.path().join("anvil"));
        let error = find(&[old.path()]).unwrap_err();
        assert!(matches!(&error, DataError::CrateMissing { .. }));
        assert!(error.to_string().contains(&old.path().display().to_string()), "{error}");
        assert!(error.hint().unwrap().contains("cargo fetch"));
    }

    #[test]
    fn other_bytes_are_passed_over_or_refused() {
        let (edited, good) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write(&edited.path().join("anvil-1.2.0/src/lib.rs"), "fn edited() {}");
        write(&good.path().join("anvil-1.2.0/src/lib.rs"), "fn strike() {}");
        let entry = entry(&CrateEntry::digest(&good.path().join("anvil-1.2.0")).unwrap());
        let find = |roots: &[&Path]| CrateFolders::new(roots.iter().map(|root| root.to_path_buf())).find(&entry);
        assert_eq!(find(&[edited.path(), good.path()]).unwrap().0, good.path().join("anvil-1.2.0"));
        let error = find(&[edited.path()]).unwrap_err().to_string();
        assert!(error.contains(&entry.sha256) && error.contains("anvil 1.2.0"), "{error}");
    }

    #[test]
    fn cargo_config_names_vendor_folders() {
        let folder = tempfile::tempdir().unwrap();
        let config = "[source.crates-io]\nreplace-with = \"mirror\"\n[source.mirror]\ndirectory = \"third-party\"\n";
        write(&folder.path().join(".cargo/config.toml"), config);
        assert_eq!(configured(&folder.path().join(".cargo")), [folder.path().join("third-party")]);
        assert!(configured(folder.path()).is_empty());
    }
}
