use burn_cubecl::{
    cubecl::{self, ir::ElemType, prelude::*},
    kernel::into_contiguous,
    tensor::CubeTensor,
};

use super::{
    Inputs, LANES, NO_KEY, Place, Plan, Scores, ScoresLaunch, add_products, dots, dropped, limit, load, score,
    shared_tile, store, zeros,
};
use crate::{
    cube::{create, cubes},
    fused::Rules,
    host::attention::Sizes,
};

/// What comes from the output: its gradient, any strides, and of each query the logarithm of its sum of exponentials and the
/// product of output and gradient, `[batch, heads, query_len, 2]`.
pub(crate) struct Outcome {
    pub(crate) gradient: CubeTensor,
    pub(crate) saved: CubeTensor,
}

/// The gradient of the queries.
pub(crate) fn query_backward(inputs: Inputs, outcome: Outcome, rules: Rules) -> CubeTensor {
    let Sizes { batch, heads, query_len, head_dim, .. } = inputs.sizes();
    let tiles = |side| batch * heads * query_len.div_ceil(side);
    launch(query_kernel::launch, inputs, outcome, rules, [batch, heads, query_len, head_dim], tiles)
}

/// The gradients of keys and values side by side, `[batch, kv_heads, key_len, head_dim + value_dim]`: one buffer, since a kernel
/// may bind few.
pub(crate) fn key_value_backward(inputs: Inputs, outcome: Outcome, rules: Rules) -> CubeTensor {
    let Sizes { batch, kv_heads, key_len, head_dim, value_dim, .. } = inputs.sizes();
    let tiles = |side| batch * kv_heads * key_len.div_ceil(side);
    let shape = [batch, kv_heads, key_len, head_dim + value_dim];
    launch(key_value_kernel::launch, inputs, outcome, rules, shape, tiles)
}

/// The gradient of a bias `[bias_rows, heads, query_len, key_len]`: one row is the sum over the batch.
pub(crate) fn bias_backward(inputs: Inputs, outcome: Outcome, rules: Rules, bias_rows: usize) -> CubeTensor {
    let Sizes { heads, query_len, key_len, .. } = inputs.sizes();
    let tiles = |side| bias_rows * heads * query_len.div_ceil(side) * key_len.div_ceil(side);
    launch(bias_kernel::launch, inputs, outcome, rules, [bias_rows, heads, query_len, key_len], tiles)
}

/// Launches a kernel, for each of so many tiles of a side, that writes a tensor of this shape.
fn launch(
    kernel: impl FnOnce(
        &Client,
        CubeCount,
        CubeDim,
        TensorArg,
        TensorArg,
        TensorArg,
        TensorArg,
        BufferArg,
        BufferArg,
        ScoresLaunch,
        Plan,
        [ElemType; 2],
    ),
    mut inputs: Inputs,
    outcome: Outcome,
    rules: Rules,
    shape: [usize; 4],
    tiles: impl FnOnce(usize) -> usize,
) -> CubeTensor {
    let plan = inputs.plan(rules);
    let (elements, scores) = (inputs.elements(plan), inputs.scores(rules));
    let (client, out) = (inputs.query.client.clone(), create(&inputs.query, shape));
    let tiles = tiles(plan.tiles.side);
    if tiles > 0 {
        kernel(
            &client,
            cubes(&client, tiles),
            CubeDim::new_1d((plan.tiles.side * LANES) as u32),
            inputs.query.into_tensor_arg(),
            inputs.key.into_tensor_arg(),
            inputs.value.into_tensor_arg(),
            outcome.gradient.into_tensor_arg(),
            into_contiguous(outcome.saved).into_buffer_arg(),
            out.clone().into_buffer_arg(),
            scores,
            plan,
            elements,
        );
    }
    out
}

/// The weight of a score, before dropout. `saved` as in [`Outcome`].
#[cube]
fn weight(scores: &Scores, place: &Place, i: usize, score: f32, saved: &[f32]) -> f32 {
    let mut log_sum = NO_KEY.runtime();
    if i < scores.query_len {
        log_sum = saved[2 * ((place.row * scores.heads + place.head) * scores.query_len + i)];
    }
    (score - log_sum).exp()
}

/// The gradient of a score from that of its weight after dropout.
#[cube]
fn slope(scores: &Scores, place: &Place, i: usize, weight: f32, gradient: f32, saved: &[f32]) -> f32 {
    let mut product = 0.0f32;
    if i < scores.query_len {
        product = saved[2 * ((place.row * scores.heads + place.head) * scores.query_len + i) + 1];
    }
    weight * (gradient - product)
}

