//! Generation with an encoder and a decoder.

mod beams;
mod constraints;
mod draws;
mod hypothesis;
mod options;
mod step;
#[cfg(test)]
mod tests;

use burn::tensor::{Device, Int, Tensor, TensorData};
use fornax_ops::Context;

use super::Seq2SeqLm;
use crate::ModelError;

use beams::Beams;
use draws::Draws;
pub use hypothesis::Hypothesis;
pub use options::{EarlyStopping, Seq2SeqOptions};
use step::{NextLogits, Step};

/// Writes a target to every source, `num_return` of them by [`Seq2SeqOptions`], in the order of `sources`.
///
/// The hypotheses of beam search come best first and differ from each other; there are fewer than `num_return` where options or
/// a small vocabulary leave fewer. Draws come in the order in which they were drawn.
///
/// All sources run as one batch, each padded on the right, through the encoder once; the caller limits how many there are. A row
/// is written as if it were alone (up to the rounding of differently shaped matrix products), and leaves the batch when it is
/// done. Logits are read once a step: `rows · beams · vocab_size` numbers.
///
/// # Errors
///
/// For an option without a meaning, a source that is empty or too long for the model, a token outside the source's vocabulary,
/// and logits that are not finite.
pub fn generate_seq2seq<M: Seq2SeqLm>(
    model: &M,
    sources: &[Vec<u32>],
    options: &Seq2SeqOptions,
) -> Result<Vec<Vec<Hypothesis>>, ModelError> {
    let numbers: Vec<usize> = (0..sources.len()).collect();
    generate_seq2seq_numbered(model, sources, &numbers, options)
}

/// As [`generate_seq2seq`], for some of many sources: `numbers` has the place of each among all. Draws follow from it, and so
/// do not depend on how sources are put into batches.
///
/// # Errors
///
/// As [`generate_seq2seq`]; sources are counted within this batch.
///
/// # Panics
///
/// When there are not as many numbers as sources.
pub fn generate_seq2seq_numbered<M: Seq2SeqLm>(
    model: &M,
    sources: &[Vec<u32>],
    numbers: &[usize],
    options: &Seq2SeqOptions,
) -> Result<Vec<Vec<Hypothesis>>, ModelError> {
    assert_eq!(sources.len(), numbers.len(), "a number for each source");
    options.validate(model.vocab_size())?;
    check_sources(model, sources)?;
    if sources.is_empty() {
        return Ok(Vec::new());
    }
    let positions = model.max_target_positions();
    let limits: Vec<usize> = sources.iter().map(|source| options.limit(source.len(), positions)).collect();
    let mut searches: Vec<Search> =
        limits.iter().zip(numbers).map(|(limit, number)| Search::new(*number, *limit, options)).collect();

    let context = Context::evaluation(options.precision);
    let device = model.device();
    let (input_ids, lengths) = padded(sources, &device);
    // The last token of a target is never read, the start token is: both count once.
    let capacity = limits.into_iter().max().unwrap_or(1);
    let mut state = model.encode(input_ids, lengths, capacity, &context);
    // The source of each row of the state; at first they are one to one.
    let mut rows: Vec<usize> = (0..sources.len()).collect();
    let mut inputs = vec![options.start_token; rows.len()];
    for position in 0.. {
        let logits = model.next_logits(column(&inputs, &device), &mut state, &context);
        let parents = advance(&mut searches, &rows, Step::read(logits), options, position)?;
        if parents.is_empty() {
            break;
        }
        follow(model, &mut state, &parents, &rows, &device);
        rows = parents.iter().map(|parent| parent.source).collect();
        inputs = searches.iter().flat_map(Search::last_tokens).collect();
    }
    Ok(searches.into_iter().map(|search| search.finish(options.num_return)).collect())
}

/// One source's targets on their way.
enum Search {
    Draws(Draws),
    Beams(Beams),
}

impl Search {
    fn new(number: usize, limit: usize, options: &Seq2SeqOptions) -> Self {
        match options.num_beams {
            1 => Self::Draws(Draws::new(number, limit, options)),
            _ => Self::Beams(Beams::new(limit, options)),
        }
    }

