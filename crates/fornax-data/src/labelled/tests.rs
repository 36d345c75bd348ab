use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn_dataset::Dataset;

use super::*;
use crate::dataset::{Patience, Places};
use crate::loader::BatchSource;
use crate::store::tests::memory;
use crate::{DataError, IGNORE_TARGET, StepSize, Tokenizer, TokenizerConfig, TokenizerKind};

fn folder_with(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    folder
}

/// The places of a machine on which nothing was downloaded and nothing can be.
fn nowhere(folder: &Path) -> Places {
    Places { folder: Some(folder.into()), patience: Patience::none(), ..Places::default() }
}

fn open_task(task: GlueTask, files: &[(&str, &str)]) -> LabelledSplits {
    let folder = folder_with(files);
    let config = LabelledConfig { task: Some(task), ..LabelledConfig::default() };
    config.open_in(nowhere(folder.path())).unwrap()
}

/// The config's text with `DIR` for the folder; the error's text without it.
fn open_own(files: &[(&str, &str)], config: &str) -> Result<LabelledSplits, String> {
    let folder = folder_with(files);
    let dir = folder.path().display().to_string();
    let config: LabelledConfig = toml::from_str(&config.replace("DIR", &dir)).unwrap();
    config.open_in(Places::default()).map_err(|error| {
        error.to_string().replace(&format!("{dir}{}", std::path::MAIN_SEPARATOR), "").replace(&dir, "DIR")
    })
}

/// The error of a task whose file `name` has `content`.
fn task_error(task: GlueTask, name: &str, content: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    for set in task.info().sets {
        std::fs::write(folder.path().join(set.file), VALID_SST2).unwrap();
    }
    std::fs::write(folder.path().join(name), content).unwrap();
    let config = LabelledConfig { task: Some(task), ..LabelledConfig::default() };
    let error = config.open_in(nowhere(folder.path())).unwrap_err().to_string();
    error.replace(&format!("{}{}", folder.path().display(), std::path::MAIN_SEPARATOR), "")
}

const VALID_SST2: &str = "sentence\tlabel\nfine\t1\n";

fn example(text: &str, pair: Option<&str>, label: Option<Label>, index: u64) -> LabelledExample {
    LabelledExample { text: text.into(), pair: pair.map(Into::into), label, index }
}

fn class(class: usize) -> Option<Label> {
    Some(Label::Class(class))
}

#[test]
fn cola_has_no_header_but_in_test() {
    let splits = open_task(
        GlueTask::Cola,
        &[
            ("train.tsv", "gj04\t1\t\tThey \"drank\" the pub.\ngj04\t0\t*\tThey drank the pub dry dry.\n"),
            ("dev.tsv", "clc95\t1\t\tBill broke the bathtub.\n"),
            ("test.tsv", "index\tsentence\n0\tBill whistled past the house.\n"),
        ],
    );
    assert_eq!(
        splits.train.examples(),
        [
            example("They \"drank\" the pub.", None, class(1), 0),
            example("They drank the pub dry dry.", None, class(0), 1)
        ]
    );
    assert_eq!(splits.valid[0].get(0).unwrap(), example("Bill broke the bathtub.", None, class(1), 0));
    assert_eq!(splits.test[0].examples(), [example("Bill whistled past the house.", None, None, 0)]);
    assert_eq!(splits.best(), "matthews");
    assert!(splits.train.is_labelled() && !splits.test[0].is_labelled());
    assert_eq!(splits.train.len(), 2);
    assert!(
        splits.train.describe().ends_with("2 examples (unacceptable 1, acceptable 1)"),
        "{}",
        splits.train.describe()
    );
}

