use super::*;
use crate::dataset::assert_sources_exclude;
use crate::source::parquet_files::{Values, write_parquet};

#[test]
fn own_tables_name_their_columns() {
    let csv = "\u{feff}stars,review,id\r\n5,\"good, \"\"really\"\"\nfine\",1\r\n\r\n1,bad,2\r\n";
    let config =
        "files = ['DIR/train.csv']\nvalid_files = ['DIR/valid.csv']\ntext_column = 'review'\nlabel_column = 'stars'\n";
    let files = [("train.csv", csv), ("valid.csv", "review,stars\nso so,3\n")];
    let splits = open_own(&files, &format!("{config}labels = ['1', '3', '5']")).unwrap();
    let train = [example("good, \"really\"\nfine", None, class(2), 0), example("bad", None, class(0), 1)];
    assert_eq!(splits.train.examples(), train);
    assert_eq!(splits.valid[0].examples(), [example("so so", None, class(1), 0)]);
    assert_eq!(splits.best(), "accuracy");
    assert_eq!(
        open_own(&files, &format!("{config}labels = ['1', '5']")).unwrap_err(),
        "valid.csv:2: the label is `3`, not one of: 1, 5"
    );
    let scored = open_own(&files, &format!("{config}regression = true")).unwrap();
    assert_eq!(scored.train.examples()[0].label, Some(Label::Score(5.0)));
    assert_eq!(scored.best(), "spearman");

    let jsonl =
        "{\"a\": \"x\", \"b\": \"y\", \"label\": \"no\"}\n\n{\"a\": \" z\", \"b\": \"\", \"label\": 1, \"more\": []}\n";
    let config = "files = ['DIR/train.jsonl', 'DIR/more.jsonl']\nvalid_files = ['DIR/valid.jsonl']\ntest_files = ['DIR/test.jsonl']\n\
                  text_column = 'a'\ntext_pair_column = 'b'\nlabels = ['no', 'yes']";
    let splits = open_own(
        &[
            ("train.jsonl", jsonl),
            ("more.jsonl", "{\"a\": \"w\", \"b\": \"v\", \"label\": 0}"),
            ("valid.jsonl", jsonl),
            ("test.jsonl", "{\"a\": \"t\", \"b\": \"u\"}\n{\"a\": \"t\", \"b\": \"u\", \"label\": null}\n{\"a\": \"t\", \"b\": \"u\", \"label\": -1}"),
        ],
        config,
    )
    .unwrap();
    let train = [
        example("x", Some("y"), class(0), 0),
        example("z", Some(""), class(1), 1),
        example("w", Some("v"), class(0), 2),
    ];
    assert_eq!(splits.train.examples(), train);
    assert_eq!(splits.test[0].examples(), (0..3).map(|i| example("t", Some("u"), None, i)).collect::<Vec<_>>());
    assert_eq!(splits.best(), "accuracy");
}

fn write_rows(path: &Path, rows: &[(&str, i64)]) {
    let (texts, labels): (Vec<&str>, Vec<i64>) = rows.iter().copied().unzip();
    write_parquet(path, &[("sentence", Values::Texts(&texts)), ("label", Values::Integers(&labels))]);
}

