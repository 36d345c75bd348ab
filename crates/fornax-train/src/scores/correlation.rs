/// Means and co-moments of predictions and labels, updated example by example (Welford, 1962), and for ranks the values themselves:
/// eight bytes an example.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Correlation {
    moments: Moments,
    /// Prediction and label of each example.
    pairs: Vec<(f32, f32)>,
}

/// Means of x and y, and the sums of products of the differences from them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Moments {
    count: f64,
    mean: [f64; 2],
    xx: f64,
    yy: f64,
    xy: f64,
}

impl Moments {
    fn add(&mut self, x: f64, y: f64) {
        self.count += 1.0;
        let (dx, dy) = (x - self.mean[0], y - self.mean[1]);
        self.mean[0] += dx / self.count;
        self.mean[1] += dy / self.count;
        self.xx += dx * (x - self.mean[0]);
        self.yy += dy * (y - self.mean[1]);
        self.xy += dx * (y - self.mean[1]);
    }

    fn correlation(&self) -> f64 {
        if self.xx == 0.0 || self.yy == 0.0 {
            return 0.0;
        }
        // Square roots first: the product of two large moments would overflow.
        (self.xy / (self.xx.sqrt() * self.yy.sqrt())).clamp(-1.0, 1.0)
    }
}

impl Correlation {
    /// Adds an example. Values are kept in `f32`, as models give them.
    pub fn add(&mut self, prediction: f64, label: f64) {
        self.moments.add(prediction, label);
        self.pairs.push((prediction as f32, label as f32));
    }

    /// The number of examples.
    pub fn count(&self) -> u64 {
        self.pairs.len() as u64
    }

    pub(super) fn pearson(&self) -> f64 {
        self.moments.correlation()
    }

    /// NaN where a value is NaN, as for `pearson`: it has no rank.
    pub(super) fn spearman(&self) -> f64 {
        if self.pairs.iter().any(|(prediction, label)| prediction.is_nan() || label.is_nan()) {
            return f64::NAN;
        }
        let predictions = ranks(&self.pairs.iter().map(|pair| pair.0).collect::<Vec<_>>());
        let labels = ranks(&self.pairs.iter().map(|pair| pair.1).collect::<Vec<_>>());
        let mut moments = Moments::default();
        for (prediction, label) in predictions.into_iter().zip(labels) {
            moments.add(prediction, label);
        }
        moments.correlation()
    }
}

/// The rank of each value, from 1; equal values share the mean of their ranks. No value may be NaN.
fn ranks(values: &[f32]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_unstable_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut first = 0;
    // 0.0 and -0.0, which are equal, lie side by side in the total order.
    for run in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let rank = (2 * first + run.len() + 1) as f64 / 2.0;
        run.iter().for_each(|&at| ranks[at] = rank);
        first += run.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_share_their_ranks() {
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 2.0, 3.0]), [4.0, 1.0, 4.0, 2.0, 4.0]);
        assert_eq!(ranks(&[0.0, 5.0, -0.0, -1.0]), [2.5, 4.0, 2.5, 1.0]);
    }
}
