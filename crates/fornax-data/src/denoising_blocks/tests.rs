use super::*;
use crate::IGNORE_TARGET;
use crate::denoising::tests::{T5, TEXT, denoising};
use crate::loader::{Loader, LoaderOptions};
use crate::store::StoreOptions;
use crate::store::tests::memory;

const FILL: Fill = Fill { pad_id: 0, start_id: 0 };
const SPANS: &str = "seq_len = 64";
const UL2: &str = "kind = \"ul2\"\nseq_len = 64";

/// A store of `copies` documents.
fn store(copies: usize) -> (tempfile::TempDir, Arc<TokenStore>) {
    let dir = tempfile::tempdir().unwrap();
    let texts = vec![TEXT; copies];
    let store = TokenStore::build_or_open(&memory(&texts), &T5.0, dir.path(), &StoreOptions::default()).unwrap();
    (dir, store.into())
}

fn blocks(store: &Arc<TokenStore>, config: &str, tail: Tail) -> DenoisingBlocks {
    DenoisingBlocks::new(store.clone(), denoising(config, 8), FILL, tail).unwrap()
}

/// The sources and targets of a batch without what fills them up.
fn rows(batch: &Seq2SeqBatch) -> Vec<(u64, Vec<i32>, Vec<i32>)> {
    let row = |row: usize| {
        let source = &batch.input_ids[row * batch.source_len..][..batch.lengths[row] as usize];
        let target = batch.targets[row * batch.target_len..][..batch.target_len].iter().copied();
        (batch.examples[row], source.to_vec(), target.filter(|&id| id != IGNORE_TARGET).collect())
    };
    (0..batch.batch).map(row).collect()
}

fn epoch(source: &DenoisingBatches, epoch: u64) -> Vec<(u64, Vec<i32>, Vec<i32>)> {
    let steps = source.steps_per_epoch();
    let batches = (epoch * steps..(epoch + 1) * steps).flat_map(|step| source.micro_batches(step).unwrap());
    let mut all: Vec<_> = batches.flat_map(|batch| rows(&batch)).collect();
    all.sort();
    all
}

#[test]
fn blocks_begin_side_by_side_and_hold_every_token() {
    let (_dir, store) = store(20);
    let mut all = vec![0; store.len() as usize];
    store.read(0, &mut all);
    for config in [SPANS, UL2, "kind = \"prefix_lm\"\nseq_len = 64"] {
        let block = denoising(config, 8).block_len();
        assert!(all.len() % block > 1, "the last block is full: choose another number of documents");
        for (tail, held) in [(Tail::Pad, all.len()), (Tail::Drop, all.len() / block * block)] {
            let batches = DenoisingBatches::sequential(blocks(&store, config, tail), 4).unwrap();
            let (blocks, examples) = (batches.blocks(), epoch(&batches, 0));
            assert!(examples.iter().map(|it| it.0).eq(0..blocks.len()));
            let mut text: Vec<i32> = Vec::new();
            for (example, source, target) in &examples {
                let restored = blocks.denoising().restore(source, target);
                let len = blocks.denoising().block_len_of(None, *example);
                assert_eq!(restored, all[text.len()..all.len().min(text.len() + len)], "{config}, block {example}");
                assert!(config == UL2 || restored.len() <= block);
                text.extend(&restored[..restored.len().min(block)]);
            }
            assert_eq!(text, all[..held], "{config}");
        }
    }
}

#[test]
fn an_epoch_s_denoiser_says_how_long_a_block_is() {
    let (_dir, store) = store(20);
    let blocks = blocks(&store, UL2, Tail::Drop);
    let lens = |epoch| (0..blocks.len() - 2).map(|it| blocks.text(it, epoch).len()).collect::<Vec<_>>();
    let expected =
        |epoch| (0..blocks.len() - 2).map(|it| blocks.denoising().block_len_of(epoch, it)).collect::<Vec<_>>();
    for epoch in [None, Some(0), Some(1)] {
        assert_eq!(lens(epoch), expected(epoch));
    }
    assert_ne!(lens(Some(0)), lens(Some(1)));
    let (source, target, _) = blocks.batch(&[3], Some(1)).map(|it| (it.source_len, it.target_len, it.batch)).unwrap();
    assert!(source <= 64 && target <= blocks.denoising().target_len());
}

