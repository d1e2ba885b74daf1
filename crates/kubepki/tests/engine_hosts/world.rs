//! Hosts: a directory for each, and `openssl s_server` for each container.

use std::collections::BTreeMap;
use std::fmt;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use kubepki::apply::CallError;
use kubepki::edge::directory::publish;
use kubepki::edge::file;
use kubepki::host::{Attributes, Entry, EntryKind, Host, HostError, LocalHost};
use kubepki::machine::{
    ClusterApi, ContainerState, Containers, Deployment, Machine, Machines, Stream,
};
use kubepki::plan::PlanId;
use pki::UnixTime;

/// Fails at a chosen call to any host, and from then on.
#[derive(Debug, Default)]
pub struct Faults {
    /// Calls that are left before the failing one; 0 is never.
    left: AtomicUsize,
    pub broken: AtomicBool,
    pub calls: AtomicUsize,
}

impl Faults {
    pub fn at(&self, nth: usize) {
        self.left.store(nth, Ordering::SeqCst);
        self.broken.store(false, Ordering::SeqCst);
    }

    fn count(&self, host: &str) -> Result<(), HostError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if self.left.load(Ordering::SeqCst) > 0 && self.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.broken.store(true, Ordering::SeqCst);
        }
        match self.broken.load(Ordering::SeqCst) {
            true => Err(remote(host, "the test broke it")),
            false => Ok(()),
        }
    }
}

fn remote(host: &str, message: &str) -> HostError {
    HostError::Remote {
        host: host.to_owned(),
        message: message.to_owned(),
        source: None,
    }
}

pub struct Hosts {
    pub boxes: BTreeMap<String, Arc<Node>>,
    pub faults: Arc<Faults>,
}

impl fmt::Debug for Hosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hosts")
    }
}

/// One host.
#[derive(Debug)]
pub struct Node {
    pub name: String,
    pub root: PathBuf,
    pub port: u16,
    pub away: AtomicBool,
    pub owner: Mutex<Option<String>>,
    pub restarts: AtomicUsize,
    server: Mutex<Option<Child>>,
    faults: Arc<Faults>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Node {
    pub fn new(name: &str, root: PathBuf, faults: &Arc<Faults>) -> Self {
        Self {
            name: name.to_owned(),
            root,
            port: testkit::free_port(),
            away: AtomicBool::new(false),
            owner: Mutex::new(None),
            restarts: AtomicUsize::new(0),
            server: Mutex::new(None),
            faults: faults.clone(),
        }
    }

    /// Where a path of the host lies here.
    pub fn at(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap())
    }