#[test]
fn parquet_is_read_and_its_mistakes_named() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    write_rows(&place("train.parquet"), &[("it 's \"fine\" ", 1), ("bad\n", 0)]);
    write_rows(&place("test.parquet"), &[("what ?", -1)]);
    let config = LabelledConfig {
        files: vec![place("train.parquet")],
        valid_files: vec![place("valid.parquet")],
        test_files: vec![place("test.parquet")],
        text_column: Some("sentence".into()),
        labels: vec!["negative".into(), "positive".into()],
        ..LabelledConfig::default()
    };
    let open = |config: &LabelledConfig| {
        config.open_in(Places::default()).map_err(|error| {
            error.to_string().replace(&format!("{}{}", folder.path().display(), std::path::MAIN_SEPARATOR), "")
        })
    };
    write_rows(&place("valid.parquet"), &[("so so", 1), ("hm", 2)]);
    let message = "valid.parquet:2: the label is `2`, not one of: negative (0), positive (1)";
    assert_eq!(open(&config).unwrap_err(), message);
    write_rows(&place("valid.parquet"), &[("so so", 1)]);
    let splits = open(&config).unwrap();
    let found: Vec<_> = splits.train.examples().iter().map(|it| (it.text.as_str(), it.label, it.index)).collect();
    assert_eq!(found, [("it 's \"fine\"", Some(Label::Class(1)), 0), ("bad", Some(Label::Class(0)), 1)]);
    assert_eq!(splits.test[0].examples()[0].label, None);

    let other = LabelledConfig { text_column: Some("text".into()), ..config.clone() };
    let message = "train.parquet:1: there is no column `text`; there is: sentence, label";
    assert_eq!(open(&other).unwrap_err(), message);
    let other = LabelledConfig { text_column: Some("label".into()), ..config.clone() };
    assert_eq!(open(&other).unwrap_err(), "train.parquet:1: `label` holds a number, not a string");
    std::fs::write(place("train.parquet"), "no parquet").unwrap();
    assert!(open(&config).unwrap_err().starts_with("train.parquet: "));
}

#[test]
fn a_table_is_not_on_both_sides_by_whatever_path() {
    let table = [("tables/a.tsv", "text\tlabel\nwarm\t1\n")];
    let config = "files = ['DIR/tables/a.tsv']\nvalid_files = ['DIR/tables']\nlabels = ['no', 'yes']\nformat = 'tsv'\n";
    let error = open_own(&table, config).unwrap_err().replace('\\', "/");
    assert_eq!(error, "`data.valid_files` is tables/a.tsv; expected a file that is not in `data.files` too");
}

#[test]
fn bad_own_tables_are_named() {
    let config = "files = ['DIR/a.EXT']\nvalid_files = ['DIR/b.EXT']\nlabels = ['no', 'yes']\n";
    let error = |extension: &str, content: &str| {
        let (a, b) = (format!("a.{extension}"), format!("b.{extension}"));
        open_own(&[(&a, content), (&b, content)], &config.replace("EXT", extension)).unwrap_err()
    };
    assert_eq!(error("jsonl", "{\"text\": 1, \"label\": 0}"), "a.jsonl:1: `text` holds a number, not a string");
    assert_eq!(
        error("jsonl", "\n{\"txt\": \"a\", \"label\": 0}"),
        "a.jsonl:2: there is no column `text`; there is: label, txt"
    );
    assert_eq!(
        error("jsonl", "{\"text\": \"a\", \"label\": true}"),
        "a.jsonl:1: the label is `true`, not one of: no (0), yes (1)"
    );
    assert_eq!(error("jsonl", "{\"text\": \"a\", \"label\": []}"), "a.jsonl:1: `label` holds an array, not a text");
    assert_eq!(error("jsonl", "{\"text\": null, \"label\": 0}"), "a.jsonl:1: `text` holds nothing");
    assert_eq!(error("jsonl", "{\"text\": \"a\"}"), "a.jsonl:1: there is no label");
    assert_eq!(
        error("jsonl", "{\"text\": \"a\", \"label\": \"maybe\"}"),
        "a.jsonl:1: the label is `maybe`, not one of: no (0), yes (1)"
    );
    let broken = error("jsonl", "{\"text\": \"a\", \"label\": 0}\n{\"text\"");
    assert!(broken.starts_with("a.jsonl:2:7: "), "{broken}");
    assert_eq!(error("csv", "text,label\na,0\n\nb\n"), "a.csv:4: the row has 1 columns, the header 2");
    assert_eq!(error("csv", "txt,label\na,0\n"), "a.csv:1: there is no column `text`; there is: txt, label");
    assert_eq!(error("csv", ""), "no text in a.csv: there is no example in it");
    assert_eq!(error("tsv", "text\tlabel\n"), "no text in a.tsv: there is no example in it");
}

