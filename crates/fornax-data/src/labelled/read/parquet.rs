use std::borrow::Cow;
use std::fs::File;

use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;

use super::{Reading, Row};
use crate::DataError;

impl Reading<'_> {
    /// Reads a Parquet file row by row; where other tables have lines, messages have rows, counted from 1.
    pub(super) fn parquet(&mut self) -> Result<(), DataError> {
        let file = File::open(self.path).map_err(DataError::io(self.path))?;
        let reader = SerializedFileReader::new(file).map_err(|error| self.damaged(&error))?;
        let schema = reader.metadata().file_metadata().schema();
        let names: Vec<&str> = schema.get_fields().iter().map(|field| field.name()).collect();
        let places = self.places(1, &names)?;
        let rows = reader.get_row_iter(None).map_err(|error| self.damaged(&error))?;
        for (line, row) in (1..).zip(rows) {
            let row = row.map_err(|error| self.damaged(&error))?;
            let fields: Vec<&Field> = row.get_column_iter().map(|(_, field)| field).collect();
            let text = |place: usize| match fields[place] {
                Field::Str(text) => Ok(Cow::Borrowed(text.as_str())),
                other => Err(self.error(line, format!("`{}` holds {other}, not a text", names[place]))),
            };
            let text_or_number = |place: usize| match fields[place] {
                Field::Null => None,
                Field::Str(text) => Some(Cow::Borrowed(text.as_str())),
                Field::Float(score) => Some(Cow::Owned(score.to_string())),
                Field::Double(score) => Some(Cow::Owned(score.to_string())),
                other => Some(Cow::Owned(other.to_string())),
            };
            self.push(Row {
                line,
                text: text(places.text)?,
                pair: places.pair.map(text).transpose()?,
                label: places.label.and_then(text_or_number),
                index: places.index.and_then(text_or_number),
            })?;
        }
        Ok(())
    }

    fn damaged(&self, error: &ParquetError) -> DataError {
        DataError::io(self.path)(std::io::Error::other(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::dataset::Places;
    use crate::labelled::hub::tests::{Values, write_parquet};
    use crate::labelled::{Label, LabelledConfig};

    fn write(path: &Path, rows: &[(&str, i64)]) {
        let (texts, labels): (Vec<&str>, Vec<i64>) = rows.iter().copied().unzip();
        write_parquet(path, &[("sentence", Values::Texts(&texts)), ("label", Values::Integers(&labels))]);
    }

    #[test]
    fn tables_of_the_hub_are_read_and_their_mistakes_named() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        write(&place("train.parquet"), &[("it 's \"fine\" ", 1), ("bad\n", 0)]);
        write(&place("test.parquet"), &[("what ?", -1)]);
        let config = LabelledConfig {
            files: vec![place("train.parquet")],
            valid_files: vec![place("valid.parquet")],
            test_files: vec![place("test.parquet")],
            text_column: Some("sentence".into()),
            labels: vec!["negative".into(), "positive".into()],
            ..LabelledConfig::default()
        };
        let open = |config: &LabelledConfig| {
            config.open_in(Places::default()).map_err(|error| {
                error.to_string().replace(&format!("{}{}", folder.path().display(), std::path::MAIN_SEPARATOR), "")
            })
        };
        write(&place("valid.parquet"), &[("so so", 1), ("hm", 2)]);
        let message = "valid.parquet:2: the label is `2`, not one of: negative (0), positive (1)";
        assert_eq!(open(&config).unwrap_err(), message);
        write(&place("valid.parquet"), &[("so so", 1)]);
        let splits = open(&config).unwrap();
        let found: Vec<_> = splits.train.examples().iter().map(|it| (it.text.as_str(), it.label, it.index)).collect();
        assert_eq!(found, [("it 's \"fine\"", Some(Label::Class(1)), 0), ("bad", Some(Label::Class(0)), 1)]);
        assert_eq!(splits.test[0].examples()[0].label, None);

        let other = LabelledConfig { text_column: Some("text".into()), ..config.clone() };
        let message = "train.parquet:1: there is no column `text`; there is: sentence, label";
        assert_eq!(open(&other).unwrap_err(), message);
        let other = LabelledConfig { text_column: Some("label".into()), ..config.clone() };
        assert_eq!(open(&other).unwrap_err(), "train.parquet:1: `label` holds 1, not a text");
        std::fs::write(place("train.parquet"), "no parquet").unwrap();
        assert!(open(&config).unwrap_err().starts_with("train.parquet: "));
    }
}
