//! Numbers as text in `state.json`: JSON numbers can't say NaN, and their default parser may miss the last bit.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

fn parse<E: Error>(text: &str) -> Result<f64, E> {
    text.parse().map_err(E::custom)
}

/// One number.
pub(crate) mod number {
    use super::{Deserialize, Deserializer, Serializer, parse};

    pub(crate) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        parse(&String::deserialize(deserializer)?)
    }
}

/// A number that may be missing.
pub(crate) mod option {
    use super::{Deserialize, Deserializer, Serialize, Serializer, parse};

    pub(crate) fn serialize<S: Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
        value.map(|value| value.to_string()).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
        Option::<String>::deserialize(deserializer)?.map(|text| parse(&text)).transpose()
    }
}

/// Named numbers, in whatever holds them.
pub(crate) mod named {
    use super::{Deserialize, Deserializer, Serializer, parse};

    pub(crate) fn serialize<'a, S, T>(values: &'a T, serializer: S) -> Result<S::Ok, S::Error>
    where
        S: Serializer,
        &'a T: IntoIterator,
        <&'a T as IntoIterator>::Item: Named,
    {
        serializer.collect_seq(values.into_iter().map(Named::text))
    }

    pub(crate) fn deserialize<'de, D, T>(deserializer: D) -> Result<T, D::Error>
    where
        D: Deserializer<'de>,
        T: FromIterator<(String, f64)>,
    {
        let texts = Vec::<(String, String)>::deserialize(deserializer)?;
        texts.into_iter().map(|(name, text)| Ok((name, parse(&text)?))).collect()
    }

    /// An item of a map or of a list of pairs.
    pub(crate) trait Named {
        /// Name and number as text.
        fn text(self) -> (String, String);
    }

    impl Named for (&String, &f64) {
        fn text(self) -> (String, String) {
            (self.0.clone(), self.1.to_string())
        }
    }

    impl Named for &(String, f64) {
        fn text(self) -> (String, String) {
            (self.0.clone(), self.1.to_string())
        }
    }
}
