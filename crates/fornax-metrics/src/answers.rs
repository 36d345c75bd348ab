//! Short answers: exact match and F1 over words, as in SQuAD 2.0's evaluation script (Rajpurkar et al., 2018).

use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

use crate::error::{MetricError, check_texts, count_text};
use crate::rouge::Score;
use crate::{ngrams, text};

/// What two answers may differ in and still be the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Normalization {
    /// Nothing.
    None,
    /// Case, ASCII punctuation, the articles `a`, `an` and `the`, and white space.
    #[default]
    Squad,
}

/// The share of answers that equal one of their references.
#[derive(Clone, Debug, Default)]
pub struct ExactMatch {
    normalization: Normalization,
    texts: u64,
    matches: u64,
}

impl ExactMatch {
    /// Nothing scored yet.
    pub fn new(normalization: Normalization) -> Self {
        Self { normalization, ..Self::default() }
    }

    /// Counts an answer in, and says whether it equals a reference.
    ///
    /// # Errors
    ///
    /// If there are no references.
    pub fn add(&mut self, hypothesis: &str, references: &[impl AsRef<str>]) -> Result<bool, MetricError> {
        count_text("exact match", &mut self.texts, references)?;
        let matches = match self.normalization {
            Normalization::None => references.iter().any(|reference| reference.as_ref() == hypothesis),
            Normalization::Squad => {
                let hypothesis = words(hypothesis);
                references.iter().any(|reference| words(reference.as_ref()) == hypothesis)
            }
        };
        self.matches += u64::from(matches);
        Ok(matches)
    }

    /// The share of all answers, from 0 to 1.
    ///
    /// # Errors
    ///
    /// If there was none.
    pub fn finish(self) -> Result<f64, MetricError> {
        check_texts("exact match", self.texts)?;
        Ok(self.matches as f64 / self.texts as f64)
    }
}

/// The mean F1 of the words of answers and references after [SQuAD's normalisation](Normalization::Squad).
#[derive(Clone, Debug, Default)]
pub struct TokenF1 {
    texts: u64,
    sum: f64,
}

impl TokenF1 {
    /// Nothing scored yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Scores an answer from 0 to 1 and counts it in; of several references the best one counts. Without words on one side, the
    /// score is 1 if the other has none either, else 0.
    ///
    /// # Errors
    ///
    /// If there are no references.
    pub fn add(&mut self, hypothesis: &str, references: &[impl AsRef<str>]) -> Result<f64, MetricError> {
        count_text("token F1", &mut self.texts, references)?;
        let hypothesis = words(hypothesis);
        let best = references.iter().map(|reference| f1(&hypothesis, &words(reference.as_ref()))).fold(0.0, f64::max);
        self.sum += best;
        Ok(best)
    }

    /// The mean over all answers, from 0 to 1.
    ///
    /// # Errors
    ///
    /// If there was none.
    pub fn finish(self) -> Result<f64, MetricError> {
        check_texts("token F1", self.texts)?;
        Ok(self.sum / self.texts as f64)
    }
}

fn f1(hypothesis: &[String], reference: &[String]) -> f64 {
    if hypothesis.is_empty() || reference.is_empty() {
        return f64::from(u8::from(hypothesis == reference));
    }
    let common = ngrams::common(&ngrams::counts(hypothesis, 1), &ngrams::counts(reference, 1));
    Score::of(common, hypothesis.len() as u64, reference.len() as u64).f
}

/// The words of an answer without what SQuAD's normalisation takes away.
fn words(answer: &str) -> Vec<String> {
    let lower = answer.to_lowercase().replace(text::is_punctuation, "");
    // An article between other signs than letters and numbers goes too, and leaves a space.
    let mut without_articles = String::with_capacity(lower.len());
    let mut rest = lower.as_str();
    while let Some(first) = rest.chars().next() {
        let end = if is_word(first) { rest.find(|c| !is_word(c)).unwrap_or(rest.len()) } else { first.len_utf8() };
        let (run, after) = rest.split_at(end);
        without_articles.push_str(if matches!(run, "a" | "an" | "the") { " " } else { run });
        rest = after;
    }
    text::words(&without_articles).map(str::to_owned).collect()
}

/// What Python's `\w` takes for a part of a word; the underscore is punctuation, and gone before.
fn is_word(character: char) -> bool {
    matches!(character.general_category_group(), GeneralCategoryGroup::Letter | GeneralCategoryGroup::Number)
}
