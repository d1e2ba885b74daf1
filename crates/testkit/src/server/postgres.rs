//! PostgreSQL.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use super::{Account, Certificates, Encryption, Frozen, PASSWORD, PASSWORD_IN_URL, Process, USER};

/// A PostgreSQL server with an empty database `kubernetes`.
#[derive(Debug)]
pub struct Postgres {
    process: Option<Process>,
    folder: PathBuf,
    account: Option<Account>,
    port: u16,
    encryption: Encryption,
    certificates: Option<Certificates>,
    flushing: bool,
}

impl Postgres {
    /// Starts one; with TLS it takes plain connections too.
    pub fn start(tls: bool) -> Self {
        Self::with(
            if tls {
                Encryption::Offered
            } else {
                Encryption::Off
            },
            "server",
        )
    }

    /// Starts one with the certificate `name` of [`Certificates`].
    pub fn with(encryption: Encryption, name: &str) -> Self {
        let account = Account::find(&["postgres", "nobody"]);
        let folder = super::folder("pg", account.as_ref());
        let template = super::template("postgres", |to| initialise(to, account.as_ref()));
        super::copy(&template, &folder.join("data"));
        let certificates = (encryption != Encryption::Off).then(Certificates::new);
        if let Some(all) = &certificates {
            let files = [
                ("ca.crt", all.certificate("ca")),
                ("server.crt", all.certificate(name)),
                ("server.key", all.key(name)),
            ];
            for (file, from) in files {
                super::copy(&from, &folder.join(file));
                super::own(&folder.join(file), account.as_ref());
            }
        }
        let mut server = Self {
            process: None,
            folder,
            account,
            port: 0,
            encryption,
            certificates,
            flushing: false,
        };
        server.write_rules();
        server.run();
        server.sql(
            "postgres",
            &format!(
                "CREATE ROLE {USER} SUPERUSER LOGIN PASSWORD '{PASSWORD}';\n\
                 CREATE DATABASE kubernetes OWNER {USER};"
            ),
        );
        server
    }

    /// From now on it flushes what it commits, as servers do that are not for tests.
    pub fn flushing(mut self) -> Self {
        self.flushing = true;
        self.kill();
        self.restart();
        self
    }

