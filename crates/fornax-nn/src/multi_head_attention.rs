use burn::{
    module::Module,
    tensor::{Device, Tensor},
};
use fornax_ops::{AttentionMask, AttentionOptions, Context, attention};

use crate::Linear;

/// The sizes of a [`MultiHeadAttention`] whose heads need not fill the residual stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionSizes {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Number of heads.
    pub num_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// What `query · key` is multiplied with: `1 / √head_dim` in most models, 1 in T5.
    pub scale: f32,
}

/// Multi-head attention with a projection each for query, key and value (Vaswani et al. 2017), over the tokens themselves
/// or over those of another sequence.
#[derive(Module, Debug)]
pub struct MultiHeadAttention {
    /// `[hidden_size, num_heads * head_dim]`, its columns ordered by head, as of `key` and `value`
    pub query: Linear,
    /// `[hidden_size, num_heads * head_dim]`
    pub key: Linear,
    /// `[hidden_size, num_heads * head_dim]`
    pub value: Linear,
    /// `[num_heads * head_dim, hidden_size]`
    pub output: Linear,
    num_heads: usize,
    scale: f32,
    dropout: f64,
}

/// What queries attend to: keys and values, each `[batch, num_heads, key_len, head_dim]`.
pub type KeysAndValues = (Tensor<4>, Tensor<4>);

impl MultiHeadAttention {
    /// All projections zero, with biases if `bias`. `dropout` is the probability that an attention weight is dropped.
    ///
    /// # Panics
    ///
    /// When `num_heads` doesn't divide `hidden_size`.
    pub fn new(hidden_size: usize, num_heads: usize, dropout: f64, bias: bool, device: &Device) -> Self {
        assert!(
            num_heads > 0 && hidden_size.is_multiple_of(num_heads),
            "multi-head attention: {hidden_size} over {num_heads} heads"
        );
        let head_dim = hidden_size / num_heads;
        let sizes = AttentionSizes { hidden_size, num_heads, head_dim, scale: (head_dim as f32).powf(-0.5) };
        Self::with_sizes(sizes, dropout, bias, device)
    }

    /// As [`new`](Self::new), with heads of any width and another scale.
    pub fn with_sizes(sizes: AttentionSizes, dropout: f64, bias: bool, device: &Device) -> Self {
        let AttentionSizes { hidden_size, num_heads, head_dim, scale } = sizes;
        let inner_size = num_heads * head_dim;
        let projection = || Linear::new(hidden_size, inner_size, bias, device);
        let output = Linear::new(inner_size, hidden_size, bias, device);
        Self { query: projection(), key: projection(), value: projection(), output, num_heads, scale, dropout }
    }

    /// The same layer with another probability of dropout.
    #[must_use]
    pub fn with_dropout(self, dropout: f64) -> Self {
        Self { dropout, ..self }
    }

    /// The tokens of `hidden` attend to those of `memory`, or to each other where there is none, later ones included.
    ///
    /// # Shapes
    ///
    /// - `hidden` and result: `[batch, seq, hidden_size]`
    /// - `memory`: `[batch, memory_len, hidden_size]`
    /// - `mask`: over `seq` queries and as many keys as there are tokens attended to
    pub fn forward(
        &self,
        hidden: Tensor<3>,
        memory: Option<Tensor<3>>,
        mask: &AttentionMask,
        context: &Context,
    ) -> Tensor<3> {
        let keys_and_values = self.keys_and_values(memory.unwrap_or_else(|| hidden.clone()), context);
        self.attend(hidden, keys_and_values, mask, None, false, context)
    }

    /// What [`attend`](Self::attend) reads of the tokens of `memory`: of another sequence once for all queries, of new tokens
    /// for a [`KvCache`](crate::KvCache).
    ///
    /// # Shapes
    ///
    /// - `memory`: `[batch, memory_len, hidden_size]`
    pub fn keys_and_values(&self, memory: Tensor<3>, context: &Context) -> KeysAndValues {
        let key = self.key.forward(memory.clone(), context);
        let value = self.value.forward(memory, context);
        (self.heads(key), self.heads(value))
    }

