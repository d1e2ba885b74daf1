//! What the tests share: a host, and ways to reach it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use kubepki::host::{Attributes, Entry, EntryKind, HostError};
use kubepki::machine::{Deployment, Machine};
use kubepki_remote::machine::{
    HostSpec, LocalReach, Notice, Reach, RemoteMachine, RemoteMachines, SshReach,
};
use kubepki_remote::ssh::{Credentials, Endpoint, HostKeys, PrivateKey, Timeouts};
use testkit::rke::{Host, TOOLS_IMAGE};
use zeroize::Zeroizing;

pub const SSL: &str = "/etc/kubernetes/ssl";

/// What was heard while a test ran.
pub type Heard = Arc<Mutex<Vec<String>>>;

pub struct World {
    pub machine: Arc<RemoteMachine>,
    pub heard: Heard,
}

impl World {
    /// `host` reached over SSH as `user`.
    pub fn over_ssh(host: &Host, user: &str) -> Self {
        Self::by(spec(host, user))
    }

    /// `host` as its own Docker's user sees it, without SSH.
    pub fn by_local_docker(host: &Host) -> Self {
        let mut spec = spec(host, "nobody");
        spec.docker_socket = socket(host);
        spec.reach = Arc::new(LocalReach {
            files_by_docker: true,
        });
        Self::by(spec)
    }

    pub fn by(spec: HostSpec) -> Self {
        let heard = Heard::default();
        let log = Arc::clone(&heard);
        let notify = move |host: &str, notice: &Notice<'_>| {
            log.lock().unwrap().push(format!("{host}: {notice:?}"));
        };
        let name = spec.name.clone();
        let machines = RemoteMachines::new([spec], 4, Arc::new(notify));
        let machine = machines.get(&name).unwrap();
        Self { machine, heard }
    }

    pub fn heard(&self, part: &str) -> usize {
        let heard = self.heard.lock().unwrap();
        heard.iter().filter(|it| it.contains(part)).count()
    }

    pub async fn read(&self, directory: &str) -> BTreeMap<String, Entry> {
        let read = self.machine.read_directory(Path::new(directory)).await;
        read.unwrap().expect("the directory is there")
    }

    pub async fn names(&self, directory: &str) -> Vec<String> {
        self.read(directory).await.into_keys().collect()
    }
}

/// The socket of a host's Docker as this machine sees it.
pub fn socket(host: &Host) -> String {
    let pid = host.must("sh", &["-c", "readlink /proc/1/ns/mnt"]);
    let pid = pid.trim();
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let same = all.filter(|it| {
        let link = std::fs::read_link(it.path().join("ns/mnt"));
        link.is_ok_and(|it| it.to_string_lossy() == pid)
    });
    let processes = same.map(|it| it.path().join("root/run/docker.sock"));
    let mut sockets = processes.filter(|it| it.exists());
    sockets.next().unwrap().display().to_string()
}

pub fn spec(host: &Host, user: &str) -> HostSpec {
    HostSpec {
        name: host.address().to_string(),
        docker_socket: "/var/run/docker.sock".to_owned(),
        prefix_path: "/".to_owned(),
        relabel: false,
        images: vec!["rancher/rke-tools:v9".to_owned(), TOOLS_IMAGE.to_owned()],
        reach: reach(host, user),
    }
}

pub fn reach(host: &Host, user: &str) -> Arc<dyn Reach> {
    let folder = tempfile::tempdir().unwrap().keep();
    let known = folder.join("known_hosts");
    std::fs::write(&known, host.known_hosts_line()).unwrap();
    let key = PrivateKey::from_file(&host.network().ssh_key()).unwrap();
    Arc::new(SshReach {
        endpoint: Endpoint {
            address: host.address().to_string(),
            port: 22,
            user: user.to_owned(),
            keys: Credentials {
                key: Some(key),
                agent: None,
            },
            bastion: None,
        },
        host_keys: HostKeys::strict([known]),
        timeouts: Timeouts::default(),
    })
}

pub fn file(text: &str, mode: u32, owner: u32) -> Entry {
    Entry {
        kind: EntryKind::File(Zeroizing::new(text.as_bytes().to_vec())),
        attributes: Attributes {
            uid: Some(owner),
            gid: Some(owner),
            ..Attributes::new(mode)
        },
    }
}

/// `set` is `plan-step`.
pub fn deployment<const N: usize>(set: &str, files: [(&str, Option<Entry>); N]) -> Deployment {
    Deployment {
        directory: PathBuf::from(SSL),
        keep: keep(set),
        files: files.map(|(name, it)| (name.to_owned(), it)).into(),
    }
}

pub fn keep(set: &str) -> PathBuf {
    PathBuf::from(format!("/etc/kubernetes/.kubepki/{set}/old"))
}

/// The text of a file of the host, read from outside.
pub fn text(host: &Host, path: &str) -> String {
    host.must("cat", &[path])
}

/// An error and all its reasons.
pub fn chain(error: &HostError) -> String {
    let mut text = error.to_string();
    let mut error: &dyn std::error::Error = error;
    while let Some(source) = error.source() {
        text = format!("{text}: {source}");
        error = source;
    }
    text
}
