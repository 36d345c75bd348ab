use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use burn_dataset::Dataset;
use rayon::prelude::*;

use super::files::list;
use super::text::{decode, hash_parts, is_gzip, read_bytes};
use super::{Document, Format, FoundFile, Source, human_bytes};
use crate::DataError;

mod column;
mod index;

use index::{Index, Record};

/// Many documents a file: lines, paragraphs, JSON lines, rows of a table.
///
/// `open` reads every file once, to find where its records lie; [`Dataset::get`] then reads one record. A `.gz` file can't be
/// read from the middle and is kept in memory, unpacked. Blank lines are no records. Documents are named `file:line`.
#[derive(Debug)]
pub struct Records {
    format: Format,
    column: Option<String>,
    files: Vec<RecordFile>,
    /// Number of records before each file.
    starts: Vec<usize>,
    count: usize,
    /// The file that was read last, kept open: reading in order opens each file once.
    open_file: Mutex<Option<(usize, File)>>,
}

#[derive(Debug)]
struct RecordFile {
    path: PathBuf,
    name: String,
    index: Index,
    /// The unpacked content of a `.gz` file.
    content: Option<Vec<u8>>,
}

impl Records {
    /// Finds the records of all files, in parallel. `column` is the column that holds the text, for the formats that have columns;
    /// without it, `text`.
    ///
    /// # Errors
    /// A file that can't be read or is not UTF-8, a table without the column, or no records at all. A JSON line that can't be
    /// parsed is reported when it is read.
    ///
    /// # Panics
    /// If `format` is [`Format::Text`]: whole files are [`super::TextFiles`].
    pub fn open(files: Vec<FoundFile>, format: Format, column: Option<&str>) -> Result<Self, DataError> {
        assert!(format != Format::Text, "whole files are no records");
        let column = format.has_columns().then(|| column.unwrap_or("text").to_owned());
        let paths: Vec<PathBuf> = files.iter().map(|file| file.path.clone()).collect();
        let opened: Vec<_> =
            files.into_par_iter().map(|file| RecordFile::open(file, format, column.as_deref())).collect();
        let files = opened.into_iter().collect::<Result<Vec<_>, _>>()?;
        let mut count = 0;
        let mut starts = Vec::with_capacity(files.len());
        for file in &files {
            starts.push(count);
            count += file.index.records.len();
        }
        if count == 0 {
            let reason = "there is no line that is not blank".to_owned();
            return Err(DataError::EmptyCorpus { paths: list(&paths), reason });
        }
        Ok(Self { format, column, files, starts, count, open_file: Mutex::new(None) })
    }

    fn read(&self, number: usize, record: &Record) -> Result<Vec<u8>, DataError> {
        let file = &self.files[number];
        let (start, end) = (record.start as usize, record.end as usize);
        if let Some(content) = &file.content {
            return Ok(content[start..end].to_vec());
        }
        let mut slot = self.open_file.lock().unwrap_or_else(PoisonError::into_inner);
        let handle = match slot.take() {
            Some((open, handle)) if open == number => handle,
            _ => File::open(&file.path).map_err(DataError::io(&file.path))?,
        };
        let (_, handle) = slot.insert((number, handle));
        let mut bytes = vec![0; end - start];
        handle.seek(SeekFrom::Start(record.start)).map_err(DataError::io(&file.path))?;
        handle.read_exact(&mut bytes).map_err(DataError::io(&file.path))?;
        Ok(bytes)
    }
}

impl RecordFile {
    fn open(file: FoundFile, format: Format, column: Option<&str>) -> Result<Self, DataError> {
        let FoundFile { path, name, .. } = file;
        let (index, content) = if is_gzip(&path) {
            let content = read_bytes(&path)?;
            (Index::build(&path, content.as_slice(), format, column)?, Some(content))
        } else {
            let reader = File::open(&path).map_err(DataError::io(&path))?;
            (Index::build(&path, reader, format, column)?, None)
        };
        Ok(Self { path, name, index, content })
    }
}

