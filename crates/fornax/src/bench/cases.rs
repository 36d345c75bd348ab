use std::{
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use bert_mlm::{MaskedLm, ObjectiveConfig};
use burn::module::Module;
use clap::{ValueEnum, builder::PossibleValue};
use fornax_backend::{OpenDevice, Precision};
use fornax_cli::{load, model_folder};
use fornax_data::{Fill, IGNORE_TARGET, MaskedBatch, Seq2SeqBatch, SpecialToken, TokenBatch};
use fornax_models::{
    BertConfig, BertForSequenceClassification, Gpt2Config, T5, T5Config,
    generate::{SamplingOptions, generate},
    hf::{self, LoadClassifier},
};
use fornax_train::{
    Bench, BenchReport, BenchStep, Learner, LearnerSettings, OptimizerConfig, Schedule, ScheduleConfig, ScheduleName,
    Task,
};
use glue::Classify;
use gpt_lm::NextToken;
use serde::Serialize;
use t5_text2text::TextToText;

/// What is measured. But for one they read synthetic tokens, so that nothing is downloaded.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Case {
    /// Train a GPT-2 of 6 layers, 384 wide, on 8 rows of 256 tokens; vocabulary 256
    #[value(name = "gpt-10m")]
    Gpt10m,
    /// Train GPT-2 small on 1 row of 1,024 tokens
    #[value(name = "gpt-124m")]
    Gpt124m,
    /// Train a BERT of 4 layers, 256 wide, on 32 rows of 128 tokens
    BertMini,
    /// Train BERT base on 8 rows of 128 tokens
    BertBase,
    /// Train T5 small (version 1.0) on 4 pairs of 512 and 114 tokens
    T5Small,
    /// Fine-tune the encoder of --model on SST-2, 32 sentences a step
    Sst2Minilm,
    /// Continue a prompt of 16 tokens by 256 with GPT-2 small, greedily, with a cache of keys and values
    #[value(name = "generate-124m")]
    Generate124m,
    /// Train a GPT-2 of 2 layers, 16 wide, on 2 rows of 16 tokens: for tests of this command
    #[value(hide = true)]
    Tiny,
}

/// A case, or all of them.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Selected {
    One(Case),
    All,
}

impl ValueEnum for Selected {
    fn value_variants<'a>() -> &'a [Self] {
        const VARIANTS: [Selected; 9] = [
            Selected::One(Case::Gpt10m),
            Selected::One(Case::Gpt124m),
            Selected::One(Case::BertMini),
            Selected::One(Case::BertBase),
            Selected::One(Case::T5Small),
            Selected::One(Case::Sst2Minilm),
            Selected::One(Case::Generate124m),
            Selected::One(Case::Tiny),
            Selected::All,
        ];
        &VARIANTS
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        match self {
            Self::One(case) => case.to_possible_value(),
            Self::All => Some(PossibleValue::new("all").help("All of these; sst2-minilm only with --model")),
        }
    }
}

impl Case {
    /// Its name on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Rows of a step, unless others are asked for.
    pub(crate) fn batch(self) -> usize {
        match self {
            Self::Gpt124m | Self::Generate124m => 1,
            Self::Tiny => 2,
            Self::T5Small => 4,
            Self::Gpt10m | Self::BertBase => 8,
            Self::BertMini | Self::Sst2Minilm => 32,
        }
    }

    /// Timed steps, unless others are asked for. A step of generation is a whole text, of 256 tokens.
    pub(crate) fn steps(self) -> usize {
        if self == Self::Generate124m { 3 } else { 10 }
    }

    /// Builds the model and times its steps.
    pub(crate) fn measure(self, setting: &Setting) -> anyhow::Result<Measured> {
        let gpt2_small = Gpt2Config { dropout: 0.0, ..Gpt2Config::default() };
        let bert_base = BertConfig { dropout: 0.0, ..BertConfig::default() };
        match self {
            Self::Gpt10m => gpt(&gpt_sizes(256, 256, 384, 6), setting),
            Self::Gpt124m => gpt(&gpt2_small, setting),
            Self::BertMini => bert(&bert_mini(), 128, setting),
            Self::BertBase => bert(&bert_base, 128, setting),
            Self::T5Small => t5(&T5Config { dropout: 0.0, ..T5Config::default() }, [512, 114], setting),
            Self::Sst2Minilm => sst2(setting),
            Self::Generate124m => generation(&gpt2_small, [16, 256], setting),
            Self::Tiny => gpt(&gpt_sizes(64, 16, 16, 2), setting),
        }
    }
}

