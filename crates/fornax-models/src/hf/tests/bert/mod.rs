//! The BERT family, against what `tests/fixtures/generate_bert.py` wrote.

mod checkpoints;
mod classifiers;
mod errors;
mod minilm;
mod parity;

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Int, Tensor, TensorData};
use fornax_ops::AttentionMask;

use super::{Golden, assert_close, copy, edit, evaluation, fixture, json, stored, tolerance, values};
use crate::{
    BertForMaskedLm,
    hf::{LoadReport, load_bert_for_masked_lm},
};

/// The inputs of a golden case.
struct Batch {
    input_ids: Tensor<2, Int>,
    token_type_ids: Option<Tensor<2, Int>>,
    mask: AttentionMask,
    /// The places of the tokens in the batch: of all but padding, where logits have no meaning.
    tokens: Tensor<1, Int>,
}

impl Batch {
    /// The case of that name, or the only one of a file.
    fn open<'a>(golden: &Golden, case: impl Into<Option<&'a str>>, device: &Device) -> Self {
        let case = case.into().map_or_else(String::new, |case| format!("{case}."));
        let types = format!("{case}token_type_ids");
        let ([batch, seq], attend) = golden.ints(&format!("{case}attention_mask"));
        let lengths: Vec<i32> = attend.chunks(seq).map(|row| row.iter().sum()).collect();
        let mask = match lengths.iter().all(|length| *length == seq as i32) {
            true => AttentionMask::None,
            false => AttentionMask::KeyLengths(Tensor::from_data(TensorData::new(lengths, [batch]), device)),
        };
        Self {
            input_ids: golden.int_tensor(&format!("{case}input_ids"), device),
            token_type_ids: golden.names().contains(&types).then(|| golden.int_tensor(&types, device)),
            mask,
            tokens: places(&attend, |attend| attend == 1, device),
        }
    }

    /// The logits of a masked language model at the tokens.
    fn logits(&self, model: &BertForMaskedLm) -> Vec<f32> {
        let (ids, types) = (self.input_ids.clone(), self.token_type_ids.clone());
        values(self.at_tokens(model.forward(ids, types, &self.mask, &evaluation())))
    }

    fn at_tokens(&self, x: Tensor<3>) -> Tensor<2> {
        x.flatten::<2>(0, 1).select(0, self.tokens.clone())
    }
}

/// Where `values` are such.
fn places(values: &[i32], such: impl Fn(i32) -> bool, device: &Device) -> Tensor<1, Int> {
    let places: Vec<i32> = (0..).zip(values).filter(|(_, value)| such(**value)).map(|(place, _)| place).collect();
    let len = places.len();
    Tensor::from_data(TensorData::new(places, [len]), device)
}

fn load(dir: &Path) -> (BertForMaskedLm, LoadReport) {
    load_bert_for_masked_lm(dir, 1, &fornax_backend::test_device()).unwrap()
}

fn folder(name: &str) -> PathBuf {
    fixture("bert").join(name)
}