#[test]
fn sst2_is_trimmed_and_takes_byte_order_mark_crlf_and_blank_lines() {
    let splits = open_task(
        GlueTask::Sst2,
        &[
            ("train.tsv", "\u{feff}sentence\tlabel\r\nsay \"hi \t1\r\n\r\nan 'unclosed\" quote \t0\r\n"),
            ("dev.tsv", "sentence\tlabel\nit 's fine \t1"),
            ("test.tsv", "index\tsentence\n0\tuneasy .\n1\ta \"film\n"),
        ],
    );
    let train = [example("say \"hi", None, class(1), 0), example("an 'unclosed\" quote", None, class(0), 1)];
    assert_eq!(splits.train.examples(), train);
    assert_eq!(splits.valid[0].examples(), [example("it 's fine", None, class(1), 0)]);
    assert_eq!(splits.test[0].examples(), [example("uneasy .", None, None, 0), example("a \"film", None, None, 1)]);
    assert_eq!(splits.kind, LabelKind::Classes(vec!["negative".into(), "positive".into()]));
}

#[test]
fn mrpc_is_read_as_glue_has_it_and_as_microsoft_gives_it() {
    let header = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String";
    let glue = open_task(
        GlueTask::Mrpc,
        &[
            ("train.tsv", &format!("{header}\n1\t10\t11\tone\tuno\n0\t30\t31\tthree\tvier\n")),
            ("dev.tsv", &format!("{header}\n1\t20\t21\ttwo\tdue\n")),
            ("test.tsv", "index\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t40\t41\tfour\tquattro\n"),
        ],
    );
    let rows = "1\t10\t11\tone\tuno\r\n1\t20\t21\ttwo\tdue\r\n0\t30\t31\tthree\tvier\r\n";
    let train = format!("\u{feff}{header}\r\n{rows}");
    let test = format!("{header}\r\n1\t40\t41\tfour\tquattro\r\n");
    for ids in ["mrpc_dev_ids.tsv", "dev_ids.tsv"] {
        let microsoft = open_task(
            GlueTask::Mrpc,
            &[("msr_paraphrase_train.txt", &train), ("msr_paraphrase_test.txt", &test), (ids, "20\t21\n")],
        );
        assert_eq!(microsoft.train.examples(), glue.train.examples());
        assert_eq!(microsoft.valid[0].examples(), glue.valid[0].examples());
        assert_eq!(microsoft.test[0].examples(), [example("four", Some("quattro"), class(1), 0)]);
        assert_ne!(microsoft.train.fingerprint(), microsoft.valid[0].fingerprint());
    }
    assert_eq!(glue.train.examples()[1], example("three", Some("vier"), class(0), 1));
    assert_eq!(glue.test[0].examples(), [example("four", Some("quattro"), None, 0)]);
}

#[test]
fn stsb_has_scores() {
    let head = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2";
    let row =
        "0\tmain-captions\tMSRvid\t2012test\t0001\tnone\tnone\tA plane is taking off.\tAn air plane is taking off.";
    let labelled = format!("{head}\tscore\n{row}\t4.250\n");
    let splits = open_task(
        GlueTask::Stsb,
        &[("train.tsv", &labelled), ("dev.tsv", &labelled), ("test.tsv", &format!("{head}\n{row}\n"))],
    );
    let (first, second) = ("A plane is taking off.", Some("An air plane is taking off."));
    assert_eq!(splits.train.examples(), [example(first, second, Some(Label::Score(4.25)), 0)]);
    assert_eq!(splits.test[0].examples(), [example(first, second, None, 0)]);
    assert_eq!((&splits.kind, splits.best()), (&LabelKind::Score, "spearman"));
}

#[test]
fn qqp_leaves_out_rows_that_lack_columns_and_keeps_empty_questions() {
    let head = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n";
    let splits = open_task(
        GlueTask::Qqp,
        &[
            ("train.tsv", &format!("{head}133273\t1\t2\thow?\twhy?\t0\n5\t3\thalf a row\n402555\t4\t5\twhat?\t\t1\n")),
            ("dev.tsv", &format!("{head}1\t2\t3\ta?\tb?\t1\n")),
            ("test.tsv", "id\tquestion1\tquestion2\n0\tc?\td?\n"),
        ],
    );
    // Row numbers count what is left out.
    let train = [example("how?", Some("why?"), class(0), 0), example("what?", Some(""), class(1), 2)];
    assert_eq!(splits.train.examples(), train);
    assert_eq!(splits.test[0].examples(), [example("c?", Some("d?"), None, 0)]);
}

