use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::*;

struct Lab(tempfile::TempDir);

impl Lab {
    fn new(files: &[(&str, &[u8])]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = folder.path().join(name);
            match name.ends_with(".gz") {
                true => {
                    let mut packed = GzEncoder::new(std::fs::File::create(path).unwrap(), Compression::fast());
                    packed.write_all(content).unwrap();
                    packed.finish().unwrap();
                }
                false => std::fs::write(path, content).unwrap(),
            }
        }
        Self(folder)
    }

    fn paths(&self, names: &[&str]) -> Vec<PathBuf> {
        names.iter().map(|name| self.0.path().join(name)).collect()
    }

    /// The rows as `file:line text|text (optional)`; the error without the folder.
    fn read(&self, rows: &TextRows, required: &[&str], optional: Option<&str>) -> Result<Vec<String>, String> {
        let required: Vec<String> = required.iter().map(ToString::to_string).collect();
        let read = rows.read(WantedColumns { required: &required, optional });
        let show = |row: TextRow| {
            let optional = row.optional.map_or(String::new(), |text| format!(" ({text})"));
            format!("{}:{} {}{optional}", row.file, row.line, row.texts.join("|"))
        };
        let folder = format!("{}{}", self.0.path().display(), std::path::MAIN_SEPARATOR);
        read.map(|rows| rows.into_iter().map(show).collect()).map_err(|error| error.to_string().replace(&folder, ""))
    }
}

fn by_extension(lab: &Lab, names: &[&str]) -> Option<TextRows> {
    TextRows::by_extension(&lab.paths(names)).unwrap()
}

/// Which files are put together: `a.de a.en` for each pair; the error's text.
fn together(rows: Result<Option<TextRows>, DataError>) -> Result<Vec<String>, String> {
    let shown = |file: &RowFile| file.paths().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ");
    match rows {
        Ok(rows) => Ok(rows.unwrap().files.iter().map(shown).collect()),
        Err(error) => Err(format!("{error}; {}", error.hint().unwrap())),
    }
}

fn paths(names: &[&str]) -> Vec<PathBuf> {
    names.iter().map(PathBuf::from).collect()
}

#[test]
fn files_of_one_name_belong_together_in_any_order() {
    let by_extension = |names: &[&str]| together(TextRows::by_extension(&paths(names)));
    assert_eq!(
        by_extension(&["x/train.2.de", "x/train.1.de.gz", "x/train.1.en", "x/train.2.en.gz"]).unwrap(),
        ["x/train.2.de x/train.2.en.gz", "x/train.1.de.gz x/train.1.en"]
    );
    // The folders tell apart what has one name; else they may be those of the languages.
    assert_eq!(by_extension(&["a/t.de", "b/t.de", "b/t.en", "a/t.en"]).unwrap(), ["a/t.de a/t.en", "b/t.de b/t.en"]);
    assert_eq!(
        by_extension(&["de/a.de", "de/b.de", "en/b.en", "en/a.en"]).unwrap(),
        ["de/a.de en/a.en", "de/b.de en/b.en"]
    );
    // A file of each can only belong to the other.
    assert_eq!(by_extension(&["2014-src.de", "2014-ref.en"]).unwrap(), ["2014-src.de 2014-ref.en"]);
    assert_eq!(
        by_extension(&["a.de", "b.de", "a.en", "c.en"]).unwrap_err(),
        "b.de and c.en would be read side by side, but their names differ in more than the extension; name files that belong together \
         alike, as train.1.de and train.1.en"
    );
    assert!(by_extension(&["a.de", "a.de.gz", "a.en", "a.en.gz"]).is_ok(), "in order, as nothing else can be told");
    assert!(by_extension(&["a.de", "a.de.gz", "a.en", "b.en"]).unwrap_err().starts_with("a.de.gz and b.en would"));
}

