/// What can go wrong between a device's name and a device.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// `--precision` names no precision.
    #[error("unknown precision `{name}`; expected f32, bf16 or f16")]
    UnknownPrecision {
        /// What was asked for.
        name: String,
    },
}
