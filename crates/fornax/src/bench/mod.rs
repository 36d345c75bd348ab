mod cases;
mod report;

use std::{
    env,
    ffi::OsString,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail, ensure};
use clap::{ValueEnum, builder::RangedU64ValueParser};
use fornax_backend::{DeviceSpec, Precision};
use fornax_cli::{ChildError, Figures, Interrupted, UsageContext};
use fornax_train::{Interrupt, check_writable, write_atomic};

use cases::{Case, Selected, Setting, now};
use report::{Report, Row};

/// The name of the command, behind which a process of a run gets arguments of its own.
const NAME: &str = "bench";

/// More is a slip, as for `--bench` of a recipe.
const MOST: u64 = 1_000_000;

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// What to measure; several are measured one after the other
    #[arg(value_name = "CASE", value_enum, default_value = "gpt-10m")]
    cases: Vec<Selected>,
    /// Which devices compute.
    #[arg(
        long,
        value_name = "NAME,...",
        value_delimiter = ',',
        default_value = "auto",
        help = "auto, flex, wgpu[:i], vulkan[:i], metal[:i], libtorch, libtorch-cuda[:i], cuda[:i] or rocm[:i]"
    )]
    device: Vec<DeviceSpec>,
    /// Compute types of matrix products and attention: f32, bf16 or f16
    #[arg(long, value_name = "P,...", value_delimiter = ',', default_value = "f32")]
    precision: Vec<Precision>,
    /// Timed steps of a run, after 3 to warm up; of generate-124m texts, after 1 [default: 10; 3 texts]
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=MOST))]
    steps: Option<usize>,
    /// Rows of a step [default: as the case says]
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=MOST))]
    batch: Option<usize>,
    /// Runs of each case, device and precision, one a round; medians are printed
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = RangedU64ValueParser::<usize>::new().range(1..=MOST))]
    rounds: usize,
    /// A program that does the same work, run at the start of each round; its last line is JSON with tokens_per_second
    #[arg(long, value_name = "COMMAND")]
    peer: Option<String>,
    /// The Hugging Face folder, or run folder, that sst2-minilm fine-tunes
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Print one JSON object in place of the table
    #[arg(long)]
    json: bool,
    /// Write that object to a file, for --baseline
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Compare with what --save wrote
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
    /// Be the process of one run, which was started at this time in seconds since 1970.
    #[arg(long, hide = true, value_name = "SECONDS")]
    worker: Option<f64>,
}

/// A case on a device in a precision, and what its rounds gave.
struct Run {
    case: Case,
    device: DeviceSpec,
    precision: Precision,
    row: Row,
    rounds: Vec<Figures>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let mut runs = plan(args).usage()?;
    if let Some(started) = args.worker {
        return runs.iter().try_for_each(|run| work(run, args, started));
    }
    let peer = args.peer.as_deref().map(split).transpose().usage()?;
    let baseline = args.baseline.as_deref().map(open_baseline).transpose().usage()?;
    args.save.as_deref().map_or(Ok(()), check_save).usage()?;
    args.model.as_deref().map_or(Ok(()), check_model).usage()?;
    // A process that outlived this one would take its cores from whatever is measured next.
    let interrupt = Interrupt::install().context("signals can't be handled while others are measured")?;

    let (mut peers, mut ended) = (Vec::new(), None);
    for round in 1..=args.rounds {
        let shown = format!("round {round} of {}", args.rounds);
        if let Err(error) = measure(&shown, &mut runs, peer.as_deref(), &mut peers, args, &interrupt) {
            if round == 1 {
                return Err(error);
            }
            // The rounds before are minutes of work, and whole.
            runs.iter_mut().for_each(|run| run.rounds.truncate(round - 1));
            peers.truncate(round - 1);
            ended = Some(error.context(format!("round {round}; the figures are of the rounds before")));
            break;
        }
    }

