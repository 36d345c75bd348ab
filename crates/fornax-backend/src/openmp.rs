use std::process::Command;

#[cfg(all(feature = "libtorch", target_os = "linux"))]
const NAME: &str = "GOMP_SPINCOUNT";
/// Tens of microseconds: long enough to go from one of LibTorch's loops to the next.
#[cfg(all(feature = "libtorch", target_os = "linux"))]
const SPINS: &str = "10000";

/// Has LibTorch's threads sleep soon after they ran out of work, instead of spinning for milliseconds: they would keep the cores
/// from the kernels of Fornax, which run on threads of their own between those of LibTorch.
///
/// OpenMP reads this from the environment when it is loaded, before `main`: so the program is started once more, in the same
/// process, with `GOMP_SPINCOUNT` set. Where that or `OMP_WAIT_POLICY` is set already, where there is no LibTorch, or where
/// starting fails, this does nothing. Call it first in `main`.
#[cfg(all(feature = "libtorch", target_os = "linux"))]
pub fn calm_openmp() {
    use std::{env, os::unix::process::CommandExt};

    if [NAME, "OMP_WAIT_POLICY"].into_iter().any(|name| env::var_os(name).is_some()) {
        return;
    }
    let mut args = env::args_os();
    if let (Ok(program), Some(name)) = (env::current_exe(), args.next()) {
        // Comes back only if it failed, and then nothing has changed.
        let _ = Command::new(program).arg0(name).args(args).env(NAME, SPINS).exec();
    }
}

/// Nothing: there is no OpenMP of LibTorch.
#[cfg(not(all(feature = "libtorch", target_os = "linux")))]
pub fn calm_openmp() {}

/// Takes from another program what [`calm_openmp`] has set for this one.
#[cfg(all(feature = "libtorch", target_os = "linux"))]
pub fn forget_calm_openmp(command: &mut Command) {
    if std::env::var_os(NAME).is_some_and(|spins| spins == SPINS) {
        command.env_remove(NAME);
    }
}

/// Nothing: nothing was set.
#[cfg(not(all(feature = "libtorch", target_os = "linux")))]
pub fn forget_calm_openmp(_: &mut Command) {}
