use std::sync::LazyLock;

use proptest::prelude::*;
use tokenizers::AddedToken;

use super::*;
use crate::store::tests::memory;
use crate::tokenizer::{TokenizerConfig, TokenizerKind};
use crate::{DenoisingKind, Part, Split, dataset};

pub(crate) const TEXT: &str = "The farmer led the old horse to the river. The horse drank, and the river ran on. \
    At night the farmer slept by the fire, and the horse stood under the stars.";

/// [`trained`] on [`TEXT`].
pub(crate) static T5: LazyLock<(Tokenizer, Vec<i32>)> = LazyLock::new(|| trained(TEXT, 90));

/// A Unigram tokenizer of `text` with T5's special tokens, UL2's modes and 100 sentinels, which have falling ids as in T5.
fn trained(text: &str, vocab_size: usize) -> (Tokenizer, Vec<i32>) {
    let config = TokenizerConfig { kind: TokenizerKind::Unigram, vocab_size, ..TokenizerConfig::default() };
    let json = Tokenizer::train(&config, &memory(&[text])).unwrap().to_json().unwrap();
    let mut pipeline: tokenizers::Tokenizer = json.parse().unwrap();
    let names = || (0..100).map(|n| format!("<extra_id_{n}>"));
    let added = ["[R]", "[S]", "[X]"].map(str::to_owned).into_iter().chain(names().rev());
    pipeline.add_special_tokens(added.map(|name| AddedToken::from(name, true))).unwrap();
    let tokenizer = Tokenizer::new(pipeline, "t5".as_ref()).unwrap();
    let sentinels = names().map(|name| tokenizer.token_to_id(&name).unwrap() as i32).collect();
    (tokenizer, sentinels)
}

pub(crate) fn denoising(config: &str, seed: u64) -> Denoising {
    let (tokenizer, sentinels) = &*T5;
    Denoising::new(&toml::from_str(config).unwrap(), tokenizer, sentinels.clone(), seed).unwrap()
}

fn refusal(config: &str, sentinels: usize) -> String {
    let (tokenizer, ids) = &*T5;
    Denoising::new(&toml::from_str(config).unwrap(), tokenizer, ids[..sentinels].to_vec(), 1).unwrap_err().to_string()
}

const ALL_KINDS: [&str; 3] = ["kind = \"span_corruption\"", "kind = \"prefix_lm\"", "kind = \"ul2\""];

/// Tokens of [`T5`] that are text.
const WORDS: std::ops::Range<i32> = 3..41;

/// A block of text.
fn block(len: usize) -> Vec<i32> {
    WORDS.cycle().take(len).collect()
}

#[test]
fn every_block_gives_a_source_and_a_target_of_the_same_lengths() {
    let it = denoising("", 1);
    assert_eq!((it.seq_len(), it.block_len(), it.target_len()), (512, 568, 114));
    for example in 0..20 {
        let (source, target) = it.apply(&block(568), Some(0), example).unwrap();
        assert_eq!((source.len(), target.len()), (512, 114));
        // `</s>`.
        assert_eq!((source.last(), target.last()), (Some(&1), Some(&1)));
    }
}

#[test]
fn a_prefix_and_its_rest_share_a_block() {
    let it = denoising("kind = \"prefix_lm\"\nseq_len = 64", 1);
    assert_eq!((it.block_len(), it.target_len()), (64, 64));
    let (mut longest_source, mut longest_target) = (0, 0);
    for example in 0..1000 {
        let (source, target) = it.apply(&block(64), Some(0), example).unwrap();
        assert_eq!([&source[..source.len() - 1], &target[..target.len() - 1]].concat(), block(64));
        assert_eq!((source.last(), target.last()), (Some(&1), Some(&1)));
        (longest_source, longest_target) = (longest_source.max(source.len()), longest_target.max(target.len()));
    }
    assert_eq!((longest_source, longest_target), (64, 64));
}

#[test]
fn each_denoiser_of_a_mixture_fills_the_encoder_and_none_exceeds_it() {
    let it = denoising("kind = \"ul2\"", 1);
    // One position is the mode's. Of the fourth, a longer block would have more spans than there are sentinels.
    let lens: Vec<usize> = it.denoisers.iter().map(|it| it.block_len).collect();
    assert_eq!(lens, [567, 587, 511, 602, 906, 599, 1004]);
    assert_eq!((it.block_len(), it.target_len()), (511, 511));
    let (mut longest, mut longest_target, mut tokens) = (0, 0, 0);
    for example in 0..3000 {
        let denoiser = it.denoiser(Some(0), example);
        assert_eq!(it.block_len_of(Some(0), example), lens[denoiser]);
        let (source, target) = it.apply(&block(lens[denoiser]), Some(0), example).unwrap();
        assert!(source.len() == 512 || [2, 3].contains(&denoiser), "{} of {denoiser}", source.len());
        longest = longest.max(source.len());
        longest_target = longest_target.max(target.len());
        tokens += source.len();
    }
    assert!(longest <= 512 && longest_target <= it.target_len(), "{longest}, {longest_target} of {}", it.target_len());
    let filled = tokens as f64 / 3000.0 / 512.0;
    // As documented; of 3,000 sources, whose lengths have a standard deviation of 13 %.
    assert!((filled - 0.93).abs() < 0.015, "{filled}");
}

