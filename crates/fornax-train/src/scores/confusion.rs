/// How often each class was predicted for each label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confusion {
    classes: usize,
    /// Row by row: `[label, predicted]`.
    counts: Vec<u64>,
}

impl Confusion {
    /// Nothing yet of `classes` classes.
    pub fn new(classes: usize) -> Self {
        Self { classes, counts: vec![0; classes * classes] }
    }

    /// Adds an example.
    ///
    /// # Panics
    ///
    /// If a class is not below the number of classes.
    pub fn add(&mut self, predicted: usize, label: usize) {
        assert!(predicted < self.classes && label < self.classes, "classes {predicted}, {label} of {}", self.classes);
        self.counts[label * self.classes + predicted] += 1;
    }

    /// The number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// How many examples have this label and this prediction.
    pub fn get(&self, label: usize, predicted: usize) -> u64 {
        self.counts[label * self.classes + predicted]
    }

    /// The number of examples.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// A table for people: a row for each label, a column for each prediction.
    ///
    /// # Panics
    ///
    /// If there is not one name for each class.
    pub fn table(&self, names: &[impl AsRef<str>]) -> String {
        assert_eq!(names.len(), self.classes, "names of classes");
        let cell = |label: usize, at: usize| self.get(label, at).to_string();
        let head = std::iter::once("label \\ predicted").chain(names.iter().map(AsRef::as_ref)).map(str::to_owned);
        let row = |(label, name): (usize, &_)| {
            let name: &str = AsRef::as_ref(name);
            std::iter::once(name.to_owned()).chain((0..self.classes).map(|at| cell(label, at))).collect()
        };
        let rows: Vec<Vec<String>> = std::iter::once(head.collect()).chain(names.iter().enumerate().map(row)).collect();
        let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..=self.classes).map(width).collect();
        let line = |row: &Vec<String>| {
            let first = format!("{:<width$}", row[0], width = widths[0]);
            let cells = row.iter().zip(&widths).skip(1).map(|(cell, width)| format!("  {cell:>width$}"));
            first + &cells.collect::<String>() + "\n"
        };
        rows.iter().map(line).collect()
    }

    pub(super) fn accuracy(&self) -> f64 {
        self.right() as f64 / self.count() as f64
    }

    pub(super) fn f1(&self, positive: usize) -> f64 {
        let both = self.labelled(positive) + self.predicted(positive);
        if both == 0 { 0.0 } else { 2.0 * self.get(positive, positive) as f64 / both as f64 }
    }

    pub(super) fn matthews(&self) -> f64 {
        let all = self.count() as f64;
        let product = |a: &dyn Fn(usize) -> u64, b: &dyn Fn(usize) -> u64| -> f64 {
            (0..self.classes).map(|class| a(class) as f64 * b(class) as f64).sum()
        };
        let (labels, predictions) = (|class| self.labelled(class), |class| self.predicted(class));
        let spread = (all * all - product(&labels, &labels)) * (all * all - product(&predictions, &predictions));
        if spread == 0.0 {
            return 0.0;
        }
        (self.right() as f64 * all - product(&labels, &predictions)) / spread.sqrt()
    }

    fn right(&self) -> u64 {
        (0..self.classes).map(|class| self.get(class, class)).sum()
    }

    fn labelled(&self, class: usize) -> u64 {
        (0..self.classes).map(|predicted| self.get(class, predicted)).sum()
    }

    fn predicted(&self, class: usize) -> u64 {
        (0..self.classes).map(|label| self.get(label, class)).sum()
    }

    /// The class that a number stands for.
    pub(super) fn class(&self, number: f64) -> usize {
        let class = number as usize;
        assert!(class as f64 == number && class < self.classes, "class {number} of {}", self.classes);
        class
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_confusion_prints_as_a_table() {
        let mut confusion = Confusion::new(2);
        for (label, predicted) in [(0, 0), (0, 1), (1, 1), (1, 1), (1, 0)] {
            confusion.add(predicted, label);
        }
        let table = "label \\ predicted  negative  positive\n\
                     negative                  1         1\n\
                     positive                  1         2\n";
        assert_eq!(confusion.table(&["negative", "positive"]), table);
        assert_eq!((confusion.get(1, 0), confusion.get(1, 1)), (1, 2));
    }
}
