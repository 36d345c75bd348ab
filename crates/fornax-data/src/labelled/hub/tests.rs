use std::path::Path;

use super::*;
use crate::dataset::{Patience, Places};
use crate::labelled::{Label, LabelKind, LabelledConfig, LabelledSet, LabelledSplits};
use crate::source::parquet_files::{Values, write_parquet};

fn write(folder: &Path, name: &str, content: &str) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

/// Opens a task of a machine that has this folder and can download nothing; the error's text without the folder.
fn open(task: GlueTask, folder: &Path) -> Result<LabelledSplits, String> {
    let places = Places { folder: Some(folder.into()), patience: Patience::none(), ..Places::default() };
    let config = LabelledConfig { task: Some(task), ..LabelledConfig::default() };
    config
        .open_in(places)
        .map_err(|error| error.to_string().replace(&format!("{}{}", folder.display(), std::path::MAIN_SEPARATOR), ""))
}

/// Text, second text, label and index of each example; a class by its name.
fn rows(set: &LabelledSet) -> Vec<(&str, Option<&str>, Option<String>, u64)> {
    let label = |label| match (label, set.kind()) {
        (Label::Class(class), LabelKind::Classes(names)) => names[class].clone(),
        (Label::Score(score), _) => score.to_string(),
        (Label::Class(class), LabelKind::Score) => panic!("class {class} of scores"),
    };
    let row = |it: &'_ crate::labelled::LabelledExample| (it.label.map(label), it.index);
    set.examples().iter().map(|it| (it.text.as_str(), it.pair.as_deref(), row(it).0, row(it).1)).collect()
}

fn named(name: &str) -> Option<String> {
    Some(name.to_owned())
}

#[test]
fn classes_of_the_hub_are_those_of_the_tasks_by_name() {
    for task in GlueTask::ALL {
        let (hub, kind) = (HubTable::of(task), task.info().label_kind());
        let mut numbers: Vec<Label> = Vec::new();
        for number in 0..hub.classes.len() {
            let spelled = number.to_string();
            assert_eq!(hub.label(&spelled), Some(hub.classes[number]), "{task}");
            numbers.push(kind.parse(hub.classes[number]).unwrap());
        }
        assert_eq!(numbers.len(), if kind == LabelKind::Score { 0 } else { kind.outputs() }, "{task}");
        assert_eq!([hub.label("-1"), hub.label("-1.0"), hub.label("7")], [None, None, Some("7")], "{task}");
    }
    // A number stands for a name, whatever number the name has here.
    let other = HubTable { classes: &["positive", "negative"], ..HubTable::of(GlueTask::Sst2) };
    assert_eq!(GlueTask::Sst2.info().label_kind().parse(other.label("0").unwrap()), Some(Label::Class(1)));
}

#[test]
fn shards_of_parquet_are_one_set_in_order_and_numbered_by_idx() {
    let folder = tempfile::tempdir().unwrap();
    let shard = |name: &str, texts: &[&str], labels: &[i64], idx: &[i64]| {
        let columns =
            [("sentence", Values::Texts(texts)), ("label", Values::Integers(labels)), ("idx", Values::Integers(idx))];
        write_parquet(&folder.path().join("sst2").join(name), &columns);
    };
    shard("train-00001-of-00002.parquet", &["c"], &[1], &[2]);
    shard("train-00000-of-00002.parquet", &["a ", "b"], &[0, 1], &[0, 1]);
    shard("validation-00000-of-00001.parquet", &["v"], &[1], &[0]);
    // In another order than the table's rows: a submission goes by the number.
    shard("test-00000-of-00001.parquet", &["second", "first"], &[-1, -1], &[1, 0]);
    let splits = open(GlueTask::Sst2, folder.path()).unwrap();
    let train =
        [("a", None, named("negative"), 0), ("b", None, named("positive"), 1), ("c", None, named("positive"), 2)];
    assert_eq!(rows(&splits.train), train);
    assert_eq!(rows(&splits.valid[0]), [("v", None, named("positive"), 0)]);
    assert_eq!(rows(&splits.test[0]), [("second", None, None, 1), ("first", None, None, 0)]);
    assert_eq!(splits.best(), "accuracy");

    std::fs::remove_file(folder.path().join("sst2/train-00000-of-00002.parquet")).unwrap();
    let error = open(GlueTask::Sst2, folder.path()).unwrap_err().replace('\\', "/");
    let message = "sst2/train-00000-of-00002.parquet: of the 2 shards of train this one is not here; download it \
                   beside the others";
    assert_eq!(error, message);
}

