//! From the rows of a table to examples.

use std::collections::HashSet;
use std::path::Path;

use super::TableFormat;
use super::example::{LabelKind, LabelledExample};
use super::hub::{self, HubTable};
use super::tasks::Columns;
use crate::DataError;
use crate::source::{Cells, Column, Holds, Table};

/// How a table is read.
pub(super) struct ExampleTable<'a> {
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

/// The examples of one file so far.
struct Reading<'a> {
    table: &'a ExampleTable<'a>,
    path: &'a Path,
    examples: Vec<LabelledExample>,
    next_index: u64,
}

impl ExampleTable<'_> {
    /// Reads all examples of a file, whose first row has the number `first_index`.
    ///
    /// # Errors
    /// A file that can't be read or is not UTF-8; a missing column; a row that can't be read, with its line; a label that is unknown,
    /// or missing where it may not be; no example at all.
    pub(super) fn read(&self, path: &Path, first_index: u64) -> Result<Vec<LabelledExample>, DataError> {
        let mut reading = Reading { table: self, path, examples: Vec::new(), next_index: first_index };
        let mut incomplete = Vec::new();
        let Columns { headerless, .. } = self.columns;
        let table = Table { path, format: self.format, headerless, columns: self.wanted(), question: self.question() };
        table.read(|line, cells| match cells {
            Err(_) if self.incomplete_rows => {
                incomplete.push(line);
                reading.next_index += 1;
                Ok(())
            }
            cells => reading.push(line, cells?),
        })?;
        if let Some(first) = incomplete.first() {
            let path = path.display();
            tracing::warn!("{path}: left out {} rows that lack columns, first line {first}", incomplete.len());
        }
        if reading.examples.is_empty() {
            let reason = "there is no example in it".to_owned();
            return Err(DataError::EmptyCorpus { paths: path.display().to_string(), reason });
        }
        Ok(reading.examples)
    }

    /// Text, second text, label, number of the example, and the two ids of [`only`](Self::only): those that there are.
    fn wanted(&self) -> Vec<(Column<'_>, Holds)> {
        let Columns { text, pair, label, .. } = self.columns;
        let mut wanted = vec![(text, Holds::Strings)];
        wanted.extend(pair.map(|pair| (pair, Holds::Strings)));
        wanted.push((label, if self.secret { Holds::Anything } else { Holds::Gaps }));
        wanted.extend(self.hub.map(|_| (Column::Name(hub::INDEX), Holds::Anything)));
        wanted.extend(self.only.iter().flat_map(|_| [1, 2]).map(|place| (Column::Number(place), Holds::Values)));
        wanted
    }

    /// What a file with other columns may mean.
    fn question(&self) -> String {
        self.task.map_or_else(String::new, |task| format!("; is it a file of {task}?"))
    }
}

impl Reading<'_> {
    /// Adds the example of a row with these cells, those of [`ExampleTable::wanted`].
    fn push(&mut self, line: u64, cells: Cells<'_>) -> Result<(), DataError> {
        let ExampleTable { columns, labels, secret, hub, only, .. } = *self.table;
        let mut cells = cells.into_iter();
        let mut next = || cells.next().flatten();
        let (text, pair, label) = (next(), columns.pair.and_then(|_| next()), next());
        let number = hub.and_then(|_| next());
        if let Some((ids, wanted)) = only
            && ids.contains(&[next(), next()].map(Option::unwrap_or_default).join("\t")) != wanted
        {
            return Ok(());
        }
        let spelled = label.as_deref().map(str::trim).filter(|text| !text.is_empty());
        let spelled = match hub {
            Some(hub) => spelled.and_then(|text| hub.label(text)),
            None => spelled,
        };
        let label = match spelled {
            None if secret => None,
            None => return Err(self.error(line, "there is no label".to_owned())),
            Some(text) => match labels.parse(text).filter(|_| self.table.spelling.allows(text)) {
                // What Hugging Face's copies of GLUE have for the secret labels.
                None if secret && text == "-1" => None,
                None => {
                    let known = self.table.spelling.known(labels);
                    let message = format!("the label is `{text}`, not {known}{}", self.table.question());
                    return Err(self.error(line, message));
                }
                known => known,
            },
        };
        let index = match number.as_deref().map(str::trim) {
            None => self.next_index,
            Some(text) => text
                .parse::<u32>()
                .map(u64::from)
                .map_err(|_| self.error(line, format!("`{}` is `{text}`, not the number of an example", hub::INDEX)))?,
        };
        self.examples.push(LabelledExample {
            text: text.unwrap_or_default().trim().to_owned(),
            pair: pair.map(|pair| pair.trim().to_owned()),
            label,
            index,
        });
        self.next_index = index + 1;
        Ok(())
    }

    fn error(&self, line: u64, message: String) -> DataError {
        DataError::Record { path: self.path.into(), line, column: None, message }
    }
}
