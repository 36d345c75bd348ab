use std::path::PathBuf;

/// What can go wrong between a text file and a batch. Every variant names the file or key and both sides of a mismatch.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file or folder can't be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
}

impl DataError {
    /// Wraps an I/O error with the path it concerns: `.map_err(DataError::io(path))`.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
