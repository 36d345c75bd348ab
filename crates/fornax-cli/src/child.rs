use std::{
    io::{self, Read},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use serde::{Deserialize, Deserializer};

/// Lines of a failed program's stderr that are shown.
const SHOWN: usize = 5;

/// How long between two looks at a program that runs.
const PAUSE: Duration = Duration::from_millis(20);

/// What a benchmark prints as JSON on its last line: a process of ours, or a peer, of which only the speed is asked for.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Figures {
    /// Tokens of all timed steps over their time.
    pub tokens_per_second: f64,
    /// Median time of a step, in milliseconds.
    pub step_ms: Option<f64>,
    /// Share of the device's peak.
    pub mfu: Option<f64>,
    /// The largest resident memory of the process, in bytes.
    #[serde(default, deserialize_with = "whole")]
    pub peak_memory_bytes: Option<u64>,
    /// Milliseconds from the start of the process to the end of its first step, or to its first token.
    pub start_up_ms: Option<f64>,
    /// Numbers in the model's parameters.
    pub parameters: Option<u64>,
    /// The full name of the device, which may have been `auto`.
    pub device: Option<String>,
    /// The loss of each step; none where it is no number.
    #[serde(default)]
    pub losses: Vec<Option<f64>>,
}

/// Python multiplies megabytes with `1e6`.
fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.map(|number| number as u64))
}

/// Why a program gave no figures.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// It can't be started or watched.
    #[error("the program `{program}` can't be started")]
    Start {
        /// The program.
        program: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// It ended with another exit code than 0, or by a signal.
    #[error("{reason}")]
    Failed {
        /// Its own error, else how it ended and its last lines.
        reason: String,
        /// The exit code; none after a signal.
        code: Option<i32>,
    },
    /// It was ended because that was asked for.
    #[error("stopped")]
    Stopped,
    /// It printed something else.
    #[error("its last line is to be JSON with `tokens_per_second`, but is {line:?}")]
    NoFigures {
        /// The last line.
        line: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// It printed a speed that is none.
    #[error("`tokens_per_second` is {speed}, and must be above 0")]
    NoSpeed {
        /// The speed.
        speed: f64,
    },
}

impl Figures {
    /// Runs a program to its end and reads the last line that it prints, or ends it as soon as `stop` holds.
    ///
    /// # Errors
    ///
    /// When it can't be started or fails, with the end of what it says on stderr, when its last line is no such JSON, and
    /// [`ChildError::Stopped`].
    pub fn of(command: &mut Command, stop: impl Fn() -> bool) -> Result<Self, ChildError> {
        let program = command.get_program().to_string_lossy().into_owned();
        let failed = |source| ChildError::Start { program: program.clone(), source };
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(failed)?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        // Both are read all the time: a pipe that is full would stop the program.
        let (status, stdout, stderr) = thread::scope(|scope| {
            let (stdout, stderr) = (scope.spawn(|| text(stdout)), scope.spawn(|| text(stderr)));
            let status = wait(&mut child, &stop);
            (status, stdout.join().unwrap_or_default(), stderr.join().unwrap_or_default())
        });
        match status.map_err(failed)? {
            // What ends this program may have ended the other one first.
            _ if stop() => Err(ChildError::Stopped),
            status if status.success() => Self::parse(&stdout),
            status => Err(ChildError::Failed { reason: reason(&stderr, status), code: status.code() }),
        }
    }

    fn parse(stdout: &str) -> Result<Self, ChildError> {
        let line = stdout.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        let figures: Self = serde_json::from_str(&without_nan(line))
            .map_err(|source| ChildError::NoFigures { line: line.to_owned(), source })?;
        let speed = figures.tokens_per_second;
        if speed > 0.0 { Ok(figures) } else { Err(ChildError::NoSpeed { speed }) }
    }
}

/// All that comes out of a pipe.
fn text(pipe: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    // What was read before an error is shown.
    let _ = pipe.map(|mut pipe| pipe.read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Waits for the end, which comes with `stop` at the latest.
fn wait(child: &mut Child, stop: &impl Fn() -> bool) -> io::Result<ExitStatus> {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) if !stop() => thread::sleep(PAUSE),
            Ok(None) => {
                child.kill()?;
                return child.wait();
            }
            Err(error) => {
                // Nothing is to be left behind that nobody can watch.
                let _ = child.kill();
                return Err(error);
            }
        }
    }
}

/// What a program that failed says: its error, if it is one of ours, else how it ended and its last lines that are no news.
fn reason(stderr: &str, status: ExitStatus) -> String {
    let all: Vec<&str> = stderr.lines().filter(|line| !line.trim().is_empty()).collect();
    let errors: Vec<&str> = all.iter().copied().filter(|line| !is_news(line)).collect();
    let lines = if errors.is_empty() { all } else { errors };
    if let Some(at) = lines.iter().rposition(|line| line.starts_with("error: ")) {
        return lines[at..].join("\n").trim_start_matches("error: ").to_owned();
    }
    let end = lines[lines.len().saturating_sub(SHOWN)..].join("\n");
    if end.is_empty() { status.to_string() } else { format!("{status}: {end}") }
}

