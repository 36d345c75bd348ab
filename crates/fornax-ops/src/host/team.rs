//! The threads that share the pieces of a kernel's work.
//!
//! A step of a small model is some hundred operations of a tenth of a millisecond each, one after another. Threads that go to sleep
//! between two of them, as those of `rayon` do, are woken for each and come late. These wait for the next one awake, for a while, and
//! let go of their core meanwhile if somebody else wants it.

use std::{
    any::Any,
    cell::{Cell, UnsafeCell},
    hint::spin_loop,
    mem,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError, TryLockError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, Thread},
    time::{Duration, Instant},
};

use rayon::prelude::*;

/// How long a thread waits for work before it sleeps.
const PATIENCE: Duration = Duration::from_micros(200);

thread_local! {
    /// Whether this thread is at work that is shared.
    static WITHIN: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` on the numbers below `pieces`, on as many threads as the pool of `rayon` that the caller is in has, or as many cores as
/// there are. One piece is not worth a second thread, nor is there one for work within such work. The threads wait awake for one
/// caller at a time; who comes meanwhile takes those of `rayon`.
pub(super) fn share(pieces: usize, work: &(dyn Fn(usize) + Sync)) {
    static TEAM: OnceLock<&'static Team> = OnceLock::new();

    let threads = rayon::current_num_threads();
    if pieces < 2 || threads < 2 || WITHIN.get() {
        return (0..pieces).for_each(work);
    }
    let cores = || thread::available_parallelism().map_or(1, usize::from);
    let team = TEAM.get_or_init(|| Team::new(threads.max(cores())));
    if !team.share(pieces, threads, work) {
        (0..pieces).into_par_iter().for_each(work);
    }
}

/// The caller of [`share`], in the first seat, and the threads that help.
struct Team {
    /// Held by the caller whose work this is.
    turn: Mutex<()>,
    /// The number of the current work, whether it may be entered, and how many helpers are in it.
    state: AtomicU64,
    work: UnsafeCell<Option<&'static (dyn Fn(usize) + Sync)>>,
    /// How many seats have pieces of it. Only those enter.
    taken: AtomicUsize,
    seats: Box<[Seat]>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `work` is written by the one who has the turn, while nobody may enter and nobody is within, and read within.
#[allow(unsafe_code)]
unsafe impl Sync for Team {}

/// A thread and the pieces that it takes first: the same part of each operation, since some of that is in its cache. It has a cache
/// line to itself.
#[derive(Default)]
#[repr(align(128))]
struct Seat {
    /// The pieces before it are taken.
    next: AtomicUsize,
    end: AtomicUsize,
    asleep: AtomicBool,
    thread: OnceLock<Thread>,
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
            taken: AtomicUsize::new(0),
            seats: (0..threads.min(HELPERS as usize)).map(|_| Seat::default()).collect(),
            panic: Mutex::new(None),
        }));
        for (number, seat) in team.seats.iter().enumerate().skip(1) {
            let thread = thread::Builder::new().name(format!("kernels {number}"));
            match thread.spawn(move || team.help(number)) {
                Ok(helper) => _ = seat.thread.set(helper.thread().clone()),
                // What is meant for it, others take.
                Err(_) => break,
            }
        }
        team
    }

    /// Whether it was this work's turn; otherwise nothing is done.
    #[allow(unsafe_code)]
    fn share(&self, pieces: usize, threads: usize, work: &(dyn Fn(usize) + Sync)) -> bool {
        let _turn = match self.turn.try_lock() {
            Ok(turn) => turn,
            Err(TryLockError::Poisoned(turn)) => turn.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        let taken = threads.min(pieces).min(self.seats.len());
        for (index, seat) in self.seats[..taken].iter().enumerate() {
            seat.next.store(pieces * index / taken, Ordering::Relaxed);
            seat.end.store(pieces * (index + 1) / taken, Ordering::Relaxed);
        }
        self.taken.store(taken, Ordering::Relaxed);
        // SAFETY: for as long as this function runs, which nobody is within when it returns.
        let lasting = unsafe { mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(work) };
        // SAFETY: nobody is within.
        unsafe { *self.work.get() = Some(lasting) };
        let number = (self.state.load(Ordering::Relaxed) & !HELPERS).wrapping_add(NUMBER);
        // Either a helper that falls asleep sees this, or this sees that it does: both write before they read.
        self.state.store(number | OPEN, Ordering::SeqCst);
        for seat in &self.seats[1..taken] {
            if seat.asleep.load(Ordering::SeqCst)
                && let Some(thread) = seat.thread.get()
            {
                thread.unpark();
            }
        }
        let outcome = self.take_pieces(0, taken, work);
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

    /// Works on what is left of the pieces, first on those of seat `own`.
    fn take_pieces(&self, own: usize, taken: usize, work: &(dyn Fn(usize) + Sync)) -> thread::Result<()> {
        WITHIN.set(true);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let (before, from) = self.seats[..taken].split_at(own);
            for seat in from.iter().chain(before) {
                let end = seat.end.load(Ordering::Relaxed);
                while seat.next.load(Ordering::Relaxed) < end {
                    let piece = seat.next.fetch_add(1, Ordering::Relaxed);
                    if piece < end {
                        work(piece);
                    }
                }
            }
        }));
        WITHIN.set(false);
        outcome
    }

    /// What a helper does.
    #[allow(unsafe_code)]
    fn help(&self, own: usize) {
        let mut last = 0;
        loop {
            last = self.enter(own, last);
            // SAFETY: within.
            if let Some(work) = unsafe { *self.work.get() }
                && let Err(panic) = self.take_pieces(own, self.taken.load(Ordering::Relaxed), work)
            {
                *lock(&self.panic) = Some(panic);
            }
            self.state.fetch_sub(1, Ordering::Release);
        }
    }

    /// Waits until work other than the one of this number may be entered from seat `own`, and enters it.
    fn enter(&self, own: usize, last: u64) -> u64 {
        let mut patience = Patience::new();
        loop {
            let state = self.state.load(Ordering::SeqCst);
            if self.is_open(state, own, last) {
                if self.state.compare_exchange_weak(state, state + 1, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                    return state & !HELPERS;
                }
            } else if !patience.pause() {
                self.sleep(own, last);
                patience = Patience::new();
            }
        }
    }

    /// What `taken` says may be of later work than `state`, which then is no longer the state.
    fn is_open(&self, state: u64, own: usize, last: u64) -> bool {
        state & OPEN != 0 && state & !HELPERS != last && own < self.taken.load(Ordering::Relaxed)
    }

    /// Until there is such work.
    fn sleep(&self, own: usize, last: u64) {
        let asleep = &self.seats[own].asleep;
        asleep.store(true, Ordering::SeqCst);
        while !self.is_open(self.state.load(Ordering::SeqCst), own, last) {
            thread::park();
        }
        asleep.store(false, Ordering::SeqCst);
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

    /// How often each of so many pieces was worked on.
    fn count(pieces: usize, share: impl Fn(&(dyn Fn(usize) + Sync))) -> Vec<usize> {
        let counts: Vec<AtomicUsize> = (0..pieces).map(|_| AtomicUsize::new(0)).collect();
        share(&|piece| {
            counts[piece].fetch_add(1, Ordering::Relaxed);
        });
        counts.into_iter().map(AtomicUsize::into_inner).collect()
    }

    #[test]
    fn every_piece_is_worked_on_once() {
        let team = Team::new(3);
        for round in 0..1_000 {
            for pieces in [1, 2, 3, 7, 64] {
                let threads = 1 + round % 4;
                let counts = count(pieces, |work| assert!(team.share(pieces, threads, work)));
                assert_eq!(counts, vec![1; pieces]);
            }
        }
        thread::sleep(3 * PATIENCE);
        assert_eq!(count(100, |work| assert!(team.share(100, 3, work))), vec![1; 100]);
    }

    /// Those whose turn it isn't, too.
    #[test]
    fn callers_beside_each_other_all_get_their_work_done() {
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for pieces in [0, 1, 2, 50].into_iter().cycle().take(400) {
                        assert_eq!(count(pieces, |work| share(pieces, work)), vec![1; pieces]);
                    }
                });
            }
        });
    }

    /// Each piece waits until the other has begun, on a thread that is awake or asleep.
    #[test]
    fn helpers_come_awake_and_asleep() {
        let team = Team::new(2);
        for pause in [Duration::ZERO, 5 * PATIENCE, Duration::ZERO] {
            thread::sleep(pause);
            let (begun, start) = (AtomicUsize::new(0), Instant::now());
            let met = AtomicUsize::new(0);
            let shared = team.share(2, 2, &|_| {
                begun.fetch_add(1, Ordering::SeqCst);
                while begun.load(Ordering::SeqCst) < 2 && start.elapsed() < Duration::from_secs(60) {
                    thread::yield_now();
                }
                met.fetch_add(usize::from(start.elapsed() < Duration::from_secs(60)), Ordering::SeqCst);
            });
            assert_eq!((shared, met.into_inner()), (true, 2), "no helper came");
        }
    }

    #[test]
    fn no_more_threads_help_than_may() {
        let team = Team::new(4);
        for (threads, pieces, most) in [(2, 64, 2), (1, 64, 1), (9, 3, 3)] {
            let seen = Mutex::new(Vec::new());
            team.share(pieces, threads, &|_| {
                thread::sleep(Duration::from_micros(100));
                let mut seen = lock(&seen);
                if !seen.contains(&thread::current().id()) {
                    seen.push(thread::current().id());
                }
            });
            assert!(lock(&seen).len() <= most, "{threads} threads, {pieces} pieces");
        }
    }

    #[test]
    fn work_within_work_is_done_by_its_thread() {
        let team = Team::new(2);
        let within = AtomicUsize::new(0);
        team.share(4, 2, &|_| {
            let outer = thread::current().id();
            share(3, &|_| {
                within.fetch_add(usize::from(thread::current().id() == outer), Ordering::Relaxed);
            });
        });
        assert_eq!(within.into_inner(), 12);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_leaves_the_team_as_it_was() {
        let team = Team::new(3);
        for wrong in 0..8 {
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                team.share(8, 3, &|piece| assert_ne!(piece, wrong, "piece of no good"));
            }));
            let panic = outcome.unwrap_err();
            assert!(panic.downcast_ref::<String>().unwrap().contains("piece of no good"));
            assert_eq!(count(8, |work| assert!(team.share(8, 3, work))), vec![1; 8]);
            assert!(!WITHIN.get());
        }
    }
}
