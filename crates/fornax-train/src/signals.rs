use std::{
    ffi::c_int,
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

#[cfg(target_os = "linux")]
use signal_hook::consts::SIGHUP;
use signal_hook::{consts::TERM_SIGNALS, flag};

use crate::summary::EXIT_INTERRUPTED;

/// SIGINT, SIGTERM and, on Unix, SIGQUIT: the first asks the loop to stop after its step, the second leaves at once. On Linux SIGHUP
/// asks too, where it isn't ignored, but never leaves: of a terminal that is gone, shell and system both tell.
///
/// The handlers stay for the life of the process; once the value is dropped, the first signal leaves at once, so that
/// what a recipe does after training can be interrupted as usual.
#[derive(Clone, Debug)]
pub struct Interrupt {
    requested: Arc<AtomicBool>,
    /// Whether the next signal ends the process.
    leave: Arc<AtomicBool>,
}

static HANDLERS: OnceLock<Interrupt> = OnceLock::new();

impl Interrupt {
    /// Installs the handlers, or rearms those that this process has installed before.
    ///
    /// # Errors
    ///
    /// When the system refuses a handler.
    pub fn install() -> io::Result<Self> {
        let interrupt = match HANDLERS.get() {
            Some(installed) => installed.clone(),
            None => {
                let new = Self::unarmed();
                for (signal, leaves) in TERM_SIGNALS.iter().map(|&signal| (signal, true)).chain(hangup()) {
                    // In this order: the second signal must find the flag that the first has set.
                    flag::register_conditional_shutdown(signal, EXIT_INTERRUPTED, Arc::clone(&new.leave))?;
                    if leaves {
                        flag::register(signal, Arc::clone(&new.leave))?;
                    }
                    flag::register(signal, Arc::clone(&new.requested))?;
                }
                HANDLERS.get_or_init(|| new).clone()
            }
        };
        interrupt.requested.store(false, Ordering::SeqCst);
        interrupt.leave.store(false, Ordering::SeqCst);
        Ok(interrupt)
    }

    /// Flags that no signal sets.
    pub(crate) fn unarmed() -> Self {
        Self { requested: Arc::default(), leave: Arc::default() }
    }

    /// Whether a signal came.
    pub fn requested(&self) -> bool {
        self.requested.load(Ordering::SeqCst)
    }

    /// The next signal ends the process.
    pub(crate) fn leave_from_now_on(&self) {
        self.leave.store(true, Ordering::SeqCst);
    }

    /// Behaves as if a signal came.
    #[cfg(test)]
    pub(crate) fn request(&self) {
        self.requested.store(true, Ordering::SeqCst);
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        self.leave.store(true, Ordering::SeqCst);
    }
}

/// The signal that says that the terminal is gone, of which the second doesn't leave, unless it is to be survived, as with `nohup`: a
/// handler would undo that. Linux alone tells without `unsafe` code.
#[cfg(target_os = "linux")]
fn hangup() -> Option<(c_int, bool)> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    (ignores(&status, SIGHUP) == Some(false)).then_some((SIGHUP, false))
}

#[cfg(not(target_os = "linux"))]
fn hangup() -> Option<(c_int, bool)> {
    None
}

/// Whether the process of this `/proc/PID/status` ignores a signal: the mask has a bit for each, from 1.
#[cfg(target_os = "linux")]
fn ignores(status: &str, signal: c_int) -> Option<bool> {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    let mask = u64::from_str_radix(mask.trim(), 16).ok()?;
    Some(mask >> (signal - 1) & 1 == 1)
}

#[cfg(all(test, unix))]
mod tests {
    use std::process::Command;

    use signal_hook::{
        consts::{SIGINT, SIGTERM},
        low_level::raise,
    };

    use super::*;

    /// Signals go to the whole process, so a child takes them.
    #[test]
    fn the_first_signal_asks_and_the_second_leaves() {
        const KEY: &str = "FORNAX_TEST_SIGNALS";
        if std::env::var_os(KEY).is_some() {
            let interrupt = Interrupt::install().unwrap();
            assert!(!interrupt.requested());
            raise(SIGTERM).unwrap();
            assert!(interrupt.requested());
            let interrupt = Interrupt::install().unwrap();
            assert!(!interrupt.requested());
            // Whoever started this may have it ignored.
            #[cfg(target_os = "linux")]
            if hangup().is_some() {
                raise(SIGHUP).unwrap();
                raise(SIGHUP).unwrap();
                assert!(interrupt.requested());
            }
            let interrupt = Interrupt::install().unwrap();
            raise(SIGINT).unwrap();
            assert!(interrupt.requested());
            raise(SIGINT).unwrap();
            unreachable!("the second signal leaves");
        }
        let name = "signals::tests::the_first_signal_asks_and_the_second_leaves";
        let child =
            Command::new(std::env::current_exe().unwrap()).args(["--exact", name]).env(KEY, "1").output().unwrap();
        assert_eq!(child.status.code(), Some(EXIT_INTERRUPTED), "{child:?}");
    }
    #[cfg(target_os = "linux")]
    #[test]
    fn an_ignored_signal_is_told_from_another() {
        let status = "Name:\tfornax\nSigBlk:\tffffffffffffffff\nSigIgn:\t0000000000001001\n";
        assert_eq!([1, 2, 13, 15].map(|signal| ignores(status, signal)), [true, false, true, false].map(Some));
        assert_eq!(ignores("Name:\tfornax\n", 1), None);
    }
}
