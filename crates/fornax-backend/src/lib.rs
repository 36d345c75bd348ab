//! Devices of Fornax: their names, what this build and machine can use, precisions, peak speeds.
//!
//! This is the only crate in which a cargo feature decides about a backend.

#[cfg(any(feature = "wgpu", feature = "libtorch", feature = "cuda"))]
mod cards;
mod error;
#[cfg(feature = "wgpu")]
mod graphics;
mod memory;
mod open;
mod openmp;
mod peak;
mod precision;
mod probe;
mod spec;
mod testing;
mod typed;

pub use error::BackendError;
pub use memory::keep_freed_memory;
pub use open::{ALLOW_SOFTWARE, OpenDevice, compiled_features, open, pin_default_device, software_allowed};
pub use openmp::{calm_openmp, forget_calm_openmp};
pub use precision::{Precision, multiplies_bf16};
pub use probe::{Probe, probe};
pub use spec::{DeviceSpec, Family};
pub use testing::test_device;
pub use typed::{BackendWork, with_backend};