#[test]
fn mnli_has_two_valid_and_two_test_sets() {
    let head = "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\tsentence2_parse\tsentence1\tsentence2";
    let row = |genre: &str| format!("0\t31193\t31193n\t{genre}\t( a )\t( b )\t(ROOT a)\t(ROOT b)\tA.\tB.");
    let train = format!("{head}\tlabel1\tgold_label\n{}\tneutral\tcontradiction\n", row("government"));
    let valid = |genre: &str| {
        let labels = "entailment\tneutral\tentailment\tentailment\tentailment\tentailment";
        format!("{head}\tlabel1\tlabel2\tlabel3\tlabel4\tlabel5\tgold_label\n{}\t{labels}\n", row(genre))
    };
    let test = |genre: &str| format!("{head}\n{}\n", row(genre));
    let splits = open_task(
        GlueTask::Mnli,
        &[
            ("train.tsv", &train),
            ("dev_matched.tsv", &valid("fiction")),
            ("dev_mismatched.tsv", &valid("letters")),
            ("test_matched.tsv", &test("fiction")),
            ("test_mismatched.tsv", &test("letters")),
        ],
    );
    assert_eq!(splits.train.examples(), [example("A.", Some("B."), class(2), 0)]);
    assert_eq!(splits.valid[1].examples(), [example("A.", Some("B."), class(0), 0)]);
    let names = |sets: &[LabelledSet]| sets.iter().map(|set| set.name().to_owned()).collect::<Vec<_>>();
    assert_eq!(names(&splits.valid), ["valid", "valid_mismatched"]);
    assert_eq!(names(&splits.test), ["test", "test_mismatched"]);
    assert_eq!(splits.kind.outputs(), 3);
}

#[test]
fn qnli_rte_and_wnli() {
    let qnli = "index\tquestion\tsentence\tlabel\n0\tWhen?\tIn 1918.\tnot_entailment\n1\tWho?\tHe.\tentailment\n";
    let splits = open_task(
        GlueTask::Qnli,
        &[("train.tsv", qnli), ("dev.tsv", qnli), ("test.tsv", "index\tquestion\tsentence\n0\tWhere?\tHere.\n")],
    );
    let train = [example("When?", Some("In 1918."), class(1), 0), example("Who?", Some("He."), class(0), 1)];
    assert_eq!(splits.train.examples(), train);
    assert_eq!(splits.test[0].examples(), [example("Where?", Some("Here."), None, 0)]);

    let rte = "index\tsentence1\tsentence2\tlabel\n0\tNo Weapons.\tWeapons.\tnot_entailment\n";
    let splits = open_task(GlueTask::Rte, &[("train.tsv", rte), ("dev.tsv", rte)]);
    assert_eq!(splits.train.examples(), [example("No Weapons.", Some("Weapons."), class(1), 0)]);
    assert!(splits.test.is_empty(), "a test file may be missing");

    let wnli = "index\tsentence1\tsentence2\tlabel\n0\tI stuck a pin.\tThe pin had a hole.\t1\n";
    let secret = "index\tsentence1\tsentence2\tlabel\n0\tA.\tB.\t-1\n";
    let splits = open_task(GlueTask::Wnli, &[("train.tsv", wnli), ("dev.tsv", wnli), ("test.tsv", secret)]);
    assert_eq!(splits.train.examples(), [example("I stuck a pin.", Some("The pin had a hole."), class(1), 0)]);
    assert_eq!(splits.test[0].examples(), [example("A.", Some("B."), None, 0)]);
}

