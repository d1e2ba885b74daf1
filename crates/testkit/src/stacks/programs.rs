//! OpenSSL, curl and GnuTLS: their own programs, a process each.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::line::{self, Ask};
use super::{Identity, REQUEST, Stack, answered};
use crate::opinion::run;

/// A server process.
#[derive(Debug)]
pub(super) struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Chain and key as files, because these programs read nothing else.
struct Files {
    leaf: PathBuf,
    chain: PathBuf,
    key: PathBuf,
}

impl Files {
    fn new(folder: &Path, identity: Identity<'_>) -> Self {
        let leaf_end = identity.chain.find(END).map_or(0, |at| at + END.len());
        let (leaf, _) = identity.chain.split_at(leaf_end);
        Self {
            leaf: file(folder, leaf),
            chain: file(folder, identity.chain),
            key: file(folder, identity.key),
        }
    }
}

const END: &str = "-----END CERTIFICATE-----\n";

pub(super) fn connect(
    stack: Stack,
    folder: &Path,
    port: u16,
    name: &str,
    trust: &str,
    identity: Option<Identity<'_>>,
) -> Result<(), String> {
    let trust = text(&file(folder, trust));
    let files = identity.map(|identity| Files::new(folder, identity));
    let address = format!("127.0.0.1:{port}");
    let mut words: Vec<String> = Vec::new();
    let mut add = |more: &[&str]| words.extend(more.iter().map(|&word| word.to_owned()));
    let program = match stack {
        Stack::OpenSsl => {
            add(&["s_client", "-connect", &address, "-servername", name]);
            add(&["-verify_hostname", name, "-verify_return_error", "-CAfile"]);
            add(&[&trust, "-no-CApath", "-no-CAstore", "-ign_eof"]);
            if let Some(files) = &files {
                add(&["-cert", &text(&files.leaf), "-key", &text(&files.key)]);
                add(&["-cert_chain", &text(&files.chain)]);
            }
            "openssl"
        }
        Stack::Curl => {
            add(&["--silent", "--show-error", "--include", "--http1.0"]);
            add(&["--max-time", "60", "--noproxy", "*", "--capath", "/nowhere"]);
            add(&["--cacert", &trust, "--resolve"]);
            add(&[&format!("{name}:{port}:127.0.0.1")]);
            if let Some(files) = &files {
                add(&["--cert", &text(&files.chain), "--key", &text(&files.key)]);
            }
            add(&[&format!("https://{name}:{port}/ping")]);
            "curl"
        }
        _ => {
            add(&["--x509cafile", &trust, "--sni-hostname", name]);
            add(&["--verify-hostname", name, "--port", &port.to_string()]);
            if let Some(files) = &files {
                add(&["--x509certfile", &text(&files.chain)]);
                add(&["--x509keyfile", &text(&files.key)]);
            }
            add(&["127.0.0.1"]);
            "gnutls-cli"
        }
    };
    // A program that waits for something that never comes fails the test instead of stopping it.
    words.splice(0..0, ["60".to_owned(), program.to_owned()]);
    let run = run("timeout", &words, REQUEST);
    if answered(&run.stdout) {
        return Ok(());
    }
    Err(complaint(&run.text()))
}

/// A client process whose connection is kept.
pub(super) struct Holding {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Drop for Holding {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ask for Holding {
    fn ask(&mut self, path: &str) -> Result<Vec<u8>, String> {
        // gnutls-cli takes a line a time, and looks for the next only when more comes.
        for line in line::request(path).split_inclusive('\n') {
            let sent = self.input.write_all(line.as_bytes());
            sent.and_then(|()| self.input.flush())
                .map_err(|error| error.to_string())?;
        }
        line::answer(&mut self.output)
    }
}

/// Starts a client and asks it once, which tells whether it trusts the server.
pub(super) fn hold(
    stack: Stack,
    folder: &Path,
    port: u16,
    name: &str,
    trust: &str,
) -> Result<Holding, String> {
    let trust = text(&file(folder, trust));
    let address = format!("127.0.0.1:{port}");
    let mut command = match stack {
        Stack::OpenSsl => {
            let mut command = command("openssl");
            command.args(["s_client", "-quiet", "-connect", &address]);
            command.args(["-servername", name, "-verify_hostname", name]);
            command.args(["-verify_return_error", "-no-CApath", "-no-CAstore"]);
            command.args(["-CAfile", &trust]);
            command
        }
        _ => {
            let mut command = command("gnutls-cli");
            command.args(["--x509cafile", &trust, "--sni-hostname", name]);
            command.args(["--verify-hostname", name, "--port", &port.to_string()]);
            command.arg("127.0.0.1");
            command
        }
    };
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("cannot run {stack}: {error}; ./scripts/test installs what tests need")
        });
    let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
        panic!("{stack} has no pipes");
    };
    let output = BufReader::new(output);
    let mut holding = Holding {
        child,
        input,
        output,
    };
    holding.ask("/ping")?;
    Ok(holding)
}

