//! The threads that share the pieces of a kernel's work.
//!
//! A step of a small model is some hundred operations of a tenth of a millisecond each, one after another. Threads that go to sleep
//! between two of them, as those of a general pool do, are woken for each and come late. These wait for the next one awake, for a
//! while, and let go of their core meanwhile if somebody else wants it.

use std::{
    any::Any,
    cell::UnsafeCell,
    hint::spin_loop,
    mem,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Condvar, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// How long a thread waits for work before it sleeps.
const PATIENCE: Duration = Duration::from_micros(200);

/// Runs `work` on the numbers below `pieces`, on as many threads as the pool of `rayon` that the caller is in has. One piece is not
/// worth a second thread; nor is there one for work within such work, or beside that of another thread.
pub(super) fn share(pieces: usize, work: &(dyn Fn(usize) + Sync)) {
    static TEAM: OnceLock<&'static Team> = OnceLock::new();

    let threads = rayon::current_num_threads();
    if pieces > 1 && threads > 1 && TEAM.get_or_init(|| Team::new(threads)).share(pieces, work) {
        return;
    }
    (0..pieces).for_each(work);
}

/// The caller of [`share`] and the threads that help.
struct Team {
    /// Held by the caller whose work this is.
    turn: Mutex<()>,
    /// The number of the current work, whether it may be entered, and how many helpers are in it.
    state: AtomicU64,
    work: UnsafeCell<Option<&'static (dyn Fn(usize) + Sync)>>,
    /// Of each thread. It takes its own pieces first, the same part of each operation, since part of that is in its cache.
    ranges: Box<[Range]>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    asleep: AtomicUsize,
    bed: Mutex<()>,
    bell: Condvar,
}

// SAFETY: `work` is written by the one who has the turn, while nobody may enter and nobody is within, and read within.
#[allow(unsafe_code)]
unsafe impl Sync for Team {}

/// Pieces, of which those before `next` are taken. It has a cache line to itself.
#[derive(Default)]
#[repr(align(128))]
struct Range {
    next: AtomicUsize,
    end: AtomicUsize,
}

/// Bits of [`Team::state`].
const HELPERS: u64 = OPEN - 1;
const OPEN: u64 = 1 << 16;
const NUMBER: u64 = OPEN << 1;

impl Team {
    /// With `threads - 1` helpers, or as many as the system grants, until the process ends.
    fn new(threads: usize) -> &'static Self {
        let team: &'static Self = Box::leak(Box::new(Self {
            turn: Mutex::new(()),
            state: AtomicU64::new(0),
            work: UnsafeCell::new(None),
            ranges: (0..threads.min(HELPERS as usize)).map(|_| Range::default()).collect(),
            panic: Mutex::new(None),
            asleep: AtomicUsize::new(0),
            bed: Mutex::new(()),
            bell: Condvar::new(),
        }));
        for helper in 1..team.ranges.len() {
            let thread = thread::Builder::new().name(format!("kernels {helper}"));
            if thread.spawn(move || team.help(helper)).is_err() {
                break;
            }
        }
        team
    }

    /// Whether it was this work's turn; otherwise nothing is done.
    #[allow(unsafe_code)]
    fn share(&self, pieces: usize, work: &(dyn Fn(usize) + Sync)) -> bool {
        let _turn = match self.turn.try_lock() {
            Ok(turn) => turn,
            Err(TryLockError::Poisoned(turn)) => turn.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        let threads = self.ranges.len();
        for (index, range) in self.ranges.iter().enumerate() {
            range.next.store(pieces * index / threads, Ordering::Relaxed);
            range.end.store(pieces * (index + 1) / threads, Ordering::Relaxed);
        }
        // SAFETY: nobody is within, and none will be when this function returns, which `work` outlives.
        let work: &'static (dyn Fn(usize) + Sync) =
            unsafe { mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(work) };
        // SAFETY: as above.
        unsafe { *self.work.get() = Some(work) };
        let number = (self.state.load(Ordering::Relaxed) & !HELPERS).wrapping_add(NUMBER);
        self.state.store(number | OPEN, Ordering::SeqCst);
        self.wake(pieces - 1);
        let outcome = catch_unwind(AssertUnwindSafe(|| self.take_pieces(0, work)));
        self.state.fetch_and(!OPEN, Ordering::AcqRel);
        let mut patience = Patience::new();
        while self.state.load(Ordering::Acquire) & HELPERS != 0 {
            patience.pause();
        }
        let panic = lock(&self.panic).take();
        if let Some(panic) = outcome.err().or(panic) {
            resume_unwind(panic);
        }
        true
    }

    /// Works on what is left of the pieces, first on those of `thread`.
    fn take_pieces(&self, thread: usize, work: &(dyn Fn(usize) + Sync)) {
        let (before, from) = self.ranges.split_at(thread);
        for range in from.iter().chain(before) {
            let end = range.end.load(Ordering::Relaxed);
            loop {
                let piece = range.next.fetch_add(1, Ordering::Relaxed);
                if piece >= end {
                    break;
                }
                work(piece);
            }
        }
    }

    /// What a helper does.
    #[allow(unsafe_code)]
    fn help(&self, thread: usize) {
        let mut last = 0;
        loop {
            last = self.enter(last);
            // SAFETY: within.
            if let Some(work) = unsafe { *self.work.get() }
                && let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.take_pieces(thread, work)))
            {
                *lock(&self.panic) = Some(panic);
            }
            self.state.fetch_sub(1, Ordering::Release);
        }
    }

    /// Waits until work other than the one of this number may be entered, and enters it.
    fn enter(&self, last: u64) -> u64 {
        let mut patience = Patience::new();
        loop {
            let state = self.state.load(Ordering::SeqCst);
            let number = state & !HELPERS;
            if state & OPEN != 0 && number != last {
                if self.state.compare_exchange_weak(state, state + 1, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                    return number;
                }
            } else if !patience.pause() {
                self.sleep(last);
                patience = Patience::new();
            }
        }
    }

    /// Until there is such work.
    fn sleep(&self, last: u64) {
        let mut bed = lock(&self.bed);
        // Either this sees the work that is opened next, or who opens it sees this: both write before they read.
        self.asleep.fetch_add(1, Ordering::SeqCst);
        loop {
            let state = self.state.load(Ordering::SeqCst);
            if state & OPEN != 0 && state & !HELPERS != last {
                break;
            }
            bed = self.bell.wait(bed).unwrap_or_else(PoisonError::into_inner);
        }
        self.asleep.fetch_sub(1, Ordering::SeqCst);
    }

    fn wake(&self, helpers: usize) {
        let asleep = self.asleep.load(Ordering::SeqCst);
        if asleep > 0 {
            let _bed = lock(&self.bed);
            (0..asleep.min(helpers)).for_each(|_| self.bell.notify_one());
        }
    }
}

