//! A search is tested on tables instead of a model: against `transformers` (`golden`), against all targets there are
//! (`exhaustive`), and for what it promises (here).

mod exhaustive;
mod golden;

use std::cell::{Cell, RefCell};

use fornax_backend::test_device;

use super::*;

/// Logits that are a function of the target so far, its last tokens first, and of the source's length.
struct Tables<F> {
    logits: F,
    vocab_size: usize,
    source_vocab_size: usize,
    /// Rows of each step.
    batches: RefCell<Vec<usize>>,
    encoded: Cell<usize>,
    /// How often rows moved among those of their source.
    reorders: Cell<usize>,
}

impl<F: Fn(&[u32], usize) -> Vec<f32>> Tables<F> {
    fn new(vocab_size: usize, logits: F) -> Self {
        let (batches, encoded, reorders) = Default::default();
        Self { logits, vocab_size, source_vocab_size: 50, batches, encoded, reorders }
    }
}

/// The source's length and the target so far, of each row.
type Rows = Vec<(usize, Vec<u32>)>;

fn ints<const D: usize>(tensor: Tensor<D, Int>) -> Vec<usize> {
    tensor.into_data().iter::<i64>().map(|x| x as usize).collect()
}

impl<F: Fn(&[u32], usize) -> Vec<f32>> Seq2SeqLm for Tables<F> {
    type State = Rows;

    fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    fn source_vocab_size(&self) -> usize {
        self.source_vocab_size
    }

    fn max_source_positions(&self) -> Option<usize> {
        Some(20)
    }

    fn max_target_positions(&self) -> Option<usize> {
        Some(16)
    }

    fn device(&self) -> Device {
        test_device()
    }

    fn encode(&self, input_ids: Tensor<2, Int>, lengths: Tensor<1, Int>, capacity: usize, _: &Context) -> Rows {
        assert!((1..=16).contains(&capacity));
        let ([batch, width], lengths) = (input_ids.dims(), ints(lengths));
        assert_eq!((batch, width), (lengths.len(), lengths.iter().copied().max().unwrap()));
        self.encoded.set(self.encoded.get() + 1);
        lengths.into_iter().map(|len| (len, Vec::with_capacity(capacity))).collect()
    }

    fn select(&self, state: &mut Rows, rows: &Tensor<1, Int>) {
        *state = ints(rows.clone()).into_iter().map(|row| state[row].clone()).collect();
    }

    fn reorder(&self, state: &mut Rows, rows: &Tensor<1, Int>) {
        self.reorders.set(self.reorders.get() + 1);
        let rows = ints(rows.clone());
        assert_eq!(rows.len(), state.len());
        assert!(rows.iter().enumerate().all(|(to, from)| state[to].0 == state[*from].0), "sources move");
        let moved: Vec<Vec<u32>> = rows.into_iter().map(|row| state[row].1.clone()).collect();
        state.iter_mut().zip(moved).for_each(|(row, target)| row.1 = target);
    }

    fn next_logits(&self, decoder_input_ids: Tensor<2, Int>, state: &mut Rows, _: &Context) -> Tensor<2> {
        let ids = ints(decoder_input_ids);
        assert_eq!(ids.len(), state.len());
        self.batches.borrow_mut().push(ids.len());
        let mut logits = Vec::new();
        for ((source, target), id) in state.iter_mut().zip(ids) {
            target.push(id as u32);
            logits.extend((self.logits)(target, *source));
        }
        Tensor::from_data(TensorData::new(logits, [state.len(), self.vocab_size]), &test_device())
    }
}

