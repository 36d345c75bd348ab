use std::any::Any;
use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::DataError;

/// Where batches come from: a pure function of the step.
pub trait BatchSource: Send + Sync {
    /// A batch on the host.
    type Batch: Send + 'static;

    /// Steps in which the data is visited once.
    fn steps_per_epoch(&self) -> u64;

    /// The micro-batches of `step`, counted from 0.
    ///
    /// # Errors
    ///
    /// If an example can't be read.
    fn micro_batches(&self, step: u64) -> Result<Vec<Self::Batch>, DataError>;

    /// The batches of the first `steps` steps, as an evaluation goes through them.
    fn first(&self, steps: u64) -> impl Iterator<Item = Result<Self::Batch, DataError>> + '_
    where
        Self: Sized,
    {
        (0..steps).flat_map(|step| match self.micro_batches(step) {
            Ok(batches) => batches.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        })
    }
}

/// How a [`Loader`] works ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoaderOptions {
    /// Threads that make batches, at least one.
    pub workers: usize,
    /// Steps that may be ready before they are asked for, at least one.
    pub ahead: usize,
}

impl Default for LoaderOptions {
    fn default() -> Self {
        // Token blocks are copies out of a memory map: one thread is far ahead of any model. Four steps ride out a slow disk.
        Self { workers: 1, ahead: 4 }
    }
}

/// Makes the batches of the coming steps in worker threads and hands them out in step order.
///
/// What it yields does not depend on the number of workers. An error or a panic in a worker comes out as `Err` at its step, and
/// ends the iteration. Dropping the loader stops the workers after the batch that they are at.
pub struct Loader<B> {
    shared: Arc<Shared<B>>,
    workers: Vec<JoinHandle<()>>,
}

struct Shared<B> {
    state: Mutex<State<B>>,
    /// Signalled when a step is ready.
    filled: Condvar,
    /// Signalled when there is room, or nothing left to do.
    drained: Condvar,
    ahead: u64,
    end: u64,
}

struct State<B> {
    /// The next step that no worker has begun.
    claim: u64,
    /// The next step to hand out. Invariant: `take <= claim <= take + ahead`.
    take: u64,
    ready: BTreeMap<u64, Result<Vec<B>, DataError>>,
    stopped: bool,
}

impl<B> Shared<B> {
    /// No code that runs under the lock can panic, so a poisoned lock still guards a whole state.
    fn lock(&self) -> MutexGuard<'_, State<B>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        self.lock().stopped = true;
        self.drained.notify_all();
    }
}

impl<B: Send + 'static> Loader<B> {
    /// Starts making the batches of `steps` of `source`. A run that resumes at step 700 passes `700..end`.
    ///
    /// # Errors
    ///
    /// If the system refuses a thread.
    pub fn start<S>(source: Arc<S>, steps: Range<u64>, options: LoaderOptions) -> Result<Self, DataError>
    where
        S: BatchSource<Batch = B> + 'static,
    {
        let state = State { claim: steps.start, take: steps.start, ready: BTreeMap::new(), stopped: false };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            filled: Condvar::new(),
            drained: Condvar::new(),
            ahead: options.ahead.max(1) as u64,
            end: steps.end,
        });
        // Built first, so that workers already running are stopped and joined if a later thread is refused.
        let mut loader = Self { shared: shared.clone(), workers: Vec::new() };
        for number in 0..options.workers.max(1) {
            let (shared, source) = (shared.clone(), source.clone());
            let worker = std::thread::Builder::new()
                .name(format!("loader-{number}"))
                .spawn(move || work(&shared, source.as_ref()))
                .map_err(|error| DataError::LoaderThread { reason: error.to_string() })?;
            loader.workers.push(worker);
        }
        Ok(loader)
    }
}

impl<B> Iterator for Loader<B> {
    type Item = Result<(u64, Vec<B>), DataError>;

