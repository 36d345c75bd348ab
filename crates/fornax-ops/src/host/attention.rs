//! Scaled dot-product attention without the matrix of all scores, after Dao et al. 2022: a few queries at a time against the
//! keys that they may see, with the logarithm of the sum of exponentials kept for the backward pass.

use std::sync::Arc;

use super::{
    each,
    elementwise::Noise,
    math::{exp, maximum, sum},
    matrix::{Into, Matrix, Product, multiply},
    vectorised,
};

/// Scores that a task holds at a time: 256 KiB, which stays in the second-level cache.
const SCORES: usize = 64 * 1024;
/// The most queries of a tile.
const TILE: usize = 128;

/// `[batch, heads, seq, size]` in a slice, where the numbers of a head's position stand side by side.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads<'a> {
    pub(crate) data: &'a [f32],
    /// From one row of the batch, one head, one position to the next.
    pub(crate) strides: [usize; 3],
}

impl<'a> Heads<'a> {
    fn matrix(&self, row: usize, head: usize, positions: std::ops::Range<usize>, size: usize) -> Matrix<'a> {
        let [of_row, of_head, of_position] = self.strides;
        let start = row * of_row + head * of_head + positions.start * of_position;
        Matrix::strided(&self.data[start..], [positions.len(), size], of_position)
    }

    fn position(&self, row: usize, head: usize, position: usize, size: usize) -> &'a [f32] {
        let [of_row, of_head, of_position] = self.strides;
        &self.data[row * of_row + head * of_head + position * of_position..][..size]
    }
}

/// The sizes of an attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sizes {
    pub(crate) batch: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) query_len: usize,
    pub(crate) key_len: usize,
    pub(crate) head_dim: usize,
    pub(crate) value_dim: usize,
}

impl Sizes {
    /// What a mask is made for: `[batch, query_len, key_len]`.
    pub(crate) fn mask(&self) -> [usize; 3] {
        [self.batch, self.query_len, self.key_len]
    }

    /// Query heads that share a key head.
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Queries of a tile.
    fn tile(&self) -> usize {
        (SCORES / self.key_len.max(1)).clamp(16, TILE).min(self.query_len.max(1))
    }
}

/// Which keys are seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mask {
    pub(crate) causal: bool,
    /// The first keys of each row, `[batch]`.
    pub(crate) lengths: Option<Vec<usize>>,
    /// The segments of queries `[batch, query_len]` and keys `[batch, key_len]`, of which 0 is never seen.
    pub(crate) segments: Option<[Vec<i64>; 2]>,
}

/// What is added to the scores, `[1 or batch, heads, query_len, key_len]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bias<'a> {
    pub(crate) data: &'a [f32],
    /// Whether each row of the batch has its own.
    pub(crate) per_row: bool,
}

/// One attention, but for its tensors.
#[derive(Clone, Debug)]
pub(crate) struct Attention {
    pub(crate) sizes: Sizes,
    pub(crate) scale: f32,
    pub(crate) mask: Arc<Mask>,
    pub(crate) noise: Option<Noise>,
    /// Whether the factors of products are rounded to bfloat16.
    pub(crate) bf16: bool,
}

/// Queries of one head, from `first` on, and the number of keys that the last of them may see.
struct Tile {
    row: usize,
    head: usize,
    first: usize,
    len: usize,
    keys: usize,
}

impl Attention {
    /// A product within a task.
    fn product(&self, alpha: f32) -> Product {
        Product { alpha, bf16: self.bf16, parallel: false }
    }

    /// How many keys query `i` of `row` sees at most.
    fn limit(&self, row: usize, i: usize) -> usize {
        let Sizes { query_len, key_len, .. } = self.sizes;
        let causal = if self.mask.causal { i + 1 + key_len - query_len } else { key_len };
        match &self.mask.lengths {
            Some(lengths) => causal.min(lengths[row]),
            None => causal,
        }
    }