/// Numbers in -1.5..1.5 that are a function of the target so far and of the source's length.
fn hashed(vocab_size: usize) -> impl Fn(&[u32], usize) -> Vec<f32> {
    move |target, source| {
        let seed = target
            .iter()
            .fold(source as u64 + 1, |hash, token| hash.wrapping_mul(0x0100_0000_01b3) ^ u64::from(*token));
        let number = |token: usize| {
            let bits = (seed ^ (token as u64) << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            3.0 * ((bits ^ bits >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40) as f32 / (1 << 24) as f32 - 1.5
        };
        (0..vocab_size).map(number).collect()
    }
}

fn sources(lengths: &[usize]) -> Vec<Vec<u32>> {
    lengths.iter().map(|len| vec![3; *len]).collect()
}

fn run<F: Fn(&[u32], usize) -> Vec<f32>>(
    model: &Tables<F>,
    lengths: &[usize],
    options: &Seq2SeqOptions,
) -> Vec<Vec<Hypothesis>> {
    generate_seq2seq(model, &sources(lengths), options).unwrap()
}

/// Four beams, all returned.
fn four() -> Seq2SeqOptions {
    Seq2SeqOptions { num_return: 4, ..Seq2SeqOptions::beams(4, 0, vec![1], 8) }
}

#[test]
fn hypotheses_are_sorted_and_distinct() {
    let model = Tables::new(7, hashed(7));
    for found in run(&model, &[3, 5, 1], &four()) {
        assert_eq!(found.len(), 4);
        assert!(found.is_sorted_by(|a, b| a.score >= b.score));
        for (i, hypothesis) in found.iter().enumerate() {
            assert!(
                found[..i].iter().all(|other| (&other.tokens, other.stop) != (&hypothesis.tokens, hypothesis.stop))
            );
            assert!(!hypothesis.tokens.contains(&1) && hypothesis.tokens.len() <= 8 && hypothesis.score <= 0.0);
        }
    }
}

#[test]
fn a_row_does_not_depend_on_its_neighbours() {
    let drawn = Seq2SeqOptions { num_beams: 1, num_return: 3, temperature: 0.8, top_k: Some(5), ..four() };
    for options in [four(), Seq2SeqOptions::greedy(0, vec![1], 8), drawn] {
        let model = Tables::new(7, hashed(7));
        let together = run(&model, &[3, 5, 1, 8], &options);
        let fewer = run(&model, &[3, 5], &options);
        assert_eq!(together[..2], fewer[..]);
        if options.temperature == 0.0 {
            let alone: Vec<_> = [3, 5, 1, 8].iter().flat_map(|len| run(&model, &[*len], &options)).collect();
            assert_eq!(together, alone);
        }
    }
}

#[test]
fn one_beam_that_stops_at_its_first_end_is_greedy() {
    let options =
        Seq2SeqOptions { early_stopping: EarlyStopping::FirstFinished, ..Seq2SeqOptions::greedy(0, vec![1, 2], 8) };
    let logits = hashed(9);
    for source in 1..30 {
        let mut beams = Beams::new(8, &options);
        let mut target = vec![0];
        loop {
            let mut row = logits(&target, source);
            let log_total = f64::from(row.iter().map(|x| x.exp()).sum::<f32>().ln());
            let parents = beams.advance(&mut [NextLogits { logits: &mut row, log_total }], &options);
            match beams.last_tokens().as_slice() {
                [token] => target.push(*token),
                _ => break,
            }
            assert_eq!(parents, [0]);
        }
        let greedy = &run(&Tables::new(9, hashed(9)), &[source.min(20)], &options)[0][0];
        if source <= 20 {
            let found = &beams.finish(1)[0];
            assert_eq!((&found.tokens, found.stop), (&greedy.tokens, greedy.stop));
            assert!((found.score - greedy.score).abs() < 1e-6);
        }
    }
}

#[test]
fn draws_differ_by_number_and_seed_and_repeat() {
    let model = Tables::new(40, hashed(40));
    let options = Seq2SeqOptions { num_return: 3, temperature: 1.0, seed: 5, ..Seq2SeqOptions::greedy(0, vec![], 12) };
    let found = run(&model, &[2, 2], &options);
    let all: Vec<_> = found.iter().flatten().map(|hypothesis| hypothesis.tokens.clone()).collect();
    assert_eq!(all.len(), 6);
    for (i, tokens) in all.iter().enumerate() {
        assert!(tokens.len() == 12 && all[..i].iter().all(|other| other != tokens), "{all:?}");
    }
    assert_eq!(found, run(&model, &[2, 2], &options));
    assert_ne!(found, run(&model, &[2, 2], &Seq2SeqOptions { seed: 6, ..options.clone() }));
    // What a draw scores is its own log-probability, whatever temperature it was drawn with.
    let cold = Seq2SeqOptions { temperature: 1e-6, num_return: 2, ..options };
    let greedy = run(&model, &[2], &Seq2SeqOptions::greedy(0, vec![], 12));
    assert_eq!(run(&model, &[2], &cold)[0], [greedy[0].clone(), greedy[0].clone()].concat());
}

#[test]
fn draws_follow_the_number_of_a_source_not_its_batch() {
    let model = Tables::new(40, hashed(40));
    let options = Seq2SeqOptions { num_return: 2, temperature: 1.0, ..Seq2SeqOptions::greedy(0, vec![], 12) };
    let together = run(&model, &[2, 3, 2], &options);
    let apart = generate_seq2seq_numbered(&model, &sources(&[2, 3]), &[2, 1], &options).unwrap();
    assert_eq!(apart, [together[2].clone(), together[1].clone()]);
    assert_ne!(together[0], together[2], "equal sources have their own draws");
}

#[test]
fn the_encoder_runs_once_and_rows_leave_when_they_are_done() {
    // A source of n tokens ends after n tokens, at once for all beams.
    let ends = |target: &[u32], source: usize| -> Vec<f32> {
        (0..7).map(|token| if (token == 1) == (target.len() > source) { 0.01 * token as f32 } else { -50.0 }).collect()
    };
    let model = Tables::new(7, ends);
    let found = run(&model, &[1, 3], &Seq2SeqOptions { early_stopping: EarlyStopping::FirstFinished, ..four() });
    assert_eq!(found.iter().map(|row| row[0].tokens.len()).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(model.encoded.get(), 1);
    assert_eq!(model.batches.take(), [2, 8, 4, 4]);
    assert!(model.reorders.get() > 0, "beams changed places");
    run(&model, &[1, 3], &Seq2SeqOptions::greedy(0, vec![1], 8));
    assert_eq!(model.batches.take(), [2, 2, 1, 1]);
}

#[test]
fn limits_are_those_of_options_source_and_model() {
    let model = Tables::new(7, hashed(7));
    let lengths = |options: &Seq2SeqOptions| -> Vec<usize> {
        run(&model, &[2, 4, 9], options).iter().map(|row| row[0].tokens.len()).collect()
    };
    let endless = Seq2SeqOptions { stop_tokens: vec![], ..four() };
    assert_eq!(lengths(&endless), [8, 8, 8]);
    let share = Seq2SeqOptions { max_new_tokens_per_source_token: 1.5, max_new_tokens: 1, ..endless };
    assert_eq!(lengths(&share), [4, 7, 14]);
    assert_eq!(lengths(&Seq2SeqOptions { num_beams: 1, num_return: 1, max_new_tokens: 10, ..share }), [13, 16, 16]);
}

#[test]
fn fewer_hypotheses_are_returned_where_there_are_fewer() {
    // Two tokens and the end: at most three targets of one token.
    let model = Tables::new(3, hashed(3));
    let options = Seq2SeqOptions { max_new_tokens: 1, ..four() };
    assert_eq!(run(&model, &[4], &options)[0].len(), 3);
    // No token may come twice, the start among them, and the end has to wait: nothing is left after the other one.
    let options = Seq2SeqOptions { min_new_tokens: 3, max_new_tokens: 8, no_repeat_ngram_size: Some(1), ..four() };
    for options in [Seq2SeqOptions { num_beams: 1, num_return: 1, ..options.clone() }, options] {
        let found = &run(&model, &[4], &options)[0];
        assert_eq!((found.len(), &found[0].tokens[..], found[0].stop), (1, &[2][..], None));
    }
}

#[test]
fn nothing_to_do_is_no_error() {
    assert!(run(&Tables::new(7, hashed(7)), &[], &four()).is_empty());
}

#[test]
fn bad_sources_and_logits_are_named() {
    let model = Tables::new(7, hashed(7));
    let error = |sources: &[Vec<u32>]| generate_seq2seq(&model, sources, &four()).unwrap_err().to_string();
    assert_eq!(
        error(&[vec![1], vec![]]),
        "source 1 is empty; give at least one token, such as the one that ends a text"
    );
    assert!(error(&[vec![1; 21]]).starts_with("source 0 has 21 tokens, and the model reads at most 20; cut it"));
    // Tokens of the source are those of its own vocabulary.
    assert!(error(&[vec![49, 50]]).starts_with("source 0: token 50 is outside the source vocabulary of 50"));
    let damaged =
        |target: &[u32], source: usize| vec![if source == 4 && target.len() == 2 { f32::NAN } else { 0.0 }; 7];
    let error = generate_seq2seq(&Tables::new(7, damaged), &sources(&[3, 4]), &four()).unwrap_err().to_string();
    assert!(error.starts_with("row 1: the logits of token 1 are not finite"), "{error}");
}