    let mut report = Report::new(runs.into_iter().map(|run| finish(run, &peers)).collect());
    if let Some(command) = &args.peer {
        report.add_peer(command, &peers);
    }
    if let (Some(baseline), Some(file)) = (&baseline, &args.baseline) {
        report.compare(baseline, file);
    }
    print(&report, args)?;
    match (report.failures(), ended) {
        (_, Some(error)) => {
            if error.is::<Interrupted>() {
                tracing::info!("interrupted in {error}");
            }
            Err(error)
        }
        (0, None) => Ok(()),
        (failures, None) => bail!("{failures} of {} failed", report.rows.len()),
    }
}

/// One round: the peer, then each run that has not failed before. A run that fails is a row of the report.
fn measure(
    shown: &str,
    runs: &mut [Run],
    peer: Option<&[String]>,
    peers: &mut Vec<Figures>,
    args: &Args,
    interrupt: &Interrupt,
) -> anyhow::Result<()> {
    if let Some(words) = peer {
        tracing::info!("{shown}: the peer");
        peers.push(run_peer(words, interrupt)?);
    }
    for run in runs.iter_mut().filter(|run| run.row.error.is_none()) {
        tracing::info!("{shown}: {}", run.row);
        match Figures::of(&mut worker(run, args)?, || interrupt.requested()) {
            Ok(figures) => run.rounds.push(figures),
            Err(ChildError::Stopped) => return Err(Interrupted.into()),
            Err(error) => run.row.error = Some(format!("{:#}", anyhow::Error::from(error))),
        }
    }
    Ok(())
}

/// Everything that was asked for, in the order in which it was.
fn plan(args: &Args) -> anyhow::Result<Vec<Run>> {
    let cases = chosen(args)?;
    ensure!(
        args.peer.is_none() || cases.len() == 1,
        "--peer is compared with one case, of the same work, not with {}",
        cases.len()
    );
    once("--device", &args.device)?;
    once("--precision", &args.precision)?;
    let mut runs = Vec::new();
    for case in cases {
        for &device in &args.device {
            for &precision in &args.precision {
                let (batch, steps) = (args.batch.unwrap_or(case.batch()), args.steps.unwrap_or(case.steps()));
                let row = Row::new(case.name(), device.to_string(), precision.to_string(), batch, steps);
                runs.push(Run { case, device, precision, row, rounds: Vec::new() });
            }
        }
    }
    Ok(runs)
}

/// Refuses what is named twice: its two rows could not be told apart.
fn once<T: PartialEq + ToString>(flag: &str, named: &[T]) -> anyhow::Result<()> {
    let twice = named.iter().enumerate().find(|(index, value)| named[..*index].contains(value));
    twice.map_or(Ok(()), |(_, value)| bail!("{flag} names {} twice", value.to_string()))
}

/// The cases, each once.
fn chosen(args: &Args) -> anyhow::Result<Vec<Case>> {
    let mut cases = Vec::new();
    for selected in &args.cases {
        let named = match *selected {
            Selected::One(case) => vec![case],
            Selected::All => {
                let wanted = |case: &Case| match case {
                    Case::Tiny => false,
                    Case::Sst2Minilm => args.model.is_some(),
                    _ => true,
                };
                Case::value_variants().iter().copied().filter(wanted).collect()
            }
        };
        cases.extend(named);
    }
    let mut once: Vec<Case> = Vec::new();
    for case in cases {
        if !once.contains(&case) {
            once.push(case);
        }
    }
    match (once.contains(&Case::Sst2Minilm), &args.model) {
        (true, None) => bail!(
            "sst2-minilm fine-tunes a checkpoint: name its Hugging Face folder (MiniLM-L6-H384, say) with --model DIR; the \
             data set is fetched by `fornax data get sst2`"
        ),
        (false, Some(_)) => bail!("--model is the checkpoint of sst2-minilm, which is not among the cases"),
        _ => Ok(once),
    }
}

/// The words of a command, with a shell's quotes.
fn split(command: &str) -> anyhow::Result<Vec<String>> {
    let words = shlex::split(command).filter(|words| !words.is_empty());
    words.with_context(|| format!("--peer {command:?}: empty, or a quote is not closed"))
}

