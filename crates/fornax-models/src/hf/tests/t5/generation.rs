//! What generation asks of the model: cached logits, and states whose rows are chosen; and what it writes.

use burn::tensor::{Int, Tensor, TensorData};
use fornax_backend::{Precision, test_device};
use serde::Deserialize;

use super::{Batch, Golden, VERSIONS, assert_close, evaluation, load, tolerance, values};
use crate::generate::{EarlyStopping, Hypothesis, Seq2SeqLm, Seq2SeqOptions, generate_seq2seq};

/// Both versions on the padded sources, a ragged batch, with all 38 target tokens.
#[test]
fn cached_logits_equal_uncached_ones() {
    let (device, golden) = (test_device(), Golden::open("t5"));
    for version in VERSIONS {
        let model = load(version, &device);
        let batch = Batch::open(&golden, &format!("{version}.padded"), &device);
        let whole = batch.logits(&model);
        let mut state = Seq2SeqLm::encode(&model, batch.input_ids.clone(), batch.lengths(), 38, &evaluation());
        let mut start = 0;
        // A long beginning, single steps, several tokens onto a filled cache.
        for len in [5, 1, 1, 12, 1, 18] {
            let new = batch.decoder_input_ids.clone().narrow(1, start, len);
            let found = values(model.next_logits(new, &mut state, &evaluation()));
            start += len;
            let wanted = values(whole.clone().narrow(1, start - 1, 1));
            assert_close(&format!("{version} after {start}"), &found, &wanted, tolerance(&device));
        }
        assert_eq!(start, whole.dims()[1]);
    }
}

/// Rows that are dropped, doubled and put in another order go on with their own source and target.
#[test]
fn selected_rows_go_on_with_what_they_had() {
    let (device, golden) = (test_device(), Golden::open("t5"));
    for version in VERSIONS {
        let model = load(version, &device);
        let batch = Batch::open(&golden, &format!("{version}.padded"), &device);
        let whole = batch.logits(&model).narrow(1, 9, 1);
        let mut state = Seq2SeqLm::encode(&model, batch.input_ids.clone(), batch.lengths(), 10, &evaluation());
        model.next_logits(batch.decoder_input_ids.clone().narrow(1, 0, 9), &mut state, &evaluation());
        let rows = Tensor::<1, Int>::from_data(TensorData::from([2i64, 0, 2, 1]), &device);
        model.select(&mut state, &rows);
        let next = batch.decoder_input_ids.narrow(1, 9, 1).select(0, rows.clone());
        let found = values(model.next_logits(next, &mut state, &evaluation()));
        assert_close(version, &found, &values(whole.select(0, rows)), tolerance(&device));
    }
}

/// Rows that change places among those of their source, as beams do, also where sources have different lengths.
#[test]
fn reordered_rows_go_on_with_each_others_targets() {
    let (device, golden) = (test_device(), Golden::open("t5"));
    for version in VERSIONS {
        let model = load(version, &device);
        let batch = Batch::open(&golden, &format!("{version}.padded"), &device);
        let two_each = Tensor::<1, Int>::from_data(TensorData::from([0i64, 0, 1, 1]), &device);
        let targets = batch.decoder_input_ids.clone().select(0, Tensor::from_data([0i64, 1, 2, 0], &device));
        let rows = Tensor::<1, Int>::from_data(TensorData::from([1i64, 1, 3, 2]), &device);
        let state = || {
            let mut state = Seq2SeqLm::encode(&model, batch.input_ids.clone(), batch.lengths(), 10, &evaluation());
            model.select(&mut state, &two_each);
            model.next_logits(targets.clone().narrow(1, 0, 9), &mut state, &evaluation());
            state
        };
        let (mut reordered, mut selected) = (state(), state());
        model.reorder(&mut reordered, &rows);
        model.select(&mut selected, &rows);
        let next = targets.clone().narrow(1, 9, 1);
        let found = values(model.next_logits(next.clone(), &mut reordered, &evaluation()));
        assert_eq!(found, values(model.next_logits(next.clone(), &mut selected, &evaluation())), "{version}");
        assert_ne!(found, values(model.next_logits(next, &mut state(), &evaluation())), "{version}: nothing moved");
    }
}