impl Dataset<Document, DataError> for Records {
    fn get(&self, index: usize) -> Result<Document, DataError> {
        assert!(index < self.count, "record {index} of {}", self.count);
        let number = self.starts.partition_point(|&start| start <= index) - 1;
        let file = &self.files[number];
        let record = &file.index.records[index - self.starts[number]];
        let bytes = self.read(number, record)?;
        // The csv reader counts the line ends before a record to the record.
        let ends = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).filter(|byte| **byte == b'\n').count();
        let line = record.line + ends as u64;
        let text = match (self.format, self.column.as_deref()) {
            (Format::Jsonl, Some(column)) => column::of_json(&bytes, column),
            (Format::Tsv, Some(_)) => column::of_tsv(&bytes, file.index.column),
            (Format::Csv, Some(_)) => column::of_csv(&bytes, file.index.column),
            _ => decode(&file.path, &bytes, record.start).map(Ok)?,
        };
        let text = text.map_err(|problem| DataError::Record {
            path: file.path.clone(),
            line,
            column: problem.column,
            message: problem.message,
        })?;
        Ok(Document { name: format!("{}:{line}", file.path.display()), text })
    }

    fn len(&self) -> usize {
        self.count
    }
}

impl Source for Records {
    fn fingerprint(&self) -> Result<String, DataError> {
        let format = format!("{:?}", self.format);
        let parts = self.files.iter().flat_map(|file| [file.name.as_str(), file.index.sha256.as_str()]);
        Ok(hash_parts([format.as_str(), self.column.as_deref().unwrap_or_default()].into_iter().chain(parts)))
    }

