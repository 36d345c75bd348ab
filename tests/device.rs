//! A model learns, saves and generates the same on every backend. Small shapes: a software rasteriser must manage.

use bert_mlm::{MaskedLm, ObjectiveConfig};
use burn::{
    module::Module,
    tensor::{Device, Int, Tensor, TensorData},
};
use fornax_backend::{ALLOW_SOFTWARE, DeviceSpec, Family, Precision, test_device};
use fornax_data::{
    Fill, IGNORE_TARGET, MaskedBatch, PairKind, Seq2SeqBatch, TokenBatch,
    labelled::{LabelledBatch, Labels},
};
use fornax_models::{
    BertConfig, ClassifierConfig, Gpt2, Gpt2Config, Pooling, T5Config, TransformerConfig,
    generate::{SamplingOptions, generate},
};
use fornax_nn::{Init, initialise};
use fornax_ops::{AttentionMask, Context};
use fornax_tests::{Lab, Outcome, RunFolder, test_device_name};
use fornax_train::{Learner, LearnerSettings, OptimizerConfig, Schedule, ScheduleConfig, ScheduleName, Task};
use glue::Classify;
use gpt_lm::NextToken;
use t5_text2text::TextToText;
use translate::NextTargetToken;

use crate::lab;

const ROWS: usize = 2;
const SEQ_LEN: usize = 16;

/// How far two backends may be apart: the bound that the project sets itself, a thousand times the rounding of `f32`.
const TOLERANCE: f64 = 2e-4;

/// The first twenty losses of `first_losses` on `flex`.
const FLEX_LOSSES: [f64; 20] = [
    4.127413, 4.110492, 4.080361, 4.028146, 3.994632, 3.814033, 3.846293, 3.944583, 3.676229, 3.742126, 3.581268,
    3.544688, 3.472231, 3.558497, 3.442515, 3.297960, 3.321300, 3.336413, 3.414232, 3.045918,
];

/// The losses of `encoder_losses` on `flex`.
const FLEX_ENCODER_LOSSES: [f64; 6] = [1.098899, 1.073547, 1.037944, 4.804127, 4.859983, 4.873515];

/// The losses of `encoder_decoder_losses` on `flex`.
const FLEX_ENCODER_DECODER_LOSSES: [f64; 3] = [4.486702, 4.536106, 4.407546];

/// Span corruption of the embedded prose, byte by byte: a tokenizer that needs no training.
const PROSE: &str = r#"
[model]
hidden_size = 16
head_dim = 8
num_heads = 2
intermediate_size = 32
num_layers = 1
dropout = 0.0

[tokenizer]
kind = "byte"
end_of_text = true

[data]
part = "prose"

[objective]
seq_len = 32

[train]
max_steps = 20
micro_batch_size = 4
log_every = 1

[optimizer]
name = "adamw_scaled"
lr = 3e-2

[schedule]
name = "constant"

[eval]
max_batches = 1
"#;

/// The losses of `translation_losses` on `flex`.
const FLEX_TRANSLATION_LOSSES: [f64; 3] = [4.481589, 4.553452, 4.311473];

fn config() -> Gpt2Config {
    Gpt2Config {
        vocab_size: 61,
        max_positions: SEQ_LEN,
        hidden_size: 16,
        num_layers: 2,
        num_heads: 2,
        dropout: 0.1,
        ..Gpt2Config::default()
    }
}

/// Text in which every token but the first of a row follows from the one before, so that there is something to learn.
fn batch(step: u64) -> TokenBatch {
    let row = |row: usize| {
        let first = (step as i32 * 7 + row as i32 * 29) % 61;
        std::iter::successors(Some(first), |token| Some((token * 3 + 5) % 61)).take(SEQ_LEN + 1).collect::<Vec<_>>()
    };
    let rows: Vec<Vec<i32>> = (0..ROWS).map(row).collect();
    TokenBatch {
        input_ids: rows.iter().flat_map(|row| row[..SEQ_LEN].to_vec()).collect(),
        targets: rows.iter().flat_map(|row| row[1..].to_vec()).collect(),
        batch: ROWS,
        seq_len: SEQ_LEN,
        examples: vec![0; ROWS],
    }
}

fn learner(config: &Gpt2Config, lr: f64, device: &Device) -> Learner<Gpt2> {
    Learner::new(config.init(42, &device.clone().autodiff()).unwrap(), settings(lr)).unwrap()
}

fn settings(lr: f64) -> LearnerSettings {
    let schedule = ScheduleConfig { name: ScheduleName::Constant, ..ScheduleConfig::default() };
    LearnerSettings {
        optimizer: OptimizerConfig { lr, ..OptimizerConfig::default() },
        schedule: Schedule::new(&schedule, lr, 100).unwrap(),
        seed: 42,
        precision: Precision::F32,
        checkpoint_blocks: false,
    }
}

