use serde::{Deserialize, Serialize};

use crate::DataError;
use crate::span_corruption::{MEAN_SPAN_LENGTH, NOISE_DENSITY, NoiseSpans};

const DENOISERS: &str = "objective.denoisers";

/// What an encoder-decoder is pretrained with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DenoisingKind {
    /// Hidden spans are to be written, each behind its sentinel (T5).
    SpanCorruption,
    /// The rest of a block is to be written.
    PrefixLm,
    /// A mixture of both, each with its mode token (UL2).
    Ul2,
}

/// The table `[objective]` of pretraining with denoising.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DenoisingConfig {
    /// What is hidden.
    pub kind: DenoisingKind,
    /// Tokens of the longest source, mode, sentinels and end included.
    pub seq_len: usize,
    /// The mean share of tokens that are hidden: 0.15 by default, 0.5 for `prefix_lm`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noise_density: Option<f64>,
    /// The mean length of a hidden span in tokens: 3 by default. For `span_corruption` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_span_length: Option<f64>,
    /// What is mixed for `ul2`: by default the seven denoisers of the paper, equally often.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub denoisers: Vec<DenoiserConfig>,
}

impl Default for DenoisingConfig {
    fn default() -> Self {
        // T5's.
        let kind = DenoisingKind::SpanCorruption;
        Self { kind, seq_len: 512, noise_density: None, mean_span_length: None, denoisers: Vec::new() }
    }
}

/// One denoiser of a mixture: an entry of `[[objective.denoisers]]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DenoiserConfig {
    /// `span_corruption` or `prefix_lm`.
    pub kind: DenoisingKind,
    /// As in [`DenoisingConfig`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noise_density: Option<f64>,
    /// As in [`DenoisingConfig`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_span_length: Option<f64>,
    /// What stands before the source: the name of a token, or else a text that is put in tokens. Several denoisers may share one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// How often it is taken, relative to the others.
    #[serde(default = "one")]
    pub weight: f64,
}

fn one() -> f64 {
    1.0
}

/// How a block is hidden.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Denoiser {
    /// Spans all over the block.
    Spans(NoiseSpans),
    /// Its end.
    Prefix {
        /// The mean share of the end.
        noise_density: f64,
    },
}

/// The denoisers of UL2 (Tay et al., 2022, table 1): regular, sequential and extreme.
fn ul2() -> Vec<DenoiserConfig> {
    let spans = |mode: &str, noise_density, mean_span_length| DenoiserConfig {
        kind: DenoisingKind::SpanCorruption,
        noise_density: Some(noise_density),
        mean_span_length: Some(mean_span_length),
        mode: Some(mode.into()),
        weight: 1.0,
    };
    let sequential = DenoiserConfig {
        kind: DenoisingKind::PrefixLm,
        noise_density: Some(0.25),
        mean_span_length: None,
        mode: Some("[S]".into()),
        weight: 1.0,
    };
    vec![
        spans("[R]", 0.15, 3.0),
        spans("[R]", 0.15, 8.0),
        sequential,
        spans("[X]", 0.5, 3.0),
        spans("[X]", 0.5, 8.0),
        spans("[X]", 0.15, 64.0),
        spans("[X]", 0.5, 64.0),
    ]
}

impl DenoisingConfig {
    /// Checks all values but `seq_len`, whose least one depends on the tokenizer.
    ///
    /// # Errors
    ///
    /// [`DataError::ConfigValue`] with the key under `objective`.
    pub fn validate(&self) -> Result<(), DataError> {
        self.mixture().map(|_| ())
    }

    /// The names of all modes, each once: tokens that a tokenizer trained for this should have.
    ///
    /// # Errors
    ///
    /// As [`validate`](Self::validate).
    pub fn modes(&self) -> Result<Vec<String>, DataError> {
        let mut modes: Vec<String> = Vec::new();
        for mode in self.mixture()?.into_iter().filter_map(|(config, _)| config.mode) {
            if !modes.contains(&mode) {
                modes.push(mode);
            }
        }
        Ok(modes)
    }

