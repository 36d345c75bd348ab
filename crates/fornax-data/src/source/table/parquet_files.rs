use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use parquet::data_type::{ByteArray, ByteArrayType, FloatType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

/// A column of a Parquet file.
pub(crate) enum Values<'a> {
    Texts(&'a [&'a str]),
    Integers(&'a [i64]),
    Floats(&'a [f32]),
}

/// Writes a Parquet file as the hub has them: packed with Snappy, every value optional.
pub(crate) fn write_parquet(path: &Path, columns: &[(&str, Values<'_>)]) {
    let fields = columns.iter().map(|(name, values)| match values {
        Values::Texts(_) => format!("optional binary {name} (STRING);"),
        Values::Integers(_) => format!("optional int64 {name};"),
        Values::Floats(_) => format!("optional float {name};"),
    });
    let schema = format!("message schema {{ {} }}", fields.collect::<String>());
    let compression = parquet::basic::Compression::SNAPPY;
    let properties = WriterProperties::builder().set_compression(compression).build();
    let schema = Arc::new(parse_message_type(&schema).unwrap());
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let file = File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for (_, values) in columns {
        let mut column = group.next_column().unwrap().unwrap();
        // Every value is there.
        let all = |count| vec![1; count];
        match values {
            Values::Texts(texts) => {
                let texts: Vec<ByteArray> = texts.iter().map(|text| ByteArray::from(*text)).collect();
                column.typed::<ByteArrayType>().write_batch(&texts, Some(&all(texts.len())), None).unwrap();
            }
            Values::Integers(numbers) => {
                column.typed::<Int64Type>().write_batch(numbers, Some(&all(numbers.len())), None).unwrap();
            }
            Values::Floats(numbers) => {
                column.typed::<FloatType>().write_batch(numbers, Some(&all(numbers.len())), None).unwrap();
            }
        }
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
}
