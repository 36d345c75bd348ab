//! What this build and this machine offer, found without a panic.

use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::tensor::{Device, Tensor, TensorData};

use crate::{DeviceSpec, Family, Precision, multiplies_bf16};

/// One device that a family lists.
#[derive(Clone, Debug)]
pub struct Probe {
    /// Its name on the command line.
    pub spec: DeviceSpec,
    /// The adapter's own name.
    pub name: String,
    /// Driver name and version; empty where there is none.
    pub driver: String,
    /// Memory in bytes, where the system tells.
    pub memory: Option<u64>,
    /// Whether it is a rasteriser that runs on the CPU: fit for tests, useless for training.
    pub software: bool,
    /// By which a family's devices are told apart where none is named, lowest first: discrete, integrated, virtual, other
    /// GPUs, software.
    pub(crate) rank: u8,
    pub(crate) device: Device,
}

impl Probe {
    /// Computes a small matrix product on the device and compares it with the host's; what is wrong when they differ.
    ///
    /// A driver can be there and still compute nonsense: a software Vulkan driver that lacks an instruction warns and goes on.
    pub fn check(&self) -> Result<(), String> {
        quietly(|| product(&self.device))
            .map_err(|panic| format!("the driver failed on a first operation: {panic}"))?
            .then_some(())
            .ok_or_else(|| {
                let compiler = self.compiler().map_or_else(String::new, |name| format!(" (kernels: {name})"));
                format!("its driver computes matrix products wrongly{compiler}; hint: another driver, or --device flex")
            })
    }

    /// The precisions in which Fornax trains on the device. Opens the device.
    pub fn precisions(&self) -> Vec<Precision> {
        Precision::ALL.into_iter().filter(|&precision| self.refusal(precision).is_none()).collect()
    }

    /// Why training in `precision` is refused on the device; `None` when it isn't.
    pub(crate) fn refusal(&self, precision: Precision) -> Option<String> {
        match (self.spec, precision) {
            (_, Precision::F32) => None,
            (DeviceSpec::Family { family: Family::Flex, .. }, Precision::Bf16) => (!multiplies_bf16()).then(|| {
                "this CPU has no bf16 products (AVX512-BF16 or AMX), so it would be slower than f32".to_owned()
            }),
            (DeviceSpec::Family { family: Family::Flex, .. }, Precision::F16) => {
                Some("it has no f16 matrix product, so it would be slower than f32".to_owned())
            }
            _ if quietly(|| precision.is_supported(&self.device)).unwrap_or(false) => None,
            _ => Some(format!("its driver has no {precision} arithmetic")),
        }
    }

    /// The shader compiler that kernels go through (`wgpu<spirv>`, `wgpu<wgsl>`, ...), where there is one.
    pub fn compiler(&self) -> Option<String> {
        #[cfg(any(feature = "wgpu", feature = "cuda", feature = "rocm"))]
        return quietly(|| self.device.identity().map(|identity| identity.fingerprint)).ok().flatten();
        #[cfg(not(any(feature = "wgpu", feature = "cuda", feature = "rocm")))]
        None
    }
}

/// Whether a product of two matrices of whole numbers, which any precision holds, comes out right. The shapes are odd, so that
/// no kernel finds its tiles filled.
fn product(device: &Device) -> bool {
    let (rows, inner, columns) = (19, 37, 11);
    let value = |index: usize| (index % 7) as f32 - 3.0;
    let matrix = |rows: usize, columns: usize| {
        let values: Vec<f32> = (0..rows * columns).map(value).collect();
        Tensor::<2>::from_data(TensorData::new(values, [rows, columns]), device)
    };
    let expected = (0..rows * columns).map(|cell| {
        let (row, column) = (cell / columns, cell % columns);
        (0..inner).map(|k| value(row * inner + k) * value(k * columns + column)).sum::<f32>()
    });
    let product = matrix(rows, inner).matmul(matrix(inner, columns)).into_data();
    product.iter::<f32>().eq(expected)
}

/// The devices of one family, or one line that says why there are none.
pub fn probe(family: Family) -> Result<Vec<Probe>, String> {
    if !family.is_compiled() {
        return Err(format!("needs a build with --features {}", family.feature()));
    }
    let found = quietly(|| match family {
        Family::Flex => flex(),
        Family::LibTorch => libtorch_cpu(),
        Family::LibTorchCuda => libtorch_cuda(),
        Family::Cuda => cuda(),
        Family::Rocm => rocm(),
        Family::Wgpu | Family::Vulkan | Family::Metal => graphics(family),
    })
    .unwrap_or_else(|panic| Err(format!("probing failed: {panic}")))?;
    if found.is_empty() { Err(nothing_found(family)) } else { Ok(found) }
}

fn nothing_found(family: Family) -> String {
    match family {
        Family::Cuda | Family::LibTorchCuda => "no NVIDIA GPU or no driver was found".to_owned(),
        Family::Rocm => "no AMD GPU or no ROCm driver was found".to_owned(),
        Family::Vulkan => "no Vulkan driver was found".to_owned(),
        Family::Metal => "no Metal device was found".to_owned(),
        _ => "no GPU driver was found".to_owned(),
    }
}

