use burn::{
    module::Module,
    tensor::{Device, Int, Tensor},
};
use fornax_nn::{
    Activation, AttentionSizes, KeysAndValues, KvCache, Linear, MultiHeadAttention, RelativePositionBias, RmsNorm,
};
use fornax_ops::{AttentionMask, Context, checkpoint, dropout};

use super::T5Config;

/// The encoder of a [`T5`](super::T5).
#[derive(Module, Debug)]
pub struct T5Encoder {
    /// Of all blocks.
    pub position_bias: RelativePositionBias,
    /// The layers.
    pub blocks: Vec<T5EncoderBlock>,
    /// Applied to what the last block leaves.
    pub final_norm: RmsNorm,
    dropout: f64,
}

impl T5Encoder {
    pub(super) fn new(config: &T5Config, device: &Device) -> Self {
        Self {
            position_bias: position_bias(config, true, device),
            blocks: (0..config.num_layers).map(|_| T5EncoderBlock::new(config, device)).collect(),
            final_norm: RmsNorm::new(config.hidden_size, config.norm_eps, device),
            dropout: config.dropout,
        }
    }

    pub(super) fn with_dropout(mut self, dropout: f64) -> Self {
        self.blocks = self.blocks.into_iter().map(|block| block.with_dropout(dropout)).collect();
        Self { dropout, ..self }
    }

    /// `embedded`: `[batch, source_len, hidden_size]`, of which the first `lengths` of a row are tokens
    pub(super) fn forward(&self, embedded: Tensor<3>, lengths: Tensor<1, Int>, context: &Context) -> Tensor<3> {
        let [batch, len, _] = embedded.dims();
        let mask = AttentionMask::KeyLengths(lengths).shared(false, batch, len, len, &embedded.device());
        let bias = self.position_bias.forward(0..len, len);
        let mut hidden = dropout(embedded, self.dropout, &context.child(0));
        for (block, index) in self.blocks.iter().zip(2..) {
            let mask = mask.clone();
            hidden = checkpoint(
                block,
                (hidden, bias.clone()),
                &context.child(index),
                move |block, (hidden, bias), context| block.forward(hidden, &mask, bias, context),
            );
        }
        dropout(self.final_norm.forward(hidden), self.dropout, &context.child(1))
    }
}

/// The decoder of a [`T5`](super::T5).
#[derive(Module, Debug)]
pub struct T5Decoder {
    /// Of the attention of all blocks to the target; that to the source has none.
    pub position_bias: RelativePositionBias,
    /// The layers.
    pub blocks: Vec<T5DecoderBlock>,
    /// Applied to what the last block leaves.
    pub final_norm: RmsNorm,
    dropout: f64,
}

impl T5Decoder {
    pub(super) fn new(config: &T5Config, device: &Device) -> Self {
        Self {
            position_bias: position_bias(config, false, device),
            blocks: (0..config.num_decoder_layers()).map(|_| T5DecoderBlock::new(config, device)).collect(),
            final_norm: RmsNorm::new(config.hidden_size, config.norm_eps, device),
            dropout: config.dropout,
        }
    }

    pub(super) fn with_dropout(mut self, dropout: f64) -> Self {
        self.blocks = self.blocks.into_iter().map(|block| block.with_dropout(dropout)).collect();
        Self { dropout, ..self }
    }

    /// What each block reads of the source.
    pub(super) fn keys_and_values(&self, encoded: &Tensor<3>, context: &Context) -> Vec<KeysAndValues> {
        self.blocks.iter().map(|block| block.cross_attention.keys_and_values(encoded.clone(), context)).collect()
    }

    /// - `embedded`: `[batch, target_len, hidden_size]`
    /// - `encoded`: `[batch, source_len, hidden_size]`, of which the first `lengths` of a row are tokens
    pub(super) fn forward(
        &self,
        embedded: Tensor<3>,
        encoded: Tensor<3>,
        lengths: Tensor<1, Int>,
        context: &Context,
    ) -> Tensor<3> {
        let masks = Masks::new(&embedded, 0, encoded.dims()[1], lengths);
        let len = embedded.dims()[1];
        let bias = self.position_bias.forward(0..len, len);
        let mut hidden = dropout(embedded, self.dropout, &context.child(0));
        for (block, index) in self.blocks.iter().zip(2..) {
            let (inputs, masks) = ((hidden, bias.clone(), encoded.clone()), masks.clone());
            hidden =
                checkpoint(block, inputs, &context.child(index), move |block, (hidden, bias, encoded), context| {
                    let source = block.cross_attention.keys_and_values(encoded, context);
                    block.forward(hidden, bias, source, &masks, None, context)
                });
        }
        dropout(self.final_norm.forward(hidden), self.dropout, &context.child(1))
    }

