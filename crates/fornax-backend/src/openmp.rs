/// Has LibTorch's threads sleep soon after they ran out of work, instead of spinning for milliseconds: they would keep the cores
/// from the kernels of Fornax, which run on threads of their own between those of LibTorch.
///
/// OpenMP reads this from the environment when it is loaded, before `main`: so the program is started once more, in the same
/// process, with `GOMP_SPINCOUNT` set. Where that or `OMP_WAIT_POLICY` is set already, where there is no LibTorch, or where
/// starting fails, this does nothing. Call it first in `main`.
#[cfg(all(feature = "libtorch", target_os = "linux"))]
pub fn calm_openmp() {
    use std::{env, os::unix::process::CommandExt, process::Command};

    /// Tens of microseconds: long enough to go from one of LibTorch's loops to the next.
    const SPINS: &str = "10000";
    const NAME: &str = "GOMP_SPINCOUNT";
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
