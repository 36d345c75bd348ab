use std::{
    ffi::OsString,
    fmt,
    io::{IsTerminal, Write},
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
};

use clap::Parser;
use fornax_backend::BackendError;
use fornax_data::DataError;
use fornax_models::ModelError;
use fornax_train::{EXIT_INTERRUPTED, TrainError};
use tracing_subscriber::EnvFilter;

use crate::ConfigError;

/// How a program ended when nothing went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Done: exit code 0.
    Done,
    /// Stopped by SIGINT or SIGTERM after a checkpoint: exit code 130.
    Interrupted,
}

/// A signal came before there was anything to save: exit code 130, and nothing is printed.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// Marks an error as bad usage or bad config: exit code 2 instead of 1.
#[derive(Debug)]
pub struct Usage(anyhow::Error);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Usage {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        // The display is that of the wrapped error, so the chain goes on below it.
        self.0.source()
    }
}

/// Marks a result's error as the user's: see [`Usage`].
pub trait UsageContext<T> {
    /// Ends the program with exit code 2 if this is an error.
    fn usage(self) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> UsageContext<T> for Result<T, E> {
    fn usage(self) -> anyhow::Result<T> {
        self.map_err(|error| Usage(error.into()).into())
    }
}

/// The whole of a `main`: arguments, a pinned default device, logs on stderr, one error chain, the right exit code, and no
/// backtrace.
///
/// Logs are set by `FORNAX_LOG` (`warn`, `debug`, `fornax_data=trace`, ...); the default is `info` for Fornax and every recipe
/// and `error` for the frameworks and drivers below.
pub fn main_with<A: Parser + Send>(
    args: impl IntoIterator<Item = OsString>,
    program: impl FnOnce(A) -> anyhow::Result<Ending> + Send,
) -> ExitCode {
    fornax_backend::calm_openmp();
    fornax_backend::pin_default_device();
    fornax_backend::keep_freed_memory();
    start_logs();
    std::panic::set_hook(Box::new(|panic| {
        if std::thread::current().name() == Some(fornax_data::CAUGHT) {
            return;
        }
        let place = panic.location().map_or_else(String::new, |place| format!(" ({}:{})", place.file(), place.line()));
        say(&format!("error: this is a bug in Fornax or below it{place}: {}", message(panic.payload())));
    }));
    let args = match A::try_parse_from(args) {
        Ok(args) => args,
        Err(error) => {
            // The help goes to stdout, a mistake to stderr; a closed pipe is nobody's concern.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match catch_unwind(AssertUnwindSafe(|| on_a_worker(|| program(args)))) {
        Ok(Ok(Ending::Done)) => ExitCode::SUCCESS,
        Ok(Ok(Ending::Interrupted)) => ExitCode::from(EXIT_INTERRUPTED as u8),
        Ok(Err(error)) if error.is::<Interrupted>() => ExitCode::from(EXIT_INTERRUPTED as u8),
        // Whoever reads our output has enough of it, as `head` has.
        Ok(Err(error)) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            say(&render(&error));
            ExitCode::from(exit_code(&error))
        }
        Err(_) => ExitCode::from(1),
    }
}

/// Runs `program` on one of the threads of `rayon`, instead of on one that hands them each operation of Burn's and of `gemm` and sleeps
/// until it is done: on CPUs that is a part of the time of a small model's step.
fn on_a_worker<T: Send>(program: impl FnOnce() -> T + Send) -> T {
    /// That of a main thread, which is four times what other threads get.
    const STACK: usize = 8 << 20;

    // It is there already where two programs run in one process, as in tests.
    let _ = rayon::ThreadPoolBuilder::new().stack_size(STACK).build_global();
    // Threads of our own (the data's) hand work to the pool, too, and a pool of one would never get to it.
    if rayon::current_num_threads() > 1 { rayon::scope(|_| program()) } else { program() }
}

/// Prints a line on stderr. Where that fails, nobody is left to be told: `eprintln!` would panic, within a panic hook even abort.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// The start of the names of those crates below Fornax whose logs tell its users nothing.
const NOISY: [&str; 10] =
    ["burn", "cubecl", "gpu_allocator", "jiff", "naga", "pliron", "rustls", "tokenizers", "ureq", "wgpu"];

/// `info` for all but the noisy crates, so that a recipe of any name is heard.
fn default_logs() -> String {
    NOISY.iter().fold("info".to_owned(), |all, name| format!("{all},{name}=error"))
}

fn start_logs() {
    let logs = EnvFilter::try_from_env("FORNAX_LOG").unwrap_or_else(|_| EnvFilter::new(default_logs()));
    // A second program in one process (tests) keeps the first one's subscriber.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(logs)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .without_time()
        .log_internal_errors(false)
        .try_init();
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    kind == Some(std::io::ErrorKind::BrokenPipe)
}

fn message(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str).or(payload.downcast_ref::<&str>().copied());
    text.unwrap_or("no message").to_owned()
}

/// 2 for bad usage or bad config, 1 for everything else.
fn exit_code(error: &anyhow::Error) -> u8 {
    let is_usage = |cause: &(dyn std::error::Error + 'static)| {
        cause.is::<Usage>()
            || cause.is::<ConfigError>()
            || cause.is::<BackendError>()
            || cause.downcast_ref::<DataError>().is_some_and(is_data_usage)
            || matches!(
                cause.downcast_ref(),
                Some(ModelError::Config { .. } | ModelError::EmptyPrompt { .. } | ModelError::SamplingOption { .. })
            )
            || cause.downcast_ref::<TrainError>().is_some_and(is_train_usage)
    };
    if error.chain().any(is_usage) { 2 } else { 1 }
}

