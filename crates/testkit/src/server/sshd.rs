//! OpenSSH's server, with host keys, users and files of a test's own.
//!
//! It needs root, as every sshd does that lets users in.

use std::ffi::OsString;
use std::fs;
use std::io::Read as _;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Process, text};

/// A kind of key, as `ssh-keygen -t` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SshKeyType {
    /// Ed25519.
    Ed25519,
    /// ECDSA on P-256.
    Ecdsa,
    /// RSA of 2048 bits.
    Rsa,
}

impl SshKeyType {
    /// Its name for `ssh-keygen -t`, in file names too.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ed25519 => "ed25519",
            Self::Ecdsa => "ecdsa",
            Self::Rsa => "rsa",
        }
    }
}

/// A key pair of `ssh-keygen`.
#[derive(Clone, Debug)]
pub struct SshKey {
    /// Its kind.
    pub kind: SshKeyType,
    /// OpenSSH's private key file; `PATH.pub` lies beside it.
    pub path: PathBuf,
    /// The public key as `authorized_keys` has it: type, base64, comment; no line end.
    pub public: String,
}

impl SshKey {
    /// Makes one in `folder`, which holds one of each kind and `name` at most.
    pub fn make(folder: &Path, name: &str, kind: SshKeyType, passphrase: &str) -> Self {
        let path = folder.join(format!("{name}_{}", kind.name()));
        let mut arguments = vec!["-q", "-t", kind.name(), "-N", passphrase, "-C", name];
        if kind == SshKeyType::Rsa {
            arguments.extend(["-b", "2048"]);
        }
        arguments.extend(["-f", text(&path)]);
        super::client("ssh-keygen", &arguments, b"");
        let public = read(&path.with_extension("pub"));
        Self {
            kind,
            path,
            public: public.trim_end().to_owned(),
        }
    }

    /// The private key's text.
    pub fn private(&self) -> String {
        read(&self.path)
    }

    /// The public key as `known_hosts` has it: type and base64.
    pub fn bare(&self) -> String {
        let mut words = self.public.split(' ');
        let kind = words.next().unwrap_or_default();
        format!("{kind} {}", words.next().unwrap_or_default())
    }

    /// `SHA256:…` as `ssh-keygen -l` prints it.
    pub fn fingerprint(&self) -> String {
        let path = self.path.with_extension("pub");
        let line = super::client("ssh-keygen", &["-l", "-f", text(&path)], b"");
        line.split(' ').nth(1).unwrap_or_default().to_owned()
    }
}

/// What a server is to be like. The default: an Ed25519 host key, 127.0.0.1, a free port, nobody
/// may come in.
#[derive(Clone, Debug)]
pub struct SshdOptions {
    /// Host keys to make.
    pub host_keys: Vec<SshKeyType>,
    /// Address to listen on; the whole of 127.0.0.0/8 is there.
    pub listen: String,
    /// Port; a free one if `None`.
    pub port: Option<u16>,
    /// Public keys of who may come in, as whom the system knows.
    pub authorized: Vec<String>,
    /// `AllowStreamLocalForwarding`.
    pub stream_local: bool,
    /// More lines of `sshd_config`, before the others: sshd takes the first.
    pub lines: Vec<String>,
    /// Where not empty, the server and what it starts have a mount namespace of their own, with
    /// the first path of each bound over the second.
    pub binds: Vec<(PathBuf, PathBuf)>,
}

impl Default for SshdOptions {
    fn default() -> Self {
        Self {
            host_keys: vec![SshKeyType::Ed25519],
            listen: "127.0.0.1".to_owned(),
            port: None,
            authorized: Vec::new(),
            stream_local: true,
            lines: Vec::new(),
            binds: Vec::new(),
        }
    }
}

/// An OpenSSH server that ends with its value, its sessions too.
#[derive(Debug)]
pub struct Sshd {
    process: Option<Process>,
    folder: PathBuf,
    port: u16,
    host_keys: Vec<SshKey>,
    options: SshdOptions,
}

/// Binds pairs of paths until `--`, then becomes what follows.
const BIND: &str = r#"
while [ "$1" != -- ]; do mount --bind "$1" "$2" || exit 1; shift 2; done
shift; exec "$@"
"#;

impl Sshd {
    /// Starts one.
    pub fn start(options: SshdOptions) -> Self {
        let folder = super::folder("sshd", None);
        // sshd reads a user's keys as that user.
        mode(&folder, 0o755);
        let host_keys = options.host_keys.iter();
        let host_keys = host_keys
            .map(|kind| SshKey::make(&folder, "host", *kind, ""))
            .collect();
        let mut server = Self {
            process: None,
            folder,
            port: options.port.unwrap_or(0),
            host_keys,
            options,
        };
        server.authorize(&server.options.authorized.clone());
        // Its folder for the process without rights; the package's service makes it at boot.
        if let Err(error) = fs::create_dir_all("/run/sshd") {
            panic!("/run/sshd: {error}");
        }
        server.run();
        server
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address that it listens on.
    pub fn address(&self) -> &str {
        &self.options.listen
    }

    /// Its host keys, in the order asked for.
    pub fn host_keys(&self) -> &[SshKey] {
        &self.host_keys
    }

    /// A folder of its own, 0755, for the test's files too.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Lines for `known_hosts`, one for each host key, plain names.
    pub fn known_hosts(&self) -> String {
        let line = |key: &SshKey| {
            let (address, port) = (self.address(), self.port);
            format!("[{address}]:{port} {}\n", key.bare())
        };
        self.host_keys.iter().map(line).collect()
    }

    /// Lets these public keys in and no others, from the next connection on.
    pub fn authorize(&self, keys: &[String]) {
        let path = self.folder.join("authorized_keys");
        write(&path, &(keys.join("\n") + "\n"));
        mode(&path, 0o644);
    }

    /// What it logged.
    pub fn log(&self) -> String {
        self.process.as_ref().map(Process::log).unwrap_or_default()
    }

    /// The process that listens.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().and_then(Process::pid)
    }