    fn tiles(&self, row: usize, head: usize) -> impl Iterator<Item = Tile> + '_ {
        let Sizes { query_len, .. } = self.sizes;
        let size = self.sizes.tile();
        (0..query_len).step_by(size).map(move |first| {
            let len = size.min(query_len - first);
            Tile { row, head, first, len, keys: self.limit(row, first + len - 1) }
        })
    }

    /// The scores of a tile, `[len, keys]`, with bias, and `-∞` where a key isn't seen.
    fn scores(&self, tile: &Tile, query: Heads<'_>, key: Matrix<'_>, bias: Option<Bias<'_>>, scores: &mut [f32]) {
        let Sizes { heads, query_len, key_len, head_dim, .. } = self.sizes;
        let &Tile { row, head, first, len, keys } = tile;
        if keys == 0 {
            return;
        }
        let query = query.matrix(row, head, first..first + len, head_dim);
        multiply(self.product(self.scale), query, key.transposed(), scores, keys, Into::Overwrite);
        vectorised(
            #[inline(always)]
            || {
                for (i, scores) in (first..first + len).zip(scores.chunks_exact_mut(keys)) {
                    if let Some(Bias { data, per_row }) = bias {
                        let row = if per_row { row } else { 0 };
                        let bias = &data[((row * heads + head) * query_len + i) * key_len..][..keys];
                        super::norm::add(scores, bias);
                    }
                    if let Some([queries, keys]) = &self.mask.segments {
                        let own = queries[row * query_len + i];
                        for (score, other) in scores.iter_mut().zip(&keys[row * key_len..]) {
                            let seen = own == *other && own != 0;
                            *score = if seen { *score } else { f32::NEG_INFINITY };
                        }
                    }
                    scores[self.limit(row, i).min(keys)..].fill(f32::NEG_INFINITY);
                }
            },
        );
    }

    /// The output, `[batch, query_len, heads, value_dim]`, and the logarithm of each query's sum of exponentials,
    /// `[batch, heads, query_len]`: `+∞`, and an output of zeros, where no key is seen.
    pub(crate) fn forward(
        &self,
        query: Heads<'_>,
        key: Heads<'_>,
        value: Heads<'_>,
        bias: Option<Bias<'_>>,
        out: &mut [f32],
        log_sums: &mut [f32],
    ) {
        let sizes = self.sizes;
        let Sizes { batch, heads, query_len, head_dim, value_dim, .. } = sizes;
        let outs = by_head(out, value_dim, batch * query_len, 1, heads);
        let outs = outs.into_iter().next().unwrap_or_default();
        let outs = by_row(outs, batch);
        each(log_sums.chunks_mut(query_len.max(1)).zip(outs).enumerate(), |(index, (log_sums, mut out))| {
            let (row, head) = (index / heads, index % heads);
            let shared = head / sizes.group();
            let mut scratch = Scratch::new(self);
            for tile in self.tiles(row, head) {
                let Tile { first, len, keys, .. } = tile;
                let keys_seen = key.matrix(row, shared, 0..keys, head_dim);
                let scores = &mut scratch.scores[..len * keys];
                self.scores(&tile, query, keys_seen, bias, scores);
                let inverses = self.softmax(&tile, scores, &mut scratch.factors, &mut log_sums[first..first + len]);
                let result = &mut scratch.rows[..len * value_dim];
                let values = value.matrix(row, shared, 0..keys, value_dim);
                multiply(
                    self.product(1.0),
                    Matrix::new(scores, [len, keys]),
                    values,
                    result,
                    value_dim,
                    Into::Overwrite,
                );
                for ((result, inverse), out) in result.chunks_exact(value_dim).zip(inverses).zip(&mut out[first..]) {
                    out.iter_mut().zip(result).for_each(|(out, x)| *out = x * inverse);
                }
            }
        });
    }

    /// Exponentials, times the factors of dropout, in the place of the scores of a tile; the inverse of each row's sum.
    fn softmax(&self, tile: &Tile, scores: &mut [f32], factors: &mut [f32], log_sums: &mut [f32]) -> [f32; TILE] {
        let mut inverses = [0.0; TILE];
        if tile.keys == 0 {
            log_sums.fill(f32::INFINITY);
            return inverses;
        }
        vectorised(
            #[inline(always)]
            || {
                let rows = scores.chunks_exact_mut(tile.keys).zip(log_sums.iter_mut()).zip(&mut inverses);
                for (at, ((scores, log_sum), inverse)) in rows.enumerate() {
                    let top = maximum(scores).max(f32::MIN);
                    for score in scores.iter_mut() {
                        *score = exp(*score - top);
                    }
                    let total = sum(scores.len(), |j| scores[j]);
                    // Where nothing is seen; a NaN goes the other way.
                    let empty = total == 0.0;
                    *log_sum = if empty { f32::INFINITY } else { top + total.ln() };
                    *inverse = if empty { 0.0 } else { 1.0 / total };
                    if let Some(noise) = self.noise {
                        let factors = &mut factors[..scores.len()];
                        noise.fill(self.position(tile, at), factors);
                        scores.iter_mut().zip(factors).for_each(|(score, factor)| *score *= *factor);
                    }
                }
            },
        );
        inverses
    }

    /// The position of the first weight of the tile's query `at` among all weights, which its noise depends on.
    fn position(&self, tile: &Tile, at: usize) -> u64 {
        let Sizes { heads, query_len, key_len, .. } = self.sizes;
        (((tile.row * heads + tile.head) * query_len + tile.first + at) * key_len) as u64
    }

    /// The gradients of query, key, value and bias, from that of the output.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn backward(
        &self,
        [query, key, value]: [Heads<'_>; 3],
        bias: Option<Bias<'_>>,
        output: Heads<'_>,
        gradient: Heads<'_>,
        log_sums: &[f32],
        gradients: Gradients<'_>,
        bias_gradient: Option<&mut [f32]>,
    ) {
        let saved = Saved { query, key, value, bias, output, gradient, log_sums };
        let per_row = bias.is_some_and(|bias| bias.per_row);
        let units = self.units(gradients);
        each(self.tasks(units, bias_gradient, per_row).into_iter(), |mut task| {
            let mut scratch = BackwardScratch::new(self);
            for unit in &mut task.units {
                self.backward_unit(unit, &mut task.bias, &saved, &mut scratch);
            }
        });
    }

    /// The rows of the gradients, sorted by who computes them.
    fn units<'a>(&self, gradients: Gradients<'a>) -> Vec<Unit<'a>> {
        let Sizes { batch, heads, kv_heads, query_len, key_len, head_dim, value_dim } = self.sizes;
        let one = |slice, size, positions, heads| {
            by_head(slice, size, positions, 1, heads).into_iter().next().unwrap_or_default()
        };
        let [query, key, value] = match gradients {
            Gradients::Apart([query, key, value]) => [
                one(query, head_dim, batch * query_len, heads),
                one(key, head_dim, batch * key_len, kv_heads),
                one(value, value_dim, batch * key_len, kv_heads),
            ],
            Gradients::Packed(all) => {
                let mut parts = by_head(all, head_dim, batch * query_len, 3, heads).into_iter();
                std::array::from_fn(|_| parts.next().unwrap_or_default())
            }
        };
        let mut query = by_row(query, batch).into_iter();
        let keys = by_row(key, batch).into_iter().zip(by_row(value, batch));
        keys.enumerate()
            .map(|(index, (key, value))| Unit {
                row: index / kv_heads,
                shared: index % kv_heads,
                query: query.by_ref().take(self.sizes.group()).collect(),
                key,
                value,
            })
            .collect()
    }

    /// A unit is a task of its own, unless rows of the batch add to one gradient of the bias.
    fn tasks<'a>(&self, units: Vec<Unit<'a>>, bias: Option<&'a mut [f32]>, per_row: bool) -> Vec<Task<'a>> {
        let Sizes { kv_heads, query_len, key_len, .. } = self.sizes;
        let Some(bias) = bias else {
            return units.into_iter().map(|unit| Task { units: vec![unit], bias: Vec::new() }).collect();
        };
        let mut heads = bias.chunks_exact_mut(query_len * key_len);
        let count = if per_row { units.len() } else { kv_heads };
        let mut tasks: Vec<Task<'a>> = (0..count)
            .map(|_| Task { units: Vec::new(), bias: heads.by_ref().take(self.sizes.group()).collect() })
            .collect();
        for (index, unit) in units.into_iter().enumerate() {
            tasks[index % count].units.push(unit);
        }
        tasks
    }

    fn backward_unit(
        &self,
        unit: &mut Unit<'_>,
        bias: &mut [&mut [f32]],
        saved: &Saved<'_>,
        scratch: &mut BackwardScratch,
    ) {
        let Sizes { heads, query_len, key_len, head_dim, value_dim, .. } = self.sizes;
        let Unit { row, shared, .. } = *unit;
        scratch.key.fill(0.0);
        scratch.value.fill(0.0);
        for (member, query_rows) in unit.query.iter_mut().enumerate() {
            let head = shared * self.sizes.group() + member;
            for tile in self.tiles(row, head) {
                let Tile { first, len, keys, .. } = tile;
                if keys == 0 {
                    query_rows[first..first + len].iter_mut().for_each(|row| row.fill(0.0));
                    continue;
                }
                let key = saved.key.matrix(row, shared, 0..keys, head_dim);
                let value = saved.value.matrix(row, shared, 0..keys, value_dim);
                let query = saved.query.matrix(row, head, first..first + len, head_dim);
                let gradient = saved.gradient.matrix(row, head, first..first + len, value_dim);
                let (weights, slopes) = (&mut scratch.forward.scores[..len * keys], &mut scratch.slopes[..len * keys]);
                self.scores(&tile, saved.query, key, saved.bias, weights);
                multiply(self.product(1.0), gradient, value.transposed(), slopes, keys, Into::Overwrite);
                let log_sums = &saved.log_sums[(row * heads + head) * query_len + first..][..len];
                self.slopes(&tile, saved, log_sums, weights, slopes, &mut scratch.forward.factors);

                let (weights, slopes) = (Matrix::new(weights, [len, keys]), Matrix::new(slopes, [len, keys]));
                multiply(self.product(1.0), weights.transposed(), gradient, &mut scratch.value, value_dim, Into::Add);
                multiply(self.product(self.scale), slopes.transposed(), query, &mut scratch.key, head_dim, Into::Add);
                let result = &mut scratch.forward.rows[..len * head_dim];
                multiply(self.product(self.scale), slopes, key, result, head_dim, Into::Overwrite);
                for (result, row) in result.chunks_exact(head_dim).zip(&mut query_rows[first..]) {
                    row.copy_from_slice(result);
                }
                if let Some(bias) = bias.get_mut(member) {
                    for (slopes, i) in scratch.slopes[..len * keys].chunks_exact(keys).zip(first..) {
                        super::norm::add(&mut bias[i * key_len..][..keys], slopes);
                    }
                }
            }
        }
        let copy = |rows: &mut [&mut [f32]], from: &[f32], size| {
            rows.iter_mut().zip(from.chunks_exact(size)).for_each(|(row, from)| row.copy_from_slice(from));
        };
        copy(&mut unit.key, &scratch.key, head_dim);
        copy(&mut unit.value, &scratch.value, value_dim);
    }

    /// From scores and the gradient of the weights: the weights that values were multiplied with, and the gradient of the
    /// scores, both in place.
    fn slopes(
        &self,
        tile: &Tile,
        saved: &Saved<'_>,
        log_sums: &[f32],
        weights: &mut [f32],
        slopes: &mut [f32],
        factors: &mut [f32],
    ) {
        let Sizes { value_dim, .. } = self.sizes;
        vectorised(
            #[inline(always)]
            || {
                let rows = weights.chunks_exact_mut(tile.keys).zip(slopes.chunks_exact_mut(tile.keys)).zip(log_sums);
                for (at, ((weights, slopes), log_sum)) in rows.enumerate() {
                    let output = saved.output.position(tile.row, tile.head, tile.first + at, value_dim);
                    let gradient = saved.gradient.position(tile.row, tile.head, tile.first + at, value_dim);
                    let delta = sum(value_dim, |d| output[d] * gradient[d]);
                    let Some(noise) = self.noise else {
                        for (weight, slope) in weights.iter_mut().zip(slopes) {
                            *weight = exp(*weight - log_sum);
                            *slope = *weight * (*slope - delta);
                        }
                        continue;
                    };
                    let factors = &mut factors[..tile.keys];
                    noise.fill(self.position(tile, at), factors);
                    for ((weight, slope), factor) in weights.iter_mut().zip(slopes).zip(factors) {
                        let probability = exp(*weight - log_sum);
                        *weight = probability * *factor;
                        *slope = probability * slope.mul_add(*factor, -delta);
                    }
                }
            },
        );
    }
}

