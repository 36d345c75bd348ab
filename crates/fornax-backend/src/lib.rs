//! Devices of Fornax: their names, what this build and machine can use, default element types, seeding.

mod error;
mod precision;
mod testing;

pub use error::BackendError;
pub use precision::Precision;
pub use testing::test_device;
