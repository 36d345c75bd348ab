//! From the rows of a table to examples.

use std::borrow::Cow;
use std::collections::HashSet;
use std::path::Path;

use serde_json::{Map, Value};

use super::TableFormat;
use super::example::{LabelKind, LabelledExample};
use super::hub::{self, HubTable};
use super::tasks::{Column, Columns};
use crate::DataError;
use crate::source::read_text;

mod parquet;

/// How a table is read.
pub(super) struct Table<'a> {
    pub(super) format: TableFormat,
    pub(super) columns: Columns<'a>,
    pub(super) labels: &'a LabelKind,
    /// Whether labels may be missing: in a test set.
    pub(super) secret: bool,
    /// Whether rows with another number of columns are left out instead of refused.
    pub(super) incomplete_rows: bool,
    /// The GLUE task that the file should belong to, for messages.
    pub(super) task: Option<&'static str>,
    /// How its labels are spelled.
    pub(super) spelling: Spelling,
    /// The form of the table, if the Hugging Face hub gave it to a GLUE task.
    pub(super) hub: Option<&'a HubTable>,
    /// Takes only rows whose second and third column are listed (`true`), or are not.
    pub(super) only: Option<(&'a HashSet<String>, bool)>,
}

/// How a table spells the names of classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spelling {
    /// By names or by numbers.
    Any,
    /// By numbers: an official file of GLUE, whose classes have names only in the paper.
    Digits,
    /// By names: an official file of GLUE, whose classes have numbers only elsewhere, and in another order there.
    Words,
}

impl Spelling {
    fn allows(self, label: &str) -> bool {
        let is_number = label.parse::<f64>().is_ok();
        match self {
            Self::Any => true,
            Self::Digits => is_number,
            Self::Words => !is_number,
        }
    }

    /// What it allows, for messages.
    fn known(self, labels: &LabelKind) -> String {
        match (labels, self) {
            (LabelKind::Score, _) => labels.known(),
            (LabelKind::Classes(_), Self::Any) => format!("one of: {}", labels.known()),
            (LabelKind::Classes(names), Self::Digits) => {
                let numbered = names.iter().enumerate().map(|(class, name)| format!("{class} ({name})"));
                format!("one of: {}", numbered.collect::<Vec<_>>().join(", "))
            }
            (LabelKind::Classes(names), Self::Words) => format!("one of: {}", names.join(", ")),
        }
    }
}

/// Places of the columns in a row.
struct Places {
    width: usize,
    text: usize,
    pair: Option<usize>,
    label: Option<usize>,
    index: Option<usize>,
}

/// What a row says of an example.
struct Row<'t> {
    line: u64,
    text: Cow<'t, str>,
    pair: Option<Cow<'t, str>>,
    label: Option<Cow<'t, str>>,
    /// Its number, where a column has it.
    index: Option<Cow<'t, str>>,
}

/// The examples of one file so far.
struct Reading<'a> {
    table: &'a Table<'a>,
    path: &'a Path,
    examples: Vec<LabelledExample>,
    next_index: u64,
}

impl Table<'_> {
    /// Reads all examples of a file, whose first row has the number `first_index`.
    ///
    /// # Errors
    /// A file that can't be read or is not UTF-8; a missing column; a row that can't be read, with its line; a label that is unknown,
    /// or missing where it may not be; no example at all.
    pub(super) fn read(&self, path: &Path, first_index: u64) -> Result<Vec<LabelledExample>, DataError> {
        let mut reading = Reading { table: self, path, examples: Vec::new(), next_index: first_index };
        match self.format {
            TableFormat::Tsv => reading.tsv(&read_text(path)?)?,
            TableFormat::Csv => reading.csv(&read_text(path)?)?,
            TableFormat::Jsonl => reading.jsonl(&read_text(path)?)?,
            TableFormat::Parquet => reading.parquet()?,
        }
        if reading.examples.is_empty() {
            let reason = "there is no example in it".to_owned();
            return Err(DataError::EmptyCorpus { paths: path.display().to_string(), reason });
        }
        Ok(reading.examples)
    }

    /// The column that numbers the examples.
    fn index(&self) -> Option<Column<'static>> {
        self.hub.map(|_| Column::Name(hub::INDEX))
    }
}

