//! Logits, loss, every gradient and five AdamW steps of each head.

use burn::{
    module::Module,
    tensor::{Device, Int, Tensor, TensorData},
};
use fornax_backend::test_device;
use fornax_ops::{CrossEntropy, cross_entropy_sum};

use super::{
    super::{
        super::{
            LoadClassifier,
            bert::{Head, bert_table},
            load_bert, load_bert_for_masked_lm, load_bert_for_pretraining, load_bert_for_sequence_classification,
        },
        training::{IGNORE, Outcome, assert_adamw_losses, assert_gradients, assert_logits_and_loss, training},
    },
    Batch, Golden, assert_close, evaluation, fixture, folder, places, tolerance, values,
};
use crate::{BertForMaskedLm, BertForPreTraining, BertForSequenceClassification, hf::TensorTable, mean_pool};

/// Everything that a case has, for both batches of a head.
fn assert_parity<M: Module>(
    family: &str,
    head: &str,
    load: impl Fn(&Device) -> M,
    table: impl Fn(&M) -> TensorTable,
    outcome: impl Fn(&Golden, &str, &M, &Device) -> Outcome,
) {
    let golden = Golden::open(family);
    for batch in ["full", "padded"] {
        let case = format!("{head}.{batch}");
        let device = test_device();
        let model = load(&device);
        assert_logits_and_loss(&golden, &case, outcome(&golden, &case, &model, &device));
        let device = device.autodiff();
        let model = load(&device);
        let loss = outcome(&golden, &case, &model, &device).loss;
        assert_gradients(&golden, &case, &model, loss, &table(&model));
        assert_adamw_losses(&golden, &case, model, |model| outcome(&golden, &case, model, &device).loss);
    }
}

fn mean(entropy: CrossEntropy) -> Tensor<1> {
    entropy.sum / entropy.count
}

/// The places of the targets in the batch, and the targets.
fn targets(golden: &Golden, case: &str, device: &Device) -> [Tensor<1, Int>; 2] {
    let (_, labels) = golden.ints::<2>(&format!("{case}.labels"));
    let places = places(&labels, |label| i64::from(label) != IGNORE, device);
    let count = labels.len();
    let labels = Tensor::<1, Int>::from_data(TensorData::new(labels, [count]), device);
    [places.clone(), labels.select(0, places)]
}

fn masked_lm(golden: &Golden, case: &str, model: &BertForMaskedLm, device: &Device) -> Outcome {
    let batch = Batch::open(golden, case, device);
    let (ids, types) = (batch.input_ids.clone(), batch.token_type_ids.clone());
    let [places, targets] = targets(golden, case, device);
    let logits = model.forward(ids.clone(), types.clone(), &batch.mask, &training());
    let at = model.forward_at(ids, types, &batch.mask, places, &training());
    let loss = mean(at.cross_entropy_sum(targets, IGNORE, 0.0, &training()));
    Outcome { logits: vec![("logits", batch.at_tokens(logits))], loss }
}

fn assert_masked_lm(family: &str) {
    assert_parity(
        family,
        "masked_lm",
        |device| {
            let (model, report) = load_bert_for_masked_lm(&fixture(family).join("masked_lm"), 1, device).unwrap();
            assert!(report.initialised.is_empty() && report.unused.is_empty() && report.ignored.is_empty());
            model
        },
        |model| bert_table(&model.bert.config(), Head::MaskedLm),
        masked_lm,
    );
}

#[test]
fn masked_lm_of_bert() {
    assert_masked_lm("bert");
}

#[test]
fn masked_lm_of_roberta() {
    assert_masked_lm("roberta");
}

#[test]
fn masked_lm_of_distilbert() {
    assert_masked_lm("distilbert");
}

