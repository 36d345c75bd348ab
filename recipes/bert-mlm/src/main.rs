//! The recipe as a program; `fornax train bert-mlm` is the same.

fn main() -> std::process::ExitCode {
    bert_mlm::main(std::env::args_os())
}
