use burn::{
    module::Module,
    tensor::{Device, Int, Tensor},
};
use fornax_nn::{Activation, Embedding, FeedForward, Init, KvCache, LayerNorm, SelfAttention, initialise};
use fornax_ops::{AttentionMask, Context, LinearLogits, checkpoint, dropout};
use serde::{Deserialize, Serialize};

use crate::{ModelError, generate::CausalLm, validate};

/// The sizes of a [`Gpt2`]. The default is the published 124M model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gpt2Config {
    /// Number of tokens.
    pub vocab_size: usize,
    /// The longest sequence.
    pub max_positions: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Number of blocks.
    pub num_layers: usize,
    /// Attention heads of a block; divides `hidden_size`.
    pub num_heads: usize,
    /// Inner width of the feed-forward layers; none is `4 * hidden_size`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intermediate_size: Option<usize>,
    /// What is added to the variance in layer norms.
    pub norm_eps: f64,
    /// Probability of dropout on embeddings, attention weights and what each layer adds to the residual stream.
    pub dropout: f64,
    /// Whether linear maps and layer norms have biases.
    pub bias: bool,
}

impl Default for Gpt2Config {
    fn default() -> Self {
        Self {
            vocab_size: 50_257,
            max_positions: 1_024,
            hidden_size: 768,
            num_layers: 12,
            num_heads: 12,
            intermediate_size: None,
            norm_eps: 1e-5,
            dropout: 0.1,
            bias: true,
        }
    }
}

impl Gpt2Config {
    /// Whether the sizes describe a model.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`] with the first key whose value doesn't.
    pub fn validate(&self) -> Result<(), ModelError> {
        validate::sizes([
            ("vocab_size", self.vocab_size),
            ("max_positions", self.max_positions),
            ("hidden_size", self.hidden_size),
            ("num_layers", self.num_layers),
            ("num_heads", self.num_heads),
            ("intermediate_size", self.intermediate_size()),
        ])?;
        validate::heads(self.hidden_size, self.num_heads)?;
        validate::dropout("dropout", self.dropout)?;
        validate::norm_eps(self.norm_eps)
    }

    /// Inner width of the feed-forward layers.
    pub fn intermediate_size(&self) -> usize {
        self.intermediate_size.unwrap_or(4 * self.hidden_size)
    }

    /// A new model with the published initialisation (Radford et al. 2019): weights from N(0, 0.02), those that write to
    /// the residual stream from N(0, 0.02 / √(2 · num_layers)), biases 0, norms the identity.
    ///
    /// # Errors
    ///
    /// As [`validate`](Self::validate).
    pub fn init(&self, seed: u64, device: &Device) -> Result<Gpt2, ModelError> {
        self.validate()?;
        let residual_std = 0.02 / ((2 * self.num_layers) as f64).sqrt();
        Ok(initialise(Gpt2::new(self, device), seed, |path, _| match path.rsplit_once('.') {
            Some((_, "bias" | "beta")) => Init::Constant(0.0),
            Some((_, "gamma")) => Init::Constant(1.0),
            Some((layer, _)) if layer.ends_with(".attention.output") || layer.ends_with(".feed_forward.down") => {
                Init::Normal { mean: 0.0, std: residual_std }
            }
            _ => Init::Normal { mean: 0.0, std: 0.02 },
        }))
    }

    /// How many parameters the model has; the tied head counts once. Nothing is allocated.
    pub fn num_parameters(&self) -> usize {
        let (hidden, intermediate) = (self.hidden_size, self.intermediate_size());
        let norm = if self.bias { 2 * hidden } else { hidden };
        let block_biases = if self.bias { 3 * hidden + hidden + intermediate + hidden } else { 0 };
        let block = 2 * norm + self.block_weights() + block_biases;
        (self.vocab_size + self.max_positions) * hidden + self.num_layers * block + norm
    }

    /// Floating-point operations of a training step, forward and backward, for each token of sequences of `seq_len`
    /// tokens.
    ///
    /// Six for each weight of a matrix product, the head among them, and `12 · num_layers · hidden_size · seq_len` for
    /// attention, which is counted without the causal half (Chowdhery et al. 2022, appendix B): 874.9 GFLOP for a sequence
    /// of 1,024 tokens of the 124M model.
    pub fn training_flops_per_token(&self, seq_len: usize) -> f64 {
        let weights = self.num_layers * self.block_weights() + self.vocab_size * self.hidden_size;
        let attention = self.num_layers * self.hidden_size * seq_len;
        (6 * weights + 12 * attention) as f64
    }

