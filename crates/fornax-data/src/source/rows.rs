use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::TableFormat;
use super::format::extension;
use super::table::{Column, Holds, Table};
use super::text::{BYTE_ORDER_MARK, file_sha256, hash_parts, read_bytes};
use crate::DataError;

/// Rows of texts by the names of their columns: tables, or files of which line i of one belongs to line i of the others.
#[derive(Clone, Debug)]
pub(crate) struct TextRows {
    files: Vec<RowFile>,
}

/// One file of rows, or files side by side.
#[derive(Clone, Debug)]
enum RowFile {
    Table(PathBuf, TableFormat),
    /// Each file is a column of this name.
    Parallel(Vec<(String, PathBuf)>),
}

/// What is read of each row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WantedColumns<'a> {
    /// Columns that every row has; where there is nothing in one, its text is empty.
    pub(crate) required: &'a [String],
    /// A column that may lack, or have nothing in it.
    pub(crate) optional: Option<&'a str>,
}

/// The texts of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TextRow {
    /// Which file it is in, for [`TextRows::path`].
    pub(crate) file: usize,
    /// Its line there, counted from 1.
    pub(crate) line: u64,
    /// Those of the required columns, in their order.
    pub(crate) texts: Vec<String>,
    /// That of the optional column.
    pub(crate) optional: Option<String>,
}

impl TextRows {
    /// Tables of one format.
    pub(crate) fn tables(paths: Vec<PathBuf>, format: TableFormat) -> Self {
        Self { files: paths.into_iter().map(|path| RowFile::Table(path, format)).collect() }
    }

    /// Parallel files of any names. Files of one name but for the extension belong together, in whatever order they stand; if the
    /// names say nothing, the first file of each column belongs to the first of the others, and so on. `None`: the columns have
    /// different numbers of files.
    ///
    /// # Errors
    /// [`DataError::UnpairedFiles`] if two files would be put together of which one has its partner elsewhere.
    pub(crate) fn parallel(columns: Vec<(String, Vec<PathBuf>)>) -> Result<Option<Self>, DataError> {
        Self::side_by_side(columns, true)
    }

    /// Parallel files whose extensions name their columns, as `train.de` and `train.en.gz`. `None`: as [`parallel`](Self::parallel).
    ///
    /// # Errors
    /// [`DataError::UnpairedFiles`] if there are several of each column, and not each has a partner of its name.
    pub(crate) fn by_extension(paths: &[PathBuf]) -> Result<Option<Self>, DataError> {
        let mut columns: Vec<(String, Vec<PathBuf>)> = Vec::new();
        for path in paths {
            let name = extension(path);
            match columns.iter_mut().find(|(known, _)| *known == name) {
                Some((_, files)) => files.push(path.clone()),
                None => columns.push((name, vec![path.clone()])),
            }
        }
        Self::side_by_side(columns, false)
    }

    fn side_by_side(mut columns: Vec<(String, Vec<PathBuf>)>, any_names: bool) -> Result<Option<Self>, DataError> {
        let count = columns.first().map_or(0, |(_, paths)| paths.len());
        if columns.iter().any(|(_, paths)| paths.len() != count) {
            return Ok(None);
        }
        if !(order_by(&mut columns, whole_stem) || order_by(&mut columns, stem)) {
            refuse_crossed(&columns, any_names || count == 1)?;
        }
        let together = |at: usize| {
            RowFile::Parallel(columns.iter().map(|(name, paths)| (name.clone(), paths[at].clone())).collect())
        };
        Ok(Some(Self { files: (0..count).map(together).collect() }))
    }

    /// All rows, file by file.
    ///
    /// # Errors
    /// A file that can't be read or is not UTF-8; a column that is required and not there, or holds what is no text; parallel files of
    /// different length; no row at all in a file.
    pub(crate) fn read(&self, wanted: WantedColumns<'_>) -> Result<Vec<TextRow>, DataError> {
        let mut rows = Vec::new();
        for (number, file) in self.files.iter().enumerate() {
            let before = rows.len();
            match file {
                RowFile::Table(path, format) => read_table(path, *format, wanted, number, &mut rows)?,
                RowFile::Parallel(columns) => read_parallel(columns, wanted, number, &mut rows)?,
            }
            if rows.len() == before {
                let paths = file.paths().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
                return Err(DataError::EmptyCorpus { paths, reason: "there is no row in it".into() });
            }
        }
        Ok(rows)
    }

    /// The file that has `column` of a row.
    pub(crate) fn path(&self, row: &TextRow, column: &str) -> &Path {
        match &self.files[row.file] {
            RowFile::Table(path, _) => path,
            RowFile::Parallel(columns) => {
                let named = columns.iter().find(|(name, _)| name == column);
                named.or(columns.first()).map_or(Path::new(""), |(_, path)| path)
            }
        }
    }

    /// All files.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().flat_map(RowFile::paths)
    }

    /// A hash of all files and of what they are read as, in hexadecimal.
    pub(crate) fn fingerprint(&self) -> Result<String, DataError> {
        let mut parts = Vec::new();
        for file in &self.files {
            match file {
                RowFile::Table(path, format) => parts.push(format!("{format:?} {}", file_sha256(path)?)),
                RowFile::Parallel(columns) => {
                    for (name, path) in columns {
                        parts.push(format!("{name} {}", file_sha256(path)?));
                    }
                }
            }
        }
        Ok(hash_parts(parts.iter().map(String::as_str)))
    }
}

/// The name of a file without `.gz` and without the extension before it: `train.1` for `a/train.1.de.gz`.
fn stem(path: &Path) -> PathBuf {
    whole_stem(path).file_name().unwrap_or_default().into()
}