    /// Of each target that goes on.
    fn last_tokens(&self) -> Vec<u32> {
        match self {
            Self::Draws(draws) => draws.last_tokens(),
            Self::Beams(beams) => beams.last_tokens(),
        }
    }

    /// Adds a token to each target and says which of `rows` each of those that go on comes from; none when all are done.
    fn advance(&mut self, rows: &mut [NextLogits<'_>], options: &Seq2SeqOptions) -> Vec<usize> {
        match self {
            Self::Draws(draws) => draws.advance(rows, options),
            Self::Beams(beams) => beams.advance(rows, options),
        }
    }

    fn finish(self, num_return: usize) -> Vec<Hypothesis> {
        match self {
            Self::Draws(draws) => draws.finish(),
            Self::Beams(beams) => beams.finish(num_return),
        }
    }
}

/// Where a row of the next step comes from.
struct Parent {
    row: usize,
    source: usize,
}

/// Advances every search by its rows, which stand together; `rows` has the source of each.
fn advance(
    searches: &mut [Search],
    rows: &[usize],
    mut step: Step,
    options: &Seq2SeqOptions,
    position: usize,
) -> Result<Vec<Parent>, ModelError> {
    if let Some(row) = step.first_not_finite() {
        return Err(ModelError::NonFiniteLogits { row: rows[row], position });
    }
    let mut logits = step.rows();
    let (mut parents, mut start) = (Vec::new(), 0);
    for own in rows.chunk_by(|a, b| a == b) {
        let (source, end) = (own[0], start + own.len());
        let found = searches[source].advance(&mut logits[start..end], options);
        parents.extend(found.into_iter().map(|row| Parent { row: start + row, source }));
        start = end;
    }
    Ok(parents)
}

/// Makes the rows of `state` those of the next step; `rows` has the source of each as it is.
fn follow<M: Seq2SeqLm>(model: &M, state: &mut M::State, parents: &[Parent], rows: &[usize], device: &Device) {
    let same_sources = parents.iter().map(|parent| parent.source).eq(rows.iter().copied());
    if same_sources && parents.iter().enumerate().all(|(row, parent)| row == parent.row) {
        return;
    }
    let ids: Vec<i32> = parents.iter().map(|parent| parent.row as i32).collect();
    let ids = Tensor::from_data(TensorData::new(ids, [parents.len()]), device);
    match same_sources {
        true => model.reorder(state, &ids),
        false => model.select(state, &ids),
    }
}

fn padded(sources: &[Vec<u32>], device: &Device) -> (Tensor<2, Int>, Tensor<1, Int>) {
    let width = sources.iter().map(Vec::len).max().unwrap_or(0);
    let ids = sources.iter().flat_map(|source| {
        // Nothing attends to padding, so any token will do.
        source.iter().map(|token| *token as i32).chain(std::iter::repeat_n(0, width - source.len()))
    });
    let ids = TensorData::new(ids.collect::<Vec<i32>>(), [sources.len(), width]);
    let lengths: Vec<i32> = sources.iter().map(|source| source.len() as i32).collect();
    let lengths = TensorData::new(lengths, [sources.len()]);
    (Tensor::from_data(ids, device), Tensor::from_data(lengths, device))
}

fn column(tokens: &[u32], device: &Device) -> Tensor<2, Int> {
    let tokens: Vec<i32> = tokens.iter().map(|token| *token as i32).collect();
    let rows = tokens.len();
    Tensor::from_data(TensorData::new(tokens, [rows, 1]), device)
}

fn check_sources<M: Seq2SeqLm>(model: &M, sources: &[Vec<u32>]) -> Result<(), ModelError> {
    let vocab_size = model.source_vocab_size();
    for (row, source) in sources.iter().enumerate() {
        if source.is_empty() {
            return Err(ModelError::EmptySource { row });
        }
        if let Some(max) = model.max_source_positions().filter(|max| source.len() > *max) {
            return Err(ModelError::SourceTooLong { row, len: source.len(), max });
        }
        if let Some(token) = source.iter().copied().find(|token| *token as usize >= vocab_size) {
            return Err(ModelError::SourceTokenOutsideVocabulary { row, token, vocab_size });
        }
    }
    Ok(())
}
