//! Against every target there is: with enough beams and no early end, beam search is exact.

use super::*;

const LIMIT: usize = 4;

/// Every target with its score, best first.
fn all(vocab_size: usize, source: usize, options: &Seq2SeqOptions) -> Vec<(Vec<u32>, Option<u32>, f64)> {
    let logits = hashed(vocab_size);
    let mut open = vec![(vec![0_u32], 0.0_f64)];
    let mut done = Vec::new();
    while let Some((target, log_probability)) = open.pop() {
        let row: Vec<f64> = logits(&target, source).into_iter().map(f64::from).collect();
        let total = row.iter().map(|x| x.exp()).sum::<f64>().ln();
        for (token, logit) in (0..).zip(row) {
            let log_probability = log_probability + logit - total;
            let (mut longer, len) = (target.clone(), target.len() as f64);
            let score = log_probability / len.powf(options.length_penalty);
            if token == 1 {
                done.push((longer[1..].to_vec(), Some(1), score));
                continue;
            }
            longer.push(token);
            match longer.len() > LIMIT {
                true => done.push((longer[1..].to_vec(), None, score)),
                false => open.push((longer, log_probability)),
            }
        }
    }
    done.sort_by(|a, b| b.2.total_cmp(&a.2));
    done
}

#[test]
fn as_many_beams_as_targets_find_the_best_ones() {
    // 1 + 3 + 9 + 27 targets that end, and 81 that reach the limit.
    let model = Tables::new(4, hashed(4));
    for length_penalty in [0.0, 0.6, 1.0, 2.0, -0.5] {
        let options = Seq2SeqOptions {
            num_return: 121,
            length_penalty,
            early_stopping: EarlyStopping::Never,
            ..Seq2SeqOptions::beams(121, 0, vec![1], LIMIT)
        };
        for source in [1, 2, 7] {
            let (found, wanted) = (run(&model, &[source], &options).remove(0), all(4, source, &options));
            assert_eq!((found.len(), wanted.len()), (121, 121));
            for (found, (tokens, stop, score)) in found.iter().zip(wanted) {
                assert_eq!((&found.tokens, found.stop), (&tokens, stop));
                assert!((found.score - score).abs() < 1e-5);
            }
        }
    }
}

/// The best of few beams is a target, with its own score, and never better than the best there is.
#[test]
fn few_beams_score_what_their_targets_do() {
    let model = Tables::new(9, hashed(9));
    let mut exact = 0;
    for source in 1..=20 {
        let options = Seq2SeqOptions { num_return: 2, ..Seq2SeqOptions::beams(2, 0, vec![1], LIMIT) };
        let wanted = all(9, source, &options);
        for hypothesis in &run(&model, &[source], &options)[0] {
            let own = wanted.iter().find(|(tokens, stop, _)| (tokens, *stop) == (&hypothesis.tokens, hypothesis.stop));
            assert!((own.unwrap().2 - hypothesis.score).abs() < 1e-5);
        }
        exact += usize::from(run(&model, &[source], &options)[0][0].tokens == wanted[0].0);
    }
    assert!((10..20).contains(&exact), "it finds the best target mostly, not always: {exact} of 20");
}