/// What a case is measured with.
pub(crate) struct Setting {
    pub(crate) device: OpenDevice,
    pub(crate) precision: Precision,
    /// Timed steps.
    pub(crate) steps: usize,
    /// Rows of a step.
    pub(crate) batch: usize,
    /// The checkpoint to fine-tune.
    pub(crate) model: Option<PathBuf>,
    /// When the process was started, in seconds since 1970.
    pub(crate) started: f64,
}

/// What the process of a run prints.
#[derive(Serialize, Debug)]
pub(crate) struct Measured {
    #[serde(flatten)]
    report: BenchReport,
    /// Milliseconds from the start of the process to the end of its first step, or to its first token.
    start_up_ms: Option<f64>,
}

/// Seconds since 1970.
pub(crate) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

impl Setting {
    fn start_up_ms(&self) -> f64 {
        (now() - self.started) * 1e3
    }
}

/// What all weights are drawn from.
const SEED: u64 = 1;

/// BERT's mask token.
const MASK: i32 = 103;

/// Of so many positions one is predicted: about the published 15 %.
const MASK_EVERY: usize = 7;

fn gpt_sizes(vocab_size: usize, max_positions: usize, hidden_size: usize, num_layers: usize) -> Gpt2Config {
    let num_heads = hidden_size.div_ceil(64);
    Gpt2Config { vocab_size, max_positions, hidden_size, num_layers, num_heads, dropout: 0.0, ..Gpt2Config::default() }
}

fn bert_mini() -> BertConfig {
    BertConfig {
        hidden_size: 256,
        num_layers: 4,
        num_heads: 4,
        intermediate_size: 1_024,
        dropout: 0.0,
        ..BertConfig::default()
    }
}

/// Token `index` of a synthetic text, which looks random and is the same everywhere.
fn token(index: usize, vocab_size: usize) -> i32 {
    (index * 7_919 % vocab_size) as i32
}

/// `len` tokens of a synthetic text from `start` on.
fn tokens(start: usize, len: usize, vocab_size: usize) -> impl Iterator<Item = i32> {
    (start..start + len).map(move |index| token(index, vocab_size))
}

fn examples(batch: usize) -> Vec<u64> {
    (0..batch as u64).collect()
}

/// Next tokens of rows as long as the model's positions: each row has a token more, and predicts all but its first.
fn gpt(sizes: &Gpt2Config, setting: &Setting) -> anyhow::Result<Measured> {
    let (batch, seq_len, vocab_size) = (setting.batch, sizes.max_positions, sizes.vocab_size);
    let rows =
        |from: usize| (0..batch).flat_map(move |row| tokens(row * (seq_len + 1) + from, seq_len, vocab_size)).collect();
    let batch = TokenBatch { input_ids: rows(0), targets: rows(1), batch, seq_len, examples: examples(batch) };
    let model = sizes.init(SEED, &setting.device.device.clone().autodiff())?;
    train_on_one(model, sizes.training_flops_per_token(seq_len), &NextToken, &batch, setting)
}

/// Masked tokens, one of [`MASK_EVERY`], whose logits alone are computed.
fn bert(sizes: &BertConfig, seq_len: usize, setting: &Setting) -> anyhow::Result<Measured> {
    let (batch, positions) = (setting.batch, setting.batch * seq_len);
    let masked = |position: usize| position.is_multiple_of(MASK_EVERY);
    let text: Vec<i32> = tokens(0, positions, sizes.vocab_size).collect();
    let choose = |hidden: fn(i32) -> i32, shown: fn(i32) -> i32| {
        let chosen = text.iter().enumerate().map(|(at, id)| if masked(at) { hidden(*id) } else { shown(*id) });
        chosen.collect()
    };
    let batch = MaskedBatch {
        input_ids: choose(|_| MASK, |id| id),
        token_type_ids: vec![0; positions],
        lengths: vec![seq_len as i32; batch],
        targets: choose(|id| id, |_| IGNORE_TARGET),
        sentence_labels: None,
        batch,
        seq_len,
        examples: examples(batch),
    };
    let head = 6 * sizes.hidden_size * (sizes.hidden_size + sizes.vocab_size);
    let share = batch.target_count() as f64 / positions as f64;
    let flops = sizes.training_flops_per_token(seq_len) + share * head as f64;
    let model = sizes.init_masked_lm(SEED, &setting.device.device.clone().autodiff())?;
    train_on_one(model, flops, &MaskedLm::new(&ObjectiveConfig::default()), &batch, setting)
}