#[test]
fn single_spans_are_anywhere_in_a_mixture_and_a_prefix_is_always_the_beginning() {
    let config = "kind = \"ul2\"\nseq_len = 64\n[[denoisers]]\nkind = \"span_corruption\"\nmean_span_length = 64\n\
        [[denoisers]]\nkind = \"prefix_lm\"\nmode = \"[S]\"";
    let it = denoising(config, 3);
    let (sentinel, text) = (T5.1[0], block(60));
    let (mut places, mut alone) = (Vec::new(), 0);
    for example in 0..4_000 {
        let (source, target) = it.apply(&text, Some(0), example).unwrap();
        match it.denoiser(Some(0), example) {
            0 => places.push(source.iter().position(|&id| id == sentinel).unwrap()),
            _ => {
                alone += 1;
                assert_eq!([&source[1..source.len() - 1], &target[..target.len() - 1]].concat(), text);
            }
        }
    }
    // Nine of 60 tokens are hidden: 52 places, 38 draws of each with a standard deviation of 6.
    let counts: Vec<usize> = (0..52).map(|place| places.iter().filter(|&&it| it == place).count()).collect();
    assert_eq!(counts.iter().sum::<usize>(), places.len());
    assert!(counts.iter().all(|count| (12..70).contains(count)) && alone > 1_800, "{counts:?}");
    // T5's reference leaves it at the end.
    let t5 = denoising("mean_span_length = 64\nseq_len = 64", 3);
    assert!((0..50).all(|example| t5.apply(&text, Some(0), example).unwrap().0[51] == sentinel));
}

#[test]
fn the_denoisers_of_a_mixture_have_their_shares() {
    let weights = [3.0, 1.0, 0.5, 5.5];
    let entry = |(i, weight): (usize, &f64)| {
        format!("[[denoisers]]\nkind = \"span_corruption\"\nmean_span_length = {}\nweight = {weight}\n", i + 3)
    };
    let own: String = weights.iter().enumerate().map(entry).collect();
    for (config, weights) in
        [("kind = \"ul2\"".to_owned(), vec![1.0; 7]), (format!("kind = \"ul2\"\n{own}"), weights.to_vec())]
    {
        let it = denoising(&config, 6);
        let mut counts = vec![0.0; weights.len()];
        (0..50_000).for_each(|example| counts[it.denoiser(Some(2), example)] += 1.0);
        for (count, weight) in counts.iter().zip(&weights) {
            let share = weight / weights.iter().sum::<f64>();
            let deviation = (50_000.0 * share * (1.0 - share)).sqrt();
            assert!((count - 50_000.0 * share).abs() < 5.0 * deviation, "{counts:?} for {weights:?}");
        }
    }
}

#[test]
fn a_source_begins_with_the_mode_of_its_denoiser() {
    let entries = "[[denoisers]]\nkind = \"span_corruption\"\nmode = \"<extra_id_99>\"\n\
        [[denoisers]]\nkind = \"prefix_lm\"\nmode = \"river\"\n[[denoisers]]\nkind = \"prefix_lm\"\nnoise_density = 0.25";
    let it = denoising(&format!("kind = \"ul2\"\nseq_len = 64\n{entries}"), 2);
    let (tokenizer, sentinels) = &*T5;
    let river: Vec<i32> = tokenizer.encode("river").unwrap().into_iter().map(|id| id as i32).collect();
    let modes = [vec![sentinels[99]], river, Vec::new()];
    let text = block(it.block_len());
    let mut seen = [0; 3];
    for example in 0..60 {
        let denoiser = it.denoiser(None, example);
        let (source, target) = it.apply(&text, None, example).unwrap();
        let shown = source.strip_prefix(modes[denoiser].as_slice()).unwrap();
        assert!(shown[0] == text[0] || shown[0] == sentinels[0]);
        assert_eq!(target[0] == sentinels[0], denoiser == 0);
        assert_eq!(it.restore(&source, &target), text);
        seen[denoiser] += 1;
    }
    assert!(!seen.contains(&0), "{seen:?}");
}

