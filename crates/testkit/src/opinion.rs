//! Second opinions: programs that read X.509 without our help.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// How a program ended and what it said.
#[derive(Clone, Debug)]
pub struct Run {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

impl Run {
    /// Whether the exit code is 0.
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }

    /// Standard output followed by standard error: OpenSSL chooses between them at will.
    pub fn text(&self) -> String {
        let stdout = String::from_utf8_lossy(&self.stdout);
        format!("{stdout}{}", String::from_utf8_lossy(&self.stderr))
    }
}

/// Runs `openssl` with `args`, `stdin` at its standard input.
pub fn openssl(args: &[&str], stdin: &[u8]) -> Run {
    run("openssl", args, stdin)
}

/// The same, and fails the test unless it exits with 0.
#[track_caller]
pub fn openssl_ok(args: &[&str], stdin: &[u8]) -> Run {
    let run = openssl(args, stdin);
    assert!(run.success(), "openssl {}: {}", args.join(" "), run.text());
    run
}

/// Runs any program to its end, without a shell.
pub fn run<P: AsRef<OsStr>, A: AsRef<OsStr>>(program: P, args: &[A], stdin: &[u8]) -> Run {
    let mut command = command(program.as_ref());
    command.args(args);
    finish(command, stdin)
}

/// Compiles a Go program of one file that needs the standard library only, and says where it is.
///
/// It is compiled once per source text, whoever asks.
pub fn go_program(source: &str) -> PathBuf {
    compile(&[("main.go", source)], &[], "0")
}

/// Compiles a Go program of several files that runs where there is nothing else, and says where it
/// is. The same source gives the same bytes.
pub(crate) fn static_go_program(files: &[(&str, &str)]) -> PathBuf {
    compile(files, &["-trimpath", "-ldflags=-s -w -buildid="], "static")
}

fn compile(files: &[(&str, &str)], flags: &[&str], kind: &str) -> PathBuf {
    let whole: Vec<_> = files.iter().map(|it| it.1).collect();
    let name = crate::sha256(format!("{kind} {}", whole.concat()).as_bytes())
        .get(..16)
        .unwrap_or_default()
        .to_owned();
    let folder = crate::cache("go");
    let program = folder.join(&name);
    if program.is_file() {
        return program;
    }
    let scratch = TempDir::new_in(&folder)
        .unwrap_or_else(|error| panic!("no temporary folder in {}: {error}", folder.display()));
    let built = scratch.path().join("main");
    let mut go = command(OsStr::new("go"));
    go.arg("build").args(flags).arg("-o").arg(&built);
    for (name, text) in files {
        let path = scratch.path().join(name);
        write(&path, text);
        go.arg(path);
    }
    // Nothing is fetched, and no home directory is needed.
    go.env("GO111MODULE", "off")
        .env("GOTOOLCHAIN", "local")
        .env("GOPROXY", "off");
    go.env("GOFLAGS", "")
        .env("GOCACHE", crate::cache("go-build"));
    if kind == "static" {
        go.env("CGO_ENABLED", "0");
    }
    let run = finish(go, &[]);
    assert!(run.success(), "go build: {}", run.text());
    // Whoever is second replaces an equal program.
    rename(&built, &program);
    program
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one door of the tests to other programs"
)]
fn command(program: &OsStr) -> Command {
    let mut command = Command::new(program);
    command.env("LC_ALL", "C");
    command
}

fn finish(mut command: Command, stdin: &[u8]) -> Run {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("cannot run {program}: {error}; ./scripts/test installs what tests need")
        });
    let mut pipe = child.stdin.take();
    let output = std::thread::scope(|scope| {
        // From a thread of its own: a program that talks before it has read all would block us.
        scope.spawn(move || {
            if let Some(pipe) = pipe.as_mut() {
                // A program that does not care for its input closes it early.
                let _ = pipe.write_all(stdin);
            }
        });
        child.wait_with_output()
    });
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    Run {
        code: output.status.code(),
        stdout: output.stdout,
        stderr: output.stderr,
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a source file in a temporary folder"
)]
fn write(path: &Path, text: &str) {
    if let Err(error) = fs::write(path, text) {
        panic!("cannot write {}: {error}", path.display());
    }
}

#[expect(clippy::disallowed_methods, reason = "a compiled program in a cache")]
fn rename(from: &Path, to: &Path) {
    if let Err(error) = fs::rename(from, to) {
        panic!("cannot rename to {}: {error}", to.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openssl_answers() {
        let input = vec![b'x'; 1 << 20];
        let run = openssl_ok(&["dgst", "-sha256", "-r"], &input);
        assert!(run.text().starts_with(&crate::sha256(&input)), "{run:?}");
        assert!(!openssl(&["x509", "-noout"], b"nothing").success());
    }

    #[test]
    fn go_programs_run() {
        let program = go_program(
            "package main\nimport (\"fmt\";\"os\")\nfunc main() { fmt.Print(os.Args[1]) }\n",
        );
        assert_eq!(run(program, &["from go"], b"").stdout, b"from go");
    }
}
