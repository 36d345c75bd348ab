//! Scaled dot-product attention without the matrix of all scores, after Dao et al. 2022: a cube a tile of queries (or of keys),
//! which takes the other side a tile at a time into shared memory.
//!
//! Tiles are square, and [`LANES`] units work on each of their rows. A unit computes the scores of its row's columns `lane`,
//! `lane + LANES`, ..., and adds up the same columns of the result.

mod backward;
mod forward;

use burn::backend::{TensorMetadata, cubecl::dtype_to_elem_type};
use burn_cubecl::{
    cubecl::{
        self,
        ir::{ElemType, HardwareProperties},
        prelude::*,
    },
    kernel::into_contiguous,
    tensor::CubeTensor,
};

pub(crate) use self::{
    backward::{Outcome, bias_backward, key_value_backward, query_backward},
    forward::forward,
};
use super::philox::{Factors, factor, factors, words};
use crate::{fused::Rules, host::attention::Sizes};

/// Units that work on a row of a tile.
const LANES: usize = 8;
/// Sides that a tile may have.
const TILES: [usize; 3] = [32, 16, 8];
/// The largest size of a head: more would leave too little shared memory for tiles.
const LARGEST_HEAD: usize = 128;
/// Buffers that the kernel with the most of them binds, besides bias and mask: query, key, value, the output's gradient, two
/// numbers a query, the result, and CubeCL's own. WebGPU promises 8, of which CubeCL leaves one to wgpu.
const BINDINGS: u32 = 7;

/// The score of a key that isn't seen, and the least that a bias counts as. Finite, because WGSL doesn't promise infinities.
const UNSEEN: f32 = -1e38;
/// What a row's largest score is at least, far above [`UNSEEN`], so that a row without a key gets weights of zero.
const LOWEST_TOP: f32 = -1e29;
/// The logarithm of the sum of exponentials of a row without a key: any score less this has an exponential of zero.
const NO_KEY: f32 = 1e30;

/// The tensors that scores are made of; any strides. Query, key and value are of one float type, which may have 16 bits: they are
/// converted as they come into shared memory, and everything is computed, and written, in `f32`.
pub(crate) struct Inputs {
    /// `[batch, heads, query_len, head_dim]`
    pub(crate) query: CubeTensor,
    /// `[batch, kv_heads, key_len, head_dim]`
    pub(crate) key: CubeTensor,
    /// `[batch, kv_heads, key_len, value_dim]`
    pub(crate) value: CubeTensor,
    /// `[1 or batch, heads, query_len, key_len]`
    pub(crate) bias: Option<CubeTensor>,
    /// `[i32]`: how many keys each row has, `[batch]`, or the segments of queries and keys, `[batch, query_len + key_len]`.
    pub(crate) mask: Option<CubeTensor>,
}

/// Whether the kernels take heads of these sizes on a device, with so many of bias and mask.
pub(crate) fn suits(client: &Client, head_dim: usize, value_dim: usize, extra: u32) -> bool {
    let (largest, hardware) = (head_dim.max(value_dim), &client.properties().hardware);
    largest > 0
        && largest <= LARGEST_HEAD
        && hardware.max_bindings >= BINDINGS + extra
        && side(hardware, largest).is_some()
}

/// The side of the tiles: the largest whose tiles fit.
fn side(hardware: &HardwareProperties, largest: usize) -> Option<usize> {
    TILES.into_iter().find(|side| {
        let numbers = 3 * side * pitch(largest) + side * (side + 1) + side * LANES;
        4 * numbers <= hardware.max_shared_memory_size && side * LANES <= hardware.max_units_per_cube as usize
    })
}

/// From one row of a tile in shared memory to the next: odd, so that the rows of a column lie in different banks.
fn pitch(largest: usize) -> usize {
    largest.next_multiple_of(LANES) + 1
}

/// What kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Plan {
    side: usize,
    pitch: usize,
    head_dim: usize,
    value_dim: usize,
    causal: bool,
    segments: bool,
}

impl Inputs {
    fn sizes(&self) -> Sizes {
        let [batch, heads, query_len, head_dim] = self.query.shape().dims();
        let [_, kv_heads, key_len, value_dim] = self.value.shape().dims();
        Sizes { batch, heads, kv_heads, query_len, key_len, head_dim, value_dim }
    }

    fn plan(&self, rules: Rules) -> Plan {
        let Sizes { head_dim, value_dim, .. } = self.sizes();
        let largest = head_dim.max(value_dim);
        let side = side(&self.query.client.properties().hardware, largest);
        Plan {
            // `suits` has found one.
            side: side.unwrap_or(LANES),
            pitch: pitch(largest),
            head_dim,
            value_dim,
            causal: rules.causal,
            segments: self.mask.as_ref().is_some_and(|mask| mask.rank() == 2),
        }
    }

