//! Denoising for encoder-decoders: span corruption and prefix language modelling (Raffel et al., 2020), and their mixture (UL2; Tay et
//! al., 2022).

use crate::denoising_config::{Denoiser, DenoiserConfig};
use crate::prefix_lm::prefix_len;
use crate::random::{keyed, unit};
use crate::span_corruption::{check_sentinels, corrupt, restore};
use crate::{DataError, DenoisingConfig, DenoisingKind, Tokenizer};

/// Keeps the hashes of denoising apart from those of sampling and of masking.
const DENOISING: u64 = 0x6465_6e6f;
/// What a hash of an example decides.
const WHICH: u64 = 0;
const NOISE: u64 = 1;

/// Makes a source and a target of a block of text, as a function of (seed, epoch, example): however examples are grouped into batches,
/// a block is hidden in the same way, and in another epoch in another. Source and target each end with the tokenizer's token for the
/// end of a text.
#[derive(Clone, Debug)]
pub struct Denoising {
    denoisers: Vec<Mixed>,
    /// In the order in which they are used.
    sentinels: Vec<i32>,
    eos: i32,
    seed: u64,
    seq_len: usize,
    /// Whether spans are moved around their block, as UL2 does and T5 does not.
    rolled: bool,
}

/// One denoiser of a mixture.
#[derive(Clone, Debug)]
struct Mixed {
    denoiser: Denoiser,
    /// The tokens of text in a block of it.
    block_len: usize,
    /// The tokens before the source that say which one it is.
    mode: Vec<i32>,
    /// The sum of the weights up to this one, as a share of all.
    until: f64,
}

impl Denoising {
    /// Denoising with the ids of `tokenizer`. `sentinels` are what stands for the first hidden span, the second, and so on: T5's
    /// `<extra_id_0>`, `<extra_id_1>`, ...
    ///
    /// # Errors
    ///
    /// If a value of the config can't be used, `seq_len` has no room for two tokens, the tokenizer has no token that ends a text, two
    /// modes have the same tokens, or a block has more hidden spans than there are sentinels.
    pub fn new(
        config: &DenoisingConfig,
        tokenizer: &Tokenizer,
        sentinels: Vec<i32>,
        seed: u64,
    ) -> Result<Self, DataError> {
        let configured = config.mixture()?;
        let eos = tokenizer.end_of_text_id().ok_or(DataError::NoSeparator)? as i32;
        let total: f64 = configured.iter().map(|(config, _)| config.weight).sum();
        let (mut denoisers, mut until) = (Vec::<Mixed>::with_capacity(configured.len()), 0.0);
        for (config, denoiser) in &configured {
            until += config.weight / total;
            denoisers.push(Mixed { denoiser: *denoiser, block_len: 0, mode: mode_ids(config, tokenizer)?, until });
        }
        check_modes(&configured, &denoisers)?;
        set_block_lens(&mut denoisers, config.seq_len, sentinels.len())?;
        let rolled = config.kind == DenoisingKind::Ul2;
        Ok(Self { denoisers, sentinels, eos, seed, seq_len: config.seq_len, rolled })
    }

    /// The longest source, in tokens.
    pub fn seq_len(&self) -> usize {
        self.seq_len
    }

    /// The tokens of text in the shortest block; those of span corruption alone are all as long. As many as fit: the sources then have
    /// [`seq_len`](Self::seq_len) tokens exactly (see [`NoiseSpans::longest_block`](crate::NoiseSpans::longest_block)).
    pub fn block_len(&self) -> usize {
        self.denoisers.iter().map(|it| it.block_len).min().unwrap_or(0)
    }

    /// The tokens of text in the block of an example. Each denoiser of a mixture has its own: as many as fill a source of
    /// [`seq_len`](Self::seq_len) tokens, but no more than there are sentinels for. Of UL2's at 512 tokens the encoder is 93 % full on
    /// average with T5's 100 sentinels: a prefix leaves room for what follows it, and spans of 3 tokens at one half are 100 at most.
    pub fn block_len_of(&self, epoch: Option<u64>, example: u64) -> usize {
        self.denoisers[self.denoiser(epoch, example)].block_len
    }

    /// The longest target of a block, in tokens: the positions that a decoder needs.
    pub fn target_len(&self) -> usize {
        let longest = |it: &Mixed| match it.denoiser {
            Denoiser::Spans(spans) => spans.lengths(it.block_len).target,
            // All but one token, and the one that ends the text.
            Denoiser::Prefix { .. } => it.block_len,
        };
        self.denoisers.iter().map(longest).max().unwrap_or(0)
    }

    /// The source and the target of `tokens`, as example number `example`. Without an epoch, as for evaluation, they are the same each
    /// time.
    ///
    /// # Errors
    ///
    /// [`DataError::TooFewSentinels`] if there are more tokens than [`block_len_of`](Self::block_len_of) the example and that makes too
    /// many spans.
    pub fn apply(&self, tokens: &[i32], epoch: Option<u64>, example: u64) -> Result<(Vec<i32>, Vec<i32>), DataError> {
        let key = self.key(epoch, example);
        let Mixed { denoiser, mode, .. } = &self.denoisers[self.denoiser(epoch, example)];
        let noise = keyed(&[key, NOISE]);
        let (shown, mut target) = match *denoiser {
            Denoiser::Spans(spans) if self.rolled => {
                corrupt(tokens, &spans.draw_rolled(tokens.len(), noise), &self.sentinels)?
            }
            Denoiser::Spans(spans) => corrupt(tokens, &spans.draw(tokens.len(), noise), &self.sentinels)?,
            Denoiser::Prefix { noise_density } => {
                let (prefix, rest) = tokens.split_at(prefix_len(tokens.len(), noise_density, noise));
                (prefix.to_vec(), rest.to_vec())
            }
        };
        let mut source = [mode.as_slice(), &shown].concat();
        source.push(self.eos);
        target.push(self.eos);
        Ok((source, target))
    }

