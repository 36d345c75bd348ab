use std::{fmt, str::FromStr};

use burn::tensor::{Device, FloatDType};
use serde::{Deserialize, Serialize};

use crate::BackendError;

/// The type in which matrix products and attention are computed; parameters, optimizer state and reductions stay `f32`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floating point, on every device.
    #[default]
    F32,
    /// bfloat16: the exponent of `f32` with 8 bits of significand.
    Bf16,
    /// IEEE half precision: 5 bits of exponent, so that a loss is scaled before it is differentiated.
    F16,
}

impl Precision {
    /// Every precision, widest first.
    pub const ALL: [Self; 3] = [Self::F32, Self::Bf16, Self::F16];

    /// The element type of matrix products.
    pub fn dtype(self) -> FloatDType {
        match self {
            Self::F32 => FloatDType::F32,
            Self::Bf16 => FloatDType::BF16,
            Self::F16 => FloatDType::F16,
        }
    }

    /// Whether `device` computes in this type: storage, conversion and arithmetic.
    pub fn is_supported(self, device: &Device) -> bool {
        device.supports_dtype(self.dtype())
    }
}

/// Whether this CPU multiplies numbers in bfloat16: AVX512-BF16, which every CPU with AMX has too. Without it the products of `flex`
/// in bfloat16 would be slower than in `f32`.
pub fn multiplies_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512bw");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        })
    }
}

impl FromStr for Precision {
    type Err = BackendError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|p| p.to_string() == text)
            .ok_or_else(|| BackendError::UnknownPrecision { name: text.to_owned() })
    }
}
