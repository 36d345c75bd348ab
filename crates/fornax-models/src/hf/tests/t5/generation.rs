//! What generation asks of the model: cached logits, and states whose rows are chosen.

use burn::tensor::{Int, Tensor, TensorData};
use fornax_backend::test_device;

use super::{Batch, Golden, VERSIONS, assert_close, evaluation, load, tolerance, values};
use crate::generate::Seq2SeqLm;

/// Both versions on the padded sources, a ragged batch, with all 38 target tokens.
#[test]
fn cached_logits_equal_uncached_ones() {
    let (device, golden) = (test_device(), Golden::open("t5"));
    for version in VERSIONS {
        let model = load(version, &device);
        let batch = Batch::open(&golden, &format!("{version}.padded"), &device);
        let whole = batch.logits(&model);
        let mut state = Seq2SeqLm::encode(&model, batch.input_ids.clone(), batch.lengths(), 38, &evaluation());
        let mut start = 0;
        // A long beginning, single steps, several tokens onto a filled cache.
        for len in [5, 1, 1, 12, 1, 18] {
            let new = batch.decoder_input_ids.clone().narrow(1, start, len);
            let found = values(model.next_logits(new, &mut state, &evaluation()));
            start += len;
            let wanted = values(whole.clone().narrow(1, start - 1, 1));
            assert_close(&format!("{version} after {start}"), &found, &wanted, tolerance(&device));
        }
        assert_eq!(start, whole.dims()[1]);
    }
}

/// Rows that are dropped, doubled and put in another order go on with their own source and target.
#[test]
fn selected_rows_go_on_with_what_they_had() {
    let (device, golden) = (test_device(), Golden::open("t5"));
    for version in VERSIONS {
        let model = load(version, &device);
        let batch = Batch::open(&golden, &format!("{version}.padded"), &device);
        let whole = batch.logits(&model).narrow(1, 9, 1);
        let mut state = Seq2SeqLm::encode(&model, batch.input_ids.clone(), batch.lengths(), 10, &evaluation());
        model.next_logits(batch.decoder_input_ids.clone().narrow(1, 0, 9), &mut state, &evaluation());
        let rows = Tensor::<1, Int>::from_data(TensorData::from([2i64, 0, 2, 1]), &device);
        model.select(&mut state, &rows);
        let next = batch.decoder_input_ids.narrow(1, 9, 1).select(0, rows.clone());
        let found = values(model.next_logits(next, &mut state, &evaluation()));
        assert_close(version, &found, &values(whole.select(0, rows)), tolerance(&device));
    }
}
