use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The word for "at the end of each epoch".
const EPOCH: &str = "epoch";

/// How often something is done. In a config a number of steps, or `"epoch"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cadence {
    /// Every so many steps; 0 is never.
    Steps(u64),
    /// At the end of each epoch.
    Epoch,
}

impl Cadence {
    /// Whether it is done after `step` steps, of which an epoch has `steps_per_epoch`.
    pub(crate) fn is_due(self, step: u64, steps_per_epoch: Option<u64>) -> bool {
        let every = match self {
            Self::Steps(steps) => steps,
            Self::Epoch => steps_per_epoch.unwrap_or(0),
        };
        every > 0 && step.is_multiple_of(every)
    }
}

impl Serialize for Cadence {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Steps(steps) => serializer.serialize_u64(*steps),
            Self::Epoch => serializer.serialize_str(EPOCH),
        }
    }
}

impl<'de> Deserialize<'de> for Cadence {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Visitor)
    }
}

struct Visitor;

impl de::Visitor<'_> for Visitor {
    type Value = Cadence;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a number of steps or \"{EPOCH}\"")
    }

    fn visit_u64<E: de::Error>(self, steps: u64) -> Result<Cadence, E> {
        Ok(Cadence::Steps(steps))
    }

    fn visit_i64<E: de::Error>(self, steps: i64) -> Result<Cadence, E> {
        let steps = u64::try_from(steps).map_err(|_| E::invalid_value(de::Unexpected::Signed(steps), &self))?;
        Ok(Cadence::Steps(steps))
    }

    fn visit_str<E: de::Error>(self, word: &str) -> Result<Cadence, E> {
        if word == EPOCH { Ok(Cadence::Epoch) } else { Err(E::invalid_value(de::Unexpected::Str(word), &self)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Table {
        every: Cadence,
    }

    #[test]
    fn it_reads_as_it_is_written() {
        for (every, text) in [(Cadence::Steps(20), "every = 20\n"), (Cadence::Epoch, "every = \"epoch\"\n")] {
            assert_eq!(toml::to_string(&Table { every }).unwrap(), text);
            assert_eq!(toml::from_str::<Table>(text).unwrap(), Table { every });
        }
        for wrong in ["every = \"step\"", "every = -1"] {
            let error = toml::from_str::<Table>(wrong).unwrap_err().to_string();
            assert!(error.contains("expected a number of steps or \"epoch\""), "{error}");
        }
    }

    #[test]
    fn it_is_due_at_each_multiple() {
        let due =
            |cadence: Cadence, per_epoch| (1..=9).filter(|&step| cadence.is_due(step, per_epoch)).collect::<Vec<_>>();
        assert_eq!(due(Cadence::Steps(4), Some(3)), [4, 8]);
        assert_eq!(due(Cadence::Epoch, Some(3)), [3, 6, 9]);
        assert!(due(Cadence::Steps(0), Some(3)).is_empty() && due(Cadence::Epoch, None).is_empty());
    }
}