    fn describe(&self) -> String {
        let bytes = self.files.iter().map(|file| file.index.bytes).sum();
        let place = match self.files.as_slice() {
            [file] => file.path.display().to_string(),
            files => format!("{} files", files.len()),
        };
        format!("{place}, {} records, {}", self.count, human_bytes(bytes))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::Path;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn open(
        name: &str,
        content: &[u8],
        format: Format,
        column: Option<&str>,
    ) -> (tempfile::TempDir, Result<Records, DataError>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        let file = FoundFile { path, name: name.into(), in_folder: false };
        let records = Records::open(vec![file], format, column);
        (folder, records)
    }

    fn texts(records: &Records) -> Vec<String> {
        (0..records.len()).map(|index| records.get(index).unwrap().text).collect()
    }

    /// The error's text without the folder that holds the file.
    fn message(folder: &Path, error: DataError) -> String {
        error.to_string().replace(&format!("{}{}", folder.display(), std::path::MAIN_SEPARATOR), "")
    }

    #[test]
    fn lines_and_paragraphs() {
        let text = b"\xEF\xBB\xBFone\r\ntwo\r\n \t\r\n\r\nthree\nfour";
        let (_folder, records) = open("a.txt", text, Format::Lines, None);
        let records = records.unwrap();
        assert_eq!(texts(&records), ["one", "two", "three", "four"]);
        assert!(records.get(2).unwrap().name.ends_with("a.txt:5"));
        let (_folder, records) = open("a.txt", text, Format::Paragraphs, None);
        assert_eq!(texts(&records.unwrap()), ["one\ntwo", "three\nfour"]);
    }

    #[test]
    fn gzip_and_plain_give_the_same_records() {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(b"one\n\ntwo\n").unwrap();
        let (_folder, packed) = open("a.txt.gz", &gzip.finish().unwrap(), Format::Lines, None);
        assert_eq!(texts(&packed.unwrap()), ["one", "two"]);
        let (folder, cut) = open("a.txt.gz", b"\x1f\x8b\x08\0", Format::Lines, None);
        assert!(message(folder.path(), cut.unwrap_err()).starts_with("a.txt.gz: "));
    }

    #[test]
    fn json_lines_and_their_errors() {
        let text = b"{\"text\": \"a\\nb\", \"id\": 1}\n\n{\"id\": 2, \"text\": \"c\"}\r\n{\"text\": 3}\n{\"txt\": \"d\"}\n{\"text\": \"e\n";
        let (folder, records) = open("a.jsonl", text, Format::Jsonl, None);
        let records = records.unwrap();
        assert_eq!(records.len(), 5);
        assert_eq!(records.get(0).unwrap().text, "a\nb");
        assert_eq!(records.get(1).unwrap().text, "c");
        let error = |index| message(folder.path(), records.get(index).unwrap_err());
        assert_eq!(error(2), "a.jsonl:4: `text` holds a number, not a string");
        assert_eq!(error(3), "a.jsonl:5: there is no column `text`; there is: txt");
        assert!(error(4).starts_with("a.jsonl:6:11: "), "{}", error(4));
    }

    #[test]
    fn tables_and_their_errors() {
        let (_folder, records) =
            open("a.tsv", b"label\tsentence\r\n1\tsay \"hi\r\n0\tbye\r\n", Format::Tsv, Some("sentence"));
        assert_eq!(texts(&records.unwrap()), ["say \"hi", "bye"]);
        let csv = b"\xEF\xBB\xBFtext,label\r\n\"one, \"\"two\"\"\nthree\",1\r\n\r\nfour,0\r\n";
        let (_folder, records) = open("a.csv", csv, Format::Csv, None);
        let records = records.unwrap();
        assert_eq!(texts(&records), ["one, \"two\"\nthree", "four"]);
        assert!(records.get(1).unwrap().name.ends_with("a.csv:5"), "{}", records.get(1).unwrap().name);

        let (folder, records) = open("a.tsv", b"label\tsentence\n1\tx\n", Format::Tsv, Some("review"));
        assert_eq!(
            message(folder.path(), records.unwrap_err()),
            "a.tsv:1: there is no column `review`; there is: label, sentence"
        );
        let (folder, records) = open("a.tsv", b"label\ttext\n1\n", Format::Tsv, None);
        assert_eq!(
            message(folder.path(), records.unwrap().get(0).unwrap_err()),
            "a.tsv:2: the row has 1 columns, the text is column 2"
        );
        let (folder, records) = open("a.csv", b"text,label\na,1\nb\n", Format::Csv, None);
        let error = message(folder.path(), records.unwrap_err());
        assert!(error.starts_with("a.csv:3: "), "{error}");
    }

    #[test]
    fn bad_utf8_is_found_at_once_with_its_place_in_the_file() {
        let (folder, records) = open("a.jsonl", b"{\"text\": \"a\"}\n{\"text\": \"\xFF\"}\n", Format::Jsonl, None);
        assert_eq!(message(folder.path(), records.unwrap_err()), "a.jsonl: not UTF-8 at byte 24");
    }

    #[test]
    fn nothing_but_blank_lines_is_an_empty_corpus() {
        for (name, text, format) in [
            ("a.txt", &b"\n \n"[..], Format::Lines),
            ("a.tsv", b"text\n", Format::Tsv),
            ("a.csv", b"text\n", Format::Csv),
        ] {
            let (_folder, records) = open(name, text, format, None);
            let error = records.unwrap_err();
            assert!(matches!(error, DataError::EmptyCorpus { .. }), "{error}");
        }
    }

    #[test]
    fn the_fingerprint_follows_content_and_column() {
        let print =
            |text: &[u8], column| open("a.tsv", text, Format::Tsv, Some(column)).1.unwrap().fingerprint().unwrap();
        assert_eq!(print(b"a\tb\n1\t2\n", "a"), print(b"a\tb\n1\t2\n", "a"));
        assert_ne!(print(b"a\tb\n1\t2\n", "a"), print(b"a\tb\n1\t2\n", "b"));
        assert_ne!(print(b"a\tb\n1\t2\n", "a"), print(b"a\tb\n1\t3\n", "a"));
    }
}
