//! The text of one record.

use crate::source::table::{Cell, json_object};

/// What is wrong with a record.
pub(super) struct Problem {
    /// Column in the line, in bytes from 1, where known.
    pub(super) column: Option<u64>,
    pub(super) message: String,
}

impl Problem {
    fn new(message: String) -> Self {
        Self { column: None, message }
    }
}

pub(super) fn of_json(bytes: &[u8], column: &str) -> Result<String, Problem> {
    let object = json_object(bytes).map_err(|(column, message)| Problem { column: Some(column), message })?;
    match object.get(column).map(Cell::of_json) {
        Some(Cell::Text(text)) => Ok(text.to_owned()),
        Some(Cell::Value(kind, _) | Cell::Other(kind)) => {
            Err(Problem::new(format!("`{column}` holds {kind}, not a string")))
        }
        Some(Cell::Nothing) => Err(Problem::new(format!("`{column}` holds nothing"))),
        None => {
            let keys: Vec<&str> = object.keys().map(String::as_str).collect();
            Err(Problem::new(format!("there is no column `{column}`; there is: {}", keys.join(", "))))
        }
    }
}

pub(super) fn of_tsv(bytes: &[u8], column: usize) -> Result<String, Problem> {
    let line = utf8(bytes)?;
    line.split('\t').nth(column).map(str::to_owned).ok_or_else(|| missing(line.split('\t').count(), column))
}

pub(super) fn of_csv(bytes: &[u8], column: usize) -> Result<String, Problem> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(bytes);
    let mut record = csv::StringRecord::new();
    reader.read_record(&mut record).map_err(|error| Problem::new(error.to_string()))?;
    record.get(column).map(|text| text.replace("\r\n", "\n")).ok_or_else(|| missing(record.len(), column))
}

fn missing(columns: usize, column: usize) -> Problem {
    Problem::new(format!("the row has {columns} columns, the text is column {}", column + 1))
}

fn utf8(bytes: &[u8]) -> Result<&str, Problem> {
    std::str::from_utf8(bytes).map_err(|error| Problem::new(error.to_string()))
}
