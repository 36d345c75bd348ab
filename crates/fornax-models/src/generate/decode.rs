use std::ops::ControlFlow;

use burn::tensor::{Device, Int, Tensor, TensorData};
use fornax_ops::{AttentionMask, Context};

use super::{CausalLm, SamplingOptions, sampler::next_token};
use crate::ModelError;

/// What a callback of [`generate`] may return: whether to go on, or nothing, which goes on.
pub trait Flow {
    /// Whether to go on.
    fn flow(self) -> ControlFlow<()>;
}

impl Flow for ControlFlow<()> {
    fn flow(self) -> ControlFlow<()> {
        self
    }
}

impl Flow for () {
    fn flow(self) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// Continues every prompt and returns the new tokens of each, in the order of `prompts`.
///
/// The prompts run as one batch, padded on the left; a mask and per-row positions hide the padding, so that a row is
/// continued as if it were alone (up to the rounding of differently shaped matrix products). `on_token` hears of each
/// token (row, id) when it is chosen, and ends all rows at once with [`ControlFlow::Break`]; what was made until then, that token
/// included, is returned. Work stops by itself once every row has drawn a stop token or `max_new_tokens` were made.
///
/// Keys and values of past tokens are cached. A sequence longer than the model's positions is continued from its last
/// `max_positions` tokens, as nanoGPT does: since that window moves with every token, the cache is then rebuilt each step
/// and a token costs a whole forward pass. A prompt that is itself longer is cropped to its last `max_positions` tokens,
/// with a warning in the log.
///
/// # Errors
///
/// For an option without a meaning, an empty prompt, a token outside the vocabulary, and logits that are not finite.
pub fn generate<M: CausalLm, F: Flow>(
    model: &M,
    prompts: &[Vec<u32>],
    options: &SamplingOptions,
    on_token: &mut dyn FnMut(usize, u32) -> F,
) -> Result<Vec<Vec<u32>>, ModelError> {
    options.validate(model.vocab_size())?;
    check_prompts(prompts, model.vocab_size())?;
    let mut rows: Vec<Row> = prompts.iter().enumerate().map(|(i, p)| Row::new(i, p, model.max_positions())).collect();
    let mut window: Option<Window<M::Cache>> = None;
    'tokens: for position in 0..options.max_new_tokens {
        if rows.iter().all(|row| row.done) {
            break;
        }
        let logits = match &mut window {
            Some(window) if window.width() < model.max_positions() => window.step(model, &rows),
            _ => {
                let (fresh, logits) = Window::prefill(model, &rows, Context::evaluation(options.precision));
                window = Some(fresh);
                logits
            }
        };
        for (row, logits) in rows.iter_mut().zip(last_logits(logits)) {
            let Some(token) = row.advance(logits, options, position)? else { continue };
            if on_token(row.index, token).flow().is_break() {
                break 'tokens;
            }
        }
    }
    Ok(rows.into_iter().map(|row| row.tokens[row.prompt_len..].to_vec()).collect())
}

/// One sequence on its way.
struct Row {
    index: usize,
    tokens: Vec<u32>,
    prompt_len: usize,
    done: bool,
}

impl Row {
    fn new(index: usize, prompt: &[u32], max_positions: usize) -> Self {
        let cropped = prompt.len().saturating_sub(max_positions);
        if cropped > 0 {
            tracing::warn!(prompt = index, cropped, max_positions, "prompt is too long; its first tokens are left out");
        }
        let tokens = prompt[cropped..].to_vec();
        Self { index, prompt_len: tokens.len(), tokens, done: false }
    }

