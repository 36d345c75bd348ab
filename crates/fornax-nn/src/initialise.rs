use std::f64::consts::TAU;

use burn::{
    module::{Module, ModuleMapper, Param},
    tensor::{Bool, Int, Tensor, TensorData},
};
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::parameters::{Path, id_of};

/// Numbers drawn from one stream of the generator. Part of the definition of the weights: another size gives others.
const CHUNK: usize = 1 << 14;

/// How a parameter is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// The normal distribution.
    Normal {
        /// Its mean.
        mean: f64,
        /// Its standard deviation.
        std: f64,
    },
    /// The uniform distribution on `low..high`.
    Uniform {
        /// Lower end.
        low: f64,
        /// Upper end.
        high: f64,
    },
    /// Uniform on `±√(6 / (inputs + outputs))` (Glorot and Bengio 2010), for weights `[inputs, outputs]`.
    XavierUniform,
    /// One value everywhere.
    Constant(f64),
}

/// Draws every float parameter of `module` as `rule(path, shape)` says, and names every parameter by its path.
///
/// A parameter's numbers are a function of `seed`, its path and its shape alone: they are drawn on the host from ChaCha8,
/// seeded with the SHA-256 of seed and path. So every backend starts from the same model, and adding a layer leaves the
/// others as they are. Parameter ids are a function of the path, so optimizer state and records of equal runs are equal.
///
/// Costs about 10 ns a number and thread for a normal distribution. All parameters become trainable.
pub fn initialise<M: Module>(module: M, seed: u64, rule: impl Fn(&str, &[usize]) -> Init) -> M {
    module.map(&mut Initialiser { seed, rule, path: Path::default() })
}

struct Initialiser<R> {
    seed: u64,
    rule: R,
    path: Path,
}

impl<R: Fn(&str, &[usize]) -> Init> ModuleMapper for Initialiser<R> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let path = self.path.to_string();
        // The lazy accessors, because reading the value would first make it.
        let (shape, device) = (param.lazy_shape(), param.lazy_device());
        let values = draw((self.rule)(&path, &shape), self.seed, &path, &shape);
        let mut drawn = Param::from_data(TensorData::new(values, shape), &device);
        drawn.id = id_of(&path);
        drawn
    }

    fn map_int<const D: usize>(&mut self, mut param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        param.id = id_of(&self.path.to_string());
        param
    }

    fn map_bool<const D: usize>(&mut self, mut param: Param<Tensor<D, Bool>>) -> Param<Tensor<D, Bool>> {
        param.id = id_of(&self.path.to_string());
        param
    }
}

fn draw(init: Init, seed: u64, path: &str, shape: &[usize]) -> Vec<f32> {
    let len = shape.iter().product();
    let key: [u8; 32] = Sha256::new().chain_update(seed.to_le_bytes()).chain_update(path).finalize().into();
    match init {
        Init::Constant(value) => vec![value as f32; len],
        Init::Normal { mean, std } => fill(len, key, |generator, pair| {
            let (a, b) = normal_pair(generator);
            pair.iter_mut().zip([a, b]).for_each(|(x, z)| *x = (mean + std * z) as f32);
        }),
        Init::Uniform { low, high } => uniform(len, key, low, high),
        Init::XavierUniform => {
            let outputs = shape.last().copied().unwrap_or(1);
            let inputs = len / outputs.max(1);
            let bound = (6.0 / (inputs + outputs) as f64).sqrt();
            uniform(len, key, -bound, bound)
        }
    }
}

fn uniform(len: usize, key: [u8; 32], low: f64, high: f64) -> Vec<f32> {
    fill(len, key, |generator, pair| {
        pair.iter_mut().for_each(|x| *x = (low + (high - low) * unit(generator)) as f32);
    })
}

/// Fills chunk `i` from stream `i` of the generator, two numbers at a time, so that threads don't change the result.
fn fill(len: usize, key: [u8; 32], draw: impl Fn(&mut ChaCha8Rng, &mut [f32]) + Sync) -> Vec<f32> {
    let mut values = vec![0.0; len];
    values.par_chunks_mut(CHUNK).enumerate().for_each(|(index, chunk)| {
        let mut generator = ChaCha8Rng::from_seed(key);
        generator.set_stream(index as u64);
        chunk.chunks_mut(2).for_each(|pair| draw(&mut generator, pair));
    });
    values
}

/// A number in `0..1` with 53 random bits.
fn unit(generator: &mut ChaCha8Rng) -> f64 {
    (generator.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// Two independent standard normal numbers (Box and Muller 1958).
fn normal_pair(generator: &mut ChaCha8Rng) -> (f64, f64) {
    // 1 - unit is in (0, 1], whose logarithm is finite.
    let radius = (-2.0 * (1.0 - unit(generator)).ln()).sqrt();
    let (sin, cos) = (TAU * unit(generator)).sin_cos();
    (radius * cos, radius * sin)
}
