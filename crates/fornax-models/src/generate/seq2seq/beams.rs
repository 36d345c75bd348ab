use std::cmp::Ordering;

use super::{
    super::sampler::penalise,
    EarlyStopping, Seq2SeqOptions,
    constraints::{Next, constrain},
    hypothesis::{Hypothesis, Prefix},
    step::NextLogits,
};

/// Beam search for one source, step for step that of `transformers` 5.
///
/// Where `transformers` keeps rows of score -10⁹ for beams that don't exist (at the start, and where options leave too few
/// tokens), there are fewer beams here.
pub(super) struct Beams {
    limit: usize,
    /// Best first.
    live: Vec<Prefix>,
    /// Best first, at most `num_beams`.
    finished: Vec<Hypothesis>,
}

impl Beams {
    pub(super) fn new(limit: usize, options: &Seq2SeqOptions) -> Self {
        Self { limit, live: vec![Prefix::start(options)], finished: Vec::new() }
    }

    /// Of each beam.
    pub(super) fn last_tokens(&self) -> Vec<u32> {
        self.live.iter().map(Prefix::last_token).collect()
    }

    /// Replaces the beams by the best of their continuations and says which beam each of these comes from; none when the
    /// search is over.
    pub(super) fn advance(&mut self, rows: &mut [NextLogits<'_>], options: &Seq2SeqOptions) -> Vec<usize> {
        // Every beam has one continuation by each stop token: with so many candidates, enough go on.
        let kept = options.num_beams * (1 + options.stop_tokens.len()).max(2);
        let mut best = Best::new(kept);
        for (beam, (prefix, row)) in self.live.iter().zip(rows).enumerate() {
            best.offer_all(beam, prefix, row, self.limit, options);
        }
        let (mut live, mut parents) = (Vec::new(), Vec::new());
        for (rank, candidate) in best.sorted.into_iter().enumerate() {
            let prefix = self.live[candidate.beam].extended(candidate.token, candidate.log_probability);
            match prefix.hypothesis(self.limit, options) {
                // Those behind the first `num_beams` are there to go on, not to end.
                Some(hypothesis) if rank < options.num_beams => self.finish_one(hypothesis, options.num_beams),
                None if live.len() < options.num_beams => {
                    live.push(prefix);
                    parents.push(candidate.beam);
                }
                _ => {}
            }
        }
        if live.is_empty() && self.finished.is_empty() {
            // Options forbid every token.
            self.finished.extend(self.live.iter().map(|prefix| prefix.ended(None, options)));
        }
        self.live = live;
        if self.is_content(options) {
            self.live.clear();
            parents.clear();
        }
        parents
    }

    /// Takes in a hypothesis, behind those that score as much.
    fn finish_one(&mut self, hypothesis: Hypothesis, num_beams: usize) {
        let place = self.finished.partition_point(|other| other.score >= hypothesis.score);
        self.finished.insert(place, hypothesis);
        self.finished.truncate(num_beams);
    }

    /// Whether the beams that are left are not worth going on with.
    fn is_content(&self, options: &Seq2SeqOptions) -> bool {
        let (Some(best), Some(worst)) = (self.live.first(), self.finished.last()) else { return false };
        if self.finished.len() < options.num_beams {
            return false;
        }
        let len = match options.early_stopping {
            EarlyStopping::FirstFinished => return true,
            EarlyStopping::Never if options.length_penalty > 0.0 => self.limit,
            EarlyStopping::Never | EarlyStopping::Heuristic => best.new_tokens(),
        };
        options.score(best.log_probability, len) <= worst.score
    }

    /// Best first.
    pub(super) fn finish(mut self, num_return: usize) -> Vec<Hypothesis> {
        self.finished.truncate(num_return);
        self.finished
    }
}

/// A token after a beam.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    /// Of the whole target.
    log_probability: f64,
    beam: usize,
    token: u32,
}

impl Candidate {
    /// Likelier ones first; of equals those of better beams, then lower tokens.
    fn order(&self, other: &Self) -> Ordering {
        let likelier = other.log_probability.total_cmp(&self.log_probability);
        likelier.then(self.beam.cmp(&other.beam)).then(self.token.cmp(&other.token))
    }
}

/// The likeliest candidates. Most are turned away by one comparison, so a vocabulary costs little more than reading it.
struct Best {
    size: usize,
    sorted: Vec<Candidate>,
}

impl Best {
    fn new(size: usize) -> Self {
        Self { size, sorted: Vec::with_capacity(size + 1) }
    }

    /// What must be exceeded to get in. Candidates come by rising beam and token, so equals are turned away rightly.
    fn threshold(&self) -> f64 {
        match self.sorted.last().filter(|_| self.sorted.len() == self.size) {
            Some(worst) => worst.log_probability,
            None => f64::NEG_INFINITY,
        }
    }

    fn offer(&mut self, candidate: Candidate) {
        let place = self.sorted.partition_point(|other| other.order(&candidate).is_lt());
        self.sorted.insert(place, candidate);
        self.sorted.truncate(self.size);
    }

    /// All continuations of one beam.
    fn offer_all(
        &mut self,
        beam: usize,
        prefix: &Prefix,
        NextLogits { logits, log_total }: &mut NextLogits<'_>,
        limit: usize,
        options: &Seq2SeqOptions,
    ) {
        if let Next::Forced(token) = constrain(logits, &prefix.tokens, limit, options) {
            self.offer(Candidate { log_probability: prefix.log_probability, beam, token });
            return;
        }
        penalise(logits, &prefix.tokens, options.repetition_penalty, *log_total);
        let base = prefix.log_probability - *log_total;
        let mut threshold = self.threshold();
        for (token, logit) in (0..).zip(logits.iter()) {
            let log_probability = base + f64::from(*logit);
            if log_probability > threshold {
                self.offer(Candidate { log_probability, beam, token });
                threshold = self.threshold();
            }
        }
    }
}