/// Targets from sources, of so many tokens each.
fn t5(sizes: &T5Config, [source, target]: [usize; 2], setting: &Setting) -> anyhow::Result<Measured> {
    T5::check_precision(setting.precision)?;
    let pair = |row: usize| {
        let mut pair: Vec<i32> = tokens(row * (source + target), source + target, sizes.vocab_size).collect();
        let target = pair.split_off(source);
        (pair, target)
    };
    let pairs: Vec<_> = (0..setting.batch).map(pair).collect();
    let fill = Fill { pad_id: sizes.pad_token as i32, start_id: sizes.start_token as i32 };
    let batch = Seq2SeqBatch::collate(&pairs, examples(setting.batch), fill);
    let model = sizes.init(SEED, &setting.device.device.clone().autodiff())?;
    train_on_one(model, sizes.training_flops_per_token(source, target), &TextToText, &batch, setting)
}

/// What the recipe `glue` does with its default config, but for the optimizer of the other cases.
fn sst2(setting: &Setting) -> anyhow::Result<Measured> {
    let folder = setting.model.as_deref().map(model_folder).context("sst2-minilm needs --model DIR")?;
    let mut config: glue::Config = load(None, glue::DEFAULT_CONFIG, &[])?.config;
    config.tokenizer.from = Some(folder.display().to_string());
    config.train.micro_batch_size = setting.batch;
    let model = open_classifier(&folder, setting)?;
    let sizes = model.bert.config();
    config.data.max_len = config.data.max_len.min(sizes.max_positions);
    let data = glue::Data::open(&config, None)?;
    let tokenizer = &data.tokenizer;
    sizes.check_tokenizer(tokenizer.vocab_size(), tokenizer.special_id(SpecialToken::Pad).ok())?;
    let flops = sizes.training_flops_per_token(config.data.max_len);
    let mut loader = data.loader(0..u64::MAX)?;
    train(model, flops, &Classify, setting, || {
        let (_, micro_batches) = loader.next().context("the loader ended before the bench")??;
        Ok(micro_batches)
    })
}

fn open_classifier(folder: &Path, setting: &Setting) -> anyhow::Result<BertForSequenceClassification> {
    let labels = Some(["negative", "positive"].map(str::to_owned).to_vec());
    let options = LoadClassifier { labels, replace_head: true, seed: SEED, ..LoadClassifier::default() };
    let device = setting.device.device.clone().autodiff();
    Ok(hf::load_bert_for_sequence_classification(folder, &options, &device).context("--model")?.0)
}

/// Continues prompts; a step is so many new tokens, of which each row of the batch gets as many. Its time is given a token.
fn generation(sizes: &Gpt2Config, [prompt, new]: [usize; 2], setting: &Setting) -> anyhow::Result<Measured> {
    let row = |row: usize| tokens(row * prompt, prompt, sizes.vocab_size).map(|id| id as u32).collect();
    let prompts: Vec<Vec<u32>> = (0..setting.batch).map(row).collect();
    let model = sizes.init(SEED, &setting.device.device)?;
    let bench = Bench {
        warmup: 1,
        steps: setting.steps,
        device: setting.device.spec.to_string(),
        precision: setting.precision.to_string(),
        parameters: sizes.num_parameters() as u64,
        // A third of a step of training, over the tokens that are seen on the mean.
        flops_per_token: Some(sizes.training_flops_per_token(prompt + new / 2) / 3.0),
        peak_flops: setting.device.peak_flops(setting.precision),
    };
    let options = SamplingOptions { precision: setting.precision, ..SamplingOptions::greedy(new) };
    let mut start_up_ms = None;
    let mut report = bench.run(|_| {
        let mut heard = |_, _| {
            start_up_ms.get_or_insert_with(|| setting.start_up_ms());
        };
        let texts = generate(&model, &prompts, &options, &mut heard)?;
        anyhow::Ok(BenchStep { loss: 0.0, tokens: texts.iter().map(Vec::len).sum() })
    })?;
    report.step_ms /= new as f64;
    report.losses.clear();
    Ok(Measured { report, start_up_ms })
}

/// Times steps on the same batch over and over.
fn train_on_one<M, T>(model: M, flops: f64, task: &T, batch: &T::Batch, setting: &Setting) -> anyhow::Result<Measured>
where
    M: Module,
    T: Task<M>,
    T::Batch: Clone,
{
    train(model, flops, task, setting, || Ok(vec![batch.clone()]))
}