    /// Appends target tokens to those that the caches, one a block, have seen.
    ///
    /// - `embedded`: `[batch, new, hidden_size]`
    /// - `source`: one a block, of which the first `lengths` of a row are tokens
    pub(super) fn forward_cached(
        &self,
        embedded: Tensor<3>,
        source: &[KeysAndValues],
        lengths: Tensor<1, Int>,
        caches: &mut [KvCache],
        context: &Context,
    ) -> Tensor<3> {
        let seen = caches.first().map_or(0, KvCache::len);
        let source_len = source.first().map_or(0, |(key, _)| key.dims()[2]);
        let masks = Masks::new(&embedded, seen, source_len, lengths);
        let len = seen + embedded.dims()[1];
        let bias = self.position_bias.forward(seen..len, len);
        let mut hidden = dropout(embedded, self.dropout, &context.child(0));
        for (((block, source), cache), index) in self.blocks.iter().zip(source).zip(caches).zip(2..) {
            hidden = block.forward(hidden, bias.clone(), source.clone(), &masks, Some(cache), &context.child(index));
        }
        dropout(self.final_norm.forward(hidden), self.dropout, &context.child(1))
    }
}

/// What a decoder's tokens may attend to.
#[derive(Clone)]
struct Masks {
    target: AttentionMask,
    source: AttentionMask,
}

impl Masks {
    /// Of the tokens of `embedded`, which follow `seen` others.
    fn new(embedded: &Tensor<3>, seen: usize, source_len: usize, lengths: Tensor<1, Int>) -> Self {
        let ([batch, new, _], device) = (embedded.dims(), embedded.device());
        Self {
            target: AttentionMask::None.shared(true, batch, new, seen + new, &device),
            source: AttentionMask::KeyLengths(lengths).shared(false, batch, new, source_len, &device),
        }
    }
}

/// One block of a [`T5Encoder`].
#[derive(Module, Debug)]
pub struct T5EncoderBlock {
    /// Before attention.
    pub attention_norm: RmsNorm,
    /// Of all source tokens to all.
    pub attention: MultiHeadAttention,
    /// With a norm before it.
    pub feed_forward: T5FeedForward,
    dropout: f64,
}

impl T5EncoderBlock {
    fn new(config: &T5Config, device: &Device) -> Self {
        Self {
            attention_norm: RmsNorm::new(config.hidden_size, config.norm_eps, device),
            attention: attention(config, device),
            feed_forward: T5FeedForward::new(config, device),
            dropout: config.dropout,
        }
    }

    fn with_dropout(self, dropout: f64) -> Self {
        let (attention, feed_forward) = (self.attention.with_dropout(dropout), self.feed_forward.with_dropout(dropout));
        Self { attention, feed_forward, dropout, ..self }
    }

    fn forward(&self, hidden: Tensor<3>, mask: &AttentionMask, bias: Tensor<4>, context: &Context) -> Tensor<3> {
        let normed = self.attention_norm.forward(hidden.clone());
        let keys_and_values = self.attention.keys_and_values(normed.clone(), context);
        let attended = self.attention.attend(normed, keys_and_values, mask, Some(bias), false, &context.child(0));
        let hidden = hidden + dropout(attended, self.dropout, &context.child(1));
        self.feed_forward.forward(hidden, context)
    }
}

/// One block of a [`T5Decoder`].
#[derive(Module, Debug)]
pub struct T5DecoderBlock {
    /// Before attention to the target.
    pub attention_norm: RmsNorm,
    /// Of target tokens to themselves and earlier ones.
    pub attention: MultiHeadAttention,
    /// Before attention to the source.
    pub cross_attention_norm: RmsNorm,
    /// Of target tokens to all source tokens.
    pub cross_attention: MultiHeadAttention,
    /// With a norm before it.
    pub feed_forward: T5FeedForward,
    dropout: f64,
}

impl T5DecoderBlock {
    fn new(config: &T5Config, device: &Device) -> Self {
        let norm = || RmsNorm::new(config.hidden_size, config.norm_eps, device);
        Self {
            attention_norm: norm(),
            attention: attention(config, device),
            cross_attention_norm: norm(),
            cross_attention: attention(config, device),
            feed_forward: T5FeedForward::new(config, device),
            dropout: config.dropout,
        }
    }

