//! Chores of the repository.

#[cfg(test)]
mod sample;
mod tidy;

use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "\
cargo xtask tidy    hold the repository to the rules that compiler and clippy do not know
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .as_slice()
    {
        ["tidy"] => tidy_repository(),
        [] | ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            ExitCode::SUCCESS
        }
        _ => {
            eprint!("unknown chore\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn tidy_repository() -> ExitCode {
    // Cargo says at run time which checkout was asked, also when two share their build output.
    let manifest =
        std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let repository = match tidy::Repository::read(&Path::new(&manifest).join("..")) {
        Ok(repository) => repository,
        Err(error) => {
            eprintln!("tidy: {error}");
            return ExitCode::FAILURE;
        }
    };
    let problems = tidy::problems(&repository);
    for problem in &problems {
        eprintln!("{problem}");
    }
    eprintln!(
        "tidy: {} files, {} problems",
        repository.files.len(),
        problems.len()
    );
    if problems.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