#[test]
fn scores_of_the_hub_are_floats_and_minus_one_where_they_are_secret() {
    let folder = tempfile::tempdir().unwrap();
    let table = |name: &str, scores: &[f32]| {
        let columns = [
            ("sentence1", Values::Texts(&["a"][..])),
            ("sentence2", Values::Texts(&["b"])),
            ("label", Values::Floats(scores)),
            ("idx", Values::Integers(&[4])),
        ];
        write_parquet(&folder.path().join(name), &columns);
    };
    table("train.parquet", &[3.75]);
    table("validation.parquet", &[0.0]);
    table("test.parquet", &[-1.0]);
    let splits = open(GlueTask::Stsb, folder.path()).unwrap();
    assert_eq!(rows(&splits.train), [("a", Some("b"), named("3.75"), 4)]);
    assert_eq!(rows(&splits.valid[0]), [("a", Some("b"), named("0"), 4)]);
    assert_eq!(rows(&splits.test[0]), [("a", Some("b"), None, 4)]);
    table("validation.parquet", &[-1.0]);
    assert_eq!(open(GlueTask::Stsb, folder.path()).unwrap_err(), "validation.parquet:1: there is no label");
}

#[test]
fn json_lines_of_mnli_have_four_more_sets_than_train() {
    let folder = tempfile::tempdir().unwrap();
    let row = |text: &str, label: i32| {
        format!("{{\"premise\": \"{text}\", \"hypothesis\": \"h\", \"label\": {label}, \"idx\": 0}}\n")
    };
    for (name, label) in [
        ("train.json", 2),
        ("validation_matched.jsonl", 1),
        ("validation_mismatched.jsonl", 0),
        ("test_matched.jsonl", -1),
        ("test_mismatched-00000-of-00001.jsonl", -1),
    ] {
        write(&folder.path().join("mnli"), name, &row(name, label));
    }
    let splits = open(GlueTask::Mnli, folder.path()).unwrap();
    assert_eq!(rows(&splits.train), [("train.json", Some("h"), named("contradiction"), 0)]);
    let all =
        |sets: &[LabelledSet]| sets.iter().map(|set| format!("{} {:?}", set.name(), rows(set))).collect::<Vec<_>>();
    assert_eq!(
        all(&splits.valid),
        [
            "valid [(\"validation_matched.jsonl\", Some(\"h\"), Some(\"neutral\"), 0)]",
            "valid_mismatched [(\"validation_mismatched.jsonl\", Some(\"h\"), Some(\"entailment\"), 0)]"
        ]
    );
    assert_eq!(
        all(&splits.test),
        [
            "test [(\"test_matched.jsonl\", Some(\"h\"), None, 0)]",
            "test_mismatched [(\"test_mismatched-00000-of-00001.jsonl\", Some(\"h\"), None, 0)]"
        ]
    );
}

