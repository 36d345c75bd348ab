use std::fmt;

/// A micro-batch has to be so much faster than all smaller ones to be a gain.
const GAIN: f64 = 1.05;

/// So many in a row that are none end the search: one may be a trial that something else slowed down.
const PATIENCE: usize = 2;

/// What a micro-batch took.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Trial {
    /// Its examples.
    pub(super) micro_batch_size: usize,
    pub(super) tokens_per_second: f64,
    /// The largest resident memory of the process that tried it, where the platform tells.
    pub(super) peak_memory_bytes: Option<u64>,
    /// The memory of the program itself, before it has a model: it takes that with any micro-batch.
    pub(super) program_bytes: u64,
    /// What a process could still get afterwards; none where that doesn't bound a micro-batch, as on a GPU.
    pub(super) available_bytes: Option<u64>,
}

/// Why no larger micro-batch was tried.
#[derive(Debug, PartialEq)]
pub(super) enum Stop<E> {
    /// There is none.
    Whole,
    /// This one failed.
    Failed { micro_batch_size: usize, error: E },
    /// This one would need more memory than there is.
    Memory { micro_batch_size: usize, needed: u64, available: u64 },
    /// The last ones were no faster, or hardly.
    NoFaster,
}

/// The micro-batches that are tried for a step of `batch_size` examples, at least 1, smallest first: of its divisors the largest up to each
/// power of two, and all of it.
pub(super) fn candidates(batch_size: usize) -> Vec<usize> {
    let powers =
        std::iter::successors(Some(1usize), |power| power.checked_mul(2)).take_while(|power| *power < batch_size);
    let divisor = |most: usize| (1..=most).rev().find(|size| batch_size.is_multiple_of(*size)).unwrap_or(1);
    let mut sizes: Vec<usize> = powers.map(divisor).chain([batch_size]).collect();
    sizes.dedup();
    sizes
}

/// The fastest micro-batch, and why none was tried beyond the last. `measure` fails with the outer error where nothing more is to
/// be tried, and with the inner one where this micro-batch can't be had.
///
/// # Errors
///
/// The outer error; the inner one where the smallest micro-batch fails.
pub(super) fn choose<E, F: From<E>>(
    batch_size: usize,
    mut measure: impl FnMut(usize) -> Result<Result<Trial, E>, F>,
) -> Result<(Trial, Stop<E>), F> {
    let mut sizes = candidates(batch_size).into_iter();
    let smallest = sizes.next().unwrap_or(1);
    let mut last = measure(smallest)??;
    let mut best = last.clone();
    let mut without_gain = 0;
    for micro_batch_size in sizes {
        if last.micro_batch_size == smallest && too_large(&last, micro_batch_size).is_some() {
            // The first process may have made tokenizer and tokens, which the next ones find, and these may have taken the memory.
            last = measure(smallest)??;
            best = last.clone();
        }
        if let Some((needed, available)) = too_large(&last, micro_batch_size) {
            return Ok((best, Stop::Memory { micro_batch_size, needed, available }));
        }
        last = match measure(micro_batch_size)? {
            Ok(trial) => trial,
            Err(error) => return Ok((best, Stop::Failed { micro_batch_size, error })),
        };
        without_gain = if last.tokens_per_second >= GAIN * best.tokens_per_second { 0 } else { without_gain + 1 };
        if last.tokens_per_second > best.tokens_per_second {
            best = last.clone();
        }
        if without_gain == PATIENCE {
            return Ok((best, Stop::NoFaster));
        }
    }
    Ok((best, Stop::Whole))
}

/// The memory that a larger micro-batch may need, as if all but the program's own grew with the examples, and what there is, if that is
/// less.
fn too_large(last: &Trial, micro_batch_size: usize) -> Option<(u64, u64)> {
    let grown = micro_batch_size.div_ceil(last.micro_batch_size) as u64;
    let fixed = last.program_bytes.min(last.peak_memory_bytes?);
    let needed = fixed.saturating_add((last.peak_memory_bytes? - fixed).saturating_mul(grown));
    let available = last.available_bytes?;
    (needed > available).then_some((needed, available))
}

/// Bytes as people read them, in MB of a million.
pub(super) fn megabytes(bytes: u64) -> String {
    format!("{} MB", bytes / 1_000_000)
}

