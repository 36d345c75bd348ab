use std::sync::{Arc, OnceLock};

use burn::{
    backend::Dispatch,
    tensor::{Device, Int, IntDType, Tensor},
};

use crate::{
    fused::{KeyMask, is_on_cube, is_on_host},
    host::attention::Mask,
};

/// What an additive mask adds to a forbidden score. Finite, because shader languages don't promise arithmetic with
/// infinities, and large enough to absorb any score; a few of them still add up to a finite `f32`.
const FORBIDDEN: f32 = -1e30;

/// Which keys a query may attend to, apart from the causal flag of [`AttentionOptions`](crate::AttentionOptions).
// A batch has one mask, passed by reference: its size costs nothing, and boxes would burden whoever makes one.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug)]
pub enum AttentionMask {
    /// All of them.
    None,
    /// The first `length` keys of each row, `[batch]`: the rest is padding.
    KeyLengths(Tensor<1, Int>),
    /// Keys of the query's own segment; segment 0 is padding, which nothing attends to, itself included.
    ///
    /// One type for packed documents (segments 1, 2, ...) and for padding on either side or in gaps (segment 1).
    Segments {
        /// `[batch, query_len]`
        query: Tensor<2, Int>,
        /// `[batch, key_len]`
        key: Tensor<2, Int>,
    },
    /// A mask that the layers of a model share, made by [`shared`](Self::shared).
    Shared(SharedMask),
}

/// A mask together with the causal flag that it was made for, built once.
#[derive(Clone, Debug)]
pub struct SharedMask {
    causal: bool,
    built: Built,
    /// `[batch, query_len, key_len]`
    shape: [usize; 3],
}

/// A mask in the form that the device's attention wants.
// As above: one a batch.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug)]
enum Built {
    /// Broadcastable to the shape of the scores, with an axis for heads; none if nothing is forbidden.
    Additive(Option<Tensor<4>>),
    /// For the fused form on hosts.
    OnHost(Arc<Mask>),
    /// For the fused form on Cube devices, which reads the mask as it is. The reference form builds its own when it is asked first.
    OnCube { mask: Box<AttentionMask>, additive: OnceLock<Option<Tensor<4>>> },
}

impl AttentionMask {
    /// The same mask, built here instead of in each layer that it is given to. All of them must have these sizes and this
    /// causal flag.
    ///
    /// # Panics
    ///
    /// When the mask doesn't have these sizes, or when `causal` is set with more queries than keys.
    #[must_use]
    pub fn shared(
        &self,
        causal: bool,
        batch: usize,
        query_len: usize,
        key_len: usize,
        device: &Device,
    ) -> AttentionMask {
        let shape = [batch, query_len, key_len];
        let built = if is_on_host(device) {
            Built::OnHost(self.on_host(causal, shape))
        } else if is_on_cube(device) {
            self.check(causal, shape);
            Built::OnCube { mask: Box::new(self.clone()), additive: OnceLock::new() }
        } else {
            Built::Additive(self.additive(causal, shape, device))
        };
        Self::Shared(SharedMask { causal, built, shape })
    }

    /// # Panics
    ///
    /// When it doesn't fit.
    fn check(&self, causal: bool, shape: [usize; 3]) {
        let [batch, query_len, key_len] = shape;
        assert!(!causal || query_len <= key_len, "attention: causal with {query_len} queries and {key_len} keys");
        match self {
            Self::None => {}
            Self::KeyLengths(lengths) => {
                assert_eq!(lengths.dims(), [batch], "attention: key lengths are one a row");
            }
            Self::Segments { query, key } => {
                assert_eq!(query.dims(), [batch, query_len], "attention: segments of the queries");
                assert_eq!(key.dims(), [batch, key_len], "attention: segments of the keys");
            }
            Self::Shared(shared) => {
                assert_eq!(shared.shape, shape, "attention: sizes of the shared mask");
                assert_eq!(shared.causal, causal, "attention: causal flag of the shared mask");
            }
        }
    }

    /// Whether some keys may be hidden apart from later ones.
    pub(crate) fn hides(&self) -> bool {
        match self {
            Self::None => false,
            Self::KeyLengths(_) | Self::Segments { .. } => true,
            Self::Shared(shared) => match &shared.built {
                Built::OnCube { mask, .. } => mask.hides(),
                Built::Additive(_) | Built::OnHost(_) => true,
            },
        }
    }

