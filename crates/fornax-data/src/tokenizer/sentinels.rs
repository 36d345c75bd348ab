//! T5's sentinels: special tokens that stand for what span corruption takes out of a text.

use super::Tokenizer;

/// The names of `count` sentinels in the order of their ids: T5 numbers them from the end of the vocabulary, so that `<extra_id_0>`
/// has the highest id.
pub(super) fn names(count: usize) -> impl Iterator<Item = String> {
    (0..count).rev().map(name)
}

fn name(number: usize) -> String {
    format!("<extra_id_{number}>")
}

/// The ids of the sentinels 0, 1, ... of a vocabulary, up to the first that it lacks. In mT5 they are pieces that begin with a space.
pub(super) fn find(id_of: impl Fn(&str) -> Option<u32>) -> Vec<u32> {
    (0..).map_while(|number| id_of(&name(number)).or_else(|| id_of(&format!("▁{}", name(number))))).collect()
}

impl Tokenizer {
    /// The id of T5's sentinel number `number`, `<extra_id_0>` being the first one of a text; nothing if there are not as many.
    pub fn sentinel(&self, number: usize) -> Option<u32> {
        self.sentinels.get(number).copied()
    }

    /// How many sentinels there are: 100 in T5's tokenizer, none in most others.
    pub fn sentinel_count(&self) -> usize {
        self.sentinels.len()
    }
}
