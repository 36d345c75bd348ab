use burn::tensor::{Device, Int, IntDType, Tensor};

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
    /// Broadcastable to `shape`, with an axis for heads; none if nothing is forbidden.
    additive: Option<Tensor<4>>,
    /// `[batch, query_len, key_len]`
    shape: [usize; 3],
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
        Self::Shared(SharedMask { causal, additive: self.additive(causal, shape, device), shape })
    }

    /// What is added to the scores, broadcastable to `[batch, heads, query_len, key_len]`; none if nothing is forbidden.
    ///
    /// Built without the head axis and without the batch axis where that is possible, so it costs next to nothing beside
    /// the scores.
    pub(crate) fn additive(
        &self,
        causal: bool,
        [batch, query_len, key_len]: [usize; 3],
        device: &Device,
    ) -> Option<Tensor<4>> {
        if let Self::Shared(mask) = self {
            assert_eq!(mask.shape, [batch, query_len, key_len], "attention: sizes of the shared mask");
            assert_eq!(mask.causal, causal, "attention: causal flag of the shared mask");
            return mask.additive.clone();
        }
        let causal = (causal && query_len > 1).then(|| causal_mask(query_len, key_len, device));
        let own = match self {
            Self::None | Self::Shared(_) => None,
            Self::KeyLengths(lengths) => {
                assert_eq!(lengths.dims(), [batch], "attention: key lengths are one a row");
                Some(length_mask(lengths.clone(), key_len))
            }
            Self::Segments { query, key } => {
                assert_eq!(query.dims(), [batch, query_len], "attention: segments of the queries");
                assert_eq!(key.dims(), [batch, key_len], "attention: segments of the keys");
                Some(segment_mask(query.clone(), key.clone()))
            }
        };
        match (causal, own) {
            (Some(causal), Some(own)) => Some(causal + own),
            (causal, own) => causal.or(own),
        }
    }
}

/// `[1, 1, query_len, key_len]`: query `i` sees the keys up to `i + key_len - query_len`.
fn causal_mask(query_len: usize, key_len: usize, device: &Device) -> Tensor<4> {
    assert!(query_len <= key_len, "attention: causal with {query_len} queries and {key_len} keys");
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