fn open_baseline(path: &Path) -> anyhow::Result<Report> {
    Report::open(path).with_context(|| format!("--baseline {}", path.display()))
}

/// Refuses what can't be written to, before the minutes that the runs take.
fn check_save(path: &Path) -> anyhow::Result<()> {
    let shown = path.display();
    ensure!(!path.is_dir(), "--save {shown}: this is a folder; hint: name a file in it");
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    ensure!(folder.is_dir(), "--save {shown}: there is no folder `{}`; hint: make it first", folder.display());
    check_writable(folder).with_context(|| format!("--save {shown}"))
}

fn check_model(folder: &Path) -> anyhow::Result<()> {
    ensure!(folder.is_dir(), "--model {}: there is no such folder", folder.display());
    Ok(())
}

fn run_peer(words: &[String], interrupt: &Interrupt) -> anyhow::Result<Figures> {
    let (program, arguments) = words.split_first().context("--peer is empty")?;
    let mut command = Command::new(program);
    command.args(arguments);
    // The threads of a peer wait as they do without Fornax.
    fornax_backend::forget_calm_openmp(&mut command);
    match Figures::of(&mut command, || interrupt.requested()) {
        Err(ChildError::Stopped) => Err(Interrupted.into()),
        Err(error @ ChildError::Start { .. }) => Err(error).context("--peer").usage(),
        figures => figures.context("--peer"),
    }
}

/// This program, told to do one run: its memory and start-up are of nothing else, and no other run falls with it.
fn worker(run: &Run, args: &Args) -> anyhow::Result<Command> {
    let program = env::current_exe().context("the program can't find itself to start a run")?;
    let mut command = Command::new(program);
    command.args(prefix(env::args_os())).arg(run.case.name());
    command.arg("--device").arg(run.device.to_string()).arg("--precision").arg(run.precision.to_string());
    command.arg("--steps").arg(run.row.steps.to_string()).arg("--batch").arg(run.row.batch.to_string());
    if let Some(folder) = args.model.as_ref().filter(|_| run.case == Case::Sst2Minilm) {
        command.arg("--model").arg(folder);
    }
    command.arg("--worker").arg(now().to_string());
    Ok(command)
}

/// The arguments up to the name of this command, without the program's own.
fn prefix(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut before: Vec<OsString> = args.skip(1).take_while(|arg| arg != NAME).collect();
    before.push(NAME.into());
    before
}

/// The process of one run.
fn work(run: &Run, args: &Args, started: f64) -> anyhow::Result<()> {
    let device = fornax_backend::open(&run.device)?;
    device.check_precision(run.precision)?;
    let (steps, batch, model) = (run.row.steps, run.row.batch, args.model.clone());
    let setting = Setting { device, precision: run.precision, steps, batch, model, started };
    let measured = run.case.measure(&setting)?;
    writeln!(std::io::stdout(), "{}", serde_json::to_string(&measured)?)?;
    Ok(())
}

fn finish(run: Run, peers: &[Figures]) -> Row {
    let mut row = run.row;
    // Of a row that failed later than in its first round the speed is not told: it is no median of what was asked for.
    if row.error.is_none() {
        row.fill(&run.rounds, peers);
    }
    row
}