    /// The type of query, key and value.
    fn element(&self) -> ElemType {
        dtype_to_elem_type(self.query.dtype)
    }

    /// The kernels' argument for all but query, key and value.
    fn scores(&mut self, rules: Rules) -> ScoresLaunch {
        let Sizes { batch, heads, kv_heads, query_len, key_len, .. } = self.sizes();
        let bias = self.bias.take().map(into_contiguous);
        let per_row = bias.as_ref().is_some_and(|bias| bias.shape()[0] > 1);
        ScoresLaunch::new(
            bias.map(CubeTensor::into_buffer_arg).into(),
            self.mask.take().map(|mask| into_contiguous(mask).into_buffer_arg()).into(),
            rules.noise.as_ref().map(factors).into(),
            rules.scale,
            usize::from(per_row),
            batch,
            heads,
            kv_heads,
            query_len,
            key_len,
        )
    }
}

/// What makes scores of products.
#[derive(CubeType, CubeLaunch)]
struct Scores {
    bias: ComptimeOption<Box<[f32]>>,
    mask: ComptimeOption<Box<[i32]>>,
    noise: ComptimeOption<Factors>,
    scale: f32,
    /// 1 if each row of the batch has its own bias, else 0.
    bias_rows: usize,
    batch: usize,
    heads: usize,
    kv_heads: usize,
    query_len: usize,
    key_len: usize,
}

/// A head of a row of the batch.
#[derive(CubeType, Clone, Copy)]
struct Place {
    row: usize,
    head: usize,
}

/// How many keys query `i` sees at most.
#[cube]
fn limit(scores: &Scores, row: usize, i: usize, #[comptime] plan: Plan) -> usize {
    let mut limit = scores.key_len;
    if plan.causal {
        limit = min(limit, i + 1 + scores.key_len - scores.query_len);
    }
    #[comptime]
    if let ComptimeOption::Some(mask) = &scores.mask {
        if comptime!(!plan.segments) {
            limit = min(limit, max(mask[row], 0) as usize);
        }
    }
    limit
}

/// The score of query `i` and key `j`, whose product is `dot`.
#[cube]
fn score(scores: &Scores, place: &Place, i: usize, j: usize, dot: f32, #[comptime] plan: Plan) -> f32 {
    let mut score = UNSEEN.runtime();
    if i < scores.query_len && j < limit(scores, place.row, i, plan) {
        score = dot * scores.scale;
        #[comptime]
        if let ComptimeOption::Some(bias) = &scores.bias {
            let line = (place.row * scores.bias_rows * scores.heads + place.head) * scores.query_len + i;
            score += max(bias[line * scores.key_len + j], UNSEEN);
        }
        #[comptime]
        if let ComptimeOption::Some(mask) = &scores.mask {
            if comptime!(plan.segments) {
                let start = place.row * (scores.query_len + scores.key_len);
                let own = mask[start + i];
                if own == 0 || own != mask[start + scores.query_len + j] {
                    score = UNSEEN.runtime();
                }
            }
        }
    }
    score
}

/// What dropout multiplies the weight of query `i` and key `j` with. Positions may need more than 32 bits.
#[cube]
fn dropped(scores: &Scores, place: &Place, i: usize, j: usize) -> f32 {
    #[comptime]
    let result = match &scores.noise {
        ComptimeOption::Some(factors) => {
            let line = ((place.row * scores.heads + place.head) * scores.query_len + i) as u32;
            let keys = scores.key_len as u32;
            let start = line * keys;
            let low = start + j as u32;
            let high = line.mul_hi(keys) + select(low < start, 1u32, 0u32);
            let block = (((low >> 2u32) | (high << 30u32)) & 0xFFFF_FFF0u32) | (low & 15u32);
            let (a, b, c, d) = words(block, high >> 2u32, factors);
            let word = (low >> 4u32) & 3u32;
            let bits = select(word < 2u32, select(word == 0u32, a, b), select(word == 2u32, c, d));
            factor(bits, factors)
        }
        ComptimeOption::None => 1.0f32.runtime(),
    };
    result
}

