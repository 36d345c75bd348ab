//! Tables of every format, row by row: what stands in the columns that are asked for.

use std::borrow::Cow;
use std::fs::File;
use std::path::Path;

use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;

use super::TableFormat;
use super::text::read_text;
use crate::DataError;

mod cell;

pub(super) use cell::{Cell, json_object};

/// Where a value stands in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column<'a> {
    /// Under this name in the header line.
    Name(&'a str),
    /// In this place, counted from 0.
    Number(usize),
}

/// What a column must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holds {
    /// A string in every row.
    Strings,
    /// A string, a number or a boolean in every row.
    Values,
    /// As [`Values`](Self::Values), or nothing; but every JSON object has the column too.
    Blanks,
    /// As [`Values`](Self::Values), with gaps; a header must have the column, a JSON object need not.
    Gaps,
    /// As [`Gaps`](Self::Gaps), if there is such a column at all.
    Anything,
}

/// One file, and what is read of it.
pub(crate) struct Table<'a> {
    pub(crate) path: &'a Path,
    pub(crate) format: TableFormat,
    /// The number of columns of a tsv file without a header line, whose columns have numbers.
    pub(crate) headerless: Option<usize>,
    /// What is wanted of each row.
    pub(crate) columns: Vec<(Column<'a>, Holds)>,
    /// What messages add about a file with other columns.
    pub(crate) question: String,
}

/// What a row has in each of the wanted columns; `None` where there is nothing, which [`Holds::Strings`] and [`Holds::Values`] forbid.
pub(crate) type Cells<'t> = Vec<Option<Cow<'t, str>>>;

type EachRow<'f> = dyn FnMut(u64, Result<Cells<'_>, DataError>) -> Result<(), DataError> + 'f;

/// Places of the wanted columns in a row.
struct Places {
    width: usize,
    columns: Vec<Option<usize>>,
}

impl Column<'_> {
    fn name(&self) -> Option<&str> {
        match self {
            Self::Name(name) => Some(name),
            Self::Number(_) => None,
        }
    }

    /// Its name or number for messages; the latter counts from 1.
    fn describe(&self) -> String {
        match self {
            Self::Name(name) => (*name).to_owned(),
            Self::Number(number) => (number + 1).to_string(),
        }
    }
}

impl Holds {
    /// Whether a header must have the column.
    fn needs_column(self) -> bool {
        self != Self::Anything
    }

    /// Whether every JSON object must have the column.
    fn needs_key(self) -> bool {
        self.needs_value() || self == Self::Blanks
    }

    /// Whether every row must have something in it.
    fn needs_value(self) -> bool {
        matches!(self, Self::Strings | Self::Values)
    }
}

