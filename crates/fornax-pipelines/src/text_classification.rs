use std::path::Path;

use burn::tensor::{Device, activation::softmax};
use fornax_backend::Precision;
use fornax_data::Tokenizer;
use fornax_models::{BertForSequenceClassification, hf};
use fornax_ops::Context;
use serde::Serialize;

use crate::{BATCH_SIZE, PipelineError, Text, batch, batch::Batch};

/// Tells the class of a text or a pair, as Hugging Face's `text-classification`.
#[derive(Debug)]
pub struct TextClassification {
    model: BertForSequenceClassification,
    tokenizer: Tokenizer,
    context: Context,
    batch_size: usize,
}

/// A class and how likely it is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LabelScore {
    /// The class's name.
    pub label: String,
    /// Its probability; of a regression, the number itself.
    pub score: f32,
}

impl TextClassification {
    /// A model in a Hugging Face folder, or a run's `best` or `last`, on `device`.
    ///
    /// # Errors
    ///
    /// When the folder has no classifier of the BERT family or no tokenizer.
    pub fn open(folder: &Path, device: &Device) -> Result<Self, PipelineError> {
        let options = hf::LoadClassifier::default();
        let (model, report) = hf::load_bert_for_sequence_classification(folder, &options, device)?;
        batch::check_head(&report, folder, "text-classification")?;
        Self::new(model, Tokenizer::open(folder)?)
    }

    /// A model that is at hand.
    ///
    /// # Errors
    ///
    /// When the tokenizer has more tokens than the model knows.
    pub fn new(model: BertForSequenceClassification, tokenizer: Tokenizer) -> Result<Self, PipelineError> {
        batch::check(&tokenizer, &model.bert.config())?;
        Ok(Self { model, tokenizer, context: Context::evaluation(Precision::F32), batch_size: BATCH_SIZE })
    }

    /// The same with another compute type and number of texts at once.
    #[must_use]
    pub fn with(self, precision: Precision, batch_size: usize) -> Self {
        Self { context: Context::evaluation(precision), batch_size: batch_size.max(1), ..self }
    }

    /// For each text all classes, likeliest first.
    ///
    /// # Errors
    ///
    /// When a text can't be encoded.
    pub fn run(&self, texts: &[Text<'_>]) -> Result<Vec<Vec<LabelScore>>, PipelineError> {
        let device = self.model.bert.token_embedding.weight.device();
        let classifier = self.model.classifier();
        let sizes = self.model.bert.config();
        let (mut answers, mut cut) = (Vec::with_capacity(texts.len()), 0);
        for texts in texts.chunks(self.batch_size) {
            let batch = Batch::encode(&self.tokenizer, &sizes, texts)?;
            cut += batch.cut();
            let (input_ids, types) = (batch.input_ids(&device), batch.token_type_ids(&device));
            let logits = self.model.forward(input_ids, types, &batch.mask(&device), &self.context);
            let scores = if classifier.is_regression() { logits } else { softmax(logits, 1) };
            let scores: Vec<f32> = scores.into_data().iter::<f32>().collect();
            for scores in scores.chunks(classifier.labels.len()) {
                let named = classifier.labels.iter().zip(scores);
                let mut row: Vec<_> = named.map(|(label, &score)| LabelScore { label: label.clone(), score }).collect();
                row.sort_by(|a, b| b.score.total_cmp(&a.score));
                answers.push(row);
            }
        }
        batch::warn_of_cuts(cut, texts.len(), sizes.max_positions);
        Ok(answers)
    }
}

#[cfg(test)]
mod tests {
    use fornax_models::{ClassifierConfig, Pooling};

    use super::*;
    use crate::testing::{sizes, tokenizer};

    fn pipeline(labels: &[&str]) -> TextClassification {
        let labels = labels.iter().map(|&label| label.to_owned()).collect();
        let classifier = ClassifierConfig { labels, pooling: Pooling::Cls };
        let device = fornax_backend::test_device();
        let model = sizes().init_sequence_classification(&classifier, 3, &device).unwrap();
        TextClassification::new(model, tokenizer()).unwrap().with(Precision::F32, 2)
    }

    #[test]
    fn classes_come_likeliest_first_and_add_up_to_one() {
        let pipeline = pipeline(&["bad", "so", "good"]);
        let texts = [("the cat", None), ("a dog sat on the cat", None), ("the", Some("cat sat"))];
        let answers = pipeline.run(&texts).unwrap();
        for (answer, text) in answers.iter().zip(&texts) {
            assert!(answer.windows(2).all(|pair| pair[0].score >= pair[1].score));
            assert!((answer.iter().map(|class| class.score).sum::<f32>() - 1.0).abs() < 1e-5);
            let alone = &pipeline.run(std::slice::from_ref(text)).unwrap()[0];
            for (together, alone) in answer.iter().zip(alone) {
                assert_eq!(together.label, alone.label);
                assert!((together.score - alone.score).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn a_regression_gives_its_number() {
        let pipeline = pipeline(&["score"]);
        let answers = pipeline.run(&[("the cat", None), ("a dog", None)]).unwrap();
        assert_eq!((answers[0].len(), answers[0][0].label.as_str()), (1, "score"));
        assert!(answers[0][0].score != 1.0 && answers[0][0].score != answers[1][0].score, "{answers:?}");
    }
}