#[test]
fn comma_separated_tables_of_every_task_are_read() {
    for task in GlueTask::ALL {
        let hub = HubTable::of(task);
        let crate::labelled::Column::Name(text) = hub.columns.text else { panic!("the hub's columns have names") };
        let pair = hub.columns.pair.map(|column| match column {
            crate::labelled::Column::Name(name) => name,
            crate::labelled::Column::Number(number) => panic!("column {number} has no name"),
        });
        let folder = tempfile::tempdir().unwrap();
        let second = pair.map(|name| format!("{name},")).unwrap_or_default();
        let value = pair.map(|_| "two,").unwrap_or_default();
        let table = format!("{text},{second}label,idx\n\"one, \"\"quoted\"\"\",{value}1,7\nplain,{value}0,8\n");
        for set in task.info().sets {
            write(folder.path(), &format!("{}.csv", stem(set)), &table);
        }
        let splits = open(task, folder.path()).unwrap_or_else(|error| panic!("{task}: {error}"));
        let names = if hub.classes.is_empty() { ["0", "1"] } else { [hub.classes[0], hub.classes[1]] };
        let second = pair.map(|_| "two");
        let expected = [("one, \"quoted\"", second, named(names[1]), 7), ("plain", second, named(names[0]), 8)];
        assert_eq!(rows(&splits.train), expected, "{task}");
        assert_eq!(splits.valid.len() + splits.test.len() + 1, task.info().sets.len(), "{task}");
    }
}

#[test]
fn official_files_win_and_an_earlier_place_wins_over_a_later() {
    let root = tempfile::tempdir().unwrap();
    let of = |places: &Places| {
        let config = LabelledConfig { task: Some(GlueTask::Rte), ..LabelledConfig::default() };
        config.open_in(places.clone()).unwrap().train.examples()[0].text.clone()
    };
    let places = Places {
        folder: None,
        data: Some(root.path().join("data")),
        cache: Some(root.path().join("cache")),
        patience: Patience::none(),
    };
    for (folder, of_hub) in
        [("cache/datasets/rte", true), ("cache/datasets/RTE", false), ("data/rte/rte", true), ("data/RTE", false)]
    {
        let (names, table) = match of_hub {
            true => (["train.csv", "validation.csv"], format!("sentence1,sentence2,label\n{folder},b,0\n")),
            false => (["train.tsv", "dev.tsv"], format!("sentence1\tsentence2\tlabel\n{folder}\tb\tentailment\n")),
        };
        for name in names {
            write(&root.path().join(folder), name, &table);
        }
        assert_eq!(of(&places), folder, "the files that were added last come first");
    }
    write(&root.path().join("data/RTE"), "train.csv", "sentence1,sentence2,label\nof the hub,b,0\n");
    write(&root.path().join("data/RTE"), "validation.csv", "sentence1,sentence2,label\nof the hub,b,0\n");
    assert_eq!(of(&places), "data/RTE");
}

#[test]
fn mistakes_name_file_row_and_column() {
    let folder = tempfile::tempdir().unwrap();
    let valid = "sentence,label,idx\nfine,1,0\n";
    for (train, message) in [
        (
            "sentence,label,idx\nfine,2,0\n",
            "train.csv:2: the label is `2`, not one of: negative (0), positive (1); is it a file of SST-2?",
        ),
        ("sentence,label,idx\nfine,-1,0\n", "train.csv:2: there is no label"),
        ("sentence,label,idx\nfine,1,zero\n", "train.csv:2: `idx` is `zero`, not the number of an example"),
        (
            "text,label,idx\nfine,1,0\n",
            "train.csv:1: there is no column `sentence`; there is: text, label, idx; is it a file of SST-2?",
        ),
    ] {
        write(folder.path(), "train.csv", train);
        write(folder.path(), "validation.csv", valid);
        assert_eq!(open(GlueTask::Sst2, folder.path()).unwrap_err(), message);
    }
    // Without numbers, rows are counted.
    write(folder.path(), "train.csv", "label,sentence\npositive,a\n0,b\n");
    let splits = open(GlueTask::Sst2, folder.path()).unwrap();
    assert_eq!(rows(&splits.train), [("a", None, named("positive"), 0), ("b", None, named("negative"), 1)]);
}