/// Times steps of AdamW with a learning rate of 3e-4 and PyTorch's other defaults, without clipping.
fn train<M: Module, T: Task<M>>(
    model: M,
    flops_per_token: f64,
    task: &T,
    setting: &Setting,
    mut next: impl FnMut() -> anyhow::Result<Vec<T::Batch>>,
) -> anyhow::Result<Measured> {
    let optimizer = OptimizerConfig { lr: 3e-4, max_grad_norm: 0.0, ..OptimizerConfig::default() };
    let constant = ScheduleConfig { name: ScheduleName::Constant, ..ScheduleConfig::default() };
    let schedule = Schedule::new(&constant, optimizer.lr, 1)?;
    let settings =
        LearnerSettings { optimizer, schedule, seed: SEED, precision: setting.precision, checkpoint_blocks: false };
    let mut learner = Learner::new(model, settings)?;
    let bench = Bench::of(setting.steps, &learner, &setting.device, flops_per_token);
    let mut start_up_ms = None;
    let report = bench.run_learner(&mut learner, task, |step| {
        // The step before has been read from the device by now.
        if step == 1 {
            start_up_ms = Some(setting.start_up_ms());
        }
        next()
    })?;
    Ok(Measured { report, start_up_ms })
}

#[cfg(test)]
mod tests {
    use fornax_backend::{DeviceSpec, Family, open};

    use super::*;

    fn setting() -> Setting {
        let cpu = if Family::Flex.is_compiled() { Family::Flex } else { Family::LibTorch };
        let device = open(&DeviceSpec::family(cpu)).unwrap();
        Setting { device, precision: Precision::F32, steps: 5, batch: 2, model: None, started: now() }
    }

    /// The loss falls from near that of a guess among all tokens, the tokens are counted, and the first step ends before the last.
    fn check(measured: &Measured, vocab_size: usize) {
        let Measured { report, start_up_ms } = measured;
        let (first, last) = (report.losses[0], report.losses[7]);
        assert_eq!((report.losses.len(), report.steps), (8, 5));
        assert!((first - (vocab_size as f64).ln()).abs() < 0.3 && last < first, "{report:?}");
        assert!(start_up_ms.unwrap() > 0.0 && report.step_ms > 0.0 && report.peak_memory_bytes.is_some());
    }

    #[test]
    fn each_kind_of_model_learns_its_synthetic_batch() {
        check(&gpt(&gpt_sizes(64, 16, 16, 2), &setting()).unwrap(), 64);
        let small = BertConfig { vocab_size: 128, hidden_size: 32, intermediate_size: 64, ..bert_mini() };
        check(&bert(&small, 16, &setting()).unwrap(), 128);
    }

    /// T5 begins far above the loss of a guess: its embeddings, and so its logits, are large.
    #[test]
    fn t5_learns_its_synthetic_pairs_and_refuses_f16() {
        let small = T5Config {
            vocab_size: 64,
            hidden_size: 16,
            head_dim: 8,
            num_heads: 2,
            intermediate_size: 32,
            num_layers: 1,
            dropout: 0.0,
            ..T5Config::default()
        };
        let report = t5(&small, [8, 4], &setting()).unwrap().report;
        assert!(report.losses[7] < report.losses[0], "{report:?}");
        let half = Setting { precision: Precision::F16, ..setting() };
        assert!(t5(&small, [8, 4], &half).unwrap_err().to_string().contains("65,504"));
    }

    #[test]
    fn generation_gives_the_time_of_a_token() {
        let sizes = gpt_sizes(64, 16, 16, 2);
        let Measured { report, start_up_ms } = generation(&sizes, [4, 8], &setting()).unwrap();
        assert!(report.losses.is_empty() && start_up_ms.unwrap() > 0.0);
        // Two rows get a token each in the time of one; median and mean are of the same five texts.
        let of_median = report.tokens_per_second * report.step_ms / 1e3;
        assert!((0.5..8.0).contains(&of_median), "{report:?}");
        assert_eq!(report.parameters, sizes.num_parameters() as u64);
    }

    #[test]
    fn the_tokens_are_those_of_the_peer() {
        assert_eq!(tokens(0, 4, 256).collect::<Vec<_>>(), [0, 239, 222, 205]);
        assert_eq!(tokens(257, 2, 256).collect::<Vec<_>>(), [239, 222]);
    }

    #[test]
    fn the_sizes_are_those_of_the_names() {
        assert_eq!(gpt_sizes(256, 256, 384, 6).num_heads, 6);
        assert_eq!(gpt_sizes(256, 256, 384, 6).num_parameters(), 10_844_160);
        assert_eq!(Gpt2Config::default().num_parameters(), 124_439_808);
        assert_eq!(T5Config::default().num_parameters(), 60_506_624);
        let names: Vec<_> = Selected::value_variants().iter().filter_map(ValueEnum::to_possible_value).collect();
        assert!(Case::value_variants().iter().all(|case| names.iter().any(|name| name.get_name() == case.name())));
    }
}