    /// The next step and its micro-batches; waits until they are made.
    fn next(&mut self) -> Option<Self::Item> {
        let mut state = self.shared.lock();
        loop {
            if state.stopped || state.take >= self.shared.end {
                return None;
            }
            let step = state.take;
            if let Some(result) = state.ready.remove(&step) {
                state.take += 1;
                drop(state);
                match &result {
                    Ok(_) => self.shared.drained.notify_one(),
                    Err(_) => self.shared.stop(),
                }
                return Some(result.map(|batches| (step, batches)));
            }
            state = self.shared.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl<B> Drop for Loader<B> {
    fn drop(&mut self) {
        self.shared.stop();
        for worker in self.workers.drain(..) {
            // A worker catches its panics, so there is nothing to learn from the result.
            let _ = worker.join();
        }
    }
}

fn work<S: BatchSource>(shared: &Shared<S::Batch>, source: &S) {
    loop {
        let step = {
            let mut state = shared.lock();
            while !state.stopped && state.claim < shared.end && state.claim >= state.take + shared.ahead {
                state = shared.drained.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.stopped || state.claim >= shared.end {
                // Others may be waiting for room that nobody will free any more.
                shared.drained.notify_all();
                return;
            }
            state.claim += 1;
            state.claim - 1
        };
        // A panic may leave the source's interior half changed, but nobody uses it after an error.
        let result = catch_unwind(AssertUnwindSafe(|| source.micro_batches(step)))
            .unwrap_or_else(|payload| Err(DataError::LoaderPanic { step, message: panic_message(payload.as_ref()) }));
        shared.lock().ready.insert(step, result);
        shared.filled.notify_all();
    }
}

/// The text of a panic, where it has one.
pub(crate) fn panic_message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without a message".into())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use super::*;

    /// Batches that say their step, later ones faster, so that workers finish out of order.
    struct Numbers {
        made: AtomicU64,
        fail_at: u64,
        panic_at: u64,
    }

    impl Numbers {
        fn new() -> Self {
            Self { made: AtomicU64::new(0), fail_at: u64::MAX, panic_at: u64::MAX }
        }
    }

    impl BatchSource for Numbers {
        type Batch = u64;

        fn steps_per_epoch(&self) -> u64 {
            10
        }

        fn micro_batches(&self, step: u64) -> Result<Vec<u64>, DataError> {
            self.made.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_micros(500 * (3 - step % 4)));
            assert!(step != self.panic_at, "example {step} is broken");
            if step == self.fail_at {
                return Err(DataError::LoaderThread { reason: format!("unreadable at {step}") });
            }
            Ok(vec![2 * step, 2 * step + 1])
        }
    }

    fn options(workers: usize, ahead: usize) -> LoaderOptions {
        LoaderOptions { workers, ahead }
    }

    #[test]
    fn any_number_of_workers_gives_the_same_steps_in_order() {
        for workers in 1..=4 {
            for ahead in [1, 3] {
                let loader = Loader::start(Arc::new(Numbers::new()), 7..40, options(workers, ahead)).unwrap();
                let steps: Vec<_> = loader.map(Result::unwrap).collect();
                let expected: Vec<_> = (7..40).map(|step| (step, vec![2 * step, 2 * step + 1])).collect();
                assert_eq!(steps, expected, "{workers} workers, {ahead} ahead");
            }
        }
    }

    #[test]
    fn a_failing_source_gives_its_error_at_its_step_and_ends() {
        for workers in 1..=3 {
            let source = Numbers { fail_at: 5, ..Numbers::new() };
            let mut loader = Loader::start(Arc::new(source), 0..100, options(workers, 4)).unwrap();
            for step in 0..5 {
                assert_eq!(loader.next().unwrap().unwrap().0, step);
            }
            let error = loader.next().unwrap().unwrap_err();
            assert!(error.to_string().contains("unreadable at 5"), "{error}");
            assert!(loader.next().is_none());
        }
    }

    #[test]
    fn a_panicking_source_gives_an_error_with_the_message() {
        let source = Numbers { panic_at: 2, ..Numbers::new() };
        let results: Vec<_> = Loader::start(Arc::new(source), 0..9, options(2, 2)).unwrap().collect();
        assert_eq!(results.len(), 3);
        let error = results[2].as_ref().unwrap_err();
        assert!(
            matches!(error, DataError::LoaderPanic { step: 2, message } if message == "example 2 is broken"),
            "{error}"
        );
    }

    #[test]
    fn the_queue_is_bounded_and_dropping_stops_the_workers() {
        let source = Arc::new(Numbers::new());
        let mut loader = Loader::start(source.clone(), 0..1_000_000, options(3, 5)).unwrap();
        loader.next().unwrap().unwrap();
        std::thread::sleep(Duration::from_millis(50));
        drop(loader);
        assert_eq!(Arc::strong_count(&source), 1, "a worker still holds the source");
        assert_eq!(source.made.load(Ordering::SeqCst), 6, "one step was taken, five may be ahead");
    }
}
