//! Where the files of a GLUE task are.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::TableFormat;
use super::config::Purpose;
use super::hub::{self, HubTable};
use super::tasks::{Columns, GlueTask, MRPC_VALID_IDS, TaskInfo, TaskSet};
use crate::DataError;
use crate::dataset::{self, Places};
use crate::source::read_text;

/// The files of one set.
pub(super) struct SetFiles {
    /// One, or all shards in order.
    pub(super) paths: Vec<PathBuf>,
    pub(super) format: TableFormat,
    pub(super) columns: Columns<'static>,
    /// Whether they have the rows of [`TaskFiles::listed`], the others, or only rows of the set.
    pub(super) listed: Option<bool>,
}

/// A folder with the files of a task.
pub(super) struct TaskFiles {
    info: &'static TaskInfo,
    pub(super) folder: PathBuf,
    /// The form of the tables, if they are not the official ones but those of the Hugging Face hub.
    pub(super) hub: Option<HubTable>,
}

impl TaskFiles {
    /// Finds the folder that has what `purpose` needs: the given one and no other; or `$FORNAX_DATA/<name>/`, the cache, then the
    /// download, for a task that `datasets/` has. Each is also looked for under the name that the official archive has (`SST-2`), and
    /// in each place the official files come before those of the Hugging Face hub.
    ///
    /// # Errors
    /// Files that are nowhere; the message says where they can be had. A shard that lacks.
    pub(super) fn find(task: GlueTask, places: &Places, purpose: Purpose) -> Result<Self, DataError> {
        let info = task.info();
        let candidates = folders(info, places);
        if let Some(found) = Self::among(info, &candidates, purpose)? {
            return Ok(found);
        }
        let mut reason = None;
        if places.folder.is_none() && dataset::names().any(|name| name == info.name) {
            match dataset::get(info.name, places) {
                Ok(_) => {}
                Err(DataError::Download { reason: why, .. }) => reason = Some(why),
                Err(other) => return Err(other),
            }
        }
        Self::among(info, &candidates, purpose)?.ok_or_else(|| DataError::TaskFiles {
            task: info.title,
            files: file_names(info),
            searched: candidates.iter().flatten().map(|it| it.display().to_string()).collect::<Vec<_>>().join(", "),
            reason: reason.map(|reason| format!("; the download failed: {reason}")).unwrap_or_default(),
            source_url: info.source,
        })
    }

    fn among(
        info: &'static TaskInfo,
        candidates: &[Vec<PathBuf>],
        purpose: Purpose,
    ) -> Result<Option<Self>, DataError> {
        for folders in candidates {
            for from_hub in [false, true] {
                for folder in folders {
                    let hub = from_hub.then(|| HubTable::of(info.task));
                    let files = Self { info, folder: folder.clone(), hub };
                    if files.has(purpose)? {
                        return Ok(Some(files));
                    }
                }
            }
        }
        Ok(None)
    }

    fn has(&self, purpose: Purpose) -> Result<bool, DataError> {
        for set in self.info.sets.iter().filter(|set| purpose.needs(set.split)) {
            if self.of(set)?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The files of a set, if they are here.
    ///
    /// # Errors
    /// A shard that lacks.
    pub(super) fn of(&self, set: &TaskSet) -> Result<Option<SetFiles>, DataError> {
        if let Some(hub) = &self.hub {
            let found = hub::find(&self.folder, self.info.name, set)?;
            return Ok(found.map(|(paths, format)| SetFiles { paths, format, columns: hub.columns, listed: None }));
        }
        let official = |path: PathBuf, listed| {
            let (paths, format, columns) = (vec![path], TableFormat::Tsv, set.columns);
            SetFiles { paths, format, columns, listed }
        };
        let path = self.folder.join(set.file);
        if path.is_file() {
            return Ok(Some(official(path, None)));
        }
        let other = set.other.filter(|other| other.listed.is_none() || self.ids().is_some());
        let other = other.map(|other| (self.folder.join(other.file), other.listed));
        Ok(other.filter(|(path, _)| path.is_file()).map(|(path, listed)| official(path, listed)))
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

/// The folders to look into, place by place, in this order.
fn folders(info: &TaskInfo, places: &Places) -> Vec<Vec<PathBuf>> {
    let both = |parent: &Path| vec![parent.join(info.name), parent.join(info.title)];
    if let Some(folder) = &places.folder {
        return vec![[vec![folder.clone()], both(folder)].concat()];
    }
    let cache = places.cache.as_ref().map(|cache| cache.join("datasets"));
    places.data.iter().chain(&cache).map(|parent| both(parent)).collect()
}

/// The files that are looked for, for messages.
fn file_names(info: &TaskInfo) -> String {
    let list = |name: fn(&TaskSet) -> String| info.sets.iter().map(name).collect::<Vec<_>>().join(", ");
    let (official, of_hub) = (list(|set| set.file.to_owned()), list(hub::stem));
    let endings = hub::ENDINGS.map(|(ending, _)| format!(".{ending}")).join(", ");
    format!("{official}, or as the Hugging Face hub has them {of_hub} with {endings}")
}
