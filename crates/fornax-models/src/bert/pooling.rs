use burn::tensor::{Int, IntDType, Tensor};
use fornax_ops::AttentionMask;
use serde::{Deserialize, Serialize};

/// What a classification head sees of a sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The first token through a dense layer, as published.
    #[default]
    Cls,
    /// The mean of all tokens (Reimers and Gurevych 2019), without a dense layer.
    Mean,
}

/// The mean over the tokens of each row, padding left out (Reimers and Gurevych 2019).
///
/// # Shapes
///
/// - `hidden`: `[batch, seq, hidden_size]`
/// - `mask`: that of the model's `forward`: none, lengths, or segments, of which all but 0 are tokens
/// - result: `[batch, hidden_size]`; zero for a row without tokens
///
/// # Panics
///
/// When the mask doesn't have these sizes, or is one that the layers of a model share, which no longer tells tokens from
/// padding.
pub fn mean_pool(hidden: Tensor<3>, mask: &AttentionMask) -> Tensor<2> {
    let [batch, seq, _] = hidden.dims();
    assert!(
        !matches!(mask, AttentionMask::Shared(_)),
        "mean pooling: a mask that layers share doesn't tell tokens from padding"
    );
    let is_token = match mask {
        AttentionMask::None | AttentionMask::Shared(_) => return hidden.mean_dim(1).squeeze_dim(1),
        AttentionMask::KeyLengths(lengths) => {
            assert_eq!(lengths.dims(), [batch], "mean pooling: lengths are one a row");
            let positions = Tensor::<1, Int>::arange(0..seq as i64, &lengths.device());
            let positions = positions.cast(IntDType::from(lengths.dtype())).unsqueeze::<2>();
            positions.expand([batch, seq]).lower(lengths.clone().unsqueeze_dim::<2>(1).expand([batch, seq]))
        }
        AttentionMask::Segments { query, .. } => {
            assert_eq!(query.dims(), [batch, seq], "mean pooling: segments of the tokens");
            query.clone().not_equal_elem(0)
        }
    };
    let is_token = is_token.float().unsqueeze_dim::<3>(2);
    let count = is_token.clone().sum_dim(1).clamp_min(1.0);
    ((hidden * is_token).sum_dim(1) / count).squeeze_dim(1)
}
