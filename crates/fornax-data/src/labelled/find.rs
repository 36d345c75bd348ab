//! Where the files of a GLUE task are.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::config::Purpose;
use super::tasks::{GlueTask, MRPC_VALID_IDS, TaskInfo, TaskSet};
use crate::DataError;
use crate::dataset::{self, Places};
use crate::source::read_text;

/// The file of one set.
pub(super) struct SetFile {
    pub(super) path: PathBuf,
    /// Whether it has the rows of [`TaskFiles::listed`], the others, or only rows of the set.
    pub(super) listed: Option<bool>,
}

/// A folder with the files of a task.
pub(super) struct TaskFiles {
    pub(super) folder: PathBuf,
}

impl TaskFiles {
    /// Finds the folder that has what `purpose` needs: the given one, `$FORNAX_DATA/<name>/`, the cache, each also under the name that the official archive has
    /// (`SST-2`); then the download, for a task that `datasets/` has.
    ///
    /// # Errors
    /// Files that are nowhere; the message says where they can be had.
    pub(super) fn find(task: GlueTask, places: &Places, purpose: Purpose) -> Result<Self, DataError> {
        let info = task.info();
        let folders = folders(info, places);
        if let Some(found) = Self::among(info, &folders, purpose) {
            return Ok(found);
        }
        let mut reason = None;
        if dataset::names().any(|name| name == info.name) {
            match dataset::get(info.name, places) {
                Ok(_) => {}
                Err(DataError::Download { reason: why, .. }) => reason = Some(why),
                Err(other) => return Err(other),
            }
        }
        Self::among(info, &folders, purpose).ok_or_else(|| DataError::TaskFiles {
            task: info.title,
            files: info.sets.iter().map(|set| set.file).collect::<Vec<_>>().join(", "),
            searched: folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", "),
            reason: reason.map(|reason| format!("; the download failed: {reason}")).unwrap_or_default(),
            source_url: info.source,
        })
    }

    fn among(info: &TaskInfo, folders: &[PathBuf], purpose: Purpose) -> Option<Self> {
        let complete = |folder: &&PathBuf| {
            let files = TaskFiles { folder: folder.to_path_buf() };
            info.sets.iter().filter(|set| purpose.needs(set.split)).all(|set| files.of(set).is_some())
        };
        folders.iter().find(complete).map(|folder| Self { folder: folder.clone() })
    }

    /// The file of a set, if it is here.
    pub(super) fn of(&self, set: &TaskSet) -> Option<SetFile> {
        let path = self.folder.join(set.file);
        if path.is_file() {
            return Some(SetFile { path, listed: None });
        }
        let other = set.other.filter(|other| other.listed.is_none() || self.ids().is_some())?;
        let path = self.folder.join(other.file);
        path.is_file().then_some(SetFile { path, listed: other.listed })
    }

    fn ids(&self) -> Option<PathBuf> {
        MRPC_VALID_IDS.map(|name| self.folder.join(name)).into_iter().find(|path| path.is_file())
    }

    /// The pairs of ids, with a tab between, of the rows of MRPC's valid set.
    ///
    /// # Errors
    /// A file that can't be read.
    pub(super) fn listed(&self) -> Result<HashSet<String>, DataError> {
        match self.ids() {
            Some(path) => Ok(read_text(&path)?.lines().map(|line| line.trim().to_owned()).collect()),
            None => Ok(HashSet::new()),
        }
    }
}

/// The folders to look into, in this order.
fn folders(info: &TaskInfo, places: &Places) -> Vec<PathBuf> {
    let both = |parent: &Path| [parent.join(info.name), parent.join(info.title)];
    let given = places.folder.iter().flat_map(|folder| [vec![folder.clone()], both(folder).to_vec()].concat());
    let cache = places.cache.as_ref().map(|cache| cache.join("datasets"));
    given.chain(places.data.iter().chain(&cache).flat_map(|parent| both(parent))).collect()
}