/// What `transformers` wrote to some sources.
#[derive(Deserialize)]
struct Written {
    sources: Vec<Vec<u32>>,
    max_new_tokens: usize,
    greedy: Vec<Vec<u32>>,
    beams: Vec<Searched>,
}

#[derive(Deserialize)]
struct Searched {
    num_beams: usize,
    length_penalty: f64,
    early_stopping: bool,
    num_return_sequences: usize,
    /// Those of a source stand together, best first.
    continuations: Vec<Vec<u32>>,
    scores: Vec<f64>,
}

fn written(version: &str) -> Written {
    Written::deserialize(&Golden::open("t5").json["generation"][version]).unwrap()
}

/// As the golden file has it: with the token that ended it.
fn continuation(hypothesis: &Hypothesis) -> Vec<u32> {
    hypothesis.tokens.iter().copied().chain(hypothesis.stop).collect()
}

#[test]
fn the_likeliest_tokens_are_those_of_transformers() {
    for version in VERSIONS {
        let (model, wanted) = (load(version, &test_device()), written(version));
        let options = Seq2SeqOptions::greedy(0, vec![1], wanted.max_new_tokens);
        let found = generate_seq2seq(&model, &wanted.sources, &options).unwrap();
        let found: Vec<_> = found.iter().map(|hypotheses| continuation(&hypotheses[0])).collect();
        assert_eq!(found, wanted.greedy, "{version}");
    }
}

#[test]
fn beams_and_their_scores_are_those_of_transformers() {
    let device = test_device();
    for version in VERSIONS {
        let (model, wanted) = (load(version, &device), written(version));
        assert_eq!(wanted.beams.len(), 4);
        for wanted_of in wanted.beams {
            let options = Seq2SeqOptions {
                length_penalty: wanted_of.length_penalty,
                early_stopping: match wanted_of.early_stopping {
                    true => EarlyStopping::FirstFinished,
                    false => EarlyStopping::Heuristic,
                },
                num_return: wanted_of.num_return_sequences,
                ..Seq2SeqOptions::beams(wanted_of.num_beams, 0, vec![1], wanted.max_new_tokens)
            };
            let found = generate_seq2seq(&model, &wanted.sources, &options).unwrap().concat();
            let continuations: Vec<_> = found.iter().map(continuation).collect();
            assert_eq!(continuations, wanted_of.continuations, "{version}: {options:?}");
            let scores: Vec<f32> = found.iter().map(|hypothesis| hypothesis.score as f32).collect();
            let wanted_scores: Vec<f32> = wanted_of.scores.iter().map(|score| *score as f32).collect();
            assert_close(version, &scores, &wanted_scores, tolerance(&device));
        }
    }
}

/// Matrix products of 8 bits change a score, and not by much: T5 was pretrained in bf16.
#[test]
fn bf16_writes_nearly_as_f32() {
    let device = test_device();
    if !Precision::Bf16.is_supported(&device) {
        println!("skipped: the device has no bf16");
        return;
    }
    for version in VERSIONS {
        let (model, sources) = (load(version, &device), written(version).sources);
        // The first token's, where nothing that was chosen before can differ.
        let score = |precision| {
            let options = Seq2SeqOptions { precision, ..Seq2SeqOptions::greedy(0, vec![1], 1) };
            let found = generate_seq2seq(&model, &sources, &options).unwrap();
            found.iter().map(|hypotheses| hypotheses[0].score).collect::<Vec<_>>()
        };
        let (wide, narrow) = (score(Precision::F32), score(Precision::Bf16));
        assert_ne!(wide, narrow);
        // 2^-8 a rounding, of logits of size 4.
        let error = wide.iter().zip(&narrow).fold(0.0_f64, |most, (a, b)| most.max((a - b).abs()));
        assert!(error < 0.1, "{version}: {error}");
    }
}
