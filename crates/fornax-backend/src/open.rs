use burn::tensor::Device;

use crate::{BackendError, DeviceSpec, Family, Precision, peak, probe, probe::Probe};

/// Lets `--device wgpu`, `vulkan` or `metal` take a software rasteriser when set to `1`; for tests on machines without a GPU.
pub const ALLOW_SOFTWARE: &str = "FORNAX_ALLOW_SOFTWARE_GPU";

/// An open device and what people want to know of it.
#[derive(Clone, Debug)]
pub struct OpenDevice {
    /// Its full name on the command line; never `auto`.
    pub spec: DeviceSpec,
    /// The device that tensors are made on.
    pub device: Device,
    /// The adapter's own name.
    pub name: String,
    /// Driver name and version; empty where there is none.
    pub driver: String,
    /// Why this device was taken, for the log.
    pub reason: String,
    probe: Probe,
}

impl OpenDevice {
    /// Refuses a precision in which Fornax doesn't train on this device.
    pub fn check_precision(&self, precision: Precision) -> Result<(), BackendError> {
        let Some(reason) = self.probe.refusal(precision) else { return Ok(()) };
        let supported: Vec<String> = self.probe.precisions().iter().map(ToString::to_string).collect();
        let device = format!("{} ({})", self.spec, self.name);
        Err(BackendError::UnsupportedPrecision { precision, device, reason, supported: supported.join(", ") })
    }

    /// Peak dense FLOP/s of matrix products in `precision`, from the vendor's data sheet; `None` for a device not listed.
    pub fn peak_flops(&self, precision: Precision) -> Option<f64> {
        peak::flops(&self.name, precision)
    }
}

/// The order in which `auto` looks for a GPU, then for a CPU backend: fastest first.
const GPUS: [Family; 6] =
    [Family::LibTorchCuda, Family::Cuda, Family::Rocm, Family::Metal, Family::Vulkan, Family::Wgpu];
const CPUS: [Family; 2] = [Family::LibTorch, Family::Flex];

/// Opens the device that `spec` names and runs one small operation on it.
///
/// # Errors
///
/// A backend that isn't compiled in, a missing driver or GPU, an index out of range and a software rasteriser (see
/// [`ALLOW_SOFTWARE`]) each give one line.
pub fn open(spec: &DeviceSpec) -> Result<OpenDevice, BackendError> {
    open_with(spec, software_allowed())
}

/// Whether [`ALLOW_SOFTWARE`] is set: without it a software rasteriser isn't even opened, since some end the process.
pub fn software_allowed() -> bool {
    std::env::var_os(ALLOW_SOFTWARE).is_some_and(|value| value == "1")
}

pub(crate) fn open_with(spec: &DeviceSpec, software: bool) -> Result<OpenDevice, BackendError> {
    match *spec {
        DeviceSpec::Auto => auto(),
        DeviceSpec::Family { family, index } => named(family, index, software),
    }
}

fn auto() -> Result<OpenDevice, BackendError> {
    let mut passed_over = Vec::new();
    for family in GPUS.into_iter().chain(CPUS).filter(|family| family.is_compiled()) {
        match first_usable(family) {
            Ok(probe) => {
                let reason = match (family.is_cpu(), passed_over.is_empty()) {
                    (false, _) => "best GPU of this build".to_owned(),
                    (true, true) => "this build has no GPU backend".to_owned(),
                    (true, false) => format!("no usable GPU: {}", passed_over.join("; ")),
                };
                return Ok(opened(probe, reason));
            }
            Err(reason) => passed_over.push(format!("{family}: {reason}")),
        }
    }
    match passed_over.is_empty() {
        true => Err(BackendError::NoBackend),
        false => Err(BackendError::Unavailable { device: "auto".to_owned(), reason: passed_over.join("; ") }),
    }
}

fn first_usable(family: Family) -> Result<Probe, String> {
    let mut reason = "only a software rasteriser, which `auto` never takes".to_owned();
    for probe in best_first(probe::probe(family)?).into_iter().filter(|probe| !probe.software) {
        match probe.check() {
            Ok(()) => return Ok(probe),
            Err(failure) => reason = failure,
        }
    }
    Err(reason)
}

/// Drivers list devices in any order: a laptop's integrated GPU may come before its discrete one.
fn best_first(mut found: Vec<Probe>) -> Vec<Probe> {
    found.sort_by_key(|probe| probe.rank);
    found
}

