//! How fast kubepki is beside what else does the same work.
//!
//! Everything that is compared runs in turns within one run, because the same machine is a third
//! faster or slower from one minute to the next. CPU time is the figure; wall time is printed
//! beside it. `docs/performance.md` says how to read the tables.

mod authorities;
mod bootstrap;
mod check;
mod issue;
mod keys;
mod ledger;
mod measure;
mod rke;
mod serve;
mod trees;
mod twelve;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use measure::Failure;

/// Measures kubepki beside other programs in the same run.
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Arguments {
    /// What to measure.
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Issuing a leaf, beside the bare cryptography.
    Issue {
        /// How often the steps take turns.
        #[arg(long, default_value_t = 40)]
        rounds: usize,
    },
    /// Twelve leaves with their files, beside other programs.
    Twelve {
        /// How often the programs take turns.
        #[arg(long, default_value_t = 10)]
        rounds: usize,
    },
    /// `check` of one server from a cold process.
    Check {
        /// How often the programs take turns.
        #[arg(long, default_value_t = 40)]
        rounds: usize,
    },
    /// `check` of many servers.
    Trees {
        /// How many, one measurement after the other.
        #[arg(long, value_delimiter = ',', default_values_t = [100, 1_000, 10_000])]
        counts: Vec<usize>,
        /// How many of them are made anew; the others are hard links to their files.
        #[arg(long, default_value_t = 20)]
        distinct: usize,
        /// How often each measurement is repeated.
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// Where they are made, in a folder of their own that goes afterwards.
        #[arg(long)]
        folder: Option<PathBuf>,
    },
    /// New CAs, beside K3s's scripts.
    Authorities {
        /// How often the sides take turns.
        #[arg(long, default_value_t = 20)]
        rounds: usize,
    },
    /// RSA keys on all cores, beside one.
    Keys {
        /// How many keys.
        #[arg(long, default_value_t = 200)]
        keys: usize,
        /// How often the sides take turns.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
    },
    /// Deploying to the hosts of an RKE cluster, beside scp and ssh. Only root can.
    Rke {
        /// Hosts, one measurement after the other.
        #[arg(long, value_delimiter = ',', default_values_t = [3, 10, 25])]
        hosts: Vec<usize>,
        /// How often the sides take turns.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Milliseconds that everything takes to a host, and back.
        #[arg(long, default_value_t = 0)]
        delay: u64,
    },
    /// The issuance log: records that share an fsync, beside one for each.
    Log {
        /// How many records.
        #[arg(long, default_value_t = 20_000)]
        records: usize,
        /// How many callers wait at the same time.
        #[arg(long, default_value_t = 64)]
        callers: usize,
        /// How often the sides take turns.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// On which disk, in a folder of its own that goes afterwards.
        #[arg(long)]
        folder: Option<PathBuf>,
    },
    /// `kubepki serve` under load, beside the bare cryptography.
    Serve(serve::Request),
    /// The child of `serve`: the load.
    #[command(hide = true)]
    ServeLoad(serve::load::Load),
    /// The bootstrap data, read and written in each datastore.
    Bootstrap {
        /// How often each is done.
        #[arg(long, default_value_t = 40)]
        rounds: usize,
    },
    /// The child of `authorities`: makes CAs and writes them.
    #[command(hide = true)]
    AuthoritiesLibrary {
        /// Which.
        job: authorities::Job,
        /// Holds `server/`.
        folder: PathBuf,
    },
    /// The child of `twelve` that uses the library: writes twelve leaves.
    #[command(hide = true)]
    Library {
        /// Holds `ca.crt` and `ca.key`.
        authority: PathBuf,
        /// Where to.
        to: PathBuf,
    },
}

fn main() -> ExitCode {
    match run(&Arguments::parse().what) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(what: &What) -> Result<(), Failure> {
    match what {
        What::Issue { rounds } => issue::run(*rounds),
        What::Twelve { rounds } => twelve::run(*rounds),
        What::Check { rounds } => check::run(*rounds),
        What::Trees {
            counts,
            distinct,
            rounds,
            folder,
        } => trees::run(counts, *distinct, *rounds, folder.as_deref()),
        What::Authorities { rounds } => authorities::run(*rounds),
        What::Keys { keys, rounds } => keys::run(*keys, *rounds),
        What::Rke {
            hosts,
            rounds,
            delay,
        } => rke::run(&rke::Request {
            counts: hosts,
            rounds: *rounds,
            delay: *delay,
        }),
        What::Log {
            records,
            callers,
            rounds,
            folder,
        } => ledger::run(&ledger::Request {
            records: *records,
            callers: (*callers).max(1),
            rounds: *rounds,
            folder: folder.as_deref(),
        }),
        What::Serve(request) => serve::run(request),
        What::ServeLoad(load) => serve::load::child(load),
        What::Bootstrap { rounds } => bootstrap::run(*rounds),
        What::AuthoritiesLibrary { job, folder } => authorities::child(*job, folder),
        What::Library { authority, to } => twelve::library(authority, to),
    }
}