#[test]
fn listed_files_of_any_names_go_by_their_places_unless_names_say_otherwise() {
    let parallel = |source: &[&str], target: &[&str]| {
        together(TextRows::parallel(vec![("de".into(), paths(source)), ("en".into(), paths(target))]))
    };
    assert_eq!(parallel(&["b", "a"], &["c", "d"]).unwrap(), ["b c", "a d"]);
    assert_eq!(
        parallel(&["x/de.txt", "y/de.txt"], &["x/en.txt", "y/en.txt"]).unwrap(),
        ["x/de.txt x/en.txt", "y/de.txt y/en.txt"]
    );
    assert_eq!(parallel(&["b.src", "a.src"], &["a.trg", "b.trg"]).unwrap(), ["b.src b.trg", "a.src a.trg"]);
    assert_eq!(parallel(&["a.de", "more"], &["a.en", "other"]).unwrap(), ["a.de a.en", "more other"]);
    let crossed = parallel(&["a.de", "more"], &["other", "a.en"]).unwrap_err();
    assert!(crossed.starts_with("a.de and other would be read side by side"), "{crossed}");
    let crossed = parallel(&["more", "a.de"], &["a.en", "other"]).unwrap_err();
    assert!(crossed.starts_with("more and a.en would be read side by side"), "{crossed}");
    assert!(TextRows::parallel(vec![("de".into(), paths(&["a"])), ("en".into(), Vec::new())]).unwrap().is_none());
}

#[test]
fn parallel_files_give_their_lines_in_order_plain_or_packed() {
    let lab = Lab::new(&[
        // A byte order mark, CRLF, a blank line, no line end at the end; U+2028 and a lone \r end no line.
        ("a.de", "\u{feff}eins\r\n\r\nzw\u{2028}ei\rzwei".as_bytes()),
        ("a.en.gz", b"one\n\ntwo\n"),
        ("b.de", b"drei\n"),
        ("b.en", b"three\n"),
    ]);
    let rows = by_extension(&lab, &["a.de", "b.de", "a.en.gz", "b.en"]).unwrap();
    let read = lab.read(&rows, &["de", "en"], None).unwrap();
    assert_eq!(read, ["0:1 eins|one", "0:2 |", "0:3 zw\u{2028}ei\rzwei|two", "1:1 drei|three"]);
    assert_eq!(lab.read(&rows, &["en"], Some("de")).unwrap()[0], "0:1 one (eins)");
    assert_eq!(lab.read(&rows, &["en"], Some("fr")).unwrap()[3], "1:1 three");
    assert_eq!(
        lab.read(&rows, &["dee"], None).unwrap_err(),
        "a.de, a.en.gz: there is no column `dee`; there is: de, en"
    );
    assert!(by_extension(&lab, &["a.de", "b.de", "a.en.gz"]).is_none());
    assert_eq!(rows.paths().count(), 4);
}

#[test]
fn what_keeps_files_from_being_parallel_is_named() {
    let lab = Lab::new(&[
        ("a.de", b"1\n2\n3\n"),
        ("a.en", b"1\n2\n"),
        ("b.de", b"gut\nschlecht\n"),
        ("b.en", b"good\nbad caf\xe9\n"),
        ("c.de", b""),
        ("c.en", b""),
    ]);
    let error = |names: &[&str]| {
        let rows = by_extension(&lab, names).unwrap();
        lab.read(&rows, &["de", "en"], None).unwrap_err()
    };
    assert_eq!(error(&["a.de", "a.en"]), "a.de has 3 lines, a.en has 2");
    assert_eq!(error(&["b.de", "b.en"]), "b.en:2:8: not UTF-8; convert the file, for instance with iconv");
    assert_eq!(error(&["c.de", "c.en"]), "no text in c.de, c.en: there is no row in it");
    assert!(error(&["a.de", "missing.en"]).starts_with("missing.en: "));
}

#[test]
fn tables_give_the_columns_that_are_asked_for() {
    let lab = Lab::new(&[
        ("a.tsv", b"id\tde\ten\n1\teins \"x\tone\n\n2\tzwei\t\n\t\t\n"),
        ("a.csv", b"en,de\r\n\"one, or\n1\",eins\r\n\r\ntwo,zwei\r\n"),
        (
            "a.jsonl.gz",
            b"{\"de\": \"eins\", \"en\": 1, \"more\": []}\n\n{\"en\": null, \"de\": \"zwei\"}\n{\"de\": null}\n",
        ),
    ]);
    let read = |name: &str, format| {
        let rows = TextRows::tables(lab.paths(&[name]), format);
        lab.read(&rows, &["de"], Some("en")).unwrap()
    };
    assert_eq!(read("a.tsv", TableFormat::Tsv), ["0:2 eins \"x (one)", "0:4 zwei ()", "0:5  ()"]);
    assert_eq!(read("a.csv", TableFormat::Csv), ["0:2 eins (one, or\n1)", "0:5 zwei (two)"]);
    assert_eq!(read("a.jsonl.gz", TableFormat::Jsonl), ["0:1 eins (1)", "0:3 zwei", "0:4 "]);
}