    /// One without TLS for all tests of a program; each should have a database of its own
    /// ([`Self::database`]).
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(false))
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What its TLS is made of.
    pub fn certificates(&self) -> &Certificates {
        self.certificates
            .as_ref()
            .unwrap_or_else(|| panic!("this server has no TLS"))
    }

    /// K3s's endpoint for a database of this server.
    pub fn endpoint(&self, database: &str) -> String {
        format!(
            "postgres://{USER}:{PASSWORD_IN_URL}@127.0.0.1:{}/{database}",
            self.port
        )
    }

    /// Makes an empty database and gives its endpoint.
    pub fn database(&self, name: &str) -> String {
        self.sql("postgres", &format!("CREATE DATABASE {name} OWNER {USER}"));
        self.endpoint(name)
    }

    /// Loads a dump.
    pub fn load(&self, database: &str, dump: &Path) {
        let sql = fs::read(dump).unwrap_or_else(|error| panic!("{}: {error}", dump.display()));
        self.client(database, &[], &sql);
    }

    /// Runs statements as the superuser and gives the rows: a line each, columns between `|`.
    pub fn sql(&self, database: &str, statements: &str) -> String {
        self.client(database, &[], statements.as_bytes())
    }

    /// `kill -9` of the server and all that belongs to it.
    pub fn kill(&self) {
        if let Some(process) = &self.process {
            process.kill();
        }
    }

    /// It stands still until the value is dropped: connections come about, and nothing answers.
    pub fn freeze(&self) -> Frozen {
        Frozen::new(self.process.as_ref().and_then(Process::pid))
    }

    /// Starts it again on the same data after [`Self::kill`], on the same port if that is free.
    pub fn restart(&mut self) {
        if let Some(process) = self.process.take() {
            process.end_and_keep();
        }
        // A server that was killed leaves these; its children are gone a moment later.
        let _ = fs::remove_file(self.folder.join("data/postmaster.pid"));
        self.run();
    }

    fn client(&self, database: &str, options: &[&str], stdin: &[u8]) -> String {
        let port = self.port.to_string();
        let mut arguments = vec![
            "-X",
            "-q",
            "-A",
            "-t",
            "-P",
            "null=NULL",
            "-v",
            "ON_ERROR_STOP=1",
            "-U",
            "postgres",
            "-h",
            super::text(&self.folder),
            "-p",
            &port,
            "-d",
            database,
        ];
        arguments.extend(options);
        super::client("psql", &arguments, stdin)
    }

    fn write_rules(&self) {
        let kind = match self.encryption {
            Encryption::Off | Encryption::Offered => "host",
            Encryption::Required | Encryption::Mutual => "hostssl",
        };
        let certificate = match self.encryption {
            Encryption::Mutual => " clientcert=verify-ca",
            _ => "",
        };
        let rules = format!(
            "local all all trust\n\
             {kind} all all 127.0.0.1/32 scram-sha-256{certificate}\n"
        );
        write(&self.folder.join("data/pg_hba.conf"), &rules);
    }

    fn run(&mut self) {
        let first = match self.port {
            0 => super::free_port(),
            port => port,
        };
        let mut ports = std::iter::once(first).chain((0..9).map(|_| super::free_port()));
        let mut next = ports.next();
        while let Some(port) = next {
            self.port = port;
            let process = self.spawn();
            let ready = [
                "-q",
                "-h",
                super::text(&self.folder),
                "-p",
                &port.to_string(),
            ]
            .map(str::to_owned);
            if process.wait(|| crate::run(program("pg_isready"), &ready, b"").success()) {
                self.process = Some(process);
                return;
            }
            let log = process.log();
            process.end_and_keep();
            if log.contains("shared memory block") {
                // The last children of a server that was killed are still going.
                std::thread::sleep(Duration::from_millis(50));
            } else {
                assert!(log.contains("Address already in use"), "PostgreSQL: {log}");
                next = ports.next();
            }
        }
        panic!("no port is free for PostgreSQL");
    }

    fn spawn(&self) -> Process {
        let folder = self.folder.display();
        let mut settings = vec![
            "listen_addresses=127.0.0.1".to_owned(),
            format!("port={}", self.port),
            format!("unix_socket_directories={folder}"),
            format!("fsync={}", if self.flushing { "on" } else { "off" }),
            "full_page_writes=off".to_owned(),
            "shared_buffers=16MB".to_owned(),
            "max_connections=40".to_owned(),
            "autovacuum=off".to_owned(),
        ];
        if self.encryption != Encryption::Off {
            settings.push("ssl=on".to_owned());
            settings.push(format!("ssl_ca_file={folder}/ca.crt"));
            settings.push(format!("ssl_cert_file={folder}/server.crt"));
            settings.push(format!("ssl_key_file={folder}/server.key"));
        }
        let mut arguments = vec!["-D".into(), self.folder.join("data").into_os_string()];
        for setting in settings {
            arguments.extend(["-c".into(), setting.into()]);
        }
        let account = self.account.as_ref();
        Process::spawn(&program("postgres"), &arguments, &self.folder, account)
    }
}

/// Debian keeps the server's programs out of `PATH`.
fn program(name: &str) -> String {
    let versions = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let mut found: Vec<PathBuf> = versions
        .map(|version| version.path().join("bin").join(name))
        .filter(|path| path.is_file())
        .collect();
    found.sort();
    found
        .pop()
        .map_or_else(|| name.to_owned(), |path| path.display().to_string())
}

fn initialise(to: &Path, account: Option<&Account>) {
    let scratch = super::folder("initdb", account);
    let data = scratch.join("data");
    let mut initdb = super::command(&program("initdb"), account);
    initdb.arg("-D").arg(&data).args([
        "-U",
        "postgres",
        "-A",
        "trust",
        "-E",
        "UTF8",
        "--locale=C",
        "--no-sync",
        "--no-instructions",
    ]);
    let output = initdb
        .output()
        .unwrap_or_else(|error| panic!("cannot run initdb: {error}"));
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    super::copy(&data, to);
    super::remove(&scratch);
}

#[expect(clippy::disallowed_methods, reason = "a file of a server of our own")]
fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
