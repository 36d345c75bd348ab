use burn::tensor::{Device, Int, Tensor, TensorData};
use fornax_data::{IGNORE_TARGET, Seq2SeqBatch};
use fornax_models::Transformer;
use fornax_ops::{Context, CrossEntropy};
use fornax_train::{BatchSize, Sums, Task, Term};

use crate::ObjectiveConfig;

/// The next token of a target whose tokens so far are given: cross-entropy, with smoothed labels in training alone.
#[derive(Clone, Copy, Debug)]
pub struct NextTargetToken {
    /// The share of probability that is spread over all tokens, in `0..1`.
    pub label_smoothing: f64,
}

impl NextTargetToken {
    /// The task that `[objective]` describes.
    pub fn new(objective: &ObjectiveConfig) -> Self {
        Self { label_smoothing: objective.label_smoothing }
    }
}

impl Task<Transformer> for NextTargetToken {
    type Batch = Seq2SeqBatch;

    fn size(&self, batch: &Seq2SeqBatch) -> BatchSize {
        BatchSize { counts: vec![("loss", batch.target_count())], tokens: batch.token_count() }
    }

    fn describe(&self, batch: &Seq2SeqBatch) -> String {
        let numbers: Vec<String> = batch.examples.iter().map(ToString::to_string).collect();
        format!("pairs {}", numbers.join(", "))
    }

    fn loss(&self, model: &Transformer, batch: &Seq2SeqBatch, context: &Context) -> Sums {
        let device = model.source_embedding.weight.device();
        let lengths = Tensor::from_data(TensorData::new(batch.lengths.clone(), [batch.batch]), &device);
        let input_ids = rows(&batch.input_ids, [batch.batch, batch.source_len], &device);
        let decoder_input_ids = rows(&batch.decoder_input_ids, [batch.batch, batch.target_len], &device);
        let logits = model.linear_logits(model.hidden(input_ids, lengths, decoder_input_ids, context));
        let targets = TensorData::new(batch.targets.clone(), [batch.batch * batch.target_len]);
        let targets = Tensor::from_data(targets, &device);
        let smoothing = if context.is_training() { self.label_smoothing } else { 0.0 };
        let CrossEntropy { sum, negative_log_likelihood, correct, .. } =
            logits.cross_entropy_sum(targets, i64::from(IGNORE_TARGET), smoothing, context);
        let mut metrics = vec![("token_correct", correct)];
        if smoothing > 0.0 {
            metrics.push(("nll", negative_log_likelihood));
        }
        Sums { terms: vec![Term { name: "loss", sum, weight: 1.0 }], metrics, predictions: None }
    }
}

fn rows(ids: &[i32], shape: [usize; 2], device: &Device) -> Tensor<2, Int> {
    Tensor::from_data(TensorData::new(ids.to_vec(), shape), device)
}

#[cfg(test)]
mod tests {
    use fornax_backend::{Precision, test_device};
    use fornax_data::Fill;
    use fornax_models::TransformerConfig;
    use fornax_ops::RandomKey;

    use super::*;

    #[test]
    fn labels_are_smoothed_in_training_alone_and_padding_counts_nowhere() {
        let sizes = TransformerConfig {
            source_vocab_size: 11,
            target_vocab_size: 7,
            max_positions: 8,
            hidden_size: 8,
            num_layers: 1,
            num_heads: 2,
            intermediate_size: 16,
            dropout: 0.0,
            tie_embeddings: fornax_models::TieEmbeddings::None,
            ..TransformerConfig::default()
        };
        let model = sizes.init(1, &test_device()).unwrap();
        let (long, short) = ((vec![9, 10, 3, 1], vec![4, 5, 6, 1]), (vec![8, 1], vec![2, 1]));
        let fill = Fill { pad_id: 0, start_id: 3 };
        let contexts = [Context::evaluation(Precision::F32), Context::training(Precision::F32, RandomKey::new(0))];
        let losses = |pairs: &[(Vec<i32>, Vec<i32>)], label_smoothing| {
            let batch = Seq2SeqBatch::collate(pairs, vec![0; pairs.len()], fill);
            let task = NextTargetToken { label_smoothing };
            let losses = contexts.each_ref().map(|context| {
                let sums = task.loss(&model, &batch, context);
                let plain = sums.metrics.into_iter().find(|(name, _)| *name == "nll");
                let number = Tensor::<1>::into_scalar::<f32>;
                (number(sums.terms[0].sum.clone()), plain.map(|(_, sum)| number(sum)))
            });
            (losses, task.size(&batch))
        };
        let ([(plain, none), (trained, unsmoothed)], size) = losses(&[long.clone(), short.clone()], 0.2);
        assert_eq!(size, BatchSize { counts: vec![("loss", 6)], tokens: 12 });
        // An untrained model is right of no token, so that spreading the targets changes the loss.
        assert!((plain - trained).abs() > 1e-3, "{plain} {trained}");
        let ([_, (without, no_other)], _) = losses(&[long.clone(), short.clone()], 0.0);
        assert_eq!((none, no_other), (None, None), "where the loss is that of the labels as they are");
        // Half a dozen sums of numbers of order 1 in `f32`.
        let same = |a: f32, b: f32| assert!((a - b).abs() < 1e-5 * b, "{a} is not {b}");
        same(without, plain);
        same(unsmoothed.unwrap(), plain);
        let alone = [long, short].map(|pair| losses(&[pair], 0.2).0);
        same(alone[0][0].0 + alone[1][0].0, plain);
        same(alone[0][1].0 + alone[1][1].0, trained);
    }
}