#[test]
fn files_are_found_in_every_place_in_order() {
    let root = tempfile::tempdir().unwrap();
    let places = Places {
        folder: Some(root.path().join("given")),
        data: Some(root.path().join("data")),
        cache: Some(root.path().join("cache")),
        patience: Patience::none(),
    };
    let config = LabelledConfig { task: Some(GlueTask::Rte), ..LabelledConfig::default() };
    let error = config.open_in(places.clone()).unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with(
            "the files of the GLUE task RTE (train.tsv, dev.tsv, test.tsv, or as the Hugging Face hub has them train, \
             validation, test with .parquet, .jsonl, .json, .csv) are in none of: "
        ),
        "{text}"
    );
    assert!(text.contains(&root.path().join("data").join("RTE").display().to_string()), "{text}");
    let hint = error.hint().unwrap();
    assert_eq!(
        hint,
        "get them from https://dl.fbaipublicfiles.com/glue/data/RTE.zip, unpack them, and name their folder: data.folder = \"DIR\""
    );

    // SST-2 has a descriptor: its download is tried, and here fails for want of a folder.
    let config_of_sst2 = LabelledConfig { task: Some(GlueTask::Sst2), ..LabelledConfig::default() };
    let error = config_of_sst2.open_in(nowhere(&root.path().join("given"))).unwrap_err();
    let why = "; the download failed: this user has no cache folder; set FORNAX_CACHE";
    assert!(error.to_string().ends_with(why), "{error}");
    assert!(error.hint().unwrap().contains("https://dl.fbaipublicfiles.com/glue/data/SST-2.zip"));

    for place in ["cache/datasets/rte", "cache/datasets/RTE", "data/RTE", "data/rte", "given/RTE", "given"] {
        let folder = root.path().join(place);
        std::fs::create_dir_all(&folder).unwrap();
        let table = format!("index\tsentence1\tsentence2\tlabel\n0\t{place}\tb\tentailment\n");
        std::fs::write(folder.join("train.tsv"), &table).unwrap();
        // A folder that lacks the valid file does not count.
        if place != "data/rte" {
            std::fs::write(folder.join("dev.tsv"), &table).unwrap();
        }
        let found = config.open_in(places.clone()).unwrap().train.examples()[0].text.clone();
        let expected = match place {
            "cache/datasets/RTE" => "cache/datasets/rte",
            "data/rte" => "data/RTE",
            place => place,
        };
        assert_eq!(found, expected);
    }
}

#[test]
fn bad_files_are_named_with_file_line_and_what_is_wrong() {
    for (task, name, content, message) in [
        (
            GlueTask::Sst2,
            "train.tsv",
            &b"sentence\tlabel\nfine\t1\nno label\n"[..],
            "train.tsv:3: the row has 1 columns, the header 2",
        ),
        (
            GlueTask::Sst2,
            "dev.tsv",
            b"sentence\tlabel\nfine\t2\n",
            "dev.tsv:2: the label is `2`, not one of: negative (0), positive (1)",
        ),
        (
            GlueTask::Sst2,
            "dev.tsv",
            b"sentence\tlabel\r\n\r\nfine\t-1\r\n",
            "dev.tsv:3: the label is `-1`, not one of: negative (0), positive (1)",
        ),
        (GlueTask::Sst2, "train.tsv", b"sentence\tlabel\nfine\t \n", "train.tsv:2: there is no label"),
        (
            GlueTask::Sst2,
            "test.tsv",
            b"id\ttext\n0\tfine\n",
            "test.tsv:1: there is no column `sentence`; there is: id, text; is it a file of SST-2?",
        ),
        (
            GlueTask::Sst2,
            "train.tsv",
            b"index\tsentence\n0\tfine\n",
            "train.tsv:1: there is no column `label`; there is: index, sentence; is it a file of SST-2?",
        ),
        (
            GlueTask::Rte,
            "train.tsv",
            VALID_SST2.as_bytes(),
            "train.tsv:1: there is no column `sentence1`; there is: sentence, label; is it a file of RTE?",
        ),
        (
            GlueTask::Cola,
            "train.tsv",
            VALID_SST2.as_bytes(),
            "train.tsv:1: the row has 2 columns, not 4; is it a file of CoLA?",
        ),
        (
            GlueTask::Cola,
            "train.tsv",
            b"gj04\tyes\t\tA.\n",
            "train.tsv:1: the label is `yes`, not one of: unacceptable (0), acceptable (1)",
        ),
        (GlueTask::Sst2, "train.tsv", b"", "no text in train.tsv: there is no example in it"),
        (GlueTask::Sst2, "train.tsv", b"sentence\tlabel\n\n", "no text in train.tsv: there is no example in it"),
        (GlueTask::Sst2, "train.tsv", b"sentence\tlabel\ncaf\xE9\t1\n", "train.tsv: not UTF-8 at byte 18"),
    ] {
        assert_eq!(task_error(task, name, content), message);
    }
    let stsb = "index\tsentence1\tsentence2\tscore\n0\ta\tb\thigh\n";
    assert_eq!(
        task_error(GlueTask::Stsb, "train.tsv", stsb.as_bytes()),
        "train.tsv:2: the label is `high`, not a number"
    );
}

