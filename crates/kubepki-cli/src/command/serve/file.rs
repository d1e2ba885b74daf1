//! `serve --config`: the same flags in a file, in K3s's spelling.

use std::ffi::OsString;
use std::path::Path;

use clap::parser::ValueSource;
use clap::{ArgAction, Command as Clap, CommandFactory as _, Parser as _};
use kubepki::k3s::{FlagLine, flag_lines};

use super::ServeArgs;
use crate::args::{Cli, Command};
use crate::error::CliError;

/// The arguments with those of their `--config` file. What the command line says wins; lists are
/// joined, the file's values first, as K3s does it.
///
/// # Errors
///
/// A file that cannot be read, a flag that does not exist or a value that is none: with the line.
pub(super) fn with_file(args: &ServeArgs) -> Result<ServeArgs, CliError> {
    match &args.config {
        None => Ok(args.clone()),
        Some(path) => {
            let bytes = std::fs::read(path).map_err(|error| {
                CliError::usage(format!("--config: cannot read {}: {error}", path.display()))
            })?;
            joined(path, &bytes, std::env::args_os().collect())
        }
    }
}

fn joined(path: &Path, bytes: &[u8], argv: Vec<OsString>) -> Result<ServeArgs, CliError> {
    let shown = path.display().to_string();
    let lines = flag_lines(&shown, bytes).map_err(|error| CliError::usage(error.to_string()))?;
    let usage = |error: clap::Error| CliError::usage(first_line(&error));
    let matches = Cli::command().try_get_matches_from(&argv).map_err(usage)?;
    let (name, given) = matches
        .subcommand()
        .ok_or_else(|| CliError::usage("there is no command"))?;
    let mut serve = Cli::command();
    let serve = serve
        .find_subcommand_mut(name)
        .ok_or_else(|| CliError::usage("there is no such command"))?;
    serve.build();
    let mut from_file: Vec<OsString> = Vec::new();
    for line in &lines {
        let at = |why: String| CliError::usage(format!("{shown}:{}: {why}", line.line));
        let flag = flag(serve, &line.name).map_err(at)?;
        let id = flag.get_id().as_str();
        let wins = given.value_source(id) == Some(ValueSource::CommandLine);
        if wins && !matches!(flag.get_action(), ArgAction::Append) {
            continue;
        }
        let words = words(flag, line).map_err(at)?;
        for word in &words {
            let alone = [OsString::from("kubepki"), name.into(), word.clone()];
            Cli::try_parse_from(alone).map_err(|error| at(first_line(&error)))?;
        }
        from_file.extend(words);
    }
    // Behind the name of the command, before its flags.
    let place = argv.iter().position(|it| it == name).unwrap_or(1);
    let (head, tail) = argv.split_at(place.saturating_add(1).min(argv.len()));
    let whole = [head, &from_file, tail].concat();
    match Cli::try_parse_from(whole).map_err(usage)?.command {
        Command::Serve(args) => Ok(*args),
        _ => Err(CliError::usage("only `kubepki serve` has a --config")),
    }
}

/// The flag of that name.
fn flag<'a>(serve: &'a Clap, name: &str) -> Result<&'a clap::Arg, String> {
    let fit = |flag: &&clap::Arg| {
        let long = flag.get_long().unwrap_or_default();
        !matches!(long, "" | "config" | "help" | "version")
    };
    let mut flags = serve.get_arguments().filter(fit);
    if let Some(flag) = flags.find(|it| it.get_long() == Some(name)) {
        return Ok(flag);
    }
    let names = serve
        .get_arguments()
        .filter(fit)
        .filter_map(clap::Arg::get_long);
    let nearest = names.min_by_key(|known| distance(known, name));
    Err(match nearest {
        Some(nearest) => format!("{name} is no flag of `kubepki serve`; the nearest is {nearest}"),
        None => format!("{name} is no flag of `kubepki serve`"),
    })
}

