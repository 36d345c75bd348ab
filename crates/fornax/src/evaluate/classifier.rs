use std::{io::Write, path::Path};

use anyhow::{Context, bail};
use fornax_cli::{UsageContext, load};
use fornax_data::{
    BatchSource, SpecialToken, Tokenizer,
    labelled::{EncodedSet, LabelKind, LabelledBatches},
};
use fornax_models::hf::{self, LoadClassifier};
use fornax_train::Scores;

use super::{Args, Line, config_of_run, data_of, key, progress_bar};

/// Scores the valid sets of the data, and those test sets that have labels: a line of JSON for each.
pub(super) fn run(args: &Args, folder: &Path) -> anyhow::Result<()> {
    check_flags(args).usage()?;
    let mut overrides = args.overrides.clone();
    overrides.extend(args.task.as_ref().map(|task| format!("data.task={task}")));
    let data = load::<glue::Config>(None, &max_len_of_run(folder)?, &overrides)?.config.data;
    let scored = data.open_scored()?;
    let tokenizer = Tokenizer::open(folder)?;
    let device = fornax_backend::open(&args.device)?;
    device.check_precision(args.precision)?;
    tracing::info!("device {}: {} ({})", device.spec, device.name, device.reason);
    let (model, report) =
        hf::load_bert_for_sequence_classification(folder, &LoadClassifier::default(), &device.device)?;
    anyhow::ensure!(
        report.initialised.is_empty(),
        "{}: the checkpoint has no trained classifier: {} missing",
        folder.display(),
        report.initialised.join(", ")
    );
    let sizes = model.bert.config();
    sizes
        .check_tokenizer(tokenizer.vocab_size(), tokenizer.special_id(SpecialToken::Pad).ok())
        .with_context(|| format!("{}: model and tokenizer do not belong together", folder.display()))?;
    check_labels(&model.classifier().labels, &scored.kind).usage()?;
    let given = overrides.iter().any(|text| key(text) == "data.max_len");
    if given && data.max_len > sizes.max_positions {
        let refuse = || bail!("data.max_len = {}: the model reads at most {}", data.max_len, sizes.max_positions);
        refuse().usage()?;
    }
    let mut out = std::io::stdout().lock();
    for set in &scored.sets {
        let encoded = EncodedSet::build(set, &tokenizer, data.max_len.min(sizes.max_positions))?;
        let batches = LabelledBatches::evaluation(encoded.into(), args.batch_size, None)?;
        let bar = progress_bar(batches.steps_per_epoch(), "batches", set.name());
        let progress = |done| bar.set_position(done);
        let (metrics, scores) = glue::evaluate_set(&model, &batches, &scored.kind, args.precision, progress)?;
        bar.finish_and_clear();
        let line = Line { set: set.name(), examples: scores.count(), metrics: metrics.values };
        writeln!(out, "{}", serde_json::to_string(&line)?)?;
        if let (Scores::Classes(confusion), LabelKind::Classes(names)) = (&scores, &scored.kind) {
            tracing::info!("{}\n{}", set.name(), confusion.table(names));
        }
    }
    Ok(())
}

/// Refuses flags that would change nothing.
fn check_flags(args: &Args) -> anyhow::Result<()> {
    let flags = [("--metric", args.metric.is_some()), ("--predictions", args.predictions.is_some())];
    let given = flags.into_iter().find(|(_, given)| *given).map(|(flag, _)| flag);
    if let Some(flag) = given.or(args.search.given()) {
        bail!("{flag} does nothing with a classifier: it is for models that write texts");
    }
    if args.task.is_some() && args.overrides.iter().any(|text| key(text) == "data.task") {
        bail!("--task and --set data.task name the task twice");
    }
    Ok(())
}

/// The beginning of a config, with the `data.max_len` of the run that left the model in `folder`; nothing where no run did.
fn max_len_of_run(folder: &Path) -> anyhow::Result<String> {
    let max_len = data_of(&config_of_run(folder)?).get("max_len").and_then(toml::Value::as_integer);
    Ok(max_len.map_or_else(String::new, |max_len| format!("[data]\nmax_len = {max_len}\n")))
}

/// Whether the model's outputs are the labels of the data, in the same order. Names that were never given fit any.
fn check_labels(model: &[String], kind: &LabelKind) -> anyhow::Result<()> {
    let names = match kind {
        LabelKind::Score if model.len() == 1 => return Ok(()),
        LabelKind::Score => bail!("the model tells {} classes apart, the data has numbers", model.len()),
        LabelKind::Classes(names) => names,
    };
    let numbered = model.iter().enumerate().all(|(number, label)| *label == format!("LABEL_{number}"));
    let same = model.len() == names.len() && model.iter().zip(names).all(|(a, b)| a.eq_ignore_ascii_case(b));
    if same || numbered && model.len() == names.len() && model.len() > 1 {
        return Ok(());
    }
    bail!("the model's labels are {}, those of the data {}", model.join(", "), names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_says_how_long_its_texts_were() {
        let run = tempfile::tempdir().unwrap();
        let of = |name: &str| max_len_of_run(&run.path().join(name)).map_err(|error| format!("{error:#}"));
        assert_eq!(of("best"), Ok(String::new()), "no run left it");
        let config = run.path().join("config.toml");
        std::fs::write(&config, "format_version = 1\n[data]\ntask = 'sst2'\nmax_len = 64\n").unwrap();
        assert_eq!(of("best"), Ok("[data]\nmax_len = 64\n".into()));
        assert_eq!(of("last"), of("best"));
        assert_eq!(of("model"), Ok(String::new()), "a folder that only lies beside a config");
        std::fs::write(&config, "[data]\nfiles = []\n").unwrap();
        assert_eq!(of("best"), Ok(String::new()), "a recipe without the key");
        std::fs::write(&config, "[data\n").unwrap();
        assert!(of("best").unwrap_err().starts_with(&config.display().to_string()));
    }

    #[test]
    fn labels_must_be_those_of_the_data() {
        let strings = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let classes = LabelKind::Classes(strings(&["bad", "good"]));
        let check = |model: &[&str], kind| check_labels(&strings(model), kind).map_err(|error| error.to_string());
        assert_eq!(check(&["Bad", "Good"], &classes), Ok(()));
        assert_eq!(check(&["LABEL_0", "LABEL_1"], &classes), Ok(()));
        assert_eq!(
            check(&["good", "bad"], &classes),
            Err("the model's labels are good, bad, those of the data bad, good".into())
        );
        assert!(check(&["LABEL_0"], &classes).is_err() && check(&["bad", "good", "so"], &classes).is_err());
        assert_eq!(check(&["LABEL_0"], &LabelKind::Score), Ok(()));
        assert!(check(&["bad", "good"], &LabelKind::Score).unwrap_err().contains("2 classes"));
    }
}
