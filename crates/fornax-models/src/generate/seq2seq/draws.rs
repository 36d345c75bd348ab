use super::{
    super::sampler::next_token,
    Seq2SeqOptions,
    constraints::{Next, constrain},
    hypothesis::{Hypothesis, Prefix},
    step::NextLogits,
};

/// The targets of one source that are taken token by token: the likeliest one, or independent draws.
pub(super) struct Draws {
    /// The place of the first draw among those of all sources, which its random numbers follow from.
    first: usize,
    limit: usize,
    /// The draws that go on, by number.
    live: Vec<(usize, Prefix)>,
    /// By number.
    done: Vec<Option<Hypothesis>>,
}

impl Draws {
    pub(super) fn new(source_number: usize, limit: usize, options: &Seq2SeqOptions) -> Self {
        let count = options.num_return;
        let live = (0..count).map(|number| (number, Prefix::start(options))).collect();
        Self { first: source_number * count, limit, live, done: vec![None; count] }
    }

    /// Of each draw that goes on.
    pub(super) fn last_tokens(&self) -> Vec<u32> {
        self.live.iter().map(|(_, prefix)| prefix.last_token()).collect()
    }

    /// Adds a token to each draw; `rows` has those of the draws, or a single one for all where they are equal, at the start.
    pub(super) fn advance(&mut self, rows: &mut [NextLogits<'_>], options: &Seq2SeqOptions) -> Vec<usize> {
        let sampling = options.sampling();
        let mut parents = Vec::new();
        for (index, (number, prefix)) in std::mem::take(&mut self.live).into_iter().enumerate() {
            let row = if rows.len() == 1 { 0 } else { index };
            let NextLogits { logits, log_total } = &mut rows[row];
            let (token, log_probability) = match constrain(logits, &prefix.tokens, self.limit, options) {
                Next::Forced(token) => (token, 0.0),
                Next::Free if logits.iter().all(|x| *x == f32::NEG_INFINITY) => {
                    self.done[number] = Some(prefix.ended(None, options));
                    continue;
                }
                Next::Free => {
                    let place = self.first + number;
                    let token = next_token(logits.to_vec(), &prefix.tokens, &sampling, place, prefix.new_tokens());
                    (token, f64::from(logits[token as usize]) - *log_total)
                }
            };
            let prefix = prefix.extended(token, prefix.log_probability + log_probability);
            match prefix.hypothesis(self.limit, options) {
                Some(hypothesis) => self.done[number] = Some(hypothesis),
                None => {
                    parents.push(row);
                    self.live.push((number, prefix));
                }
            }
        }
        parents
    }

    /// In the order in which they were drawn.
    pub(super) fn finish(self) -> Vec<Hypothesis> {
        self.done.into_iter().flatten().collect()
    }
}