    /// The tokens of `hidden` attend to what [`keys_and_values`](Self::keys_and_values) gave.
    ///
    /// # Shapes
    ///
    /// - `hidden` and result: `[batch, seq, hidden_size]`
    /// - `mask`: over `seq` queries and `key_len` keys
    /// - `bias`: added to the scores, broadcastable to `[batch, num_heads, seq, key_len]`
    /// - `causal`: no query sees later keys; the last query stands at the last key
    pub fn attend(
        &self,
        hidden: Tensor<3>,
        (key, value): KeysAndValues,
        mask: &AttentionMask,
        bias: Option<Tensor<4>>,
        causal: bool,
        context: &Context,
    ) -> Tensor<3> {
        let [batch, seq, _] = hidden.dims();
        let query = self.heads(self.query.forward(hidden, context));
        let inner_size = self.num_heads * query.dims()[3];
        let options = AttentionOptions { causal, scale: self.scale, dropout: self.dropout };
        let attended = attention(query, key, value, mask, bias, &options, context);
        let merged = attended.swap_dims(1, 2).reshape([batch, seq, inner_size]);
        self.output.forward(merged, context)
    }

    /// `[batch, len, num_heads * head_dim]` to `[batch, num_heads, len, head_dim]`
    fn heads(&self, x: Tensor<3>) -> Tensor<4> {
        let [batch, len, inner_size] = x.dims();
        x.reshape([batch, len, self.num_heads, inner_size / self.num_heads]).swap_dims(1, 2)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Int, TensorData};
    use fornax_backend::{Precision, test_device};
    use fornax_ops::RandomKey;

    use super::*;
    use crate::{Init, initialise, parameters};

    fn layer(dropout: f64) -> MultiHeadAttention {
        let layer = MultiHeadAttention::new(12, 3, dropout, true, &test_device());
        initialise(layer, 1, |_, _| Init::Normal { mean: 0.0, std: 0.4 })
    }

    fn input(batch: usize, seq: usize, step: usize) -> Tensor<3> {
        let values: Vec<f32> = (0..batch * seq * 12).map(|i| ((i * step) as f32).sin()).collect();
        Tensor::from_data(TensorData::new(values, [batch, seq, 12]), &test_device())
    }

    fn context() -> Context {
        Context::evaluation(Precision::F32)
    }

    fn difference(a: Tensor<3>, b: Tensor<3>) -> f32 {
        assert_eq!(a.dims(), b.dims());
        (a - b).abs().max().into_scalar::<f32>()
    }

    #[test]
    fn parameters_are_named_by_their_place() {
        let found: Vec<_> = parameters(&layer(0.0)).into_iter().map(|p| (p.path, p.shape)).collect();
        let expected = ["query", "key", "value", "output"]
            .into_iter()
            .flat_map(|name| [(format!("{name}.weight"), vec![12, 12]), (format!("{name}.bias"), vec![12])]);
        assert_eq!(found, expected.collect::<Vec<_>>());
    }

    /// One head at a time with nothing but matrix products and a softmax.
    fn separate_heads(layer: &MultiHeadAttention, x: &Tensor<3>, memory: &Tensor<3>) -> Tensor<3> {
        let project = |linear: &Linear, x: &Tensor<3>| linear.forward(x.clone(), &context());
        let (query, key, value) =
            (project(&layer.query, x), project(&layer.key, memory), project(&layer.value, memory));
        let head = |h: usize| {
            let part = |x: &Tensor<3>| x.clone().narrow(2, h * 4, 4);
            let scores = part(&query).matmul(part(&key).transpose()).div_scalar(2.0);
            burn::tensor::activation::softmax(scores, 2).matmul(part(&value))
        };
        project(&layer.output, &Tensor::cat((0..3).map(head).collect(), 2))
    }