/// Runs `work` and turns a panic into its message. Drivers panic on what is not there (a library, a GPU, a feature), and
/// nothing of it may reach the user but one line.
fn quietly<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    // The hook is global, so two threads that probe at once must take turns.
    static HOOK: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _turn = HOOK.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let result = catch_unwind(AssertUnwindSafe(work));
    std::panic::set_hook(hook);
    result.map_err(|panic| {
        let message = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        message.unwrap_or("unknown panic").lines().next().unwrap_or_default().to_owned()
    })
}

fn cpu_name() -> String {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let model = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    format!("{}, {threads} threads", model.unwrap_or_else(|| format!("{} CPU", std::env::consts::ARCH)))
}

fn system_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kib: u64 =
        text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

fn cpu_probe(family: Family, device: Device, driver: String) -> Vec<Probe> {
    let spec = DeviceSpec::family(family);
    vec![Probe { spec, name: cpu_name(), driver, memory: system_memory(), software: false, rank: 0, device }]
}

type Found = Result<Vec<Probe>, String>;

#[cfg(feature = "flex")]
fn flex() -> Found {
    Ok(cpu_probe(Family::Flex, Device::flex(), String::new()))
}

#[cfg(not(feature = "flex"))]
fn flex() -> Found {
    Ok(Vec::new())
}

#[cfg(feature = "libtorch")]
fn libtorch_cpu() -> Found {
    let device = burn_tch::LibTorchDevice::Cpu;
    Ok(cpu_probe(Family::LibTorch, libtorch_device(device), format!("{} threads", tch::get_num_threads())))
}

/// Goes through the dispatch device because `Device::libtorch` is deprecated in Burn 0.22 (decision in the docs: LibTorch
/// stays while 0.22 is pinned).
#[cfg(feature = "libtorch")]
#[allow(deprecated)]
fn libtorch_device(device: burn_tch::LibTorchDevice) -> Device {
    match device {
        burn_tch::LibTorchDevice::Cuda(index) => Device::libtorch_cuda(index),
        _ => Device::libtorch(),
    }
}

#[cfg(not(feature = "libtorch"))]
fn libtorch_cpu() -> Found {
    Ok(Vec::new())
}

#[cfg(feature = "libtorch")]
fn libtorch_cuda() -> Found {
    if !tch::Cuda::is_available() {
        return Err(
            "LibTorch sees no CUDA device (no NVIDIA GPU, no driver, or a LibTorch built without CUDA)".to_owned()
        );
    }
    let cards = crate::cards::nvidia();
    Ok((0..usize::try_from(tch::Cuda::device_count()).unwrap_or(0))
        .map(|index| {
            let card = cards.get(index).cloned().unwrap_or_default();
            Probe {
                spec: DeviceSpec::indexed(Family::LibTorchCuda, index),
                name: if card.name.is_empty() { format!("CUDA device {index}") } else { card.name },
                driver: card.driver,
                memory: card.memory,
                software: false,
                rank: 0,
                device: libtorch_device(burn_tch::LibTorchDevice::Cuda(index)),
            }
        })
        .collect())
}

#[cfg(not(feature = "libtorch"))]
fn libtorch_cuda() -> Found {
    Ok(Vec::new())
}

#[cfg(any(feature = "cuda", feature = "rocm"))]
fn enumerated(family: Family, devices: Vec<Device>, cards: &[crate::cards::Card]) -> Vec<Probe> {
    let with_card = |(index, device): (usize, Device)| {
        let card = cards.get(index).cloned().unwrap_or_default();
        Probe {
            spec: DeviceSpec::indexed(family, index),
            name: if card.name.is_empty() { format!("{family} device {index}") } else { card.name },
            driver: card.driver,
            memory: card.memory,
            software: false,
            rank: 0,
            device,
        }
    };
    devices.into_iter().enumerate().map(with_card).collect()
}

#[cfg(feature = "cuda")]
fn cuda() -> Found {
    let devices = Device::enumerate(burn::tensor::DeviceType::Cuda).into_iter().collect();
    Ok(enumerated(Family::Cuda, devices, &crate::cards::nvidia()))
}

#[cfg(not(feature = "cuda"))]
fn cuda() -> Found {
    Ok(Vec::new())
}

#[cfg(feature = "rocm")]
fn rocm() -> Found {
    let devices = Device::enumerate(burn::tensor::DeviceType::Rocm).into_iter().collect();
    Ok(enumerated(Family::Rocm, devices, &[]))
}

#[cfg(not(feature = "rocm"))]
fn rocm() -> Found {
    Ok(Vec::new())
}

#[cfg(feature = "wgpu")]
fn graphics(family: Family) -> Found {
    Ok(crate::graphics::probe(family))
}

#[cfg(not(feature = "wgpu"))]
fn graphics(_family: Family) -> Found {
    Ok(Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_its_first_line() {
        assert_eq!(quietly(|| 7), Ok(7));
        assert_eq!(quietly(|| -> u8 { panic!("no driver\nat somewhere") }), Err("no driver".to_owned()));
    }

    #[test]
    fn probing_any_family_answers_without_a_panic() {
        for family in Family::ALL {
            match probe(family) {
                Ok(found) => assert!(family.is_compiled() && !found.is_empty()),
                Err(reason) => assert!(!reason.is_empty() && !reason.contains('\n'), "{reason}"),
            }
        }
    }
}