    /// Numbers in the matrices of one block.
    fn block_weights(&self) -> usize {
        let attention = 4 * self.hidden_size * self.hidden_size;
        attention + 2 * self.hidden_size * self.intermediate_size()
    }
}

/// GPT-2, a decoder with norms before its layers, learned positions and a head tied to the token embedding
/// (Radford et al. 2019, "Language models are unsupervised multitask learners").
#[derive(Module, Debug)]
pub struct Gpt2 {
    /// `[vocab_size, hidden_size]`; also the head.
    pub token_embedding: Embedding,
    /// `[max_positions, hidden_size]`
    pub position_embedding: Embedding,
    /// The layers.
    pub blocks: Vec<Gpt2Block>,
    /// Applied to what the last block leaves.
    pub final_norm: LayerNorm,
    #[module(skip)]
    config: Gpt2Config,
}

/// One block of a [`Gpt2`].
#[derive(Module, Debug)]
pub struct Gpt2Block {
    /// Before attention.
    pub attention_norm: LayerNorm,
    /// Causal.
    pub attention: SelfAttention,
    /// Before the feed-forward layer.
    pub feed_forward_norm: LayerNorm,
    /// With the tanh form of GELU.
    pub feed_forward: FeedForward,
    dropout: f64,
}

impl Gpt2Block {
    fn new(config: &Gpt2Config, device: &Device) -> Self {
        let &Gpt2Config { hidden_size, num_heads, norm_eps, dropout, bias, .. } = config;
        let intermediate_size = config.intermediate_size();
        Self {
            attention_norm: LayerNorm::new(hidden_size, bias, norm_eps, device),
            attention: SelfAttention::new(hidden_size, num_heads, true, dropout, bias, device),
            feed_forward_norm: LayerNorm::new(hidden_size, bias, norm_eps, device),
            feed_forward: FeedForward::new(hidden_size, intermediate_size, bias, Activation::GeluTanh, device),
            dropout,
        }
    }

    fn forward(
        &self,
        hidden: Tensor<3>,
        mask: &AttentionMask,
        cache: Option<&mut KvCache>,
        context: &Context,
    ) -> Tensor<3> {
        let normed = self.attention_norm.forward(hidden.clone());
        let attended = self.attention.forward(normed, mask, cache, &context.child(0));
        let hidden = hidden + dropout(attended, self.dropout, &context.child(1));
        let normed = self.feed_forward_norm.forward(hidden.clone());
        let fed = self.feed_forward.forward(normed, context);
        hidden + dropout(fed, self.dropout, &context.child(2))
    }
}

impl Gpt2 {
    /// All parameters zero, to be replaced, with the ids that [`Gpt2Config::init`] gives.
    pub(crate) fn zeros(config: &Gpt2Config, device: &Device) -> Self {
        initialise(Self::new(config, device), 0, |_, _| Init::Constant(0.0))
    }

    /// A model whose parameters are made when they are first read.
    fn new(config: &Gpt2Config, device: &Device) -> Self {
        Self {
            token_embedding: Embedding::new(config.vocab_size, config.hidden_size, device),
            position_embedding: Embedding::new(config.max_positions, config.hidden_size, device),
            blocks: (0..config.num_layers).map(|_| Gpt2Block::new(config, device)).collect(),
            final_norm: LayerNorm::new(config.hidden_size, config.bias, config.norm_eps, device),
            config: config.clone(),
        }
    }

    /// What the model was made with.
    pub fn config(&self) -> Gpt2Config {
        self.config.clone()
    }

    /// The same model with another probability of dropout.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`] when it is not at least 0 and below 1.
    pub fn with_dropout(mut self, dropout: f64) -> Result<Self, ModelError> {
        self.config.dropout = dropout;
        self.config.validate()?;
        let with_dropout = |block: Gpt2Block| {
            let attention = block.attention.with_dropout(dropout);
            Gpt2Block { attention, dropout, ..block }
        };
        self.blocks = self.blocks.into_iter().map(with_dropout).collect();
        Ok(self)
    }

    /// The logits of every next token.
    ///
    /// # Shapes
    ///
    /// - `input_ids`: `[batch, seq]`, at most `max_positions` tokens
    /// - `mask`: over `seq` queries and keys; later tokens are hidden in any case
    /// - result: `[batch, seq, vocab_size]`
    ///
    /// # Panics
    ///
    /// When the sequence is longer than `max_positions`.
    pub fn forward(&self, input_ids: Tensor<2, Int>, mask: &AttentionMask, context: &Context) -> Tensor<3> {
        self.logits(self.hidden(input_ids, mask, context), context)
    }

