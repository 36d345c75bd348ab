use burn::tensor::{Bool, Tensor};
use fornax_ops::{AdamWFactors, adamw_step, steps_in_one_pass};

use super::{AdamConfig, Kept, Update, size_of, spread};

/// AdamW (Loshchilov and Hutter 2019) with the semantics of `torch.optim.AdamW`, in `f32`:
///
/// ```text
/// p <- p (1 - lr weight_decay)
/// m <- beta1 m + (1 - beta1) g
/// v <- beta2 v + (1 - beta2) g^2
/// p <- p - lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
/// ```
///
/// The last line is computed as `p - lr sqrt(c2) / c1 * m / (sqrt(v) + eps sqrt(c2))`, which saves a pass over memory.
///
/// The scaled form is `AdamWScale` of nanoT5 (Nawrot 2023), where a tensor moves by a share of its own size. It differs in
/// three things: the step is multiplied by `max(1e-3, RMS(p))`, `eps` is added to `sqrt(v)` as it is, and the decay comes last.
///
/// Nothing is kept but the two moments. On CPUs and Cube devices a parameter is moved in one pass, in its own memory. Elsewhere
/// it costs 14 elementwise passes, 13 without decay, 3 more where scaled, and at most two temporaries of its own size.
#[derive(Debug)]
pub(super) struct AdamW {
    betas: [f64; 2],
    eps: f64,
    scaled: bool,
}

/// One update.
// There is one in a step.
#[allow(clippy::large_enum_variant)]
pub(super) enum Step {
    /// By [`adamw_step`].
    Fused(FusedStep),
    /// In tensor operations.
    InOperations(OperationsStep),
}

/// An update in one pass over each parameter.
pub(super) struct FusedStep {
    /// For a parameter that decays.
    factors: AdamWFactors,
    /// As [`adamw_step`] wants them, of a parameter that moves at the rate as it is.
    scales: Tensor<1>,
    skip: Tensor<1, Bool>,
    scaled: bool,
}

/// The factors of one update, shape `[1]` on the device.
///
/// In a skipped update they are 1 and 0, and gradients are filled with 0: then `m * 1 + 0 * 0 = m`, and likewise for
/// the rest, so that nothing needs a second copy to fall back on.
pub(super) struct OperationsStep {
    keep_first: Tensor<1>,
    add_first: Tensor<1>,
    keep_second: Tensor<1>,
    add_second: Tensor<1>,
    rate: Tensor<1>,
    keep_value: Tensor<1>,
    eps: f64,
    scaled: bool,
    skip: Tensor<1, Bool>,
}

/// The numbers of one update that the number of updates decides.
#[derive(Clone, Copy)]
struct Rates {
    rate: f64,
    /// What a parameter that decays is multiplied with.
    decay: f64,
    eps: f64,
}

impl AdamW {
    pub(super) fn new(config: AdamConfig) -> Self {
        Self { betas: config.betas, eps: config.eps, scaled: false }
    }

    pub(super) fn scaled(config: AdamConfig) -> Self {
        Self { scaled: true, ..Self::new(config) }
    }

    pub(super) fn slots(&self, shape: &[usize]) -> Vec<(&'static str, Vec<usize>)> {
        vec![("first_moment", shape.to_vec()), ("second_moment", shape.to_vec())]
    }

    pub(super) fn begin(&self, steps: u64, weight_decay: f64, update: &Update) -> Step {
        let rates = self.rates(steps, weight_decay, update.lr);
        match steps_in_one_pass(&update.scale.device()) {
            true => Step::Fused(self.fused(rates, update)),
            false => Step::InOperations(self.in_operations(rates, update)),
        }
    }

    fn rates(&self, steps: u64, weight_decay: f64, lr: f64) -> Rates {
        let [correction1, correction2] = self.betas.map(|beta| 1.0 - beta.powf(steps as f64));
        Rates {
            rate: lr * correction2.sqrt() / correction1,
            decay: 1.0 - lr * weight_decay,
            eps: if self.scaled { self.eps } else { self.eps * correction2.sqrt() },
        }
    }

    fn fused(&self, Rates { rate, decay, eps }: Rates, update: &Update) -> FusedStep {
        let factors = AdamWFactors {
            keep: self.betas.map(|beta| beta as f32),
            add: self.betas.map(|beta| (1.0 - beta) as f32),
            decay: decay as f32,
            rate: rate as f32,
            eps: eps as f32,
        };
        let (scale, skip) = (update.scale.clone(), update.skip.clone());
        let scales = Tensor::cat(vec![scale.clone(), scale.ones_like().mask_fill(skip.clone(), 0.0)], 0);
        FusedStep { factors, scales, skip, scaled: self.scaled }
    }