#[test]
fn mistakes_in_tables_are_named() {
    let lab = Lab::new(&[
        ("a.tsv", b"de\ten\n1\t2\n3\n"),
        ("a.csv", b"de,en\n1\n"),
        ("a.jsonl", b"{\"de\": 1}\n{\"en\": 1}\n"),
        ("b.jsonl", b"{\"de\": {}}\n"),
        ("c.jsonl", b"{\"de\": 1}\n{\"de\"\n"),
        ("d.tsv", b"de\ten\n\t\t\n"),
        ("empty.tsv", b"de\ten\n"),
    ]);
    let error = |name: &str, format, column: &str| {
        lab.read(&TextRows::tables(lab.paths(&[name]), format), &[column], None).unwrap_err()
    };
    assert_eq!(error("a.tsv", TableFormat::Tsv, "de"), "a.tsv:3: the row has 1 columns, the header 2");
    assert_eq!(error("d.tsv", TableFormat::Tsv, "de"), "d.tsv:2: the row has 3 columns, the header 2");
    assert_eq!(error("a.tsv", TableFormat::Tsv, "ed"), "a.tsv:1: there is no column `ed`; there is: de, en");
    assert_eq!(error("a.csv", TableFormat::Csv, "de"), "a.csv:2: the row has 1 columns, the header 2");
    assert_eq!(error("a.jsonl", TableFormat::Jsonl, "de"), "a.jsonl:2: there is no column `de`; there is: en");
    assert_eq!(error("a.jsonl", TableFormat::Jsonl, "en"), "a.jsonl:1: there is no column `en`; there is: de");
    assert_eq!(error("b.jsonl", TableFormat::Jsonl, "de"), "b.jsonl:1: `de` holds an object, not a text");
    assert!(error("c.jsonl", TableFormat::Jsonl, "de").starts_with("c.jsonl:2:"));
    assert_eq!(error("empty.tsv", TableFormat::Tsv, "de"), "no text in empty.tsv: there is no row in it");
}

#[test]
fn parquet_is_a_table_too() {
    use crate::source::parquet_files::{Values, write_parquet};
    let lab = Lab::new(&[]);
    let path = lab.0.path().join("a.parquet");
    write_parquet(&path, &[("text", Values::Texts(&["eins", "zwei"])), ("label", Values::Integers(&[1, -1]))]);
    let rows = TextRows::tables(vec![path], TableFormat::Parquet);
    assert_eq!(lab.read(&rows, &["text", "label"], None).unwrap(), ["0:1 eins|1", "0:2 zwei|-1"]);
    assert_eq!(lab.read(&rows, &["label"], Some("idx")).unwrap(), ["0:1 1", "0:2 -1"]);
    let error = lab.read(&rows, &["lable"], None).unwrap_err();
    assert_eq!(error, "a.parquet:1: there is no column `lable`; there is: text, label");
}

#[test]
fn a_fingerprint_follows_contents_and_columns() {
    let lab = Lab::new(&[("a.de", b"1\n"), ("a.en", b"2\n"), ("b.en", b"2\n"), ("c.en", b"3\n"), ("a.fr", b"2\n")]);
    let of = |names: &[&str]| by_extension(&lab, names).unwrap().fingerprint().unwrap();
    assert_eq!(of(&["a.de", "a.en"]), of(&["a.de", "b.en"]));
    assert_ne!(of(&["a.de", "a.en"]), of(&["a.de", "c.en"]));
    assert_ne!(of(&["a.de", "a.en"]), of(&["a.de", "a.fr"]));
}