    /// What is mixed; a mixture of one where the kind is none.
    pub(crate) fn mixture(&self) -> Result<Vec<(DenoiserConfig, Denoiser)>, DataError> {
        if self.kind == DenoisingKind::Ul2 {
            let given = [(NOISE_DENSITY, self.noise_density), (MEAN_SPAN_LENGTH, self.mean_span_length)];
            if let Some((key, value)) = given.into_iter().find_map(|(key, value)| Some((key, value?))) {
                let expected = "no value: each of objective.denoisers has its own for kind = \"ul2\"".into();
                return Err(DataError::ConfigValue { key, value: value.to_string(), expected });
            }
            let denoisers = if self.denoisers.is_empty() { ul2() } else { self.denoisers.clone() };
            return denoisers.into_iter().enumerate().map(|(number, config)| config.in_mixture(number)).collect();
        }
        if !self.denoisers.is_empty() {
            let value = format!("a list of {}", self.denoisers.len());
            let expected = "no value unless objective.kind is \"ul2\"".into();
            return Err(DataError::ConfigValue { key: DENOISERS, value, expected });
        }
        let (noise_density, mean_span_length) = (self.noise_density, self.mean_span_length);
        let alone = DenoiserConfig { kind: self.kind, noise_density, mean_span_length, mode: None, weight: 1.0 };
        let denoiser = alone.denoiser()?;
        Ok(vec![(alone, denoiser)])
    }
}

impl DenoiserConfig {
    /// Checks the entry `number`, counted from 0.
    fn in_mixture(self, number: usize) -> Result<(Self, Denoiser), DataError> {
        let refuse = |key: &str, value: String, expected: String| DataError::ConfigValue {
            key: DENOISERS,
            value: format!("given {key} = {value} in its entry {}", number + 1),
            expected,
        };
        if self.kind == DenoisingKind::Ul2 {
            return Err(refuse("kind", "\"ul2\"".into(), "\"span_corruption\" or \"prefix_lm\"".into()));
        }
        if !(self.weight > 0.0 && self.weight.is_finite()) {
            return Err(refuse("weight", self.weight.to_string(), "a number above 0".into()));
        }
        let denoiser = self.denoiser().map_err(|error| match error {
            DataError::ConfigValue { key, value, expected } => {
                refuse(key.trim_start_matches("objective."), value, expected)
            }
            other => other,
        })?;
        Ok((self, denoiser))
    }