/// Where the gradients of query, key and value go.
pub(crate) enum Gradients<'a> {
    /// `[batch, query_len, heads, head_dim]`, `[batch, key_len, kv_heads, head_dim]`, `[batch, key_len, kv_heads, value_dim]`.
    Apart([&'a mut [f32]; 3]),
    /// `[batch, len, 3, heads, head_dim]`.
    Packed(&'a mut [f32]),
}

/// What the backward pass reads.
struct Saved<'a> {
    query: Heads<'a>,
    key: Heads<'a>,
    value: Heads<'a>,
    bias: Option<Bias<'a>>,
    output: Heads<'a>,
    gradient: Heads<'a>,
    log_sums: &'a [f32],
}

/// The gradients that belong to one key head of one row: of the queries that share it, and its own.
struct Unit<'a> {
    row: usize,
    shared: usize,
    query: Vec<Rows<'a>>,
    key: Rows<'a>,
    value: Rows<'a>,
}

/// Units that one thread computes, one after another, with the gradients of the bias of their heads.
struct Task<'a> {
    units: Vec<Unit<'a>>,
    bias: Vec<&'a mut [f32]>,
}

/// What a task computes in.
struct Scratch {
    /// `[tile, key_len]`
    scores: Vec<f32>,
    /// `[tile, head_dim or value_dim]`
    rows: Vec<f32>,
    /// `[key_len]`, where there is dropout.
    factors: Vec<f32>,
}

