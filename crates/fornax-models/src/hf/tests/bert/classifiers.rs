//! Classes that a checkpoint has and classes that a caller wants.

use fornax_backend::test_device;
use serde_json::{Value, json};

use super::{super::super::*, copy, edit, folder};
use crate::ModelError;

fn labels(names: &[&str]) -> Option<Vec<String>> {
    Some(names.iter().map(|name| (*name).to_owned()).collect())
}

fn error(dir: &std::path::Path, options: &LoadClassifier) -> String {
    load_bert_for_sequence_classification(dir, options, &test_device()).unwrap_err().to_string()
}

#[test]
fn another_number_of_classes_is_an_error_unless_the_head_is_to_be_replaced() {
    let options = LoadClassifier { labels: labels(&["no", "yes"]), seed: 5, ..LoadClassifier::default() };
    let message = error(&folder("labels"), &options).replace(&folder("labels").display().to_string(), "DIR");
    insta::assert_snapshot!(message, @r"
    DIR: 2 of the checkpoint's tensors do not fit the model
      `classifier.weight`: checkpoint has [3, 12], model wants [2, 12]
      `classifier.bias`: checkpoint has [3], model wants [2]
    ");
    let options = LoadClassifier { replace_head: true, ..options };
    let device = test_device();
    let (model, report) = load_bert_for_sequence_classification(&folder("labels"), &options, &device).unwrap();
    assert_eq!(report.initialised, ["classifier.weight", "classifier.bias"]);
    assert_eq!(report.unused, report.initialised);
    assert_eq!(report.loaded.len(), 39, "the encoder and the pooler");
    assert_eq!(model.head.classifier.weight.val().dims(), [12, 2]);
    // As many classes keep the head, whatever their names.
    let options = LoadClassifier { labels: labels(&["a", "b", "c"]), ..options };
    let (model, report) = load_bert_for_sequence_classification(&folder("labels"), &options, &device).unwrap();
    assert!(report.initialised.is_empty() && report.loaded.len() == 41);
    assert_eq!(model.classifier().labels, ["a", "b", "c"]);
    // So does a head of another kind.
    let dir = copy("bert/labels");
    edit(&dir.path().join(CONFIG), |config| config["problem_type"] = json!("multi_label_classification"));
    let (_, report) = load_bert_for_sequence_classification(dir.path(), &options, &device).unwrap();
    assert_eq!(report.loaded.len(), 41);
}

#[test]
fn classes_are_those_of_the_file() {
    let dir = copy("bert/labels");
    let config = dir.path().join(CONFIG);
    edit(&config, |config| {
        config.as_object_mut().unwrap().remove("id2label");
        config["num_labels"] = json!(3);
    });
    let options = LoadClassifier::default();
    let (model, _) = load_bert_for_sequence_classification(dir.path(), &options, &test_device()).unwrap();
    assert_eq!(model.classifier().labels, ["LABEL_0", "LABEL_1", "LABEL_2"]);

    let cases: [(&str, Value, &str); 4] = [
        ("problem_type", json!("regression"), "with 3 labels, only `single_label_classification` is supported"),
        ("id2label", json!({"0": "a", "2": "b"}), "`id2label` doesn't number its labels from 0 on without gaps"),
        ("id2label", json!({"0": "a", "1": "a"}), "`id2label` labels: `a` is there twice"),
        ("fornax_pooling", json!("max"), "`fornax_pooling` is \"max\": unknown variant `max`"),
    ];
    for (key, value, wanted) in cases {
        let dir = copy("bert/labels");
        edit(&dir.path().join(CONFIG), |config| config[key] = value);
        let error = error(dir.path(), &options);
        assert!(error.contains(wanted), "{key}: {error}");
    }
}

#[test]
fn labels_that_name_no_classes_are_refused() {
    for (names, wanted) in [(&[][..], "labels: there is none"), (&["a", "b", "a"], "labels: `a` is there twice")] {
        let options = LoadClassifier { labels: labels(names), ..LoadClassifier::default() };
        let error = load_bert_for_sequence_classification(&folder("labels"), &options, &test_device()).unwrap_err();
        assert!(matches!(error, ModelError::Labels { .. }) && error.to_string().starts_with(wanted), "{error}");
    }
}
