use super::*;

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
