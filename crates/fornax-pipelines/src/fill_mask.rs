use std::path::Path;

use burn::tensor::{Device, Int, Tensor, TensorData, activation::softmax};
use fornax_backend::Precision;
use fornax_data::{SpecialToken, Tokenizer};
use fornax_models::{BertForMaskedLm, hf};
use fornax_ops::Context;
use serde::Serialize;

use crate::{BATCH_SIZE, PipelineError, batch, batch::Batch};

/// Fills in what a mask token stands for, as Hugging Face's `fill-mask`.
#[derive(Debug)]
pub struct FillMask {
    model: BertForMaskedLm,
    tokenizer: Tokenizer,
    mask: u32,
    /// For each token whether it is a special one.
    special: Vec<bool>,
    context: Context,
    batch_size: usize,
}

/// A token that may stand at a mask.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Guess {
    /// Its probability.
    pub score: f32,
    /// Its id.
    pub token: u32,
    /// Its text.
    pub token_str: String,
    /// The whole text with it; other masks stay.
    pub sequence: String,
}

impl FillMask {
    /// A model in a Hugging Face folder, or a run's `best` or `last`, on `device`.
    ///
    /// # Errors
    ///
    /// When the folder has no model of the BERT family or no tokenizer with a mask token.
    pub fn open(folder: &Path, device: &Device) -> Result<Self, PipelineError> {
        let (model, report) = hf::load_bert_for_masked_lm(folder, 0, device)?;
        batch::check_head(&report, folder, "fill-mask")?;
        Self::new(model, Tokenizer::open(folder)?)
    }

    /// A model that is at hand.
    ///
    /// # Errors
    ///
    /// When the tokenizer has no mask token, or more tokens than the model knows.
    pub fn new(model: BertForMaskedLm, tokenizer: Tokenizer) -> Result<Self, PipelineError> {
        batch::check(&tokenizer, &model.bert.config())?;
        let mask = tokenizer.special_id(SpecialToken::Mask)?;
        let special = tokenizer.is_special();
        Ok(Self {
            model,
            tokenizer,
            mask,
            special,
            context: Context::evaluation(Precision::F32),
            batch_size: BATCH_SIZE,
        })
    }

    /// The same with another compute type and number of texts at once.
    #[must_use]
    pub fn with(self, precision: Precision, batch_size: usize) -> Self {
        Self { context: Context::evaluation(precision), batch_size: batch_size.max(1), ..self }
    }

    /// The mask token as the tokenizer writes it, `[MASK]` or `<mask>`.
    pub fn mask_token(&self) -> String {
        self.tokenizer.id_to_token(self.mask).unwrap_or_default()
    }

    /// For each text, and for each mask in it, the `top_k` likeliest tokens, likeliest first.
    ///
    /// # Errors
    ///
    /// [`PipelineError::NoMask`] for a text without a mask, [`PipelineError::MaskCutOff`] for one with a mask that lies too far behind.
    pub fn run(&self, texts: &[&str], top_k: usize) -> Result<Vec<Vec<Vec<Guess>>>, PipelineError> {
        let sizes = self.model.bert.config();
        let (mut answers, mut cut) = (Vec::with_capacity(texts.len()), 0);
        for texts in texts.chunks(self.batch_size) {
            let pairs: Vec<_> = texts.iter().map(|&text| (text, None)).collect();
            let batch = Batch::encode(&self.tokenizer, &sizes, &pairs)?;
            cut += batch.cut();
            answers.extend(self.fill(&batch, texts, top_k)?);
        }
        batch::warn_of_cuts(cut, texts.len(), sizes.max_positions);
        Ok(answers)
    }

    fn fill(&self, batch: &Batch, texts: &[&str], top_k: usize) -> Result<Vec<Vec<Vec<Guess>>>, PipelineError> {
        let mut masks = Vec::new();
        for (row, (encoded, text)) in batch.encoded.iter().zip(texts).enumerate() {
            let before = masks.len();
            masks.extend((0..encoded.ids.len()).filter(|&at| encoded.ids[at] == self.mask).map(|at| (row, at)));
            self.check_masks(text, masks.len() - before, encoded.truncated)?;
        }
        let device = self.model.bert.token_embedding.weight.device();
        let positions: Vec<i32> = masks.iter().map(|&(row, at)| (row * batch.seq_len + at) as i32).collect();
        let count = positions.len();
        let positions = Tensor::<1, Int>::from_data(TensorData::new(positions, [count]), &device);
        let (input_ids, types) = (batch.input_ids(&device), batch.token_type_ids(&device));
        let logits = self.model.forward_at(input_ids, types, &batch.mask(&device), positions, &self.context);
        let logits = logits.compute(&self.context);
        let vocab_size = logits.dims()[1];
        let scores: Vec<f32> = softmax(logits, 1).into_data().iter::<f32>().collect();
        let mut answers = vec![Vec::new(); texts.len()];
        for (&(row, at), scores) in masks.iter().zip(scores.chunks(vocab_size)) {
            let known = &scores[..self.tokenizer.vocab_size().min(vocab_size)];
            let guess = |token: u32| self.guess(&batch.encoded[row].ids, at, token, known[token as usize]);
            answers[row].push(largest(known, top_k).into_iter().map(guess).collect::<Result<_, _>>()?);
        }
        Ok(answers)
    }

