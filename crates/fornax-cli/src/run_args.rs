use std::{
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use clap::Args;
use fornax_backend::{DeviceSpec, Precision};
use fornax_train::Options;
use serde::de::DeserializeOwned;

use crate::{Loaded, config::Given};

/// What `--overfit` and `--bench` may be: more is a slip, and steps by the billion would be too many to keep their times.
const STEPS: RangeInclusive<u64> = 1..=1_000_000;

/// The flags that every recipe takes.
#[derive(Args, Clone, Debug, Default)]
pub struct RunArgs {
    /// Config file in TOML; without one, the recipe's default
    pub config: Option<PathBuf>,
    /// Override one config key; repeatable
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// Which device trains.
    #[arg(
        long,
        value_name = "NAME",
        default_value_t,
        help = "auto, flex, wgpu[:i], vulkan[:i], metal[:i], libtorch, libtorch-cuda[:i], cuda[:i] or rocm[:i]"
    )]
    pub device: DeviceSpec,
    /// Compute type of matrix products and attention: f32, bf16 or f16
    #[arg(long, value_name = "P", default_value_t)]
    pub precision: Precision,
    /// Where the run is kept.
    #[arg(long, value_name = "DIR", help = "Run folder [default: runs/<recipe>-<date>-<time>]")]
    pub run_dir: Option<PathBuf>,
    /// Continue the run in --run-dir at its last complete checkpoint
    #[arg(long, requires = "run_dir")]
    pub resume: bool,
    /// Show parameters, memory and the first batch, run one step, leave nothing
    #[arg(long, conflicts_with_all = ["resume", "bench"])]
    pub dry_run: bool,
    /// Train on the first N batches only
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(STEPS))]
    pub overfit: Option<u64>,
    /// Time N steps and print JSON
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(STEPS), conflicts_with = "resume")]
    pub bench: Option<u64>,
    /// Short for --set train.seed=N
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Short for --set train.max_steps=N
    #[arg(long, value_name = "N")]
    pub max_steps: Option<u64>,
}

impl RunArgs {
    /// The config of this run of `recipe`: the file, or that of the run to resume, or `built_in`; under `--set`, under the short
    /// forms. Where it leaves the micro-batch to trials, they are made now.
    ///
    /// # Errors
    ///
    /// [`ConfigError`](crate::ConfigError), with the key or flag that is wrong; a run folder that can't be used, and what a trial
    /// fails with.
    pub fn load<C: DeserializeOwned>(&self, recipe: &str, built_in: &str) -> anyhow::Result<Loaded<C>> {
        self.load_of(self.run_dir.as_deref(), recipe, built_in)
    }

    /// As [`load`](Self::load), where the run to resume is in `folder`.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn load_of<C: DeserializeOwned>(
        &self,
        folder: Option<&Path>,
        recipe: &str,
        built_in: &str,
    ) -> anyhow::Result<Loaded<C>> {
        let mut overrides = self.overrides.clone();
        overrides.extend(self.seed.map(|seed| format!("train.seed={seed}")));
        overrides.extend(self.max_steps.map(|steps| format!("train.max_steps={steps}")));
        let given = match self.resumed_config(folder) {
            Some(stored) => Given::read(None, &stored, &overrides)?,
            None => Given::read(self.config.as_deref(), built_in, &overrides)?,
        };
        // A mistake in any key is told before trials.
        let loaded = given.parse()?;
        if let Some(folder) = folder.filter(|_| self.resume) {
            given.check_resumed(folder)?;
        }
        match given.micro_batch {
            Some(auto) => Ok(given.with_micro_batch(auto.settle(recipe, self, folder)?).parse()?),
            None => Ok(loaded),
        }
    }

    /// The config of the run that `--resume` continues, when no other is named. What is wrong with it, the run itself reports.
    fn resumed_config(&self, folder: Option<&Path>) -> Option<String> {
        let folder = folder.filter(|_| self.resume && self.config.is_none())?;
        toml::to_string(&fornax_train::open_config(folder).ok()?).ok()
    }

    /// What the learner is told besides the config.
    pub fn options(&self) -> Options {
        let count = |n: Option<u64>| n.map(|n| usize::try_from(n).unwrap_or(usize::MAX));
        Options {
            device: self.device.to_string(),
            precision: self.precision,
            run_dir: self.run_dir.clone(),
            resume: self.resume,
            dry_run: self.dry_run,
            overfit: count(self.overfit),
            bench: count(self.bench),
        }
    }
}