fn losses(learner: &mut Learner<Gpt2>, steps: u64, batch: impl Fn(u64) -> Vec<TokenBatch>) -> Vec<f64> {
    let step = |step| {
        learner.train_step(step, &batch(step), &NextToken).unwrap();
        learner.take_window().unwrap().unwrap().loss
    };
    (0..steps).map(step).collect()
}

/// Twenty losses with dropout and accumulation, whose noise and sums have to be the same everywhere.
fn first_losses(device: &Device) -> Vec<f64> {
    losses(&mut learner(&config(), 1e-2, device), 20, |step| vec![batch(2 * step), batch(2 * step + 1)])
}

#[track_caller]
fn assert_close(losses: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(losses.len(), expected.len());
    for (loss, expected) in losses.iter().zip(expected) {
        assert!((loss - expected).abs() <= tolerance * expected.abs(), "{loss} is not {expected}, in {losses:?}");
    }
}

#[test]
fn the_first_losses_are_those_of_flex() {
    let found = first_losses(&test_device());
    assert_close(&found, &FLEX_LOSSES, TOLERANCE);
    if Family::Flex.is_compiled() {
        let flex = fornax_backend::open(&DeviceSpec::family(Family::Flex)).unwrap();
        assert_close(&found, &first_losses(&flex.device), TOLERANCE);
    }
}

fn learner_with(settings: LearnerSettings, device: &Device) -> Learner<Gpt2> {
    Learner::new(config().init(42, &device.clone().autodiff()).unwrap(), settings).unwrap()
}

#[test]
fn checkpointed_blocks_change_no_loss() {
    let mut learner = learner_with(LearnerSettings { checkpoint_blocks: true, ..settings(1e-2) }, &test_device());
    let found = losses(&mut learner, 20, |step| vec![batch(2 * step), batch(2 * step + 1)]);
    assert_close(&found, &FLEX_LOSSES, TOLERANCE);
}

/// A product in f16 is off by 2^-11 of its operands' size, and so are a few dozen of them in a row.
#[test]
fn losses_in_f16_are_nearly_the_same() {
    let device = test_device();
    if !Precision::F16.is_supported(&device) {
        return eprintln!("skipped: the device doesn't compute in f16");
    }
    let mut learner = learner_with(LearnerSettings { precision: Precision::F16, ..settings(1e-2) }, &device);
    let found = losses(&mut learner, 10, |step| vec![batch(2 * step), batch(2 * step + 1)]);
    assert_close(&found, &FLEX_LOSSES[..10], 1e-2);
}

fn encoder() -> BertConfig {
    BertConfig {
        vocab_size: 61,
        max_positions: SEQ_LEN,
        hidden_size: 16,
        num_layers: 2,
        num_heads: 2,
        intermediate_size: 32,
        dropout: 0.1,
        ..BertConfig::default()
    }
}

/// Rows of unequal length, `SEQ_LEN` and four tokens fewer, filled up with 0.
fn padded_rows(step: u64) -> (Vec<i32>, Vec<i32>) {
    let mut ids = batch(step).input_ids;
    ids[2 * SEQ_LEN - 4..].fill(0);
    (ids, vec![SEQ_LEN as i32, SEQ_LEN as i32 - 4])
}

fn labelled(step: u64) -> LabelledBatch {
    let (input_ids, lengths) = padded_rows(step);
    LabelledBatch {
        input_ids,
        token_type_ids: vec![0; ROWS * SEQ_LEN],
        lengths,
        labels: Labels::Classes(vec![(step % 3) as i32, 2]),
        batch: ROWS,
        seq_len: SEQ_LEN,
        examples: vec![0; ROWS],
    }
}

fn masked(step: u64) -> MaskedBatch {
    let (mut input_ids, lengths) = padded_rows(step);
    let mut targets = vec![IGNORE_TARGET; ROWS * SEQ_LEN];
    for position in [1, 6, SEQ_LEN + 2, SEQ_LEN + 9] {
        targets[position] = std::mem::replace(&mut input_ids[position], 60);
    }
    let second = |row: usize| (0..SEQ_LEN).map(move |i| i32::from(i >= 8 - row));
    MaskedBatch {
        input_ids,
        token_type_ids: (0..ROWS).flat_map(second).collect(),
        lengths,
        targets,
        sentence_labels: Some(vec![0, 1]),
        batch: ROWS,
        seq_len: SEQ_LEN,
        examples: vec![0; ROWS],
    }
}

