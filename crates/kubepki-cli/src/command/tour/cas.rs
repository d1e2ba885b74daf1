//! The second half of the tour: CAs in a datastore, rotated by the commands themselves.

use std::path::{Path, PathBuf};

use kubepki::bootstrap::Field;
use kubepki_datastore::new_sqlite;

use super::{NODE, Tour, bytes, say, title};
use crate::error::{CliError, Exit};

/// What a command ended with and printed.
pub(super) struct Ran {
    pub code: Option<i32>,
    pub said: String,
}

impl Tour {
    pub(super) async fn rotate_cas(&self) -> Result<(), CliError> {
        self.share().await?;
        self.refuse_wrong_set().await?;
        self.cross_sign().await?;
        self.custom().await
    }

    async fn share(&self) -> Result<(), CliError> {
        title(7, "Keep the CAs where servers share them, here in SQLite")?;
        begin_sqlite(&self.root).await?;
        self.do_it(&["reconcile", "--yes", "--still-for", "0"])?;
        let ran = self.do_it(&["bootstrap", "verify"])?;
        say(ran.said.lines().last().unwrap_or_default())
    }

    /// A set whose server CA is not the one that its key belongs to.
    async fn refuse_wrong_set(&self) -> Result<(), CliError> {
        title(8, "A wrong set of CAs is refused, and nothing changes")?;
        let wrong = self.beside("wrong");
        self.stage(&wrong)?;
        let server = Field::ServerCa.under(&wrong);
        let client = bytes(&Field::ClientCa.under(&wrong)).await?;
        overwrite(&server, &client)?;
        let before = self.state_of_things().await?;
        let set = wrong.display().to_string();
        let ran = self.kubepki(&["rotate-ca", "--path", &set, "--direct", "--yes"])?;
        let finding = ran
            .said
            .lines()
            .find(|line| line.contains("ServerCAKey: is not"));
        let refused = ran.code == Some(Exit::Refused as i32);
        let (Some(finding), true) = (finding, refused) else {
            return Err(CliError::message(format!(
                "a wrong set was not refused: {}",
                ran.said
            )));
        };
        if self.state_of_things().await? != before {
            return Err(CliError::message("a refusal changed something"));
        }
        say(finding.trim_start())?;
        say("Refused; datastore and disk are as before.")
    }

    async fn cross_sign(&self) -> Result<(), CliError> {
        title(9, "New roots that the old ones vouch for")?;
        let old = self.material().await?;
        let staged = self.beside("next");
        self.stage(&staged)?;
        let set = staged.display().to_string();
        let ran = self.do_it(&[
            "rotate-ca",
            "--path",
            &set,
            "--direct",
            "--still-for",
            "0",
            "--yes",
        ])?;
        for line in ran.said.lines() {
            if line.contains("keep working") || line.contains("join tokens") {
                say(line)?;
            }
        }
        let new = self.material().await?;
        if new.server_roots == old.server_roots {
            return Err(CliError::message("the rotation changed no CA"));
        }
        for (who, server, client) in [
            ("kubeconfig from before, restarted server", &new, &old),
            ("new kubeconfig, server not restarted yet", &old, &new),
            ("new kubeconfig, restarted server", &new, &new),
        ] {
            match server.meets(client, self.now).await? {
                None => say(&format!("TLS handshake, {who}: both accept"))?,
                Some(why) => return Err(CliError::message(format!("{who}: {why}"))),
            }
        }
        self.do_it(&["undo", "--yes", "--still-for", "0"])?;
        let back = self.material().await?;
        if back.server_roots != old.server_roots || back.client_roots != old.client_roots {
            return Err(CliError::message("the undo did not bring the old CAs back"));
        }
        self.do_it(&["bootstrap", "verify"])?;
        say("The old CAs are back, on the disk and in the datastore.")
    }

    async fn custom(&self) -> Result<(), CliError> {
        title(10, "A cluster on CAs of your own")?;
        let other = Self {
            root: self.beside("custom"),
            now: self.now,
        };
        let (server, safe) = (other.root.join("server"), self.beside("custom-safe"));
        make(&other.root)?;
        let (out, offline) = (server.display().to_string(), safe.display().to_string());
        // Under the roof of the first one, so that it is no live directory yet.
        self.do_it(&["ca", "create", "--out", &out, "--offline", &offline])?;
        other.do_it(&["init", "--node-name", NODE, "--complete", "--yes"])?;
        begin_sqlite(&other.root).await?;
        other.do_it(&["reconcile", "--yes", "--still-for", "0"])?;
        other.do_it(&["bootstrap", "verify"])?;
        let own = other.material().await?;
        match own.meets(&own, self.now).await? {
            None => say("Root and intermediate lie in the safe; their five CAs serve the cluster."),
            Some(why) => Err(CliError::message(format!("custom CAs: {why}"))),
        }
    }

