/// The candidate that `word` is most likely a misspelling of, if any is close.
pub fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(word, candidate), candidate))
        .filter(|(similarity, _)| *similarity > 0.8)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::closest;

    #[test]
    fn a_slip_finds_its_word_and_nonsense_finds_none() {
        let keys = ["max_steps", "max_epochs", "seed", "log_every"];
        assert_eq!(closest("max_step", keys), Some("max_steps"));
        assert_eq!(closest("log_evry", keys), Some("log_every"));
        assert_eq!(closest("zzz", keys), None);
    }
}