    /// What the head sees: the residual stream after the last block and the final norm.
    ///
    /// # Shapes
    ///
    /// As [`forward`](Self::forward); result: `[batch, seq, hidden_size]`
    ///
    /// # Panics
    ///
    /// When the sequence is longer than `max_positions`.
    pub fn hidden(&self, input_ids: Tensor<2, Int>, mask: &AttentionMask, context: &Context) -> Tensor<3> {
        let [batch, seq] = input_ids.dims();
        let embedded = self.token_embedding.forward(input_ids) + self.position_embedding.range(0, seq);
        let mask = mask.shared(true, batch, seq, seq, &embedded.device());
        let mut hidden = dropout(embedded, self.config.dropout, &context.child(0));
        for (block, index) in self.blocks.iter().zip(1..) {
            let mask = mask.clone();
            hidden = checkpoint(block, hidden, &context.child(index), move |block, hidden, context| {
                block.forward(hidden, &mask, None, context)
            });
        }
        self.final_norm.forward(hidden)
    }

    /// The head alone.
    ///
    /// # Shapes
    ///
    /// `[batch, seq, hidden_size]` to `[batch, seq, vocab_size]`
    pub fn logits(&self, hidden: Tensor<3>, context: &Context) -> Tensor<3> {
        self.token_embedding.logits(hidden, None, context)
    }

    /// [`logits`](Self::logits) that are still to be computed, `[batch · seq, vocab_size]`, for a loss.
    pub fn linear_logits(&self, hidden: Tensor<3>) -> LinearLogits {
        self.token_embedding.linear_logits(hidden, None)
    }

    /// [`forward`](Self::forward) of new tokens only, which also attend to those that the caches, one a block, have seen.
    ///
    /// # Shapes
    ///
    /// - `input_ids`: `[batch, new]`
    /// - `positions`: `[batch, new]`, the place of each token in its row, below `max_positions`
    /// - `mask`: over `new` queries and `seen + new` keys
    /// - result: `[batch, new, vocab_size]`
    ///
    /// # Panics
    ///
    /// When the caches are full or not one a block.
    pub fn forward_cached(
        &self,
        input_ids: Tensor<2, Int>,
        positions: Tensor<2, Int>,
        mask: &AttentionMask,
        caches: &mut [KvCache],
        context: &Context,
    ) -> Tensor<3> {
        self.logits(self.hidden_cached(input_ids, positions, mask, caches, context), context)
    }

    fn hidden_cached(
        &self,
        input_ids: Tensor<2, Int>,
        positions: Tensor<2, Int>,
        mask: &AttentionMask,
        caches: &mut [KvCache],
        context: &Context,
    ) -> Tensor<3> {
        assert_eq!(caches.len(), self.blocks.len(), "key-value caches are one a block");
        let [batch, new] = input_ids.dims();
        let seen = caches.first().map_or(0, KvCache::len);
        let embedded = self.token_embedding.forward(input_ids) + self.position_embedding.forward(positions);
        let mask = mask.shared(true, batch, new, seen + new, &embedded.device());
        let mut hidden = dropout(embedded, self.config.dropout, &context.child(0));
        for ((block, cache), index) in self.blocks.iter().zip(caches).zip(1..) {
            hidden = block.forward(hidden, &mask, Some(cache), &context.child(index));
        }
        self.final_norm.forward(hidden)
    }
}

impl CausalLm for Gpt2 {
    type Cache = Vec<KvCache>;

    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn max_positions(&self) -> usize {
        self.config.max_positions
    }

    fn device(&self) -> Device {
        self.token_embedding.weight.device()
    }

    fn new_cache(&self) -> Self::Cache {
        vec![KvCache::new(self.config.max_positions); self.blocks.len()]
    }

