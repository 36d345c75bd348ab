//! The Fornax tool.

fn main() -> std::process::ExitCode {
    fornax::main(std::env::args_os())
}