/// Whether this is a line of our logs that tells of no error.
fn is_news(line: &str) -> bool {
    let level = line.split_whitespace().next().unwrap_or_default();
    ["TRACE", "DEBUG", "INFO", "WARN"].contains(&level)
}

/// JSON as Python's `json` writes it, which has words for numbers that are none: they become null.
fn without_nan(line: &str) -> String {
    let (mut json, mut rest, mut quoted) = (String::with_capacity(line.len()), line, false);
    while let Some(next) = rest.chars().next() {
        let word = ["NaN", "Infinity", "-Infinity"].into_iter().find(|word| !quoted && rest.starts_with(word));
        // What a backslash stands before neither begins nor ends a string.
        let escaped = (quoted && next == '\\').then(|| rest.chars().nth(1)).flatten();
        let len = word.map_or(next.len_utf8() + escaped.map_or(0, char::len_utf8), str::len);
        quoted ^= next == '"';
        json.push_str(word.map_or(&rest[..len], |_| "null"));
        rest = &rest[len..];
    }
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_read_and_more_than_the_speed_may_be_missing() {
        let figures = Figures::parse("loading\n{\"tokens_per_second\": 2.5, \"mode\": \"eager\"}\n\n").unwrap();
        assert_eq!((figures.tokens_per_second, figures.step_ms, figures.losses.len()), (2.5, None, 0));
        let figures = Figures::parse("{\"tokens_per_second\": 3, \"step_ms\": 1.5, \"losses\": [2, 1.5]}").unwrap();
        assert_eq!((figures.step_ms, figures.losses), (Some(1.5), vec![Some(2.0), Some(1.5)]));
        for memory in ["1500000", "1.5e6"] {
            let figures =
                Figures::parse(&format!("{{\"tokens_per_second\": 3, \"peak_memory_bytes\": {memory}}}")).unwrap();
            assert_eq!(figures.peak_memory_bytes, Some(1_500_000));
        }
    }

    #[test]
    fn a_number_that_is_none_is_null_as_python_and_we_write_it() {
        let line = r#"{"tokens_per_second": 3, "mfu": NaN, "device": "a \"NaN\" \\", "losses": [2.5, NaN, -Infinity, Infinity, null]}"#;
        let figures = Figures::parse(line).unwrap();
        assert_eq!((figures.mfu, figures.device.as_deref()), (None, Some(r#"a "NaN" \"#)));
        assert_eq!(figures.losses, [Some(2.5), None, None, None, None]);
        assert!(Figures::parse(r#"{"tokens_per_second": NaN}"#).is_err());
    }

    #[test]
    fn a_line_without_a_speed_is_shown() {
        for (stdout, says) in [
            ("", "is \"\""),
            ("{\"tokens_per_second\": 1}\ndone\n", "is \"done\""),
            ("{\"tokens_per_s\": 1}", "missing field `tokens_per_second`"),
            ("{\"tokens_per_second\": 0}", "`tokens_per_second` is 0, and must be above 0"),
        ] {
            let message = format!("{:#}", anyhow::Error::from(Figures::parse(stdout).unwrap_err()));
            assert!(message.contains(says), "{message}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_program_that_fails_is_told_by_its_error_or_by_its_last_lines() {
        let of = |script: &str| Figures::of(Command::new("sh").args(["-c", script]), || false).unwrap_err().to_string();
        assert_eq!(
            of("echo info >&2; echo 'error: no GPU' >&2; echo 'hint: buy one' >&2; exit 1"),
            "no GPU\nhint: buy one"
        );
        let long = of("for i in 1 2 3 4 5 6 7; do echo line $i >&2; done; exit 3");
        assert!(long.starts_with("exit status: 3: line 3\n") && long.ends_with("line 7"), "{long}");
        assert!(of("kill -9 $$").contains("signal: 9"));
        // News of what went well before is no error.
        let news = "echo ' INFO device flex' >&2; echo ' WARN no locks' >&2";
        assert_eq!(of(&format!("{news}; exit 3")), "exit status: 3:  INFO device flex\n WARN no locks");
        let aborted = of(&format!("{news}; echo no memory >&2; kill -9 $$"));
        assert!(aborted.starts_with("signal: 9 (SIGKILL): no memory"), "{aborted}");
        let absent = Figures::of(&mut Command::new("./no-such-program"), || false).unwrap_err().to_string();
        assert_eq!(absent, "the program `./no-such-program` can't be started");
    }

    #[cfg(unix)]
    #[test]
    fn a_program_says_more_than_a_pipe_holds_and_ends_when_it_is_to() {
        let much = "head -c 300000 /dev/zero >&2; head -c 300000 /dev/zero; echo; echo '{\"tokens_per_second\": 1}'";
        assert_eq!(Figures::of(Command::new("sh").args(["-c", much]), || false).unwrap().tokens_per_second, 1.0);
        let start = std::time::Instant::now();
        let stopped = Figures::of(Command::new("sleep").arg("60"), || start.elapsed() > 5 * PAUSE);
        assert!(matches!(stopped, Err(ChildError::Stopped)) && start.elapsed() < Duration::from_secs(30));
    }
}
