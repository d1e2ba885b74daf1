//! Go and Java: a process each, which takes jobs line by line.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tempfile::TempDir;

use super::Identity;
use super::line::Ask;

/// A process that answers one line to each.
pub(super) struct Helper {
    name: &'static str,
    child: Mutex<(Child, ChildStdin, BufReader<ChildStdout>)>,
}

/// A server inside a helper.
#[derive(Debug)]
pub(super) struct Serving<'a> {
    helper: &'a Helper,
    port: u16,
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        let _ = self.helper.ask(&format!("stop {}", self.port));
    }
}

/// A client's connection inside a helper; it ends with the helper.
#[derive(Debug)]
pub(super) struct Holding<'a> {
    helper: &'a Helper,
    number: String,
}

impl Ask for Holding<'_> {
    fn ask(&mut self, path: &str) -> Result<Vec<u8>, String> {
        let said = self.helper.ask(&format!("ask {} {path}", self.number))?;
        STANDARD.decode(said).map_err(|error| error.to_string())
    }
}

impl std::fmt::Debug for Helper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Helper {
    pub(super) fn go() -> Self {
        let program = crate::go_program(include_str!("peer.go"));
        Self::start("Go's TLS peer", program.as_os_str().to_owned(), &[])
    }

    pub(super) fn java() -> Self {
        let classes = compiled();
        let classes = classes.to_string_lossy();
        // Few handshakes: compiling much of the library would cost more than it saves.
        let arguments = [
            "-XX:TieredStopAtLevel=1",
            "-XX:+UseSerialGC",
            "-Xmx256m",
            "-cp",
            &classes,
            "Peer",
        ];
        Self::start("Java's TLS peer", "java".into(), &arguments)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "a peer is another program, and lives as long as the test"
    )]
    fn start(name: &'static str, program: std::ffi::OsString, arguments: &[&str]) -> Self {
        let mut child = Command::new(&program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                panic!(
                    "cannot run {}: {error}; ./scripts/test installs what tests need",
                    program.display()
                )
            });
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            panic!("{name} has no pipes");
        };
        let child = Mutex::new((child, input, BufReader::new(output)));
        Self { name, child }
    }

    pub(super) fn serve(
        &self,
        identity: Identity<'_>,
        clients: Option<&str>,
    ) -> (u16, Serving<'_>) {
        let job = format!(
            "serve {} {} {}",
            STANDARD.encode(identity.chain),
            STANDARD.encode(identity.key),
            clients.map_or_else(|| "-".to_owned(), |pem| STANDARD.encode(pem)),
        );
        let port = self
            .ask(&job)
            .unwrap_or_else(|error| panic!("{}: {error}", self.name));
        let port = port
            .parse()
            .unwrap_or_else(|error| panic!("{}: {port:?}: {error}", self.name));
        (port, Serving { helper: self, port })
    }

    pub(super) fn connect(
        &self,
        port: u16,
        name: &str,
        trust: &str,
        identity: Option<Identity<'_>>,
    ) -> Result<(), String> {
        let word =
            |text: Option<&str>| text.map_or_else(|| "-".to_owned(), |pem| STANDARD.encode(pem));
        let job = format!(
            "connect {port} {name} {} {} {}",
            STANDARD.encode(trust),
            word(identity.map(|own| own.chain)),
            word(identity.map(|own| own.key)),
        );
        self.ask(&job).map(drop)
    }

    /// A connection that is kept; Go only.
    pub(super) fn hold(&self, port: u16, name: &str, trust: &str) -> Result<Holding<'_>, String> {
        let number = self.ask(&format!("hold {port} {name} {}", STANDARD.encode(trust)))?;
        Ok(Holding {
            helper: self,
            number,
        })
    }

    fn ask(&self, job: &str) -> Result<String, String> {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, input, output) = &mut *child;
        let mut said = String::new();
        let asked = writeln!(input, "{job}").and_then(|()| input.flush());
        if let Err(error) = asked.and_then(|()| output.read_line(&mut said)) {
            panic!("{}: {error}", self.name);
        }
        let said = said.trim_end();
        match (said.strip_prefix("ok"), said.strip_prefix("no ")) {
            (Some(rest), _) => Ok(rest.trim().to_owned()),
            (None, Some(why)) => Err(why.to_owned()),
            (None, None) => panic!("{} said {said:?}", self.name),
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = child.0.kill();
        let _ = child.0.wait();
    }
}

/// The folder of Java's classes, compiled once for each source text.
fn compiled() -> PathBuf {
    let source = include_str!("Peer.java");
    let digest = crate::sha256(source.as_bytes());
    let cache = crate::cache("java");
    let classes = cache.join(digest.get(..16).unwrap_or_default());
    if classes.is_dir() {
        return classes;
    }
    let scratch = TempDir::new_in(&cache)
        .unwrap_or_else(|error| panic!("no temporary folder in {}: {error}", cache.display()));
    let file = scratch.path().join("Peer.java");
    super::programs::write(&file, source);
    let built = scratch.path().join("classes");
    let words = [Path::new("-d"), &built, &file];
    let run = crate::run("javac", &words, b"");
    assert!(run.success(), "javac: {}", run.text());
    // Whoever comes second finds the folder there.
    #[expect(clippy::disallowed_methods, reason = "compiled classes in a cache")]
    if let Err(error) = std::fs::rename(&built, &classes)
        && !classes.is_dir()
    {
        panic!("cannot rename to {}: {error}", classes.display());
    }
    classes
}