fn named(family: Family, index: Option<usize>, software: bool) -> Result<OpenDevice, BackendError> {
    let device = DeviceSpec::Family { family, index }.to_string();
    if !family.is_compiled() {
        return Err(BackendError::NotCompiled { device, feature: family.feature(), compiled: compiled_features() });
    }
    let unavailable = |reason: String| BackendError::Unavailable { device: device.clone(), reason };
    let found = probe::probe(family).map_err(&unavailable)?;
    let count = found.len();
    let listed = if index.is_some() { found } else { best_first(found) };
    let probe = listed.into_iter().nth(index.unwrap_or(0)).ok_or_else(|| {
        unavailable(format!(
            "index out of range: {family} has {count} device{} (see `fornax devices`)",
            if count == 1 { ", index 0" } else { "s" }
        ))
    })?;
    if probe.software && !software {
        let reason = format!(
            "{} is a software rasteriser on the CPU, far slower than --device flex; set {ALLOW_SOFTWARE}=1 to use it anyway",
            probe.name
        );
        return Err(unavailable(reason));
    }
    probe.check().map_err(unavailable)?;
    Ok(opened(probe, "named by --device".to_owned()))
}

fn opened(probe: Probe, reason: String) -> OpenDevice {
    OpenDevice {
        spec: probe.spec,
        device: probe.device.clone(),
        name: probe.name.clone(),
        driver: probe.driver.clone(),
        reason,
        probe,
    }
}

/// The backend features of this build, comma separated, the default ones first.
pub fn compiled_features() -> String {
    use Family::{Cuda, Flex, LibTorch, Metal, Rocm, Vulkan, Wgpu};
    let families = [Flex, Wgpu, Vulkan, Metal, LibTorch, Cuda, Rocm].into_iter().filter(|family| family.is_compiled());
    let names: Vec<&str> = families.map(Family::feature).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// Makes `Device::default()`, which Burn's internals may call, a CPU device of this build, whatever features are on.
///
/// Call it first in `main`, before any thread starts.
#[allow(unsafe_code)]
pub fn pin_default_device() {
    let name = if cfg!(feature = "flex") {
        "flex"
    } else if cfg!(feature = "libtorch") {
        "tch"
    } else {
        return;
    };
    // SAFETY: the programs call this as their first statement, when no other thread can read the environment.
    unsafe { std::env::set_var("BURN_DEVICE", name) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_that_is_not_compiled_in_is_named_with_its_feature() {
        if Family::Cuda.is_compiled() {
            return;
        }
        let message = open(&"cuda:0".parse().unwrap()).unwrap_err().to_string();
        let start = "--device cuda:0 needs a build with --features cuda; this build has: ";
        assert!(message.starts_with(start) && message.contains(&compiled_features()), "{message}");
    }

    #[cfg(feature = "flex")]
    #[test]
    fn auto_takes_something_real_and_says_why() {
        let opened = open(&DeviceSpec::Auto).unwrap();
        assert_ne!(opened.spec, DeviceSpec::Auto);
        assert!(!opened.reason.is_empty());
    }

    #[cfg(feature = "flex")]
    #[test]
    fn flex_takes_the_precisions_that_the_cpu_multiplies_in() {
        let flex = open(&DeviceSpec::family(Family::Flex)).unwrap();
        flex.check_precision(Precision::F32).unwrap();
        assert_eq!(flex.check_precision(Precision::Bf16).is_ok(), crate::multiplies_bf16());
        let message = flex.check_precision(Precision::F16).unwrap_err().to_string();
        assert!(message.contains("f16") && message.contains("supported: f32"), "{message}");
    }

    #[cfg(feature = "flex")]
    #[test]
    fn the_best_kind_comes_first_and_equal_ones_stay_in_order() {
        let probe = probe::probe(Family::Flex).unwrap().remove(0);
        let listed = [(4, "llvmpipe"), (1, "integrated"), (0, "discrete 0"), (0, "discrete 1")];
        let listed = listed.map(|(rank, name)| Probe { rank, name: name.to_owned(), ..probe.clone() });
        let names: Vec<_> = best_first(listed.to_vec()).into_iter().map(|probe| probe.name).collect();
        assert_eq!(names, ["discrete 0", "discrete 1", "integrated", "llvmpipe"]);
    }

    #[cfg(feature = "wgpu")]
    #[test]
    fn an_index_out_of_range_or_a_missing_driver_is_one_line() {
        let message = open(&"wgpu:99".parse().unwrap()).unwrap_err().to_string();
        assert!(message.starts_with("--device wgpu:99: ") && !message.contains('\n'), "{message}");
    }
}