impl Table<'_> {
    /// Hands each row to `each` with its line, counted from 1 (of Parquet, with its number). Of a row whose number of columns is not the
    /// header's, `each` gets the error instead and may go on. Blank lines are no rows; a line of tabs is one, with nothing in it.
    ///
    /// # Errors
    /// A file that can't be read or is not UTF-8; a wanted column that lacks or is there twice; a row that can't be read or does not hold
    /// what it must; what `each` returns.
    pub(crate) fn read(
        &self,
        mut each: impl FnMut(u64, Result<Cells<'_>, DataError>) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        match self.format {
            TableFormat::Tsv => self.tsv(&read_text(self.path)?, &mut each),
            TableFormat::Csv => self.csv(&read_text(self.path)?, &mut each),
            TableFormat::Jsonl => self.jsonl(&read_text(self.path)?, &mut each),
            TableFormat::Parquet => self.parquet(&mut each),
        }
    }

    fn tsv(&self, content: &str, each: &mut EachRow<'_>) -> Result<(), DataError> {
        // Tabs are columns, even if nothing stands between them.
        let mut lines = numbered(content).filter(|(_, line)| line.contains('\t') || !line.trim().is_empty());
        let places = match self.headerless {
            Some(width) => self.places(1, width, &[])?,
            None => match lines.next() {
                Some((line, header)) => self.header(line, header.split('\t'))?,
                None => return Ok(()),
            },
        };
        for (line, content) in lines {
            let fields: Vec<&str> = content.split('\t').collect();
            each(line, self.fields(line, &places, &fields))?;
        }
        Ok(())
    }

    fn csv(&self, content: &str, each: &mut EachRow<'_>) -> Result<(), DataError> {
        let unreadable =
            |error: csv::Error| self.error(error.position().map_or(0, csv::Position::line), error.to_string());
        let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(content.as_bytes());
        let headers = reader.headers().map_err(unreadable)?;
        if headers.is_empty() {
            return Ok(());
        }
        let places = self.header(1, headers.iter())?;
        let mut record = csv::StringRecord::new();
        while reader.read_record(&mut record).map_err(unreadable)? {
            let line = record.position().map_or(0, |position| {
                // The csv reader counts the line ends before a record to the record.
                let before = content.get(position.byte() as usize..).unwrap_or_default();
                position.line() + before.bytes().take_while(|byte| *byte == b'\n').count() as u64
            });
            let fields: Vec<&str> = record.iter().collect();
            each(line, self.fields(line, &places, &fields))?;
        }
        Ok(())
    }

    fn jsonl(&self, content: &str, each: &mut EachRow<'_>) -> Result<(), DataError> {
        for (line, content) in numbered(content).filter(|(_, line)| !line.trim().is_empty()) {
            let object = json_object(content.as_bytes()).map_err(|(column, message)| DataError::Record {
                path: self.path.into(),
                line,
                column: Some(column),
                message,
            })?;
            let cell = |&(column, holds): &(Column<'_>, Holds)| match column.name().and_then(|name| object.get(name)) {
                Some(value) => self.cell(line, column, holds, Cell::of_json(value)),
                None if !holds.needs_key() => Ok(None),
                None => Err(self.no_column(line, column, object.keys().map(String::as_str))),
            };
            let cells: Cells<'_> = self.columns.iter().map(cell).collect::<Result<_, _>>()?;
            each(line, Ok(cells))?;
        }
        Ok(())
    }

    fn parquet(&self, each: &mut EachRow<'_>) -> Result<(), DataError> {
        let damaged = |error: ParquetError| DataError::io(self.path)(std::io::Error::other(error.to_string()));
        let file = File::open(self.path).map_err(DataError::io(self.path))?;
        let reader = SerializedFileReader::new(file).map_err(damaged)?;
        let places =
            self.header(1, reader.metadata().file_metadata().schema().get_fields().iter().map(|it| it.name()))?;
        for (line, row) in (1..).zip(reader.get_row_iter(None).map_err(damaged)?) {
            let row = row.map_err(damaged)?;
            let fields: Vec<&Field> = row.get_column_iter().map(|(_, field)| field).collect();
            let cell = |(&(column, holds), place): (&(Column<'_>, Holds), &Option<usize>)| match place {
                Some(place) => self.cell(line, column, holds, Cell::of_parquet(fields[*place])),
                None => Ok(None),
            };
            let cells: Cells<'_> = self.columns.iter().zip(&places.columns).map(cell).collect::<Result<_, _>>()?;
            each(line, Ok(cells))?;
        }
        Ok(())
    }

    /// Places of the wanted columns under these names.
    fn header<'n>(&self, line: u64, names: impl Iterator<Item = &'n str>) -> Result<Places, DataError> {
        let names: Vec<&str> = names.map(str::trim).collect();
        self.places(line, names.len(), &names)
    }

    fn places(&self, line: u64, width: usize, names: &[&str]) -> Result<Places, DataError> {
        let find = |&(column, holds): &(Column<'_>, Holds)| {
            let place = match column {
                Column::Name(wanted) => {
                    let mut places = (0..).zip(names).filter(|(_, name)| **name == wanted).map(|(place, _)| place);
                    let first = places.next();
                    if places.next().is_some() {
                        return Err(self.error(line, format!("the column `{wanted}` is there twice")));
                    }
                    first
                }
                Column::Number(number) => Some(number).filter(|number| *number < width),
            };
            match place {
                None if holds.needs_column() => Err(self.no_column(line, column, names.iter().copied())),
                place => Ok(place),
            }
        };
        Ok(Places { width, columns: self.columns.iter().map(find).collect::<Result<_, _>>()? })
    }

    /// What stands in a row of strings.
    fn fields<'t>(&self, line: u64, places: &Places, fields: &[&'t str]) -> Result<Cells<'t>, DataError> {
        if fields.len() == places.width {
            return Ok(places.columns.iter().map(|place| place.map(|place| Cow::Borrowed(fields[place]))).collect());
        }
        let (found, expected) = (fields.len(), places.width);
        Err(self.error(
            line,
            match self.headerless {
                Some(_) => format!("the row has {found} columns, not {expected}{}", self.question),
                None => format!("the row has {found} columns, the header {expected}"),
            },
        ))
    }

    /// What stands in one place of a row that has more than strings.
    fn cell<'t>(
        &self,
        line: u64,
        column: Column<'_>,
        holds: Holds,
        cell: Cell<'t>,
    ) -> Result<Option<Cow<'t, str>>, DataError> {
        let wrong = |what: &str| Err(self.error(line, format!("`{}` holds {what}", column.describe())));
        match cell {
            Cell::Text(text) => Ok(Some(Cow::Borrowed(text))),
            Cell::Nothing if holds.needs_value() => wrong("nothing"),
            Cell::Nothing => Ok(None),
            Cell::Value(kind, _) | Cell::Other(kind) if holds == Holds::Strings => {
                wrong(&format!("{kind}, not a string"))
            }
            Cell::Value(_, text) => Ok(Some(Cow::Owned(text))),
            Cell::Other(kind) => wrong(&format!("{kind}, not a text")),
        }
    }

    fn no_column<'n>(&self, line: u64, column: Column<'_>, known: impl Iterator<Item = &'n str>) -> DataError {
        let (column, known) = (column.describe(), known.map(str::to_owned).collect::<Vec<_>>());
        if self.question.is_empty() {
            return DataError::UnknownColumn { place: format!("{}:{line}", self.path.display()), column, known };
        }
        let message = format!("there is no column `{column}`; there is: {}{}", known.join(", "), self.question);
        self.error(line, message)
    }

    fn error(&self, line: u64, message: String) -> DataError {
        DataError::Record { path: self.path.into(), line, column: None, message }
    }
}

/// All lines with their numbers.
fn numbered(content: &str) -> impl Iterator<Item = (u64, &str)> {
    (1..).zip(content.split('\n'))
}

#[cfg(test)]
pub(crate) mod parquet_files;
#[cfg(test)]
mod tests;
