//! The recipe as a program; `fornax train t5-text2text` is the same.

fn main() -> std::process::ExitCode {
    t5_text2text::main(std::env::args_os())
}