/// Three losses of a classifier and of pretraining with sentence pairs, with dropout, padding and accumulation.
fn encoder_losses(device: &Device) -> Vec<f64> {
    let device = device.clone().autodiff();
    let classifier = ClassifierConfig::numbered(3, Pooling::Cls);
    let classifier = encoder().init_sequence_classification(&classifier, 42, &device).unwrap();
    let pretraining = encoder().init_pretraining(42, &device).unwrap();
    let objective = ObjectiveConfig { sentence_pairs: Some(PairKind::NextSentence), ..ObjectiveConfig::default() };
    let mut found = three_losses(classifier, &Classify, labelled);
    found.extend(three_losses(pretraining, &MaskedLm::new(&objective), masked));
    found
}

fn three_losses<M: Module, T: Task<M>>(model: M, task: &T, batch: impl Fn(u64) -> T::Batch) -> Vec<f64> {
    let mut learner = Learner::new(model, settings(1e-2)).unwrap();
    let step = |step| {
        learner.train_step(step, &[batch(2 * step), batch(2 * step + 1)], task).unwrap();
        learner.take_window().unwrap().unwrap().loss
    };
    (0..3).map(step).collect()
}

#[test]
fn the_first_losses_of_an_encoder_are_those_of_flex() {
    let found = encoder_losses(&test_device());
    assert_close(&found, &FLEX_ENCODER_LOSSES, TOLERANCE);
}

/// Sources and targets of unequal length, made of the rows of `batch`.
fn pairs(step: u64) -> Seq2SeqBatch {
    let ids = batch(step).input_ids;
    let pair = |row: usize| {
        let row_ids = &ids[row * SEQ_LEN..(row + 1) * SEQ_LEN];
        (row_ids[..SEQ_LEN - 4 * row].to_vec(), [&row_ids[3..7 + row], &[1]].concat())
    };
    Seq2SeqBatch::collate(&[pair(0), pair(1)], vec![0, 1], Fill { pad_id: 0, start_id: 0 })
}

/// Three losses of an encoder-decoder, with dropout, padding on both sides and accumulation.
fn encoder_decoder_losses(device: &Device) -> Vec<f64> {
    let sizes = T5Config {
        vocab_size: 61,
        hidden_size: 16,
        head_dim: 8,
        num_heads: 2,
        intermediate_size: 32,
        num_layers: 2,
        ..T5Config::default()
    };
    three_losses(sizes.init(42, &device.clone().autodiff()).unwrap(), &TextToText, pairs)
}

/// Sources of unequal length, and targets that are theirs backwards, one of them shorter.
fn sentences(step: u64) -> Seq2SeqBatch {
    let ids = batch(step).input_ids;
    let rows: Vec<_> = ids.chunks(SEQ_LEN).zip([SEQ_LEN, SEQ_LEN - 4]).map(|(row, len)| row[..len].to_vec()).collect();
    let target = |row: &Vec<i32>| row.iter().rev().copied().skip(2).chain([1]).collect();
    let pairs: Vec<(Vec<i32>, Vec<i32>)> = rows.iter().map(|row| (row.clone(), target(row))).collect();
    Seq2SeqBatch::collate(&pairs, vec![0; ROWS], Fill { pad_id: 0, start_id: 2 })
}

/// Three losses of a Transformer, with dropout, label smoothing, padding and accumulation.
fn translation_losses(device: &Device) -> Vec<f64> {
    let sizes = TransformerConfig {
        source_vocab_size: 61,
        target_vocab_size: 61,
        max_positions: SEQ_LEN,
        hidden_size: 16,
        num_layers: 2,
        num_heads: 2,
        intermediate_size: 32,
        ..TransformerConfig::default()
    };
    let model = sizes.init(42, &device.clone().autodiff()).unwrap();
    three_losses(model, &NextTargetToken { label_smoothing: 0.1 }, sentences)
}

#[test]
fn the_first_losses_of_an_encoder_decoder_are_those_of_flex() {
    let found = encoder_decoder_losses(&test_device());
    assert_close(&found, &FLEX_ENCODER_DECODER_LOSSES, TOLERANCE);
}

#[test]
fn hidden_spans_of_the_embedded_prose_are_learned() {
    let lab = lab();
    lab.write("prose.toml", PROSE);
    let mut command = lab.command("t5-text2text", &["prose.toml", "--run-dir", "run", "--device", &test_device_name()]);
    command.env(ALLOW_SOFTWARE, "1");
    Outcome::of(command).ok();
    let losses = lab.run("run").train_losses();
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    assert!(mean(&losses[15..]) < mean(&losses[..5]) - 1.0, "{losses:?}");
}

