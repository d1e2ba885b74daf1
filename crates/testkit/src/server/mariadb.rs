//! MariaDB.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::{Account, Certificates, Encryption, PASSWORD, Process, USER};

/// A MariaDB server with an empty database `kubernetes`.
#[derive(Debug)]
pub struct MariaDb {
    process: Option<Process>,
    folder: PathBuf,
    account: Option<Account>,
    port: u16,
    encryption: Encryption,
    certificates: Option<Certificates>,
}

impl MariaDb {
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
        let account = Account::find(&["mysql", "nobody"]);
        let folder = super::folder("my", account.as_ref());
        let template = super::template("mariadb", |to| initialise(to, account.as_ref()));
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
        };
        server.run();
        let require = match encryption {
            Encryption::Off | Encryption::Offered => "NONE",
            Encryption::Required => "SSL",
            Encryption::Mutual => "X509",
        };
        server.sql(
            "mysql",
            &format!(
                "CREATE USER {USER}@'%' IDENTIFIED BY '{PASSWORD}' REQUIRE {require};\n\
                 GRANT ALL ON *.* TO {USER}@'%';\n\
                 CREATE DATABASE kubernetes;"
            ),
        );
        server
    }

    /// One without TLS for all tests of a program; each should have a database of its own
    /// ([`Self::database`]).
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<MariaDb> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(false))
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("socket")
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
            "mysql://{USER}:{PASSWORD}@tcp(127.0.0.1:{})/{database}",
            self.port
        )
    }

    /// Makes an empty database and gives its endpoint.
    pub fn database(&self, name: &str) -> String {
        self.sql("mysql", &format!("CREATE DATABASE {name}"));
        self.endpoint(name)
    }

    /// Loads a dump.
    pub fn load(&self, database: &str, dump: &Path) {
        let sql = fs::read(dump).unwrap_or_else(|error| panic!("{}: {error}", dump.display()));
        self.client(database, &sql);
    }

    /// Runs statements as root and gives the rows: a line each, columns between tabs.
    pub fn sql(&self, database: &str, statements: &str) -> String {
        self.client(database, statements.as_bytes())
    }

    /// `kill -9` of the server.
    pub fn kill(&self) {
        if let Some(process) = &self.process {
            process.kill();
        }
    }

    /// Starts it again on the same data after [`Self::kill`], on the same port if that is free.
    pub fn restart(&mut self) {
        if let Some(process) = self.process.take() {
            process.end_and_keep();
        }
        self.run();
    }

    fn client(&self, database: &str, stdin: &[u8]) -> String {
        let socket = format!("--socket={}", self.socket().display());
        let arguments = ["--no-defaults", "-N", "-B", "-u", "root", &socket, database];
        super::client("mariadb", &arguments, stdin)
    }

    fn run(&mut self) {
        let first = match self.port {
            0 => super::free_port(),
            port => port,
        };
        let socket = format!("--socket={}", self.socket().display());
        let ping = ["--no-defaults", "-u", "root", &socket, "ping"].map(str::to_owned);
        for port in std::iter::once(first).chain((0..9).map(|_| super::free_port())) {
            self.port = port;
            let process = self.spawn();
            if process.wait(|| crate::run("mariadb-admin", &ping, b"").success()) {
                self.process = Some(process);
                return;
            }
            let log = process.log();
            process.end_and_keep();
            assert!(log.contains("Address already in use"), "MariaDB: {log}");
        }
        panic!("no port is free for MariaDB");
    }

    fn spawn(&self) -> Process {
        let folder = self.folder.display();
        let mut arguments = vec![
            "--no-defaults".to_owned(),
            format!("--datadir={folder}/data"),
            format!("--socket={folder}/socket"),
            format!("--pid-file={folder}/server-pid"),
            format!("--port={}", self.port),
            "--bind-address=127.0.0.1".to_owned(),
            "--skip-name-resolve".to_owned(),
        ];
        arguments.extend(SMALL.map(str::to_owned));
        if self.encryption != Encryption::Off {
            arguments.push(format!("--ssl-ca={folder}/ca.crt"));
            arguments.push(format!("--ssl-cert={folder}/server.crt"));
            arguments.push(format!("--ssl-key={folder}/server.key"));
        }
        let arguments: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
        Process::spawn("mariadbd", &arguments, &self.folder, self.account.as_ref())
    }
}

/// Small and fast; nothing has to outlive a power cut.
const SMALL: [&str; 6] = [
    "--innodb-log-file-size=8M",
    "--innodb-buffer-pool-size=16M",
    "--innodb-flush-log-at-trx-commit=2",
    "--innodb-use-native-aio=0",
    "--performance-schema=OFF",
    "--skip-log-bin",
];

fn initialise(to: &Path, account: Option<&Account>) {
    let scratch = super::folder("install", account);
    let data = scratch.join("data");
    let mut install = super::command("mariadb-install-db", account);
    install
        .arg("--no-defaults")
        .arg(format!("--datadir={}", data.display()))
        .args([
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            "--innodb-log-file-size=8M",
        ]);
    let output = install
        .output()
        .unwrap_or_else(|error| panic!("cannot run mariadb-install-db: {error}"));
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    super::copy(&data, to);
    super::remove(&scratch);
}
