//! Where the records of a file lie.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use crate::DataError;
use crate::source::Format;
use crate::source::text::{BYTE_ORDER_MARK, Hashing};

/// One record: the bytes `start..end`, without the line end, beginning on line `line` (counted from 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) line: u64,
}

/// All records of one file.
#[derive(Debug)]
pub(super) struct Index {
    pub(super) records: Vec<Record>,
    /// The text's place among the columns of a table.
    pub(super) column: usize,
    /// Of the (unpacked) file.
    pub(super) sha256: String,
    pub(super) bytes: u64,
}

impl Index {
    /// Reads the file once, from its beginning.
    pub(super) fn build(
        path: &Path,
        reader: impl Read,
        format: Format,
        column: Option<&str>,
    ) -> Result<Self, DataError> {
        let mut reader = BufReader::with_capacity(1 << 16, Hashing::new(reader));
        let mut scan = Scan { path, records: Vec::new(), column: 0, bytes: 0 };
        match format {
            Format::Csv => scan.csv(&mut reader, column.unwrap_or_default())?,
            _ => scan.lines(&mut reader, format, column.unwrap_or_default())?,
        }
        let Scan { records, column, bytes, .. } = scan;
        Ok(Self { records, column, sha256: reader.into_inner().finish(), bytes })
    }
}

struct Scan<'a> {
    path: &'a Path,
    records: Vec<Record>,
    column: usize,
    bytes: u64,
}

impl Scan<'_> {
    fn lines(&mut self, reader: &mut impl BufRead, format: Format, column: &str) -> Result<(), DataError> {
        let mut header = format == Format::Tsv;
        let mut line = Vec::new();
        let mut in_paragraph = false;
        for number in 1_u64.. {
            line.clear();
            let count = reader.read_until(b'\n', &mut line).map_err(DataError::io(self.path))? as u64;
            if count == 0 {
                break;
            }
            let mark = if number == 1 && line.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
            let start = self.bytes + mark as u64;
            self.bytes += count;
            let content = without_line_end(&line[mark..]);
            let text = std::str::from_utf8(content).map_err(|error| DataError::NotUtf8 {
                path: self.path.into(),
                offset: start + error.valid_up_to() as u64,
            })?;
            let blank = text.trim().is_empty();
            let record = Record { start, end: start + content.len() as u64, line: number };
            if header && !blank {
                self.column = self.find_column(number, text.split('\t'), column)?;
                header = false;
            } else if let (Format::Paragraphs, true, false, Some(last)) =
                (format, in_paragraph, blank, self.records.last_mut())
            {
                last.end = record.end;
            } else if !blank {
                self.records.push(record);
            }
            in_paragraph = !blank;
        }
        Ok(())
    }

    fn csv(&mut self, reader: &mut impl Read, column: &str) -> Result<(), DataError> {
        let mut reader = csv::Reader::from_reader(reader);
        let headers = reader.byte_headers().map_err(|error| self.csv_error(error))?.clone();
        if headers.is_empty() {
            return Ok(());
        }
        let names = headers.iter().map(String::from_utf8_lossy);
        self.column = self.find_column(1, names, column)?;
        let mut record = csv::ByteRecord::new();
        while reader.read_byte_record(&mut record).map_err(|error| self.csv_error(error))? {
            let (start, line) = record.position().map_or((0, 0), |position| (position.byte(), position.line()));
            let text = record.get(self.column).unwrap_or_default();
            if std::str::from_utf8(text).is_err() {
                let message = format!("column `{column}` is not UTF-8");
                return Err(DataError::Record { path: self.path.into(), line, column: None, message });
            }
            self.records.push(Record { start, end: reader.position().byte(), line });
        }
        self.bytes = reader.position().byte();
        Ok(())
    }

    fn find_column<S: AsRef<str>>(
        &self,
        line: u64,
        mut names: impl Iterator<Item = S> + Clone,
        column: &str,
    ) -> Result<usize, DataError> {
        let all = names.clone();
        names.position(|name| name.as_ref() == column).ok_or_else(|| {
            let all: Vec<String> = all.map(|name| name.as_ref().to_owned()).collect();
            let message = format!("there is no column `{column}`; there is: {}", all.join(", "));
            DataError::Record { path: self.path.into(), line, column: None, message }
        })
    }

    fn csv_error(&self, error: csv::Error) -> DataError {
        let line = error.position().map_or(0, csv::Position::line);
        match error.into_kind() {
            csv::ErrorKind::Io(source) => DataError::Io { path: self.path.into(), source },
            csv::ErrorKind::UnequalLengths { expected_len, len, .. } => DataError::Record {
                path: self.path.into(),
                line,
                column: None,
                message: format!("the row has {len} columns, the header {expected_len}"),
            },
            other => DataError::Record { path: self.path.into(), line, column: None, message: format!("{other:?}") },
        }
    }
}

fn without_line_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}