    /// The processes of its sessions: one for each connection, and what they started.
    pub fn sessions(&self) -> Vec<u32> {
        let Some(pid) = self.pid() else {
            return Vec::new();
        };
        let all = parents();
        let mut found = vec![pid];
        let mut next = 0;
        while let Some(parent) = found.get(next).copied() {
            found.extend(all.iter().filter(|it| it.1 == parent).map(|it| it.0));
            next += 1;
        }
        found.split_off(1)
    }

    /// `kill -9` of all sessions; it listens on.
    pub fn kill_sessions(&self) {
        for pid in self.sessions() {
            // One that ended by itself is as good.
            crate::run("kill", &["-KILL", &pid.to_string()], b"");
        }
    }

    /// `kill -9` of the server and its sessions: the host is gone.
    pub fn kill(&self) {
        let sessions = self.sessions();
        if let Some(process) = &self.process {
            process.kill();
        }
        for pid in sessions {
            crate::run("kill", &["-KILL", &pid.to_string()], b"");
        }
    }

    /// Starts it again on its port, with its keys.
    pub fn restart(&mut self) {
        self.kill();
        if let Some(process) = self.process.take() {
            process.end_and_keep();
        }
        self.options.port = Some(self.port);
        self.run();
    }

    fn run(&mut self) {
        for _ in 0..20 {
            if self.options.port.is_none() {
                self.port = super::free_port();
            }
            write(&self.folder.join("sshd_config"), &self.config());
            let process = self.spawn();
            if process.wait(|| self.greets()) {
                self.process = Some(process);
                return;
            }
            let log = process.log();
            process.end_and_keep();
            // Somebody else took the port, or does not let go of it yet.
            assert!(log.contains("Address already in use"), "sshd: {log}");
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("sshd finds no port on {}", self.address());
    }

    fn spawn(&self) -> Process {
        // sshd starts itself again for every connection and wants its whole path for that.
        let config = self.folder.join("sshd_config");
        let sshd = ["/usr/sbin/sshd", "-D", "-e", "-f", text(&config)];
        if self.options.binds.is_empty() {
            let [program, arguments @ ..] = sshd;
            let arguments: Vec<_> = arguments.iter().map(OsString::from).collect();
            return Process::spawn(program, &arguments, &self.folder, None);
        }
        let mut arguments = ["--mount", "--propagation", "private", "--", "sh", "-c"].to_vec();
        arguments.extend([BIND, "sh"]);
        for (from, over) in &self.options.binds {
            arguments.extend([text(from), text(over)]);
        }
        arguments.push("--");
        arguments.extend(sshd);
        let arguments: Vec<_> = arguments.iter().map(OsString::from).collect();
        Process::spawn("unshare", &arguments, &self.folder, None)
    }

    fn config(&self) -> String {
        let folder = text(&self.folder);
        let mut config = self.options.lines.join("\n") + "\n";
        config += &format!("ListenAddress {}\nPort {}\n", self.address(), self.port);
        for key in &self.host_keys {
            config += &format!("HostKey {}\n", text(&key.path));
        }
        let forward = if self.options.stream_local {
            "yes"
        } else {
            "no"
        };
        config += &format!("AllowStreamLocalForwarding {forward}\n");
        config += &format!("AuthorizedKeysFile {folder}/authorized_keys\n");
        config += &format!("PidFile {folder}/sshd.pid\n");
        // A login shell reads what the user keeps at home, which takes its time or blocks.
        config += &format!("SetEnv HOME={folder}\n");
        config += "PermitRootLogin prohibit-password\nPasswordAuthentication no\n\
                   KbdInteractiveAuthentication no\nUsePAM no\nStrictModes no\n\
                   MaxStartups 200\nMaxSessions 200\nLogLevel VERBOSE\n";
        // The one word that sshd does not take twice.
        let sftp = |line: &String| line.starts_with("Subsystem sftp");
        if !self.options.lines.iter().any(sftp) {
            config += "Subsystem sftp internal-sftp\n";
        }
        config
    }

    fn greets(&self) -> bool {
        let Ok(address) = format!("{}:{}", self.address(), self.port).parse() else {
            panic!("{} is not an IP address", self.address());
        };
        let wait = Duration::from_secs(5);
        let Ok(mut stream) = TcpStream::connect_timeout(&address, wait) else {
            return false;
        };
        let mut greeting = [0; 8];
        let _ = stream.set_read_timeout(Some(wait));
        stream.read_exact(&mut greeting).is_ok() && greeting == *b"SSH-2.0-"
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.kill_sessions();
    }
}

/// Every process with its parent.
fn parents() -> Vec<(u32, u32)> {
    let folders = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = folders.filter_map(|it| it.file_name().to_str()?.parse::<u32>().ok());
    let parent = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let rest = stat.rsplit(") ").next()?;
        Some((pid, rest.split(' ').nth(1)?.parse().ok()?))
    };
    pids.filter_map(parent).collect()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[expect(clippy::disallowed_methods, reason = "a file of a test")]
fn write(path: &Path, content: &str) {
    fs::write(path, content).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

fn mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;

    let done = fs::set_permissions(path, fs::Permissions::from_mode(mode));
    done.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