    /// Chooses the row's next token from the logits of its last one; `None` at a stop token. A row that is done keeps its place
    /// in the batch: its numbers are computed and not used.
    fn advance(
        &mut self,
        logits: Vec<f32>,
        options: &SamplingOptions,
        position: usize,
    ) -> Result<Option<u32>, ModelError> {
        if self.done {
            return Ok(None);
        }
        if logits.iter().any(|x| !x.is_finite()) {
            return Err(ModelError::NonFiniteLogits { row: self.index, position });
        }
        let token = next_token(logits, &self.tokens, options, self.index, position);
        if options.stop_tokens.contains(&token) {
            self.done = true;
            return Ok(None);
        }
        self.tokens.push(token);
        Ok(Some(token))
    }

    /// The part that the model is shown; of a row that is done the least there can be, so that it widens no batch.
    fn window(&self, max_positions: usize) -> &[u32] {
        let len = if self.done { 1 } else { max_positions };
        &self.tokens[self.tokens.len().saturating_sub(len)..]
    }
}

/// The cached part of a batch: all rows end in the same column, padding stands on the left.
struct Window<C> {
    cache: C,
    /// For each row and column 1, or 0 for padding.
    segments: Vec<Vec<i32>>,
    /// The position of each row's next token.
    next: Vec<i32>,
    context: Context,
}

impl<C> Window<C> {
    fn prefill<M: CausalLm<Cache = C>>(model: &M, rows: &[Row], context: Context) -> (Self, Tensor<2>) {
        let windows: Vec<&[u32]> = rows.iter().map(|row| row.window(model.max_positions())).collect();
        let width = windows.iter().map(|w| w.len()).max().unwrap_or(0);
        let pad = |window: &[u32], fill: fn(usize, u32) -> i32| -> Vec<i32> {
            let padding = std::iter::repeat_n(0, width - window.len());
            padding.chain(window.iter().enumerate().map(|(i, t)| fill(i, *t))).collect()
        };
        // Padding reads token 0 at position 0: any valid pair will do, since nothing attends to it.
        let column = |fill| -> Vec<Vec<i32>> { windows.iter().map(|w| pad(w, fill)).collect() };
        let ids = column(|_, token| token as i32);
        let positions = column(|i, _| i as i32);
        let segments = column(|_, _| 1);
        let next = windows.iter().map(|window| window.len() as i32).collect();
        let mut window = Self { cache: model.new_cache(), segments, next, context };
        let queries = window.segments.clone();
        let logits = window.forward(model, &ids, &positions, &queries);
        (window, logits)
    }

    /// The number of cached columns.
    fn width(&self) -> usize {
        self.segments.first().map_or(0, Vec::len)
    }

    /// Appends the last token of each row. No position leaves the table: a row's never exceeds the width.
    fn step<M: CausalLm<Cache = C>>(&mut self, model: &M, rows: &[Row]) -> Tensor<2> {
        let last = |row: &Row| vec![row.tokens.last().map_or(0, |t| *t as i32)];
        let ids: Vec<Vec<i32>> = rows.iter().map(last).collect();
        let positions: Vec<Vec<i32>> = self.next.iter().map(|p| vec![*p]).collect();
        self.next.iter_mut().for_each(|p| *p += 1);
        self.segments.iter_mut().for_each(|row| row.push(1));
        let queries = vec![vec![1]; rows.len()];
        self.forward(model, &ids, &positions, &queries)
    }

    fn forward<M: CausalLm<Cache = C>>(
        &mut self,
        model: &M,
        ids: &[Vec<i32>],
        positions: &[Vec<i32>],
        queries: &[Vec<i32>],
    ) -> Tensor<2> {
        let device = model.device();
        let mask = AttentionMask::Segments { query: matrix(queries, &device), key: matrix(&self.segments, &device) };
        let (ids, positions) = (matrix(ids, &device), matrix(positions, &device));
        model.next_logits(ids, positions, &mask, &mut self.cache, &self.context)
    }
}

fn matrix(rows: &[Vec<i32>], device: &Device) -> Tensor<2, Int> {
    let shape = [rows.len(), rows.first().map_or(0, Vec::len)];
    Tensor::from_data(TensorData::new(rows.concat(), shape), device)
}

