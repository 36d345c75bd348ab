use std::path::Path;

use burn::tensor::Device;
use fornax_backend::Precision;
use fornax_data::Tokenizer;
use fornax_models::{Bert, Pooling, hf, mean_pool};
use fornax_ops::Context;

use crate::{BATCH_SIZE, PipelineError, Text, batch, batch::Batch};

/// Turns a text into one vector, as Hugging Face's `feature-extraction` and sentence-transformers do.
#[derive(Debug)]
pub struct FeatureExtraction {
    model: Bert,
    tokenizer: Tokenizer,
    pooling: Pooling,
    context: Context,
    batch_size: usize,
}

impl FeatureExtraction {
    /// A model in a Hugging Face folder, or a run's `best` or `last`, on `device`. `pooling`: the first token's vector, or the mean
    /// over all tokens, special ones included and padding left out, as sentence-transformers takes it.
    ///
    /// # Errors
    ///
    /// When the folder has no model of the BERT family or no tokenizer.
    pub fn open(folder: &Path, pooling: Pooling, device: &Device) -> Result<Self, PipelineError> {
        let (model, _) = hf::load_bert(folder, device)?;
        Self::new(model, Tokenizer::open(folder)?, pooling)
    }

    /// A model that is at hand.
    ///
    /// # Errors
    ///
    /// When the tokenizer has more tokens than the model knows.
    pub fn new(model: Bert, tokenizer: Tokenizer, pooling: Pooling) -> Result<Self, PipelineError> {
        batch::check(&tokenizer, &model.config())?;
        Ok(Self { model, tokenizer, pooling, context: Context::evaluation(Precision::F32), batch_size: BATCH_SIZE })
    }

    /// The same with another compute type and number of texts at once.
    #[must_use]
    pub fn with(self, precision: Precision, batch_size: usize) -> Self {
        Self { context: Context::evaluation(precision), batch_size: batch_size.max(1), ..self }
    }

    /// A vector of `hidden_size` numbers for each text.
    ///
    /// # Errors
    ///
    /// When a text can't be encoded.
    pub fn run(&self, texts: &[Text<'_>]) -> Result<Vec<Vec<f32>>, PipelineError> {
        let device = self.model.token_embedding.weight.device();
        let sizes = self.model.config();
        let (mut vectors, mut cut) = (Vec::with_capacity(texts.len()), 0);
        for texts in texts.chunks(self.batch_size) {
            let batch = Batch::encode(&self.tokenizer, &sizes, texts)?;
            cut += batch.cut();
            let mask = batch.mask(&device);
            let hidden =
                self.model.forward(batch.input_ids(&device), batch.token_type_ids(&device), &mask, &self.context);
            let pooled = match self.pooling {
                Pooling::Cls => hidden.narrow(1, 0, 1).squeeze_dim(1),
                Pooling::Mean => mean_pool(hidden, &mask),
            };
            let values: Vec<f32> = pooled.into_data().iter::<f32>().collect();
            vectors.extend(values.chunks(sizes.hidden_size).map(<[f32]>::to_vec));
        }
        batch::warn_of_cuts(cut, texts.len(), sizes.max_positions);
        Ok(vectors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{sizes, tokenizer};

    #[test]
    fn a_vector_does_not_depend_on_the_texts_beside_it() {
        let device = fornax_backend::test_device();
        let vectors = |pooling, texts: &[Text<'_>]| {
            let model = sizes().init(3, &device).unwrap();
            FeatureExtraction::new(model, tokenizer(), pooling).unwrap().run(texts).unwrap()
        };
        let texts = [("the cat", None), ("a dog sat on the cat", None)];
        for pooling in [Pooling::Cls, Pooling::Mean] {
            let (both, alone) = (vectors(pooling, &texts), vectors(pooling, &texts[..1]));
            assert_eq!((both.len(), both[0].len()), (2, sizes().hidden_size));
            let error = both[0].iter().zip(&alone[0]).fold(0.0f32, |most, (a, b)| most.max((a - b).abs()));
            assert!(error < 1e-5, "{error}");
            assert_ne!(both[0], both[1]);
        }
        assert_ne!(vectors(Pooling::Cls, &texts), vectors(Pooling::Mean, &texts));
    }
}