/// Copies positions `first..first + side` of a head into shared memory, with zeros for positions from `len` on and for
/// columns from `size` on.
#[cube]
fn load<E: Numeric>(
    tensor: &Tensor<E>,
    place: &Place,
    first: usize,
    len: usize,
    tile: &mut Shared<[f32]>,
    #[comptime] size: usize,
    #[comptime] plan: Plan,
) {
    let columns = comptime!(size.next_multiple_of(LANES));
    let start = place.row * tensor.stride(0) + place.head * tensor.stride(1);
    for index in range_stepped(UNIT_POS as usize, plan.side * columns, plan.side * LANES) {
        let (position, column) = (index / columns, index % columns);
        let mut number = 0.0f32;
        if first + position < len && column < size {
            number = f32::cast_from(tensor[start + (first + position) * tensor.stride(2) + column * tensor.stride(3)]);
        }
        tile[position * plan.pitch + column] = number;
    }
}

/// `found[n] = lhs[row] · rhs[lane + LANES · n]`.
#[cube]
fn dots(
    lhs: &Shared<[f32]>,
    rhs: &Shared<[f32]>,
    found: &mut Array<f32>,
    #[comptime] size: usize,
    #[comptime] plan: Plan,
) {
    let (row, lane) = (UNIT_POS as usize / LANES, UNIT_POS as usize % LANES);
    #[unroll]
    for n in 0..plan.side / LANES {
        found[n] = 0.0f32;
    }
    for column in 0..size {
        let own = lhs[row * plan.pitch + column];
        #[unroll]
        for n in 0..plan.side / LANES {
            found[n] += own * rhs[(lane + n * LANES) * plan.pitch + column];
        }
    }
}

/// `sums[n] += Σ weights[row, i] · tile[i, lane + LANES · n]`.
#[cube]
fn add_products(
    weights: &Shared<[f32]>,
    tile: &Shared<[f32]>,
    sums: &mut Array<f32>,
    #[comptime] size: usize,
    #[comptime] plan: Plan,
) {
    let (row, lane) = (UNIT_POS as usize / LANES, UNIT_POS as usize % LANES);
    for i in 0..plan.side {
        let weight = weights[row * (plan.side + 1) + i];
        #[unroll]
        for n in 0..size.div_ceil(LANES) {
            sums[n] += weight * tile[i * plan.pitch + lane + n * LANES];
        }
    }
}

/// Zeros for the columns of a row that a unit adds up.
#[cube]
fn zeros(#[comptime] size: usize) -> Array<f32> {
    let mut sums = Array::<f32>::new(comptime!(size.div_ceil(LANES)));
    #[unroll]
    for n in 0..size.div_ceil(LANES) {
        sums[n] = 0.0f32;
    }
    sums
}

/// Writes a unit's columns, times `factor`, of the row that starts at `start`.
#[cube]
fn store(sums: &Array<f32>, out: &mut [f32], start: usize, factor: f32, #[comptime] size: usize) {
    let lane = UNIT_POS as usize % LANES;
    #[unroll]
    for n in 0..size.div_ceil(LANES) {
        let column = lane + n * LANES;
        if column < size {
            out[start + column] = sums[n] * factor;
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::backend::DispatchDevice;

    use super::*;
    use crate::{RandomKey, host::elementwise::Noise};

    #[cube(launch)]
    fn factors_kernel(scores: &Scores, out: &mut [f32], row: usize, head: usize, i: usize) {
        let j = ABSOLUTE_POS;
        if j < out.len() {
            out[j] = dropped(scores, &Place { row, head }, i, j);
        }
    }

    /// The last query of the last head, whose weights stand far beyond the 2³²th.
    #[test]
    fn noise_is_that_of_the_host_beyond_32_bits() {
        let device = fornax_backend::test_device();
        let DispatchDevice::Cube(device) = device.as_dispatch() else { return };
        let (client, noise, len) = (device.client(), Noise::new(0.4, RandomKey::new(3)), 100);
        let [batch, heads, query_len, key_len] = [4, 7, 40_000, 40_001];
        let line = batch * heads * query_len - 1;
        let mut expected = vec![0.0; len];
        noise.fill(line as u64 * key_len as u64, &mut expected);

        let scores = ScoresLaunch::new(
            None.into(),
            None.into(),
            Some(factors(&noise)).into(),
            1.0,
            0,
            batch,
            heads,
            heads,
            query_len,
            key_len,
        );
        let out = client.empty(len * size_of::<f32>());
        let arg = CubeTensor::new_contiguous(
            client.clone(),
            device.clone(),
            [len].into(),
            out.clone(),
            burn::tensor::DType::F32,
        );
        factors_kernel::launch(
            &client,
            CubeCount::Static(1, 1, 1),
            CubeDim::new_1d(128),
            scores,
            arg.into_buffer_arg(),
            batch - 1,
            heads - 1,
            query_len - 1,
        );
        assert_eq!(f32::from_bytes(&client.read_one_unchecked(out)), expected);
    }
}