/// A cube a tile of queries.
#[cube(launch)]
fn query_kernel<E: Numeric, T: Numeric>(
    query: &Tensor<E>,
    key: &Tensor<E>,
    value: &Tensor<E>,
    gradient: &Tensor<f32>,
    saved: &[f32],
    out: &mut [f32],
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
    let mut gradients = shared_tile::<T>(comptime!(plan.tiles.side * plan.tiles.pitch));
    let mut keys = shared_tile::<T>(comptime!(plan.tiles.side * plan.tiles.pitch));
    let mut slopes = shared_tile::<T>(comptime!(plan.tiles.side * plan.tiles.weights_pitch()));
    let mut weights = Array::<f32>::new(comptime!(plan.tiles.side / LANES));
    let mut products = shared_tile::<f32>(comptime!(plan.tiles.products()));
    let mut found = Array::<f32>::new(comptime!(plan.tiles.side / LANES));
    let mut sums = zeros(plan.head_dim);

    load(query, &place, first, scores.query_len, &mut queries, plan.head_dim, plan.tiles);
    load(gradient, &place, first, scores.query_len, &mut gradients, plan.value_dim, plan.tiles);
    let last = min(first + plan.tiles.side, scores.query_len) - 1;
    for start in range_stepped(0, limit(scores, place.row, last, plan), plan.tiles.side) {
        sync_cube();
        load(value, &shared, start, scores.key_len, &mut keys, plan.value_dim, plan.tiles);
        sync_cube();
        dots(&gradients, &keys, &mut products, &mut found, plan.value_dim, plan.tiles);
        sync_cube();
        // In the place of the values.
        load(key, &shared, start, scores.key_len, &mut keys, plan.head_dim, plan.tiles);
        sync_cube();
        dots(&queries, &keys, &mut products, &mut weights, plan.head_dim, plan.tiles);
        #[unroll]
        for n in 0..plan.tiles.side / LANES {
            let column = lane + n * LANES;
            let score = score(scores, &place, i, start + column, weights[n], plan);
            let weight = weight(scores, &place, i, score, saved);
            let of_weight = found[n] * dropped(scores, &place, i, start + column);
            slopes[row * comptime!(plan.tiles.weights_pitch()) + column] =
                T::cast_from(slope(scores, &place, i, weight, of_weight, saved));
        }
        sync_cube();
        add_products(&slopes, &keys, &mut products, &mut sums, plan.head_dim, plan.tiles);
    }
    if i < scores.query_len {
        store(&sums, out, (line * scores.query_len + i) * plan.head_dim, scores.scale, plan.head_dim);
    }
}

/// A cube a tile of keys, over all queries that see one of them, of all heads that share them.
#[cube(launch)]
fn key_value_kernel<E: Numeric, T: Numeric>(
    query: &Tensor<E>,
    key: &Tensor<E>,
    value: &Tensor<E>,
    gradient: &Tensor<f32>,
    saved: &[f32],
    out: &mut [f32],
    scores: &Scores,
    #[comptime] plan: Plan,
    #[define(E, T)] _elements: [ElemType; 2],
) {
    let tiles = scores.key_len.div_ceil(plan.tiles.side);
    let (line, first) = (CUBE_POS / tiles, CUBE_POS % tiles * plan.tiles.side);
    if line >= scores.batch * scores.kv_heads {
        terminate!();
    }
    let shared = Place { row: line / scores.kv_heads, head: line % scores.kv_heads };
    let group = scores.heads / scores.kv_heads;
    let (row, lane) = (UNIT_POS as usize / LANES, UNIT_POS as usize % LANES);
    let j = first + row;

    let mut keys = shared_tile::<T>(comptime!(plan.tiles.side * plan.tiles.pitch));
    let mut values = shared_tile::<T>(comptime!(plan.tiles.side * plan.tiles.pitch));
    let mut queries = shared_tile::<T>(comptime!(plan.tiles.side * plan.tiles.pitch));
    let mut weights = shared_tile::<T>(comptime!(plan.tiles.side * plan.tiles.weights_pitch()));
    let mut products = shared_tile::<f32>(comptime!(plan.tiles.products()));
    let mut found = Array::<f32>::new(comptime!(plan.tiles.side / LANES));
    let mut slopes = Array::<f32>::new(comptime!(plan.tiles.side / LANES));
    let mut key_sums = zeros(plan.head_dim);
    let mut value_sums = zeros(plan.value_dim);

    load(key, &shared, first, scores.key_len, &mut keys, plan.head_dim, plan.tiles);
    load(value, &shared, first, scores.key_len, &mut values, plan.value_dim, plan.tiles);
    // The first tile of queries that sees one of these keys; none if all of them are hidden from the last query.
    let mut begin = 0usize.runtime();
    if plan.causal && first + scores.query_len > scores.key_len {
        begin = (first + scores.query_len - scores.key_len) / plan.tiles.side * plan.tiles.side;
    }
    let mut end = 0usize.runtime();
    if first < limit(scores, shared.row, scores.query_len - 1, plan) {
        end = scores.query_len;
    }
    for member in 0..group {
        let place = Place { row: shared.row, head: shared.head * group + member };
        for start in range_stepped(begin, end, plan.tiles.side) {
            sync_cube();
            load(query, &place, start, scores.query_len, &mut queries, plan.head_dim, plan.tiles);
            sync_cube();
            dots(&keys, &queries, &mut products, &mut found, plan.head_dim, plan.tiles);
            sync_cube();
            // In the place of the queries.
            load(gradient, &place, start, scores.query_len, &mut queries, plan.value_dim, plan.tiles);
            sync_cube();
            dots(&values, &queries, &mut products, &mut slopes, plan.value_dim, plan.tiles);
            #[unroll]
            for n in 0..plan.tiles.side / LANES {
                let i = start + lane + n * LANES;
                let score = score(scores, &place, i, j, found[n], plan);
                let weight = weight(scores, &place, i, score, saved);
                let factor = dropped(scores, &place, i, j);
                slopes[n] = slope(scores, &place, i, weight, slopes[n] * factor, saved);
                weights[row * comptime!(plan.tiles.weights_pitch()) + lane + n * LANES] = T::cast_from(weight * factor);
            }
            sync_cube();
            add_products(&weights, &queries, &mut products, &mut value_sums, plan.value_dim, plan.tiles);
            sync_cube();
            #[unroll]
            for n in 0..plan.tiles.side / LANES {
                weights[row * comptime!(plan.tiles.weights_pitch()) + lane + n * LANES] = T::cast_from(slopes[n]);
            }
            load(query, &place, start, scores.query_len, &mut queries, plan.head_dim, plan.tiles);
            sync_cube();
            add_products(&weights, &queries, &mut products, &mut key_sums, plan.head_dim, plan.tiles);
        }
    }
    if j < scores.key_len {
        let at = (line * scores.key_len + j) * comptime!(plan.head_dim + plan.value_dim);
        store(&key_sums, out, at, scores.scale, plan.head_dim);
        store(&value_sums, out, at + plan.head_dim, 1.0f32.runtime(), plan.value_dim);
    }
}

