use std::{fmt, fs, path::Path};

use anyhow::{Context, bail};
use comfy_table::{CellAlignment, Table, presets::UTF8_HORIZONTAL_ONLY};
use fornax_cli::Figures;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The newest layout of a report that this build reads, and the one it writes.
const FORMAT_VERSION: u64 = 1;

/// All that was measured: what `--json` prints, `--save` writes and `--baseline` reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    format_version: u64,
    /// The version of the tool.
    fornax: String,
    pub(crate) rows: Vec<Row>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<Peer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    baseline: Option<Comparison>,
}

/// A case on a device in a precision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) case: String,
    pub(crate) device: String,
    pub(crate) precision: String,
    /// Rows of a step.
    pub(crate) batch: usize,
    /// Timed steps of a run.
    pub(crate) steps: usize,
    parameters: Option<u64>,
    #[serde(flatten)]
    speed: Speed,
    mfu: Option<f64>,
    start_up_ms: Option<f64>,
    /// Its speed over the peer's: the median over the rounds.
    #[serde(skip_serializing_if = "Option::is_none")]
    of_peer: Option<f64>,
    /// Its speed over that of the baseline.
    #[serde(skip_serializing_if = "Option::is_none")]
    of_baseline: Option<f64>,
    /// Why it has no speed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// A program that does the same work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Peer {
    command: String,
    #[serde(flatten)]
    speed: Speed,
}

/// Medians over the runs; nothing where there is none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Speed {
    tokens_per_second: Option<f64>,
    step_ms: Option<f64>,
    peak_memory_bytes: Option<u64>,
    /// Tokens per second of each run, in order.
    runs: Vec<f64>,
    /// The losses of the first run; none where one is no number.
    losses: Vec<Option<f64>>,
}

/// What `--baseline` compared with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Comparison {
    file: String,
    /// The rows that it lacks.
    missing: Vec<String>,
}

impl Speed {
    fn of(runs: &[Figures]) -> Self {
        Self {
            tokens_per_second: median(runs.iter().map(|run| run.tokens_per_second)),
            step_ms: median(runs.iter().filter_map(|run| run.step_ms)),
            peak_memory_bytes: median(runs.iter().filter_map(|run| run.peak_memory_bytes).map(|bytes| bytes as f64))
                .map(|bytes| bytes as u64),
            runs: runs.iter().map(|run| run.tokens_per_second).collect(),
            losses: runs.first().map_or_else(Vec::new, |run| run.losses.clone()),
        }
    }
}

impl Row {
    /// A row of what was asked for, to be filled.
    pub(crate) fn new(case: String, device: String, precision: String, batch: usize, steps: usize) -> Self {
        Self {
            case,
            device,
            precision,
            batch,
            steps,
            parameters: None,
            speed: Speed::of(&[]),
            mfu: None,
            start_up_ms: None,
            of_peer: None,
            of_baseline: None,
            error: None,
        }
    }

    /// Fills the row with its runs, one a round, beside which `peers` ran, if any did.
    pub(crate) fn fill(&mut self, runs: &[Figures], peers: &[Figures]) {
        let Some(first) = runs.first() else { return };
        if let Some(device) = &first.device {
            self.device.clone_from(device);
        }
        self.parameters = first.parameters;
        self.speed = Speed::of(runs);
        self.mfu = median(runs.iter().filter_map(|run| run.mfu));
        self.start_up_ms = median(runs.iter().filter_map(|run| run.start_up_ms));
        let ratio = |(run, peer): (&Figures, &Figures)| run.tokens_per_second / peer.tokens_per_second;
        self.of_peer = median(runs.iter().zip(peers).map(ratio));
    }

    /// What it is compared by.
    fn is_same(&self, other: &Self) -> bool {
        (&self.case, &self.device, &self.precision, self.batch)
            == (&other.case, &other.device, &other.precision, other.batch)
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {} in {}, batch {}", self.case, self.device, self.precision, self.batch)
    }
}

impl Report {
    pub(crate) fn new(rows: Vec<Row>) -> Self {
        let fornax = env!("CARGO_PKG_VERSION").to_owned();
        Self { format_version: FORMAT_VERSION, fornax, rows, peer: None, baseline: None }
    }

