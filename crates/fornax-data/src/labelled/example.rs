use burn_dataset::Dataset;

use crate::DataError;

/// A text or a pair of texts, with what is to be predicted of it.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelledExample {
    /// The text, without white space around it.
    pub text: String,
    /// The second text of a pair.
    pub pair: Option<String>,
    /// The label; `None` where a test set keeps it secret.
    pub label: Option<Label>,
    /// Its row, counted from 0 without the header, or what the hub's copies of GLUE have under `idx`: GLUE's `index`.
    pub index: u64,
}

/// What is to be predicted of an example.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Label {
    /// The number of a class.
    Class(usize),
    /// A number.
    Score(f32),
}

/// What the labels of a set may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LabelKind {
    /// One of these classes, named in the order of their numbers.
    Classes(Vec<String>),
    /// A number: regression.
    Score,
}

impl LabelKind {
    /// The outputs that a model needs: one for each class, or one.
    pub fn outputs(&self) -> usize {
        match self {
            Self::Classes(names) => names.len(),
            Self::Score => 1,
        }
    }

    /// The label that `text` spells: the name of a class, or its number where no name is a number (`1` or, as tables with gaps have it,
    /// `1.0`); or a finite number. `None`: it spells none.
    pub fn parse(&self, text: &str) -> Option<Label> {
        match self {
            Self::Score => text.parse().ok().filter(|score: &f32| score.is_finite()).map(Label::Score),
            Self::Classes(names) => {
                let whole = text.strip_suffix(".0").unwrap_or(text);
                let number = || whole.parse().ok().filter(|class| *class < names.len() && !self.has_numbers());
                names.iter().position(|name| name == text).or_else(number).map(Label::Class)
            }
        }
    }

    fn has_numbers(&self) -> bool {
        matches!(self, Self::Classes(names) if names.iter().any(|name| name.parse::<f64>().is_ok()))
    }

    /// What [`parse`](Self::parse) takes, for messages.
    pub(super) fn known(&self) -> String {
        match self {
            Self::Score => "a number".to_owned(),
            Self::Classes(names) if self.has_numbers() => names.join(", "),
            Self::Classes(names) => {
                let numbered = names.iter().enumerate().map(|(class, name)| format!("{name} ({class})"));
                numbered.collect::<Vec<_>>().join(", ")
            }
        }
    }
}

/// All examples of one split, in memory.
#[derive(Clone, Debug)]
pub struct LabelledSet {
    name: String,
    kind: LabelKind,
    examples: Vec<LabelledExample>,
    fingerprint: String,
    place: String,
}

impl LabelledSet {
    /// `name` is that of the split; `fingerprint` is a hash of all that the examples depend on; `place` says where they come from.
    pub(super) fn new(
        name: String,
        kind: LabelKind,
        examples: Vec<LabelledExample>,
        fingerprint: String,
        place: String,
    ) -> Self {
        Self { name, kind, examples, fingerprint, place }
    }

    /// `train`, `valid`, `test`; MNLI also has `valid_mismatched` and `test_mismatched`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What its labels may be.
    pub fn kind(&self) -> &LabelKind {
        &self.kind
    }

    /// All examples, in the order of the file.
    pub fn examples(&self) -> &[LabelledExample] {
        &self.examples
    }

    /// Whether every example has a label.
    pub fn is_labelled(&self) -> bool {
        self.examples.iter().all(|example| example.label.is_some())
    }

    /// Whether the indices of the examples are 0, 1, 2 and so on, in any order: what a submission to GLUE's server needs.
    pub fn is_numbered(&self) -> bool {
        let mut indices: Vec<u64> = self.examples.iter().map(|example| example.index).collect();
        indices.sort_unstable();
        indices.into_iter().eq(0..self.examples.len() as u64)
    }

    /// A hash of the files and of how they are read, in hexadecimal; equal fingerprints mean equal examples.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// One line for logs: what, how much, and how often each class comes.
    pub fn describe(&self) -> String {
        let mut text = format!("{} of {}: {} examples", self.name, self.place, self.examples.len());
        if let LabelKind::Classes(names) = &self.kind {
            let count = |class| self.examples.iter().filter(|it| it.label == Some(Label::Class(class))).count();
            let counts: Vec<String> =
                names.iter().enumerate().map(|(i, name)| format!("{name} {}", count(i))).collect();
            if self.examples.iter().any(|example| example.label.is_some()) {
                text += &format!(" ({})", counts.join(", "));
            }
        }
        text
    }
}

impl Dataset<LabelledExample, DataError> for LabelledSet {
    fn get(&self, index: usize) -> Result<LabelledExample, DataError> {
        Ok(self.examples[index].clone())
    }

    fn len(&self) -> usize {
        self.examples.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes(names: &[&str]) -> LabelKind {
        LabelKind::Classes(names.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn labels_are_words_or_digits() {
        let kind = classes(&["negative", "positive"]);
        assert_eq!(kind.parse("positive"), Some(Label::Class(1)));
        assert_eq!(kind.parse("0"), Some(Label::Class(0)));
        assert_eq!(kind.parse("1.0"), Some(Label::Class(1)));
        assert_eq!(["2", "-1", "0.5", "Positive", ""].map(|text| kind.parse(text)), [None; 5]);
        assert_eq!((kind.known(), kind.outputs()), ("negative (0), positive (1)".to_owned(), 2));
        // Digits that are names are never numbers of classes: 1 is the first class here, and there is no 0.
        let stars = classes(&["1", "2", "3"]);
        assert_eq!(["1", "3", "0"].map(|text| stars.parse(text)), [Some(Label::Class(0)), Some(Label::Class(2)), None]);
        assert_eq!(stars.known(), "1, 2, 3");
    }

    #[test]
    fn scores_are_finite_numbers() {
        assert_eq!(LabelKind::Score.parse("3.25"), Some(Label::Score(3.25)));
        assert_eq!(["", "high", "nan", "inf"].map(|text| LabelKind::Score.parse(text)), [None; 4]);
        assert_eq!(LabelKind::Score.outputs(), 1);
    }
}
