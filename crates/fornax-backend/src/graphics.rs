//! GPUs that wgpu reaches, listed in the driver's order.

use burn::tensor::{Device, DeviceKind};
use burn_wgpu::{
    graphics::AutoGraphicsApi,
    wgpu::{AdapterInfo, Backend, DeviceType, Instance, InstanceDescriptor},
};

use crate::{DeviceSpec, Family, cards, probe::Probe};

/// The adapters of `family`, without opening any.
pub(crate) fn probe(family: Family) -> Vec<Probe> {
    let adapters = adapters(family);
    let nvidia = if adapters.iter().any(|a| a.vendor == cards::NVIDIA_VENDOR) { cards::nvidia() } else { Vec::new() };
    let mut seen = [0; 3];
    let probe_one = |(index, adapter): (usize, AdapterInfo)| {
        let device = device(family, kind(&adapter, &mut seen));
        let memory = cards::memory(&adapter.device_pci_bus_id, &nvidia);
        Probe {
            spec: DeviceSpec::indexed(family, index),
            driver: format!("{} {}", adapter.driver, adapter.driver_info).trim().to_owned(),
            software: adapter.device_type == DeviceType::Cpu,
            rank: rank(adapter.device_type),
            name: adapter.name,
            memory,
            device,
        }
    };
    adapters.into_iter().enumerate().map(probe_one).collect()
}

fn rank(device_type: DeviceType) -> u8 {
    match device_type {
        DeviceType::DiscreteGpu => 0,
        DeviceType::IntegratedGpu => 1,
        DeviceType::VirtualGpu => 2,
        DeviceType::Other => 3,
        DeviceType::Cpu => 4,
    }
}

/// The adapters on the interface that the backend will settle on: the first with a real GPU, else the first with anything.
fn adapters(family: Family) -> Vec<AdapterInfo> {
    let interfaces = match family {
        Family::Vulkan => vec![Backend::Vulkan],
        Family::Metal => vec![Backend::Metal],
        _ => AutoGraphicsApi::chain(),
    };
    let mut software = Vec::new();
    for interface in interfaces {
        let found = list(interface);
        if found.iter().any(|adapter| adapter.device_type != DeviceType::Cpu) {
            return found;
        }
        if software.is_empty() {
            software = found;
        }
    }
    software
}

fn list(interface: Backend) -> Vec<AdapterInfo> {
    let descriptor =
        InstanceDescriptor { backends: interface.into(), ..InstanceDescriptor::new_without_display_handle() };
    let instance = Instance::new(descriptor);
    let adapters = pollster::block_on(instance.enumerate_adapters(interface.into()));
    adapters.iter().map(burn_wgpu::wgpu::Adapter::get_info).collect()
}

/// The selector of an adapter: CubeCL counts each kind from zero, so the position among all adapters says nothing to it.
fn kind(adapter: &AdapterInfo, seen: &mut [usize; 3]) -> DeviceKind {
    let mut next = |kind: usize| {
        seen[kind] += 1;
        seen[kind] - 1
    };
    match adapter.device_type {
        DeviceType::DiscreteGpu => DeviceKind::DiscreteGpu(next(0)),
        DeviceType::IntegratedGpu => DeviceKind::IntegratedGpu(next(1)),
        DeviceType::VirtualGpu => DeviceKind::VirtualGpu(next(2)),
        DeviceType::Cpu => DeviceKind::Cpu,
        DeviceType::Other => DeviceKind::DefaultDevice,
    }
}

fn device(family: Family, kind: DeviceKind) -> Device {
    match family {
        #[cfg(feature = "vulkan")]
        Family::Vulkan => Device::vulkan(kind),
        #[cfg(feature = "metal")]
        Family::Metal => Device::metal(kind),
        _ => Device::wgpu(kind),
    }
}
