use std::collections::{BTreeMap, BTreeSet};

use safetensors::Dtype;

use super::{
    Archive, LoadReport, TensorProblem,
    table::{Demand, Sources, TensorTable},
};
use crate::ModelError;

/// One pass over an archive: what was found, what is left, what does not fit.
pub(super) struct Check<'a> {
    table: &'a TensorTable,
    archive: &'a Archive,
    /// Stored names by what they are without prefix and with today's ends; mostly one each.
    stored: BTreeMap<String, Vec<&'a str>>,
    seen: BTreeSet<String>,
    report: LoadReport,
    problems: Vec<TensorProblem>,
}

impl<'a> Check<'a> {
    /// Maps our paths to stored names, after every tensor was found to fit.
    pub(super) fn run(
        table: &'a TensorTable,
        shapes: &BTreeMap<String, Vec<usize>>,
        archive: &'a Archive,
    ) -> Result<(Sources, LoadReport), ModelError> {
        let mut stored: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for name in archive.names() {
            stored.entry(bare(table, name)).or_default().push(name);
        }
        let (seen, report) = (BTreeSet::new(), LoadReport::default());
        let mut check = Self { table, archive, stored, seen, report, problems: Vec::new() };
        let mut sources = Sources::new();
        for entry in &table.entries {
            let mut wanted = shapes[&entry.path].clone();
            if entry.layout == super::Layout::Transposed {
                wanted.reverse();
            }
            if let Some(stored) = check.find(&entry.name, &wanted, entry.demand) {
                if archive.dtype(&stored) != Some(Dtype::F32) {
                    check.report.widened.push(stored.clone());
                }
                check.report.loaded.push(stored.clone());
                sources.insert(entry.path.clone(), (stored, entry.layout));
            }
        }
        for (name, wanted) in &table.zeros {
            if let Some(stored) = check.find(name, wanted, Demand::Required) {
                if archive.read(&stored).is_some_and(|values| values.iter().any(|x| *x != 0.0)) {
                    check.problems.push(TensorProblem::NotZero { name: stored.clone() });
                }
                check.report.ignored.push(stored);
            }
        }
        check.sort_leftovers();
        match check.problems.is_empty() {
            true => Ok((sources, check.report)),
            false => Err(ModelError::Weights { dir: archive.dir().to_owned(), problems: check.problems }),
        }
    }

    /// The stored name of `name`: the same, or one that differs in prefix or end, or that of a tied copy.
    fn stored(&self, name: &str) -> Option<&'a str> {
        let own = bare(self.table, name);
        let copies = self.table.tied.iter().filter(|(_, original)| *original == own).map(|(copy, _)| *copy);
        let found = std::iter::once(own.as_str()).chain(copies).find_map(|name| self.stored.get(name))?;
        found.iter().find(|stored| **stored == name).or_else(|| found.first()).copied()
    }

    /// The stored name of a tensor of the wanted shape.
    fn find(&mut self, name: &str, wanted: &[usize], demand: Demand) -> Option<String> {
        let Some(stored) = self.stored(name).map(str::to_owned) else {
            match demand {
                Demand::Required => {
                    self.problems.push(TensorProblem::Missing { name: name.to_owned(), wanted: wanted.to_vec() });
                }
                Demand::Optional | Demand::Replaceable => self.report.initialised.push(name.to_owned()),
            }
            return None;
        };
        self.seen.insert(stored.clone());
        let found = self.archive.shape(&stored)?.to_vec();
        let dtype = self.archive.dtype(&stored)?;
        if found != wanted && demand == Demand::Replaceable {
            self.report.initialised.push(name.to_owned());
            self.report.unused.push(stored);
            None
        } else if found != wanted {
            self.problems.push(TensorProblem::Shape { name: stored, found, wanted: wanted.to_vec() });
            None
        } else if !matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            self.problems.push(TensorProblem::ElementType { name: stored, found: format!("{dtype:?}") });
            None
        } else {
            Some(stored)
        }
    }

    /// Sorts the tensors that nothing asked for into those without information, those of other heads, and problems.
    fn sort_leftovers(&mut self) {
        for name in self.archive.names().filter(|name| !self.seen.contains(*name)) {
            let bare = bare(self.table, name);
            if (self.table.is_buffer)(&bare) {
                self.report.ignored.push(name.to_owned());
            } else if let Some((_, original)) = self.table.tied.iter().find(|(copy, _)| *copy == bare) {
                let original = self.stored(original).unwrap_or(original);
                if self.archive.shape(name) == self.archive.shape(original)
                    && self.archive.read(name) == self.archive.read(original)
                {
                    self.report.ignored.push(name.to_owned());
                } else {
                    let (name, original) = (name.to_owned(), original.to_owned());
                    self.problems.push(TensorProblem::NotTied { name, original });
                }
            } else if (self.table.is_foreign)(name) {
                self.report.unused.push(name.to_owned());
            } else {
                let found = self.archive.shape(name).unwrap_or_default().to_vec();
                self.problems.push(TensorProblem::Unexpected { name: name.to_owned(), found });
            }
        }
    }
}

/// `name` without the prefix, ending as it does today.
fn bare(table: &TensorTable, name: &str) -> String {
    let name = name.strip_prefix(table.prefix).unwrap_or(name);
    let renamed = |(old, new): &(&str, &str)| Some(format!("{}{new}", name.strip_suffix(old)?));
    table.renamed.iter().find_map(renamed).unwrap_or_else(|| name.to_owned())
}
