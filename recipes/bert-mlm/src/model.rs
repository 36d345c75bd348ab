use std::path::Path;

use burn::{
    module::Module,
    tensor::{Device, Int, Tensor},
};
use fornax_models::{Bert, BertConfig, BertForMaskedLm, BertForPreTraining, ModelError, hf};
use fornax_ops::{AttentionMask, Context, LinearLogits};

/// What a model is given, on its device.
pub(crate) struct Inputs {
    /// `[batch, seq]`
    pub(crate) input_ids: Tensor<2, Int>,
    /// `[batch, seq]`; none where the model has no token types, or all are 0.
    pub(crate) token_type_ids: Option<Tensor<2, Int>>,
    /// Padding.
    pub(crate) mask: AttentionMask,
    /// `[positions]`, counted through all rows: where a token is to be predicted.
    pub(crate) positions: Tensor<1, Int>,
}

/// BERT with the heads that an objective needs. The recipe's loop is the same for all.
pub trait Pretraining: Module {
    /// A new model.
    ///
    /// # Errors
    ///
    /// When the sizes describe no model.
    fn init(sizes: &BertConfig, seed: u64, device: &Device) -> Result<Self, ModelError>;

    /// The model in a Hugging Face folder; heads that it lacks are new.
    ///
    /// # Errors
    ///
    /// When the folder is no checkpoint of this model.
    fn load(folder: &Path, seed: u64, device: &Device) -> Result<Self, ModelError>;

    /// Writes a Hugging Face folder.
    ///
    /// # Errors
    ///
    /// When a file can't be written.
    fn save(&self, folder: &Path, pad_token: Option<u32>) -> Result<(), ModelError>;

    /// The same model with another probability of dropout.
    ///
    /// # Errors
    ///
    /// When it is none.
    fn dropout(self, dropout: f64) -> Result<Self, ModelError>;

    /// The encoder.
    fn encoder(&self) -> &Bert;

    /// The model that fills in masks, other heads left out.
    fn into_masked_lm(self) -> BertForMaskedLm;

    /// The logits of the tokens at the positions `[positions, vocab_size]`, still to be computed, and, with that head, whether the second sentence follows
    /// `[batch, 2]`.
    #[allow(private_interfaces, reason = "only this recipe's task calls it")]
    fn predict(&self, inputs: Inputs, context: &Context) -> (LinearLogits, Option<Tensor<2>>);
}

impl Pretraining for BertForMaskedLm {
    fn init(sizes: &BertConfig, seed: u64, device: &Device) -> Result<Self, ModelError> {
        sizes.init_masked_lm(seed, device)
    }

    fn load(folder: &Path, seed: u64, device: &Device) -> Result<Self, ModelError> {
        Ok(hf::load_bert_for_masked_lm(folder, seed, device)?.0)
    }

    fn save(&self, folder: &Path, pad_token: Option<u32>) -> Result<(), ModelError> {
        hf::save_bert_for_masked_lm(self, folder, pad_token)
    }

    fn dropout(self, dropout: f64) -> Result<Self, ModelError> {
        self.with_dropout(dropout)
    }

    fn encoder(&self) -> &Bert {
        &self.bert
    }

    fn into_masked_lm(self) -> BertForMaskedLm {
        self
    }

    #[allow(private_interfaces, reason = "only this recipe's task calls it")]
    fn predict(&self, inputs: Inputs, context: &Context) -> (LinearLogits, Option<Tensor<2>>) {
        let Inputs { input_ids, token_type_ids, mask, positions } = inputs;
        (self.forward_at(input_ids, token_type_ids, &mask, positions, context), None)
    }
}

impl Pretraining for BertForPreTraining {
    fn init(sizes: &BertConfig, seed: u64, device: &Device) -> Result<Self, ModelError> {
        sizes.init_pretraining(seed, device)
    }

    fn load(folder: &Path, seed: u64, device: &Device) -> Result<Self, ModelError> {
        Ok(hf::load_bert_for_pretraining(folder, seed, device)?.0)
    }

    fn save(&self, folder: &Path, pad_token: Option<u32>) -> Result<(), ModelError> {
        hf::save_bert_for_pretraining(self, folder, pad_token)
    }

    fn dropout(self, dropout: f64) -> Result<Self, ModelError> {
        self.with_dropout(dropout)
    }

    fn encoder(&self) -> &Bert {
        &self.bert
    }

    fn into_masked_lm(self) -> BertForMaskedLm {
        BertForMaskedLm { bert: self.bert, head: self.head }
    }

    #[allow(private_interfaces, reason = "only this recipe's task calls it")]
    fn predict(&self, inputs: Inputs, context: &Context) -> (LinearLogits, Option<Tensor<2>>) {
        let Inputs { input_ids, token_type_ids, mask, positions } = inputs;
        let (tokens, sentences) = self.forward_at(input_ids, token_type_ids, &mask, positions, context);
        (tokens, Some(sentences))
    }
}
