//! Masked language modelling (Devlin et al., 2019): which tokens a model has to guess, and what it sees in their place.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::batch::IGNORE_TARGET;
use crate::random::{below, keyed, unit};
use crate::tokenizer::SpecialToken;
use crate::{DataError, Tokenizer};

/// Keeps the hashes of masking apart from those of sampling and of sentence pairs.
const MASKING: u64 = 0x6d61_736b;
/// What a hash of (row, position) decides.
const CHOOSE: u64 = 0;
const PUT: u64 = 1;
const REPLACEMENT: u64 = 2;
const ONLY_ONE: u64 = 3;

/// The table `[objective.masking]`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MaskingConfig {
    /// The share of tokens that are chosen to be predicted.
    pub rate: f64,
    /// The share of the chosen tokens that the mask token takes the place of.
    pub mask_share: f64,
    /// The share of the chosen tokens that a random token takes the place of. The rest stays as it is.
    pub random_share: f64,
    /// Whether words are chosen as a whole. The vocabulary has to say which pieces continue a word: WordPiece and byte-level BPE do.
    pub whole_words: bool,
}

impl Default for MaskingConfig {
    fn default() -> Self {
        // BERT's and RoBERTa's. Wettig et al. (2023) find that large models gain from a rate of 0.3 to 0.4.
        Self { rate: 0.15, mask_share: 0.8, random_share: 0.1, whole_words: false }
    }
}

impl MaskingConfig {
    /// Checks that the numbers are shares.
    ///
    /// # Errors
    ///
    /// [`DataError::ConfigValue`] with the key under `objective.masking`.
    pub fn validate(&self) -> Result<(), DataError> {
        let refuse = |key, value: f64, expected: &str| {
            Err(DataError::ConfigValue { key, value: value.to_string(), expected: expected.into() })
        };
        // Not the other way round: NaN is in no range.
        if !(self.rate > 0.0 && self.rate <= 1.0) {
            return refuse("objective.masking.rate", self.rate, "a share above 0 and up to 1");
        }
        for (key, share) in
            [("objective.masking.mask_share", self.mask_share), ("objective.masking.random_share", self.random_share)]
        {
            if !(0.0..=1.0).contains(&share) {
                return refuse(key, share, "a share from 0 to 1");
            }
        }
        // Room for what adding two decimal fractions rounds.
        if self.mask_share + self.random_share > 1.0 + 1e-9 {
            let expected = format!("at most 1 together with objective.masking.mask_share = {}", self.mask_share);
            return refuse("objective.masking.random_share", self.random_share, &expected);
        }
        Ok(())
    }
}

/// Chooses tokens and hides them, as a function of (seed, epoch, example, position): however rows are grouped into batches, a row has
/// the same mask, and in another epoch it has another (RoBERTa's dynamic masking).
///
/// Each token, or with [`whole_words`](MaskingConfig::whole_words) each word, is chosen by itself with the probability
/// [`rate`](MaskingConfig::rate), so that the number of targets varies from row to row. What is put in the place of a chosen token is
/// drawn for each token by itself, also within a word, as in the original BERT. Special tokens are never chosen and never put.
#[derive(Clone, Debug)]
pub struct Masking {
    config: MaskingConfig,
    seed: u64,
    cls: i32,
    sep: i32,
    pad: i32,
    mask: i32,
    special: Vec<bool>,
    /// Which pieces continue a word, where the vocabulary says so.
    continues: Option<Vec<bool>>,
    /// What a random token is drawn from.
    ordinary: Vec<u32>,
}

