use super::*;

#[test]
fn files_are_found_in_every_place_in_order() {
    let root = tempfile::tempdir().unwrap();
    let places = Places {
        folder: None,
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
    let error = config_of_sst2.open_in(Places { folder: None, ..nowhere(root.path()) }).unwrap_err();
    let why = "; the download failed: this user has no cache folder; set FORNAX_CACHE";
    assert!(error.to_string().ends_with(why), "{error}");
    assert!(error.hint().unwrap().contains("https://dl.fbaipublicfiles.com/glue/data/SST-2.zip"));

    for place in ["cache/datasets/rte", "cache/datasets/RTE", "data/RTE", "data/rte"] {
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

    // A folder that is named is the only place.
    let given = Places { folder: Some(root.path().join("given")), ..places };
    let error = config.open_in(given.clone()).unwrap_err().to_string();
    assert!(error.contains("given") && !error.contains("data/RTE"), "{error}");
    for place in ["given/RTE", "given"] {
        let folder = root.path().join(place);
        std::fs::create_dir_all(&folder).unwrap();
        let table = format!("index\tsentence1\tsentence2\tlabel\n0\t{place}\tb\tentailment\n");
        for name in ["train.tsv", "dev.tsv"] {
            std::fs::write(folder.join(name), &table).unwrap();
        }
        assert_eq!(config.open_in(given.clone()).unwrap().train.examples()[0].text, place);
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
            "dev.tsv:2: the label is `2`, not one of: 0 (negative), 1 (positive); is it a file of SST-2?",
        ),
        (
            GlueTask::Sst2,
            "dev.tsv",
            b"sentence\tlabel\r\n\r\nfine\t-1\r\n",
            "dev.tsv:3: the label is `-1`, not one of: 0 (negative), 1 (positive); is it a file of SST-2?",
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
            GlueTask::Rte,
            "train.tsv",
            b"index\tsentence1\tsentence2\tlabel\n0\ta\tb\t0\n",
            "train.tsv:2: the label is `0`, not one of: entailment, not_entailment; is it a file of RTE?",
        ),
        (
            GlueTask::Wnli,
            "train.tsv",
            b"index\tsentence1\tsentence2\tlabel\n0\ta\tb\tentailment\n",
            "train.tsv:2: the label is `entailment`, not one of: 0 (not_entailment), 1 (entailment); is it a file of WNLI?",
        ),
        (
            GlueTask::Sst2,
            "train.tsv",
            b"sentence\tlabel\tlabel\nfine\t1\t0\n",
            "train.tsv:1: the column `label` is there twice",
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
            "train.tsv:1: the label is `yes`, not one of: 0 (unacceptable), 1 (acceptable); is it a file of CoLA?",
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
        "train.tsv:2: the label is `high`, not a number; is it a file of STS-B?"
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