    fn denoiser(&self) -> Result<Denoiser, DataError> {
        if self.kind != DenoisingKind::PrefixLm {
            let (noise_density, mean_span_length) = (self.noise_density, self.mean_span_length);
            let spans = NoiseSpans::new(noise_density.unwrap_or(0.15), mean_span_length.unwrap_or(3.0));
            return spans.map(Denoiser::Spans);
        }
        let refuse = |key, value: f64, expected: &str| {
            Err(DataError::ConfigValue { key, value: value.to_string(), expected: expected.into() })
        };
        if let Some(value) = self.mean_span_length {
            return refuse(MEAN_SPAN_LENGTH, value, "no value: kind = \"prefix_lm\" hides one span, the end");
        }
        let noise_density = self.noise_density.unwrap_or(0.5);
        // Not the other way round: NaN is in no range.
        if !(noise_density > 0.0 && noise_density <= 0.5) {
            return refuse(NOISE_DENSITY, noise_density, "a share above 0 and up to 0.5");
        }
        Ok(Denoiser::Prefix { noise_density })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(toml: &str) -> String {
        toml::from_str::<DenoisingConfig>(toml).unwrap().validate().unwrap_err().to_string()
    }

    fn denoisers(toml: &str) -> Vec<Denoiser> {
        let mixture = toml::from_str::<DenoisingConfig>(toml).unwrap().mixture().unwrap();
        mixture.into_iter().map(|(_, denoiser)| denoiser).collect()
    }

    fn spans(noise_density: f64, mean_span_length: f64) -> Denoiser {
        Denoiser::Spans(NoiseSpans::new(noise_density, mean_span_length).unwrap())
    }

    #[test]
    fn what_is_left_out_is_as_published() {
        assert_eq!(denoisers(""), [spans(0.15, 3.0)]);
        assert_eq!(denoisers("mean_span_length = 5"), [spans(0.15, 5.0)]);
        assert_eq!(denoisers("kind = \"prefix_lm\""), [Denoiser::Prefix { noise_density: 0.5 }]);
        let sequential = Denoiser::Prefix { noise_density: 0.25 };
        let (regular, extreme) =
            ([spans(0.15, 3.0), spans(0.15, 8.0)], [(0.5, 3.0), (0.5, 8.0), (0.15, 64.0), (0.5, 64.0)]);
        let published = [&regular[..], &[sequential], &extreme.map(|(density, mean)| spans(density, mean))].concat();
        assert_eq!(denoisers("kind = \"ul2\""), published);
        let own = "kind = \"ul2\"\n[[denoisers]]\nkind = \"prefix_lm\"\nmode = \"[NLG]\"\nweight = 2";
        assert_eq!(denoisers(own), [Denoiser::Prefix { noise_density: 0.5 }]);
    }

    #[test]
    fn the_table_reads_as_written() {
        let config = DenoisingConfig { kind: DenoisingKind::Ul2, denoisers: ul2(), ..DenoisingConfig::default() };
        assert_eq!(toml::from_str::<DenoisingConfig>(&toml::to_string(&config).unwrap()).unwrap(), config);
        let config = DenoisingConfig::default();
        assert_eq!(toml::to_string(&config).unwrap(), "kind = \"span_corruption\"\nseq_len = 512\n");
        assert!(toml::from_str::<DenoisingConfig>("density = 0.1").is_err());
        assert!(toml::from_str::<DenoisingConfig>("[[denoisers]]\nkind = \"prefix_lm\"\nname = \"S\"").is_err());
    }

    #[test]
    fn values_that_can_not_be_are_refused_by_key() {
        insta::assert_snapshot!(error("noise_density = 0.95"), @"`objective.noise_density` is 0.95; expected a share above 0 and up to 0.9");
        insta::assert_snapshot!(error("mean_span_length = 0.5"), @"`objective.mean_span_length` is 0.5; expected at least 1 at a noise density of 0.15");
        insta::assert_snapshot!(error("mean_span_length = 1\nnoise_density = 0.6"), @"`objective.mean_span_length` is 1; expected at least 1.5 at a noise density of 0.6");
        insta::assert_snapshot!(error("kind = \"prefix_lm\"\nnoise_density = 0.6"), @"`objective.noise_density` is 0.6; expected a share above 0 and up to 0.5");
        insta::assert_snapshot!(error("kind = \"prefix_lm\"\nmean_span_length = 3"), @r#"`objective.mean_span_length` is 3; expected no value: kind = "prefix_lm" hides one span, the end"#);
        insta::assert_snapshot!(error("kind = \"ul2\"\nnoise_density = 0.3"), @r#"`objective.noise_density` is 0.3; expected no value: each of objective.denoisers has its own for kind = "ul2""#);
        insta::assert_snapshot!(error("[[denoisers]]\nkind = \"prefix_lm\""), @r#"`objective.denoisers` is a list of 1; expected no value unless objective.kind is "ul2""#);
        let entry = |lines: &str| {
            error(&format!("kind = \"ul2\"\n[[denoisers]]\nkind = \"prefix_lm\"\n[[denoisers]]\n{lines}"))
        };
        insta::assert_snapshot!(entry("kind = \"span_corruption\"\nnoise_density = 2"), @"`objective.denoisers` is given noise_density = 2 in its entry 2; expected a share above 0 and up to 0.9");
        insta::assert_snapshot!(entry("kind = \"prefix_lm\"\nweight = 0"), @"`objective.denoisers` is given weight = 0 in its entry 2; expected a number above 0");
        insta::assert_snapshot!(entry("kind = \"ul2\""), @r#"`objective.denoisers` is given kind = "ul2" in its entry 2; expected "span_corruption" or "prefix_lm""#);
        for value in ["0", "-0.1", "nan"] {
            assert!(error(&format!("noise_density = {value}")).contains("`objective.noise_density`"));
            assert!(
                error(&format!("kind = \"prefix_lm\"\nnoise_density = {value}")).contains("`objective.noise_density`")
            );
            assert!(entry(&format!("kind = \"prefix_lm\"\nweight = {value}")).contains("weight"));
        }
        for value in ["inf", "nan"] {
            assert!(error(&format!("mean_span_length = {value}")).contains("`objective.mean_span_length`"));
        }
    }
}