    fn in_operations(&self, Rates { rate, decay, eps }: Rates, update: &Update) -> OperationsStep {
        let [beta1, beta2] = self.betas;
        let guarded = |value: Tensor<1>, skipped: f64| value.mask_fill(update.skip.clone(), skipped);
        let constant = |value: f64, skipped: f64| guarded(update.scale.full_like(value), skipped);
        let scale = || update.scale.clone();
        OperationsStep {
            keep_first: constant(beta1, 1.0),
            add_first: guarded(scale().mul_scalar(1.0 - beta1), 0.0),
            keep_second: constant(beta2, 1.0),
            add_second: guarded(scale().square().mul_scalar(1.0 - beta2), 0.0),
            rate: constant(rate, 0.0),
            keep_value: constant(decay, 1.0),
            eps,
            scaled: self.scaled,
            skip: update.skip.clone(),
        }
    }
}

impl Step {
    pub(super) fn apply<const D: usize>(
        &self,
        value: Tensor<D>,
        gradient: Tensor<D>,
        kept: Kept<D>,
        decay: bool,
    ) -> (Tensor<D>, Kept<D>) {
        let mut kept = kept.into_iter();
        let mut next = || kept.next().unwrap_or_else(|| value.zeros_like());
        let moments = [next(), next()];
        match self {
            Self::Fused(step) => step.apply(value, gradient, moments, decay),
            Self::InOperations(step) => step.apply(value, gradient, moments, decay),
        }
    }
}

impl FusedStep {
    fn apply<const D: usize>(
        &self,
        value: Tensor<D>,
        gradient: Tensor<D>,
        [first, second]: [Tensor<D>; 2],
        decay: bool,
    ) -> (Tensor<D>, Kept<D>) {
        let (mut factors, mut scales) = (self.factors, self.scales.clone());
        if !decay {
            factors.decay = 1.0;
        }
        if self.scaled {
            // The decay comes last, so it falls on the step too.
            factors.rate *= factors.decay;
            let size = size_of(&value).mask_fill(self.skip.clone(), 0.0);
            scales = Tensor::cat(vec![scales.narrow(0, 0, 1), size], 0);
        }
        let [value, first, second] = adamw_step([value, first, second], gradient, scales, factors);
        (value, vec![first, second])
    }
}

impl OperationsStep {
    /// Written so that each operation has an operand that nobody else owns, which LibTorch overwrites.
    fn apply<const D: usize>(
        &self,
        value: Tensor<D>,
        gradient: Tensor<D>,
        [first, second]: [Tensor<D>; 2],
        decay: bool,
    ) -> (Tensor<D>, Kept<D>) {
        let gradient = gradient.mask_fill(self.skip.clone().reshape([1; D]), 0.0);
        let first = first.mul(spread(&self.keep_first)).add(gradient.clone().mul(spread(&self.add_first)));
        let second = second.mul(spread(&self.keep_second)).add(gradient.square().mul(spread(&self.add_second)));
        let step = first.clone().div(second.clone().sqrt().add_scalar(self.eps));
        let decayed = |value: Tensor<D>| if decay { value.mul(spread(&self.keep_value)) } else { value };
        let value = if self.scaled {
            let rate = self.rate.clone() * size_of(&value);
            decayed(value.sub(step.mul(spread(&rate))))
        } else {
            decayed(value).sub(step.mul(spread(&self.rate)))
        };
        (value, vec![first, second])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, update};

    /// The form in operations is that of the devices that are tested least.
    #[test]
    fn both_forms_move_alike() {
        let device = fornax_backend::test_device();
        if !steps_in_one_pass(&device) {
            return;
        }
        let config = AdamConfig { betas: [0.9, 0.95], eps: 1e-3 };
        let numbers = |factor: f32| -> Vec<f32> { (0..12).map(|i| (factor * (i as f32 + 1.0)).sin()).collect() };
        let [start, first, second, gradient] = [1.3, 0.3, 0.7, 2.1].map(numbers);
        let tensor = |numbers: &[f32]| Tensor::<1>::from_floats(numbers, &device).reshape([3, 4]);
        let values = |tensor: &Tensor<2>| -> Vec<f64> { tensor.clone().into_data().iter().collect() };
        for adamw in [AdamW::new(config), AdamW::scaled(config)] {
            for (decay, skip) in [(true, false), (false, false), (true, true)] {
                let update = update(0.1, 0.5, skip);
                let rates = adamw.rates(3, 0.2, update.lr);
                let steps =
                    [Step::Fused(adamw.fused(rates, &update)), Step::InOperations(adamw.in_operations(rates, &update))];
                let [one, other] = steps.map(|step| {
                    let kept = vec![tensor(&first), tensor(&second).square()];
                    let (value, kept) = step.apply(tensor(&start), tensor(&gradient), kept, decay);
                    [values(&value), values(&kept[0]), values(&kept[1])]
                });
                // Value, first and second moment.
                for (one, other) in one.iter().zip(&other) {
                    assert_close(one, other, 1e-6);
                }
                assert_eq!(one[0] == start.iter().map(|x| f64::from(*x)).collect::<Vec<_>>(), skip);
            }
        }
    }
}
