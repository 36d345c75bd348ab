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
    initialise_some(module, seed, |path, shape| Some(rule(path, shape)))
}

/// As [`initialise`], but leaves the parameters for which `rule` gives nothing as they are, ids included.
pub fn initialise_some<M: Module>(module: M, seed: u64, rule: impl Fn(&str, &[usize]) -> Option<Init>) -> M {
    module.map(&mut Initialiser { seed, rule, path: Path::default() })
}

struct Initialiser<R> {
    seed: u64,
    rule: R,
    path: Path,
}

impl<R: Fn(&str, &[usize]) -> Option<Init>> ModuleMapper for Initialiser<R> {
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
        let Some(init) = (self.rule)(&path, &shape) else { return param };
        let values = draw(init, self.seed, &path, &shape);
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

#[cfg(test)]
mod tests {
    use fornax_backend::test_device;
    use proptest::prelude::*;

    use super::*;
    use crate::{Activation, FeedForward, parameters};

    fn normal(_: &str, _: &[usize]) -> Init {
        Init::Normal { mean: 0.0, std: 1.0 }
    }

    /// Larger than a chunk, so that several streams are used.
    fn module() -> FeedForward {
        FeedForward::new(200, 300, true, Activation::Gelu, &test_device().autodiff())
    }

    fn weights(module: &FeedForward) -> [Vec<f32>; 3] {
        let matrix = |p: &Param<Tensor<2>>| p.val().into_data().iter::<f32>().collect();
        let bias = module.up.bias.as_ref().unwrap().val().into_data().iter::<f32>().collect();
        [matrix(&module.up.weight), matrix(&module.down.weight), bias]
    }

    fn moments(values: &[f32]) -> (f64, f64) {
        let len = values.len() as f64;
        let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / len;
        let square = values.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / len;
        (mean, square.sqrt())
    }

    #[test]
    fn weights_are_a_function_of_seed_and_path() {
        let first = weights(&initialise(module(), 1, normal));
        assert_eq!(first, weights(&initialise(module(), 1, normal)));
        assert_ne!(first[0], weights(&initialise(module(), 2, normal))[0]);
        // Both matrices have as many numbers.
        assert_ne!(first[0], first[1]);
        let threads = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(first, threads.install(|| weights(&initialise(module(), 1, normal))));
    }

    /// Pinned, because a change of the generator silently changes every published run.
    #[test]
    fn the_first_numbers_are_pinned() {
        let values = draw(Init::Normal { mean: 0.0, std: 1.0 }, 1337, "blocks.0.weight", &[4]);
        // Another platform's logarithm may differ in its last bit.
        for (got, pinned) in values.into_iter().zip([-0.30318698, 0.22414476, 0.0808058, 0.7048918]) {
            assert!((got - pinned).abs() < 1e-6, "{got} against {pinned}");
        }
    }

    #[test]
    fn ids_are_a_function_of_the_path_and_parameters_are_trainable() {
        let (one, two) = (initialise(module(), 1, normal), initialise(module(), 2, normal));
        assert_eq!(parameters(&one), parameters(&two));
        let ids: std::collections::HashSet<_> = parameters(&one).iter().map(|p| p.id).collect();
        assert_eq!(ids.len(), 4);
        assert!(one.up.weight.val().is_require_grad());
        assert!(!module().up.weight.is_initialized(), "building a module makes no weights");
    }

    #[test]
    fn records_of_equal_runs_are_equal() {
        let dir = std::env::temp_dir().join(format!("fornax-nn-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let record = |name: &str| {
            let path = dir.join(name);
            initialise(module(), 5, normal).save_file(&path).unwrap();
            std::fs::read_dir(&dir)
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .find(|p| p.file_stem() == path.file_stem())
                .map(|p| std::fs::read(p).unwrap())
                .unwrap()
        };
        let (one, two) = (record("one"), record("two"));
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(one.len() > 4 * 120_000 && one == two);
    }

    #[test]
    fn rules_see_path_and_shape() {
        let module = initialise(module(), 0, |path, shape| match (path, shape) {
            ("up.bias", [300]) => Init::Constant(2.0),
            ("down.weight", [300, 200]) => Init::XavierUniform,
            _ => Init::Uniform { low: 1.0, high: 3.0 },
        });
        let [up, down, bias] = weights(&module);
        assert!(bias.iter().all(|&x| x == 2.0));
        let bound = (6.0f32 / 500.0).sqrt();
        assert!(down.iter().all(|x| x.abs() <= bound) && down.iter().any(|x| x.abs() > 0.99 * bound));
        let (mean, std) = moments(&up);
        assert!((mean - 2.0).abs() < 0.02 && (std - (1.0f64 / 3.0).sqrt()).abs() < 0.02, "{mean} {std}");
        assert!(up.iter().all(|x| (1.0..=3.0).contains(x)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        /// Five standard errors; 0.62 % of a normal distribution is beyond 2.5 standard deviations on each side.
        #[test]
        fn normal_numbers_have_the_moments_asked_for(seed: u64, mean in -3.0f64..3.0, std in 0.01f64..4.0) {
            let len = 40_001;
            let values = draw(Init::Normal { mean, std }, seed, "weight", &[len]);
            let (m, s) = moments(&values);
            let error = 5.0 / (len as f64).sqrt();
            prop_assert!((m - mean).abs() < error * std && (s - std).abs() < error * std);
            let far = values.iter().filter(|&&x| f64::from(x) > mean + 2.5 * std).count() as f64 / len as f64;
            prop_assert!((far - 0.0062).abs() < 0.0021, "{far}");
        }
    }
}
