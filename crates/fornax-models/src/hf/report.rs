use std::{fmt, path::Path};

/// What became of the tensors of a checkpoint that was loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Names, as the checkpoint has them, whose numbers the model now holds.
    pub loaded: Vec<String>,
    /// Names of tensors without information of their own: buffers, copies of tied weights, zeros.
    pub ignored: Vec<String>,
    /// Names of tensors that belong to other heads than the model's.
    pub unused: Vec<String>,
    /// Names of the model's tensors that the checkpoint lacks and that have their initial numbers: a head to be trained.
    pub initialised: Vec<String>,
    /// Those of `loaded` that were stored in half precision and widened to `f32`.
    pub widened: Vec<String>,
}

impl LoadReport {
    /// Tells people what became of the tensors in `dir`.
    pub(super) fn log(&self, model: &str, dir: &Path) {
        tracing::info!(
            folder = %dir.display(),
            loaded = self.loaded.len(),
            widened = self.widened.len(),
            ignored = ?self.ignored,
            unused = ?self.unused,
            "loaded {model}"
        );
        if !self.initialised.is_empty() {
            tracing::warn!(
                folder = %dir.display(),
                tensors = ?self.initialised,
                "not in the checkpoint: these are new and have to be trained"
            );
        }
    }
}

/// Why one tensor of a checkpoint does not fit the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TensorProblem {
    /// The model wants it.
    Missing {
        /// Its name.
        name: String,
        /// The shape that the model wants.
        wanted: Vec<usize>,
    },
    /// The model has no place for it.
    Unexpected {
        /// Its name.
        name: String,
        /// Its shape in the checkpoint.
        found: Vec<usize>,
    },
    /// Both have it, in different shapes.
    Shape {
        /// Its name.
        name: String,
        /// Its shape in the checkpoint.
        found: Vec<usize>,
        /// The shape that the model wants.
        wanted: Vec<usize>,
    },
    /// Its element type is not `f32`, `f16` or `bf16`.
    ElementType {
        /// Its name.
        name: String,
        /// Its type in the checkpoint.
        found: String,
    },
    /// The checkpoint says that the model has no such parameter, yet it holds something.
    NotZero {
        /// Its name.
        name: String,
    },
    /// It should equal the tensor that it is tied to.
    NotTied {
        /// Its name.
        name: String,
        /// The tensor it should equal.
        original: String,
    },
}

impl fmt::Display for TensorProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { name, wanted } => write!(f, "`{name}`: missing, model wants {wanted:?}"),
            Self::Unexpected { name, found } => write!(f, "`{name}` {found:?}: unexpected, model has no such tensor"),
            Self::Shape { name, found, wanted } => {
                write!(f, "`{name}`: checkpoint has {found:?}, model wants {wanted:?}")
            }
            Self::ElementType { name, found } => {
                write!(f, "`{name}`: stored as {found}; F32, F16 and BF16 can be read")
            }
            Self::NotZero { name } => {
                write!(f, "`{name}`: not zero, but by config.json the model has no such parameter")
            }
            Self::NotTied { name, original } => {
                write!(f, "`{name}`: differs from `{original}`; a head with its own weights is not supported")
            }
        }
    }
}