/// As [`stem`], with the folders before it.
fn whole_stem(path: &Path) -> PathBuf {
    let packed = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gz"));
    let plain = if packed { path.with_extension("") } else { path.to_owned() };
    plain.with_extension("")
}

/// Puts the files of all columns into the order of the first, if each has one partner with its key in every column.
fn order_by(columns: &mut [(String, Vec<PathBuf>)], key: fn(&Path) -> PathBuf) -> bool {
    let Some((_, first)) = columns.first() else { return true };
    let wanted: Vec<PathBuf> = first.iter().map(|path| key(path)).collect();
    let mut ordered = Vec::with_capacity(columns.len());
    for (_, paths) in columns.iter() {
        let of_key: HashMap<PathBuf, &PathBuf> = paths.iter().map(|path| (key(path), path)).collect();
        let found: Option<Vec<PathBuf>> = wanted.iter().map(|key| of_key.get(key).copied().cloned()).collect();
        match found {
            // Otherwise two files have the same key.
            Some(found) if of_key.len() == paths.len() => ordered.push(found),
            _ => return false,
        }
    }
    for ((_, paths), ordered) in columns.iter_mut().zip(ordered) {
        *paths = ordered;
    }
    true
}

/// Refuses files at the same place whose names differ: all of them, or with `any_names` those of which one has its partner elsewhere.
fn refuse_crossed(columns: &[(String, Vec<PathBuf>)], any_names: bool) -> Result<(), DataError> {
    let Some(((_, first), others)) = columns.split_first() else { return Ok(()) };
    let has = |paths: &[PathBuf], wanted: &Path| paths.iter().any(|path| stem(path) == stem(wanted));
    for (_, other) in others {
        let apart = |(one, two): &(&PathBuf, &PathBuf)| {
            stem(one) != stem(two) && (!any_names || has(other, one) || has(first, two))
        };
        if let Some((first, second)) = first.iter().zip(other).find(apart) {
            return Err(DataError::UnpairedFiles { first: first.clone(), second: second.clone() });
        }
    }
    Ok(())
}

impl RowFile {
    fn paths(&self) -> impl Iterator<Item = &Path> {
        let (table, columns) = match self {
            Self::Table(path, _) => (Some(path.as_path()), &[][..]),
            Self::Parallel(columns) => (None, columns.as_slice()),
        };
        table.into_iter().chain(columns.iter().map(|(_, path)| path.as_path()))
    }
}

fn read_table(
    path: &Path,
    format: TableFormat,
    wanted: WantedColumns<'_>,
    file: usize,
    rows: &mut Vec<TextRow>,
) -> Result<(), DataError> {
    let required = wanted.required.iter().map(|name| (Column::Name(name), Holds::Blanks));
    let optional = wanted.optional.map(|name| (Column::Name(name), Holds::Anything));
    let columns = required.chain(optional).collect();
    Table { path, format, headerless: None, columns, question: String::new() }.read(|line, cells| {
        let mut cells = cells?.into_iter().map(|cell| cell.map(Cow::into_owned));
        let texts = cells.by_ref().take(wanted.required.len()).map(Option::unwrap_or_default).collect();
        rows.push(TextRow { file, line, texts, optional: cells.next().flatten() });
        Ok(())
    })
}

fn read_parallel(
    columns: &[(String, PathBuf)],
    wanted: WantedColumns<'_>,
    file: usize,
    rows: &mut Vec<TextRow>,
) -> Result<(), DataError> {
    let find = |wanted: &str| columns.iter().find(|(name, _)| name == wanted);
    let needed = |column: &String| {
        find(column).ok_or_else(|| DataError::UnknownColumn {
            place: columns.iter().map(|(_, path)| path.display().to_string()).collect::<Vec<_>>().join(", "),
            column: column.clone(),
            known: columns.iter().map(|(name, _)| name.clone()).collect(),
        })
    };
    let mut chosen = wanted.required.iter().map(needed).collect::<Result<Vec<_>, _>>()?;
    let optional = wanted.optional.and_then(find);
    chosen.extend(optional);
    let mut read: Vec<std::vec::IntoIter<String>> = Vec::with_capacity(chosen.len());
    for (_, path) in &chosen {
        read.push(lines(path)?.into_iter());
    }
    let Some(count) = read.first().map(ExactSizeIterator::len) else { return Ok(()) };
    if let Some(other) = read.iter().position(|lines| lines.len() != count) {
        return Err(DataError::UnequalLines {
            first: chosen[0].1.clone(),
            first_lines: count as u64,
            second: chosen[other].1.clone(),
            second_lines: read[other].len() as u64,
        });
    }
    for line in 1..=count as u64 {
        let mut texts: Vec<String> = read.iter_mut().filter_map(Iterator::next).collect();
        let optional = optional.and_then(|_| texts.pop());
        rows.push(TextRow { file, line, texts, optional });
    }
    Ok(())
}

/// The lines of a file, blank ones too, without their ends: `\n` or `\r\n`, which may lack behind the last.
fn lines(path: &Path) -> Result<Vec<String>, DataError> {
    let bytes = read_bytes(path)?;
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&bytes);
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
        Err(error) => {
            let before = &bytes[..error.valid_up_to()];
            let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            Err(DataError::Record {
                path: path.into(),
                line: before.iter().filter(|byte| **byte == b'\n').count() as u64 + 1,
                column: Some((before.len() - line_start) as u64 + 1),
                message: "not UTF-8; convert the file, for instance with iconv".into(),
            })
        }
    }
}

#[cfg(test)]
mod tests;
