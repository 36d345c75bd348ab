//! Functions of one number, without branches, so that loops over them become vector instructions, and sums over rows in a
//! fixed order.

use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, LOG2_E};

/// Partial sums side by side: two vectors of the widest kind.
const LANES: usize = 32;

/// `eˣ`, to 2 units in the last place; 0 below -87.3, where the result would be no normal number.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const LOWEST: f32 = -87.3;
    const HIGHEST: f32 = 88.722_83;
    // ln 2 in two parts, of which multiples of the first are exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    // Adding and subtracting it rounds to an integer.
    const ROUND: f32 = 12_582_912.0;
    let bounded = x.clamp(LOWEST, HIGHEST);
    let shifted = bounded.mul_add(LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN_2_LOW, n.mul_add(-LN_2_HIGH, bounded));
    // The Taylor series: |r| <= ln 2 / 2, so the first term left out is below 6e-9.
    let series = r.mul_add(1.0 / 5040.0, 1.0 / 720.0);
    let series = r.mul_add(series, 1.0 / 120.0);
    let series = r.mul_add(series, 1.0 / 24.0);
    let series = r.mul_add(series, 1.0 / 6.0);
    let series = r.mul_add(series, 0.5);
    let series = r.mul_add(series, 1.0);
    let series = r.mul_add(series, 1.0);
    // Two factors, because 2¹²⁸ is none.
    let n = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let half = n >> 1;
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
    let value = series * power(half) * power(n - half);
    if x < LOWEST {
        0.0
    } else if x.is_nan() {
        x
    } else {
        value
    }
}

/// The nearest bfloat16, of two the even one.
#[inline(always)]
pub(crate) fn to_bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    let rounded = f32::from_bits(bits.wrapping_add(0x7fff + (bits >> 16 & 1)) & 0xffff_0000);
    if x.is_nan() { x } else { rounded }
}

/// The logistic function.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The distribution function of the standard normal distribution and its density at `x`, to 1e-7, by the fifth-order
/// approximation of the error function of Abramowitz and Stegun (1964, 7.1.26).
#[inline(always)]
pub(crate) fn normal(x: f32) -> (f32, f32) {
    let z = x.abs() * FRAC_1_SQRT_2;
    let t = 1.0 / z.mul_add(0.327_591_1, 1.0);
    let series = t.mul_add(1.061_405_4, -1.453_152_1);
    let series = t.mul_add(series, 1.421_413_8);
    let series = t.mul_add(series, -0.284_496_72);
    let series = t.mul_add(series, 0.254_829_6) * t;
    let bell = exp(-z * z);
    let upper = 0.5 * series * bell;
    (if x < 0.0 { upper } else { 1.0 - upper }, 0.5 * FRAC_2_SQRT_PI * FRAC_1_SQRT_2 * bell)
}

/// The sum of `f` over the positions `0..len`.
#[inline(always)]
pub(crate) fn sum(len: usize, f: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let whole = len / LANES * LANES;
    for start in (0..whole).step_by(LANES) {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += f(start + lane);
        }
    }
    let mut total = 0.0;
    for at in whole..len {
        total += f(at);
    }
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
    }
    total + lanes[0]
}

/// The largest of `values`, `-∞` of none; NaN is passed over.
#[inline(always)]
pub(crate) fn maximum(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let mut chunks = values.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = if *value > *lane { *value } else { *lane };
        }
    }
    lanes.iter().chain(chunks.remainder()).fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_right_to_two_units_in_the_last_place() {
        for i in -870_000..887_000 {
            let x = i as f32 * 1e-4;
            let (found, wanted) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((found - wanted).abs() <= 2.4e-7 * wanted, "{x}: {found} against {wanted}");
        }
        assert_eq!((exp(0.0), exp(-1e9), exp(f32::NEG_INFINITY)), (1.0, 0.0, 0.0));
        assert!(exp(f32::NAN).is_nan() && exp(1e9) > 3e38);
    }

    #[test]
    fn the_normal_distribution_is_right_to_1e_7() {
        // Simpson's rule over the density from 0 to x.
        let density = |t: f64| (-t * t / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
        for i in -60..=60 {
            let x = f64::from(i) * 0.1;
            let (steps, h) = (400, x / 400.0);
            let weight = |i: i32| if i == 0 || i == steps { 1.0 } else { f64::from(2 + 2 * (i % 2)) };
            let integral: f64 = (0..=steps).map(|i| weight(i) * density(f64::from(i) * h)).sum::<f64>() * h / 3.0;
            let (share, slope) = normal(x as f32);
            assert!((f64::from(share) - 0.5 - integral).abs() < 2e-7, "{x}: {share}");
            assert!((f64::from(slope) - density(x)).abs() < 1e-7, "{x}: {slope}");
        }
    }

    #[test]
    fn sums_and_maxima_take_every_element_once() {
        for len in [0, 1, 31, 32, 33, 100] {
            let values: Vec<f32> = (0..len).map(|i| (i % 7) as f32 - 3.0).collect();
            assert_eq!(sum(len, |i| values[i]), values.iter().sum::<f32>());
            assert_eq!(maximum(&values), values.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }
}