#[test]
fn pretraining_of_bert() {
    let outcome = |golden: &Golden, case: &str, model: &BertForPreTraining, device: &Device| {
        let Batch { input_ids, token_type_ids, mask, tokens } = Batch::open(golden, case, device);
        let [places, targets] = targets(golden, case, device);
        let run = |places| model.forward_at(input_ids.clone(), token_type_ids.clone(), &mask, places, &training());
        let (logits, _) = run(tokens);
        let (masked, following) = run(places);
        let follows = golden.int_tensor::<1>(&format!("{case}.next_sentence_label"), device);
        let loss = mean(masked.cross_entropy_sum(targets, IGNORE, 0.0, &training()))
            + mean(cross_entropy_sum(following.clone(), follows, IGNORE));
        let logits = logits.compute(&training());
        Outcome { logits: vec![("logits", logits), ("next_sentence_logits", following)], loss }
    };
    assert_parity(
        "bert",
        "pretraining",
        |device| load_bert_for_pretraining(&folder("pretraining"), 1, device).unwrap().0,
        |model| bert_table(&model.bert.config(), Head::PreTraining),
        outcome,
    );
}

fn assert_labels(family: &str) {
    let outcome = |golden: &Golden, case: &str, model: &BertForSequenceClassification, device: &Device| {
        let Batch { input_ids, token_type_ids, mask, .. } = Batch::open(golden, case, device);
        let logits = model.forward(input_ids, token_type_ids, &mask, &training());
        let labels = golden.int_tensor::<1>(&format!("{case}.labels"), device);
        let loss = mean(cross_entropy_sum(logits.clone(), labels, IGNORE));
        Outcome { logits: vec![("logits", logits)], loss }
    };
    assert_parity(
        family,
        "labels",
        |device| {
            let dir = fixture(family).join("labels");
            let options = LoadClassifier::default();
            let (model, _) = load_bert_for_sequence_classification(&dir, &options, device).unwrap();
            assert_eq!(model.classifier().labels, ["negative", "neutral", "positive"]);
            model
        },
        |model| bert_table(&model.bert.config(), Head::Classifier(model.classifier(), false)),
        outcome,
    );
}

#[test]
fn labels_of_bert() {
    assert_labels("bert");
}

#[test]
fn labels_of_roberta() {
    assert_labels("roberta");
}

#[test]
fn labels_of_distilbert() {
    assert_labels("distilbert");
}

#[test]
fn regression_of_bert() {
    let outcome = |golden: &Golden, case: &str, model: &BertForSequenceClassification, device: &Device| {
        let Batch { input_ids, token_type_ids, mask, .. } = Batch::open(golden, case, device);
        let logits = model.forward(input_ids, token_type_ids, &mask, &training());
        let wanted = golden.floats(&format!("{case}.labels"));
        let wanted = Tensor::<1>::from_data(TensorData::new(wanted, [logits.dims()[0]]), device);
        let loss = (logits.clone().squeeze_dim::<1>(1) - wanted).square().mean();
        Outcome { logits: vec![("logits", logits)], loss }
    };
    assert_parity(
        "bert",
        "regression",
        |device| {
            let options = LoadClassifier::default();
            let (model, _) = load_bert_for_sequence_classification(&folder("regression"), &options, device).unwrap();
            assert!(model.classifier().is_regression());
            model
        },
        |model| bert_table(&model.bert.config(), Head::Classifier(model.classifier(), false)),
        outcome,
    );
}

#[test]
fn hidden_states_and_their_mean() {
    let device = test_device();
    let golden = Golden::open("bert");
    let (model, report) = load_bert(&folder("encoder"), &device).unwrap();
    assert_eq!((report.loaded.len(), report.unused.len()), (37, 0));
    let batch = Batch::open(&golden, "masked_lm.padded", &device);
    let hidden = model.forward(batch.input_ids.clone(), batch.token_type_ids.clone(), &batch.mask, &evaluation());
    let pooled = values(mean_pool(hidden.clone(), &batch.mask));
    let hidden = values(batch.at_tokens(hidden));
    assert_close("hidden states", &hidden, &golden.floats("encoder.hidden"), tolerance(&device));
    assert_close("their mean", &pooled, &golden.floats("encoder.mean"), tolerance(&device));
}
