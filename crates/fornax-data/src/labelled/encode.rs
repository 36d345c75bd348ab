use rayon::prelude::*;

use super::batch::{LabelledBatch, Labels};
use super::example::{Label, LabelKind, LabelledExample, LabelledSet};
use crate::batch::IGNORE_TARGET;
use crate::tokenizer::EncodedText;
use crate::{DataError, Tokenizer, progress};

/// Examples that one thread takes at a time.
const CHUNK: usize = 512;

/// A labelled set as token ids, in memory: four bytes a token and one for its type.
#[derive(Clone, Debug)]
pub struct EncodedSet {
    ids: Vec<u32>,
    type_ids: Vec<u8>,
    /// Where each example begins among the ids, and where the last one ends.
    offsets: Vec<usize>,
    labels: Labels,
    /// [`LabelledExample::index`] of each.
    indices: Vec<u64>,
    truncated: usize,
    filler: i32,
}

impl EncodedSet {
    /// Tokenises all examples, in parallel, as [`Tokenizer::encode_with_special`] does; says in the log how many were cut.
    ///
    /// # Errors
    ///
    /// If `max_len` leaves no room for text, or an example can't be tokenised.
    pub fn build(set: &LabelledSet, tokenizer: &Tokenizer, max_len: usize) -> Result<Self, DataError> {
        let examples = set.examples();
        let bar = progress::bar(examples.len() as u64, &format!("tokenising {}", set.name()), "examples");
        let encode = |example: &LabelledExample| {
            let name = || format!("{}, row {}", set.name(), example.index);
            tokenizer
                .encode_with_special(&example.text, example.pair.as_deref(), max_len)
                .map_err(|error| error.in_document(&name()))
        };
        let chunks: Vec<Result<Vec<EncodedText>, DataError>> = examples
            .par_chunks(CHUNK)
            .map(|chunk| {
                let encoded = chunk.iter().map(encode).collect();
                bar.inc(chunk.len() as u64);
                encoded
            })
            .collect();
        bar.finish_and_clear();
        let mut built = Self {
            ids: Vec::new(),
            type_ids: Vec::new(),
            offsets: vec![0],
            labels: labels_of(set),
            indices: examples.iter().map(|example| example.index).collect(),
            truncated: 0,
            filler: tokenizer.filler_id() as i32,
        };
        // The error is that of the first example, not of the first thread.
        for chunk in chunks {
            for encoded in chunk? {
                built.ids.extend(&encoded.ids);
                // Token types are 0 and 1 but for XLNet's, which has five.
                built.type_ids.extend(encoded.type_ids.iter().map(|&id| id as u8));
                built.offsets.push(built.ids.len());
                built.truncated += usize::from(encoded.truncated);
            }
        }
        if built.truncated > 0 {
            let (cut, all) = (built.truncated, examples.len());
            tracing::info!("{}: {cut} of {all} examples were cut to data.max_len = {max_len} tokens", set.name());
        }
        Ok(built)
    }

    /// The number of examples.
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// Whether there is no example.
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    /// The tokens of each example, special tokens included.
    pub fn lengths(&self) -> Vec<u32> {
        self.offsets.windows(2).map(|ends| (ends[1] - ends[0]) as u32).collect()
    }

    /// The tokens of all examples.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// How many examples were cut.
    pub fn truncated(&self) -> usize {
        self.truncated
    }

    /// All labels, in the order of the examples.
    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// The number of example `example` in its file: GLUE's `index`.
    ///
    /// # Panics
    ///
    /// If there is no such example.
    pub fn index(&self, example: u64) -> u64 {
        self.indices[example as usize]
    }

    /// These examples as one batch, filled up to the longest.
    ///
    /// # Panics
    ///
    /// If there is no such example.
    pub fn batch(&self, examples: &[u64]) -> LabelledBatch {
        let spans: Vec<_> =
            examples.iter().map(|&at| self.offsets[at as usize]..self.offsets[at as usize + 1]).collect();
        let seq_len = spans.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
        let mut input_ids = vec![self.filler; examples.len() * seq_len];
        let mut token_type_ids = vec![0; examples.len() * seq_len];
        for (row, span) in spans.iter().enumerate() {
            let place = row * seq_len..row * seq_len + span.len();
            for (to, &id) in input_ids[place.clone()].iter_mut().zip(&self.ids[span.clone()]) {
                *to = id as i32;
            }
            for (to, &id) in token_type_ids[place].iter_mut().zip(&self.type_ids[span.clone()]) {
                *to = i32::from(id);
            }
        }
        LabelledBatch {
            input_ids,
            token_type_ids,
            lengths: spans.iter().map(|span| span.len() as i32).collect(),
            labels: self.labels.select(examples),
            batch: examples.len(),
            seq_len,
            examples: examples.to_vec(),
        }
    }
}

fn labels_of(set: &LabelledSet) -> Labels {
    let labels = set.examples().iter().map(|example| example.label);
    match set.kind() {
        LabelKind::Classes(_) => Labels::Classes(
            labels
                .map(|label| if let Some(Label::Class(class)) = label { class as i32 } else { IGNORE_TARGET })
                .collect(),
        ),
        LabelKind::Score => Labels::Scores(
            labels.map(|label| if let Some(Label::Score(score)) = label { score } else { f32::NAN }).collect(),
        ),
    }
}
