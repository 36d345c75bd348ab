use burn::tensor::{Device, Int, Tensor, TensorData};
use fornax_data::{
    IGNORE_TARGET,
    labelled::{LabelledBatch, Labels},
};
use fornax_models::BertForSequenceClassification;
use fornax_ops::{AttentionMask, Context, CrossEntropy, cross_entropy_sum};
use fornax_train::{BatchSize, Sums, Task, Term};

/// Classification by cross-entropy, regression by squared error: the mean over the examples that have a label.
#[derive(Clone, Copy, Debug)]
pub struct Classify;

impl Task<BertForSequenceClassification> for Classify {
    type Batch = LabelledBatch;

    fn size(&self, batch: &LabelledBatch) -> BatchSize {
        let count = match &batch.labels {
            Labels::Classes(classes) => classes.iter().filter(|&&class| class != IGNORE_TARGET).count(),
            Labels::Scores(scores) => scores.iter().filter(|score| !score.is_nan()).count(),
        };
        BatchSize { counts: vec![("loss", count)], tokens: batch.token_count() }
    }

    fn describe(&self, batch: &LabelledBatch) -> String {
        let numbers: Vec<String> = batch.examples.iter().map(ToString::to_string).collect();
        format!("examples {}", numbers.join(", "))
    }

    fn loss(&self, model: &BertForSequenceClassification, batch: &LabelledBatch, context: &Context) -> Sums {
        let logits = logits(model, batch, context);
        let device = logits.device();
        let (sum, predictions) = match &batch.labels {
            Labels::Classes(classes) => {
                let targets = Tensor::from_data(TensorData::new(classes.clone(), [batch.batch]), &device);
                let predictions = logits.clone().detach().argmax(1).flatten::<1>(0, 1).float();
                let CrossEntropy { sum, .. } = cross_entropy_sum(logits, targets, i64::from(IGNORE_TARGET));
                (sum, predictions)
            }
            Labels::Scores(scores) => {
                let numbers = logits.flatten::<1>(0, 1);
                let known: Vec<f32> = scores.iter().map(|score| if score.is_nan() { 0.0 } else { 1.0 }).collect();
                let targets: Vec<f32> = scores.iter().map(|score| if score.is_nan() { 0.0 } else { *score }).collect();
                let tensor = |values| Tensor::<1>::from_data(TensorData::new(values, [batch.batch]), &device);
                let error = (numbers.clone() - tensor(targets)) * tensor(known);
                ((error.clone() * error).sum(), numbers.detach())
            }
        };
        Sums { terms: vec![Term { name: "loss", sum, weight: 1.0 }], metrics: vec![], predictions: Some(predictions) }
    }
}

/// `[batch, outputs]`
pub(crate) fn logits(model: &BertForSequenceClassification, batch: &LabelledBatch, context: &Context) -> Tensor<2> {
    let device = model.bert.token_embedding.weight.device();
    let input_ids = rows(&batch.input_ids, batch, &device);
    let differ = model.bert.reads_token_types() && batch.token_type_ids.iter().any(|&id| id != 0);
    let types = differ.then(|| rows(&batch.token_type_ids, batch, &device));
    let lengths = Tensor::from_data(TensorData::new(batch.lengths.clone(), [batch.batch]), &device);
    model.forward(input_ids, types, &AttentionMask::KeyLengths(lengths), context)
}

fn rows(ids: &[i32], batch: &LabelledBatch, device: &Device) -> Tensor<2, Int> {
    Tensor::from_data(TensorData::new(ids.to_vec(), [batch.batch, batch.seq_len]), device)
}