/// The line that says why, of all that these programs print.
fn complaint(said: &str) -> String {
    let telling = |line: &&str| {
        let line = line.to_lowercase();
        [
            "error",
            "not trusted",
            "issuer is unknown",
            "alert",
            "curl:",
        ]
        .iter()
        .any(|word| line.contains(word))
    };
    let lines: Vec<&str> = said.lines().filter(telling).collect();
    match lines.is_empty() {
        true => format!("no answer: {}", said.lines().last().unwrap_or_default()),
        false => lines.join("; "),
    }
}

pub(super) fn serve(
    stack: Stack,
    folder: &Path,
    identity: Identity<'_>,
    clients: Option<&str>,
) -> (u16, Serving) {
    let files = Files::new(folder, identity);
    let trust = clients.map(|pem| text(&file(folder, pem)));
    match stack {
        Stack::OpenSsl => openssl(&files, trust.as_deref()),
        _ => gnutls(&files, trust.as_deref()),
    }
}

fn openssl(files: &Files, trust: Option<&str>) -> (u16, Serving) {
    let mut command = command("openssl");
    command.args(["s_server", "-accept", "127.0.0.1:0", "-www"]);
    command
        .args(["-no-CApath", "-no-CAstore", "-cert"])
        .arg(&files.leaf);
    command.arg("-cert_chain").arg(&files.chain);
    command.arg("-key").arg(&files.key);
    match trust {
        Some(trust) => command.args(["-Verify", "8", "-verify_return_error", "-CAfile", trust]),
        None => command.arg("-no-CAfile"),
    };
    let mut child = spawn(command.stdout(Stdio::piped()));
    let Some(output) = child.stdout.take() else {
        panic!("openssl s_server has no pipe");
    };
    let mut lines = BufReader::new(output).lines().map_while(Result::ok);
    let port = lines.find_map(|line| {
        line.strip_prefix("ACCEPT ")?
            .rsplit(':')
            .next()?
            .parse()
            .ok()
    });
    let Some(port) = port else {
        panic!("openssl s_server names no port");
    };
    // It goes on talking; nobody listening would stop it.
    std::thread::spawn(move || lines.for_each(drop));
    (port, Serving(child))
}

/// Picks a port first, as this program does not; another one may take it in between.
fn gnutls(files: &Files, trust: Option<&str>) -> (u16, Serving) {
    for _ in 0..5 {
        let port = crate::free_port();
        let mut command = command("gnutls-serv");
        command.args(["--quiet", "--http", "--port", &port.to_string()]);
        command.arg("--x509certfile").arg(&files.chain);
        command.arg("--x509keyfile").arg(&files.key);
        match trust {
            Some(trust) => command.args([
                "--x509cafile",
                trust,
                "--require-client-cert",
                "--verify-client-cert",
            ]),
            None => command.arg("--disable-client-cert"),
        };
        let mut serving = Serving(spawn(command.stdout(Stdio::null())));
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(10) {
            if !matches!(serving.0.try_wait(), Ok(None)) {
                break;
            }
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return (port, serving);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    panic!("gnutls-serv does not come up");
}

#[expect(clippy::disallowed_methods, reason = "a peer is another program")]
fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("LC_ALL", "C");
    command
}

fn spawn(command: &mut Command) -> Child {
    command
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| {
            panic!(
                "cannot run {:?}: {error}; ./scripts/test installs what tests need",
                command.get_program()
            )
        })
}

/// A file of that content in `folder`; the same content is the same file.
fn file(folder: &Path, content: &str) -> PathBuf {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let digest = crate::sha256(content.as_bytes());
    let path = folder.join(digest.get(..24).unwrap_or_default());
    if !path.is_file() {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let scratch = folder.join(format!("new-{number}"));
        write(&scratch, content);
        #[expect(clippy::disallowed_methods, reason = "a file of a test")]
        if let Err(error) = std::fs::rename(&scratch, &path) {
            panic!("cannot rename to {}: {error}", path.display());
        }
    }
    path
}

#[expect(clippy::disallowed_methods, reason = "a file of a test")]
pub(super) fn write(path: &Path, content: &str) {
    if let Err(error) = std::fs::write(path, content) {
        panic!("cannot write {}: {error}", path.display());
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
