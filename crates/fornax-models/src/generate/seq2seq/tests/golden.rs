//! What `tests/fixtures/generate_beams.py` had `transformers` generate.

use std::{collections::BTreeMap, fs, path::Path};

use serde::Deserialize;

use super::*;
use crate::hf::Archive;

#[derive(Deserialize)]
struct Golden {
    lengths: Vec<usize>,
    cases: BTreeMap<String, Case>,
}

#[derive(Deserialize)]
struct Case {
    options: Seq2SeqOptions,
    hypotheses: Vec<Vec<Wanted>>,
}

#[derive(Deserialize)]
struct Wanted {
    tokens: Vec<u32>,
    stop: Option<u32>,
    /// None where `transformers` gives none: greedy.
    score: Option<f64>,
}

/// Logits by source length, place, last token and the one before it.
fn tables(dir: &Path) -> impl Fn(&[u32], usize) -> Vec<f32> {
    let file = dir.join("tables.safetensors");
    let copy = tempfile::tempdir().unwrap();
    fs::copy(file, copy.path().join("model.safetensors")).unwrap();
    let archive = Archive::open(copy.path()).unwrap();
    let [length, place, last, before] = ["length", "place", "last", "before"].map(|name| archive.read(name).unwrap());
    move |target, source| {
        let row = |table: &[f32], row: usize| table[row % (table.len() / 23) * 23..][..23].to_vec();
        let mut rows =
            vec![row(&length, source), row(&place, target.len()), row(&last, target[target.len() - 1] as usize)];
        if let [.., previous, _] = target {
            rows.push(row(&before, *previous as usize));
        }
        (0..23).map(|token| rows.iter().map(|row| row[token]).sum()).collect()
    }
}

#[test]
fn targets_and_scores_equal_those_of_transformers() {
    let dir = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/beams"));
    let golden: Golden = serde_json::from_slice(&fs::read(dir.join("golden.json")).unwrap()).unwrap();
    let model = Tables::new(23, tables(dir));
    assert_eq!(golden.cases.len(), 20);
    for (name, case) in golden.cases {
        let found = run(&model, &golden.lengths, &case.options);
        assert_eq!(found.len(), case.hypotheses.len());
        for (source, (found, wanted)) in found.iter().zip(case.hypotheses).enumerate() {
            assert_eq!(found.len(), wanted.len(), "{name}, source {source}");
            for (found, wanted) in found.iter().zip(wanted) {
                assert_eq!((&found.tokens, found.stop), (&wanted.tokens, wanted.stop), "{name}, source {source}");
                let score = wanted.score.unwrap_or(found.score);
                // Sums of up to 15 numbers in f32 there; a negative penalty multiplies them by the length.
                let limit = 1e-5 * score.abs().max(1.0);
                assert!((found.score - score).abs() < limit, "{name}, source {source}: {} {score}", found.score);
            }
        }
    }
}