fn is_data_usage(error: &DataError) -> bool {
    matches!(
        error,
        DataError::ConfigConflict { .. }
            | DataError::ConfigAlone { .. }
            | DataError::ConfigValue { .. }
            | DataError::UnknownDataset { .. }
            | DataError::UnknownSplit { .. }
            | DataError::TooFewExamples { .. }
            | DataError::CorpusTooShort { .. }
            | DataError::TaskValue { .. }
            | DataError::TooFewSentinels { .. }
            | DataError::NoSeparator
            | DataError::MissingSpecialToken { .. }
            | DataError::TooFewDocuments { .. }
    )
}

fn is_train_usage(error: &TrainError) -> bool {
    matches!(
        error,
        TrainError::Config { .. }
            | TrainError::ConfigChanged { .. }
            | TrainError::ConfigEdited { .. }
            | TrainError::InputChanged { .. }
            | TrainError::HoldsAnotherRun { .. }
            | TrainError::ForeignFolder { .. }
            | TrainError::NothingToResume { .. }
            | TrainError::ResumeNeedsRunDir
            | TrainError::UnknownMetric { .. }
    )
}

/// The chain of causes on one line, each said once, and behind it the hints, each on a line of its own.
fn render(error: &anyhow::Error) -> String {
    let mut text = String::from("error");
    let mut last = String::new();
    let mut hints = Vec::from_iter(hint(error));
    for cause in error.chain().map(ToString::to_string) {
        // Libraries often print their source as part of themselves.
        if last.contains(&cause) {
            continue;
        }
        let (problem, hint) = cause.split_once("hint: ").map_or((cause.as_str(), None), |(it, hint)| (it, Some(hint)));
        text.push_str(": ");
        text.push_str(if hint.is_some() { problem.trim_end_matches([' ', '\n', ';', '(', ',']) } else { problem });
        hints.extend(hint.map(str::to_owned).filter(|hint| !hints.contains(hint)));
        last = cause;
    }
    hints.iter().fold(text, |text, hint| format!("{text}\nhint: {hint}"))
}

/// The hint of the first cause that has one. A [`Usage`] hides the error in it from the chain.
fn hint(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|cause| match cause.downcast_ref::<Usage>() {
        Some(Usage(wrapped)) => hint(wrapped),
        None => cause.downcast_ref::<DataError>()?.hint(),
    })
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};
    use tracing::Level;
    use tracing_subscriber::filter::Targets;

    use super::*;

    #[test]
    fn a_chain_prints_each_cause_once_and_the_hint_apart() {
        let error = anyhow!("disk full; hint: free some space").context("checkpoint step-000500");
        assert_eq!(render(&error), "error: checkpoint step-000500: disk full\nhint: free some space");
        let middle = anyhow!("no space").context("cannot save; hint: make room").context("the run ended");
        assert_eq!(render(&middle), "error: the run ended: cannot save: no space\nhint: make room");
        let twice = anyhow!("no space; hint: free some").context("cannot save; hint: make room");
        assert_eq!(render(&twice), "error: cannot save: no space\nhint: make room\nhint: free some");
        let doubled = Err::<(), _>(std::io::Error::other("denied")).context("a.txt: denied").unwrap_err();
        assert_eq!(render(&doubled), "error: a.txt: denied");
    }

    #[test]
    fn a_hint_survives_being_marked_as_usage() {
        let error = || DataError::NotUtf8 { path: "a.txt".into(), offset: 3 };
        let expected = format!("error: {}\nhint: {}", error(), error().hint().unwrap());
        assert_eq!(render(&error().into()), expected);
        assert_eq!(render(&Err::<(), _>(error()).usage().unwrap_err()), expected);
        let outer = Err::<(), _>(error()).usage().context("outer").unwrap_err();
        assert_eq!(render(&outer), expected.replace("error: ", "error: outer: "));
    }

    #[test]
    fn every_recipe_is_heard_and_what_is_noisy_only_in_an_emergency() {
        let logs: Targets = default_logs().parse().unwrap();
        for ours in ["fornax_train::run", "gpt_lm", "a_recipe_to_come"] {
            assert!(logs.would_enable(ours, &Level::INFO) && !logs.would_enable(ours, &Level::DEBUG));
        }
        for noisy in ["burn_std::device", "cubecl_wgpu", "wgpu_hal::vulkan", "naga::back"] {
            assert!(logs.would_enable(noisy, &Level::ERROR) && !logs.would_enable(noisy, &Level::WARN));
        }
    }

    #[test]
    fn usage_config_and_device_errors_exit_with_two_and_the_rest_with_one() {
        assert_eq!(exit_code(&anyhow!("broken")), 1);
        assert_eq!(exit_code(&Err::<(), _>(anyhow!("flag")).usage().context("outer").unwrap_err()), 2);
        let folder = TrainError::ForeignFolder { dir: "home".into(), found: "thesis.txt".into() };
        assert_eq!(exit_code(&folder.into()), 2);
        assert_eq!(exit_code(&"nowhere".parse::<fornax_backend::DeviceSpec>().unwrap_err().into()), 2);
    }
}