#[test]
fn seed_epoch_and_example_each_change_the_noise() {
    for config in ALL_KINDS {
        // Several of each: two draws of one span may be the same.
        let of = |seed, epoch, example: u64| {
            let it = denoising(config, seed);
            let examples = 10 * example..10 * (example + 1);
            examples.map(|example| it.apply(&block(it.block_len()), epoch, example).unwrap()).collect::<Vec<_>>()
        };
        let all = [of(1, Some(0), 0), of(2, Some(0), 0), of(1, Some(1), 0), of(1, None, 0), of(1, Some(0), 1)];
        for (i, a) in all.iter().enumerate() {
            assert!(all[i + 1..].iter().all(|b| a != b), "{config}: {i}");
        }
        assert_eq!(of(1, Some(0), 0), all[0]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_block_is_restored(text in prop::collection::vec(WORDS, 0..1100), epoch: Option<u64>, example: u64, seed in 0u64..3) {
        for config in ALL_KINDS {
            let it = denoising(config, seed);
            let text = &text[..text.len().min(it.block_len_of(epoch, example))];
            let (source, target) = it.apply(text, epoch, example).unwrap();
            prop_assert_eq!(it.restore(&source, &target), text);
            prop_assert_eq!(it.restore(&source, &target[..target.len() - 1]), text, "without its end");
        }
    }
}

#[test]
fn real_text_is_restored() {
    let prose = dataset::open("rust-crates", Split::Valid, Part::Prose, &dataset::Places::default()).unwrap();
    let mut text = String::new();
    for index in 0..prose.len() {
        text += &prose.get(index).unwrap().text;
        if text.len() > 60_000 {
            break;
        }
    }
    let (tokenizer, sentinels) = trained(&text, 400);
    let ids: Vec<i32> = tokenizer.encode(&text).unwrap().into_iter().map(|id| id as i32).collect();
    assert!(ids.len() > 15_000, "{} tokens", ids.len());
    for config in ALL_KINDS {
        let it = Denoising::new(&toml::from_str(config).unwrap(), &tokenizer, sentinels.clone(), 1).unwrap();
        let mut restored = Vec::new();
        for (example, block) in ids.chunks(it.block_len()).enumerate() {
            let (source, target) = it.apply(block, Some(4), example as u64).unwrap();
            assert_ne!(source[..source.len() - 1], *block);
            restored.extend(it.restore(&source, &target));
        }
        assert_eq!(restored, ids);
        let text_of = |ids: Vec<i32>| tokenizer.decode(&ids.iter().map(|id| *id as u32).collect::<Vec<_>>(), false);
        assert_eq!(text_of(restored).unwrap(), text_of(ids.clone()).unwrap());
    }
}

#[test]
fn what_can_not_be_made_is_refused_before_it_is_tried() {
    insta::assert_snapshot!(refusal("", 27), @"a block of 568 tokens has 28 hidden spans, but the tokenizer has 27 sentinel tokens");
    // The shortest block of UL2's has 511 tokens, of which half are hidden in 85 spans.
    insta::assert_snapshot!(refusal("kind = \"ul2\"", 84), @"a block of 511 tokens has 85 hidden spans, but the tokenizer has 84 sentinel tokens");
    insta::assert_snapshot!(refusal("seq_len = 2", 100), @"`objective.seq_len` is 2; expected at least 3, for a token of text and the special tokens");
    insta::assert_snapshot!(refusal("kind = \"prefix_lm\"\nseq_len = 1", 100), @"`objective.seq_len` is 1; expected at least 2, for a token of text and the special tokens");
    insta::assert_snapshot!(refusal("noise_density = 1.5", 100), @"`objective.noise_density` is 1.5; expected a share above 0 and up to 0.9");
    // Neither 日 nor 本 is in the text: both are `<unk>`.
    let modes = "kind = \"ul2\"\n[[denoisers]]\nkind = \"prefix_lm\"\nmode = \"日\"\n[[denoisers]]\nkind = \"prefix_lm\"\nmode = \"本\"";
    insta::assert_snapshot!(refusal(modes, 100), @"`objective.denoisers` is given the modes 日 and 本, which are the same tokens to this tokenizer; expected modes that are in the tokenizer's vocabulary or are spelled with characters that it knows");

    let bytes = TokenizerConfig { kind: TokenizerKind::Byte, ..TokenizerConfig::default() };
    let bytes = Tokenizer::train(&bytes, &memory(&["text"])).unwrap();
    let config = DenoisingConfig { kind: DenoisingKind::PrefixLm, ..DenoisingConfig::default() };
    assert!(matches!(Denoising::new(&config, &bytes, Vec::new(), 0).unwrap_err(), DataError::NoSeparator));
}
