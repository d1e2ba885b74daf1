//! The kubepki command: arguments in, one library call, output and exit code out.

mod args;
mod command;
mod error;
mod k3s;
mod output;
mod restart;
mod world;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let arguments = args::Cli::parse();
    match command::run(arguments) {
        Ok(code) => code.into(),
        Err(error) => error.report(),
    }
}