    /// The mask for the fused form on Cube devices.
    pub(crate) fn on_cube(&self, causal: bool, shape: [usize; 3]) -> KeyMask<Dispatch> {
        self.check(causal, shape);
        match self {
            Self::None => KeyMask::None,
            Self::KeyLengths(lengths) => KeyMask::Some(lengths.clone().cast(IntDType::I32).into_dispatch()),
            Self::Segments { query, key } => {
                let [query, key] = [query, key].map(|ids| ids.clone().cast(IntDType::I32));
                KeyMask::Some(Tensor::cat(vec![query, key], 1).into_dispatch())
            }
            Self::Shared(shared) => match &shared.built {
                Built::OnCube { mask, .. } => mask.on_cube(causal, shape),
                Built::Additive(_) | Built::OnHost(_) => KeyMask::None,
            },
        }
    }

    /// The mask for the fused form on hosts.
    pub(crate) fn on_host(&self, causal: bool, shape: [usize; 3]) -> Arc<Mask> {
        self.check(causal, shape);
        let mut mask = Mask { causal, ..Mask::default() };
        match self {
            Self::None => {}
            Self::KeyLengths(lengths) => {
                let length = |length: i64| usize::try_from(length).unwrap_or(0).min(shape[2]);
                mask.lengths = Some(lengths.clone().into_data().iter::<i64>().map(length).collect());
            }
            Self::Segments { query, key } => {
                mask.segments = Some([query, key].map(|ids| ids.clone().into_data().iter::<i64>().collect()));
            }
            Self::Shared(shared) => {
                if let Built::OnHost(mask) = &shared.built {
                    return mask.clone();
                }
            }
        }
        Arc::new(mask)
    }

    /// What is added to the scores, broadcastable to `[batch, heads, query_len, key_len]`; none if nothing is forbidden.
    ///
    /// Built without the head axis and without the batch axis where that is possible, so it costs next to nothing beside
    /// the scores.
    pub(crate) fn additive(&self, causal: bool, shape: [usize; 3], device: &Device) -> Option<Tensor<4>> {
        self.check(causal, shape);
        if let Self::Shared(mask) = self {
            return match &mask.built {
                Built::Additive(additive) => additive.clone(),
                Built::OnHost(_) => None,
                Built::OnCube { mask: own, additive } => {
                    additive.get_or_init(|| own.additive(causal, mask.shape, device)).clone()
                }
            };
        }
        let [_, query_len, key_len] = shape;
        let causal = (causal && query_len > 1).then(|| causal_mask(query_len, key_len, device));
        let own = match self {
            Self::None | Self::Shared(_) => None,
            Self::KeyLengths(lengths) => Some(length_mask(lengths.clone(), key_len)),
            Self::Segments { query, key } => Some(segment_mask(query.clone(), key.clone())),
        };
        match (causal, own) {
            (Some(causal), Some(own)) => Some(causal + own),
            (causal, own) => causal.or(own),
        }
    }
}

/// `[1, 1, query_len, key_len]`: query `i` sees the keys up to `i + key_len - query_len`.
fn causal_mask(query_len: usize, key_len: usize, device: &Device) -> Tensor<4> {
    let shift = (key_len - query_len) as i64;
    let last = Tensor::<1, Int>::arange(shift..shift + query_len as i64, device).reshape([1, 1, query_len, 1]);
    let keys = Tensor::<1, Int>::arange(0..key_len as i64, device).reshape([1, 1, 1, key_len]);
    let shape = [1, 1, query_len, key_len];
    keys.expand(shape).greater(last.expand(shape)).float().mul_scalar(FORBIDDEN)
}

/// `[batch, 1, 1, key_len]`.
fn length_mask(lengths: Tensor<1, Int>, key_len: usize) -> Tensor<4> {
    let batch = lengths.dims()[0];
    let shape = [batch, 1, 1, key_len];
    let dtype = IntDType::from(lengths.dtype());
    let keys = Tensor::<1, Int>::arange(0..key_len as i64, &lengths.device()).cast(dtype);
    let keys = keys.reshape([1, 1, 1, key_len]).expand(shape);
    let lengths = lengths.reshape([batch, 1, 1, 1]).expand(shape);
    keys.greater_equal(lengths).float().mul_scalar(FORBIDDEN)
}

/// `[batch, 1, query_len, key_len]`.
fn segment_mask(query: Tensor<2, Int>, key: Tensor<2, Int>) -> Tensor<4> {
    let ([batch, query_len], [_, key_len]) = (query.dims(), key.dims());
    let shape = [batch, 1, query_len, key_len];
    let key = key.cast(IntDType::from(query.dtype())).reshape([batch, 1, 1, key_len]);
    let padding = key.clone().equal_elem(0).float().mul_scalar(FORBIDDEN);
    let query = query.reshape([batch, 1, query_len, 1]);
    let other = query.expand(shape).not_equal(key.expand(shape)).float().mul_scalar(FORBIDDEN);
    other + padding
}
