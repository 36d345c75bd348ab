//! Where pairs of texts come from: files of the user's own, or a data set.

use std::path::{Path, PathBuf};

use crate::dataset::{self, Places};
use crate::source::{Format, FoundFile, TableFormat, TextRows, agreed, extension, find_files, list_paths};
use crate::{DataError, Split};

/// The user's own files: tables if `format` or all names say so, else parallel files whose extensions name their columns. Of a folder
/// those with one of `columns` as their extension are taken, else its tables; the log names the others. `wrong` makes an error out of
/// a value and what is expected of it.
pub(crate) fn rows_of_files(
    paths: &[PathBuf],
    format: Option<TableFormat>,
    columns: &[String],
    wrong: impl Fn(String, &str) -> DataError,
) -> Result<TextRows, DataError> {
    let paths = found_files(paths, format, columns)?;
    if let Some(format) = format {
        return Ok(TextRows::tables(paths, format));
    }
    match agreed(paths.iter().map(|path| TableFormat::of(path))) {
        Some(Some(format)) => Ok(TextRows::tables(paths, format)),
        Some(None) => TextRows::by_extension(&paths)?.ok_or_else(|| {
            let names: Vec<String> = paths.iter().map(|path| extension(path)).collect();
            let expected = "as many files of one extension as of the other, as [\"train.de\", \"train.en\"]";
            wrong(format!("files with the extensions {}", names.join(", ")), expected)
        }),
        None => Err(wrong(
            "a mix of formats, judging by the names".into(),
            "tsv, csv, jsonl or parquet files, all of one format, or parallel files such as train.de and train.en",
        )),
    }
}

/// Files that are named themselves, and those of folders that can be meant.
fn found_files(paths: &[PathBuf], format: Option<TableFormat>, columns: &[String]) -> Result<Vec<PathBuf>, DataError> {
    let found = find_files(paths, Format::Text, &[])?;
    let is_column = |path: &Path| columns.contains(&extension(path));
    let is_table = |path: &Path| TableFormat::of(path).is_some_and(|found| format.is_none_or(|wanted| found == wanted));
    let parallel = format.is_none() && found.iter().any(|file| file.in_folder && is_column(&file.path));
    let meant =
        |file: &FoundFile| !file.in_folder || if parallel { is_column(&file.path) } else { is_table(&file.path) };
    let (taken, left): (Vec<_>, Vec<_>) = found.into_iter().partition(meant);
    let [taken, left] = [taken, left].map(|files| files.into_iter().map(|file| file.path).collect::<Vec<_>>());
    if taken.is_empty() {
        let reason = match format {
            Some(format) => format!("there is no file with extension {}", format.extensions().join(", ")),
            None => format!("there is no table and no file with extension {}", columns.join(" or ")),
        };
        return Err(DataError::EmptyCorpus { paths: list_paths(paths), reason });
    }
    if !left.is_empty() {
        tracing::info!("left out of {}: {}", list_paths(paths), list_paths(&left));
    }
    Ok(taken)
}

/// One split of a data set: a table, or parallel files whose extensions name the languages, of which only those in `columns` are
/// fetched. `None`: the data set has no such split.
pub(crate) fn rows_of_data_set(
    name: &str,
    split: Split,
    columns: &[String],
    places: &Places,
) -> Result<Option<TextRows>, DataError> {
    let descriptor = dataset::descriptor(name)?;
    let names = match split {
        Split::Train => &descriptor.splits.train,
        Split::Valid => &descriptor.splits.valid,
        Split::Test => &descriptor.splits.test,
    };
    let fetch = |file: &String| places.get_entry(name, descriptor.entry(name, file)?);
    let unusable = |message: &str| DataError::Descriptor { name: name.into(), message: message.into() };
    let format = TableFormat::of_columns(descriptor.format);
    if format.is_none() && descriptor.format != Format::Lines {
        return Err(unusable(
            "its texts have no columns, so there are no pairs in it; `fornax data list` shows all data sets",
        ));
    }
    if names.is_empty() {
        return Ok(None);
    }
    if let Some(format) = format {
        return Ok(Some(TextRows::tables(names.iter().map(fetch).collect::<Result<_, _>>()?, format)));
    }
    let mut languages: Vec<String> = names.iter().map(|file| extension(file.as_ref())).collect();
    if let Some(unknown) = columns.iter().find(|column| !languages.contains(column)) {
        languages.sort_unstable();
        languages.dedup();
        let place = format!("{split} of the data set `{name}`");
        return Err(DataError::UnknownColumn { place, column: unknown.clone(), known: languages });
    }
    let of_column = |column: &String| {
        let files =
            names.iter().zip(&languages).filter(|(_, language)| *language == column).map(|(file, _)| fetch(file));
        Ok((column.clone(), files.collect::<Result<Vec<_>, DataError>>()?))
    };
    let found = columns.iter().map(of_column).collect::<Result<Vec<_>, DataError>>()?;
    TextRows::parallel(found)?
        .map(Some)
        .ok_or_else(|| unusable("a split has more files of one language than of another"))
}
