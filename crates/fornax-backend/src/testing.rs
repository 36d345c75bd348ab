use std::sync::OnceLock;

use burn::tensor::Device;

use crate::{DeviceSpec, Family};

/// The device that device-dependent tests run on: `FORNAX_TEST_DEVICE` (a software rasteriser is welcome), or `flex`.
///
/// # Panics
///
/// When the named device can't be opened: a test run on another device than the one asked for would prove nothing.
#[allow(clippy::panic)]
pub fn test_device() -> Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    let open = || {
        let spec = match std::env::var("FORNAX_TEST_DEVICE") {
            Ok(name) => name.parse(),
            Err(_) => Ok(DeviceSpec::family(Family::Flex)),
        };
        match spec.and_then(|spec| crate::open::open_with(&spec, true)) {
            Ok(open) => open.device,
            Err(error) => panic!("FORNAX_TEST_DEVICE: {error}"),
        }
    };
    DEVICE.get_or_init(open).clone()
}