impl Scratch {
    fn new(attention: &Attention) -> Self {
        let Sizes { key_len, head_dim, value_dim, .. } = attention.sizes;
        let tile = attention.sizes.tile();
        Self {
            scores: vec![0.0; tile * key_len],
            rows: vec![0.0; tile * head_dim.max(value_dim)],
            factors: vec![0.0; if attention.noise.is_some() { key_len } else { 0 }],
        }
    }
}

/// What a task of the backward pass computes in.
struct BackwardScratch {
    forward: Scratch,
    /// `[tile, key_len]`
    slopes: Vec<f32>,
    /// `[key_len, head_dim]`
    key: Vec<f32>,
    /// `[key_len, value_dim]`
    value: Vec<f32>,
}

impl BackwardScratch {
    fn new(attention: &Attention) -> Self {
        let Sizes { key_len, head_dim, value_dim, .. } = attention.sizes;
        let forward = Scratch::new(attention);
        Self {
            slopes: vec![0.0; forward.scores.len()],
            key: vec![0.0; key_len * head_dim],
            value: vec![0.0; key_len * value_dim],
            forward,
        }
    }
}

/// The places of the positions of one head, in their order.
type Rows<'a> = Vec<&'a mut [f32]>;

/// `[positions, parts, heads, size]` in `slice`: for each part and head its rows.
fn by_head(slice: &mut [f32], size: usize, positions: usize, parts: usize, heads: usize) -> Vec<Vec<Rows<'_>>> {
    let empty = |_| (0..heads).map(|_| Vec::with_capacity(positions)).collect();
    let mut sorted: Vec<Vec<Rows<'_>>> = (0..parts).map(empty).collect();
    for (index, row) in slice.chunks_exact_mut(size).enumerate() {
        sorted[index / heads % parts][index % heads].push(row);
    }
    sorted
}

/// The rows of each head, cut into those of the rows of a batch: `[batch, heads]`.
fn by_row(heads: Vec<Rows<'_>>, batch: usize) -> Vec<Rows<'_>> {
    let count = heads.len();
    let mut sorted: Vec<Rows<'_>> = (0..batch * count).map(|_| Vec::new()).collect();
    for (head, rows) in heads.into_iter().enumerate() {
        let len = rows.len() / batch.max(1);
        for (position, row) in rows.into_iter().enumerate() {
            sorted[position / len.max(1) * count + head].push(row);
        }
    }
    sorted
}
