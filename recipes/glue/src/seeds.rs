use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use fornax_cli::Ending;
use fornax_train::{Options, Summary, write_atomic};
use serde::Serialize;

use crate::Config;

/// A metric over several seeds.
#[derive(Debug, PartialEq, Serialize)]
struct Spread {
    mean: f64,
    /// The sample standard deviation; 0 for one seed.
    std: f64,
    values: Vec<f64>,
}

/// The folder of the first of these runs that was begun: all have its config, but for the seed.
pub(crate) fn first_begun(seeds: &[u64], folder: &Path) -> Option<PathBuf> {
    seeds.iter().map(|&seed| of_seed(folder, seed)).find(|run| run.is_dir())
}

fn of_seed(folder: &Path, seed: u64) -> PathBuf {
    folder.join(format!("seed-{seed}"))
}

/// The folder that holds the runs, of seeds that differ.
pub(crate) fn folder<'a>(seeds: &[u64], run_dir: Option<&'a Path>) -> anyhow::Result<&'a Path> {
    let distinct: BTreeSet<&u64> = seeds.iter().collect();
    ensure!(distinct.len() == seeds.len(), "--seeds: a seed is there twice");
    run_dir.context("--seeds needs --run-dir: the folder that holds the runs")
}

/// Trains once for each seed, each into a folder of its own in `folder`, and sums up what they reached on the valid set.
pub(crate) fn run(seeds: &[u64], folder: &Path, config: &Config, options: &Options) -> anyhow::Result<Ending> {
    let mut summaries = Vec::with_capacity(seeds.len());
    for &seed in seeds {
        let mut config = config.clone();
        config.train.seed = seed;
        let run_dir = of_seed(folder, seed);
        // What is there is continued, so that the command can be given again after an interruption.
        let resume = options.resume && run_dir.exists();
        tracing::info!("seed {seed}: {}", run_dir.display());
        let options = Options { run_dir: Some(run_dir), resume, ..options.clone() };
        let (ending, summary) = crate::run(&config, &options)?;
        if ending == Ending::Interrupted {
            return Ok(ending);
        }
        summaries.extend(summary);
    }
    let spreads = spreads(&summaries);
    writeln!(std::io::stdout(), "{}", table(seeds, &spreads))?;
    let path: PathBuf = folder.join("seeds.json");
    let text = serde_json::to_string_pretty(&serde_json::json!({"seeds": seeds, "valid": spreads}))? + "\n";
    write_atomic(&path, text.as_bytes())?;
    Ok(Ending::Done)
}

fn spreads(summaries: &[Summary]) -> BTreeMap<String, Spread> {
    let mut spreads = BTreeMap::new();
    for name in summaries.first().into_iter().flat_map(|summary| summary.valid.keys()) {
        let values: Vec<f64> = summaries.iter().filter_map(|summary| summary.valid.get(name).copied()).collect();
        spreads.insert(name.clone(), Spread::of(values));
    }
    spreads
}

impl Spread {
    fn of(values: Vec<f64>) -> Self {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let std = if values.len() > 1 { (squares / (count - 1.0)).sqrt() } else { 0.0 };
        Self { mean, std, values }
    }
}

fn table(seeds: &[u64], spreads: &BTreeMap<String, Spread>) -> String {
    let list: Vec<String> = seeds.iter().map(ToString::to_string).collect();
    let mut text = format!("seeds {}\n", list.join(", "));
    for (name, spread) in spreads {
        let values: Vec<String> = spread.values.iter().map(|value| format!("{value:.4}")).collect();
        // Writing to a String can't fail.
        let _ = writeln!(text, "{name:<20} {:.4} +- {:.4}  ({})", spread.mean, spread.std, values.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_is_the_sample_standard_deviation() {
        let spread = Spread::of(vec![0.9, 0.92, 0.88, 0.9]);
        assert!((spread.mean - 0.9).abs() < 1e-12 && (spread.std - (0.0008f64 / 3.0).sqrt()).abs() < 1e-12);
        assert_eq!(Spread::of(vec![0.5]), Spread { mean: 0.5, std: 0.0, values: vec![0.5] });
        let text = table(&[1, 2], &BTreeMap::from([("accuracy".to_owned(), Spread::of(vec![0.5, 0.7]))]));
        assert_eq!(text, "seeds 1, 2\naccuracy             0.6000 +- 0.1414  (0.5000, 0.7000)\n");
    }
}
