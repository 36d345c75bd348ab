//! Kernels over memory of the host: plain slices in and out, threaded, and vectorised for the instructions that the CPU turns
//! out to have.
//!
//! They know nothing of tensors. `flex` computes with them, and LibTorch on a CPU where its own kernels are slower or
//! missing. Each result is a function of the input alone: work is cut into pieces of fixed size, and partial sums are added
//! in the order of the pieces, so the number of threads changes nothing.

// Pieces of several slices, zipped: a name for each such tuple would say less than the tuple does.
#![allow(clippy::type_complexity)]

pub(crate) mod adamw;
pub(crate) mod attention;
pub(crate) mod cross_entropy;
pub(crate) mod elementwise;
pub(crate) mod embedding;
pub(crate) mod math;
pub(crate) mod matrix;
pub(crate) mod norm;
mod team;
#[cfg(target_arch = "x86_64")]
pub(crate) mod tiled;

use std::{
    mem,
    sync::{Mutex, PoisonError},
};

use pulp::{Arch, Simd, WithSimd};

/// Elements of a piece of elementwise work: enough to be worth a task, few enough to stay in the second-level cache.
pub(crate) const PIECE: usize = 16 * 1024;

/// Runs `kernel`, compiled once for each set of vector instructions, with the widest that this CPU has. What is called in
/// it has to be inlined to profit; so has `kernel`, which therefore is no `FnOnce`: that would be called through a function
/// which nobody asked to inline.
#[inline(always)]
pub(crate) fn vectorised<R>(kernel: impl FnMut() -> R) -> R {
    struct Kernel<F>(F);

    impl<R, F: FnMut() -> R> WithSimd for Kernel<F> {
        type Output = R;

        #[inline(always)]
        fn with_simd<S: Simd>(mut self, _: S) -> R {
            (self.0)()
        }
    }

    Arch::new().dispatch(Kernel(kernel))
}

/// Runs `work` on each piece, on as many threads as there are.
pub(crate) fn each<T: Send>(pieces: impl Iterator<Item = T>, work: impl Fn(T) + Sync) {
    collect(pieces, work);
}

/// What `work` makes of each piece, in their order.
#[allow(clippy::expect_used)]
pub(crate) fn collect<T: Send, R: Send>(pieces: impl Iterator<Item = T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    enum Piece<T, R> {
        Waiting(T),
        Taken,
        Done(R),
    }

    let pieces: Vec<_> = pieces.map(|piece| Mutex::new(Piece::Waiting(piece))).collect();
    team::share(pieces.len(), &|index| {
        let mut piece = pieces[index].lock().unwrap_or_else(PoisonError::into_inner);
        if let Piece::Waiting(waiting) = mem::replace(&mut *piece, Piece::Taken) {
            *piece = Piece::Done(work(waiting));
        }
    });
    let result = |piece: Mutex<Piece<T, R>>| match piece.into_inner() {
        Ok(Piece::Done(result)) => Some(result),
        _ => None,
    };
    // A panic in one has come here by now.
    pieces.into_iter().map(|piece| result(piece).expect("each piece is worked on")).collect()
}
