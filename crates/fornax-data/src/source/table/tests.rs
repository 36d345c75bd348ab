use super::parquet_files::{Values, write_parquet};
use super::*;

/// The rows of a file as `line cell|cell`, with `-` for nothing and `!` for a row of another width; the error without the folder.
fn read(name: &str, content: &[u8], headerless: Option<usize>, wanted: &[(Column<'_>, Holds)]) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    read_path(&path, headerless, wanted, "")
}

fn read_path(path: &Path, headerless: Option<usize>, wanted: &[(Column<'_>, Holds)], question: &str) -> Vec<String> {
    let format = TableFormat::of(path).unwrap();
    let table = Table { path, format, headerless, columns: wanted.to_vec(), question: question.into() };
    let mut rows = Vec::new();
    let read = table.read(|line, cells| {
        let cells = cells.map_or(vec!["!".to_owned()], |cells| {
            cells.into_iter().map(|cell| cell.map_or("-".to_owned(), Cow::into_owned)).collect()
        });
        rows.push(format!("{line} {}", cells.join("|")));
        Ok(())
    });
    let folder = format!("{}{}", path.parent().unwrap().display(), std::path::MAIN_SEPARATOR);
    rows.extend(read.err().map(|error| error.to_string().replace(&folder, "")));
    rows
}

const A: Column<'_> = Column::Name("a");
const B: Column<'_> = Column::Name("b");

#[test]
fn columns_have_names_or_numbers_and_rows_of_another_width_are_handed_on() {
    let wanted = [(B, Holds::Strings), (A, Holds::Gaps), (Column::Name("c"), Holds::Anything)];
    let tsv = b"\na\tb\n1\t\"x\n\n2\n3\ty\tz\n4\tlast";
    assert_eq!(read("t.tsv", tsv, None, &wanted), ["3 \"x|1|-", "5 !", "6 !", "7 last|4|-"]);
    let csv = b"a,b\n1,\"x\"\n\n2\n4,last\n";
    assert_eq!(read("t.csv", csv, None, &wanted), ["2 x|1|-", "4 !", "5 last|4|-"]);
    let numbers = [(Column::Number(1), Holds::Strings), (Column::Number(0), Holds::Values)];
    assert_eq!(read("t.tsv", b"a\tb\nc\n", Some(2), &numbers), ["1 b|a", "2 !"]);
    assert_eq!(read("t.csv", csv, None, &numbers)[0], "2 x|1");
}

#[test]
fn a_value_of_json_is_taken_where_its_column_may_hold_it() {
    let line = br#"{"a": 1.5, "b": true, "c": null, "d": [], "e": {}, "f": "x"}"#;
    let column = |name, holds| read("t.jsonl", line, None, &[(Column::Name(name), holds)]).remove(0);
    assert_eq!(["a", "b", "f"].map(|name| column(name, Holds::Values)), ["1 1.5", "1 true", "1 x"]);
    assert_eq!(["c", "z"].map(|name| column(name, Holds::Gaps)), ["1 -", "1 -"]);
    assert_eq!(column("f", Holds::Strings), "1 x");
    assert_eq!(
        ["a", "b", "c", "d"].map(|name| column(name, Holds::Strings)),
        [
            "t.jsonl:1: `a` holds a number, not a string",
            "t.jsonl:1: `b` holds a boolean, not a string",
            "t.jsonl:1: `c` holds nothing",
            "t.jsonl:1: `d` holds an array, not a string"
        ]
    );
    assert_eq!(column("e", Holds::Anything), "t.jsonl:1: `e` holds an object, not a text");
    assert_eq!(column("z", Holds::Values), "t.jsonl:1: there is no column `z`; there is: a, b, c, d, e, f");
}

#[test]
fn numbers_of_parquet_are_written_as_people_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    let columns = [
        ("a", Values::Floats(&[0.0, 1.0, 3.75][..])),
        ("b", Values::Integers(&[-1, 0, 7])),
        ("c", Values::Texts(&["x", "", "y"])),
    ];
    write_parquet(&path, &columns);
    let wanted = [(A, Holds::Values), (B, Holds::Gaps), (Column::Name("c"), Holds::Strings)];
    assert_eq!(read_path(&path, None, &wanted, ""), ["1 0|-1|x", "2 1|0|", "3 3.75|7|y"]);
    assert_eq!(read_path(&path, None, &[(A, Holds::Strings)], ""), ["t.parquet:1: `a` holds a number, not a string"]);
    std::fs::write(&path, "no parquet").unwrap();
    assert!(read_path(&path, None, &wanted, "")[0].starts_with("t.parquet: "));
}

#[test]
fn a_column_that_lacks_or_is_there_twice_is_named() {
    let error = |name: &str, content: &[u8], holds| read(name, content, None, &[(A, holds)]).remove(0);
    for holds in [Holds::Strings, Holds::Values, Holds::Gaps] {
        assert_eq!(error("t.csv", b"b,c\n", holds), "t.csv:1: there is no column `a`; there is: b, c");
    }
    assert_eq!(error("t.tsv", b"\na\tb\ta\n1\t2\t3\n", Holds::Anything), "t.tsv:2: the column `a` is there twice");
    assert_eq!(read("t.tsv", b"b\ta\tb\n1\t2\t3\n", None, &[(A, Holds::Values)]), ["2 2"], "nobody asks for b");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.tsv");
    std::fs::write(&path, "b\n").unwrap();
    let asked = read_path(&path, None, &[(A, Holds::Values)], "; is it another file?");
    assert_eq!(asked, ["t.tsv:1: there is no column `a`; there is: b; is it another file?"]);
}
