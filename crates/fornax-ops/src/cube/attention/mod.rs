//! Scaled dot-product attention without the matrix of all scores, after Dao et al. 2022: a cube a tile of queries (or of keys),
//! which takes the other side a tile at a time into shared memory.
//!
//! Tiles are square, and [`LANES`] units work on each of their rows. A unit computes the scores of its row's columns `lane`,
//! `lane + LANES`, ..., and adds up the same columns of the result. Where a device has matrix units for a 16-bit type, these make the
//! products from tiles of that type, and leave them in shared memory for the units of their rows.

mod backward;
mod forward;

use burn::{
    backend::{TensorMetadata, cubecl::dtype_to_elem_type},
    tensor::DType,
};
use burn_cubecl::{
    cubecl::{self, cmma, ir::ElemType, prelude::*},
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

/// What the address of a tile in shared memory is a multiple of, in bytes: matrix units want that.
const ALIGNMENT: usize = 32;

/// The score of a key that isn't seen, and the least that a bias counts as. Finite, because WGSL doesn't promise infinities.
const UNSEEN: f32 = -1e38;
/// What a row's largest score is at least, far above [`UNSEEN`], so that a row without a key gets weights of zero.
const LOWEST_TOP: f32 = -1e29;
/// The logarithm of the sum of exponentials of a row without a key: any score less this has an exponential of zero.
const NO_KEY: f32 = 1e30;

/// The tensors that scores are made of; any strides. Query, key and value are of one float type, which may have 16 bits: they are
/// converted as they come into shared memory, and computed, and written, in `f32`; only what matrix units
/// multiply, which are also weights and gradients, stays in 16 bits.
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
    let largest = head_dim.max(value_dim);
    largest > 0
        && largest <= LARGEST_HEAD
        && client.properties().hardware.max_bindings >= BINDINGS + extra
        && Tiles::new(client, largest, None).is_some()
}

/// The product that a plane's matrix unit makes at a time: `[m, k]` by `[k, n]`, powers of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Units {
    m: usize,
    n: usize,
    k: usize,
}

impl Units {
    /// Those of a device for a type of 16 bits, whose products are added up in `f32`.
    fn of(client: &Client, element: ElemType, side: usize) -> Option<Self> {
        let properties = client.properties();
        let [half, brain, sum] = [DType::F16, DType::BF16, DType::F32].map(dtype_to_elem_type);
        let full_planes = (side * LANES).is_multiple_of(properties.hardware.plane_size_max as usize);
        if ![half, brain].contains(&element) || !full_planes {
            return None;
        }
        let known = properties.features.matmul.cmma.iter();
        let known = known.filter(|known| known.a_type == element && known.b_type == element && known.cd_type == sum);
        Self::largest(known.map(|known| [known.m, known.n, known.k].map(|size| size as usize)), side)
    }

    /// Of these sizes the largest that tiles of a side are made of, square if possible.
    fn largest(sizes: impl Iterator<Item = [usize; 3]>, side: usize) -> Option<Self> {
        let fits = |size: &usize| size.is_multiple_of(LANES) && side.is_multiple_of(*size);
        let [m, n, k] = sizes.filter(|sizes| sizes.iter().all(fits)).max_by_key(|[m, n, k]| (m * n * k, *m.min(n)))?;
        Some(Self { m, n, k })
    }
}

/// Tiles in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Tiles {
    side: usize,
    /// From one row of a tile to the next.
    pitch: usize,
    units: Option<Units>,
}

impl Tiles {
    /// The largest that fit a device, for heads of that size, with matrix units where they multiply this type.
    fn new(client: &Client, largest: usize, element: Option<ElemType>) -> Option<Self> {
        let hardware = &client.properties().hardware;
        let all =
            TILES.into_iter().filter(|side| side * LANES <= hardware.max_units_per_cube as usize).flat_map(|side| {
                let units = element.and_then(|element| Units::of(client, element, side));
                units.map(Some).into_iter().chain([None]).map(move |units| Self::with(side, largest, units))
            });
        all.into_iter().find(|tiles| tiles.bytes() <= hardware.max_shared_memory_size)
    }

    fn with(side: usize, largest: usize, units: Option<Units>) -> Self {
        let mut tiles = Self { side, pitch: 0, units };
        tiles.pitch = tiles.columns(largest) + tiles.gap();
        tiles
    }

    /// So many columns with those of zeros behind them, up to a whole share of a unit, or product of a matrix unit.
    fn columns(self, size: usize) -> usize {
        size.next_multiple_of(self.units.map_or(LANES, |units| units.n.max(units.k)))
    }

    /// Numbers between two rows. Odd, so that the rows of a column lie in different banks; for matrix units, which want rows to
    /// start at multiples of 16 bytes, the least of these.
    fn gap(self) -> usize {
        if self.units.is_some() { 8 } else { 1 }
    }

