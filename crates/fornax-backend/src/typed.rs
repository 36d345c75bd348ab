use burn::{
    backend::{Autodiff, Backend, DispatchDevice, DispatchKindConversion, DispatchTensor},
    tensor::Device,
};

/// Work that needs the backend of a device as a type, for a node of the graph of automatic differentiation.
pub trait BackendWork<T> {
    /// Does it.
    fn run<B: Backend>(self) -> T
    where
        DispatchTensor: DispatchKindConversion<B> + DispatchKindConversion<Autodiff<B>>;
}

/// Does `work` with the type of the backend that `device` belongs to, autodiff aside.
///
/// # Panics
///
/// On a device of a backend that Fornax doesn't open.
pub fn with_backend<T>(device: &Device, work: impl BackendWork<T>) -> T {
    run(device.as_dispatch(), work)
}

fn run<T>(device: &DispatchDevice, work: impl BackendWork<T>) -> T {
    // Without any backend there is one kind of device, which is none of these.
    #[allow(unreachable_patterns)]
    match device {
        DispatchDevice::Autodiff(device) => run(device, work),
        #[cfg(feature = "flex")]
        DispatchDevice::Flex(_) => work.run::<burn::backend::Flex>(),
        #[cfg(feature = "libtorch")]
        #[allow(deprecated)]
        DispatchDevice::LibTorch(_) => work.run::<burn::backend::LibTorch>(),
        #[cfg(any(feature = "wgpu", feature = "cuda", feature = "rocm"))]
        DispatchDevice::Cube(_) => work.run::<burn::backend::Cube>(),
        device => unreachable!("Fornax opens no device {device:?}"),
    }
}
