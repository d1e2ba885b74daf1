//! The kubepki command: arguments in, one library call, output and exit code out.

mod args;
mod command;
mod datastore;
mod dropin;
mod error;
mod k3s;
mod output;
mod period;
mod restart;
mod rke;
mod serving;
mod syslog;
mod world;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let arguments = match args::Cli::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return dropin::usage_error(&error),
    };
    match command::run(arguments) {
        Ok(code) => code.into(),
        Err(error) => error.report(),
    }
}