#[test]
fn what_is_scored_needs_nothing_to_train_on() {
    let labelled = "sentence1\tsentence2\tlabel\na\tb\tentailment\n";
    let folder = folder_with(&[("dev.tsv", labelled), ("test.tsv", "sentence1\tsentence2\na\tb\n")]);
    let task = LabelledConfig { task: Some(GlueTask::Rte), ..LabelledConfig::default() };
    let names = |scored: &ScoredSets| scored.sets.iter().map(|set| set.name().to_owned()).collect::<Vec<_>>();
    let scored = task.open_scored_in(nowhere(folder.path())).unwrap();
    assert_eq!((names(&scored), scored.kind), (vec!["valid".to_owned()], GlueTask::Rte.info().label_kind()));
    assert!(task.open_in(nowhere(folder.path())).is_err(), "a training needs more");
    // A train file is not read, whatever is in it, and a test file only counts with its labels.
    std::fs::write(folder.path().join("train.tsv"), "no table").unwrap();
    std::fs::write(folder.path().join("test.tsv"), labelled).unwrap();
    assert_eq!(names(&task.open_scored_in(nowhere(folder.path())).unwrap()), ["valid", "test"]);
    std::fs::remove_file(folder.path().join("dev.tsv")).unwrap();
    let error = task.open_scored_in(nowhere(folder.path())).unwrap_err();
    assert!(error.to_string().starts_with("the files of the GLUE task RTE"), "{error}");

    let own = |files: &[(&str, &str)], config: &str| {
        let folder = folder_with(files);
        let dir = folder.path().display().to_string();
        let config: LabelledConfig = toml::from_str(&config.replace("DIR", &dir)).unwrap();
        config.open_scored_in(Places::default()).map_err(|error| error.to_string())
    };
    let labels = "labels = ['no', 'yes']\n";
    let table = "text\tlabel\nwarm\tyes\n";
    let valid = format!("{labels}valid_files = ['DIR/b.tsv']\n");
    let files = [("b.tsv", table), ("c.tsv", "text\nwarm\n")];
    for more in ["", "files = ['DIR/gone.csv']", "test_files = ['DIR/c.tsv']"] {
        let scored = own(&files, &format!("{valid}{more}")).unwrap();
        assert_eq!(scored.sets.len(), 1, "{more}");
        assert_eq!(scored.sets[0].examples(), [example("warm", None, class(1), 0)]);
    }
    let error = own(&[], labels).unwrap_err();
    assert!(error.starts_with("`data.task` is not set; ") && error.ends_with("or data.valid_files"), "{error}");
    assert_eq!(
        own(&[], &format!("{labels}valid_files = ['b.txt']")).unwrap_err(),
        "`data.valid_files` is b.txt, judging by its name no table; expected tsv, csv, jsonl or parquet files, all of one \
         format, or data.format"
    );
}

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
        "a.jsonl:2: there is no column `text`; there is: txt"
    );
    assert_eq!(
        error("jsonl", "{\"text\": \"a\", \"label\": true}"),
        "a.jsonl:1: `label` holds a boolean, not a string or a number"
    );
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

fn bert(texts: &[&str]) -> Tokenizer {
    let config = TokenizerConfig { kind: TokenizerKind::Wordpiece, vocab_size: 400, ..TokenizerConfig::default() };
    Tokenizer::train(&config, &memory(texts)).unwrap()
}