/// Prints first, so that a file that can't be written after all takes nothing with it.
fn print(report: &Report, args: &Args) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match args.json {
        true => writeln!(out, "{}", serde_json::to_string(report)?)?,
        false => writeln!(out, "{report}")?,
    }
    if let Some(path) = &args.save {
        write_atomic(path, format!("{}\n", serde_json::to_string_pretty(report)?).as_bytes()).context("--save")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser, Debug)]
    struct Program {
        #[command(flatten)]
        args: Args,
    }

    fn args(words: &[&str]) -> Args {
        Program::try_parse_from([&["program"], words].concat()).unwrap().args
    }

    fn planned(words: &[&str]) -> Vec<String> {
        plan(&args(words)).unwrap().iter().map(|run| run.row.to_string()).collect()
    }

    fn refused(words: &[&str]) -> String {
        match Program::try_parse_from([&["program"], words].concat()) {
            Ok(program) => plan(&program.args).err().map_or_else(String::new, |error| error.to_string()),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_run_is_planned_for_each_case_device_and_precision() {
        assert_eq!(planned(&[]), ["gpt-10m on auto in f32, batch 8"]);
        assert_eq!(
            planned(&[
                "tiny",
                "t5-small",
                "tiny",
                "--device",
                "flex,vulkan:1",
                "--precision",
                "f32",
                "--precision",
                "bf16"
            ]),
            [
                "tiny on flex in f32, batch 2",
                "tiny on flex in bf16, batch 2",
                "tiny on vulkan:1 in f32, batch 2",
                "tiny on vulkan:1 in bf16, batch 2",
                "t5-small on flex in f32, batch 4",
                "t5-small on flex in bf16, batch 4",
                "t5-small on vulkan:1 in f32, batch 4",
                "t5-small on vulkan:1 in bf16, batch 4",
            ]
        );
        let steps = |words: &[&str]| plan(&args(words)).unwrap().iter().map(|run| run.row.steps).collect::<Vec<_>>();
        assert_eq!(steps(&["gpt-10m", "generate-124m"]), [10, 3]);
        assert_eq!(steps(&["gpt-10m", "generate-124m", "--steps", "2"]), [2, 2]);
        assert_eq!(planned(&["bert-base", "--batch", "3"]), ["bert-base on auto in f32, batch 3"]);
    }

    #[test]
    fn all_is_every_case_that_can_be_run() {
        let names = |words: &[&str]| chosen(&args(words)).unwrap().into_iter().map(Case::name).collect::<Vec<_>>();
        let without = ["gpt-10m", "gpt-124m", "bert-mini", "bert-base", "t5-small", "generate-124m"];
        assert_eq!(names(&["all"]), without);
        assert_eq!(names(&["all", "--model", "minilm"]).len(), without.len() + 1);
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for (words, says) in [
            (
                ["gpt-11m"].as_slice(),
                "gpt-10m, gpt-124m, bert-mini, bert-base, t5-small, sst2-minilm, generate-124m, all",
            ),
            (&["--steps", "0"], "0 is not in 1..=1000000"),
            (&["--rounds", "0"], "0 is not in 1..=1000000"),
            (&["--batch", "0"], "0 is not in 1..=1000000"),
            (&["--device", "flex,gpu"], "unknown device `gpu`"),
            (&["sst2-minilm"], "with --model DIR"),
            (&["gpt-10m", "--model", "minilm"], "not among the cases"),
            (&["--device", "flex,vulkan:1,flex"], "--device names flex twice"),
            (&["--precision", "bf16", "--precision", "bf16"], "--precision names bf16 twice"),
            (&["gpt-10m", "bert-mini", "--peer", "true"], "one case, of the same work, not with 2"),
        ] {
            let message = refused(words);
            assert!(message.contains(says), "{words:?}: {message}");
        }
    }

    #[test]
    fn a_peer_is_split_as_a_shell_does() {
        assert_eq!(split("python 'my peer.py' --steps 10").unwrap(), ["python", "my peer.py", "--steps", "10"]);
        for command in ["", "  ", "python 'peer.py"] {
            assert!(split(command).unwrap_err().to_string().starts_with(&format!("--peer {command:?}: ")));
        }
    }

    #[test]
    fn a_process_of_a_run_gets_what_comes_before_the_command() {
        let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        let of = |given: &[&str]| prefix(words(given).into_iter());
        assert_eq!(of(&["/bin/fornax", "bench", "bench", "--json"]), words(&["bench"]));
        assert_eq!(of(&["/bin/bench", "fornax", "bench", "tiny"]), words(&["fornax", "bench"]));
    }
}