#[test]
fn keys_that_exclude_each_other_are_named() {
    for (text, message) in [
        (
            "",
            "`data.task` is not set; expected one of cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte, wnli, or data.files",
        ),
        (
            "task = 'sst2'\nlabels = ['a', 'b']",
            "`data.labels` and `data.task = \"sst2\"` can't both be set: a GLUE task brings its own; it goes with data.files",
        ),
        (
            "files = ['a.tsv']\nlabels = ['a', 'b']",
            "`data.valid_files` is empty; expected the files to evaluate on, which data.files needs beside it",
        ),
        (
            "files = ['a.tsv']\nvalid_files = ['a.tsv']\nlabels = ['a', 'b']",
            "`data.valid_files` is a.tsv; expected a file that is not in `data.files` too",
        ),
        (
            "files = ['a.tsv']\nvalid_files = ['b.tsv']\nlabels = ['a', 'b']\nregression = true",
            "`data.regression` and `data.labels` can't both be set: a label is a number or a class",
        ),
        (
            "files = ['a.tsv']\nvalid_files = ['b.tsv']",
            "`data.labels` is []; expected at least two classes in the order of their numbers, as [\"negative\", \"positive\"], \
             or data.regression = true",
        ),
        (
            "files = ['a.tsv']\nvalid_files = ['b.tsv']\nlabels = ['a', 'b', 'a']",
            "`data.labels` is [\"a\", \"b\", \"a\"]; expected `a` once",
        ),
        (
            "files = ['a.tsv']\nvalid_files = ['b.tsv']\nlabels = ['a', 'b']\nfolder = 'x'",
            "`data.folder` and `data.files` can't both be set: the folder belongs to a GLUE task",
        ),
        (
            "files = ['a.tsv']\nvalid_files = ['b.csv']\nlabels = ['a', 'b']",
            "`data.files` is a mix of formats, judging by the names; expected tsv, csv, jsonl or parquet files, all of one format, or data.format",
        ),
        (
            "files = ['a.txt']\nvalid_files = ['b.txt']\nlabels = ['a', 'b']",
            "`data.files` is a.txt, judging by its name no table; expected tsv, csv, jsonl or parquet files, all of one format, or data.format",
        ),
    ] {
        assert_eq!(open_own(&[], text).unwrap_err(), message);
    }
    assert!(toml::from_str::<LabelledConfig>("format = 'lines'").unwrap_err().to_string().contains("unknown variant"));
    assert!(toml::from_str::<LabelledConfig>("task = 'sst'").unwrap_err().to_string().contains("unknown variant"));
    let config: LabelledConfig = toml::from_str("task = 'mnli'\nmax_len = 64").unwrap();
    assert_eq!(toml::from_str::<LabelledConfig>(&toml::to_string(&config).unwrap()).unwrap(), config);
}

#[test]
fn each_source_leaves_out_what_it_excludes() {
    let values = [
        ("task", "'sst2'"),
        ("folder", "'f'"),
        ("files", "['a']"),
        ("valid_files", "['b']"),
        ("test_files", "['c']"),
        ("format", "'tsv'"),
        ("text_column", "'text'"),
        ("text_pair_column", "'pair'"),
        ("label_column", "'label'"),
        ("labels", "['a', 'b']"),
        ("regression", "true"),
    ];
    let check = |text: &str| {
        let mut config: LabelledConfig = toml::from_str(text).unwrap();
        // Own files need some to evaluate on.
        if config.task.is_none() {
            config.valid_files = vec!["b".into()];
        }
        config.check()
    };
    assert_sources_exclude(LabelledConfig::SOURCE_KEYS, &values, &[("task", "folder")], check);
}