/// The logits of each row on the host.
fn last_logits(logits: Tensor<2>) -> Vec<Vec<f32>> {
    let vocab_size = logits.dims()[1];
    let values: Vec<f32> = logits.into_data().iter::<f32>().collect();
    values.chunks_exact(vocab_size).map(<[f32]>::to_vec).collect()
}

fn check_prompts(prompts: &[Vec<u32>], vocab_size: usize) -> Result<(), ModelError> {
    for (row, prompt) in prompts.iter().enumerate() {
        if prompt.is_empty() {
            return Err(ModelError::EmptyPrompt { row });
        }
        if let Some(token) = prompt.iter().copied().find(|t| *t as usize >= vocab_size) {
            return Err(ModelError::TokenOutsideVocabulary { row, token, vocab_size });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use fornax_backend::{Precision, test_device};

    use super::*;
    use crate::{Gpt2, hf::load_gpt2};

    /// 61 tokens, 32 positions, logits far from ties.
    fn model() -> Gpt2 {
        let dir = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/gpt2/plain"));
        load_gpt2(dir, &test_device()).unwrap().0
    }

    fn run(model: &Gpt2, prompts: &[&[u32]], options: &SamplingOptions) -> Vec<Vec<u32>> {
        let prompts: Vec<Vec<u32>> = prompts.iter().map(|p| p.to_vec()).collect();
        generate(model, &prompts, options, &mut |_, _| {}).unwrap()
    }

    fn sampled(max_new_tokens: usize, seed: u64) -> SamplingOptions {
        SamplingOptions { max_new_tokens, seed, top_k: Some(20), ..SamplingOptions::default() }
    }

    #[test]
    fn a_row_depends_on_seed_and_row_number_not_on_its_neighbours() {
        let model = model();
        let options = sampled(12, 3);
        let pair = run(&model, &[&[5, 6, 7], &[9]], &options);
        let other = run(&model, &[&[5, 6, 7], &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], &[2, 2]], &options);
        assert_eq!(pair[0], other[0]);
        assert_eq!(pair[0], run(&model, &[&[5, 6, 7]], &options)[0]);
        let twice = run(&model, &[&[5, 6, 7], &[5, 6, 7]], &options);
        assert_ne!(twice[0], twice[1], "rows with one prompt are different samples");
        assert_ne!(twice[0], run(&model, &[&[5, 6, 7]], &sampled(12, 4))[0]);
    }

    #[test]
    fn beyond_the_positions_a_row_is_continued_from_its_last_window() {
        let model = model();
        let long: Vec<u32> = (0..40).map(|i| (i * 7 + 1) % 61).collect();
        // The first row is cropped, the second runs over on the way, the third never does.
        let prompts: [&[u32]; 3] = [&long, &long[..27], &[4, 8]];
        let found = run(&model, &prompts, &SamplingOptions::greedy(12));
        for (prompt, found) in prompts.iter().zip(found) {
            let mut tokens = prompt.to_vec();
            for _ in 0..12 {
                let window: Vec<i32> = tokens[tokens.len().saturating_sub(32)..].iter().map(|t| *t as i32).collect();
                let len = window.len();
                let logits = model.forward(
                    matrix(&[window], &test_device()),
                    &AttentionMask::None,
                    &Context::evaluation(Precision::F32),
                );
                let last = last_logits(logits.slice([0..1, len - 1..len]).squeeze_dim::<2>(1)).remove(0);
                tokens.push((0..61).max_by(|a, b| last[*a as usize].total_cmp(&last[*b as usize])).unwrap());
            }
            assert_eq!(found, tokens[prompt.len()..]);
        }
    }

    #[test]
    fn stop_tokens_end_a_row_and_are_kept_back() {
        let model = model();
        let prompts: [&[u32]; 2] = [&[5, 17, 42], &[9]];
        let free = run(&model, &prompts, &SamplingOptions::greedy(20));
        let stop = free[0][4];
        let options = SamplingOptions { stop_tokens: vec![stop], ..SamplingOptions::greedy(20) };
        let mut streamed = vec![Vec::new(); 2];
        let owned: Vec<Vec<u32>> = prompts.iter().map(|p| p.to_vec()).collect();
        let stopped = generate(&model, &owned, &options, &mut |row, token| streamed[row].push(token)).unwrap();
        for (stopped, free) in stopped.iter().zip(&free) {
            let end = free.iter().position(|t| *t == stop).unwrap_or(20);
            assert_eq!(stopped[..], free[..end]);
        }
        assert_eq!(streamed, stopped);
    }

    /// A model that notes the precision of each forward pass.
    struct Noting(Gpt2, std::cell::RefCell<Vec<Precision>>);

    impl CausalLm for Noting {
        type Cache = <Gpt2 as CausalLm>::Cache;
        fn vocab_size(&self) -> usize {
            self.0.vocab_size()
        }
        fn max_positions(&self) -> usize {
            self.0.max_positions()
        }
        fn device(&self) -> Device {
            self.0.device()
        }
        fn new_cache(&self) -> Self::Cache {
            CausalLm::new_cache(&self.0)
        }
        fn next_logits(
            &self,
            input_ids: Tensor<2, Int>,
            positions: Tensor<2, Int>,
            mask: &AttentionMask,
            cache: &mut Self::Cache,
            context: &Context,
        ) -> Tensor<2> {
            self.1.borrow_mut().push(context.precision());
            self.0.next_logits(input_ids, positions, mask, cache, context)
        }
    }

    #[test]
    fn a_callback_that_breaks_ends_the_work() {
        let model = Noting(model(), Default::default());
        let mut heard = Vec::new();
        let found = generate(&model, &[vec![5], vec![6, 7]], &SamplingOptions::greedy(50), &mut |row, token| {
            heard.push((row, token));
            if heard.len() == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        let found = found.unwrap();
        assert_eq!((found[0].len(), found[1].len(), model.1.borrow().len()), (2, 1, 2));
        assert_eq!(heard, [(0, found[0][0]), (1, found[1][0]), (0, found[0][1])]);
    }

    #[test]
    fn work_ends_with_the_last_row() {
        let model = Noting(model(), Default::default());
        let options = SamplingOptions { stop_tokens: (0..61).collect(), ..SamplingOptions::greedy(50) };
        let found = generate(&model, &[vec![5], vec![6, 7]], &options, &mut |_, _| {}).unwrap();
        assert_eq!((found, model.1.borrow().len()), (vec![vec![], vec![]], 1));
    }

    #[test]
    fn the_model_computes_in_the_precision_of_the_options() {
        let device = test_device();
        for precision in Precision::ALL.into_iter().filter(|precision| precision.is_supported(&device)) {
            let model = Noting(model(), Default::default());
            let options = SamplingOptions { precision, ..SamplingOptions::greedy(3) };
            generate(&model, &[vec![5]], &options, &mut |_, _| {}).unwrap();
            assert_eq!(*model.1.borrow(), [precision; 3]);
        }
    }

    #[test]
    fn nothing_to_do_is_no_error() {
        let model = model();
        assert!(run(&model, &[], &SamplingOptions::greedy(3)).is_empty());
        assert_eq!(run(&model, &[&[1]], &SamplingOptions::greedy(0)), [Vec::<u32>::new()]);
    }

    #[test]
    fn bad_prompts_are_named() {
        let model = model();
        let error = |prompts: &[Vec<u32>]| {
            generate(&model, prompts, &SamplingOptions::greedy(1), &mut |_, _| {}).unwrap_err().to_string()
        };
        assert_eq!(
            error(&[vec![1], vec![]]),
            "prompt 1 is empty; give at least one token, such as the end-of-text token"
        );
        let unknown = "prompt 0: token 61 is outside the model's vocabulary of 61; is this its tokenizer?";
        assert_eq!(error(&[vec![1, 61]]), unknown);
    }
}
