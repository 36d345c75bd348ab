use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, bail, ensure};
use serde::Deserialize;

/// Lines of a failed program's stderr that are shown.
const SHOWN: usize = 5;

/// What a run prints as JSON on its last line: a process of ours, or a peer, of which only the speed is asked for.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct Figures {
    /// Tokens of all timed steps over their time.
    pub(crate) tokens_per_second: f64,
    /// Median time of a step, in milliseconds.
    pub(crate) step_ms: Option<f64>,
    /// Share of the device's peak.
    pub(crate) mfu: Option<f64>,
    pub(crate) peak_memory_bytes: Option<u64>,
    pub(crate) start_up_ms: Option<f64>,
    pub(crate) parameters: Option<u64>,
    /// The full name of the device, which may have been `auto`.
    pub(crate) device: Option<String>,
    /// The loss of each step.
    #[serde(default)]
    pub(crate) losses: Vec<f64>,
}

impl Figures {
    /// Runs a program to its end and reads the last line that it prints.
    ///
    /// # Errors
    ///
    /// When it can't be started or fails, with the end of what it says on stderr, and when its last line is no such JSON.
    pub(crate) fn of(command: &mut Command) -> anyhow::Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let output =
            command.stdin(Stdio::null()).output().with_context(|| format!("the program `{name}` can't be started"))?;
        if !output.status.success() {
            bail!("{}", reason(&String::from_utf8_lossy(&output.stderr), output.status));
        }
        Self::parse(&String::from_utf8_lossy(&output.stdout))
    }

    fn parse(stdout: &str) -> anyhow::Result<Self> {
        let line = stdout.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        let wanted = || format!("its last line is to be JSON with `tokens_per_second`, but is {line:?}");
        let figures: Self = serde_json::from_str(line).with_context(wanted)?;
        let speed = figures.tokens_per_second;
        ensure!(speed > 0.0, "`tokens_per_second` is {speed}, and must be above 0");
        Ok(figures)
    }
}

/// What a program that failed says: its error, if it is one of ours, else how it ended and its last lines.
fn reason(stderr: &str, status: ExitStatus) -> String {
    let lines: Vec<&str> = stderr.lines().filter(|line| !line.trim().is_empty()).collect();
    if let Some(at) = lines.iter().rposition(|line| line.starts_with("error: ")) {
        return lines[at..].join("\n").trim_start_matches("error: ").to_owned();
    }
    let end = lines[lines.len().saturating_sub(SHOWN)..].join("\n");
    if end.is_empty() { status.to_string() } else { format!("{status}: {end}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_read_and_more_than_the_speed_may_be_missing() {
        let figures = Figures::parse("loading\n{\"tokens_per_second\": 2.5, \"mode\": \"eager\"}\n\n").unwrap();
        assert_eq!((figures.tokens_per_second, figures.step_ms, figures.losses.len()), (2.5, None, 0));
        let figures = Figures::parse("{\"tokens_per_second\": 3, \"step_ms\": 1.5, \"losses\": [2, 1.5]}").unwrap();
        assert_eq!((figures.step_ms, figures.losses), (Some(1.5), vec![2.0, 1.5]));
    }

    #[test]
    fn a_line_without_a_speed_is_shown() {
        for (stdout, says) in [
            ("", "is \"\""),
            ("{\"tokens_per_second\": 1}\ndone\n", "is \"done\""),
            ("{\"tokens_per_s\": 1}", "missing field `tokens_per_second`"),
            ("{\"tokens_per_second\": 0}", "`tokens_per_second` is 0, and must be above 0"),
        ] {
            let message = format!("{:#}", Figures::parse(stdout).unwrap_err());
            assert!(message.contains(says), "{message}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_program_that_fails_is_told_by_its_error_or_by_its_last_lines() {
        let of = |script: &str| Figures::of(Command::new("sh").args(["-c", script])).unwrap_err().to_string();
        assert_eq!(
            of("echo info >&2; echo 'error: no GPU' >&2; echo 'hint: buy one' >&2; exit 1"),
            "no GPU\nhint: buy one"
        );
        let long = of("for i in 1 2 3 4 5 6 7; do echo line $i >&2; done; exit 3");
        assert!(long.starts_with("exit status: 3: line 3\n") && long.ends_with("line 7"), "{long}");
        assert!(of("kill -9 $$").contains("signal: 9"));
        let absent = Figures::of(&mut Command::new("./no-such-program")).unwrap_err().to_string();
        assert_eq!(absent, "the program `./no-such-program` can't be started");
    }
}