impl<'t> Row<'t> {
    fn of(line: u64, places: &Places, field: impl Fn(usize) -> Cow<'t, str>) -> Self {
        let (text, pair) = (field(places.text), places.pair.map(&field));
        Self { line, text, pair, label: places.label.map(&field), index: places.index.map(&field) }
    }
}

impl Reading<'_> {
    fn tsv(&mut self, content: &str) -> Result<(), DataError> {
        let mut lines = (1..).zip(content.split('\n')).filter(|(_, line)| !line.trim().is_empty());
        let places = match self.table.columns.headerless {
            Some(width) => self.numbered(width),
            None => match lines.next() {
                Some((number, header)) => {
                    self.places(number, &header.split('\t').map(str::trim).collect::<Vec<_>>())?
                }
                None => return Ok(()),
            },
        };
        let mut incomplete = Vec::new();
        for (line, content) in lines {
            let fields: Vec<&str> = content.split('\t').collect();
            if fields.len() != places.width {
                if !self.table.incomplete_rows {
                    return Err(self.wrong_width(line, fields.len(), places.width));
                }
                incomplete.push(line);
                self.next_index += 1;
                continue;
            }
            if let Some((ids, wanted)) = self.table.only
                && ids.contains(&format!("{}\t{}", fields[1], fields[2])) != wanted
            {
                continue;
            }
            self.push(Row::of(line, &places, |place| Cow::Borrowed(fields[place])))?;
        }
        if let Some(first) = incomplete.first() {
            let path = self.path.display();
            tracing::warn!("{path}: left out {} rows that lack columns, first line {first}", incomplete.len());
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
            if record.len() != places.width {
                return Err(self.wrong_width(line, record.len(), places.width));
            }
            self.push(Row::of(line, &places, |place| Cow::Borrowed(&record[place])))?;
        }
        Ok(())
    }

    fn jsonl(&mut self, content: &str) -> Result<(), DataError> {
        for (line, content) in (1..).zip(content.split('\n')).filter(|(_, line)| !line.trim().is_empty()) {
            let mut object: Map<String, Value> = serde_json::from_str(content).map_err(|error| {
                let message = error.to_string();
                let place = format!(" at line {} column {}", error.line(), error.column());
                let message = message.strip_suffix(&place).unwrap_or(&message).to_owned();
                DataError::Record { path: self.path.into(), line, column: Some(error.column() as u64), message }
            })?;
            let columns = self.table.columns;
            let mut text_or_number = |column| match take(&mut object, column) {
                Some(Value::String(text)) => Ok(Some(Cow::Owned(text))),
                Some(Value::Number(number)) => Ok(Some(Cow::Owned(number.to_string()))),
                None | Some(Value::Null) => Ok(None),
                Some(other) => Err(self.error(line, not_text(column, &other, "a string or a number"))),
            };
            let label = text_or_number(columns.label)?;
            let index = self.table.index().map(&mut text_or_number).transpose()?.flatten();
            let text = self.json_text(line, &mut object, columns.text)?;
            let pair = columns.pair.map(|column| self.json_text(line, &mut object, column)).transpose()?;
            self.push(Row { line, text, pair, label, index })?;
        }
        Ok(())
    }

    fn json_text(
        &self,
        line: u64,
        object: &mut Map<String, Value>,
        column: Column<'_>,
    ) -> Result<Cow<'static, str>, DataError> {
        match take(object, column) {
            Some(Value::String(text)) => Ok(Cow::Owned(text)),
            Some(other) => Err(self.error(line, not_text(column, &other, "a string"))),
            None => {
                let keys: Vec<&str> = object.keys().map(String::as_str).collect();
                Err(self.no_column(line, column, &keys))
            }
        }
    }

    fn push(&mut self, row: Row<'_>) -> Result<(), DataError> {
        let Table { labels, secret, hub, .. } = *self.table;
        let spelled = row.label.as_deref().map(str::trim).filter(|text| !text.is_empty());
        let spelled = match hub {
            Some(hub) => spelled.and_then(|text| hub.label(text)),
            None => spelled,
        };
        let label = match spelled {
            None if secret => None,
            None => return Err(self.error(row.line, "there is no label".to_owned())),
            Some(text) => match labels.parse(text).filter(|_| self.table.spelling.allows(text)) {
                // What Hugging Face's copies of GLUE have for the secret labels.
                None if secret && text == "-1" => None,
                None => {
                    let known = self.table.spelling.known(labels);
                    let message = format!("the label is `{text}`, not {known}{}", self.question());
                    return Err(self.error(row.line, message));
                }
                known => known,
            },
        };
        let index = match row.index.as_deref().map(str::trim) {
            None => self.next_index,
            Some(text) => text.parse::<u32>().map(u64::from).map_err(|_| {
                self.error(row.line, format!("`{}` is `{text}`, not the number of an example", hub::INDEX))
            })?,
        };
        self.examples.push(LabelledExample {
            text: row.text.trim().to_owned(),
            pair: row.pair.map(|pair| pair.trim().to_owned()),
            label,
            index,
        });
        self.next_index = index + 1;
        Ok(())
    }

    /// Places of the columns in a file without a header line.
    fn numbered(&self, width: usize) -> Places {
        let number = |column| match column {
            Column::Number(number) => number,
            Column::Name(_) => 0,
        };
        let Columns { text, pair, label, .. } = self.table.columns;
        Places { width, text: number(text), pair: pair.map(number), label: Some(number(label)), index: None }
    }

    /// Places of the columns under a header line.
    fn places(&self, line: u64, names: &[&str]) -> Result<Places, DataError> {
        let Columns { text, pair, label, .. } = self.table.columns;
        let find = |column| match column {
            Column::Name(wanted) => names.iter().position(|name| *name == wanted),
            Column::Number(number) => Some(number).filter(|number| *number < names.len()),
        };
        for column in [Some(text), pair, Some(label)].into_iter().flatten() {
            if let Column::Name(wanted) = column
                && names.iter().filter(|name| **name == wanted).count() > 1
            {
                return Err(self.error(line, format!("the column `{wanted}` is there twice")));
            }
        }
        let needed = |column| find(column).ok_or_else(|| self.no_column(line, column, names));
        Ok(Places {
            width: names.len(),
            text: needed(text)?,
            pair: pair.map(needed).transpose()?,
            label: if self.table.secret { find(label) } else { Some(needed(label)?) },
            index: self.table.index().and_then(find),
        })
    }

    fn no_column(&self, line: u64, column: Column<'_>, names: &[&str]) -> DataError {
        let message = format!("there is no column `{}`; there is: {}", name_of(column), names.join(", "));
        self.error(line, message + &self.question())
    }

    fn wrong_width(&self, line: u64, found: usize, expected: usize) -> DataError {
        let message = match self.table.columns.headerless {
            Some(_) => format!("the row has {found} columns, not {expected}{}", self.question()),
            None => format!("the row has {found} columns, the header {expected}"),
        };
        self.error(line, message)
    }

    /// What a file with other columns may mean.
    fn question(&self) -> String {
        self.table.task.map_or_else(String::new, |task| format!("; is it a file of {task}?"))
    }

    fn error(&self, line: u64, message: String) -> DataError {
        DataError::Record { path: self.path.into(), line, column: None, message }
    }

    fn csv_error(&self, error: &csv::Error) -> DataError {
        let line = error.position().map_or(0, csv::Position::line);
        self.error(line, error.to_string())
    }
}

fn name_of(column: Column<'_>) -> String {
    match column {
        Column::Name(name) => name.to_owned(),
        Column::Number(number) => (number + 1).to_string(),
    }
}

fn take(object: &mut Map<String, Value>, column: Column<'_>) -> Option<Value> {
    match column {
        Column::Name(name) => object.remove(name),
        Column::Number(_) => None,
    }
}

fn not_text(column: Column<'_>, value: &Value, wanted: &str) -> String {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::Array(_) => "an array",
        Value::String(_) => "a string",
        Value::Object(_) => "an object",
    };
    format!("`{}` holds {kind}, not {wanted}", name_of(column))
}