    fn guess(&self, ids: &[u32], at: usize, token: u32, score: f32) -> Result<Guess, PipelineError> {
        let decode = |ids: &[u32]| self.tokenizer.decode(ids, false);
        // Other masks stay, and the guess may be a special token too: so special tokens are left out by hand.
        let stays = |&(position, &id): &(usize, &u32)| position == at || id == self.mask || !self.special[id as usize];
        let shown = |(position, &id): (usize, &u32)| if position == at { token } else { id };
        let ids: Vec<u32> = ids.iter().enumerate().filter(stays).map(shown).collect();
        Ok(Guess { score, token, token_str: decode(&[token])?, sequence: decode(&ids)? })
    }

    /// Refuses a text of which `found` masks are read, if that is none or some were cut off.
    fn check_masks(&self, text: &str, found: usize, truncated: bool) -> Result<(), PipelineError> {
        let mask = self.mask_token();
        if truncated && text.matches(&mask).count() > found {
            let max_positions = self.model.bert.config().max_positions;
            return Err(PipelineError::MaskCutOff { text: text.chars().take(40).collect(), mask, max_positions });
        }
        if found == 0 { Err(PipelineError::NoMask { text: text.to_owned(), mask }) } else { Ok(()) }
    }
}

/// The indices of the `count` largest values, largest first; of equal ones the first.
fn largest(values: &[f32], count: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..values.len() as u32).collect();
    let by_value = |a: &u32, b: &u32| values[*b as usize].total_cmp(&values[*a as usize]).then(a.cmp(b));
    let count = count.min(order.len());
    if count > 0 && count < order.len() {
        order.select_nth_unstable_by(count - 1, by_value);
    }
    order.truncate(count);
    order.sort_unstable_by(by_value);
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{sizes, tokenizer};

    fn pipeline() -> FillMask {
        let model = sizes().init_masked_lm(3, &fornax_backend::test_device()).unwrap();
        FillMask::new(model, tokenizer()).unwrap()
    }

    #[test]
    fn each_mask_has_its_guesses_however_texts_are_batched() {
        let pipeline = pipeline().with(Precision::F32, 2);
        let texts = ["the [MASK] sat", "[MASK] cat [MASK]", "a dog sat on the [MASK]"];
        let answers = pipeline.run(&texts, 3).unwrap();
        assert_eq!(answers.iter().map(Vec::len).collect::<Vec<_>>(), [1, 2, 1]);
        for guesses in answers.iter().flatten() {
            assert_eq!(guesses.len(), 3);
            assert!(guesses.windows(2).all(|pair| pair[0].score >= pair[1].score));
            assert!(guesses[0].score > 0.0 && guesses[0].score < 1.0);
        }
        let alone = pipeline.run(&texts[2..], 3).unwrap();
        for (together, alone) in answers[2][0].iter().zip(&alone[0][0]) {
            assert_eq!(together.token, alone.token);
            assert!((together.score - alone.score).abs() < 1e-5);
        }
        let first = &answers[1][0][0];
        assert_eq!(first.sequence, format!("{} cat [MASK]", first.token_str));
    }

    #[test]
    fn a_special_token_as_a_guess_shows_at_its_mask_only() {
        let answers = pipeline().run(&["the [MASK] sat [MASK]"], usize::MAX).unwrap();
        let sequence = |mask: usize, token: &str| {
            let guess = answers[0][mask].iter().find(|guess| guess.token_str == token).unwrap();
            guess.sequence.clone()
        };
        assert_eq!(sequence(0, "[SEP]"), "the [SEP] sat [MASK]");
        assert_eq!(sequence(1, "[CLS]"), "the [MASK] sat [CLS]");
        assert_eq!(sequence(0, "[MASK]"), "the [MASK] sat [MASK]");
    }

    #[test]
    fn all_probabilities_of_a_mask_add_up_to_one() {
        let answers = pipeline().run(&["the [MASK]"], usize::MAX).unwrap();
        let total: f32 = answers[0][0].iter().map(|guess| guess.score).sum();
        assert!((total - 1.0).abs() < 1e-5, "{total}");
    }

    #[test]
    fn a_text_without_a_mask_is_refused() {
        let pipeline = pipeline();
        let message = |text: &str| pipeline.run(&["the [MASK]", text], 1).unwrap_err().to_string();
        assert_eq!(message("the cat"), "\"the cat\" has no [MASK]");
        let long = format!("{} [MASK]", "cat ".repeat(40));
        assert!(message(&long).ends_with("a [MASK] of it lies behind the 16 tokens that the model reads"));
        assert!(
            message(&format!("[MASK] {long}"))
                .ends_with("a [MASK] of it lies behind the 16 tokens that the model reads")
        );
    }

    #[test]
    fn the_largest_come_in_order() {
        assert_eq!(largest(&[0.1, 0.4, 0.2, 0.4], 3), [1, 3, 2]);
        assert_eq!(largest(&[0.1], 5), [0]);
        assert!(largest(&[0.1], 0).is_empty());
    }
}