    /// Reads a report that `--save` wrote.
    ///
    /// # Errors
    ///
    /// When the file can't be read, is none, or one of a newer version.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let none = "no report of `fornax bench --save`";
        let value: Value = serde_json::from_str(&fs::read_to_string(path)?).context(none)?;
        match value.get("format_version").and_then(Value::as_u64) {
            None => bail!("{none}: it has no format_version"),
            Some(found) if found > FORMAT_VERSION => {
                bail!("it has format_version {found}; this build reads up to {FORMAT_VERSION}: use a newer one")
            }
            Some(_) => serde_json::from_value(value).context(none),
        }
    }

    pub(crate) fn add_peer(&mut self, command: &str, runs: &[Figures]) {
        self.peer = Some(Peer { command: command.to_owned(), speed: Speed::of(runs) });
    }

    /// Gives each row its ratio to the same one of `baseline`, which was read from `file`.
    pub(crate) fn compare(&mut self, baseline: &Self, file: &Path) {
        let mut missing = Vec::new();
        for row in self.rows.iter_mut().filter(|row| row.error.is_none()) {
            let same = baseline.rows.iter().find(|other| row.is_same(other));
            // What was edited may have a speed to which there is no ratio.
            let speed = same.and_then(|other| other.speed.tokens_per_second).filter(|speed| *speed > 0.0);
            row.of_baseline = row.speed.tokens_per_second.zip(speed).map(|(now, then)| now / then);
            if row.of_baseline.is_none() {
                missing.push(row.to_string());
            }
        }
        self.baseline = Some(Comparison { file: file.display().to_string(), missing });
    }

    pub(crate) fn failures(&self) -> usize {
        self.rows.iter().filter(|row| row.error.is_some()).count()
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(UTF8_HORIZONTAL_ONLY);
        let (peer, baseline) = (self.peer.is_some(), self.baseline.is_some());
        let mut header =
            ["case", "device", "precision", "batch", "tokens/s", "ms a step", "MFU", "peak memory", "start-up"]
                .to_vec();
        header.extend(peer.then_some("of the peer"));
        header.extend(baseline.then_some("of the baseline"));
        table.set_header(header);
        for row in &self.rows {
            let [speed, step, memory] = row.speed.cells();
            let speed = if row.error.is_some() { "failed".to_owned() } else { speed };
            let mfu = cell(row.mfu, |mfu| format!("{:.1} %", mfu * 100.0));
            let start_up = cell(row.start_up_ms, |ms| format!("{:.1} s", ms / 1e3));
            let batch = row.batch.to_string();
            let names = [&row.case, &row.device, &row.precision].map(Clone::clone);
            let mut cells = [names.as_slice(), &[batch, speed, step, mfu, memory, start_up]].concat();
            cells.extend(peer.then(|| cell(row.of_peer, ratio)));
            cells.extend(baseline.then(|| cell(row.of_baseline, ratio)));
            table.add_row(cells);
        }
        if let Some(peer) = &self.peer {
            let [speed, step, memory] = peer.speed.cells();
            let none = String::new;
            table.add_row(["the peer".to_owned(), none(), none(), none(), speed, step, none(), memory]);
        }
        for column in table.column_iter_mut().skip(3) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }
}

/// The table, and below it what is missing from it.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.table())?;
        for (row, error) in self.rows.iter().filter_map(|row| Some((row, row.error.as_ref()?))) {
            write!(f, "\n{row}: {error}")?;
        }
        if let Some(Comparison { file, missing }) =
            self.baseline.as_ref().filter(|baseline| !baseline.missing.is_empty())
        {
            write!(f, "\nnot in {file}: {}", missing.join("; "))?;
        }
        Ok(())
    }
}

impl Speed {
    /// Tokens per second, milliseconds a step, memory.
    fn cells(&self) -> [String; 3] {
        [
            cell(
                self.tokens_per_second,
                |speed| if speed < 100.0 { format!("{speed:.1}") } else { format!("{speed:.0}") },
            ),
            cell(self.step_ms, |ms| format!("{ms:.1}")),
            cell(self.peak_memory_bytes, |bytes| format!("{:.0} MB", bytes as f64 / 1e6)),
        ]
    }
}

fn cell<T>(value: Option<T>, text: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| "-".to_owned(), text)
}

fn ratio(value: f64) -> String {
    format!("{value:.2}")
}