#[test]
fn an_encoded_set_gives_batches_as_long_as_their_longest_row() {
    let rte = "index\tsentence1\tsentence2\tlabel\n0\ta b\tc\tentailment\n1\tb\ta\tnot_entailment\n2\tc c c c\ta b c\tentailment\n";
    let test = "index\tsentence1\tsentence2\n0\ta\tb\n";
    let splits = open_task(GlueTask::Rte, &[("train.tsv", rte), ("dev.tsv", rte), ("test.tsv", test)]);
    let tokenizer = bert(&["a b c", "c b a"]);
    let id = |token: &str| tokenizer.token_to_id(token).unwrap() as i32;
    let (pad, cls, sep, a, b, c) = (id("[PAD]"), id("[CLS]"), id("[SEP]"), id("a"), id("b"), id("c"));
    let set = EncodedSet::build(&splits.train, &tokenizer, 8).unwrap();
    assert_eq!((set.len(), set.truncated(), set.tokens()), (3, 1, 6 + 5 + 8));
    assert_eq!(set.lengths(), [6, 5, 8]);
    assert_eq!(set.labels(), &Labels::Classes(vec![0, 1, 0]));

    let batch = set.batch(&[1, 0]);
    assert_eq!(batch.input_ids, [cls, b, sep, a, sep, pad, cls, a, b, sep, c, sep]);
    assert_eq!(batch.token_type_ids, [0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 1, 1]);
    assert_eq!((batch.lengths.as_slice(), &batch.labels), (&[5, 6][..], &Labels::Classes(vec![1, 0])));
    assert_eq!((batch.batch, batch.seq_len, batch.token_count()), (2, 6, 11));
    assert_eq!(batch.examples, [1, 0]);
    // Five tokens have room: of four and three, three and two are left.
    assert_eq!(set.batch(&[2]).input_ids, [cls, c, c, c, sep, a, b, sep]);

    let secret = EncodedSet::build(&splits.test[0], &tokenizer, 8).unwrap();
    assert_eq!(secret.labels(), &Labels::Classes(vec![IGNORE_TARGET]));
    assert_eq!(secret.index(0), 0);
    let error = EncodedSet::build(&splits.train, &tokenizer, 4).unwrap_err();
    assert!(matches!(error, DataError::ConfigValue { key: "data.max_len", .. }), "{error}");
}

#[test]
fn training_batches_visit_each_example_and_evaluation_sorts_by_length() {
    let row = |i: usize| format!("{}\t{}\n", "a ".repeat(1 + i * 7 % 30), i % 2);
    let table = format!("sentence\tlabel\n{}", (0..101).map(row).collect::<String>());
    let splits = open_task(GlueTask::Sst2, &[("train.tsv", &table), ("dev.tsv", &table)]);
    let set = Arc::new(EncodedSet::build(&splits.train, &bert(&["a b"]), 20).unwrap());
    for group_by_length in [true, false] {
        let size = StepSize { micro_batch_size: 4, gradient_accumulation: 2 };
        let batches = LabelledBatches::training(set.clone(), 3, size, group_by_length).unwrap();
        assert_eq!(batches.steps_per_epoch(), 13);
        let mut seen = Vec::new();
        for step in 13..26 {
            for batch in batches.micro_batches(step).unwrap() {
                assert_eq!(batch.input_ids.len(), batch.batch * batch.seq_len);
                assert_eq!(batch.lengths.iter().max().copied(), Some(batch.seq_len as i32));
                seen.extend(batch.examples);
            }
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..101).collect::<Vec<_>>());
        let first = batches.first_steps(1);
        assert_eq!(first.micro_batches(0).unwrap(), first.micro_batches(5).unwrap());
    }
    let batches = LabelledBatches::evaluation(set.clone(), 8, None).unwrap();
    let lengths: Vec<i32> = (0..batches.steps_per_epoch())
        .flat_map(|step| batches.micro_batches(step).unwrap().remove(0).lengths)
        .collect();
    assert_eq!(lengths.len(), 101);
    assert!(lengths.is_sorted());
    assert_eq!((lengths[0], lengths[100], set.truncated()), (3, 20, 40));
    // A part of the set is its beginning, not what is shortest in all of it.
    let beginning = LabelledBatches::evaluation(set.clone(), 8, Some(2)).unwrap();
    assert_eq!(beginning.steps_per_epoch(), 2);
    let batches: Vec<_> = beginning.first(2).map(Result::unwrap).collect();
    assert!(batches.iter().flat_map(|batch| &batch.lengths).is_sorted());
    let mut seen: Vec<u64> = batches.into_iter().flat_map(|batch| batch.examples).collect();
    seen.sort_unstable();
    assert_eq!(seen, (0..16).collect::<Vec<_>>());
    assert_eq!(LabelledBatches::evaluation(set, 8, Some(99)).unwrap().steps_per_epoch(), 13);
}

