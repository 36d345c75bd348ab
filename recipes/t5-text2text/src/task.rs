use burn::tensor::{Device, Int, Tensor, TensorData};
use fornax_data::{IGNORE_TARGET, Seq2SeqBatch};
use fornax_models::T5;
use fornax_ops::{Context, CrossEntropy};
use fornax_train::{BatchSize, Sums, Task, Term};

/// Writing the target to a source: the mean over all target tokens of the cross-entropy, whatever source and target are made of.
#[derive(Clone, Copy, Debug)]
pub struct TextToText;

impl Task<T5> for TextToText {
    type Batch = Seq2SeqBatch;

    fn size(&self, batch: &Seq2SeqBatch) -> BatchSize {
        BatchSize { counts: vec![("loss", batch.target_count())], tokens: batch.token_count() }
    }

    fn describe(&self, batch: &Seq2SeqBatch) -> String {
        let numbers: Vec<String> = batch.examples.iter().map(ToString::to_string).collect();
        format!("examples {}", numbers.join(", "))
    }

    fn loss(&self, model: &T5, batch: &Seq2SeqBatch, context: &Context) -> Sums {
        let device = model.token_embedding.weight.device();
        let rows = |ids: &[i32], len| to_device(ids, [batch.batch, len], &device);
        let lengths = Tensor::from_data(TensorData::new(batch.lengths.clone(), [batch.batch]), &device);
        let input_ids = rows(&batch.input_ids, batch.source_len);
        let decoder_input_ids = rows(&batch.decoder_input_ids, batch.target_len);
        let encoded = model.encode(input_ids, lengths.clone(), context);
        let logits = model.linear_logits(model.decode(encoded, lengths, decoder_input_ids, context));
        let targets = rows(&batch.targets, batch.target_len).flatten::<1>(0, 1);
        let CrossEntropy { sum, correct, .. } =
            logits.cross_entropy_sum(targets, i64::from(IGNORE_TARGET), 0.0, context);
        let terms = vec![Term { name: "loss", sum, weight: 1.0 }];
        Sums { terms, metrics: vec![("token_correct", correct)], predictions: None }
    }
}

fn to_device(ids: &[i32], shape: [usize; 2], device: &Device) -> Tensor<2, Int> {
    Tensor::from_data(TensorData::new(ids.to_vec(), shape), device)
}