/// A line as words of a command line.
fn words(flag: &clap::Arg, line: &FlagLine) -> Result<Vec<OsString>, String> {
    let name = &line.name;
    if matches!(flag.get_action(), ArgAction::SetTrue) {
        let value = line.values.first().map_or("", |it| it.as_str());
        return match (line.values.len(), value) {
            (1, "true") => Ok(vec![format!("--{name}").into()]),
            (1, "false") => Ok(Vec::new()),
            _ => Err(format!("{name} is true or false")),
        };
    }
    if line.values.len() != 1 && !matches!(flag.get_action(), ArgAction::Append) {
        return Err(format!("{name} has one value"));
    }
    let word = |value: &zeroize::Zeroizing<String>| format!("--{name}={}", value.as_str()).into();
    Ok(line.values.iter().map(word).collect())
}

/// What is wrong, without clap's frame around it.
fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.trim_start_matches("error: ").to_owned()
}

/// How many letters differ (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (number, letter) in (1..).zip(a.chars()) {
        let mut next = vec![number];
        for (other, window) in b.iter().zip(row.windows(2)) {
            let left = next.last().copied().unwrap_or_default() + 1;
            let (diagonal, above) = match window {
                [diagonal, above] => (*diagonal, *above),
                _ => (0, 0),
            };
            let changed = diagonal + usize::from(*other != letter);
            next.push(left.min(above + 1).min(changed));
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, more: &[&str]) -> Result<ServeArgs, CliError> {
        let fixed = ["kubepki", "serve", "--config", "f.yaml"];
        let argv = [&fixed[..], more].concat();
        let argv = argv.into_iter().map(OsString::from).collect();
        joined(Path::new("f.yaml"), text.as_bytes(), argv)
    }

    #[test]
    fn flags_win_and_lists_are_joined() {
        let text = "# mine\nnode-name: one\nhttps-listen-port: 7443\nk3s-compatible: true\n\
                    tls-san:\n- a.example\n- b.example\ncluster-cidr: 10.1.0.0/16,fd00::/56\n\
                    datastore-endpoint: 'postgres://u:p@h/d'\n";
        let args = read(text, &["--node-name=two", "--tls-san", "c.example"]).unwrap();
        assert_eq!(args.node_name.as_deref(), Some("two"));
        assert_eq!(args.https_listen_port, Some(7443));
        assert!(args.k3s_compatible);
        assert_eq!(args.tls_san, ["a.example", "b.example", "c.example"]);
        assert_eq!(args.cluster_cidr, ["10.1.0.0/16", "fd00::/56"]);
        let endpoint = args.endpoint.datastore_endpoint.unwrap();
        assert_eq!(endpoint.0.as_str(), "postgres://u:p@h/d");
        assert!(read("", &[]).unwrap().node_name.is_none());
        assert!(!read("k3s-compatible: false\n", &[]).unwrap().k3s_compatible);
        let secure = |text: &str, more: &[&str]| read(text, more).unwrap().tls_san_security;
        assert_eq!(secure("tls-san-security: false\n", &[]), Some(false));
        let line = ["--tls-san-security"];
        assert_eq!(secure("tls-san-security: false\n", &line), Some(true));
        assert_eq!(secure("", &["--tls-san-security=false"]), Some(false));
        assert_eq!(secure("", &[]), None);
    }

    #[test]
    fn what_cannot_be_meant_is_named_with_its_line() {
        for (text, wanted) in [
            ("\nnode-nam: x\n", "f.yaml:2: node-nam is no flag"),
            ("node-nam: x\n", "the nearest is node-name"),
            (
                "https-listen-port: many\n",
                "f.yaml:1: invalid value 'many'",
            ),
            ("config: other.yaml\n", "config is no flag"),
            (
                "k3s-compatible: perhaps\n",
                "f.yaml:1: k3s-compatible is true or false",
            ),
            ("node-name: [a, b]\n", "f.yaml:1: node-name has one value"),
            ("node-name: a\nnode-name: b\n", "f.yaml:2"),
            ("- node-name\n", "not a mapping"),
            ("tls-san: {a: b}\n", "tls-san is"),
            ("tls-san: 'a b'\n", "f.yaml:1"),
        ] {
            let error = read(text, &[]).map(|_| ()).unwrap_err();
            assert_eq!(error.exit, crate::error::Exit::Usage, "{text}");
            assert!(error.message.contains(wanted), "{text}: {}", error.message);
        }
    }
}
