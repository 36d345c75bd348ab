use crate::{Family, Precision};

/// What can go wrong between a device's name and a device.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// `--device` names no device.
    #[error(
        "unknown device `{name}`; expected auto, flex, wgpu[:i], vulkan[:i], metal[:i], libtorch, libtorch-cuda[:i], \
         cuda[:i] or rocm[:i]"
    )]
    UnknownDevice {
        /// What was asked for.
        name: String,
    },
    /// An index on a CPU backend.
    #[error("--device {family} takes no index: there is one CPU")]
    IndexOnCpu {
        /// The CPU family.
        family: Family,
    },
    /// The backend is not in this build.
    #[error("--device {device} needs a build with --features {feature}; this build has: {compiled}")]
    NotCompiled {
        /// The device asked for.
        device: String,
        /// The missing cargo feature.
        feature: &'static str,
        /// The features that are there.
        compiled: String,
    },
    /// There is no such device: no driver, no GPU, or an index out of range.
    #[error("--device {device}: {reason}")]
    Unavailable {
        /// The device asked for.
        device: String,
        /// Why it can't be used.
        reason: String,
    },
    /// No backend at all is compiled in.
    #[error("this build has no backend; build with --features flex (any CPU), wgpu, vulkan, metal, libtorch or cuda")]
    NoBackend,
    /// `--precision` names no precision.
    #[error("unknown precision `{name}`; expected f32, bf16 or f16")]
    UnknownPrecision {
        /// What was asked for.
        name: String,
    },
    /// The device does not compute in the precision asked for.
    #[error("--precision {precision} is not supported by {device}: {reason}; supported: {supported}")]
    UnsupportedPrecision {
        /// The precision asked for.
        precision: Precision,
        /// The device.
        device: String,
        /// What is missing.
        reason: String,
        /// What the device offers instead.
        supported: String,
    },
}