#[test]
fn batches_of_span_corruption_have_no_padding() {
    let (_dir, store) = store(20);
    let blocks = blocks(&store, SPANS, Tail::Drop);
    let batch = blocks.batch(&(0..blocks.len()).collect::<Vec<_>>(), Some(0)).unwrap();
    assert_eq!((batch.source_len, batch.target_len), (64, blocks.denoising().target_len()));
    assert_eq!(batch.token_count(), batch.batch * (batch.source_len + batch.target_len));
}

#[test]
fn the_grouping_into_batches_does_not_change_an_example() {
    let (_dir, store) = store(20);
    for config in [SPANS, UL2] {
        let examples = |micro_batch_size, gradient_accumulation| {
            let size = StepSize { micro_batch_size, gradient_accumulation };
            let source = DenoisingBatches::shuffled(blocks(&store, config, Tail::Drop), 4, size).unwrap();
            let steps = 0..2 * source.steps_per_epoch();
            let loader = Loader::start(Arc::new(source), steps, LoaderOptions { workers: 2, ahead: 2 }).unwrap();
            let all: Vec<_> = loader.flat_map(|step| step.unwrap().1).flat_map(|batch| rows(&batch)).collect();
            all
        };
        let whole = examples(8, 1);
        assert!(whole.len() > 16);
        assert_eq!(whole, examples(4, 2));
        assert_eq!(whole, examples(1, 8));
    }
}

#[test]
fn training_hides_anew_each_epoch_and_evaluation_never() {
    let (_dir, store) = store(20);
    let size = StepSize { micro_batch_size: 2, gradient_accumulation: 1 };
    for config in [SPANS, UL2] {
        let training = || DenoisingBatches::shuffled(blocks(&store, config, Tail::Drop), 4, size).unwrap();
        let both = |source: &DenoisingBatches| {
            let (first, second) = (epoch(source, 0), epoch(source, 1));
            let pairs = first.iter().filter_map(|a| Some(a == second.iter().find(|b| a.0 == b.0)?));
            pairs.collect::<Vec<bool>>()
        };
        let equal = both(&training());
        let count = equal.iter().filter(|equal| **equal).count();
        // Some of a mixture's denoisers hide one span of such a short block; few blocks get it twice at the same place.
        assert!(equal.len() > 20 && count * 5 < equal.len(), "{config}: {count} of {} are the same", equal.len());
        assert!(both(&training().with_fixed_noise()).into_iter().all(|equal| equal));
        assert!(
            both(&DenoisingBatches::sequential(blocks(&store, config, Tail::Pad), 4).unwrap()).into_iter().all(|it| it)
        );
        let overfit = training().first_steps(2);
        assert_eq!(overfit.micro_batches(1).unwrap(), overfit.micro_batches(7).unwrap());
    }
}

#[test]
fn a_single_token_behind_the_last_block_is_left_out() {
    let (_dir, store) = store(1);
    let tokens = store.len() as usize;
    // Blocks of prefix language modelling are as long as the encoder.
    let of = |seq_len| blocks(&store, &format!("kind = \"prefix_lm\"\nseq_len = {seq_len}"), Tail::Pad);
    assert_eq!(of(tokens - 1).len(), 1);
    assert_eq!(of(tokens - 2).len(), 2);
    assert_eq!(of(tokens - 2).text(1, None).len(), 2);
    assert_eq!(of(tokens + 9).text(0, None).len(), tokens);
}

#[test]
fn a_corpus_shorter_than_a_block_names_both_sizes() {
    let (_dir, store) = store(1);
    let error = DenoisingBlocks::new(store, denoising("", 1), FILL, Tail::Drop).unwrap_err();
    insta::assert_snapshot!(error, @"the corpus (memory: 1 documents, 157 B) has 115 tokens, but one block of seq_len 512 needs 568");
}
