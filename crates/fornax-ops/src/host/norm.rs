//! Layer and root-mean-square normalisation of rows.

use super::{collect, each, math::sum, vectorised};

/// Rows of a piece: as many for every number of threads, since each piece sums its own share of the gradients of gamma and
/// beta.
const ROWS: usize = 64;

/// Whether the mean is taken from a row before it is scaled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Centre {
    /// Layer normalisation.
    Mean,
    /// Root-mean-square normalisation.
    Zero,
}

/// Mean (0 if not centred) and inverse deviation of a row.
#[inline(always)]
fn statistics(row: &[f32], centre: Centre, eps: f32) -> [f32; 2] {
    let share = 1.0 / row.len() as f32;
    let mean = match centre {
        Centre::Mean => share * sum(row.len(), |i| row[i]),
        Centre::Zero => 0.0,
    };
    let variance = share * sum(row.len(), |i| (row[i] - mean) * (row[i] - mean));
    [mean, 1.0 / (variance + eps).sqrt()]
}

/// What a row becomes once it is centred and divided by its deviation.
pub(crate) struct Rows<'a> {
    pub(crate) gamma: &'a [f32],
    pub(crate) beta: Option<&'a [f32]>,
    pub(crate) centre: Centre,
    pub(crate) eps: f32,
}

impl Rows<'_> {
    /// `out = (x - mean) · inverse deviation · gamma + beta` of each row, and both numbers of each row in `saved`.
    pub(crate) fn forward(&self, x: &[f32], out: &mut [f32], saved: &mut [[f32; 2]]) {
        let len = ROWS * self.gamma.len();
        let run = |((x, out), saved): ((&[f32], &mut [f32]), &mut [[f32; 2]])| {
            vectorised(
                #[inline(always)]
                || self.normalise(x, out, saved),
            );
        };
        each(x.chunks(len).zip(out.chunks_mut(len)).zip(saved.chunks_mut(ROWS)), run);
    }

    /// `x += residual`, and [`forward`](Self::forward) of that.
    pub(crate) fn add_forward(&self, x: &mut [f32], residual: &[f32], out: &mut [f32], saved: &mut [[f32; 2]]) {
        let len = ROWS * self.gamma.len();
        let run = |(((x, residual), out), saved): (((&mut [f32], &[f32]), &mut [f32]), &mut [[f32; 2]])| {
            vectorised(
                #[inline(always)]
                || {
                    add(x, residual);
                    self.normalise(x, out, saved);
                },
            );
        };
        each(x.chunks_mut(len).zip(residual.chunks(len)).zip(out.chunks_mut(len)).zip(saved.chunks_mut(ROWS)), run);
    }

    #[inline(always)]
    fn normalise(&self, x: &[f32], out: &mut [f32], saved: &mut [[f32; 2]]) {
        let &Self { gamma, beta, centre, eps } = self;
        let rows = x.chunks_exact(gamma.len()).zip(out.chunks_exact_mut(gamma.len()));
        for ((x, out), saved) in rows.zip(saved) {
            *saved = statistics(x, centre, eps);
            let [mean, inverse] = *saved;
            match beta {
                Some(beta) => {
                    for (((out, x), gamma), beta) in out.iter_mut().zip(x).zip(gamma).zip(beta) {
                        *out = ((x - mean) * inverse).mul_add(*gamma, *beta);
                    }
                }
                None => {
                    for ((out, x), gamma) in out.iter_mut().zip(x).zip(gamma) {
                        *out = (x - mean) * inverse * gamma;
                    }
                }
            }
        }
    }
}

/// The gradients of `x`, and of gamma and beta, from that of the output.
pub(crate) fn backward(
    x: &[f32],
    gamma: &[f32],
    saved: &[[f32; 2]],
    centre: Centre,
    gradient: &[f32],
    x_gradient: &mut [f32],
) -> (Vec<f32>, Vec<f32>) {
    let size = gamma.len();
    let run = |(((x, gradient), saved), x_gradient): (((&[f32], &[f32]), &[[f32; 2]]), &mut [f32])| {
        let (mut of_gamma, mut of_beta) = (vec![0.0f32; size], vec![0.0f32; size]);
        vectorised(
            #[inline(always)]
            || {
                let rows = x.chunks_exact(size).zip(gradient.chunks_exact(size)).zip(saved);
                for (((x, gradient), &[mean, inverse]), out) in rows.zip(x_gradient.chunks_exact_mut(size)) {
                    backward_row(x, gradient, gamma, [mean, inverse], centre, out);
                    for (((of_gamma, of_beta), x), gradient) in
                        of_gamma.iter_mut().zip(&mut of_beta).zip(x).zip(gradient)
                    {
                        *of_gamma = ((x - mean) * inverse).mul_add(*gradient, *of_gamma);
                        *of_beta += gradient;
                    }
                }
            },
        );
        (of_gamma, of_beta)
    };
    let pieces = x.chunks(ROWS * size).zip(gradient.chunks(ROWS * size)).zip(saved.chunks(ROWS));
    let partial = collect(pieces.zip(x_gradient.chunks_mut(ROWS * size)), run);
    let mut total = (vec![0.0; size], vec![0.0; size]);
    for (of_gamma, of_beta) in partial {
        add(&mut total.0, &of_gamma);
        add(&mut total.1, &of_beta);
    }
    total
}

/// With `h = gradient · gamma` and `y` the scaled row: `(h - mean(h) - y mean(h y)) · inverse deviation`, without the first
/// mean where nothing is centred.
#[inline(always)]
fn backward_row(x: &[f32], gradient: &[f32], gamma: &[f32], saved: [f32; 2], centre: Centre, out: &mut [f32]) {
    let [mean, inverse] = saved;
    let share = 1.0 / gamma.len() as f32;
    let first = match centre {
        Centre::Mean => share * sum(gamma.len(), |i| gradient[i] * gamma[i]),
        Centre::Zero => 0.0,
    };
    let second = share * inverse * sum(gamma.len(), |i| gradient[i] * gamma[i] * (x[i] - mean));
    for (((out, x), gradient), gamma) in out.iter_mut().zip(x).zip(gradient).zip(gamma) {
        let scaled = (x - mean) * inverse;
        *out = scaled.mul_add(-second, gradient * gamma - first) * inverse;
    }
}

/// `total += more`.
#[inline(always)]
pub(crate) fn add(total: &mut [f32], more: &[f32]) {
    for (total, more) in total.iter_mut().zip(more) {
        *total += more;
    }
}

/// The sum of the rows of `x`, each as long as `total`, which it overwrites.
pub(crate) fn sum_rows(x: &[f32], total: &mut [f32]) {
    let size = total.len();
    let run = |rows: &[f32]| {
        let mut sum = vec![0.0f32; size];
        vectorised(
            #[inline(always)]
            || rows.chunks_exact(size).for_each(|row| add(&mut sum, row)),
        );
        sum
    };
    let partial = collect(x.chunks(ROWS * size), run);
    total.fill(0.0);
    partial.iter().for_each(|sum| add(total, sum));
}
