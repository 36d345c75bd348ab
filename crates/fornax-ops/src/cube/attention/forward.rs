use burn_cubecl::{
    cubecl::{self, prelude::*},
    tensor::CubeTensor,
};

use super::{
    Inputs, LANES, LOWEST_TOP, NO_KEY, Place, Plan, Scores, add_products, dots, dropped, limit, load, score,
    shared_tile, store, zeros,
};
use crate::{
    cube::{create, cubes},
    fused::Rules,
    host::attention::Sizes,
};

/// The output, `[batch, heads, query_len, value_dim]`, and the logarithm of each query's sum of exponentials,
/// `[batch, heads, query_len, 1]`.
pub(crate) fn forward(mut inputs: Inputs, rules: Rules) -> (CubeTensor, CubeTensor) {
    let Sizes { batch, heads, query_len, value_dim, .. } = inputs.sizes();
    let plan = inputs.plan(rules);
    let out = create(&inputs.query, [batch, heads, query_len, value_dim]);
    let log_sums = create(&inputs.query, [batch, heads, query_len, 1]);
    let (elements, scores) = (inputs.elements(plan), inputs.scores(rules));
    let client = inputs.query.client.clone();
    if batch * heads * query_len > 0 {
        forward_kernel::launch(
            &client,
            cubes(&client, batch * heads * query_len.div_ceil(plan.tiles.side)),
            CubeDim::new_1d((plan.tiles.side * LANES) as u32),
            inputs.query.into_tensor_arg(),
            inputs.key.into_tensor_arg(),
            inputs.value.into_tensor_arg(),
            out.clone().into_buffer_arg(),
            log_sums.clone().into_buffer_arg(),
            scores,
            plan,
            elements,
        );
    }
    (out, log_sums)
}

/// A cube a tile of queries; softmax as the keys come, each largest score so far correcting what was added up before.
#[cube(launch)]
fn forward_kernel<E: Numeric, T: Numeric>(
    query: &Tensor<E>,
    key: &Tensor<E>,
    value: &Tensor<E>,
    out: &mut [f32],
    log_sums: &mut [f32],
    scores: &Scores,
    #[comptime] plan: Plan,
    #[define(E, T)] _elements: [ElemType; 2],
) {
    let tiles = scores.query_len.div_ceil(plan.tiles.side);
    let (line, first) = (CUBE_POS / tiles, CUBE_POS % tiles * plan.tiles.side);
    if line >= scores.batch * scores.heads {
        terminate!();
    }
    let place = Place { row: line / scores.heads, head: line % scores.heads };
    let shared = Place { row: place.row, head: place.head / (scores.heads / scores.kv_heads) };
    let (row, lane) = (UNIT_POS as usize / LANES, UNIT_POS as usize % LANES);
    let i = first + row;

    let mut queries = shared_tile::<T>(comptime!(plan.tiles.side * plan.tiles.pitch));
    let mut keys = shared_tile::<T>(comptime!(plan.tiles.side * plan.tiles.pitch));
    let mut weights = shared_tile::<T>(comptime!(plan.tiles.side * plan.tiles.weights_pitch()));
    let mut scratch = Shared::<[f32]>::new_slice(comptime!(plan.tiles.side * LANES));
    let mut products = shared_tile::<f32>(comptime!(plan.tiles.products()));
    let mut found = Array::<f32>::new(comptime!(plan.tiles.side / LANES));
    let mut sums = zeros(plan.value_dim);
    let mut top = LOWEST_TOP.runtime();
    let mut total = 0.0f32;

    load(query, &place, first, scores.query_len, &mut queries, plan.head_dim, plan.tiles);
    let last = min(first + plan.tiles.side, scores.query_len) - 1;
    for start in range_stepped(0, limit(scores, place.row, last, plan), plan.tiles.side) {
        sync_cube();
        load(key, &shared, start, scores.key_len, &mut keys, plan.head_dim, plan.tiles);
        sync_cube();
        dots(&queries, &keys, &mut products, &mut found, plan.head_dim, plan.tiles);
        let mut highest = top;
        #[unroll]
        for n in 0..plan.tiles.side / LANES {
            found[n] = score(scores, &place, i, start + lane + n * LANES, found[n], plan);
            highest = max(highest, found[n]);
        }
        scratch[row * LANES + lane] = highest;
        sync_cube();
        #[unroll]
        for other in 0..LANES {
            highest = max(highest, scratch[row * LANES + other]);
        }
        let correction = (top - highest).exp();
        top = highest;
        total *= correction;
        #[unroll]
        for n in 0..plan.tiles.side / LANES {
            let column = lane + n * LANES;
            let weight = (found[n] - top).exp();
            total += weight;
            weights[row * comptime!(plan.tiles.weights_pitch()) + column] =
                T::cast_from(weight * dropped(scores, &place, i, start + column));
        }
        #[unroll]
        for n in 0..plan.value_dim.div_ceil(LANES) {
            sums[n] *= correction;
        }
        // In the place of the keys, which all units have read.
        load(value, &shared, start, scores.key_len, &mut keys, plan.value_dim, plan.tiles);
        sync_cube();
        add_products(&weights, &keys, &mut products, &mut sums, plan.value_dim, plan.tiles);
    }

    sync_cube();
    scratch[row * LANES + lane] = total;
    sync_cube();
    total = 0.0f32;
    #[unroll]
    for other in 0..LANES {
        total += scratch[row * LANES + other];
    }
    if i < scores.query_len {
        let mut inverse = 0.0f32;
        let mut log_sum = NO_KEY.runtime();
        if total > 0.0f32 {
            inverse = 1.0f32 / total;
            log_sum = top + total.ln();
        }
        store(&sums, out, (line * scores.query_len + i) * plan.value_dim, inverse, plan.value_dim);
        if lane == 0 {
            log_sums[line * scores.query_len + i] = log_sum;
        }
    }
}
