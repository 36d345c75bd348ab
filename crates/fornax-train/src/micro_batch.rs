use std::fmt;

use serde::{Deserialize, Deserializer, de};

/// `train.micro_batch_size` as a config says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MicroBatch {
    /// `"auto"`: what trials before the run find fastest.
    Auto,
    /// So many examples.
    Examples(usize),
}

impl<'de> Deserialize<'de> for MicroBatch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = MicroBatch;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of examples, or \"auto\"")
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<MicroBatch, E> {
                let examples = usize::try_from(value);
                examples.map(MicroBatch::Examples).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(value), &self))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<MicroBatch, E> {
                let examples = usize::try_from(value);
                examples.map(MicroBatch::Examples).map_err(|_| E::invalid_value(de::Unexpected::Signed(value), &self))
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<MicroBatch, E> {
                if value == "auto" {
                    return Ok(MicroBatch::Auto);
                }
                Err(E::invalid_value(de::Unexpected::Str(value), &self))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

/// The number of a key that may be `"auto"` only as long as nobody computes with it.
pub(crate) fn examples<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    match MicroBatch::deserialize(deserializer)? {
        MicroBatch::Examples(examples) => Ok(examples),
        MicroBatch::Auto => Err(de::Error::custom(
            "\"auto\" is chosen by the programs, from their command line or config file; expected a number of examples",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TrainConfig;

    fn read(value: &str) -> Result<MicroBatch, String> {
        let table: toml::Table = format!("value = {value}").parse().unwrap();
        MicroBatch::deserialize(table["value"].clone()).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn it_is_a_number_or_auto() {
        assert_eq!(read("8"), Ok(MicroBatch::Examples(8)));
        assert_eq!(read("'auto'"), Ok(MicroBatch::Auto));
        let expected = "expected a number of examples, or \"auto\"";
        for (value, problem) in [
            ("'autoo'", "invalid value: string \"autoo\""),
            ("-1", "invalid value: integer `-1`"),
            ("1.5", "invalid type: floating point `1.5`"),
        ] {
            assert_eq!(read(value), Err(format!("{problem}, {expected}")));
        }
    }

    #[test]
    fn a_config_to_compute_with_has_a_number() {
        let config = |value: &str| toml::from_str::<TrainConfig>(&format!("micro_batch_size = {value}"));
        assert_eq!(config("16").unwrap().micro_batch_size, 16);
        assert_eq!(toml::from_str::<TrainConfig>("").unwrap().micro_batch_size, 8);
        let message = config("'auto'").unwrap_err().to_string();
        assert!(message.contains("\"auto\" is chosen by the programs"), "{message}");
    }
}