    /// The pitch of the tile of weights.
    fn weights_pitch(self) -> usize {
        self.side + self.gap()
    }

    /// The pitch of what matrix units leave for the units of its rows.
    fn products_pitch(self) -> usize {
        self.pitch.max(self.weights_pitch())
    }

    /// The length of that.
    fn products(self) -> usize {
        if self.units.is_some() { self.side * self.products_pitch() } else { 1 }
    }

    /// Bytes of shared memory, for the kernel with the most tiles.
    fn bytes(self) -> usize {
        let element = if self.units.is_some() { 2 } else { 4 };
        let tiles = 3 * self.side * self.pitch + self.side * self.weights_pitch();
        element * tiles + 4 * (self.side * LANES + self.products()) + 5 * ALIGNMENT
    }
}

/// What kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Plan {
    tiles: Tiles,
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
        let tiles = Tiles::new(&self.query.client, largest, Some(self.element()));
        Plan {
            // `suits` has found some.
            tiles: tiles.unwrap_or(Tiles::with(LANES, largest, None)),
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

    /// That type, and the type of tiles.
    fn elements(&self, plan: Plan) -> [ElemType; 2] {
        let tiles = plan.tiles.units.map_or(dtype_to_elem_type(DType::F32), |_| self.element());
        [self.element(), tiles]
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
fn load<E: Numeric, T: Numeric>(
    tensor: &Tensor<E>,
    place: &Place,
    first: usize,
    len: usize,
    tile: &mut Shared<[T]>,
    #[comptime] size: usize,
    #[comptime] tiles: Tiles,
) {
    let columns = comptime!(tiles.columns(size));
    let start = place.row * tensor.stride(0) + place.head * tensor.stride(1);
    for index in range_stepped(UNIT_POS as usize, tiles.side * columns, tiles.side * LANES) {
        let (position, column) = (index / columns, index % columns);
        let mut number = T::from_int(0);
        if first + position < len && column < size {
            number = T::cast_from(tensor[start + (first + position) * tensor.stride(2) + column * tensor.stride(3)]);
        }
        tile[position * tiles.pitch + column] = number;
    }
}

/// `found[n] = lhs[row] · rhs[lane + LANES · n]`. With matrix units, `products` must not be read any more by another unit.
#[cube]
fn dots<T: Numeric>(
    lhs: &Shared<[T]>,
    rhs: &Shared<[T]>,
    products: &mut Shared<[f32]>,
    found: &mut Array<f32>,
    #[comptime] size: usize,
    #[comptime] tiles: Tiles,
) {
    let (row, lane) = (UNIT_POS as usize / LANES, UNIT_POS as usize % LANES);
    if comptime!(tiles.units.is_some()) {
        let depth = comptime!(tiles.columns(size));
        multiply(lhs, rhs, products, tiles.pitch, depth, tiles.side, cmma::MatrixLayout::ColMajor, tiles);
        sync_cube();
        #[unroll]
        for n in 0..tiles.side / LANES {
            found[n] = products[row * comptime!(tiles.products_pitch()) + lane + n * LANES];
        }
    } else {
        #[unroll]
        for n in 0..tiles.side / LANES {
            found[n] = 0.0f32;
        }
        for column in 0..size {
            let own = f32::cast_from(lhs[row * tiles.pitch + column]);
            #[unroll]
            for n in 0..tiles.side / LANES {
                found[n] += own * f32::cast_from(rhs[(lane + n * LANES) * tiles.pitch + column]);
            }
        }
    }
}

/// `sums[n] += Σ weights[row, i] · tile[i, lane + LANES · n]`. `products` as for [`dots`].
#[cube]
fn add_products<T: Numeric>(
    weights: &Shared<[T]>,
    tile: &Shared<[T]>,
    products: &mut Shared<[f32]>,
    sums: &mut Array<f32>,
    #[comptime] size: usize,
    #[comptime] tiles: Tiles,
) {
    let (row, lane) = (UNIT_POS as usize / LANES, UNIT_POS as usize % LANES);
    let pitch = comptime!(tiles.weights_pitch());
    if comptime!(tiles.units.is_some()) {
        let width = comptime!(tiles.columns(size));
        multiply(weights, tile, products, pitch, tiles.side, width, cmma::MatrixLayout::RowMajor, tiles);
        sync_cube();
        #[unroll]
        for n in 0..size.div_ceil(LANES) {
            sums[n] += products[row * comptime!(tiles.products_pitch()) + lane + n * LANES];
        }
    } else {
        for i in 0..tiles.side {
            let weight = f32::cast_from(weights[row * pitch + i]);
            #[unroll]
            for n in 0..size.div_ceil(LANES) {
                sums[n] += weight * f32::cast_from(tile[i * tiles.pitch + lane + n * LANES]);
            }
        }
    }
}

/// `products[i, j] = Σ lhs[i, x] · rhs[x, j]` by matrix units, for `side` rows, `width` columns and a sum over `depth`; a plane takes
/// every so many of their products. `layout` tells whether `rhs` has its rows or its columns one after the other.
#[cube]
fn multiply<T: Numeric>(
    lhs: &Shared<[T]>,
    rhs: &Shared<[T]>,
    products: &mut Shared<[f32]>,
    #[comptime] lhs_pitch: usize,
    #[comptime] depth: usize,
    #[comptime] width: usize,
    #[comptime] layout: cmma::MatrixLayout,
    #[comptime] tiles: Tiles,
) {
    let Units { m, n, k } = comptime!(tiles.units.unwrap_or(Units { m: 1, n: 1, k: 1 }));
    let planes = CUBE_DIM as usize / PLANE_DIM as usize;
    let across = comptime!(width / n);
    let pitch = comptime!(tiles.products_pitch());
    for product in range_stepped(PLANE_POS as usize, comptime!(tiles.side / m * across), planes) {
        let (i, j) = (product / across * m, product % across * n);
        let sum = cmma::Matrix::<f32>::from_value(
            cmma::MatrixIdent::Accumulator,
            m,
            n,
            k,
            cmma::MatrixLayout::Undefined,
            0.0f32,
        );
        #[unroll]
        for step in 0..depth / k {
            let x = comptime!(step * k);
            let start = i * lhs_pitch + x;
            let a = cmma::Matrix::<T>::from_slice(
                cmma::MatrixIdent::A,
                m,
                n,
                k,
                cmma::MatrixLayout::RowMajor,
                &lhs[start..lhs.len()],
                lhs_pitch as u32,
            );
            let start = if comptime!(matches!(layout, cmma::MatrixLayout::ColMajor)) {
                j * tiles.pitch + x
            } else {
                x * tiles.pitch + j
            };
            let b = cmma::Matrix::<T>::from_slice(
                cmma::MatrixIdent::B,
                m,
                n,
                k,
                layout,
                &rhs[start..rhs.len()],
                tiles.pitch as u32,
            );
            cmma::execute(&a, &b, &sum, &sum);
        }
        let (start, end) = (i * pitch + j, products.len());
        cmma::store(&mut products[start..end], &sum, pitch as u32, cmma::MatrixLayout::RowMajor);
    }
}

/// A tile in shared memory.
#[cube]
fn shared_tile<T: Numeric>(#[comptime] len: usize) -> Shared<[T]> {
    Shared::<[T]>::new_aligned_slice(len, ALIGNMENT)
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

    use burn_cubecl::cubecl::ir::features::MmaConfig;

    use super::*;
    use crate::{RandomKey, host::elementwise::Noise};

    #[cube(launch)]
    fn factors_kernel(scores: &Scores, out: &mut [f32], row: usize, head: usize, i: usize) {
        let j = ABSOLUTE_POS;
        if j < out.len() {
            out[j] = dropped(scores, &Place { row, head }, i, j);
        }
    }

    #[test]
    fn matrix_units_are_the_largest_that_make_whole_tiles() {
        let largest = |sizes: &[[usize; 3]], side| Units::largest(sizes.iter().copied(), side);
        let nvidia = [[16, 16, 16], [16, 8, 16], [16, 8, 8], [32, 8, 16], [8, 32, 16]];
        assert_eq!(largest(&nvidia, 32), Some(Units { m: 16, n: 16, k: 16 }));
        assert_eq!(largest(&nvidia, 8), None);
        assert_eq!(largest(&[[8, 8, 8], [64, 64, 16], [16, 16, 4]], 32), Some(Units { m: 8, n: 8, k: 8 }));
    }

    #[test]
    fn matrix_units_of_the_device_multiply_16_bits_alone() {
        let device = fornax_backend::test_device();
        let DispatchDevice::Cube(device) = device.as_dispatch() else { return };
        let client = device.client();
        let tiles = |largest, dtype| Tiles::new(&client, largest, Some(dtype_to_elem_type(dtype))).unwrap();
        for largest in [1, 20, 64, LARGEST_HEAD] {
            assert_eq!(Some(tiles(largest, DType::F32)), Tiles::new(&client, largest, None));
            for tiles in [tiles(largest, DType::F16), tiles(largest, DType::BF16)] {
                assert!(tiles.bytes() <= client.properties().hardware.max_shared_memory_size, "{tiles:?}");
                if let Some(Units { m, n, k }) = tiles.units {
                    let known = |known: &MmaConfig| [known.m, known.n, known.k].map(|size| size as usize) == [m, n, k];
                    assert!(client.properties().features.matmul.cmma.iter().any(known), "{tiles:?}");
                }
            }
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
