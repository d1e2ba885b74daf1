//! The last part of the tour: a server that issues, two nodes that join it and talk to it while
//! its CAs change, and the record of what it issued.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::cas::{Ran, overwrite};
use super::{Tour, say, title};
use crate::error::CliError;

/// Name and address of each node.
const NODES: [(&str, &str); 2] = [("node-1", "192.0.2.21"), ("node-2", "192.0.2.22")];

/// How long the server may take to begin, and to take new CAs up.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server that is killed with the tour.
struct Serving {
    child: Child,
    url: String,
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Tour {
    pub(super) fn serve_nodes(&self) -> Result<(), CliError> {
        title(14, "A server that issues, and two nodes that join it")?;
        let issuer = Self {
            root: self.beside("issuer"),
            now: self.now,
        };
        let server = issuer.begin_to_serve()?;
        let url = server.url.as_str();
        let token = issuer.root.join("server/token").display().to_string();
        for (name, address) in NODES {
            let words = [
                "join",
                "--server",
                url,
                "--token-file",
                &token,
                "--node-name",
                name,
                "--node-ip",
                address,
                "--yes",
            ];
            let ran = self.as_node(name, &words)?;
            say(written(&ran))?;
        }
        title(15, "New CAs, while the nodes go on talking to it")?;
        let talks = issuer.rotate_under(url)?;
        say(&format!(
            "The server serves under the new CAs; it was not restarted, and {talks} talks of its \
             nodes meanwhile went well, none failed."
        ))?;
        for (name, _) in NODES {
            // All of it, so that the new CAs have issued something.
            let words = ["node", "renew", "--server", url, "--window", "366", "--yes"];
            let ran = self.as_node(name, &words)?;
            say(written(&ran))?;
            self.assert_follows(&issuer, name)?;
        }
        title(16, "Who was given what: the server's log")?;
        let shown = issuer.do_it(&["log", "show"])?;
        if NODES.iter().any(|(name, _)| !shown.said.contains(name)) {
            return Err(CliError::message(format!(
                "the log does not name every node: {}",
                shown.said
            )));
        }
        say(shown.said.trim_end())?;
        let verified = issuer.do_it(&["log", "verify"])?;
        say(verified.said.trim_end())
    }

    /// Starts it and waits until it listens.
    fn begin_to_serve(&self) -> Result<Serving, CliError> {
        let words = ["serve", "--node-name", "issuer"];
        say(&format!("$ kubepki {}", words.join(" ")))?;
        let config = self.beside("config.yaml");
        overwrite(&config, b"")?;
        let more = [
            "--bind-address=127.0.0.1".to_owned(),
            "--node-ip=127.0.0.1".to_owned(),
            "--https-listen-port=0".to_owned(),
            format!("--data-dir={}", self.root.display()),
            format!("--k3s-config={}", config.display()),
        ];
        let mut command = self.command(&words, &more)?;
        let mut child = command.stderr(Stdio::piped()).spawn()?;
        let stderr = child.stderr.take();
        let mut server = Serving {
            child,
            url: String::new(),
        };
        let mut seen = String::new();
        let mut lines = stderr
            .map(BufReader::new)
            .into_iter()
            .flat_map(BufRead::lines);
        for line in lines.by_ref() {
            let line = line?;
            if let Some(address) = address(&line) {
                server.url = format!("https://{address}");
                break;
            }
            seen.push_str(&line);
            seen.push('\n');
        }
        if server.url.is_empty() {
            return Err(CliError::message(format!("the server ended: {seen}")));
        }
        // A log that nobody reads would hold it up.
        std::thread::spawn(move || lines.for_each(drop));
        say(&format!("It made its CAs and listens at {}.", server.url))?;
        Ok(server)
    }

    /// Puts new CAs in force through the server while the nodes talk to it; answers how often they
    /// did.
    fn rotate_under(&self, url: &str) -> Result<usize, CliError> {
        let over = AtomicBool::new(false);
        let (rotated, talks) = std::thread::scope(|scope| {
            let talk = |name| {
                scope.spawn({
                    let over = &over;
                    move || self.talk(name, url, over)
                })
            };
            let talks = NODES.map(|(name, _)| talk(name));
            let rotated = self.rotate_through(url);
            over.store(true, Ordering::Relaxed);
            (rotated, talks.map(|it| it.join()))
        });
        rotated?;
        let mut count = 0;
        for talked in talks {
            let talked = talked.map_err(|_| CliError::message("a node of the tour ended"))?;
            count += talked.map_err(CliError::message)?;
        }
        Ok(count)
    }

    /// A node logs in again and again until it is `over`; how often, or what went wrong.
    fn talk(&self, name: &str, url: &str, over: &AtomicBool) -> Result<usize, String> {
        let words = ["node", "renew", "--server", url, "--yes"];
        let site = [self.data_dir_of(name)];
        let mut count = 0;
        while !over.load(Ordering::Relaxed) {
            let ran = self.silently(&words, &site).map_err(|it| it.message)?;
            if ran.code != Some(0) {
                return Err(format!("{name} after {count} talks: {}", ran.said));
            }
            count += 1;
        }
        Ok(count)
    }

    fn rotate_through(&self, url: &str) -> Result<(), CliError> {
        let authority = self.root.join("server/tls/server-ca.crt");
        let old = std::fs::read(&authority)?;
        let staged = self.beside("issuer-next");
        self.stage(&staged)?;
        let (set, through) = (
            staged.display().to_string(),
            format!("--through-server={url}"),
        );
        // The server keeps its own journal of it.
        let state = format!("--state-dir={}", self.beside("issuer-admin").display());
        self.do_it(&["rotate-ca", "--path", &set, &through, &state, "--yes"])?;
        let start = Instant::now();
        while std::fs::read(&authority)? == old {
            if start.elapsed() > PATIENCE {
                return Err(CliError::message("the server did not take the new CAs up"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// A node trusts what its server trusts.
    fn assert_follows(&self, issuer: &Self, name: &str) -> Result<(), CliError> {
        let server = std::fs::read(issuer.root.join("server/tls/server-ca.crt"))?;
        let node = std::fs::read(self.beside(name).join("agent/server-ca.crt"))?;
        match server == node {
            true => Ok(()),
            false => Err(CliError::message(format!("{name} has other CAs"))),
        }
    }

    /// Runs a command on a node; it has to succeed.
    fn as_node(&self, name: &str, words: &[&str]) -> Result<Ran, CliError> {
        let ran = self.run(words, &[self.data_dir_of(name)])?;
        match ran.code {
            Some(0) => Ok(ran),
            code => Err(CliError::message(format!(
                "{name}: kubepki {} ended with {code:?}: {}",
                words.join(" "),
                ran.said
            ))),
        }
    }

    fn data_dir_of(&self, node: &str) -> String {
        let place: PathBuf = self.beside(node);
        format!("--data-dir={}", place.display())
    }
}

/// What a command on a node says of its files.
fn written(ran: &Ran) -> &str {
    let mut lines = ran.said.lines();
    lines.find(|it| it.contains(" written")).unwrap_or_default()
}

/// Where the server listens, if a line of its log says so.
fn address(line: &str) -> Option<String> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    let serves = line.get("message")?.as_str()? == "serving";
    let address = line.get("address")?.as_str()?;
    serves.then(|| address.to_owned())
}
