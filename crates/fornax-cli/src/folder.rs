use std::path::{Path, PathBuf};

/// The folder with the model that a user means: a Hugging Face folder is one itself; of a run folder it is `averaged`, else `best`, else
/// `last`.
pub fn model_folder(folder: &Path) -> PathBuf {
    let holds_model = |folder: &PathBuf| folder.join("config.json").is_file();
    let candidates = [folder.to_owned(), folder.join("averaged"), folder.join("best"), folder.join("last")];
    // Where there is none, the loader says what is missing in the folder that was named.
    candidates.into_iter().find(holds_model).unwrap_or_else(|| folder.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_folder_stands_for_its_best_model() {
        let run = tempfile::tempdir().unwrap();
        assert_eq!(model_folder(run.path()), run.path());
        for name in ["last", "best", "averaged"] {
            std::fs::create_dir(run.path().join(name)).unwrap();
            std::fs::write(run.path().join(name).join("config.json"), "{}").unwrap();
            assert_eq!(model_folder(run.path()), run.path().join(name));
        }
        assert_eq!(model_folder(&run.path().join("last")), run.path().join("last"));
    }
}