/// Of a thread that waits.
struct Patience {
    since: Option<Instant>,
}

impl Patience {
    fn new() -> Self {
        Self { since: None }
    }

    /// Waits a moment. Whether there is any patience left.
    fn pause(&mut self) -> bool {
        (0..32).for_each(|_| spin_loop());
        thread::yield_now();
        self.since.get_or_insert_with(Instant::now).elapsed() < PATIENCE
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Through [`Team::share`] or alone, as one turn at a time allows: tests run beside each other.
    fn count(pieces: usize) -> Vec<usize> {
        let counts: Vec<AtomicUsize> = (0..pieces).map(|_| AtomicUsize::new(0)).collect();
        share(pieces, &|piece| {
            counts[piece].fetch_add(1, Ordering::Relaxed);
        });
        counts.into_iter().map(AtomicUsize::into_inner).collect()
    }

    #[test]
    fn every_piece_is_worked_on_once() {
        for _ in 0..2_000 {
            for pieces in [0, 1, 2, 3, 7, 64] {
                assert_eq!(count(pieces), vec![1; pieces]);
            }
        }
        thread::sleep(3 * PATIENCE);
        assert_eq!(count(100), vec![1; 100]);
    }

    /// Each piece waits until another thread has begun one, which it does awake and asleep.
    #[test]
    fn helpers_come_awake_and_asleep() {
        let team = Team::new(2);
        for pause in [Duration::ZERO, 5 * PATIENCE, Duration::ZERO] {
            thread::sleep(pause);
            let begun = AtomicUsize::new(0);
            let shared = team.share(2, &|_| {
                begun.fetch_add(1, Ordering::SeqCst);
                while begun.load(Ordering::SeqCst) < 2 {
                    thread::yield_now();
                }
            });
            assert!(shared);
        }
    }

    #[test]
    fn work_within_work_is_done_alone() {
        let team = Team::new(2);
        let (within, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
        team.share(4, &|_| {
            refused.fetch_add(usize::from(!team.share(2, &|_| ())), Ordering::Relaxed);
            share(3, &|_| {
                within.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert_eq!((within.into_inner(), refused.into_inner()), (12, 4));
    }

    #[test]
    fn a_panic_reaches_the_caller_and_leaves_the_team_as_it_was() {
        let team = Team::new(3);
        for wrong in 0..8 {
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                team.share(8, &|piece| assert_ne!(piece, wrong, "piece of no good"));
            }));
            let panic = outcome.unwrap_err();
            assert!(panic.downcast_ref::<String>().unwrap().contains("piece of no good"));
            let sum = AtomicUsize::new(0);
            assert!(team.share(8, &|piece| {
                sum.fetch_add(piece, Ordering::Relaxed);
            }));
            assert_eq!(sum.into_inner(), 28);
        }
    }
}
