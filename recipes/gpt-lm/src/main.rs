//! The recipe as a program; `fornax train gpt-lm` is the same.

fn main() -> std::process::ExitCode {
    gpt_lm::main(std::env::args_os())
}
