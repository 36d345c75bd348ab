use parquet::record::Field;
use serde_json::{Map, Value};

/// What stands in one place of a table whose values have types.
pub(in crate::source) enum Cell<'t> {
    Text(&'t str),
    /// A number or the like: what it is for messages, and how it is written.
    Value(&'static str, String),
    Nothing,
    /// What has no text: what it is for messages.
    Other(&'static str),
}

impl<'t> Cell<'t> {
    pub(in crate::source) fn of_json(value: &'t Value) -> Self {
        match value {
            Value::String(text) => Self::Text(text),
            Value::Number(number) => Self::Value("a number", number.to_string()),
            Value::Bool(truth) => Self::Value("a boolean", truth.to_string()),
            Value::Null => Self::Nothing,
            Value::Array(_) => Self::Other("an array"),
            Value::Object(_) => Self::Other("an object"),
        }
    }

    pub(in crate::source) fn of_parquet(field: &'t Field) -> Self {
        match field {
            Field::Str(text) => Self::Text(text),
            // Parquet's own form is 0E0 for 0 and 1.0 for 1.
            Field::Float(number) => Self::Value("a number", number.to_string()),
            Field::Double(number) => Self::Value("a number", number.to_string()),
            Field::Bool(truth) => Self::Value("a boolean", truth.to_string()),
            Field::Null => Self::Nothing,
            Field::ListInternal(_) => Self::Other("an array"),
            Field::Group(_) | Field::MapInternal(_) => Self::Other("an object"),
            Field::Bytes(_) => Self::Other("bytes"),
            Field::Date(_)
            | Field::TimeMillis(_)
            | Field::TimeMicros(_)
            | Field::TimestampMillis(_)
            | Field::TimestampMicros(_) => Self::Value("a time", field.to_string()),
            number => Self::Value("a number", number.to_string()),
        }
    }
}

/// The object of one line; else the column where it breaks off, in bytes from 1, and what is wrong there.
pub(in crate::source) fn json_object(line: &[u8]) -> Result<Map<String, Value>, (u64, String)> {
    serde_json::from_slice(line).map_err(|error| {
        let message = error.to_string();
        // The line is always the first.
        let place = format!(" at line {} column {}", error.line(), error.column());
        (error.column() as u64, message.strip_suffix(&place).unwrap_or(&message).to_owned())
    })
}