#[test]
fn scores_become_numbers_of_a_batch() {
    let csv = "text,label\na,1.5\nb a,0\n";
    let config = "files = ['DIR/a.csv']\nvalid_files = ['DIR/b.csv']\ntest_files = ['DIR/c.csv']\nregression = true";
    let splits = open_own(&[("a.csv", csv), ("b.csv", csv), ("c.csv", "text\na\n")], config).unwrap();
    let tokenizer = bert(&["a b"]);
    let set = EncodedSet::build(&splits.train, &tokenizer, 8).unwrap();
    assert_eq!(set.batch(&[1, 0]).labels, Labels::Scores(vec![0.0, 1.5]));
    let Labels::Scores(secret) = EncodedSet::build(&splits.test[0], &tokenizer, 8).unwrap().labels().clone() else {
        panic!("scores are numbers");
    };
    assert!(secret.len() == 1 && secret[0].is_nan());
}

#[test]
fn the_official_sst2_has_its_counts() {
    let Some(data) = std::env::var_os("FORNAX_DATA").map(PathBuf::from) else {
        println!("skipped: FORNAX_DATA is not set");
        return;
    };
    let config = LabelledConfig { task: Some(GlueTask::Sst2), ..LabelledConfig::default() };
    let places = Places { data: Some(data.clone()), patience: Patience::none(), ..Places::default() };
    let splits = config.open_in(places).unwrap();
    let (train, valid, test) = (&splits.train, &splits.valid[0], &splits.test[0]);
    assert_eq!((train.len(), valid.len(), test.len()), (67_349, 872, 1_821));
    let positive = |set: &LabelledSet| set.examples().iter().filter(|it| it.label == class(1)).count();
    assert_eq!((positive(train), positive(valid)), (37_569, 444));
    assert!(train.is_labelled() && valid.is_labelled() && test.examples().iter().all(|it| it.label.is_none()));
    assert_eq!(train.get(0).unwrap(), example("hide new secretions from the parental units", None, class(0), 0));

    let tokenizer = Tokenizer::open(&data.join("tokenizers").join("bert-base-uncased-vocab.txt")).unwrap();
    let set = Arc::new(EncodedSet::build(train, &tokenizer, config.max_len).unwrap());
    assert_eq!(set.batch(&[0]).input_ids, [101, 5342, 2047, 3595, 8496, 2013, 1996, 18643, 3197, 102]);
    assert_eq!(set.truncated(), 0);
    let size = StepSize { micro_batch_size: 32, gradient_accumulation: 1 };
    let filled = |group_by_length| {
        let batches = LabelledBatches::training(set.clone(), 1, size, group_by_length).unwrap();
        assert_eq!(batches.steps_per_epoch(), 2_105);
        let all = (0..2_105).flat_map(|step| batches.micro_batches(step).unwrap());
        all.map(|batch| batch.input_ids.len()).sum::<usize>() as f64 / set.tokens() as f64
    };
    let (grouped, shuffled) = (filled(true), filled(false));
    println!("positions a token: {grouped:.3} grouped by length, {shuffled:.3} shuffled");
    assert!(grouped < 1.05 && shuffled > 2.0, "{grouped} {shuffled}");
}