    pub(super) fn stage(&self, out: &Path) -> Result<(), CliError> {
        let safe = out.with_extension("safe").display().to_string();
        let out = out.display().to_string();
        let words = [
            "ca",
            "stage",
            "--cross-signed",
            "--out",
            &out,
            "--offline",
            &safe,
        ];
        self.do_it(&words).map(drop)
    }

    /// A path beside the server's data directory.
    pub(super) fn beside(&self, name: &str) -> PathBuf {
        self.root.with_file_name(name)
    }

    /// What a refusal must not change.
    async fn state_of_things(&self) -> Result<Vec<Vec<u8>>, CliError> {
        let server = self.root.join("server");
        let mut seen = vec![bytes(&server.join("db/state.db")).await?];
        for field in Field::ALL.into_iter().filter(|field| field.is_rotatable()) {
            seen.push(bytes(&field.under(&server)).await?);
        }
        Ok(seen)
    }

    /// Runs a command that has to succeed, and shows it.
    pub(super) fn do_it(&self, words: &[&str]) -> Result<Ran, CliError> {
        let ran = self.kubepki(words)?;
        match ran.code {
            Some(0) => Ok(ran),
            code => Err(CliError::message(format!(
                "kubepki {} ended with {code:?}: {}",
                words.join(" "),
                ran.said
            ))),
        }
    }

    /// Runs kubepki on the tour's server, deaf to what is configured on this machine.
    fn kubepki(&self, words: &[&str]) -> Result<Ran, CliError> {
        let config = self.beside("config.yaml");
        if !config.exists() {
            overwrite(&config, b"")?;
        }
        let (root, config) = (self.root.display(), config.display());
        let site = [
            format!("--data-dir={root}"),
            format!("--k3s-config={config}"),
        ];
        self.run(words, &site)
    }

    /// Runs kubepki, and shows `words` of its arguments.
    pub(super) fn run(&self, words: &[&str], more: &[String]) -> Result<Ran, CliError> {
        let folder = self.root.parent().map(|it| it.display().to_string());
        let shown = words
            .join(" ")
            .replace(&format!("{}/", folder.unwrap_or_default()), "");
        say(&format!("$ kubepki {shown}"))?;
        self.silently(words, more)
    }

    /// The same, and does not show it.
    pub(super) fn silently(&self, words: &[&str], more: &[String]) -> Result<Ran, CliError> {
        let output = self.command(words, more)?.output()?;
        let said = [output.stdout, output.stderr].concat();
        Ok(Ran {
            code: output.status.code(),
            said: String::from_utf8_lossy(&said).into_owned(),
        })
    }

    /// kubepki with arguments, deaf to this process's environment and input.
    pub(super) fn command(
        &self,
        words: &[&str],
        more: &[String],
    ) -> Result<std::process::Command, CliError> {
        #[expect(clippy::disallowed_methods, reason = "the tour's own commands")]
        let mut child = std::process::Command::new(std::env::current_exe()?);
        // What the tour refuses is nothing for this machine's log.
        child
            .env_clear()
            .env("KUBEPKI_SYSLOG", self.beside("no-log"))
            .args(words)
            .args(more)
            .stdin(std::process::Stdio::null());
        Ok(child)
    }
}

/// K3s makes its table at the first start; nothing starts here.
async fn begin_sqlite(root: &Path) -> Result<(), CliError> {
    let folder = root.join("server/db");
    make(&folder)?;
    Ok(new_sqlite(&folder.join("state.db")).await?)
}

fn make(folder: &Path) -> Result<(), CliError> {
    Ok(std::fs::create_dir_all(folder)?)
}

#[expect(clippy::disallowed_methods, reason = "a file of the tour's own folder")]
pub(super) fn overwrite(path: &Path, content: &[u8]) -> Result<(), CliError> {
    Ok(std::fs::write(path, content)?)
}
