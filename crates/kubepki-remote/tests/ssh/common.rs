//! A server, a user's key, and the way in.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kubepki_remote::ssh::{
    Credentials, Endpoint, HostKeys, PrivateKey, Session, SshError, Timeouts,
};
use tempfile::TempDir;
use testkit::{SshKey, SshKeyType, Sshd, SshdOptions};

/// A server that lets one key in.
pub struct Lab {
    pub folder: TempDir,
    pub user: SshKey,
    pub server: Sshd,
}

/// Short enough for a test, long enough for a busy machine.
pub const TIMEOUTS: Timeouts = Timeouts {
    connect: Duration::from_secs(20),
    request: Duration::from_secs(20),
    keep_alive: Duration::from_secs(5),
};

impl Lab {
    pub fn new() -> Self {
        Self::with(SshdOptions::default())
    }

    pub fn with(mut options: SshdOptions) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let user = SshKey::make(folder.path(), "user", SshKeyType::Ed25519, "");
        options.authorized.push(user.public.clone());
        let server = Sshd::start(options);
        write(
            &folder.path().join("known_hosts"),
            server.known_hosts().as_bytes(),
        );
        Self {
            folder,
            user,
            server,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn keys(&self) -> Credentials {
        credentials(&self.user.path)
    }

    pub fn endpoint(&self) -> Endpoint {
        endpoint(&self.server, self.keys())
    }

    pub fn host_keys(&self) -> HostKeys {
        HostKeys::strict([self.path("known_hosts")])
    }

    pub async fn connect(&self) -> Session {
        self.try_connect(&self.endpoint()).await.unwrap()
    }

    pub async fn try_connect(&self, endpoint: &Endpoint) -> Result<Session, SshError> {
        Session::connect(endpoint, &self.host_keys(), TIMEOUTS).await
    }
}

pub fn endpoint(server: &Sshd, keys: Credentials) -> Endpoint {
    Endpoint {
        address: server.address().to_owned(),
        port: server.port(),
        user: "root".to_owned(),
        keys,
        bastion: None,
    }
}

pub fn credentials(key: &Path) -> Credentials {
    Credentials {
        key: Some(PrivateKey::from_file(key).unwrap()),
        agent: None,
    }
}

#[expect(clippy::disallowed_methods, reason = "a file of a test")]
pub fn write(path: &Path, content: &[u8]) {
    std::fs::write(path, content).unwrap();
}

pub fn argv(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// What a command prints on the host.
pub async fn output(session: &Session, words: &[&str]) -> String {
    let output = session
        .exec(&argv(words), b"", TIMEOUTS.request)
        .await
        .unwrap();
    assert_eq!(output.code, Some(0), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A user `ada` (4242) besides those of the system, for the server alone.
pub fn with_ada(folder: &Path) -> SshdOptions {
    let mut options = SshdOptions::default();
    for (file, line) in [
        ("passwd", "ada:x:4242:4242:Ada:/tmp:/bin/sh\n"),
        ("group", "ada:x:4242:\n"),
        ("shadow", "ada:*:19000:0:99999:7:::\n"),
    ] {
        let own = folder.join(file);
        let over = Path::new("/etc").join(file);
        let text = std::fs::read_to_string(&over).unwrap() + line;
        write(&own, text.as_bytes());
        options.binds.push((own, over));
    }
    options
}

pub fn mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;

    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Runs one of OpenSSH's programs to a good end.
pub fn tool(program: &str, arguments: &[&str]) -> String {
    let run = testkit::run(program, arguments, b"");
    assert!(run.success(), "{program} {arguments:?}: {}", run.text());
    String::from_utf8(run.stdout).unwrap()
}
