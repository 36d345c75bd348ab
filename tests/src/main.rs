//! The programs under test in one binary: its first argument is the name of the program, the rest is the program's.

use std::process::ExitCode;

fn main() -> ExitCode {
    // The program's name takes the place of this binary's, so that usage lines read as the user's do.
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    match arguments.first().and_then(|name| name.to_str()) {
        Some("gpt-lm") => gpt_lm::main(arguments),
        Some("bert-mlm") => bert_mlm::main(arguments),
        Some("glue") => glue::main(arguments),
        Some("t5-text2text") => t5_text2text::main(arguments),
        Some("translate") => translate::main(arguments),
        Some("fornax") => fornax::main(arguments),
        _ => {
            eprintln!("the first argument is gpt-lm, bert-mlm, glue, t5-text2text, translate or fornax");
            ExitCode::from(2)
        }
    }
}