impl<E: fmt::Display> fmt::Display for Stop<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => f.write_str("that is the whole batch"),
            Self::Failed { micro_batch_size, error } => {
                // It is no failure of the run, for which there is nothing to be done.
                let error = error.to_string();
                let lines: Vec<&str> = error.lines().filter(|line| !line.starts_with("hint: ")).collect();
                write!(f, "{micro_batch_size} fails: {}", lines.join("; "))
            }
            Self::Memory { micro_batch_size, needed, available } => {
                let (needed, available) = (megabytes(*needed), megabytes(*available));
                write!(f, "{micro_batch_size} may need {needed}, and {available} are available")
            }
            Self::NoFaster => f.write_str("the last two are less than 5 % faster"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many bytes for the program, for the model, and for each example.
    const PROGRAM: u64 = 1_000;
    const MODEL: u64 = 100;
    const EXAMPLE: u64 = 10;

    /// Chooses among micro-batches of these speeds, with so much memory; of one without a speed the trial fails.
    fn chosen(batch_size: usize, speeds: &[(usize, f64)], memory: Option<u64>) -> (usize, Stop<String>, Vec<usize>) {
        let mut tried = Vec::new();
        let choice = choose::<_, String>(batch_size, |micro_batch_size| {
            tried.push(micro_batch_size);
            let speed = speeds.iter().find(|(size, _)| *size == micro_batch_size);
            Ok(speed.map(|&(_, tokens_per_second)| Trial {
                micro_batch_size,
                tokens_per_second,
                peak_memory_bytes: Some(PROGRAM + MODEL + EXAMPLE * micro_batch_size as u64),
                program_bytes: PROGRAM,
                available_bytes: memory,
            }))
            .map(|trial| trial.ok_or_else(|| "out of memory".to_owned()))
        });
        let (trial, stop) = choice.unwrap();
        (trial.micro_batch_size, stop, tried)
    }

    #[test]
    fn candidates_divide_the_batch_and_double() {
        assert_eq!(candidates(1), [1]);
        assert_eq!(candidates(16), [1, 2, 4, 8, 16]);
        assert_eq!(candidates(48), [1, 2, 4, 8, 16, 24, 48]);
        assert_eq!(candidates(45), [1, 3, 5, 15, 45]);
        assert_eq!(candidates(7), [1, 7]);
    }

    #[test]
    fn as_long_as_it_gets_faster_the_largest_is_chosen() {
        let speeds = [(1, 10.0), (2, 18.0), (4, 30.0), (8, 50.0)];
        assert_eq!(chosen(8, &speeds, None), (8, Stop::Whole, vec![1, 2, 4, 8]));
        assert_eq!(chosen(8, &speeds, Some(1 << 40)).0, 8);
        assert_eq!(chosen(1, &speeds, None), (1, Stop::Whole, vec![1]));
    }

    #[test]
    fn a_micro_batch_that_fails_is_the_last_that_is_tried() {
        let speeds = [(1, 10.0), (2, 18.0)];
        let failed = Stop::Failed { micro_batch_size: 4, error: "out of memory".to_owned() };
        assert_eq!(failed.to_string(), "4 fails: out of memory");
        let said = Stop::Failed { micro_batch_size: 4, error: "no memory\nhint: buy some" };
        assert_eq!(said.to_string(), "4 fails: no memory");
        let aborted = Stop::Failed { micro_batch_size: 4, error: "signal: 6 (SIGABRT): no memory\naborting" };
        assert_eq!(aborted.to_string(), "4 fails: signal: 6 (SIGABRT): no memory; aborting");
        assert_eq!(chosen(16, &speeds, None), (2, failed, vec![1, 2, 4]));
    }

    #[test]
    fn what_is_no_faster_ends_it_and_the_fastest_is_taken() {
        let slower = [(1, 10.0), (2, 18.0), (4, 17.0), (8, 16.0), (16, 90.0)];
        assert_eq!(chosen(16, &slower, None), (2, Stop::NoFaster, vec![1, 2, 4, 8]));
        let hardly = [(1, 10.0), (2, 18.0), (4, 18.5), (8, 18.2), (16, 90.0)];
        assert_eq!(chosen(16, &hardly, None), (4, Stop::NoFaster, vec![1, 2, 4, 8]));
        let once = [(1, 10.0), (2, 9.0), (4, 30.0), (8, 29.0), (16, 60.0)];
        assert_eq!(chosen(16, &once, None), (16, Stop::Whole, vec![1, 2, 4, 8, 16]));
    }

    #[test]
    fn what_may_not_fit_is_not_tried() {
        let speeds = [(1, 10.0), (2, 20.0), (4, 40.0), (8, 80.0)];
        // Two examples take 120 bytes, so that four may take 240.
        let (size, stop, tried) = chosen(8, &speeds, Some(1_239));
        assert_eq!((size, tried), (2, vec![1, 2]));
        assert_eq!(stop, Stop::Memory { micro_batch_size: 4, needed: 1_240, available: 1_239 });
        assert_eq!(chosen(8, &speeds, Some(1_240)).2, [1, 2, 4]);
        // From 1 to 3 it grows threefold. The smallest is tried twice: the first time it may have prepared the data.
        assert_eq!(chosen(3, &speeds, Some(1_329)).2, [1, 1]);
        let large = Stop::<String>::Memory { micro_batch_size: 4, needed: 3_200_000_000, available: 2_900_000_000 };
        assert_eq!(large.to_string(), "4 may need 3200 MB, and 2900 MB are available");
    }

    #[test]
    fn what_preparing_the_data_took_bounds_no_micro_batch() {
        let mut tried = Vec::new();
        let choice = choose::<String, String>(2, |micro_batch_size| {
            let peak = if tried.is_empty() { 900 } else { MODEL };
            tried.push(micro_batch_size);
            let (tokens_per_second, available_bytes) = (micro_batch_size as f64, Some(1_000));
            let peak_memory_bytes = Some(peak);
            Ok(Ok(Trial { micro_batch_size, tokens_per_second, peak_memory_bytes, program_bytes: 0, available_bytes }))
        });
        assert_eq!((choice.unwrap().0.micro_batch_size, tried), (2, vec![1, 1, 2]));
    }

    #[test]
    fn where_the_smallest_fails_nothing_is_chosen() {
        let failed = choose::<&str, String>(8, |_| Ok(Err("no such file")));
        assert_eq!(failed.unwrap_err(), "no such file");
        let mut tried = 0;
        let interrupted = choose::<String, String>(8, |micro_batch_size| {
            tried += 1;
            if tried == 2 {
                return Err("interrupted".to_owned());
            }
            let (tokens_per_second, none) = (1.0, None);
            let (peak_memory_bytes, available_bytes) = (none, none);
            Ok(Ok(Trial { micro_batch_size, tokens_per_second, peak_memory_bytes, program_bytes: 0, available_bytes }))
        });
        assert_eq!((interrupted.unwrap_err().as_str(), tried), ("interrupted", 2));
    }
}
