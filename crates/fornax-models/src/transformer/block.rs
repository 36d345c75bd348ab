use burn::{
    module::Module,
    tensor::{Device, Tensor},
};
use fornax_nn::{Activation, FeedForward, KvCache, LayerNorm, MultiHeadAttention};
use fornax_ops::{AttentionMask, Context, dropout};

use super::TransformerConfig;

/// One block of a [`Transformer`](super::Transformer)'s encoder.
#[derive(Module, Debug)]
pub struct EncoderBlock {
    /// Over the source itself.
    pub attention: MultiHeadAttention,
    /// Beside attention.
    pub attention_norm: LayerNorm,
    /// With ReLU.
    pub feed_forward: FeedForward,
    /// Beside the feed-forward layer.
    pub feed_forward_norm: LayerNorm,
    #[module(skip)]
    residual: Residual,
}

impl EncoderBlock {
    pub(super) fn new(config: &TransformerConfig, device: &Device) -> Self {
        Self {
            attention: attention(config, device),
            attention_norm: norm(config, device),
            feed_forward: feed_forward(config, device),
            feed_forward_norm: norm(config, device),
            residual: Residual::new(config),
        }
    }

    pub(super) fn forward(&self, hidden: Tensor<3>, mask: &AttentionMask, context: &Context) -> Tensor<3> {
        let residual = &self.residual;
        let hidden = residual.add(hidden, &self.attention_norm, &context.child(0), |x, context| {
            self.attention.forward(x, None, mask, context)
        });
        residual.add(hidden, &self.feed_forward_norm, &context.child(1), |x, context| {
            residual.feed(&self.feed_forward, x, context)
        })
    }

    pub(super) fn with_dropout(self, dropout: f64) -> Self {
        let residual = Residual { dropout, ..self.residual };
        Self { attention: self.attention.with_dropout(dropout), residual, ..self }
    }
}

/// One block of a [`Transformer`](super::Transformer)'s decoder.
#[derive(Module, Debug)]
pub struct DecoderBlock {
    /// Over the target itself, causal.
    pub attention: MultiHeadAttention,
    /// Beside attention.
    pub attention_norm: LayerNorm,
    /// Over what the encoder made of the source.
    pub cross_attention: MultiHeadAttention,
    /// Beside attention over the source.
    pub cross_attention_norm: LayerNorm,
    /// With ReLU.
    pub feed_forward: FeedForward,
    /// Beside the feed-forward layer.
    pub feed_forward_norm: LayerNorm,
    #[module(skip)]
    residual: Residual,
}

/// The source as a [`DecoderBlock`] attends to it.
pub(super) struct Memory<'a> {
    /// Keys and values of its tokens.
    pub(super) keys_and_values: (Tensor<4>, Tensor<4>),
    /// Hides its padding.
    pub(super) mask: &'a AttentionMask,
}

impl DecoderBlock {
    pub(super) fn new(config: &TransformerConfig, device: &Device) -> Self {
        Self {
            attention: attention(config, device),
            attention_norm: norm(config, device),
            cross_attention: attention(config, device),
            cross_attention_norm: norm(config, device),
            feed_forward: feed_forward(config, device),
            feed_forward_norm: norm(config, device),
            residual: Residual::new(config),
        }
    }

    /// With a `cache`, `hidden` holds the tokens that follow those that it has seen.
    pub(super) fn forward(
        &self,
        hidden: Tensor<3>,
        memory: Memory<'_>,
        mask: &AttentionMask,
        cache: Option<&mut KvCache>,
        context: &Context,
    ) -> Tensor<3> {
        let residual = &self.residual;
        let hidden = residual.add(hidden, &self.attention_norm, &context.child(0), |x, context| {
            let (key, value) = self.attention.keys_and_values(x.clone(), context);
            let seen = match cache {
                Some(cache) => cache.append(key, value),
                None => (key, value),
            };
            self.attention.attend(x, seen, mask, None, true, context)
        });
        let hidden = residual.add(hidden, &self.cross_attention_norm, &context.child(1), |x, context| {
            self.cross_attention.attend(x, memory.keys_and_values, memory.mask, None, false, context)
        });
        residual.add(hidden, &self.feed_forward_norm, &context.child(2), |x, context| {
            residual.feed(&self.feed_forward, x, context)
        })
    }

    pub(super) fn with_dropout(self, dropout: f64) -> Self {
        let (attention, cross_attention) = (self.attention, self.cross_attention);
        let residual = Residual { dropout, ..self.residual };
        let attention = attention.with_dropout(dropout);
        Self { attention, cross_attention: cross_attention.with_dropout(dropout), residual, ..self }
    }
}

/// How the layers of a block go around the residual stream.
#[derive(Clone, Copy, Debug)]
struct Residual {
    norm_first: bool,
    dropout: f64,
}

impl Residual {
    fn new(config: &TransformerConfig) -> Self {
        Self { norm_first: config.norm_first, dropout: config.dropout }
    }

    /// `x + layer(norm(x))`, or `norm(x + layer(x))` as in the paper, with dropout on what the layer gives.
    fn add(
        &self,
        x: Tensor<3>,
        norm: &LayerNorm,
        context: &Context,
        layer: impl FnOnce(Tensor<3>, &Context) -> Tensor<3>,
    ) -> Tensor<3> {
        let input = if self.norm_first { norm.forward(x.clone()) } else { x.clone() };
        let output = dropout(layer(input, &context.child(0)), self.dropout, &context.child(1));
        if self.norm_first { x + output } else { norm.forward_sum(output, x) }
    }

    /// A feed-forward layer with dropout on its inner numbers.
    fn feed(&self, layer: &FeedForward, x: Tensor<3>, context: &Context) -> Tensor<3> {
        let inner = Activation::Relu.apply(layer.up.forward(x, context));
        layer.down.forward(dropout(inner, self.dropout, context), context)
    }
}

fn attention(config: &TransformerConfig, device: &Device) -> MultiHeadAttention {
    MultiHeadAttention::new(config.hidden_size, config.num_heads, config.dropout, true, device)
}

fn feed_forward(config: &TransformerConfig, device: &Device) -> FeedForward {
    FeedForward::new(config.hidden_size, config.intermediate_size, true, Activation::Relu, device)
}

pub(super) fn norm(config: &TransformerConfig, device: &Device) -> LayerNorm {
    LayerNorm::new(config.hidden_size, true, config.norm_eps, device)
}
