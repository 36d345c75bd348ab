use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::BackendError;

/// A way to reach hardware: a backend together with the interface it uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// Burn's pure-Rust CPU backend.
    Flex,
    /// Any GPU through wgpu, which picks the graphics interface of the platform.
    Wgpu,
    /// A GPU through Vulkan.
    Vulkan,
    /// A GPU through Metal.
    Metal,
    /// The CPU through LibTorch.
    LibTorch,
    /// An NVIDIA GPU through LibTorch.
    LibTorchCuda,
    /// An NVIDIA GPU through CUDA.
    Cuda,
    /// An AMD GPU through ROCm.
    Rocm,
}

impl Family {
    /// Every family, in the order in which `fornax devices` lists them.
    pub const ALL: [Self; 8] =
        [Self::Flex, Self::LibTorch, Self::LibTorchCuda, Self::Cuda, Self::Rocm, Self::Metal, Self::Vulkan, Self::Wgpu];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flex => "flex",
            Self::Wgpu => "wgpu",
            Self::Vulkan => "vulkan",
            Self::Metal => "metal",
            Self::LibTorch => "libtorch",
            Self::LibTorchCuda => "libtorch-cuda",
            Self::Cuda => "cuda",
            Self::Rocm => "rocm",
        }
    }

    /// The cargo feature that compiles this family in.
    pub fn feature(self) -> &'static str {
        match self {
            Self::LibTorch | Self::LibTorchCuda => "libtorch",
            other => other.name(),
        }
    }

    /// Whether this build contains the family.
    pub fn is_compiled(self) -> bool {
        match self {
            Self::Flex => cfg!(feature = "flex"),
            Self::Wgpu => cfg!(feature = "wgpu"),
            Self::Vulkan => cfg!(feature = "vulkan"),
            Self::Metal => cfg!(feature = "metal"),
            Self::LibTorch | Self::LibTorchCuda => cfg!(feature = "libtorch"),
            Self::Cuda => cfg!(feature = "cuda"),
            Self::Rocm => cfg!(feature = "rocm"),
        }
    }

    /// Whether the family computes on the CPU, so that an index makes no sense.
    pub fn is_cpu(self) -> bool {
        matches!(self, Self::Flex | Self::LibTorch)
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What `--device` says: `auto`, or a family with the index of one of its devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DeviceSpec {
    /// The best real GPU that this build can use, else the best CPU backend.
    #[default]
    Auto,
    /// A device of one family; without an index, the family's best.
    Family {
        /// The family.
        family: Family,
        /// Its position in the family's list, from 0.
        index: Option<usize>,
    },
}

impl DeviceSpec {
    /// The family's best device.
    pub fn family(family: Family) -> Self {
        Self::Family { family, index: None }
    }

    /// The device at `index` of the family.
    pub fn indexed(family: Family, index: usize) -> Self {
        Self::Family { family, index: Some(index) }
    }
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Family { family, index: None } => write!(f, "{family}"),
            Self::Family { family, index: Some(index) } => write!(f, "{family}:{index}"),
        }
    }
}

impl FromStr for DeviceSpec {
    type Err = BackendError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unknown = || BackendError::UnknownDevice { name: text.to_owned() };
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let (name, index) = match text.split_once(':') {
            Some((name, index)) => (name, Some(index.parse().map_err(|_| unknown())?)),
            None => (text, None),
        };
        let family = Family::ALL.into_iter().find(|family| family.name() == name).ok_or_else(unknown)?;
        if family.is_cpu() && index.is_some() {
            return Err(BackendError::IndexOnCpu { family });
        }
        Ok(Self::Family { family, index })
    }
}

impl Serialize for DeviceSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DeviceSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_the_command_line_parses_and_prints_back() {
        for text in ["auto", "flex", "wgpu", "wgpu:1", "vulkan", "vulkan:0", "metal:2", "libtorch", "libtorch-cuda:3"] {
            assert_eq!(text.parse::<DeviceSpec>().unwrap().to_string(), text);
        }
        for text in ["cuda", "cuda:7", "rocm:0"] {
            assert_eq!(text.parse::<DeviceSpec>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_device_is_refused_with_the_names_that_are() {
        for text in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "webgpu", "Flex"] {
            let message = text.parse::<DeviceSpec>().unwrap_err().to_string();
            assert!(message.contains(&format!("`{text}`")) && message.contains("libtorch-cuda[:i]"), "{message}");
        }
        assert!("flex:0".parse::<DeviceSpec>().unwrap_err().to_string().contains("takes no index"));
    }
}
