//! The rows of one table.

use std::fs::File;
use std::path::Path;

use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use serde_json::{Map, Value};

use super::{TextRow, WantedColumns};
use crate::DataError;
use crate::labelled::TableFormat;
use crate::source::read_text;

pub(super) fn read(
    path: &Path,
    format: TableFormat,
    wanted: WantedColumns<'_>,
    file: usize,
    rows: &mut Vec<TextRow>,
) -> Result<(), DataError> {
    let mut reading = Reading { path, wanted, file, rows };
    match format {
        TableFormat::Tsv => reading.tsv(&read_text(path)?),
        TableFormat::Csv => reading.csv(&read_text(path)?),
        TableFormat::Jsonl => reading.jsonl(&read_text(path)?),
        TableFormat::Parquet => reading.parquet(),
    }
}

struct Reading<'a> {
    path: &'a Path,
    wanted: WantedColumns<'a>,
    file: usize,
    rows: &'a mut Vec<TextRow>,
}

/// Places of the columns under a header.
struct Places {
    required: Vec<usize>,
    optional: Option<usize>,
    width: usize,
}

impl Reading<'_> {
    fn tsv(&mut self, content: &str) -> Result<(), DataError> {
        let mut lines = (1..).zip(content.split('\n')).filter(|(_, line)| !line.trim().is_empty());
        let Some((number, header)) = lines.next() else { return Ok(()) };
        let places = self.places(number, &header.split('\t').map(str::trim).collect::<Vec<_>>())?;
        for (line, content) in lines {
            let fields: Vec<&str> = content.split('\t').collect();
            self.check_width(line, fields.len(), &places)?;
            self.push(line, &places, |place| fields[place].to_owned());
        }
        Ok(())
    }

    fn csv(&mut self, content: &str) -> Result<(), DataError> {
        let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(content.as_bytes());
        let headers = reader.headers().map_err(|error| self.csv_error(&error))?;
        if headers.is_empty() {
            return Ok(());
        }
        let places = self.places(1, &headers.iter().map(str::trim).collect::<Vec<_>>())?;
        let mut record = csv::StringRecord::new();
        while reader.read_record(&mut record).map_err(|error| self.csv_error(&error))? {
            let line = record.position().map_or(0, |position| {
                // The csv reader counts the line ends before a record to the record.
                let before = content.get(position.byte() as usize..).unwrap_or_default();
                position.line() + before.bytes().take_while(|byte| *byte == b'\n').count() as u64
            });
            self.check_width(line, record.len(), &places)?;
            self.push(line, &places, |place| record[place].to_owned());
        }
        Ok(())
    }

    fn jsonl(&mut self, content: &str) -> Result<(), DataError> {
        for (line, content) in (1..).zip(content.split('\n')).filter(|(_, line)| !line.trim().is_empty()) {
            let object: Map<String, Value> = serde_json::from_str(content).map_err(|error| {
                let message = error.to_string();
                let place = format!(" at line {} column {}", error.line(), error.column());
                let message = message.strip_suffix(&place).unwrap_or(&message).to_owned();
                DataError::Record { path: self.path.into(), line, column: Some(error.column() as u64), message }
            })?;
            let text = |column: &str| match object.get(column) {
                Some(Value::String(text)) => Ok(Some(text.clone())),
                Some(value @ (Value::Number(_) | Value::Bool(_))) => Ok(Some(value.to_string())),
                Some(Value::Array(_)) => Err(self.error(line, format!("`{column}` holds an array, not a text"))),
                Some(Value::Object(_)) => Err(self.error(line, format!("`{column}` holds an object, not a text"))),
                None | Some(Value::Null) => Ok(None),
            };
            let required = |column: &String| match (text(column)?, object.contains_key(column)) {
                (Some(text), _) => Ok(text),
                (None, true) => Err(self.error(line, format!("`{column}` holds nothing"))),
                (None, false) => Err(self.unknown_column(line, column, object.keys().map(String::as_str))),
            };
            let texts = self.wanted.required.iter().map(required).collect::<Result<_, _>>()?;
            let optional = self.wanted.optional.map(text).transpose()?.flatten();
            self.rows.push(TextRow { file: self.file, line, texts, optional });
        }
        Ok(())
    }

    /// Row by row; where other tables have lines, messages have rows, counted from 1.
    fn parquet(&mut self) -> Result<(), DataError> {
        let damaged = |error: ParquetError| DataError::io(self.path)(std::io::Error::other(error.to_string()));
        let file = File::open(self.path).map_err(DataError::io(self.path))?;
        let reader = SerializedFileReader::new(file).map_err(damaged)?;
        let schema = reader.metadata().file_metadata().schema();
        let names: Vec<&str> = schema.get_fields().iter().map(|field| field.name()).collect();
        let places = self.places(1, &names)?;
        for (line, row) in (1..).zip(reader.get_row_iter(None).map_err(damaged)?) {
            let row = row.map_err(damaged)?;
            let fields: Vec<&Field> = row.get_column_iter().map(|(_, field)| field).collect();
            let text = |place: usize| match fields[place] {
                Field::Str(text) => Ok(Some(text.clone())),
                Field::Null => Ok(None),
                Field::Group(_) | Field::ListInternal(_) | Field::MapInternal(_) | Field::Bytes(_) => {
                    Err(self.error(line, format!("`{}` holds {}, not a text", names[place], fields[place])))
                }
                number => Ok(Some(number.to_string())),
            };
            let required = |place: &usize| {
                text(*place)?.ok_or_else(|| self.error(line, format!("`{}` holds nothing", names[*place])))
            };
            let texts = places.required.iter().map(required).collect::<Result<_, _>>()?;
            let optional = places.optional.map(text).transpose()?.flatten();
            self.rows.push(TextRow { file: self.file, line, texts, optional });
        }
        Ok(())
    }

    fn places(&self, line: u64, names: &[&str]) -> Result<Places, DataError> {
        let find = |wanted: &str| names.iter().position(|name| *name == wanted);
        let needed =
            |column: &String| find(column).ok_or_else(|| self.unknown_column(line, column, names.iter().copied()));
        let required = self.wanted.required.iter().map(needed).collect::<Result<_, _>>()?;
        Ok(Places { required, optional: self.wanted.optional.and_then(find), width: names.len() })
    }

    fn push(&mut self, line: u64, places: &Places, field: impl Fn(usize) -> String) {
        let texts = places.required.iter().map(|place| field(*place)).collect();
        self.rows.push(TextRow { file: self.file, line, texts, optional: places.optional.map(field) });
    }

    fn check_width(&self, line: u64, found: usize, places: &Places) -> Result<(), DataError> {
        let expected = places.width;
        if found == expected {
            return Ok(());
        }
        Err(self.error(line, format!("the row has {found} columns, the header {expected}")))
    }

    fn unknown_column<'n>(&self, line: u64, column: &str, known: impl Iterator<Item = &'n str>) -> DataError {
        DataError::UnknownColumn {
            place: format!("{}:{line}", self.path.display()),
            column: column.to_owned(),
            known: known.map(str::to_owned).collect(),
        }
    }

    fn error(&self, line: u64, message: String) -> DataError {
        DataError::Record { path: self.path.into(), line, column: None, message }
    }

    fn csv_error(&self, error: &csv::Error) -> DataError {
        self.error(error.position().map_or(0, csv::Position::line), error.to_string())
    }
}
