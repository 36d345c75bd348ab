//! The recipe as a program; `fornax train translate` is the same.

fn main() -> std::process::ExitCode {
    translate::main(std::env::args_os())
}