/// The middle of some numbers; the mean of the two middle ones of an even number.
fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = values[(values.len() - 1) / 2];
    Some(f64::midpoint(lower, upper))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(tokens_per_second: f64) -> Figures {
        Figures {
            tokens_per_second,
            step_ms: Some(1000.0 / tokens_per_second),
            mfu: None,
            peak_memory_bytes: Some(3_000_000),
            start_up_ms: Some(1234.0),
            parameters: Some(10),
            device: Some("flex".to_owned()),
            losses: vec![Some(tokens_per_second), None],
        }
    }

    fn row(case: &str, speeds: &[f64], peers: &[f64]) -> Row {
        let mut row = Row::new(case.to_owned(), "auto".to_owned(), "f32".to_owned(), 8, 10);
        let runs = |speeds: &[f64]| speeds.iter().copied().map(run).collect::<Vec<_>>();
        row.fill(&runs(speeds), &runs(peers));
        row
    }

    fn failed(case: &str) -> Row {
        Row { error: Some("no driver".to_owned()), ..row(case, &[], &[]) }
    }

    #[test]
    fn the_median_is_the_middle_or_between_the_middles() {
        assert_eq!(median([9.0, 1.0, 3.0].into_iter()), Some(3.0));
        assert_eq!(median([4.0, 1.0, 3.0, 2.0].into_iter()), Some(2.5));
        assert_eq!(median([7.0].into_iter()), Some(7.0));
        assert_eq!(median(std::iter::empty()), None);
    }

    #[test]
    fn a_row_has_the_medians_of_its_runs_and_the_name_of_the_device_that_was_taken() {
        let row = row("a", &[100.0, 400.0, 200.0], &[]);
        assert_eq!((row.device.as_str(), row.parameters, row.mfu, row.of_peer), ("flex", Some(10), None, None));
        assert_eq!((row.speed.tokens_per_second, row.speed.step_ms), (Some(200.0), Some(5.0)));
        assert_eq!((row.speed.runs, row.speed.losses), (vec![100.0, 400.0, 200.0], vec![Some(100.0), None]));
    }

    /// When the machine is busy in one round, that takes from both.
    #[test]
    fn the_ratio_to_a_peer_is_that_of_the_same_round() {
        assert_eq!(row("a", &[50.0, 5.0, 60.0], &[100.0, 10.0, 100.0]).of_peer, Some(0.5));
    }

    #[test]
    fn rows_are_compared_with_the_same_ones_and_those_without_one_are_named() {
        let other_batch = Row { batch: 4, ..row("c", &[1.0], &[]) };
        let mut baseline = Report::new(vec![row("b", &[200.0], &[]), row("a", &[50.0], &[]), other_batch, failed("d")]);
        baseline.rows.push(row("f", &[0.0], &[]));
        let rows = ["a", "b", "c", "d", "f"].map(|case| row(case, &[100.0], &[]));
        let mut report = Report::new([rows.as_slice(), &[failed("e")]].concat());
        report.compare(&baseline, Path::new("base.json"));
        let ratios: Vec<_> = report.rows.iter().map(|row| row.of_baseline).collect();
        assert_eq!(ratios, [Some(2.0), Some(0.5), None, None, None, None]);
        let missing = ["c", "d", "f"].map(|case| format!("{case} on flex in f32, batch 8"));
        assert_eq!(report.baseline.as_ref().unwrap().missing, missing);
        let text = report.to_string();
        assert!(text.contains("2.00") && text.contains("0.50"), "{text}");
        assert!(text.ends_with(
            "\ne on auto in f32, batch 8: no driver\nnot in base.json: c on flex in f32, batch 8; d on flex in f32, batch 8; f on flex in f32, batch 8"
        ));
        assert_eq!(report.failures(), 1);
    }

    #[test]
    fn a_report_comes_back_as_it_was_saved() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut report = Report::new(vec![row("a", &[100.0, 0.1 + 0.2], &[3.0, 4.0]), failed("b")]);
        report.add_peer("python peer.py", &[run(3.0), run(4.0)]);
        report.compare(&Report::new(vec![]), Path::new("old.json"));
        fs::write(file.path(), serde_json::to_string(&report).unwrap()).unwrap();
        assert_eq!(Report::open(file.path()).unwrap(), report);
    }

    #[test]
    fn what_is_no_report_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (text, says) in [
            ("tokens/s", "no report of `fornax bench --save`: expected"),
            ("{\"rows\": []}", "has no format_version"),
            ("{\"format_version\": 9}", "format_version 9; this build reads up to 1"),
            ("{\"format_version\": 1, \"fornax\": \"\"}", "`rows`"),
        ] {
            fs::write(file.path(), text).unwrap();
            let message = format!("{:#}", Report::open(file.path()).unwrap_err());
            assert!(message.contains(says), "{message}");
        }
    }

    #[test]
    fn the_table_has_a_column_for_each_ratio_that_was_asked_for() {
        let rows = vec![row("gpt", &[2048.4], &[1024.2]), failed("bert")];
        let plain = Report::new(rows.clone()).to_string();
        for cell in ["2048 ", "0.5 ", "3 MB", "1.2 s", "failed"] {
            assert!(plain.contains(cell), "{cell}: {plain}");
        }
        assert!(!plain.contains("of the peer") && !plain.contains("of the baseline"));
        let mut report = Report::new(rows);
        report.add_peer("peer", &[run(1024.2)]);
        let text = report.to_string();
        assert!(text.contains("of the peer") && text.contains("2.00") && text.contains("the peer "), "{text}");
    }
}