#[test]
fn the_first_losses_of_a_translation_are_those_of_flex() {
    let found = translation_losses(&test_device());
    assert_close(&found, &FLEX_TRANSLATION_LOSSES, TOLERANCE);
}

#[test]
fn two_trainings_are_equal() {
    let device = test_device();
    assert_eq!(first_losses(&device), first_losses(&device));
}

/// At initialisation the logits are sums of 16 products of a normed number and a weight from N(0, 0.02): their deviation is 0.08,
/// which adds 0.08² / 2 to the loss, and the mean over 32 targets strays by 0.08 / √32. The bound is three times that.
#[test]
fn the_first_loss_is_that_of_a_uniform_guess() {
    let loss = losses(&mut learner(&config(), 1e-3, &test_device()), 1, |_| vec![batch(0)])[0];
    assert!((loss - 61f64.ln()).abs() < 0.05, "{loss} is not near ln(61) = {}", 61f64.ln());
}

#[test]
fn one_batch_is_learned_by_heart() {
    let config = Gpt2Config { dropout: 0.0, ..config() };
    let losses = losses(&mut learner(&config, 2e-2, &test_device()), 80, |_| vec![batch(0)]);
    assert!(losses[79] < 0.1, "{losses:?}");
}

/// Weights ten times as large as at initialisation: with those, logits differ by more than rounding.
#[test]
fn cached_greedy_generation_is_that_without_a_cache() {
    let device = test_device();
    let model = Gpt2Config { max_positions: 24, ..config() }.init(42, &device).unwrap();
    let model = initialise(model, 7, |path, _| match path.ends_with("gamma") {
        true => Init::Constant(1.0),
        false => Init::Normal { mean: 0.0, std: 0.2 },
    });
    let prompts = [vec![5, 20, 4], vec![9]];
    let cached = generate(&model, &prompts, &SamplingOptions::greedy(10), &mut |_, _| ()).unwrap();
    for (prompt, cached) in prompts.iter().zip(cached) {
        let mut tokens = prompt.clone();
        for _ in 0..10 {
            tokens.push(likeliest_next(&model, &tokens, &device));
        }
        assert_eq!(cached, tokens[prompt.len()..], "after {prompt:?}");
    }
}

fn likeliest_next(model: &Gpt2, tokens: &[u32], device: &Device) -> u32 {
    let ids: Vec<i32> = tokens.iter().map(|&token| token as i32).collect();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, tokens.len()]), device);
    let logits = model.forward(ids, &AttentionMask::None, &Context::evaluation(Precision::F32));
    let values: Vec<f32> = logits.into_data().iter::<f32>().collect();
    let last = &values[values.len() - 61..];
    last.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(index, _)| index as u32).unwrap()
}

/// Two steps of two rows are enough for a rasteriser; checkpoints and evaluations come with them.
fn train_on(lab: &Lab, device: &str, folder: &str, more: &[&str]) -> Outcome {
    let mut command = lab.command("gpt-lm", &[&["small.toml", "--run-dir", folder, "--device", device], more].concat());
    command.env(ALLOW_SOFTWARE, "1");
    Outcome::of(command).ok()
}

fn small_lab() -> Lab {
    let lab = lab();
    lab.write_config("small.toml", &[("micro_batch_size = 4", "micro_batch_size = 2")]);
    lab
}

#[test]
fn the_program_trains_on_the_device_and_a_checkpoint_goes_from_backend_to_backend() {
    let lab = small_lab();
    let device = test_device_name();
    // Without `flex` in the build the test device takes both places.
    let flex = if Family::Flex.is_compiled() { "flex" } else { device.as_str() };
    // The schedule of a run is that of its first length, so each half starts as the whole does.
    let short = ["--set", "eval.max_batches=1", "--set", "schedule.name=constant"];
    let half = [short.as_slice(), &["--max-steps", "5"]].concat();
    let whole = [short.as_slice(), &["--max-steps", "10", "--resume"]].concat();

    train_on(&lab, flex, "straight", &[short.as_slice(), &["--max-steps", "10"]].concat());
    let straight = lab.run("straight");
    let same = |run: &RunFolder| assert_close(&run.train_losses(), &straight.train_losses(), TOLERANCE);

    let first = train_on(&lab, &device, "there", &half);
    let there = lab.run("there");
    assert!(there.summary().device.starts_with(&device), "{first:?}");
    assert!(first.stderr.contains(&format!("device {}", there.summary().device)), "{first:?}");
    train_on(&lab, flex, "there", &whole);
    same(&there);

    train_on(&lab, flex, "back", &half);
    train_on(&lab, &device, "back", &whole);
    let back = lab.run("back");
    assert!(back.summary().device.starts_with(&device));
    same(&back);
}