    #[test]
    fn equals_separate_heads_over_itself_and_over_a_memory() {
        let (layer, x, memory) = (layer(0.0), input(2, 5, 37), input(2, 3, 11));
        let itself = layer.forward(x.clone(), None, &AttentionMask::None, &context());
        assert!(difference(itself, separate_heads(&layer, &x, &x)) < 1e-5);
        let across = layer.forward(x.clone(), Some(memory.clone()), &AttentionMask::None, &context());
        assert!(difference(across, separate_heads(&layer, &x, &memory)) < 1e-5);
    }

    #[test]
    fn masked_memory_is_as_if_it_were_not_there() {
        let (layer, x, memory) = (layer(0.0), input(1, 4, 37), input(1, 6, 11));
        let lengths = Tensor::<1, Int>::from_data(TensorData::from([2i64]), &test_device());
        let masked = layer.forward(x.clone(), Some(memory.clone()), &AttentionMask::KeyLengths(lengths), &context());
        let short = layer.forward(x, Some(memory.narrow(1, 0, 2)), &AttentionMask::None, &context());
        assert!(difference(masked, short) < 1e-5);
    }

    /// Heads of 5 in a stream of 12, scaled by 1, with a bias and later keys hidden: as queries, keys and values by hand.
    #[test]
    fn heads_may_be_of_any_width_and_scores_biased() {
        let sizes = AttentionSizes { hidden_size: 12, num_heads: 3, head_dim: 5, scale: 1.0 };
        let layer = MultiHeadAttention::with_sizes(sizes, 0.0, false, &test_device());
        let layer = initialise(layer, 1, |_, _| Init::Normal { mean: 0.0, std: 0.4 });
        let x = input(1, 4, 37);
        let bias: Vec<f32> = (0..3 * 4 * 4).map(|i| ((i * 13) as f32).cos()).collect();
        let bias = Tensor::<4>::from_data(TensorData::new(bias, [1, 3, 4, 4]), &test_device());
        let project = |linear: &Linear| linear.forward(x.clone(), &context());
        let (query, key, value) = (project(&layer.query), project(&layer.key), project(&layer.value));
        let later: Vec<f32> = (0..16).map(|i| if i % 4 > i / 4 { -1e30 } else { 0.0 }).collect();
        let later = Tensor::<3>::from_data(TensorData::new(later, [1, 4, 4]), &test_device());
        let head = |h: usize| {
            let part = |x: &Tensor<3>| x.clone().narrow(2, h * 5, 5);
            let bias = bias.clone().narrow(1, h, 1).squeeze_dim::<3>(1);
            let scores = part(&query).matmul(part(&key).transpose()) + bias + later.clone();
            burn::tensor::activation::softmax(scores, 2).matmul(part(&value))
        };
        let expected = layer.output.forward(Tensor::cat((0..3).map(head).collect(), 2), &context());
        let keys_and_values = layer.keys_and_values(x.clone(), &context());
        let found = layer.attend(x.clone(), keys_and_values, &AttentionMask::None, Some(bias), true, &context());
        assert!(difference(found, expected) < 1e-5);
    }

    #[test]
    fn dropout_is_on_in_training_alone() {
        let x = input(1, 4, 37);
        let run = |layer: &MultiHeadAttention, context: &Context| {
            layer.forward(x.clone(), None, &AttentionMask::None, context)
        };
        let training = Context::training(Precision::F32, RandomKey::new(1));
        let (without, with) = (layer(0.0), layer(0.0).with_dropout(0.5));
        assert_eq!(difference(run(&with, &context()), run(&without, &context())), 0.0);
        assert_eq!(difference(run(&without, &training), run(&without, &context())), 0.0);
        assert!(difference(run(&with, &training), run(&without, &training)) > 1e-2);
        assert_eq!(difference(run(&with, &training), run(&layer(0.5), &training)), 0.0);
    }

    #[test]
    #[should_panic(expected = "12 over 5 heads")]
    fn heads_that_do_not_divide_the_width_are_refused() {
        MultiHeadAttention::new(12, 5, 0.0, true, &test_device());
    }
}