    fn next_logits(
        &self,
        input_ids: Tensor<2, Int>,
        positions: Tensor<2, Int>,
        mask: &AttentionMask,
        cache: &mut Self::Cache,
        context: &Context,
    ) -> Tensor<2> {
        let last = input_ids.dims()[1] - 1;
        let hidden = self.hidden_cached(input_ids, positions, mask, cache, context);
        self.logits(hidden.narrow(1, last, 1), context).squeeze_dim(1)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;
    use fornax_backend::{Precision, test_device};
    use fornax_nn::parameters;
    use fornax_ops::{RandomKey, cross_entropy_sum};

    use super::*;

    fn tiny() -> Gpt2Config {
        Gpt2Config {
            vocab_size: 61,
            max_positions: 16,
            hidden_size: 24,
            num_layers: 2,
            num_heads: 3,
            dropout: 0.0,
            ..Gpt2Config::default()
        }
    }

    /// Weights ten times larger than at initialisation, so that tokens matter to each other.
    fn model(config: &Gpt2Config) -> Gpt2 {
        let model = config.init(3, &test_device()).unwrap();
        initialise(model, 3, |_, _| Init::Normal { mean: 0.0, std: 0.2 })
    }

    fn context() -> Context {
        Context::evaluation(Precision::F32)
    }

    fn ints(rows: &[&[i64]]) -> Tensor<2, Int> {
        Tensor::from_data(TensorData::new(rows.concat(), [rows.len(), rows[0].len()]), &test_device())
    }

    fn run(model: &Gpt2, rows: &[&[i64]]) -> Tensor<3> {
        model.forward(ints(rows), &AttentionMask::None, &context())
    }

    fn assert_near(a: Tensor<3>, b: Tensor<3>) {
        assert_eq!(a.dims(), b.dims());
        let largest = b.clone().abs().max().into_scalar::<f32>();
        let difference = (a - b).abs().max().into_scalar::<f32>();
        assert!(largest > 0.1 && difference < 1e-5 * largest, "{difference} of {largest}");
    }

    #[test]
    fn parameters_of_the_published_model_are_counted_without_making_them() {
        let published = Gpt2Config::default();
        assert_eq!(published.num_parameters(), 124_439_808);
        assert_eq!(Gpt2Config { bias: false, ..published }.num_parameters(), 124_337_664);
        for bias in [true, false] {
            let config = Gpt2Config { bias, intermediate_size: Some(50), ..tiny() };
            let counted: usize = parameters(&model(&config)).iter().map(|p| p.num_elements()).sum();
            assert_eq!(config.num_parameters(), counted);
        }
    }

    #[test]
    fn flops_of_the_published_model_are_the_known_ones() {
        let sequence = 1024.0 * Gpt2Config::default().training_flops_per_token(1024);
        assert_eq!((sequence / 1e8).round() / 10.0, 874.9);
    }

    #[test]
    fn parameters_have_the_published_initialisation() {
        let model = tiny().init(1, &test_device()).unwrap();
        let std = |tensor: Tensor<2>| tensor.square().mean().into_scalar::<f32>().sqrt();
        assert!((std(model.token_embedding.weight.val()) - 0.02).abs() < 0.002);
        let block = &model.blocks[1];
        assert!((std(block.attention.query_key_value.weight.val()) - 0.02).abs() < 0.002);
        assert!((std(block.attention.output.weight.val()) - 0.01).abs() < 0.001);
        assert!((std(block.feed_forward.down.weight.val()) - 0.01).abs() < 0.001);
        assert_eq!(block.attention_norm.gamma.val().into_data().iter::<f32>().sum::<f32>(), 24.0);
        for bias in [&block.feed_forward_norm.beta, &block.feed_forward.up.bias] {
            assert!(bias.as_ref().unwrap().val().into_data().iter::<f32>().all(|x| x == 0.0));
        }
    }

    #[test]
    fn the_first_loss_is_near_that_of_guessing() {
        let config = tiny();
        let model = config.init(2, &test_device()).unwrap();
        let logits = run(&model, &[&[5, 9, 60, 0, 3, 7, 7, 1]]).flatten::<2>(0, 1);
        let targets = ints(&[&[9, 60, 0, 3, 7, 7, 1, 2]]).flatten::<1>(0, 1);
        let entropy = cross_entropy_sum(logits, targets, -100);
        let loss = (entropy.sum / entropy.count).into_scalar::<f32>();
        assert!((loss - (config.vocab_size as f32).ln()).abs() < 0.1, "{loss}");
    }

    #[test]
    fn logits_ignore_later_tokens_and_other_rows() {
        let model = model(&tiny());
        let both = run(&model, &[&[1, 2, 3, 4, 5], &[9, 8, 7, 6, 5]]);
        let changed = run(&model, &[&[1, 2, 3, 60, 0], &[5, 5, 5, 5, 5]]);
        assert_near(changed.clone().narrow(0, 0, 1).narrow(1, 0, 3), both.clone().narrow(0, 0, 1).narrow(1, 0, 3));
        let next = |t: Tensor<3>| t.narrow(0, 0, 1).narrow(1, 3, 1);
        assert!((next(changed) - next(both.clone())).abs().max().into_scalar::<f32>() > 1e-2);
        let swapped = run(&model, &[&[9, 8, 7, 6, 5], &[1, 2, 3, 4, 5]]);
        assert_near(swapped.narrow(0, 1, 1), both.narrow(0, 0, 1));
    }

    #[test]
    fn padding_changes_nothing() {
        let model = model(&tiny());
        let alone = run(&model, &[&[4, 5, 6]]);
        let lengths = Tensor::from_data(TensorData::new(vec![5i64, 3], [2]), &test_device());
        let ids = ints(&[&[1, 2, 3, 4, 5], &[4, 5, 6, 0, 0]]);
        let padded = model.forward(ids, &AttentionMask::KeyLengths(lengths), &context());
        assert_near(padded.narrow(0, 1, 1).narrow(1, 0, 3), alone);
    }

    #[test]
    fn cached_tokens_give_the_same_logits() {
        let model = model(&tiny());
        let rows: [&[i64]; 2] = [&[1, 2, 3, 4, 5, 6], &[6, 0, 4, 3, 60, 1]];
        let (ids, whole) = (ints(&rows), run(&model, &rows));
        let mut caches = model.new_cache();
        let mut parts = Vec::new();
        for (start, len) in [(0usize, 3usize), (3, 1), (4, 2)] {
            let positions: Vec<i64> = (start..start + len).map(|p| p as i64).collect();
            let (ids, positions) = (ids.clone().narrow(1, start, len), ints(&[&positions, &positions]));
            parts.push(model.forward_cached(ids, positions, &AttentionMask::None, &mut caches, &context()));
        }
        assert_near(Tensor::cat(parts, 1), whole.clone());
        let mut cache = model.new_cache();
        let positions: &[i64] = &[0, 1, 2, 3, 4, 5];
        let next = model.next_logits(ids, ints(&[positions, positions]), &AttentionMask::None, &mut cache, &context());
        assert_near(next.unsqueeze_dim(1), whole.narrow(1, 5, 1));
    }

    #[test]
    fn dropout_is_a_function_of_the_key() {
        let model = model(&Gpt2Config { dropout: 0.2, ..tiny() });
        let run = |seed| {
            let context = Context::training(Precision::F32, RandomKey::new(seed));
            let logits = model.forward(ints(&[&[1, 2, 3]]), &AttentionMask::None, &context);
            logits.into_data().iter::<f32>().collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn another_dropout_replaces_every_place_of_it() {
        let without = model(&tiny());
        let with = without.clone().with_dropout(0.2).unwrap();
        assert_eq!(with.config(), Gpt2Config { dropout: 0.2, ..tiny() });
        let logits = |model: &Gpt2| {
            let context = Context::training(Precision::F32, RandomKey::new(1));
            model.forward(ints(&[&[1, 2, 3]]), &AttentionMask::None, &context)
        };
        assert_near(logits(&with.clone().with_dropout(0.0).unwrap()), logits(&without));
        // As of a model that was made with it: on embeddings, weights and layers alike.
        assert_near(logits(&with), logits(&model(&Gpt2Config { dropout: 0.2, ..tiny() })));
        assert!((logits(&with) - logits(&without)).abs().max().into_scalar::<f32>() > 1e-2);
        let error = with.with_dropout(1.0).unwrap_err().to_string();
        assert!(error.starts_with("model.dropout = 1: must be at least 0 and below 1"), "{error}");
    }

    #[test]
    fn configurations_that_describe_no_model_are_refused() {
        let base = tiny();
        let cases = [
            (Gpt2Config { vocab_size: 0, ..base.clone() }, "model.vocab_size = 0: must be at least 1"),
            (Gpt2Config { intermediate_size: Some(0), ..base.clone() }, "model.intermediate_size = 0: must be"),
            (
                Gpt2Config { num_heads: 5, ..base.clone() },
                "model.hidden_size = 24: must be a multiple of model.num_heads = 5",
            ),
            (Gpt2Config { dropout: 1.0, ..base.clone() }, "model.dropout = 1: must be at least 0 and below 1"),
            (Gpt2Config { dropout: f64::NAN, ..base.clone() }, "model.dropout = NaN"),
            (Gpt2Config { norm_eps: 0.0, ..base }, "model.norm_eps = 0: must be above 0"),
        ];
        for (config, message) in cases {
            let error = config.init(0, &test_device()).unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
        assert!(serde_json::from_str::<Gpt2Config>(r#"{"n_embd": 3}"#).is_err());
        assert_eq!(serde_json::from_str::<Gpt2Config>("{}").unwrap(), Gpt2Config::default());
    }
}