    fn with_dropout(self, dropout: f64) -> Self {
        let attention = self.attention.with_dropout(dropout);
        let cross_attention = self.cross_attention.with_dropout(dropout);
        let feed_forward = self.feed_forward.with_dropout(dropout);
        Self { attention, cross_attention, feed_forward, dropout, ..self }
    }

    /// With a `cache`, `hidden` holds the tokens that follow those that it has seen.
    fn forward(
        &self,
        hidden: Tensor<3>,
        bias: Tensor<4>,
        source: KeysAndValues,
        masks: &Masks,
        cache: Option<&mut KvCache>,
        context: &Context,
    ) -> Tensor<3> {
        let hidden = self.attend_to_target(hidden, &masks.target, bias, cache, context);
        let hidden = self.attend_to_source(hidden, source, &masks.source, context);
        self.feed_forward.forward(hidden, context)
    }

    fn attend_to_target(
        &self,
        hidden: Tensor<3>,
        mask: &AttentionMask,
        bias: Tensor<4>,
        cache: Option<&mut KvCache>,
        context: &Context,
    ) -> Tensor<3> {
        let normed = self.attention_norm.forward(hidden.clone());
        let (key, value) = self.attention.keys_and_values(normed.clone(), context);
        let keys_and_values = match cache {
            Some(cache) => cache.append(key, value),
            None => (key, value),
        };
        let attended = self.attention.attend(normed, keys_and_values, mask, Some(bias), true, &context.child(0));
        hidden + dropout(attended, self.dropout, &context.child(1))
    }

    fn attend_to_source(
        &self,
        hidden: Tensor<3>,
        source: KeysAndValues,
        mask: &AttentionMask,
        context: &Context,
    ) -> Tensor<3> {
        let normed = self.cross_attention_norm.forward(hidden.clone());
        let attended = self.cross_attention.attend(normed, source, mask, None, false, &context.child(4));
        hidden + dropout(attended, self.dropout, &context.child(5))
    }
}

/// A feed-forward layer with the norm before it and its residual connection: `down(activation(up(x)))`, or
/// `down(activation(gate(x)) · up(x))` (Shazeer 2020), with dropout on what `down` reads.
#[derive(Module, Debug)]
pub struct T5FeedForward {
    /// Before the layer.
    pub norm: RmsNorm,
    /// `hidden_size` to `intermediate_size`; in version 1.1
    pub gate: Option<Linear>,
    /// `hidden_size` to `intermediate_size`
    pub up: Linear,
    /// `intermediate_size` to `hidden_size`
    pub down: Linear,
    #[module(skip)]
    activation: Activation,
    dropout: f64,
}

impl T5FeedForward {
    fn new(config: &T5Config, device: &Device) -> Self {
        let &T5Config { hidden_size, intermediate_size, activation, dropout, .. } = config;
        let widen = || Linear::new(hidden_size, intermediate_size, false, device);
        Self {
            norm: RmsNorm::new(hidden_size, config.norm_eps, device),
            gate: config.gated.then(widen),
            up: widen(),
            down: Linear::new(intermediate_size, hidden_size, false, device),
            activation,
            dropout,
        }
    }

    fn with_dropout(self, dropout: f64) -> Self {
        Self { dropout, ..self }
    }

    fn forward(&self, hidden: Tensor<3>, context: &Context) -> Tensor<3> {
        let normed = self.norm.forward(hidden.clone());
        let intermediate = match &self.gate {
            Some(gate) => {
                let gate = gate.forward(normed.clone(), context);
                self.activation.gate(gate, self.up.forward(normed, context))
            }
            None => self.activation.apply(self.up.forward(normed, context)),
        };
        let fed = self.down.forward(dropout(intermediate, self.dropout, &context.child(2)), context);
        hidden + dropout(fed, self.dropout, &context.child(3))
    }
}

/// Without biases, its scores not scaled.
fn attention(config: &T5Config, device: &Device) -> MultiHeadAttention {
    let &T5Config { hidden_size, num_heads, head_dim, dropout, .. } = config;
    let sizes = AttentionSizes { hidden_size, num_heads, head_dim, scale: 1.0 };
    MultiHeadAttention::with_sizes(sizes, dropout, false, device)
}

fn position_bias(config: &T5Config, bidirectional: bool, device: &Device) -> RelativePositionBias {
    let &T5Config { relative_buckets, num_heads, relative_max_distance, .. } = config;
    RelativePositionBias::new(relative_buckets, num_heads, relative_max_distance, bidirectional, device)
}