    fn stop(&self) {
        if let Some(mut child) = self.server.lock().unwrap().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts the container anew, with the files that are there now.
    #[expect(clippy::disallowed_methods, reason = "a server for the test")]
    pub fn start(&self) {
        self.stop();
        let ssl = self.at(Path::new("/etc/kubernetes/ssl"));
        let child = Command::new("openssl")
            .args(["s_server", "-quiet", "-WWW", "-accept"])
            .arg(format!("127.0.0.1:{}", self.port))
            .arg("-cert")
            .arg(ssl.join("web.pem"))
            .arg("-key")
            .arg(ssl.join("web-key.pem"))
            .arg("-CAfile")
            .arg(ssl.join("kube-ca.pem"))
            .args(["-Verify", "2", "-verify_return_error"])
            .current_dir(&self.root)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        *self.server.lock().unwrap() = Some(child);
        self.restarts.fetch_add(1, Ordering::SeqCst);
        for _ in 0..500 {
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{} does not serve", self.name);
    }

    fn call(&self) -> Result<(), HostError> {
        if self.away.load(Ordering::SeqCst) {
            return Err(HostError::Unreachable {
                host: self.name.clone(),
                source: "no route to host".into(),
            });
        }
        self.faults.count(&self.name)
    }
}

#[async_trait]
impl Machines for Hosts {
    async fn machine(&self, host: &str) -> Result<Arc<dyn Machine>, HostError> {
        let node = self
            .boxes
            .get(host)
            .ok_or_else(|| remote(host, "unknown"))?;
        node.call()?;
        Ok(node.clone())
    }
}

#[async_trait]
impl Machine for Node {
    async fn read_directory(
        &self,
        directory: &Path,
    ) -> Result<Option<BTreeMap<String, Entry>>, HostError> {
        self.call()?;
        let at = self.at(directory);
        let Some(names) = LocalHost.list(&at).await? else {
            return Ok(None);
        };
        let mut files = BTreeMap::new();
        for name in names {
            if let Some(entry) = LocalHost.read(&at.join(&name)).await?
                && entry.bytes().is_some()
            {
                files.insert(name, entry);
            }
        }
        Ok(Some(files))
    }

    async fn deploy(&self, deployment: &Deployment) -> Result<(), HostError> {
        self.call()?;
        let (directory, keep) = (self.at(&deployment.directory), self.at(&deployment.keep));
        make_all(keep.parent().unwrap());
        if LocalHost.list(&keep).await?.is_none() {
            let mut former = Vec::new();
            for name in deployment.files.keys() {
                if let Some(entry) = LocalHost.read(&directory.join(name)).await? {
                    former.push((name, entry));
                }
            }
            publish(&keep, |into| {
                for (name, entry) in &former {
                    put(&into.join(name), entry)?;
                }
                Ok(())
            })
            .unwrap();
        }
        for (name, entry) in &deployment.files {
            self.call()?;
            let path = directory.join(name);
            match entry {
                Some(entry) => put(&path, entry).unwrap(),
                None => file::remove(&path).unwrap(),
            }
        }
        self.call()
    }

    async fn forget(&self, _: &PlanId) -> Result<(), HostError> {
        self.call()
    }

    async fn dial(&self, address: &str) -> Result<Box<dyn Stream>, HostError> {
        self.call()?;
        match tokio::net::TcpStream::connect(address).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(remote(&self.name, &error.to_string())),
        }
    }

    async fn lock(&self, owner: &str) -> Result<(), HostError> {
        self.call()?;
        let mut held = self.owner.lock().unwrap();
        match held.as_deref() {
            Some(other) if other != owner => {
                Err(remote(&self.name, &format!("plan {other} holds the lock")))
            }
            _ => {
                *held = Some(owner.to_owned());
                Ok(())
            }
        }
    }

    async fn unlock(&self, owner: &str) -> Result<(), HostError> {
        self.call()?;
        let mut held = self.owner.lock().unwrap();
        if held.as_deref() == Some(owner) {
            *held = None;
        }
        Ok(())
    }
}

fn put(path: &Path, entry: &Entry) -> std::io::Result<()> {
    let EntryKind::File(bytes) = &entry.kind else {
        panic!("not a file");
    };
    file::replace(path, bytes, &entry.attributes)
}

pub fn make_all(path: &Path) {
    let mut missing: Vec<&Path> = path.ancestors().take_while(|it| !it.is_dir()).collect();
    while let Some(path) = missing.pop() {
        file::make_directory(path, &Attributes::new(0o755)).unwrap();
    }
}

#[async_trait]
impl Containers for Node {
    async fn container(&self, name: &str) -> Result<Option<ContainerState>, HostError> {
        self.call()?;
        let started = self.restarts.load(Ordering::SeqCst);
        Ok((name == "web").then(|| ContainerState {
            running: self.server.lock().unwrap().is_some(),
            started: (UnixTime::from_secs(i64::try_from(started).unwrap()), 0),
            image: "openssl".to_owned(),
            arguments: Vec::new(),
        }))
    }

    async fn restart(&self, name: &str, _grace: Duration) -> Result<(), HostError> {
        self.call()?;
        assert_eq!(name, "web");
        self.start();
        self.call()
    }
}

/// The API of the cluster.
#[derive(Debug, Default)]
pub struct Api {
    pub away: AtomicBool,
    pub saved: Mutex<Vec<Vec<u8>>>,
    pub deleted: AtomicUsize,
}

impl Api {
    fn answer(&self) -> Result<(), CallError> {
        match self.away.load(Ordering::SeqCst) {
            true => Err(CallError::refused("503 Service Unavailable")),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl ClusterApi for Api {
    async fn save_state(&self, state: &[u8]) -> Result<(), CallError> {
        self.answer()?;
        self.saved.lock().unwrap().push(state.to_vec());
        Ok(())
    }

    async fn delete_pods(&self, selectors: &[String]) -> Result<Vec<String>, CallError> {
        self.answer()?;
        self.deleted.fetch_add(1, Ordering::SeqCst);
        Ok(selectors
            .iter()
            .map(|it| format!("kube-system/{it}"))
            .collect())
    }
}