    /// The number of the denoiser in the mixture that an example gets.
    pub fn denoiser(&self, epoch: Option<u64>, example: u64) -> usize {
        let drawn = unit(keyed(&[self.key(epoch, example), WHICH]));
        let number = self.denoisers.partition_point(|it| it.until <= drawn);
        // The shares may add up to a little less than 1.
        number.min(self.denoisers.len() - 1)
    }

    /// The text of which [`apply`](Self::apply) made `source` and `target`: mode, sentinels and ends are taken out, and what was hidden
    /// is put back. Also for a target that a model wrote, with or without its end. Exact unless the text has a sentinel in it.
    pub fn restore(&self, source: &[i32], target: &[i32]) -> Vec<i32> {
        let without_end = |ids| <[i32]>::strip_suffix(ids, &[self.eos]).unwrap_or(ids);
        let (source, target) = (without_end(source), without_end(target));
        let modes = self.denoisers.iter().map(|it| it.mode.as_slice()).filter(|mode| source.starts_with(mode));
        let source = &source[modes.map(<[i32]>::len).max().unwrap_or(0)..];
        let hidden_behind_sentinels = self.sentinels.first().is_some_and(|first| source.contains(first));
        if hidden_behind_sentinels { restore(source, target, &self.sentinels) } else { [source, target].concat() }
    }

    fn key(&self, epoch: Option<u64>, example: u64) -> u64 {
        keyed(&[self.seed, DENOISING, epoch.unwrap_or(u64::MAX), example])
    }
}

/// A mode as tokens: one if the vocabulary has it, else as the tokenizer spells it.
fn mode_ids(config: &DenoiserConfig, tokenizer: &Tokenizer) -> Result<Vec<i32>, DataError> {
    let Some(mode) = &config.mode else { return Ok(Vec::new()) };
    let ids = match tokenizer.token_to_id(mode) {
        Some(id) => vec![id],
        None => tokenizer.encode(mode)?,
    };
    Ok(ids.into_iter().map(|id| id as i32).collect())
}

/// Refuses modes that a model can't tell apart, such as two names that are both unknown to the tokenizer.
fn check_modes(configured: &[(DenoiserConfig, Denoiser)], denoisers: &[Mixed]) -> Result<(), DataError> {
    let named = || configured.iter().zip(denoisers).filter_map(|((config, _), it)| Some((config.mode.as_ref()?, it)));
    for (mode, it) in named() {
        if let Some((other, _)) = named().find(|(other, them)| *other != mode && them.mode == it.mode) {
            return Err(DataError::ConfigValue {
                key: "objective.denoisers",
                value: format!("given the modes {mode} and {other}, which are the same tokens to this tokenizer"),
                expected: "modes that are in the tokenizer's vocabulary or are spelled with characters that it knows"
                    .into(),
            });
        }
    }
    Ok(())
}

/// Gives each denoiser the longest block of which it makes a source of at most `seq_len` tokens.
///
/// Every denoiser must have room and sentinels for the shortest of these blocks, for blocks begin as far apart; a longer one is cut
/// to the spans that there are sentinels for.
fn set_block_lens(denoisers: &mut [Mixed], seq_len: usize, sentinels: usize) -> Result<(), DataError> {
    let fitting = |it: &Mixed| {
        let room = seq_len.checked_sub(it.mode.len())?;
        match it.denoiser {
            Denoiser::Spans(spans) => Some(spans.longest_block(room)?.block),
            // All but one token, and the one that ends the text.
            Denoiser::Prefix { .. } => Some(room).filter(|block| *block >= 2),
        }
    };
    // A token and the end, and a sentinel between them.
    let least = |it: &Mixed| it.mode.len() + if matches!(it.denoiser, Denoiser::Spans(_)) { 3 } else { 2 };
    let longest: Option<Vec<usize>> = denoisers.iter().map(fitting).collect();
    let longest = longest.ok_or_else(|| DataError::ConfigValue {
        key: "objective.seq_len",
        value: seq_len.to_string(),
        expected: format!(
            "at least {}, for a token of text and the special tokens",
            denoisers.iter().map(least).max().unwrap_or(0)
        ),
    })?;
    let shortest = longest.iter().copied().min().unwrap_or(0);
    for (it, longest) in denoisers.iter_mut().zip(longest) {
        it.block_len = longest;
        if let Denoiser::Spans(spans) = it.denoiser {
            check_sentinels(shortest, spans.counts(shortest).1, sentinels)?;
            // The number of spans never falls as blocks grow.
            let named = (shortest..=longest).take_while(|&block| spans.counts(block).1 <= sentinels);
            it.block_len = named.last().unwrap_or(shortest);
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
