//! The recipe as a program; `fornax train glue` is the same.

fn main() -> std::process::ExitCode {
    glue::main(std::env::args_os())
}