impl Masking {
    /// Masking for the ids of `tokenizer`.
    ///
    /// # Errors
    ///
    /// If a number of the config is no share, the tokenizer lacks a special token of BERT's (beginning, separator, padding or mask),
    /// or whole words are asked for and its vocabulary doesn't say which pieces continue a word.
    pub fn new(config: MaskingConfig, tokenizer: &Tokenizer, seed: u64) -> Result<Self, DataError> {
        config.validate()?;
        let id = |token| tokenizer.special_id(token).map(|id| id as i32);
        let continues = tokenizer.continues_word();
        if config.whole_words && continues.is_none() {
            return Err(no_words());
        }
        Ok(Self {
            config,
            seed,
            cls: id(SpecialToken::Cls)?,
            sep: id(SpecialToken::Sep)?,
            pad: id(SpecialToken::Pad)?,
            mask: id(SpecialToken::Mask)?,
            special: tokenizer.is_special(),
            continues,
            ordinary: tokenizer.ordinary_ids(),
        })
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The token that begins a row.
    pub fn cls_id(&self) -> i32 {
        self.cls
    }

    /// The token that ends a row or a segment.
    pub fn sep_id(&self) -> i32 {
        self.sep
    }

    /// The token that fills up a row.
    pub fn pad_id(&self) -> i32 {
        self.pad
    }

    /// Whether a token continues the word of the token before it, as far as the vocabulary says.
    pub fn continues_word(&self, id: i32) -> bool {
        self.continues.as_ref().is_some_and(|continues| continues[id as usize])
    }

    /// Hides tokens of the row `ids` and returns its targets: the token that stood there for those that were chosen, and
    /// [`IGNORE_TARGET`] for all others. Without an epoch, as for evaluation, the mask is the same each time.
    ///
    /// A row of which nothing is chosen, as happens to short ones, would teach nothing: one token or word of it is taken then. So the
    /// mean share of targets in rows of `n` tokens is above the rate by about `(1 - rate)^n / n`.
    ///
    /// # Panics
    ///
    /// If an id is not of the tokenizer's vocabulary.
    pub fn apply(&self, ids: &mut [i32], epoch: Option<u64>, example: u64) -> Vec<i32> {
        let row = keyed(&[self.seed, MASKING, epoch.unwrap_or(u64::MAX), example]);
        let draw = |position: usize, what: u64| keyed(&[row, position as u64, what]);
        let units = self.units(ids);
        let mut chosen = units.clone();
        chosen.retain(|unit_of| unit(draw(unit_of.start, CHOOSE)) < self.config.rate);
        if chosen.is_empty() && !units.is_empty() {
            chosen.push(units[below(draw(0, ONLY_ONE), units.len() as u64) as usize].clone());
        }

        let mut targets = vec![IGNORE_TARGET; ids.len()];
        for position in chosen.into_iter().flatten() {
            targets[position] = ids[position];
            let put = unit(draw(position, PUT));
            if put < self.config.mask_share {
                ids[position] = self.mask;
            } else if put < self.config.mask_share + self.config.random_share {
                let index = below(draw(position, REPLACEMENT), self.ordinary.len() as u64);
                ids[position] = self.ordinary[index as usize] as i32;
            }
        }
        targets
    }

    /// What is chosen or not as a whole: tokens or words, special tokens left out.
    fn units(&self, ids: &[i32]) -> Vec<Range<usize>> {
        let mut units: Vec<Range<usize>> = Vec::with_capacity(ids.len());
        for (position, &id) in ids.iter().enumerate().filter(|(_, id)| !self.special[**id as usize]) {
            let continues = self.config.whole_words && self.continues_word(id);
            match units.last_mut() {
                // Right after a special token, a piece begins a word whatever it is: a block may begin within one.
                Some(word) if continues && word.end == position => word.end += 1,
                _ => units.push(position..position + 1),
            }
        }
        units
    }
}

fn no_words() -> DataError {
    DataError::ConfigValue {
        key: "objective.masking.whole_words",
        value: "true".into(),
        expected: "false: this tokenizer's vocabulary doesn't say which pieces continue a word, as WordPiece and byte-level BPE do"
            .into(),
    }
}

#[cfg(test)]
mod tests;