/// A cube a tile of scores, over all rows of the batch that share its bias, in their order.
#[cube(launch)]
fn bias_kernel<E: Numeric, T: Numeric>(
    query: &Tensor<E>,
    key: &Tensor<E>,
    value: &Tensor<E>,
    gradient: &Tensor<f32>,
    saved: &[f32],
    out: &mut [f32],
    scores: &Scores,
    #[comptime] plan: Plan,
    #[define(E, T)] _elements: [ElemType; 2],
) {
    let (down, across) = (scores.query_len.div_ceil(plan.tiles.side), scores.key_len.div_ceil(plan.tiles.side));
    let (line, tile) = (CUBE_POS / (down * across), CUBE_POS % (down * across));
    let bias_rows = select(scores.bias_rows == 1, scores.batch, 1);
    if line >= bias_rows * scores.heads {
        terminate!();
    }
    let (bias_row, head) = (line / scores.heads, line % scores.heads);
    let (first, start) = (tile / across * plan.tiles.side, tile % across * plan.tiles.side);
    let (row, lane) = (UNIT_POS as usize / LANES, UNIT_POS as usize % LANES);
    let i = first + row;

    let mut queries = shared_tile::<T>(comptime!(plan.tiles.side * plan.tiles.pitch));
    let mut keys = shared_tile::<T>(comptime!(plan.tiles.side * plan.tiles.pitch));
    let mut weights = Array::<f32>::new(comptime!(plan.tiles.side / LANES));
    let mut products = shared_tile::<f32>(comptime!(plan.tiles.products()));
    let mut found = Array::<f32>::new(comptime!(plan.tiles.side / LANES));
    let mut sums = zeros(plan.tiles.side);

    let last = min(first + plan.tiles.side, scores.query_len) - 1;
    let rows = scores.batch / bias_rows;
    for member in 0..rows {
        let place = Place { row: bias_row * rows + member, head };
        let shared = Place { row: place.row, head: head / (scores.heads / scores.kv_heads) };
        if start < limit(scores, place.row, last, plan) {
            sync_cube();
            load(query, &place, first, scores.query_len, &mut queries, plan.head_dim, plan.tiles);
            load(key, &shared, start, scores.key_len, &mut keys, plan.head_dim, plan.tiles);
            sync_cube();
            dots(&queries, &keys, &mut products, &mut weights, plan.head_dim, plan.tiles);
            sync_cube();
            // In the places of queries and keys.
            load(gradient, &place, first, scores.query_len, &mut queries, plan.value_dim, plan.tiles);
            load(value, &shared, start, scores.key_len, &mut keys, plan.value_dim, plan.tiles);
            sync_cube();
            dots(&queries, &keys, &mut products, &mut found, plan.value_dim, plan.tiles);
            #[unroll]
            for n in 0..plan.tiles.side / LANES {
                let j = start + lane + n * LANES;
                let score = score(scores, &place, i, j, weights[n], plan);
                let weight = weight(scores, &place, i, score, saved);
                sums[n] += slope(scores, &place, i, weight, found[n] * dropped(scores, &place, i, j), saved);
            }
        }
    }
    #[unroll]
    for n in 0..plan.tiles.side / LANES {
        let j = start + lane + n * LANES;
        if i < scores.query_len && j < scores.key_len {
            out[(line * scores.query_len + i) * scores.key_len + j] = sums[n];
        }
    }
}
